"""Events of many batches, written together.

Dagster writes each event by itself, in three or four statements of one transaction each: more than the rows of a
small file cost. It takes materializations of one asset in one go, which is used here. Results of checks it does not:
their two tables are written to here as its own storage writes to them, which a test holds against each other.
"""

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any, cast

import dagster as dg
import sqlalchemy as sa
from dagster_postgres import PostgresEventLogStorage

from bulk_upload_pipeline import settling
from bulk_upload_pipeline.defs import account
from bulk_upload_pipeline.model import Receipt
from bulk_upload_pipeline.workplace import Line

SECONDS_UNTOLD = 2.0
MOST_UNTOLD = 40
"""So long, and so many, batches wait for others to be told of together."""

_RECEIPTS = dg.AssetKey("upload_receipts")

_KEEP_RESULTS = sa.text(
    "INSERT INTO asset_check_executions AS c (asset_key, check_name, partition, run_id, execution_status, "
    "evaluation_event, evaluation_event_timestamp, evaluation_event_storage_id) "
    "SELECT result.asset_key, check_name, result.partition, run_id, status, event, timestamp, id "
    "FROM unnest(CAST(:ids AS bigint[]), CAST(:asset_keys AS text[]), CAST(:check_names AS text[]), "
    "CAST(:partitions AS text[]), CAST(:statuses AS text[])) "
    "AS result (id, asset_key, check_name, partition, status) JOIN event_logs USING (id) "
    "ON CONFLICT (asset_key, check_name, run_id, partition) DO UPDATE SET "
    "execution_status = excluded.execution_status, evaluation_event = excluded.evaluation_event, "
    "evaluation_event_timestamp = excluded.evaluation_event_timestamp, "
    "evaluation_event_storage_id = excluded.evaluation_event_storage_id"
)


class Telling:
    """Batches of a run that have ended, and of which Dagster shall soon hear everything."""

    def __init__(self, context: dg.OpExecutionContext, line: Line) -> None:
        self._context, self._line = context, line
        self._untold: dict[str, Receipt] = {}
        self._since = 0.0

    def add(self, receipt: Receipt) -> None:
        """Take a batch to be told of; when it corrects others, they are told of as they are now, too."""
        if not self._untold:
            self._since = time.monotonic()
        for told in (*settling.relatives(self._line, receipt), receipt):
            self._untold[told.batch_id] = told

    @property
    def is_due(self) -> bool:
        """Whether what was added has waited for long enough."""
        waited = time.monotonic() - self._since
        return bool(self._untold) and (waited >= SECONDS_UNTOLD or len(self._untold) >= MOST_UNTOLD)

    def tell(self) -> None:
        """Write the events of all that was added.

        The receipts come last: a batch without one is told of again by whoever follows a worker that was killed.
        """
        receipts = list(self._untold.values())
        if receipts:
            write(self._context, list(account.of_batches(self._line, receipts)))
            self._untold.clear()


def write(context: dg.OpExecutionContext, events: Sequence[account.Event]) -> None:
    """Write events of the step of `context`, as `context.log_event` does with each."""
    entries = _Drafts(context).of(events)
    storage = context.instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        for entry in entries:
            storage.store_event(entry)
        return
    for asset, those in _by_asset(entries):
        if asset is None:
            _store_evaluations(storage, those)
        else:
            storage.store_event_batch(those)


def _by_asset(
    entries: Sequence[dg.EventLogEntry],
) -> list[tuple[dg.AssetKey | None, list[dg.EventLogEntry]]]:
    """Return the materializations of each asset, and before those of the receipts, under None, the evaluations."""

    def place(entry: dg.EventLogEntry) -> tuple[bool, bool, str]:
        asset = _asset_of(entry)
        return asset == _RECEIPTS, asset is None, str(asset)

    grouped = groupby(sorted(entries, key=place), _asset_of)
    return [(asset, list(those)) for asset, those in grouped]


def _asset_of(entry: dg.EventLogEntry) -> dg.AssetKey | None:
    event = entry.get_dagster_event()
    return event.asset_key if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION else None


class _Drafts:
    """Stands in for a step, to whose log Dagster writes an event when it makes one: here it is kept instead."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        step = context.get_step_execution_context()
        self.job_name, self.step, self.event_tags = step.job_name, step.step, step.event_tags
        self.log = self
        self._run_id = context.run_id
        self._entries: list[dg.EventLogEntry] = []

    def of(self, events: Sequence[account.Event]) -> list[dg.EventLogEntry]:
        """Return events as the log keeps them."""
        this = cast("Any", self)
        for event in events:
            if isinstance(event, dg.AssetMaterialization):
                dg.DagsterEvent.asset_materialization(this, event)
            else:
                dg.DagsterEvent.asset_check_evaluation(this, event)
        return self._entries

    def log_dagster_event(
        self, level: int, msg: str, dagster_event: dg.DagsterEvent, batch_metadata: object = None
    ) -> None:
        """Keep an event."""
        entry: Any = dg.EventLogEntry
        self._entries.append(
            entry(
                error_info=None,
                level=level,
                user_message=msg,
                run_id=self._run_id,
                timestamp=time.time(),
                step_key=dagster_event.step_key,
                job_name=self.job_name,
                dagster_event=dagster_event,
            )
        )


def _store_evaluations(storage: PostgresEventLogStorage, entries: Sequence[dg.EventLogEntry]) -> None:
    stored = storage.prepare_insert_event_batch(entries)
    events = [entry.get_dagster_event().event_specific_data for entry in entries]
    evaluations = cast("list[dg.AssetCheckEvaluation]", events)
    with storage.index_transaction() as connection:
        results = {
            "ids": list(connection.scalars(stored.returning(stored.table.c.id))),
            "asset_keys": [evaluation.asset_key.to_string() for evaluation in evaluations],
            "check_names": [evaluation.check_name for evaluation in evaluations],
            "partitions": [evaluation.partition for evaluation in evaluations],
            "statuses": ["SUCCEEDED" if evaluation.passed else "FAILED" for evaluation in evaluations],
        }
        connection.execute(_KEEP_RESULTS, results)
