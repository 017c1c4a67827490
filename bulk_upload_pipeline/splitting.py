"""One huge file, judged and loaded by several workers at once, with the result of one.

Who takes the batch plans its `parts` and makes them known in `part_ledger`; from then on it is a worker like any
other. Workers are processes, on this machine or on another one that reaches the database and the folders.
There is nobody who gives out work: each takes the next part that nobody has, so that one worker alone comes
to the end, more come earlier, and the part of one that is killed is taken by another. What makes of the parts one file:

* Records: a part begins where one reading of the whole would cut, and is read by the same blocks (`parts`).
* Row numbers: a part is staged with rows from 1, and `parts.json` says how many records come before it.
* Dates that can be read two ways: the first part that meets one with no order stated notes the doubt. Then every part
  is looked through for the orders that its dates show, before any part is judged that has none yet. Parts without
  doubt, judged before, do not depend on the order.
* Line occurrences, counts, control totals, the verdict: each part leaves the 8 bytes a row of its identities and its
  own sums; who took the batch composes them when all parts are judged, in file order.
* The gate: parts may load only after the verdict on the whole. A chunk locks the row of its part, which says so, in
  its own transaction: whoever reverts the batch, judges it anew or ends it first takes that leave back, and so
  waits for the chunks that are under way and bars all others.
* The chunk ledger is that of any batch. Its plan names the parts, so that a retry stages the same chunks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bulk_upload_pipeline import findings as catalogue
from bulk_upload_pipeline import part_ledger
from bulk_upload_pipeline.exceptions import BatchBusyError, UnreadableError
from bulk_upload_pipeline.judging import Judging, give_memory_back_soon, judged_chunks
from bulk_upload_pipeline.pace import Pace
from bulk_upload_pipeline.reading.parts import Part, may_be_parted, parts_of
from bulk_upload_pipeline.recognising import encodings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import sqlalchemy as sa
    from psycopg2.extensions import cursor as Cursor

    from bulk_upload_pipeline.model import TextChunk, Verdict
    from bulk_upload_pipeline.part_ledger import Leases, PartRow
    from bulk_upload_pipeline.profiles import DateOrder, OnConflict
    from bulk_upload_pipeline.staged import StagedBatch

BETWEEN_LOOKS_S = 0.5
"""How often a worker with nothing to do looks for a part."""

PATIENCE_S = 60.0
"""So long a helper stays that finds nothing to do, such as while the verdict is composed."""


class _InDoubtError(Exception):
    """A date waits for the order of the whole file."""


@dataclass(frozen=True)
class Shared:
    """A shared batch as one worker sees it.

    Attributes:
        staged: Where its parts are staged, on this machine.
        plan: Digest of all that decides what is staged, parts included.
        publish: Puts the files of a folder of the staging (or, without a name, of itself) where others see them.
        bring: Brings those that others have put there to this machine.
    """

    engine: sa.Engine
    batch_id: str
    judging: Judging
    staged: StagedBatch
    plan: str
    publish: Callable[[str], None] = lambda folder: None
    bring: Callable[[str], None] = lambda folder: None

    def rows(self) -> list[PartRow]:
        """Return how far its parts are; none when they are not those of this plan any more."""
        return [row for row in part_ledger.rows(self.engine, self.batch_id) if row.plan == self.plan]


def planned(judging: Judging, part_bytes: int) -> tuple[Part, ...]:
    """Return the parts in which a file is judged; none when one worker judges it as a whole.

    Corrections are, and what they corrected when it is judged again: they name rows by their number in the file.
    """
    if type(judging) is not Judging or judging.corrected or not may_be_parted(judging.layout):
        return ()
    return parts_of(judging.path, judging.layout, part_bytes)


def plan_in_parts(plan: str, parts: Sequence[Part]) -> str:
    """Return the digest of a plan and of the parts by which it is carried out."""
    decisive = [plan, encodings.BLOCK_BYTES, [astuple(part) for part in parts]]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


# Judging


def judge(shared: Shared, parts: Sequence[Part]) -> Verdict:
    """Judge a file together with whoever helps, and stage what may load.

    Parts that an earlier attempt has judged are not judged again.

    Raises:
        UnreadableError: It has no rows.
    """
    from bulk_upload_pipeline.stage import compose
    from bulk_upload_pipeline.validate import prepare

    prepare()
    give_memory_back_soon()
    _announce(shared, parts)
    follower = _Follower(shared.judging)
    with part_ledger.leases(shared.engine) as leases:
        while any(row.staged is None for row in follower.look(shared.rows())):
            if not _judge_next(shared, leases, follower):
                time.sleep(BETWEEN_LOOKS_S)
    done = [(row.staged, row.verdict) for row in shared.rows() if row.staged and row.verdict]
    for folder, _ in done:
        shared.bring(folder)
    verdict = compose(shared.staged, done, shared.plan)
    shared.publish("")
    if verdict.rows_read == 0:
        raise UnreadableError(catalogue.file_finding("NO_DATA_ROWS"))
    return verdict


def _announce(shared: Shared, parts: Sequence[Part]) -> None:
    """Make the parts known, and judge those again whose rows an earlier attempt staged but are gone."""
    folder = shared.staged.folder
    if not shared.rows():
        shutil.rmtree(folder, ignore_errors=True)
    part_ledger.announce(shared.engine, shared.batch_id, shared.plan, parts)
    folder.mkdir(parents=True, exist_ok=True)
    for row in shared.rows():
        if row.staged:
            shared.bring(row.staged)
        if row.staged and not replace(shared.staged, folder=folder / row.staged).part_exists:
            part_ledger.note_lost(shared.engine, shared.batch_id, row)


def _judge_next(shared: Shared, leases: Leases, follower: _Follower | None = None) -> bool:
    """Do what is next before the verdict; return False when there is nothing that nobody does."""
    with leases.one_of(shared.batch_id, _unjudged(shared.rows())) as taken:
        if taken is None:
            return False
        rows = shared.rows()
        # Somebody may have finished it just before it was taken.
        if taken.number in {row.number for row in _unjudged(rows)}:
            if _doubtful(rows):
                _look_for_orders(shared, taken)
            else:
                _judge_part(shared, taken, follower)
        return True


def _unjudged(rows: Sequence[PartRow]) -> list[PartRow]:
    if _doubtful(rows):
        return [row for row in rows if row.date_orders is None]
    return [row for row in rows if row.staged is None]


def _doubtful(rows: Sequence[PartRow]) -> bool:
    """Return whether the order of the whole file is wanted and not known yet."""
    return any(row.in_doubt for row in rows) and any(row.date_orders is None for row in rows)


def _look_for_orders(shared: Shared, row: PartRow) -> None:
    from bulk_upload_pipeline.parse import orders_shown

    part = _part_of(shared, row)
    shown = orders_shown(part.chunks(), part.layout)
    part_ledger.note_orders(shared.engine, shared.batch_id, row, shown)


def _judge_part(shared: Shared, row: PartRow, follower: _Follower | None) -> None:
    """Judge and stage a part, unless it turns out to wait for the order of dates."""
    from bulk_upload_pipeline.stage import Stage

    folder = shared.staged.folder / f"part-{row.number:05}-{uuid.uuid4().hex[:8]}"
    part = _part_of(shared, row)
    try:
        with Stage(folder) as staging:
            for judged, bytes_done in judged_chunks(part):
                staging.add(judged)
                if follower is not None:
                    follower.tell(row, judged.rows_read, bytes_done)
            verdict = staging.seal_part(shared.plan, part.max_error_rate)
    except _InDoubtError:
        part_ledger.note_doubt(shared.engine, shared.batch_id, row)
        shutil.rmtree(folder)
        return
    shared.publish(folder.name)
    if not part_ledger.note_judged(shared.engine, shared.batch_id, row, folder.name, verdict):
        shutil.rmtree(folder, ignore_errors=True)  # another worker was faster


def _part_of(shared: Shared, row: PartRow) -> _PartJudging:
    plain = {each.name: getattr(shared.judging, each.name) for each in fields(Judging)}
    return _PartJudging(**plain, part=row.place, rows=shared.rows)


@dataclass(frozen=True, kw_only=True)
class _PartJudging(Judging):
    """How one part of a file is judged."""

    part: Part
    rows: Callable[[], list[PartRow]]

    def chunks(self) -> Iterator[TextChunk]:
        """Read the part; its rows count from 1."""
        from bulk_upload_pipeline.reading.delimited import read_part

        return read_part(self.path, self.layout, self.part, self.chunk_rows)

    @cached_property
    def date_order(self) -> DateOrder | None:
        """The order on which the dates of all parts agree."""
        from bulk_upload_pipeline.parse import agreed_order

        shown = [row.date_orders for row in self.rows()]
        if not all(orders is not None for orders in shown):
            raise _InDoubtError
        return agreed_order(frozenset(order for orders in shown for order in orders or ()))


@dataclass
class _Follower:
    """Tells how far the judging of all parts is, whoever judges them."""

    judging: Judging
    _told: set[int] = field(default_factory=set)
    _bytes_done: int = 0

    def __post_init__(self) -> None:
        self._pace = Pace("validating", self.judging.on_progress)
        self._size = max(self.judging.path.stat().st_size, 1)

    def look(self, rows: list[PartRow]) -> list[PartRow]:
        """Tell of the parts that others have judged since the last look, and return all."""
        judged = [row for row in rows if row.verdict is not None]
        self._bytes_done = sum(row.place.end - row.place.start for row in judged)
        for row in judged:
            if row.number not in self._told and row.verdict is not None:
                self._told.add(row.number)
                self._pace.advance(row.verdict.rows_read, self._bytes_done / self._size)
        return rows

    def tell(self, row: PartRow, rows: int, bytes_done: int) -> None:
        """Tell of a chunk of a part that is judged here."""
        self._told.add(row.number)
        self._pace.advance(rows, (self._bytes_done + bytes_done) / self._size)


# Loading


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
        self._counted = {row.number for row in _unloaded(self._shared.rows()) if not self._pending(row)}
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
        with self._leases.one_of(batch_id, _unloaded(self._shared.rows())) as row:
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


def _unloaded(rows: Sequence[PartRow]) -> list[PartRow]:
    return [row for row in rows if row.first_chunk is not None and not row.loaded]


# Helping


def help_along(shared: Shared, on_conflict: OnConflict, stays: Callable[[], bool]) -> int:
    """Work on the parts of a batch that another worker has taken, until there is nothing left to do.

    Args:
        shared: The batch.
        on_conflict: What becomes of a row whose identity stands in the target with other values.
        stays: Asked before each part; the helper leaves when it answers no.

    Returns:
        How many parts it judged, looked through or loaded.
    """
    from bulk_upload_pipeline.validate import prepare

    prepare()
    give_memory_back_soon()
    done = 0
    deadline = time.monotonic() + PATIENCE_S
    with part_ledger.leases(shared.engine) as leases:
        while not _is_over(shared.rows()) and time.monotonic() < deadline and stays():
            if _do_next(shared, leases, on_conflict):
                done += 1
                deadline = time.monotonic() + PATIENCE_S
            else:
                time.sleep(BETWEEN_LOOKS_S)
    return done


def open_parts(rows: Sequence[PartRow]) -> list[PartRow]:
    """Return the parts that can be worked on now; none while the verdict on the whole is awaited."""
    return _unjudged(rows) or _unloaded(rows)


def _is_over(rows: Sequence[PartRow]) -> bool:
    return all(row.loaded for row in rows)


def _do_next(shared: Shared, leases: Leases, on_conflict: OnConflict) -> bool:
    try:
        if _unjudged(shared.rows()):
            return _judge_next(shared, leases)
        return _load_next(shared, leases, on_conflict)
    except BatchBusyError:
        return False  # it may not be loaded any more
    except OSError:
        if shared.rows():
            raise
        return False  # the batch has ended, and its folder is gone


def _load_next(shared: Shared, leases: Leases, on_conflict: OnConflict) -> bool:
    from bulk_upload_pipeline.load import load_chunks

    share, took = LoadShare(shared, leases), False
    shared.bring("")
    staged = replace(shared.staged)  # which has just become complete
    for pending in share.next_turn():
        took = True
        load_chunks(shared.engine, shared.batch_id, staged, shared.plan, on_conflict, pending, share=share)
    return took
