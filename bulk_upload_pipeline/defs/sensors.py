"""The sensors: files in the inbox become runs; what ends badly is looked after by `recovery`."""

import json

import dagster as dg

from bulk_upload_pipeline import intake
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.defs.partitions import batches
from bulk_upload_pipeline.defs.recovery import PARTITION_TAG, RECOVERY
from bulk_upload_pipeline.line import Line


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


SENSORS = [inbox_sensor, *RECOVERY]
