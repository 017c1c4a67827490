"""The sensors: files in the inbox become runs; what ends badly is looked after by `recovery`."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import dagster as dg

from bulk_upload_pipeline import intake, lanes
from bulk_upload_pipeline.defs import cursors
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.defs.lanes import BIG, LANE_TAG, SMALL
from bulk_upload_pipeline.defs.partitions import PARTITION_TAG, UNDER_WAY, batches
from bulk_upload_pipeline.defs.recovery import RECOVERY
from bulk_upload_pipeline.defs.small_files import batch_ids_in, config_of, load_small_files
from bulk_upload_pipeline.intake import OVERDUE
from bulk_upload_pipeline.workplace import Line

CUT_OFF = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
"""How a run ended that may not have come to its file: Dagster or `recovery` says soon what follows."""

MOST_SHARED_RUNS = 500


@dg.sensor(
    jobs=[load_batch, load_small_files],
    # Dagster's daemon passes by every 5 s. To ask for 5 would make it pass by without a look when it is early.
    minimum_interval_seconds=3,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Watches the inbox. A big file that has stopped changing gets a run of its own; small ones "
        "that wait together share one."
    ),
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """Never reads content: it lists, registers and requests."""
    survey, sighted = intake.watch(
        line, cursors.kept(context.cursor, _sighted), _Runs(context.instance).has_one_of
    )
    cursor = json.dumps(sighted)
    if not survey.requests:
        context.update_cursor(cursor)
        return dg.SkipReason(survey.in_words)
    # A request for partitions would make the daemon ask for each by itself, on three connections.
    context.instance.add_dynamic_partitions(str(batches.name), [r.batch_id for r in survey.requests])
    return dg.SensorResult(run_requests=_run_requests(survey.requests, _at_once(line)), cursor=cursor)


def _sighted(kept: dict[str, Any]) -> intake.Sightings:
    return {name: (str(seen[0]), float(seen[1])) for name, seen in kept.items() if len(seen) == 2}


class _Runs:
    """What Dagster knows of runs, asked only when somebody wants to know, and of shared runs only once."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def has_one_of(self, batch_id: str) -> bool:
        """Return whether a run has a batch, its own or one that it shares, or one that failed is being followed.

        One that has ended longer ago, be it well, has nothing to do any more with a file that waits.
        """
        if batch_id in self._sharing:
            return True
        return self._has_own(batch_id, UNDER_WAY) or self._has_own(
            batch_id, CUT_OFF, datetime.now(UTC) - OVERDUE
        )

    def _has_own(
        self, batch_id: str, statuses: list[dg.DagsterRunStatus], since: datetime | None = None
    ) -> bool:
        own = dg.RunsFilter(tags={PARTITION_TAG: batch_id}, statuses=statuses, updated_after=since)
        return self._instance.get_runs_count(own) > 0

    @cached_property
    def _sharing(self) -> frozenset[str]:
        """The batches of shared runs that wait or work."""
        filters = dg.RunsFilter(job_name=load_small_files.name, statuses=UNDER_WAY)
        runs = self._instance.get_runs(filters, limit=MOST_SHARED_RUNS)
        return frozenset(batch_id for run in runs for batch_id in batch_ids_in(run.run_config))


def _at_once(line: Line) -> int:
    return lanes.AT_ONCE_IN_POOL if line.settings.broker_url else lanes.AT_ONCE


def _run_requests(requests: Sequence[intake.Request], at_once: int) -> list[dg.RunRequest]:
    alone, together = lanes.share(requests, at_once)
    return [*map(_run_of_one, alone), *map(_run_of_many, together)]


def _run_of_one(request: intake.Request) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=request.key,
        job_name=load_batch.name,
        partition_key=request.batch_id,
        tags={"file": request.file_name[:200], LANE_TAG: SMALL if lanes.is_small(request.size) else BIG},
    )


def _run_of_many(requests: Sequence[intake.Request]) -> dg.RunRequest:
    keys = "\n".join(request.key for request in requests)
    return dg.RunRequest(
        run_key=hashlib.sha256(keys.encode()).hexdigest(),
        job_name=load_small_files.name,
        run_config=config_of([request.batch_id for request in requests]),
        tags={"files": str(len(requests))},
    )


SENSORS = [inbox_sensor, *RECOVERY]
