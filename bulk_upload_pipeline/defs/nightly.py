"""Every night: batches that failed, and batches that newer rules may judge otherwise, go down the line again."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta

import dagster as dg

from bulk_upload_pipeline import again, whereabouts
from bulk_upload_pipeline.again import Night, Plan
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.defs.partitions import batches
from bulk_upload_pipeline.defs.recovery import batches_of, batches_under_way
from bulk_upload_pipeline.workplace import Line

NIGHT_TAG, ASKED_TAG, NOT_TAKEN_TAG = "night", "night_asked", "night_not_taken"
"""What every run of a night says of the night, so that nothing else has to remember it."""
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
    night = context.scheduled_execution_time
    plan = again.due(line, night, batches_under_way(context.instance))
    words = f"{_last_night(context.instance, line, night)} {plan.in_words}".strip()
    if not plan.taken:
        return dg.SkipReason(words)
    context.log.info(words)
    # A batch whose partition was cleared away has one again; adding it twice does nothing.
    context.instance.add_dynamic_partitions(str(batches.name), [each.batch_id for each in plan.taken])
    return list(_requests(plan, f"{night:%Y-%m-%d}"))


def _requests(plan: Plan, night: str) -> Iterator[dg.RunRequest]:
    of_night = {NIGHT_TAG: night, ASKED_TAG: str(len(plan.taken)), NOT_TAKEN_TAG: plan.not_taken}
    for each in plan.taken:
        yield dg.RunRequest(
            run_key=f"{each.batch_id}@{night}",
            partition_key=each.batch_id,
            tags=of_night | {"file": each.file_name[:200], "why": each.why},
        )


def nights(instance: dg.DagsterInstance, since: datetime) -> list[str]:
    """Return the nights of a time that had runs, the latest last.

    A person may launch a run with any tags: what is no day names no night, and would make each tick fail that asks.
    """
    found = instance.get_run_tags(tag_keys=[NIGHT_TAG])
    return sorted(n for _, names in found for n in names if _is_day(n) and n >= f"{since:%Y-%m-%d}")


def _is_day(name: str) -> bool:
    with suppress(ValueError):
        return date.fromisoformat(name).isoformat() == name
    return False


def night_of(instance: dg.DagsterInstance, name: str) -> Night:
    """Return a night as its runs tell of it."""
    runs = instance.get_runs(dg.RunsFilter(tags={NIGHT_TAG: name}))
    said = runs[0].tags if runs else {}
    taken = frozenset(batch_id for run in runs for batch_id in batches_of(run))
    asked = said.get(ASKED_TAG, "")
    return Night(name, int(asked) if asked.isdecimal() else len(taken), taken, said.get(NOT_TAKEN_TAG, ""))


def _last_night(instance: dg.DagsterInstance, line: Line, now: datetime) -> str:
    """Return what became of the last night that had runs."""
    found = [name for name in nights(instance, now - LOOKED_BACK) if name < f"{now:%Y-%m-%d}"]
    if not found:
        return ""
    night = night_of(instance, found[-1])
    return night.in_words(whereabouts.receipts_of(line.engine, night.batch_ids))
