"""Staged chunks into the target, exactly once.

A chunk is one transaction, and its row in the ledger commits with it: what the ledger names is loaded, and
a retry goes on with the rest. Nobody has to know whether a COMMIT that was cut off went through.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

import psycopg2
import pyarrow.compute as pc
from psycopg2.errors import SerializationFailure

from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.holding import CONTENTION, connected, holding
from bulk_upload_pipeline.loading.confirmed import LATE_CHECK, ONE_AT_A_TIME
from bulk_upload_pipeline.loading.copying import Text, copy
from bulk_upload_pipeline.loading.merging import (
    ALREADY_LOADED,
    REFUSED,
    Merge,
    is_identity_violation,
    lies_in_a_row,
)
from bulk_upload_pipeline.loading.statements import TARGET
from bulk_upload_pipeline.loading.yielded import FALL, YIELDED_TO, in_order
from bulk_upload_pipeline.model import LoadResult, Totals
from bulk_upload_pipeline.stale import touch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa
    import sqlalchemy as sa
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

    from bulk_upload_pipeline.profiles import OnConflict
    from bulk_upload_pipeline.staged import StagedBatch

ATTEMPTS = 8
"""How often a chunk is tried that others get in the way of (deadlock, serialization failure)."""


def load_staged(
    engine: sa.Engine,
    batch_id: str,
    staged: StagedBatch,
    plan: str,
    on_conflict: OnConflict,
    *,
    connections: int = 2,
    on_rows: Callable[[int], None] = lambda rows: None,
    share: Share | None = None,
    is_held: bool = False,
) -> LoadResult:
    """Load the staged rows of a batch, but for chunks that the ledger names already.

    Memory holds at most one chunk a connection.

    Args:
        engine: Where to connect; the connections of a load are its own, outside of the pool.
        batch_id: Whose rows they are; nobody else may load them meanwhile.
        staged: The rows, in chunks.
        plan: Digest of what decided the staged rows; chunks that were loaded by another plan load anew.
        on_conflict: What becomes of a row whose identity stands in the target with other values.
        connections: Chunks that are loaded at the same time, each on a connection and a thread of its own.
        on_rows: Called in this thread with the rows of each committed chunk, and once at the start with
            those that were committed earlier.
        share: Of a file that several workers load: which chunks are this one's. All are, when it is None.
        is_held: Whether the caller holds the batch already.

    Returns:
        The sums over all chunks, those of earlier attempts included.

    Raises:
        BatchBusyError: Another worker holds the batch.
        psycopg2.Error: The database failed. `database.is_transient` tells whether a retry may help; it goes
            on from the chunks that are committed.
    """
    with connected(engine) if is_held else holding(engine, batch_id) as owner:
        owner.autocommit = True
        committed = _open_ledger(owner, batch_id, plan)
        if committed:
            on_rows(sum(committed.values()))
        mine = [[index for index in range(staged.chunks) if index not in committed]]
        for pending in mine if share is None else share.turns():
            load_chunks(engine, batch_id, staged, plan, on_conflict, pending, connections, on_rows, share)
        return _result(owner, batch_id)


class Share(Protocol):
    """What one of several workers loads of a batch."""

    def turns(self) -> Iterator[Sequence[int]]:
        """Yield the chunks to load, some at a time, until all chunks of the batch are loaded by somebody."""

    def make_sure(self, cursor: Cursor, index: int) -> None:
        """Make sure, in the transaction of chunk `index`, that it still may load until that has ended.

        Raises:
            BatchBusyError: It may not.
        """


def load_chunks(
    engine: sa.Engine,
    batch_id: str,
    staged: StagedBatch,
    plan: str,
    on_conflict: OnConflict,
    pending: Sequence[int],
    connections: int = 2,
    on_rows: Callable[[int], None] = lambda rows: None,
    share: Share | None = None,
) -> None:
    """Load some chunks that the ledger does not name yet; see `load_staged`, which also opens the ledger."""
    if pending:
        _Load(engine, batch_id, staged, plan, on_conflict, share).run(pending, connections, on_rows)


# Refusals are noted with their chunk: without a chunk they belong to another plan, and a row that is refused again
# gets a new one.
_IS_OF_OTHER_PLAN = """
SELECT EXISTS (SELECT FROM bulk_upload.load_chunks WHERE batch_id = %(batch_id)s AND plan <> %(plan)s)
"""
_OPEN_LEDGER = """
DELETE FROM bulk_upload.load_chunks WHERE batch_id = %(batch_id)s AND plan <> %(plan)s;
UPDATE bulk_upload.processing_errors SET is_resolved = true, resolved_at = now(), resolved_by_batch = batch_id
WHERE batch_id = %(batch_id)s AND error_code IN %(by_loader)s AND NOT is_resolved
AND NOT EXISTS (SELECT FROM bulk_upload.load_chunks WHERE batch_id = %(batch_id)s);
SELECT chunk_index, rows FROM bulk_upload.load_chunks WHERE batch_id = %(batch_id)s
"""
_FALL = ";".join((in_order(YIELDED_TO), ONE_AT_A_TIME, FALL, ""))


def _open_ledger(connection: Connection, batch_id: str, plan: str) -> dict[int, int]:
    """Return the rows of each chunk that this plan has loaded; what another plan loaded is forgotten."""
    stated = {"batch_id": batch_id, "plan": plan, "by_loader": (REFUSED, ALREADY_LOADED), "undone": None}
    with connection.cursor() as cursor:
        cursor.execute(_IS_OF_OTHER_PLAN, stated)
        # Until it says again what it confirmed, others may say it.
        fall = _FALL if cursor.fetchone() == (True,) else ""
        cursor.execute(fall + _OPEN_LEDGER, stated)  # sent together, they are one transaction
        return dict(cursor.fetchall())


def _result(connection: Connection, batch_id: str) -> LoadResult:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(inserted), 0)::bigint, coalesce(sum(updated), 0)::bigint, "
            "coalesce(sum(unchanged), 0)::bigint, coalesce(sum(refused), 0)::bigint, "
            "coalesce(sum(quantity), 0), coalesce(sum(item_total), 0) "
            "FROM bulk_upload.load_chunks WHERE batch_id = %s",
            (batch_id,),
        )
        row = cursor.fetchone()
    assert row is not None
    inserted, updated, unchanged, refused, quantity, item_total = row
    return LoadResult(inserted, updated, unchanged, refused, Totals(quantity, item_total))


class _StoppedError(Exception):
    """Another connection failed, or the caller gave up: this one stops, too."""


class _SwallowedError(Exception):
    """COPY took fewer rows than it was given: a trigger skips some."""


@dataclass
class _Load:
    """What the connections of one load share."""

    engine: sa.Engine
    batch_id: str
    staged: StagedBatch
    plan: str
    on_conflict: OnConflict
    share: Share | None = None
    pending: SimpleQueue[int] = field(default_factory=SimpleQueue)
    news: SimpleQueue[int | BaseException | None] = field(default_factory=SimpleQueue)
    stop: Event = field(default_factory=Event)
    keys_exist: Event = field(default_factory=Event)
    """Set when a key of the batch was found in the target: from then on all chunks are merged."""
    connections: list[Connection] = field(default_factory=list)

    def run(self, pending: Sequence[int], connections: int, on_rows: Callable[[int], None]) -> None:
        """Load the chunks `pending`, and raise the first error of any connection."""
        for index in pending:
            self.pending.put(index)
        workers = [
            Thread(target=self._work, name=f"load-{number}", daemon=True)
            for number in range(min(connections, len(pending)))
        ]
        try:
            for worker in workers:
                worker.start()
            self._follow(len(workers), on_rows)
        finally:
            self.stop.set()
            for worker in workers:
                self._end(worker)

    def _follow(self, working: int, on_rows: Callable[[int], None]) -> None:
        while working:
            news = self.news.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                working -= 1
            else:
                on_rows(news)

    def _end(self, worker: Thread) -> None:
        """Wait for a worker, and cancel whatever statement it waits for."""
        while worker.ident is not None and worker.is_alive():
            for connection in self.connections:
                # A connection that is closed by now has nothing to cancel.
                with suppress(psycopg2.Error):
                    connection.cancel()
            worker.join(0.1)

    def _work(self) -> None:
        try:
            with connected(self.engine) as connection:
                self.connections.append(connection)
                self._load_pending(connection)
                self.connections.remove(connection)
                # Whoever stops us may have cancelled it just now, which the next load would suffer from.
                self._check()
        # Whatever it is, it must reach the caller's thread, which raises it.
        except BaseException as error:  # noqa: BLE001
            self.news.put(error)
        self.news.put(None)

    def _load_pending(self, connection: Connection) -> None:
        while not self.stop.is_set():
            try:
                index = self.pending.get_nowait()
            except Empty:
                return
            self.news.put(self._load_chunk(connection, index))

    def _check(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _make_sure(self, cursor: Cursor, index: int) -> None:
        if self.share is not None:
            self.share.make_sure(cursor, index)

    def _load_chunk(self, connection: Connection, index: int) -> int:
        rows = self.staged.chunk(index)
        if self.keys_exist.is_set() or not self._copied(connection, index, rows):
            self._merged(connection, index, rows)
        return rows.num_rows

    def _copied(self, connection: Connection, index: int, rows: pa.Table) -> bool:
        """Copy a chunk straight into the target; return False when that is not possible."""
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                self._make_sure(cursor, index)
                if copy(cursor, TARGET, Text(rows, self.batch_id, self._check)) != rows.num_rows:
                    raise _SwallowedError
                touch(cursor, pc.unique(rows["invoice_date"]).drop_null().to_pylist())
                self._note(cursor, index, "copy", LoadResult(inserted=rows.num_rows, totals=_totals(rows)))
        except _SwallowedError:
            return False
        except psycopg2.Error as error:
            if is_identity_violation(error):
                self.keys_exist.set()
            elif not lies_in_a_row(error) and error.pgcode not in CONTENTION:
                raise
            return False
        return True

    def _merged(self, connection: Connection, index: int, rows: pa.Table) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with connection, connection.cursor() as cursor:
                    # A deferred constraint would speak at COMMIT, when no row can be isolated any more.
                    cursor.execute(f"SET CONSTRAINTS ALL IMMEDIATE; {LATE_CHECK}")
                    self._make_sure(cursor, index)
                    merge = Merge(cursor, self.batch_id, index, self.on_conflict, self._check)
                    self._note(cursor, index, "merge", merge.place(rows))
                    merge.make_sure()
            except psycopg2.Error as error:
                if attempt == ATTEMPTS or not _may_succeed(error):
                    raise
                # Two that collided must not come back at the same moment.
                self.stop.wait(random.uniform(0.5, 1.5) * 0.05 * 2**attempt)  # noqa: S311 - no secret
            else:
                return

    def _note(self, cursor: Cursor, index: int, path: str, result: LoadResult) -> None:
        """Write the ledger row of a chunk, in the chunk's own transaction."""
        cursor.execute(
            "INSERT INTO bulk_upload.load_chunks (batch_id, chunk_index, plan, path, rows, inserted, "
            "updated, unchanged, refused, quantity, item_total) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                *(self.batch_id, index, self.plan, path, result.rows + result.refused),
                *(result.inserted, result.updated, result.unchanged, result.refused),
                *(result.totals.quantity, result.totals.item_total),
            ),
        )
        if cursor.rowcount == 0:
            # Only a worker that lost its lock, but not its other connections, can be so fast.
            raise BatchBusyError(self.batch_id)


def _may_succeed(error: psycopg2.Error) -> bool:
    """Return whether the next attempt at a chunk may: others got in its way. What we raise has no code."""
    return isinstance(error, SerializationFailure) or error.pgcode in CONTENTION


def _totals(rows: pa.Table) -> Totals:
    sums: list[Decimal | None] = [pc.sum(rows[name]).as_py() for name in ("quantity", "item_total")]
    quantity, item_total = (total or Decimal(0) for total in sums)
    return Totals(quantity, item_total)
