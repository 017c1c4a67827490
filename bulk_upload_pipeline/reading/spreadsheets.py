"""Spreadsheets: which sheets hold the records, where the header stands and what is no record; and their rows.

Rows are numbered as they stand: the first row below the header is 1, blank rows count, and the numbers go on
from one sheet to the next. So `Layout.place` finds the sheet and the row of each record again.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding, message_of
from bulk_upload_pipeline.model import DamagedRow, Sheet
from bulk_upload_pipeline.origin import ROW_NUMBER
from bulk_upload_pipeline.parsing.cells import BLANKS
from bulk_upload_pipeline.profiles import normalised
from bulk_upload_pipeline.reading.chunking import LONGEST_RAW_TEXT, Piece, in_chunks
from bulk_upload_pipeline.reading.figures import texts_of
from bulk_upload_pipeline.reading.fragments import counted_pieces
from bulk_upload_pipeline.reading.sheet_blocks import cell_text, open_book
from bulk_upload_pipeline.recognising.dialects import TOP_RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.reading.sheet_blocks import Block, Book
    from bulk_upload_pipeline.reading.sheet_cutter import Merged
    from bulk_upload_pipeline.recognising.formats import Identified
    from bulk_upload_pipeline.recognising.headers import Header, HeaderFinder

_TOTAL = re.compile(
    r"\W*(?:(?:grand|sub|net|page|overall)[\s-]*)?(?:totals?|sum|gesamt|summe)\b", re.IGNORECASE
)
_ONLY_TOTAL = re.compile(_TOTAL.pattern + r"\W*", re.IGNORECASE)
_LONGEST_NOTE = 200


class Recognised(NamedTuple):
    """What a spreadsheet turned out to be; see `Layout` for the attributes."""

    header: Header
    sheets: tuple[Sheet, ...]
    left_out: tuple[str, ...]
    unread_sheets: tuple[str, ...]
    excel_serials: bool


class _Top(NamedTuple):
    """The first rows of a sheet as text, with merged headers laid out; the number of each in the sheet."""

    name: str
    numbers: list[int]
    rows: list[list[str]]
    merged: list[Merged]
    bottom: dict[int, list[str]]
    above: int
    """The row above all those that `bottom` tells of."""

    @property
    def last_row(self) -> int:
        """Return the last row with a value. Where none of `bottom` has one, it is one of those above."""
        return max(self.bottom, default=self.above)

    def header_row(self, at: int, finder: HeaderFinder) -> int:
        """Return the last row of the header of which row `at` of the first rows is a part.

        Merged cells beside a table, such as a note, may begin in its header and end among its records.
        """
        number = self.numbers[at]
        bottom = max([number, *(m.bottom for m in self.merged if m.top <= number < m.bottom)])
        below = zip(self.numbers[at + 1 :], self.rows[at + 1 :], strict=True)
        others = (row - 1 for row, cells in below if finder.known(cells) < 2)
        return min(bottom, next(others, bottom))


def recognise_sheets(
    path: Path, identified: Identified, finder: HeaderFinder, wanted: str | None
) -> Recognised:
    """Find the sheets that hold the records: the one with most known column names, and those laid out alike.

    Args:
        path: The file.
        identified: Its format.
        finder: Knows the names of columns.
        wanted: The only sheet to look at, where somebody stated one.

    Raises:
        UnreadableError: No sheet has a header, or the file is damaged or refused.
    """
    packing = identified.compression, identified.member
    with open_book(path, identified.file_format, *packing, tried=False) as book:
        names = [name for name in book.names() if wanted in (None, name)]
        if not names:
            what = "it has no sheet" if wanted is None else f"it has no sheet named {wanted!r}"
            raise UnreadableError(file_finding("NOT_A_TABLE", what))
        tops = [_top(book, name, finder) for name in names]
        best = max(tops, key=lambda top: _names_and_rows(top, finder))
        header = finder.find(best.rows)
        sheets: list[Sheet] = []
        left_out: list[str] = []
        unread: list[str] = []
        for top in tops:
            at = header.at if top is best else _same_header(top, header, finder)
            if at is not None:
                sheet, notes = _sheet(top, top.header_row(at, finder), header)
                sheets.append(sheet)
                left_out += notes
            elif top.rows:
                unread.append(_in_short(top, finder))
        if all(sheet.last_row == sheet.header_row for sheet in sheets):
            raise UnreadableError(file_finding("NO_DATA_ROWS"))
        if wanted is None:
            unread += _hidden(book, finder)
        return Recognised(header, tuple(sheets), tuple(left_out), tuple(unread), book.serials_are_days)


def _names_and_rows(top: _Top, finder: HeaderFinder) -> tuple[int, bool]:
    """Return how many names of columns stand in the header of a sheet, and whether anything stands below it."""
    known = [finder.known(row) for row in top.rows]
    most = max(known, default=-1)
    return most, bool(known) and top.last_row > top.numbers[known.index(most)]


def _same_header(top: _Top, header: Header, finder: HeaderFinder) -> int | None:
    try:
        found = finder.find(top.rows)
    except UnreadableError:
        return None
    return found.at if _alike(found) == _alike(header) else None


def _alike(header: Header) -> list[str]:
    """Return the names of a header without what may differ from sheet to sheet; unknown ones may in case only."""
    known = set(header.match.mapping.values())
    return [normalised(name) if at in known else name.casefold() for at, name in enumerate(header.names)]


def _hidden(book: Book, finder: HeaderFinder) -> Iterator[str]:
    """Yield the hidden sheets that may hold records; lists to choose from, which are often hidden, do not."""
    for name in book.hidden():
        with suppress(UnreadableError):
            top = _top(book, name, finder)
            if max(map(finder.known, top.rows), default=0) > 1:
                yield _in_short(top, finder, "hidden, ")


def _in_short(top: _Top, finder: HeaderFinder, how: str = "") -> str:
    """Return the name of a sheet, and how many rows it has below its header."""
    best = max(range(len(top.rows)), key=lambda at: (finder.known(top.rows[at]), -at))
    above = top.header_row(best, finder) if finder.known(top.rows[best]) > 1 else top.numbers[0] - 1
    rows = max(0, top.last_row - above)
    return f"{top.name} ({how}{rows:,} {'row' if rows == 1 else 'rows'})"


def _top(book: Book, name: str, finder: HeaderFinder) -> _Top:
    first, last, merged = book.ends(name, TOP_RECORDS)
    if first is None:
        return _Top(name, [], [], [], {}, 0)
    texts = first.texts()
    merged = [cell for cell in merged if cell.top <= max(texts, default=0)]
    numbers = sorted(texts)
    _lay_out(texts, merged, finder)
    bottom = {number: row for block in last for number, row in block.texts().items()}
    above = min((block.row for block in last), default=1) - 1
    return _Top(name, numbers, [texts[number] for number in numbers], merged, bottom, above)


def _lay_out(texts: dict[int, list[str]], merged: list[Merged], finder: HeaderFinder) -> None:
    """Give each column its own name where cells of the header are merged.

    A cell over several rows counts for each of them. A cell over several columns goes before the names below
    it where that makes a name that is known: `City` below `Billing` is `Billing City`.
    """
    for cell in merged:
        if cell.bottom > cell.top and cell.top in texts and cell.left <= len(texts[cell.top]):
            for row in range(cell.top + 1, min(cell.bottom, cell.top + 5) + 1):
                if row in texts:
                    _put(texts[row], cell.left - 1, texts[cell.top][cell.left - 1])
    for cell in merged:
        below = texts.get(cell.bottom + 1)
        if cell.right > cell.left and below is not None and cell.top in texts:
            for column in range(cell.left - 1, min(cell.right, len(below))):
                joined = f"{texts[cell.top][cell.left - 1]} {below[column]}"
                if below[column] and finder.known([joined]) and not finder.known([below[column]]):
                    below[column] = joined


def _put(row: list[str], column: int, text: str) -> None:
    row.extend([""] * (column + 1 - len(row)))
    row[column] = row[column] or text


def _sheet(top: _Top, header_row: int, header: Header) -> tuple[Sheet, list[str]]:
    """Return which rows of a sheet are records, and the text of those below that are none."""
    last, notes = top.last_row, []
    # What has a row number corrects that row, whatever its cells say.
    own = {ROW_NUMBER: header.names.index(ROW_NUMBER)} if ROW_NUMBER in header.names else {}
    for number in sorted(top.bottom, reverse=True):
        cells = top.bottom[number]
        if (
            number <= header_row
            or any(_cells_of(cells, own, ROW_NUMBER))
            or not _is_note(cells, header.match.mapping)
        ):
            last = number
            break
        notes.append(f"{top.name}, row {number:,}: " + " | ".join(filter(None, cells))[:_LONGEST_NOTE])
        # Above the rows that are known here there may be more.
        last = number - 1
    return Sheet(top.name, header_row, max(last, header_row)), notes[::-1]


def _is_note(cells: list[str], mapping: dict[str, int]) -> bool:
    """Return whether a row at the bottom is none of the records: a sentence, or totals of no invoice and day.

    A row with a quantity and a price may be one whose item or customer is called so: unless nothing but "Total"
    stands there, it is a record.
    """
    filled = [cell for cell in cells if cell.strip(BLANKS)]
    if len(filled) == 1 and " " in filled[0].strip(BLANKS):
        return True
    named = list(filter(None, _cells_of(cells, mapping, "invoice_number", "invoice_date")))
    labels = [cell for cell in filled if _TOTAL.match(cell)]
    if not labels or not all(map(_TOTAL.match, named)):
        return False
    is_priced = all(_cells_of(cells, mapping, "quantity", "item_price"))
    return bool(named) or not is_priced or any(map(_ONLY_TOTAL.fullmatch, labels))


def _cells_of(cells: list[str], mapping: dict[str, int], *names: str) -> list[str]:
    places = [mapping[name] for name in names if name in mapping]
    return [cells[at].strip(BLANKS) if at < len(cells) else "" for at in places]


def read_sheets(path: Path, layout: Layout, chunk_rows: int) -> Iterator[TextChunk]:
    """Yield the records of a spreadsheet in their order, `chunk_rows` row numbers at a time.

    Raises:
        UnreadableError: The file is damaged or refused.
    """
    with open_book(path, layout.file_format, layout.compression, layout.member) as book:
        pieces = _pieces(book, layout, path.stat().st_size)
        yield from in_chunks(counted_pieces(pieces), chunk_rows)


def _pieces(book: Book, layout: Layout, size: int) -> Iterator[Piece]:
    total = sum(sheet.last_row - sheet.header_row for sheet in layout.sheets) or 1
    before = 0
    for sheet in layout.sheets:
        for block in book.blocks(sheet.name):
            above = max(0, sheet.header_row + 1 - block.row)
            rows = block.rows[above : max(0, sheet.last_row + 1 - block.row)]
            if rows:
                first = before + block.row + above - sheet.header_row
                done = size * (first + len(rows)) // total
                yield _piece(block._replace(rows=rows), first, layout, done)
        before += sheet.last_row - sheet.header_row


def _piece(block: Block, first: int, layout: Layout, bytes_done: int) -> Piece:
    width = len(layout.header)
    columns = [_texts(values) for values in zip(*block.rows, strict=True)]
    nothing = pa.nulls(len(block.rows), pa.string())
    placed = [*[nothing] * block.left, *columns]
    beyond, placed = placed[width:], [*placed[:width], *[nothing] * (width - len(placed))]
    cells = pa.table(placed, [str(at) for at in range(width)])
    filled, outside = _filled(placed, len(cells)), _filled(beyond, len(cells))
    numbers = np.arange(first, first + len(cells), dtype=np.int64)
    damaged = tuple(
        _damaged(layout, int(number), block.rows[number - first]) for number in numbers[outside].tolist()
    )
    keep = filled & ~outside
    if not keep.all():
        cells, numbers = cells.filter(pa.array(keep)), numbers[keep]
    return Piece(cells, numbers, damaged, bytes_done)


def _texts(values: tuple[Any, ...]) -> pa.StringArray:
    kinds = set(map(type, values))
    if kinds == {float} and (whole := _whole_numbers(values)) is not None:
        return whole
    if kinds == {str}:
        texts = pa.array(values, pa.string())
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if bool in kinds:
        # True equals 1 and would be taken for it.
        return pa.array([cell_text(value) for value in values], pa.string())
    return texts_of(values, cell_text)


def _whole_numbers(values: tuple[float, ...]) -> pa.StringArray | None:
    """Return floats as text when all of them are whole numbers that a float holds exactly."""
    figures = np.array(values)
    if (np.abs(figures) < 2**53).all() and (figures == np.trunc(figures)).all():
        return pa.array(figures.astype(np.int64)).cast(pa.string())
    return None


def _filled(columns: list[pa.StringArray], rows: int) -> np.ndarray:
    """Return in which rows any of the columns has a value."""
    filled = np.zeros(rows, dtype=bool)
    for column in columns:
        if filled.all():
            break
        filled |= pc.is_valid(column).to_numpy(zero_copy_only=False)
    return filled


def _damaged(layout: Layout, number: int, values: list[Any]) -> DamagedRow:
    sheet, row = layout.place(number) or ("", number)
    value = f"Row {row:,} of the sheet {sheet!r} has a cell beyond the last column of the header"
    message = message_of("WRONG_FIELD_COUNT", value)
    text = "\t".join(cell_text(cell) or "" for cell in values)
    return DamagedRow(number, "WRONG_FIELD_COUNT", message, text[:LONGEST_RAW_TEXT])
