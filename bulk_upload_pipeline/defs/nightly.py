"""Every night: batches that failed, and batches that newer rules may judge otherwise, go down the line again."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from bulk_upload_pipeline import again
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.defs.partitions import batches
from bulk_upload_pipeline.defs.recovery import PARTITION_TAG, UNDER_WAY
from bulk_upload_pipeline.line import Line

NIGHT_TAG = "night"
LOOKED_BACK = timedelta(days=7)
"""A schedule that was switched off longer has no last night."""


@dg.schedule(
    job=load_batch,
    cron_schedule="0 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night at 02:00 UTC, at most 100 batches that failed or that newer rules may judge otherwise.",
)
def nightly_backfill(
    context: dg.ScheduleEvaluationContext, line: dg.ResourceParam[Line]
) -> list[dg.RunRequest] | dg.SkipReason:
    """The tick says what became of the last night's runs, and what this night takes again."""
    found, gone = again.due(line, context.scheduled_execution_time)
    taken = [each for each in found if not _is_under_way(context.instance, each.batch_id)]
    words = f"{_last_night(context)} {again.in_words(taken, gone)}".strip()
    if not taken:
        return dg.SkipReason(words)
    context.log.info(words)
    # A batch whose partition was cleared away has one again; adding it twice does nothing.
    context.instance.add_dynamic_partitions(str(batches.name), [each.batch_id for each in taken])
    for each in taken:
        stages.reopen(line, each.batch_id)
    return list(_requests(taken, f"{context.scheduled_execution_time:%Y-%m-%d}"))


def _requests(taken: list[again.Due], night: str) -> Iterator[dg.RunRequest]:
    for each in taken:
        yield dg.RunRequest(
            run_key=f"{each.batch_id}@{night}",
            partition_key=each.batch_id,
            tags={NIGHT_TAG: night, "file": each.file_name[:200], "why": each.why},
        )


def _is_under_way(instance: dg.DagsterInstance, batch_id: str) -> bool:
    filters = dg.RunsFilter(tags={PARTITION_TAG: batch_id}, statuses=UNDER_WAY)
    return instance.get_runs_count(filters) > 0


def _last_night(context: dg.ScheduleEvaluationContext) -> str:
    """Return what became of the runs of the last night that had any."""
    since = context.scheduled_execution_time - LOOKED_BACK
    names = {"dagster/schedule_name": nightly_backfill.name}
    runs = context.instance.get_runs(dg.RunsFilter(tags=names, created_after=since), limit=again.MOST_A_NIGHT)
    if not runs:
        return ""
    night = runs[0].tags[NIGHT_TAG]
    statuses = Counter(run.status.value.lower() for run in runs if run.tags[NIGHT_TAG] == night)
    return f"Of the night of {night}: {', '.join(f'{n} {name}' for name, n in statuses.most_common())}."
