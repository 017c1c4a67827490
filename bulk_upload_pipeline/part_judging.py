"""How the parts of a huge file are judged, by whoever takes them, and composed to one verdict."""

from __future__ import annotations

import shutil
import time
import uuid
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bulk_upload_pipeline import findings as catalogue
from bulk_upload_pipeline import part_ledger
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.judging import Judging, give_memory_back_soon, judged_chunks
from bulk_upload_pipeline.pace import Pace
from bulk_upload_pipeline.part_ledger import BETWEEN_LOOKS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bulk_upload_pipeline.model import TextChunk, Verdict
    from bulk_upload_pipeline.part_ledger import Leases, PartRow
    from bulk_upload_pipeline.profiles import DateOrder
    from bulk_upload_pipeline.reading.parts import Part
    from bulk_upload_pipeline.splitting import Shared


class _InDoubtError(Exception):
    """A date waits for the order of the whole file."""


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
            if not judge_next(shared, leases, follower):
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


def judge_next(shared: Shared, leases: Leases, follower: _Follower | None = None) -> bool:
    """Do what is next before the verdict; return False when there is nothing that nobody does."""
    with leases.one_of(shared.batch_id, unjudged(shared.rows())) as taken:
        if taken is None:
            return False
        rows = shared.rows()
        # Somebody may have finished it just before it was taken.
        if taken.number in {row.number for row in unjudged(rows)}:
            if _doubtful(rows):
                _look_for_orders(shared, taken)
            else:
                _judge_part(shared, taken, follower)
        return True


def unjudged(rows: Sequence[PartRow]) -> list[PartRow]:
    """Return the parts that are to be looked at before the verdict, in the one way or the other."""
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
