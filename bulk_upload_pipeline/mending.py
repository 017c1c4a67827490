"""Corrections: how a corrected file is judged, and what is remembered of it.

Its rows load under the row numbers and line occurrences that they had in the root's file, as rows of the
correcting batch. What belongs to the sender (columns, profile, order of dates) is the root's.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from bulk_upload_pipeline import as_written, corrections, family, ledger, resaved, target
from bulk_upload_pipeline.contract import BY_NAME, IDENTITY, Kind
from bulk_upload_pipeline.exceptions import FileMissingError, UnreadableError
from bulk_upload_pipeline.family import Corrected
from bulk_upload_pipeline.findings import file_finding, row_findings
from bulk_upload_pipeline.judging import Judging, already_corrected, with_findings
from bulk_upload_pipeline.model import TextChunk, numbers_of
from bulk_upload_pipeline.parsing.cells import as_text, unique_names
from bulk_upload_pipeline.resaved import Earlier
from bulk_upload_pipeline.staged import OCCURRENCES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from bulk_upload_pipeline.contract import Column
    from bulk_upload_pipeline.corrections import Origins
    from bulk_upload_pipeline.family import Before
    from bulk_upload_pipeline.model import Batch, Layout, TypedChunk
    from bulk_upload_pipeline.parsing.numerals import Notation
    from bulk_upload_pipeline.profiles import DateOrder, Profile
    from bulk_upload_pipeline.resaved import Reread

NOTHING_CORRECTED = 1.0
"""Limit of the breaker for corrections: their rows were chosen because they are wrong, so only a correction of
which every row is still wrong has nothing to load."""


def mending(
    plain: Judging, engine: sa.Engine, batch_id: str, archived_file: Callable[[Batch], Path]
) -> Mending:
    """Return how a correction is judged.

    Args:
        plain: How its file would be judged for itself.
        engine: Of the database.
        batch_id: The correction.
        archived_file: Says where the file of a batch lies.
    """
    root = ledger.batch(engine, family.root_of(engine, batch_id))
    known = family.corrections(engine, root.batch_id)
    return Mending(
        path=plain.path,
        layout=plain.layout,
        profile=plain.profile,
        chunk_rows=plain.chunk_rows,
        max_error_rate=NOTHING_CORRECTED,
        on_progress=plain.on_progress,
        corrected=_overtaken(known, batch_id, _later(engine, root.batch_id, batch_id)),
        engine=engine,
        batch_id=batch_id,
        root=root,
        root_file=lambda: archived_file(root),
        known=known,
    )


def _later(engine: sa.Engine, root: str, batch_id: str) -> tuple[str, ...]:
    """Return the corrections that came after one that has loaded; before that, all of its rows are its own."""
    if not ledger.has_passed(engine, batch_id):
        return ()
    members = family.members(engine, root)
    return members[members.index(batch_id) + 1 :]


def _overtaken(known: list[Corrected], batch_id: str, later: Collection[str]) -> dict[int, str]:
    """Return the rows of a correction that a later one has loaded since, and which that is.

    Args:
        known: What all corrections of the root brought, before this one is judged anew.
        batch_id: The correction.
        later: Those that came later: one that did not load a row itself leaves it to them.
    """
    mine = {row.row_number: row.loaded_at for row in known if row.batch_id == batch_id}
    overtaken = {}
    for row in known:
        if row.loaded_at is None or row.batch_id == batch_id or row.row_number not in mine:
            continue
        loaded_at = mine[row.row_number]
        if row.batch_id in later if loaded_at is None else loaded_at < row.loaded_at:
            overtaken[row.row_number] = row.batch_id
    return overtaken


def keep(connection: sa.Connection, batch_id: str, judged: Judging) -> None:
    """Keep what a correction that is judged brings, in the caller's transaction; nothing for another batch."""
    if isinstance(judged, Mending):
        family.keep(connection, batch_id, judged.root.batch_id, judged.brought)


@dataclass(frozen=True, kw_only=True)
class Mending(Judging):
    """How a correction is judged.

    Attributes:
        engine: Of the database that knows the root.
        batch_id: The correction.
        root: The batch whose file came first.
        root_file: Says where that file lies; only some corrections need it.
        known: What all corrections of the root brought, this one included.
    """

    engine: sa.Engine
    batch_id: str
    root: Batch
    root_file: Callable[[], Path]
    known: list[Corrected]
    _brought: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, compare=False)

    def _read(self) -> Iterator[TextChunk]:
        from bulk_upload_pipeline.read import read_chunks

        assert self.layout.written_as is not None
        return read_chunks(self.path, self.layout.written_as, self.chunk_rows)

    def _read_root(self) -> Iterator[TextChunk]:
        from bulk_upload_pipeline.read import read_chunks

        assert self.root.layout is not None
        return read_chunks(self._root_path, self.root.layout, self.chunk_rows)

    @cached_property
    def _root_path(self) -> Path:
        with suppress(FileMissingError):
            path = self.root_file()
            if path.exists():
                return path
        raise UnreadableError(file_finding("CORRECTED_FILE_GONE", self.root.batch_id))

    def chunks(self) -> Iterator[TextChunk]:
        """Read the correction as rows of the root."""
        return self.origins.relaid(self._read())

    @cached_property
    def date_order(self) -> DateOrder | None:
        """The order on which the dates of the root's whole file agree."""
        from bulk_upload_pipeline.parse import date_order_of

        assert self.root.layout is not None
        return date_order_of(self._read_root(), self.root.layout)

    @cached_property
    def _order(self) -> DateOrder | None:
        """The order in which the sender writes days."""
        return self.profile.date_order or self.date_order

    @cached_property
    def _is_in_doubt(self) -> bool:
        """Whether a day of the correction can only be in another order: a spreadsheet may have written it."""
        from bulk_upload_pipeline.parse import orders_shown

        return not orders_shown(self.chunks(), self.layout) <= {self._order}

    def typed(self, chunk: TextChunk) -> TypedChunk:
        """Return the typed rows of a chunk, each cell as it is meant."""
        from bulk_upload_pipeline.parse import parse_chunk

        cells, before = chunk.cells, self._cells_before(chunk)
        found = []
        for name, at in self.layout.mapping.items():
            column = as_text(cells[str(at)])
            if reread := self._reread(BY_NAME[name], column, partial(self._earlier, chunk, before, name)):
                cells = cells.set_column(at, str(at), [reread.cells])
                found.append(_said(reread, self.layout.source_name(name), chunk, column))
        # What can still be read two ways has no order.
        profile = replace(self.profile, date_order=None)
        typed = parse_chunk(replace(chunk, cells=cells), self.layout, profile, lambda: None)
        return with_findings(replace(typed, text=chunk), *found)

    def _reread(
        self, column: Column, cells: pa.StringArray, earlier: Callable[[], list[list[Earlier]]]
    ) -> Reread | None:
        """Return a column as it is meant, None where that is plain already."""
        from bulk_upload_pipeline.parse import notation_of

        if column.kind is Kind.AMOUNT:
            return resaved.amounts(cells, earlier(), notation_of(self.layout, self.profile))
        if column.kind is Kind.TEXT:
            assert column.limit is not None
            return resaved.texts(cells, earlier(), column.limit) if resaved.may_be_made(cells) else None
        if not resaved.has_ambiguous_day(cells, before := earlier()) or self._order is None:
            return None
        meaning = partial(
            resaved.day_meant,
            order=self._order,
            is_in_doubt=self._is_in_doubt,
            excel_serials=self.layout.excel_serials,
        )
        return resaved.days(cells, before, meaning, self._order)

    def _earlier(self, chunk: TextChunk, before: Before, name: str) -> list[list[Earlier]]:
        """Return what a column of each row of a chunk held before, the oldest first."""
        assert self.root.layout is not None
        title = unique_names(self.root.layout.header)[self.root.layout.mapping[name]]
        return [
            [Earlier(cells.get(title), self._notations[batch]) for batch, cells in before.get(number, ())]
            for number in chunk.row_numbers.to_pylist()
        ]

    def _cells_before(self, chunk: TextChunk) -> Before:
        """Return the rows of a chunk as the root had them, and the corrections before this one."""
        numbers = chunk.row_numbers.to_pylist()
        return family.rows_before(self.engine, list(self._notations), numbers, self.origins.copies)

    @cached_property
    def _notations(self) -> dict[str, Notation]:
        """How amounts were read in the root and in each correction before this one, in the order in which they came."""
        from bulk_upload_pipeline.parse import notation_of

        members = family.members(self.engine, self.root.batch_id)
        layouts = {b: ledger.batch(self.engine, b).layout for b in members[: members.index(self.batch_id)]}
        return {b: notation_of(layout, self.profile) for b, layout in layouts.items() if layout is not None}

    @cached_property
    def origins(self) -> Origins:
        """The rows that may be corrected."""
        assert self.root.layout is not None
        assert self.layout.written_as is not None
        members = frozenset(family.members(self.engine, self.root.batch_id))
        copies = family.copies(self.engine, members)
        return corrections.Origins(
            root=self.root.batch_id,
            layout=self.layout,
            members=members,
            columns=len(self.root.layout.header),
            rows_read=numbers_of(
                ledger.receipt(self.engine, self.root.batch_id).rows_read, self.root.layout.sheets
            ),
            rejected={row.row_number: row for row in self._rejected},
            repeated=as_written.named(self._read(), self.layout.written_as).repeated(members, copies),
            copies=copies,
        )

    @cached_property
    def _rejected(self) -> list[family.Rejected]:
        assert self.root.layout is not None
        names, mapping = unique_names(self.root.layout.header), self.root.layout.mapping
        keys = [names[mapping[name]] if name in mapping else None for name in IDENTITY[:3]]
        return family.rejected(self.engine, self.root.batch_id, keys)

    @cached_property
    def _before(self) -> dict[int, tuple[int, int]]:
        """Identity and line occurrence of the rejected rows in the root's file."""
        assert self.root.layout is not None
        whole = [row for row in self._rejected if row.raw is None]
        cells = pa.table(
            {
                str(self.root.layout.mapping[name]): pa.array([row.cells[at] for row in whole], pa.string())
                for at, name in enumerate(IDENTITY[:3])
                if name in self.root.layout.mapping
            }
        )
        numbers = pa.array([row.row_number for row in whole], pa.int64())
        hashes = _identities(TextChunk(cells, numbers), self.root.layout, self.profile)
        return {
            row.row_number: (identity, row.line_occurrence)
            for row, identity in zip(whole, hashes.tolist(), strict=True)
        }

    @cached_property
    def _standing(self) -> dict[int, tuple[int, str]]:
        """Identity under which a rejected row stands in the target by now, or will, and by which other batch."""
        loaded = {row.row_number for row in self._rejected if row.is_loaded}
        if ledger.has_passed(self.engine, self.root.batch_id):
            # It may find rows wrong that it has loaded before; they stand.
            loaded |= target.standing_rows(self.engine, self.root.batch_id)
        own = {n: (self._before[n][0], self.root.batch_id) for n in loaded if n in self._before}
        unsettled = family.unsettled(self.engine, self.root.batch_id)
        others = [
            row
            for row in (*unsettled, *(row for row in self.known if row.loaded_at))
            if row.batch_id != self.batch_id
        ]
        return own | {row.row_number: (row.identity, row.batch_id) for row in others}

    @cached_property
    def _own(self) -> dict[int, int]:
        """Identity under which a row stands in the target by this correction, which may read it otherwise by now."""
        if not ledger.has_passed(self.engine, self.batch_id):
            return {}
        keys = target.keys(self.engine, self.batch_id)
        columns = [pa.array(values, pa.string()) for values in zip(*keys.values(), strict=True)]
        hashes = _hashes(pa.table(columns, list(IDENTITY[:3]))) if keys else _NONE
        return dict(zip(keys, hashes.tolist(), strict=True))

    @cached_property
    def _lines(self) -> dict[int, tuple[int, str]]:
        """As which line a row stands in the target, or will, and by which batch, this one included."""
        return {number: (identity, self.batch_id) for number, identity in self._own.items()} | self._standing

    @property
    def circumstances(self) -> list[object]:
        """Which rows may be corrected, and as what lines others have loaded them: that changes with the family."""
        standing = sorted((number, identity) for number, (identity, _) in self._standing.items())
        return [sorted(self.origins.rejected), standing, sorted(self.origins.copies.items())]

    def parse(self, chunk: TextChunk) -> TypedChunk:
        """Return the typed rows of a chunk; one that stands as a line of another invoice is not loaded twice."""
        typed = super().parse(chunk)
        identities = _hashes(typed.rows)
        numbers = chunk.row_numbers.to_numpy()
        pairs = list(zip(numbers.tolist(), identities.tolist(), strict=True))
        self._brought.append((numbers, np.array([self._own.get(*pair) for pair in pairs], np.int64)))
        elsewhere = {
            number: self._lines[number][1]
            for number, identity in pairs
            if self._lines.get(number, (identity, ""))[0] != identity and number not in self.corrected
        }
        return with_findings(typed, already_corrected(elsewhere))

    def repeated(self) -> pa.Table:
        """Return the line occurrences above 1, as they are in the root's file."""
        rows = [row for row in self.brought if row.line_occurrence > 1]
        return pa.table(
            [[row.row_number for row in rows], [row.line_occurrence for row in rows]],
            schema=OCCURRENCES_SCHEMA,
        )

    @cached_property
    def brought(self) -> list[Corrected]:
        """What the correction brings, by row number; asked for when all of it has been judged."""
        pairs = [
            (number, identity)
            for numbers, identities in self._brought
            for number, identity in zip(numbers.tolist(), identities.tolist(), strict=True)
            if number in self.origins.rejected
        ]
        pairs.sort()
        numbers, identities = (
            (np.array(values, np.int64) for values in zip(*pairs, strict=True)) if pairs else (_NONE, _NONE)
        )
        occurrences = corrections.occurrences_of(numbers, identities, self._before, self.known, self._count)
        return [Corrected(*pair, occurrence) for pair, occurrence in zip(pairs, occurrences, strict=True)]

    def _count(self, identities: np.ndarray) -> dict[int, int]:
        """Return how often each of some identities stands in the root's file."""
        assert self.root.layout is not None
        counted: dict[int, int] = {}
        for chunk in self._read_root():
            hashes = _identities(chunk, self.root.layout, self.profile)
            found, often = np.unique(hashes[np.isin(hashes, identities)], return_counts=True)
            for identity, count in zip(found.tolist(), often.tolist(), strict=True):
                counted[identity] = counted.get(identity, 0) + count
        return counted


def _said(reread: Reread, column: str, chunk: TextChunk, cells: pa.StringArray) -> pa.Table | None:
    """Return the findings on cells that are not taken as they stand."""
    if not reread.said:
        return None
    at = pa.array([position for position, _ in reread.said], pa.int64())
    values = pa.array([words for _, words in reread.said], pa.string())
    return row_findings(reread.code, column, chunk.row_numbers.take(at), cells.take(at), values=values)


_NONE = np.empty(0, np.int64)


def _identities(chunk: TextChunk, layout: Layout, profile: Profile) -> np.ndarray:
    from bulk_upload_pipeline.parse import identity_columns

    return _hashes(identity_columns(chunk, layout, profile))


def _hashes(rows: pa.Table) -> np.ndarray:
    """Return the hashes of some rows' identities as signed numbers, which PostgreSQL has."""
    from bulk_upload_pipeline.validate import identities

    return identities(rows).view(np.int64)
