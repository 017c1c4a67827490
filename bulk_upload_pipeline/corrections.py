"""Corrected rows on their way back: which rows of which batch they are, in the columns of its file.

A correction is read `as_written` now and leaves this room in the columns of the batch that it corrects, under that
batch's row numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.as_written import Own, as_number, names_of, trimmed_names
from bulk_upload_pipeline.findings import message_of, row_findings
from bulk_upload_pipeline.model import DamagedRow, TextChunk
from bulk_upload_pipeline.origin import BATCH_ID, LINE_OCCURRENCE, ROW_NUMBER, TWICE, restored
from bulk_upload_pipeline.reading.records import splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bulk_upload_pipeline.family import Corrected, Rejected
    from bulk_upload_pipeline.model import Layout


@dataclass(frozen=True)
class Origins:
    """The rows that a correction may correct.

    Attributes:
        root: The batch whose file came first.
        layout: That of the correction.
        members: The batches of its family, any of which a row may name.
        columns: How many columns the root's file has.
        rows_read: Rows of the root; a row that is none of them gets a number beyond.
        rejected: The rows of the root that were ever rejected, by number.
        repeated: Row numbers that the correction has more than once.
        copies: Which row is meant by each copy of one that stood in an earlier correction more than once.
    """

    root: str
    layout: Layout
    members: frozenset[str]
    columns: int
    rows_read: int
    rejected: dict[int, Rejected]
    repeated: frozenset[int]
    copies: Mapping[tuple[str, int], int]

    @cached_property
    def _names(self) -> list[str]:
        assert self.layout.written_as is not None
        return names_of(self.layout.written_as)

    @cached_property
    def _columns(self) -> list[int]:
        """Where each column of the parent stands in the correction."""
        return [self._names.index(name) for name in trimmed_names(self.layout.header)]

    def relaid(self, chunks: Iterable[TextChunk]) -> Iterator[TextChunk]:
        """Yield the rows of a correction as rows of the root."""
        for chunk in chunks:
            yield self._relaid(chunk)

    def _relaid(self, chunk: TextChunk) -> TextChunk:
        numbers, faults = self._numbered(chunk)
        cells = pa.table(
            [restored(chunk.cells[str(at)]) for at in self._columns], _column_names(self._columns)
        )
        damaged = tuple(replace(row, row_number=self.rows_read + row.row_number) for row in chunk.damaged)
        split = self._split(cells, numbers)
        faults += self._beside_their_text(cells, numbers)
        return TextChunk(
            split.cells,
            pa.array(split.numbers, pa.int64()),
            (*damaged, *split.damaged),
            chunk.bytes_done,
            _as_findings(faults),
        )

    def _numbered(self, chunk: TextChunk) -> tuple[list[int], list[tuple[int, str, str]]]:
        """Return the number of each row in the root, or one beyond all of its rows, and what is wrong with some."""
        own = Own(chunk, self._names)
        numbers, faults = [], []
        for at, position in enumerate(chunk.row_numbers.to_pylist()):
            number, fault = self._placed(own, at)
            if number is None or number in self.repeated:
                number = self.rows_read + position
            numbers.append(number)
            if fault is not None:
                faults.append((number, *fault))
        return numbers, faults

    def _placed(self, own: Own, at: int) -> tuple[int | None, tuple[str, str] | None]:
        """Return the number of a row in the root, and what is wrong with its origin."""
        batch, number = own.batches[at], own.row_number(at)
        if batch not in self.members:
            where = f"it belongs to batch {batch}, and the file to batch {self.root}" if batch else _NOWHERE
            return None, ("NO_ORIGIN", where)
        if number is None:
            return None, ("NO_ORIGIN", _no_row(own.numbers[at], self.root))
        number = self.copies.get((batch, number), number)
        if number not in self.rejected:
            return None, ("NO_ORIGIN", f"row {number} of batch {self.root} was not rejected")
        if number in self.repeated:
            return None, (TWICE, f"{number:,}")
        known = self.rejected[number].line_occurrence
        if batch == self.root and own.occurrences[at] and as_number(own.occurrences[at]) != known:
            return number, (
                "NO_ORIGIN",
                f"its `{LINE_OCCURRENCE}` was {known} and is {own.occurrences[at]} now",
            )
        return number, None

    def _split(self, cells: pa.Table, numbers: list[int]) -> _Split:
        """Part the text of records that had no cells, where it was corrected in its one cell."""
        raw = [at for at, n in enumerate(numbers) if n in self.rejected and self.rejected[n].raw is not None]
        rest = [
            at for at in raw if all(column[at].as_py() is None for column in cells.columns[1 : self.columns])
        ]
        if not rest:
            return _Split(cells, numbers, ())
        delimiter = self.layout.delimiter or ("\t" if self.layout.sheets else None)
        rows = cells.to_pylist()
        damaged = []
        for at in rest:
            text = rows[at]["0"] or ""
            parted = None if delimiter is None else _parted(text, delimiter, self.columns)
            if parted is None:
                damaged.append(_damaged(numbers[at], text, delimiter))
            else:
                rows[at] |= dict(zip(cells.column_names, parted, strict=False))
        gone = {row.row_number for row in damaged}
        kept = [at for at, n in enumerate(numbers) if n not in gone]
        table = pa.Table.from_pylist([rows[at] for at in kept], cells.schema)
        return _Split(table, [numbers[at] for at in kept], tuple(damaged))

    def _beside_their_text(self, cells: pa.Table, numbers: list[int]) -> list[tuple[int, str, str]]:
        """Return what is wrong with records that were spread over the columns, and stand in the first one as well."""
        faults = []
        for at, number in enumerate(numbers):
            known = self.rejected.get(number)
            if known is None or known.raw is None or not _is_same(cells["0"][at].as_py(), known.raw):
                continue
            if any(column[at].as_py() is not None for column in cells.columns[1 : self.columns]):
                faults.append((number, "WRONG_FIELD_COUNT", _STILL_THERE))
        return faults


_STILL_THERE = "The whole line stands in the first cell still, beside what was spread over the others"


def _is_same(cell: str | None, text: str) -> bool:
    """Return whether a cell is a text, however a spreadsheet writes its line breaks."""
    return cell is not None and cell.split() == text.split()


def _no_row(shown: str, batch: str) -> str:
    if not shown:
        return f"its `{ROW_NUMBER}` is empty"
    return f"there is no row {shown} of batch {batch}, because a `{ROW_NUMBER}` is a whole number"


_NOWHERE = f"its `{BATCH_ID}` is empty"


@dataclass(frozen=True, slots=True)
class _Split:
    cells: pa.Table
    numbers: list[int]
    damaged: tuple[DamagedRow, ...]


def _column_names(columns: Sequence[int]) -> list[str]:
    return [str(at) for at in range(len(columns))]


def _parted(text: str, delimiter: str, columns: int) -> list[str | None] | None:
    """Return the cells of a record's text, None when they do not fit the header."""
    if not delimiter.isascii():
        cells = text.split(delimiter)
    else:
        data = text.encode()
        record = splitter(delimiter).split(data, 0)
        if record.cells is None or record.end != len(data):
            return None
        cells = [cell.decode() for cell in record.cells]
    return [cell or None for cell in cells] if len(cells) == columns else None


def _damaged(number: int, text: str, delimiter: str | None) -> DamagedRow:
    """Return the finding on a record that stands in one cell; one that no delimiter parts has to be spread."""
    code, why = (
        ("DAMAGED_RECORD", "The whole record stands in the first cell and is not spread over the columns")
        if delimiter is None
        else ("WRONG_FIELD_COUNT", "The corrected text does not have as many cells as the header")
    )
    return DamagedRow(number, code, message_of(code, why), text)


def _as_findings(faults: list[tuple[int, str, str]]) -> pa.Table | None:
    tables = []
    for code in sorted({code for _, code, _ in faults}):
        found = [(number, value) for number, named, value in faults if named == code]
        numbers, values = (
            pa.array([number for number, _ in found], pa.int64()),
            pa.array([v for _, v in found]),
        )
        # What row a copy is one of is asked for when it comes back: `family.copies`.
        raw = pc.replace_substring(values, ",", "") if code == TWICE else None
        tables.append(row_findings(code, None, numbers, raw, values=values))
    return pa.concat_tables(tables) if tables else None


def occurrences_of(
    numbers: np.ndarray,
    identities: np.ndarray,
    before: dict[int, tuple[int, int]],
    known: Sequence[Corrected],
    count: Callable[[np.ndarray], dict[int, int]],
) -> list[int]:
    """Return the line occurrence of each corrected row.

    A row whose identity stayed keeps its occurrence. One whose identity changed comes behind all lines of its new
    identity in the root's file, and behind those that other corrections brought: so no line is taken for another.

    Args:
        numbers: Row numbers, int64.
        identities: Their identities now, int64 hashes.
        before: Identity and occurrence in the root, by row number; a record without cells had none.
        known: What all corrections of the root brought.
        count: How often each of some identities stands in the root's file.
    """
    assigned = {(row.row_number, row.identity): row.line_occurrence for row in known}
    stated = list(zip(numbers.tolist(), identities.tolist(), strict=True))
    moved = [
        row for row in sorted(stated) if row not in assigned and before.get(row[0], (None, 0))[0] != row[1]
    ]
    highest = count(np.unique(np.array([identity for _, identity in moved], np.int64))) if moved else {}
    for row in known:
        highest[row.identity] = max(highest.get(row.identity, 0), row.line_occurrence)
    for row_number, identity in moved:
        highest[identity] = highest.get(identity, 0) + 1
        assigned[row_number, identity] = highest[identity]
    return [
        before[row[0]][1] if before.get(row[0], (None, 0))[0] == row[1] else assigned[row] for row in stated
    ]
