"""Every night what nobody needs any more is thrown away, as `retention` says."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import sqlalchemy as sa

from bulk_upload_pipeline import alerts, sweeping
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import retention as rules
from bulk_upload_pipeline.alerting import messages
from bulk_upload_pipeline.alerting.channels import channels_of
from bulk_upload_pipeline.defs.partitions import batches
from bulk_upload_pipeline.places import Place
from bulk_upload_pipeline.settings import Keeping
from bulk_upload_pipeline.workplace import Line

MOST_RUNS = 5_000
"""Failed runs deleted in one night; each costs Dagster some queries."""


LATE_DAYS = 7
"""A report that could not be written for so many days, as the disk was full, is still missed."""


@dg.op(description="Throws away what the policy of this home does not keep, and says how much it was.")
def clean_up(context: dg.OpExecutionContext, line: dg.ResourceParam[Line]) -> None:
    """Staging of ended batches goes at once; the ledger and what makes a partition materialized stay.

    Now there is room, if ever: so reports that a full disk did not take are written.
    """
    policy, now = line.settings.keeping, datetime.now(UTC)
    removed = {
        "staging_folders": len(sweeping.sweep(line)),
        **_of_dagster(context.instance, line, policy, now),
        "reports": _folders(line, line.home.reports, policy.reports, now),
        "archived_files": _folders(line, line.home.archive, policy.archive, now),
        "partitions": _partitions(context.instance, line, policy.partitions),
        "alerts": rules.forget_alerts(line.engine, now - timedelta(days=rules.KEPT_ALERTS_DAYS)),
    }
    context.log.info("Removed: " + ", ".join(f"{count:,} {name}" for name, count in removed.items()))
    strangers = _tell_strangers(context, line)
    late = stages.publish_missing(line, now - timedelta(days=min(LATE_DAYS, policy.reports or LATE_DAYS)))
    if late:
        context.log.warning(f"Reports that could not be written before are written: {', '.join(late)}.")
    context.add_output_metadata(removed | {"late_reports": len(late), "unknown_files": strangers})


def _tell_strangers(context: dg.OpExecutionContext, line: Line) -> int:
    """Tell of files in the archive that no batch has; return how many they are."""
    found = sweeping.strangers(line.engine, line.home)
    if found:
        told = messages.of_strangers(found, line.home.archive)
        context.log.warning(told.body)
        with line.engine.begin() as connection:
            alerts.queue(connection, [told], channels_of(line.settings.alert_urls))
    return len(found)


def _of_dagster(instance: dg.DagsterInstance, line: Line, policy: Keeping, now: datetime) -> dict[str, int]:
    """Delete events, logs and failed runs of Dagster's storage, when it is in PostgreSQL."""
    removed = {"events": 0, "run_logs": 0, "failed_runs": 0}
    with _storage(line) as dagster:
        if dagster is None:
            return removed
        if policy.logs is not None:
            before = now - timedelta(days=policy.logs)
            removed["events"] = rules.delete_noise(dagster, before)
            removed["run_logs"] = rules.remove_logs(Path(instance.storage_directory()), before)
        if policy.failed_runs is not None:
            before = now - timedelta(days=policy.failed_runs)
            old = rules.failed_runs_without_assets(dagster, before, MOST_RUNS)
            for run_id in old:
                instance.delete_run(run_id)
            removed["failed_runs"] = len(old)
    return removed


@contextmanager
def _storage(line: Line) -> Iterator[sa.Engine | None]:
    from bulk_upload_pipeline.database import make_engine

    url = line.settings.dagster_database_url
    if url is None:
        yield None
        return
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _folders(line: Line, parent: Place, days: int | None, now: datetime) -> int:
    return (
        0
        if days is None
        else rules.remove_folders(line.engine, line.home, parent, now - timedelta(days=days))
    )


def _partitions(instance: dg.DagsterInstance, line: Line, most: int) -> int:
    """Take the oldest partitions out of the UI; their events stay, and a retry adds the partition again."""
    name = str(batches.name)
    surplus = rules.surplus(line.engine, instance.get_dynamic_partitions(name), most)
    for key in surplus:
        instance.delete_dynamic_partition(name, key)
    return len(surplus)


@dg.job(
    description="Throws away what nobody needs any more: old log lines, failed runs, staging, as the policy says."
)
def retention() -> None:
    """A job of one op."""
    clean_up()


nightly_retention = dg.ScheduleDefinition(
    name="nightly_retention",
    job=retention,
    cron_schedule="30 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Runs `retention` at 02:30 UTC.",
)
