"""Delimited text (CSV and its kin) as chunks of records: in blocks, so that memory does not grow with the file.

The good path is Arrow's reader on some megabytes at a time. Lines that it cannot lay over the header are
split one by one; those that fit no header come out as damaged rows with their line number and text.
"""

from __future__ import annotations

import codecs
import csv
import string
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from bulk_upload_pipeline.findings import message_of
from bulk_upload_pipeline.model import DamagedRow
from bulk_upload_pipeline.reading.chunking import LONGEST_RAW_TEXT, Piece, in_chunks
from bulk_upload_pipeline.reading.fragments import counted_stretches, filled_records
from bulk_upload_pipeline.reading.parts import PartStream, bytes_in_file
from bulk_upload_pipeline.reading.records import (
    count_lines,
    fits,
    line_starts,
    next_line,
    record_starts,
    splitter,
    starts_outside,
)
from bulk_upload_pipeline.reading.stretches import stretches
from bulk_upload_pipeline.recognising.dialects import STAND_IN, behind_header, with_stand_in
from bulk_upload_pipeline.recognising.encodings import utf8_blocks
from bulk_upload_pipeline.recognising.unpack import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.reading.parts import Part
    from bulk_upload_pipeline.reading.records import Record
    from bulk_upload_pipeline.reading.stretches import Stretch


def read_delimited(path: Path, layout: Layout, chunk_rows: int) -> Iterator[TextChunk]:
    """Yield the records of a delimited text in file order, `chunk_rows` at a time.

    Raises:
        UnreadableError: A line is longer than any record, most rows are fragments, or the packed file is damaged.
    """
    assert layout.encoding is not None
    assert layout.delimiter is not None
    with opened(path, layout.compression, layout.member) as stream:
        blocks = with_stand_in(utf8_blocks(stream, layout.encoding), layout.delimiter)
        delimiter = layout.delimiter if layout.delimiter.isascii() else STAND_IN
        line, below = behind_header(blocks, delimiter, layout.skip_rows)
        reader = _Reader(delimiter, layout.delimiter, len(layout.header))
        cut = stretches(below, delimiter, reader.columns, line=line)
        counted = counted_stretches(cut, delimiter, reader.columns)
        yield from in_chunks((reader.read(stretch) for stretch in counted), chunk_rows)


def read_part(path: Path, layout: Layout, part: Part, chunk_rows: int) -> Iterator[TextChunk]:
    """Yield the records of one part of a delimited text, `chunk_rows` at a time, numbered from 1."""
    assert layout.encoding is not None
    assert layout.delimiter is not None
    reader = _Reader(layout.delimiter, layout.delimiter, len(layout.header))
    with path.open("rb") as file:
        blocks = utf8_blocks(PartStream(file, part), layout.encoding, from_start=False)
        cut = stretches(blocks, layout.delimiter, reader.columns, line=part.line)
        yield from in_chunks((reader.read(stretch) for stretch in _within(cut, layout, part)), chunk_rows)


def _within(cut: Iterator[Stretch], layout: Layout, part: Part) -> Iterator[Stretch]:
    """Yield stretches up to the end of a part: it is read on behind it, since so it is cut as planned."""
    assert layout.encoding is not None
    at = part.start
    while at < part.end and (stretch := next(cut, None)):
        yield stretch
        at += bytes_in_file(stretch.data, layout.encoding)


class _Rows(NamedTuple):
    """Rows of a stretch, and where the record of each begins (int64), or else what orders them like it."""

    cells: pa.Table
    starts: np.ndarray


class _Damage(NamedTuple):
    """A record that fits no header; `cells` is None where a quotation mark makes them untellable."""

    start: int
    cells: int | None
    text: str


class _Odd(NamedTuple):
    """A record that Arrow did not take: its place among the records, its number of cells, its text."""

    at: int
    cells: int
    text: str


class _Reader:
    """Reads the stretches of one file, in order."""

    def __init__(self, delimiter: str, shown: str, columns: int) -> None:
        self.columns = columns
        self._delimiter, self._shown = delimiter, shown
        self._between = string.whitespace + delimiter
        self._names = [str(at) for at in range(columns)]
        # Cells that most records have: more than columns where lines end with a delimiter too many.
        self._width = columns
        self._records = 0

    def read(self, stretch: Stretch) -> Piece:
        """Return the records of a stretch, numbered through the file."""
        rows, damage = self._split(stretch)
        rows = _without_blank(rows)
        order = np.sort(np.concatenate((rows.starts, np.array([d.start for d in damage], np.int64))))
        numbers = self._records + 1 + np.searchsorted(order, rows.starts)
        damaged = self._damaged(stretch, damage, order) if damage else ()
        self._records += len(order)
        return Piece(self._shown_cells(rows.cells), numbers, damaged, stretch.bytes_done)

    def _shown_cells(self, cells: pa.Table) -> pa.Table:
        """Return cells in which a quoted delimiter is the one of the file again."""
        if self._delimiter == self._shown:
            return cells
        shown = [pc.replace_substring(column, self._delimiter, self._shown) for column in cells.columns]
        return pa.table(shown, cells.column_names)

    def _split(self, stretch: Stretch) -> tuple[_Rows, list[_Damage]]:
        if stretch.apart is not None:
            return self._split_apart(stretch.data, stretch.apart)
        filled = filled_records(stretch.data, stretch.lines, self._delimiter, self.columns)
        table, odd = self._parse(filled.data)
        # Where records begin matters only beside others that Arrow did not take; else their order is enough.
        starts = filled.of(record_starts(stretch.data)) if odd else np.arange(table.num_rows)
        return self._settled(table, starts, odd)

    def _split_apart(self, data: bytes, apart: tuple[Record, ...]) -> tuple[_Rows, list[_Damage]]:
        """Read the lines between the records that were split apart, and put those back in their places."""
        spans = [(record.start, next_line(data, record.end)) for record in apart]
        between = zip(
            [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(data)], strict=True
        )
        plain = b"".join(data[start:end] for start, end in between)
        filled = filled_records(plain, count_lines(plain), self._delimiter, self.columns)
        table, odd = self._parse(filled.data, quoting=False)
        rows, damage = self._settled(table, filled.of(starts_outside(data, spans)), odd)
        good = [one for one in apart if one.cells is not None and fits(one.cells, self.columns)]
        damage += [
            _Damage(
                one.start, None if one.cells is None else len(one.cells), data[one.start : one.end].decode()
            )
            for one in apart
            if one.cells is None
            or (not fits(one.cells, self.columns) and any(cell.strip() for cell in one.cells))
        ]
        cells = [[cell.decode() for cell in one.cells or ()] for one in good]
        return self._with(rows, cells, [one.start for one in good]), damage

    def _settled(self, table: pa.Table, starts: np.ndarray, odd: list[_Odd]) -> tuple[_Rows, list[_Damage]]:
        """Tell apart what Arrow did not take: records with empty cells too many are sound."""
        if not odd:
            return _Rows(table, starts), []
        rows = _Rows(table, np.delete(starts, [one.at for one in odd]))
        good: list[list[str]] = []
        places: list[int] = []
        damage: list[_Damage] = []
        for one, start in zip(odd, starts[[one.at for one in odd]].tolist(), strict=True):
            if one.cells < self.columns and '"' not in one.text:
                sound, blank = False, not one.text.strip(self._between)
            else:
                cells = self._cells_of(one.text)
                sound = fits(cells, self.columns)
                blank = not any(cell.strip(string.whitespace) for cell in cells)
            if sound:
                good.append(cells)
                places.append(start)
            elif not blank:
                damage.append(_Damage(start, one.cells, one.text))
        return self._with(rows, good, places), damage

    def _cells_of(self, record: str) -> list[str]:
        """Return the cells of a record that Arrow did not take."""
        try:
            return next(csv.reader([record], delimiter=self._delimiter, strict=True))
        except (csv.Error, StopIteration):
            cells = splitter(self._delimiter).split(record.encode(), 0).cells
            return [cell.decode() for cell in cells or ()]

    def _with(self, rows: _Rows, records: list[list[str]], starts: list[int]) -> _Rows:
        """Return rows with further records in their places."""
        if not records:
            return rows
        columns = zip(*(record[: self.columns] for record in records), strict=True)
        texts = [pa.array([cell or None for cell in column], pa.string()) for column in columns]
        table = pa.concat_tables([rows.cells, pa.table(texts, self._names)])
        places = np.concatenate((rows.starts, np.array(starts, np.int64)))
        order = np.argsort(places)
        return _Rows(table.take(pa.array(order)), places[order])

    def _parse(self, data: bytes, *, quoting: bool = True) -> tuple[pa.Table, list[_Odd]]:
        """Read records of which every quotation mark is in its place."""
        table, odd = self._arrow(data, self._width, quoting=quoting)
        if len(odd) > table.num_rows:
            usual = Counter(one.cells for one in odd).most_common(1)[0][0]
            if usual >= self.columns and usual != self._width:
                self._width = usual
                table, odd = self._arrow(data, usual, quoting=quoting)
        if any(column.null_count < len(column) for column in table.columns[self.columns :]):
            # Something stands where nothing should: these records have to be told one from another.
            table, odd = self._arrow(data, self.columns, quoting=quoting)
        return table.select(self._names), odd

    def _arrow(self, data: bytes, width: int, *, quoting: bool) -> tuple[pa.Table, list[_Odd]]:
        odd: list[_Odd] = []

        def keep(row: Any) -> str:
            odd.append(_Odd(row.number - 1, row.actual_columns, row.text))
            return "skip"

        names = [str(at) for at in range(width)]
        if not data.lstrip(b"\r\n"):
            return pa.table([pa.nulls(0, pa.string())] * width, names), odd
        # Arrow drops a byte-order mark at the start of what it is given, which is the middle of the text.
        data = codecs.BOM_UTF8 + data if data.startswith(codecs.BOM_UTF8) else data
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            pyarrow.csv.ParseOptions(
                delimiter=self._delimiter,
                quote_char='"' if quoting else False,
                newlines_in_values=quoting,
                invalid_row_handler=keep,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
                check_utf8=False,  # `utf8_blocks` has written it, and no character is cut
            ),
        )
        return table, odd

    def _damaged(self, stretch: Stretch, damage: list[_Damage], order: np.ndarray) -> tuple[DamagedRow, ...]:
        """Return the damaged records in file order, with their numbers and physical lines."""
        damage = sorted(damage, key=lambda one: one.start)
        starts = np.array([one.start for one in damage], np.int64)
        numbers = self._records + 1 + np.searchsorted(order, starts)
        lines = stretch.line + np.searchsorted(line_starts(stretch.data), starts, side="right") - 1
        placed = zip(damage, numbers.tolist(), lines.tolist(), strict=True)
        return tuple(self._damaged_row(one, number, line) for one, number, line in placed)

    def _damaged_row(self, damage: _Damage, number: int, line: int) -> DamagedRow:
        text = damage.text.replace(self._delimiter, self._shown)
        if damage.cells is None:
            code, why = "UNCLOSED_QUOTE", "has a quotation mark whose partner is missing or misplaced"
        else:
            code = "WRONG_FIELD_COUNT"
            cells = "1 cell" if damage.cells == 1 else f"{damage.cells:,} cells"
            why = f"has {cells}, but the header has {self.columns:,}"
        message = message_of(code, f"Line {line:,} of the file {why}")
        return DamagedRow(number, code, message, text[:LONGEST_RAW_TEXT])


def _without_blank(rows: _Rows) -> _Rows:
    """Leave out records without a single character in any cell, as spreadsheets write below their data."""
    blank: pa.ChunkedArray | None = None
    for column in rows.cells.columns:
        if column.null_count == 0:
            return rows
        empty = pc.is_null(column)
        blank = empty if blank is None else pc.and_(blank, empty)
    if blank is None or not pc.any(blank).as_py():
        return rows
    keep = pc.invert(blank)
    return _Rows(rows.cells.filter(keep), rows.starts[keep.to_numpy()])
