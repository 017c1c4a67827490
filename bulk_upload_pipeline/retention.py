"""What is thrown away, and when. The ledger, the rows and what says that an asset is materialized stay for ever.

Dagster keeps every event of every run. Most of them (log lines, steps that started) are of no use after some weeks
and are deleted by age; those that give a partition its colour or hold its metadata are never touched.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline import storage
from bulk_upload_pipeline.model import ENDED_STATES
from bulk_upload_pipeline.tables import alerts, upload_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.settings import Home

EVENTS_AT_ONCE = 100_000
KEPT_ALERTS_DAYS = 90

NOISE = (
    "STEP_START",
    "STEP_SUCCESS",
    "STEP_FAILURE",
    "STEP_SKIPPED",
    "STEP_RESTARTED",
    "STEP_UP_FOR_RETRY",
    "STEP_INPUT",
    "STEP_OUTPUT",
    "STEP_WORKER_STARTING",
    "STEP_WORKER_STARTED",
    "ENGINE_EVENT",
    "LOGS_CAPTURED",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "RESOURCE_INIT_FAILURE",
    "HANDLED_OUTPUT",
    "LOADED_INPUT",
    "ASSET_OBSERVATION",
)
"""Events that nothing is computed from; our observations are moments of progress. Log lines have no type at all."""
PLANNED = ("ASSET_MATERIALIZATION_PLANNED", "ASSET_CHECK_EVALUATION_PLANNED")
"""Of a run that did what it planned they are noise; of another they say that a partition failed."""
FINISHED_RUNS = ("SUCCESS", "FAILURE", "CANCELED")

_DELETE = sa.text("""
DELETE FROM event_logs AS event
WHERE event.id > :after AND event.id <= :upto AND event.timestamp < :before
AND (event.dagster_event_type IS NULL OR event.dagster_event_type IN :noise
     OR event.dagster_event_type IN :planned AND NOT EXISTS (
        SELECT FROM runs WHERE runs.run_id = event.run_id AND runs.status <> 'SUCCESS'))
AND NOT EXISTS (SELECT FROM runs WHERE runs.run_id = event.run_id AND runs.status NOT IN :finished)
""").bindparams(
    sa.bindparam("noise", NOISE, expanding=True),
    sa.bindparam("planned", PLANNED, expanding=True),
    sa.bindparam("finished", FINISHED_RUNS, expanding=True),
)
_IDS = sa.text("""
SELECT (SELECT min(id) FROM event_logs),
       (SELECT id FROM event_logs WHERE timestamp < :before ORDER BY id DESC LIMIT 1)
""")
_WITHOUT_ASSETS = sa.text("""
SELECT run_id FROM runs
WHERE status IN ('FAILURE', 'CANCELED') AND update_timestamp < :before AND NOT EXISTS (
    SELECT FROM event_logs AS event WHERE event.run_id = runs.run_id
    AND event.dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_CHECK_EVALUATION'))
ORDER BY id LIMIT :most
""")


def delete_noise(
    dagster: sa.Engine, before: datetime, on_progress: Callable[[int], object] = lambda deleted: None
) -> int:
    """Delete the events that nothing is computed from; return how many they were.

    Args:
        dagster: Of Dagster's storage.
        before: Older events go, in UTC; Dagster's own times have no zone.
        on_progress: Told how many are deleted by now, after each of many short transactions.
    """
    moment = before.replace(tzinfo=None)
    with dagster.connect() as connection:
        ends: Any = connection.execute(_IDS, {"before": moment}).one()
    lowest, highest = ends
    deleted, after = 0, (lowest or 1) - 1
    while highest is not None and after < highest:
        upto = min(after + EVENTS_AT_ONCE, highest)
        with dagster.begin() as connection:
            found = connection.execute(_DELETE, {"after": after, "upto": upto, "before": moment})
        deleted, after = deleted + found.rowcount, upto
        on_progress(deleted)
    if deleted:
        with dagster.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE) event_logs")
    return deleted


def failed_runs_without_assets(dagster: sa.Engine, before: datetime, most: int) -> list[str]:
    """Return old failed runs; one that materialized something is none of them, for that would go with it."""
    with dagster.connect() as connection:
        found = connection.execute(_WITHOUT_ASSETS, {"before": before.replace(tzinfo=None), "most": most})
        return list(found.scalars())


def remove_folders(engine: sa.Engine, home: Home, parent: Place, before: datetime) -> int:
    """Remove the folders of batches that ended before a moment; return how many they were.

    Args:
        engine: Of the invoices' database.
        home: Whose folders they are.
        parent: Its `reports` or `archive`: one folder a batch.
        before: When they must have ended.
    """
    old = _ended(engine, storage.folders(parent), before)
    for name in old:
        storage.remove(home, parent / name)
    return len(old)


def remove_logs(logs: Path, before: datetime) -> int:
    """Remove what old runs wrote to their standard output, which Dagster keeps in a folder a run."""
    folders = [path for path in logs.iterdir() if path.is_dir()] if logs.exists() else []
    old = [path for path in folders if path.stat().st_mtime < before.timestamp()]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)


def surplus(engine: sa.Engine, partitions: Sequence[str], most: int) -> list[str]:
    """Return the partitions that are more than `most`, the oldest first, as far as their batches have ended.

    Args:
        engine: Of the invoices' database.
        partitions: All of them, the oldest first.
        most: How many may stay.
    """
    too_many = partitions[: max(len(partitions) - most, 0)]
    ended = set(_ended(engine, too_many, None))
    return [key for key in too_many if key in ended]


def _ended(engine: sa.Engine, names: Sequence[str], before: datetime | None) -> list[str]:
    columns = upload_batches.c
    query = sa.select(columns.batch_id).where(
        columns.batch_id == sa.any_(sa.cast(list(names), sa.ARRAY(sa.Text))), columns.state.in_(ENDED_STATES)
    )
    if before is not None:
        query = query.where(columns.finished_at < before)
    with engine.connect() as connection:
        return list(connection.scalars(query))


def forget_alerts(engine: sa.Engine, before: datetime) -> int:
    """Delete alerts that were sent before a moment, or written before it and given up; return how many they were."""
    old = sa.func.coalesce(alerts.c.sent_at, alerts.c.created_at) < before
    with engine.begin() as connection:
        return connection.execute(sa.delete(alerts).where(old)).rowcount
