"""The sensors: files in the inbox become runs, and a run that died leaves its receipt after all."""

import json

import dagster as dg

from bulk_upload_pipeline import intake, ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.defs.partitions import batches
from bulk_upload_pipeline.line import Line

PARTITION_TAG = "dagster/partition"
WILL_RETRY_TAG = "dagster/will_retry"


@dg.sensor(
    job=load_batch,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at the inbox every 5 s and starts a run for each file that has stopped changing.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """Never reads content: it lists, registers and requests."""
    survey = intake.survey(line, _seen(context.cursor), lambda batch_id: _has_run(context.instance, batch_id))
    cursor = json.dumps(survey.seen)
    if not survey.requests:
        context.update_cursor(cursor)
        return dg.SkipReason(survey.in_words)
    return dg.SensorResult(
        run_requests=[_run_request(request) for request in survey.requests],
        dynamic_partitions_requests=[batches.build_add_request([r.batch_id for r in survey.requests])],
        cursor=cursor,
    )


def _seen(cursor: str | None) -> dict[str, str]:
    return json.loads(cursor) if cursor else {}


def _has_run(instance: dg.DagsterInstance, batch_id: str) -> bool:
    return instance.get_runs_count(dg.RunsFilter(tags={PARTITION_TAG: batch_id})) > 0


def _run_request(request: intake.Request) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{request.batch_id}#{request.attempt}",
        partition_key=request.batch_id,
        tags={"file": request.file_name[:200]},
    )


@dg.run_failure_sensor(
    monitored_jobs=[load_batch],
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes the receipt of a batch whose run died before it could: killed, or cut off.",
)
def batch_failed(context: dg.RunFailureSensorContext, line: dg.ResourceParam[Line]) -> dg.SkipReason | None:
    """A run that Dagster starts again by itself needs no receipt yet."""
    run = context.dagster_run
    batch_id = run.tags.get(PARTITION_TAG)
    if batch_id is None or run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"Run {run.run_id} is retried.")
    if not ledger.unfinished(line.engine, batch_id):
        return dg.SkipReason(f"Batch {batch_id} has its receipt.")
    stages.fail(line, batch_id, f"Its run ended early and can be retried: {context.failure_event.message}")
    return None


SENSORS = [inbox_sensor, batch_failed]
