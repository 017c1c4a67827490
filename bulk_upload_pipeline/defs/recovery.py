"""What is done, without a person, about runs that ended before the line could end their batch.

* `reaper` finds runs whose worker is gone and reports them failed; Dagster's run retries start them again.
* `batch_failed` looks at a failed run that Dagster does not start again: a batch that was cut off gets a new
  run, and its receipt when too many runs were of no use.
* `batch_cancelled` writes the receipt of a batch whose run a person cancelled.
"""

import json
import time

import dagster as dg

from bulk_upload_pipeline import ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.line import Line
from bulk_upload_pipeline.liveness import without_worker
from bulk_upload_pipeline.model import FINAL_STATES, LOADED_STATES, State

PARTITION_TAG = "dagster/partition"
WILL_RETRY_TAG = "dagster/will_retry"

LOST_AFTER_S = 20.0
"""A run that has no worker for so long is lost: longer than one that lives needs to take its lock."""

MOST_RUNS = 8
"""Runs of a batch, all told, after which one that was cut off is not started again by itself."""

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Finds runs whose worker is gone (killed with its code server, say) and reports them failed; "
    "clears what they left.",
)
def reaper(context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]) -> dg.SkipReason:
    """The cursor holds since when each run has been seen without a worker, in seconds since the epoch."""
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    runs = {run.run_id: run for run in context.instance.get_runs(filters) if _is_ours(context, run)}
    since, now = json.loads(context.cursor or "{}"), time.time()
    missing = {run_id: since.get(run_id, now) for run_id in without_worker(line.engine, list(runs))}
    lost = [run_id for run_id, when in missing.items() if now - when >= LOST_AFTER_S]
    for run_id in lost:
        context.instance.report_run_failed(runs[run_id], "Its worker is gone: it holds no lock any more.")
    context.update_cursor(
        json.dumps({run_id: when for run_id, when in missing.items() if run_id not in lost})
    )
    return dg.SkipReason(f"{len(runs)} runs are under way, {len(lost)} had lost their worker.")


def _is_ours(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Return whether a run is of this code, whose runs all hold a lock; others may share the storage."""
    origin, here = run.remote_job_origin, context.code_location_origin
    if origin is None or here is None:
        return context.repository_def is None or context.repository_def.has_job(run.job_name)
    return origin.location_name == here.location_name


@dg.run_failure_sensor(
    monitored_jobs=[load_batch],
    request_job=load_batch,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a batch again whose run was cut off, or writes its receipt in the end.",
)
def batch_failed(
    context: dg.RunFailureSensorContext, line: dg.ResourceParam[Line]
) -> dg.RunRequest | dg.SkipReason:
    """A batch that has ended in its exit is left alone, and so is a run that Dagster starts again by itself."""
    run = context.dagster_run
    batch_id = run.tags.get(PARTITION_TAG)
    if batch_id is None or run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"Run {run.run_id} is retried.")
    if not _was_cut_off(ledger.batch(line.engine, batch_id).state):
        return dg.SkipReason(f"Batch {batch_id} has its receipt.")
    if _runs_of(context.instance, batch_id, UNDER_WAY):
        return dg.SkipReason(f"Another run works on batch {batch_id}.")
    if _runs_of(context.instance, batch_id) < MOST_RUNS:
        return dg.RunRequest(
            run_key=f"{batch_id}#after-{run.run_id}", partition_key=batch_id, tags=_file_tag(run)
        )
    return _end(line, batch_id, f"Its run ended early and can be retried: {context.failure_event.message}")


def _was_cut_off(state: State) -> bool:
    """Return whether a run that failed left its batch on the way, or loaded but without the last events."""
    return state not in FINAL_STATES or state in LOADED_STATES


def _file_tag(run: dg.DagsterRun) -> dict[str, str]:
    return {name: value for name, value in run.tags.items() if name == "file"}


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED,
    monitored_jobs=[load_batch],
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes the receipt of a batch whose run was cancelled.",
)
def batch_cancelled(context: dg.RunStatusSensorContext, line: dg.ResourceParam[Line]) -> dg.SkipReason:
    """What is committed stays; launching `load_batch` on the batch finishes it."""
    batch_id = context.dagster_run.tags.get(PARTITION_TAG)
    if batch_id is None or _runs_of(context.instance, batch_id, UNDER_WAY):
        return dg.SkipReason("Another run works on its batch.")
    state = ledger.batch(line.engine, batch_id).state
    if state in FINAL_STATES and state is not State.FAILED:
        return dg.SkipReason(f"Batch {batch_id} had ended before.")
    return _end(line, batch_id, f"Its run was cancelled. `bulk-upload retry {batch_id}` finishes it.")


def _runs_of(
    instance: dg.DagsterInstance, batch_id: str, statuses: list[dg.DagsterRunStatus] | None = None
) -> int:
    return instance.get_runs_count(dg.RunsFilter(tags={PARTITION_TAG: batch_id}, statuses=statuses))


def _end(line: Line, batch_id: str, reason: str) -> dg.SkipReason:
    try:
        return dg.SkipReason(stages.fail(line, batch_id, reason).reason)
    except BatchBusyError as error:
        return dg.SkipReason(str(error))


RECOVERY = [reaper, batch_failed, batch_cancelled]
