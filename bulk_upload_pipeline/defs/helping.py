"""Huge files: while parts of one wait, runs that help the run which took it, wherever there is a place for them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from bulk_upload_pipeline import sharing
from bulk_upload_pipeline.defs.lanes import BIG, LANE_TAG
from bulk_upload_pipeline.defs.partitions import first_free
from bulk_upload_pipeline.defs.resources import line_resource
from bulk_upload_pipeline.exceptions import BulkUploadError
from bulk_upload_pipeline.workplace import Line

OP = "work_on_parts"
SENSOR_DAEMON = "SENSOR"
"""What Dagster calls the daemon that runs sensors."""

HELPS_TAG = "bulk_upload/helps"
MOST_FAILED = 5
"""Helpers of a batch that failed, after which no more are sent: who took it meets the same fault and tells it."""

WAITS_TOO_LONG = timedelta(seconds=10)
"""A run that waits for so long has no place: a helper gives up its own."""

LATE_HEARTBEAT_S = 120.0
"""The daemon that sends helpers writes a heartbeat every 30 seconds; one that has been silent for so long is gone."""

BEFORE_START = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
)


class Helped(dg.Config):
    """The batch that needs help."""

    batch_id: str


# The pool of the loaders: helpers load, too, and the database shall see no more of them at once.
@dg.op(name=OP, pool="mangalam_invoices", description="Takes parts of a huge file that nobody works on.")
def work_on_parts(context: dg.OpExecutionContext, config: Helped, line: dg.ResourceParam[Line]) -> None:
    """A helper has no outcome of its own: the run that took the file tells of it."""
    try:
        done = sharing.help_along(line, config.batch_id, lambda: not _others_wait(context.instance))
    except BulkUploadError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(f"It worked on {done:,} parts of batch {config.batch_id}.")


def _others_wait(instance: dg.DagsterInstance) -> bool:
    """Return whether another run than a helper waits for a place."""
    # A run that was launched into a pool of workers waits there as well.
    waiting = dg.RunsFilter(statuses=BEFORE_START, created_before=datetime.now(UTC) - WAITS_TOO_LONG)
    return any(run.job_name != help_with_parts.name for run in instance.get_runs(waiting, limit=20))


@dg.job(
    description="Helps with a huge file that another run has taken: judges and loads parts of it.",
    # Whatever else waits comes first.
    tags={LANE_TAG: BIG, "dagster/priority": "-10"},
    resource_defs={"line": line_resource},
)
def help_with_parts() -> None:
    """A job of one op, which leaves when there is nothing left to do."""
    work_on_parts()


def may_come(instance: dg.DagsterInstance) -> bool:
    """Return whether a daemon is alive that would send helpers to a huge file."""
    last = instance.get_daemon_heartbeats().get(SENSOR_DAEMON)
    return last is not None and time.time() - last.timestamp < LATE_HEARTBEAT_S


def config_of(batch_id: str) -> dict[str, Any]:
    """Return the run config of a run that helps with a batch."""
    return {"ops": {OP: {"config": {"batch_id": batch_id}}}}


@dg.sensor(
    job=help_with_parts,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends help to huge files, one run at a time, as long as parts of them wait and a run finds a place.",
)
def parts_sensor(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """A helper that still waits for its place shows that there is none: then no other one is sent."""
    waiting = sharing.parts_without_worker(line)
    requests = [
        request
        for batch_id, parts in waiting.items()
        if (request := _next_helper(batch_id, parts, _helpers(context.instance, batch_id)))
    ]
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SkipReason(f"{sum(waiting.values()):,} parts of {len(waiting):,} huge files wait for a worker.")


def _helpers(instance: dg.DagsterInstance, batch_id: str) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(job_name=help_with_parts.name, tags={HELPS_TAG: batch_id}))


def _next_helper(batch_id: str, parts: int, helpers: Sequence[dg.DagsterRun]) -> dg.RunRequest | None:
    """Return the next run that helps with a batch of which so many parts wait; None when it needs none."""
    waits = any(run.status in BEFORE_START for run in helpers)
    failed = sum(run.status is dg.DagsterRunStatus.FAILURE for run in helpers)
    if waits or not parts or failed >= MOST_FAILED:
        return None
    key = f"{batch_id}#helper-"
    return dg.RunRequest(
        run_key=f"{key}{first_free(helpers, key, len(helpers) + 1)}",
        run_config=config_of(batch_id),
        tags={HELPS_TAG: batch_id},
    )
