"""What one worker loads of a huge file that several load at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bulk_upload_pipeline import part_ledger
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.part_ledger import BETWEEN_LOOKS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg2.extensions import cursor as Cursor

    from bulk_upload_pipeline.part_ledger import Leases, PartRow
    from bulk_upload_pipeline.splitting import Shared


class LoadShare:
    """What one worker loads of a shared batch, in the order of the parts.

    Args:
        shared: The batch.
        leases: Of this worker.
        on_others: Called with the rows of each part that somebody else has loaded.
    """

    def __init__(
        self, shared: Shared, leases: Leases, on_others: Callable[[int], None] = lambda rows: None
    ) -> None:
        self._shared, self._leases, self._on_others = shared, leases, on_others
        self._counted: set[int] = set()

    def make_sure(self, cursor: Cursor, index: int) -> None:
        """See `load.Share`."""
        part_ledger.make_sure(cursor, self._shared.batch_id, self._shared.plan, index)

    def turns(self) -> Iterator[Sequence[int]]:
        """See `load.Share`. Only here others may begin: before, the ledger of an earlier plan was still open."""
        batch_id, staged = self._shared.batch_id, self._shared.staged
        part_ledger.let_load(self._shared.engine, batch_id, self._shared.plan, staged.parts)
        self._counted = {row.number for row in unloaded(self._shared.rows()) if not self._pending(row)}
        while any(not row.loaded for row in self._look()):
            took = False
            for pending in self.next_turn():
                took = True
                yield pending
            if not took:
                time.sleep(BETWEEN_LOOKS_S)

    def next_turn(self) -> Iterator[Sequence[int]]:
        """Yield the chunks of the next part that nobody loads, once; nothing when there is none."""
        batch_id, engine = self._shared.batch_id, self._shared.engine
        with self._leases.one_of(batch_id, unloaded(self._shared.rows())) as row:
            if row is not None:
                self._counted.add(row.number)
                self._shared.bring(row.staged or "")
                yield self._pending(row)
                part_ledger.note_loaded(engine, batch_id, row)

    def _pending(self, row: PartRow) -> list[int]:
        assert row.first_chunk is not None
        assert row.verdict is not None
        chunks = range(row.first_chunk, row.first_chunk + row.verdict.chunks)
        done = part_ledger.committed(self._shared.engine, self._shared.batch_id, self._shared.plan)
        return [index for index in chunks if index not in done]

    def _look(self) -> list[PartRow]:
        rows = self._shared.rows()
        if not rows or any(row.first_chunk is None for row in rows):
            raise BatchBusyError(self._shared.batch_id)
        for row in rows:
            if row.loaded and row.number not in self._counted and row.verdict is not None:
                self._counted.add(row.number)
                self._on_others(row.verdict.rows_valid)
        return rows


def unloaded(rows: Sequence[PartRow]) -> list[PartRow]:
    """Return the parts that may load, and have not to their end."""
    return [row for row in rows if row.first_chunk is not None and not row.loaded]
