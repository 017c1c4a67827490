"""Corrected rows on their way back: which rows of which batch they are, in the columns of its file.

A correction is read as it is written now (a spreadsheet may have chosen another encoding, delimiter or order of
columns) and leaves this room in the columns of the batch that it corrects, under that batch's row numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import CATALOGUE, file_finding, row_findings
from bulk_upload_pipeline.model import DamagedRow, TextChunk
from bulk_upload_pipeline.origin import BATCH_ID, LINE_OCCURRENCE, OWN_COLUMNS, ROW_NUMBER, restored
from bulk_upload_pipeline.parsing.cells import BLANKS, as_text, unique_names
from bulk_upload_pipeline.reading.records import splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bulk_upload_pipeline.family import Corrected, Rejected
    from bulk_upload_pipeline.model import Layout

_MARKS = ".,' \u2019\u00a0\u2009\u202f"
_NUMBER = re.compile(
    rf"(?P<whole>[0-9]{{1,15}}|[1-9][0-9]{{0,2}}(?P<mark>[{_MARKS}])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}}){{0,3}}"
    r"|[1-9][0-9]?(?P<indian>,)(?:[0-9]{2},){1,5}[0-9]{3})"
    r"(?:(?!(?P=mark)|(?P=indian))[.,]0{1,2})?"
)
"""A row number, also as a spreadsheet shows it when it has taken it for an amount: `2.00`, `1,500`, `1.500,00`.

No spreadsheet shows three decimals unless it is told to, so `2,000` is two thousand."""


def lay_over(written: Layout, parent: Layout) -> Layout:
    """Return the layout of a correction: the parent's, with how the correction itself is written.

    A column that somebody added stands behind the parent's own, so that it goes to `extra`.

    Raises:
        UnreadableError: `CORRECTION_COLUMNS`: a column is gone.
    """
    names = _names(written)
    wanted = (*unique_names(parent.header), BATCH_ID, ROW_NUMBER)
    gone = [name for name in wanted if name not in names]
    if gone:
        listed = ", ".join(f"`{name}`" for name in gone)
        raise UnreadableError(file_finding("CORRECTION_COLUMNS", listed))
    added = tuple(name for name in names if name not in (*wanted, *OWN_COLUMNS, ""))
    return replace(parent, header=(*parent.header, *added), written_as=written)


def _names(written: Layout) -> list[str]:
    """Return the names of a correction's columns as the parent's header had them."""
    whole = [name or "" for name in restored(pa.array(written.header, pa.string())).to_pylist()]
    own = [at for at, name in enumerate(written.header) if name in OWN_COLUMNS]
    others = iter(unique_names([name for at, name in enumerate(whole) if at not in own]))
    return [written.header[at] if at in own else next(others) for at in range(len(whole))]


ANSI = ("cp1252", "cp1250", "cp1251", "cp1254", "iso8859-1", "mac_roman")
"""In what a spreadsheet writes CSV when it is not asked for UTF-8, by the country of its computer."""


def in_its_encoding(
    written: Layout, read: Callable[[Layout], Iterable[TextChunk]], known: frozenset[str]
) -> Layout:
    """Return the layout with the encoding under which most cells are what they were in the batch itself.

    Args:
        written: With the encoding that was guessed, of a text that is no UTF-8.
        read: Reads the correction by a layout.
        known: Cells of the rejected rows that are not all ASCII.
    """
    choices = [replace(written, encoding=codec) for codec in dict.fromkeys((*ANSI, written.encoding))]
    return max(choices, key=lambda layout: sum(_known_cells(chunk, known) for chunk in read(layout)))


def _known_cells(chunk: TextChunk, known: frozenset[str]) -> int:
    cells = pa.array(list(known), pa.string())
    return sum(
        pc.sum(pc.is_in(restored(column), value_set=cells)).as_py() or 0 for column in chunk.cells.columns
    )


class _Own:
    """What the own columns of a chunk say."""

    def __init__(self, chunk: TextChunk, names: list[str]) -> None:
        rows = len(chunk.row_numbers)
        self.batches = _trimmed(chunk.cells, names, BATCH_ID, rows)
        self.numbers = _trimmed(chunk.cells, names, ROW_NUMBER, rows)
        self.occurrences = _trimmed(chunk.cells, names, LINE_OCCURRENCE, rows)

    def row_number(self, at: int) -> int | None:
        """Return the row number of one row, None where the cell holds none."""
        return _as_number(self.numbers[at])


def _trimmed(cells: pa.Table, names: list[str], name: str, rows: int) -> list[str]:
    if name not in names:
        return [""] * rows
    column = as_text(cells[str(names.index(name))])
    return pc.fill_null(pc.utf8_trim(column, BLANKS), "").to_pylist()


def _as_number(text: str) -> int | None:
    shown = _NUMBER.fullmatch(text)
    return None if shown is None else int(re.sub("[^0-9]", "", shown["whole"]))


@dataclass(frozen=True, slots=True)
class Named:
    """What a whole correction names.

    Attributes:
        batches: How many rows name each batch.
        rows: How many name each row of each batch.
    """

    batches: Counter[str]
    rows: Counter[tuple[str, int]]

    def repeated(self, members: frozenset[str]) -> frozenset[int]:
        """Return the row numbers of a family that stand in it more than once; those of other batches do not count."""
        numbers = Counter[int]()
        for (batch, number), count in self.rows.items():
            if batch in members:
                numbers[number] += count
        return frozenset(number for number, count in numbers.items() if count > 1)


def named(chunks: Iterable[TextChunk], written: Layout) -> Named:
    """Return which batches and rows a correction names, reading all of it."""
    names = _names(written)
    batches: Counter[str] = Counter()
    rows: Counter[tuple[str, int]] = Counter()
    for chunk in chunks:
        own = _Own(chunk, names)
        batches.update(batch for batch in own.batches if batch)
        numbered = zip(own.batches, map(_as_number, own.numbers), strict=True)
        rows.update((batch, number) for batch, number in numbered if number is not None)
    return Named(batches, rows)


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
    """

    root: str
    layout: Layout
    members: frozenset[str]
    columns: int
    rows_read: int
    rejected: dict[int, Rejected]
    repeated: frozenset[int]

    @cached_property
    def _names(self) -> list[str]:
        assert self.layout.written_as is not None
        return _names(self.layout.written_as)

    @cached_property
    def _columns(self) -> list[int]:
        """Where each column of the parent stands in the correction."""
        return [self._names.index(name) for name in unique_names(self.layout.header)]

    def relaid(self, chunks: Iterable[TextChunk]) -> Iterator[TextChunk]:
        """Yield the rows of a correction as rows of the root."""
        for chunk in chunks:
            yield self._relaid(chunk)

    def _relaid(self, chunk: TextChunk) -> TextChunk:
        own = _Own(chunk, self._names)
        positions = chunk.row_numbers.to_pylist()
        numbers, faults = [], []
        for at, position in enumerate(positions):
            number, fault = self._placed(own, at)
            if number is None or number in self.repeated:
                number = self.rows_read + position
            numbers.append(number)
            if fault is not None:
                faults.append((number, *fault))
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

    def _placed(self, own: _Own, at: int) -> tuple[int | None, tuple[str, str] | None]:
        """Return the number of a row in the root, and what is wrong with its origin."""
        batch, number = own.batches[at], own.row_number(at)
        if batch not in self.members:
            where = f"it belongs to batch {batch}, and the file to batch {self.root}" if batch else _NOWHERE
            return None, ("NO_ORIGIN", where)
        if number is None:
            return None, ("NO_ORIGIN", _no_row(own.numbers[at], self.root))
        if number not in self.rejected:
            return None, ("NO_ORIGIN", f"row {number} of batch {self.root} was not rejected")
        if number in self.repeated:
            return None, ("CORRECTED_TWICE", f"{number:,}")
        known = self.rejected[number].line_occurrence
        if batch == self.root and own.occurrences[at] and _as_number(own.occurrences[at]) != known:
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
    return DamagedRow(number, code, CATALOGUE[code].message.format(value=why, column=""), text)


def _as_findings(faults: list[tuple[int, str, str]]) -> pa.Table | None:
    tables = []
    for code in sorted({code for _, code, _ in faults}):
        found = [(number, value) for number, named, value in faults if named == code]
        numbers = pa.array([number for number, _ in found], pa.int64())
        tables.append(row_findings(code, None, numbers, values=pa.array([value for _, value in found])))
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
