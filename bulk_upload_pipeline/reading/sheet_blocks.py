"""The cells of a spreadsheet's sheets, some thousand rows at a time, whatever kind of file it is.

XLSX comes in parts of bounded size (`sheet_parts`); its errors, percentages and whatever else the reader of its
values does not tell are looked up in the XML (`beside_values`). The other kinds are read whole, as far as
`whole_sheets` lets them; `xls`, `xlsb` and `ods` know their errors and what they show.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bulk_upload_pipeline import scratch
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.reading.beside_values import BesideValues
from bulk_upload_pipeline.reading.figures import figure
from bulk_upload_pipeline.reading.ods import ods_as_shown
from bulk_upload_pipeline.reading.sheet_cutter import Merged
from bulk_upload_pipeline.reading.sheet_parts import PARTS_AT_ONCE, XlsxParts
from bulk_upload_pipeline.reading.sheet_trial import refuse_fatal
from bulk_upload_pipeline.reading.whole_sheets import Beside
from bulk_upload_pipeline.reading.xls import xls_beside
from bulk_upload_pipeline.reading.xlsb import xlsb_beside
from bulk_upload_pipeline.recognising.unpack import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from python_calamine import CalamineSheet

    from bulk_upload_pipeline.reading.beside_values import Told
    from bulk_upload_pipeline.reading.number_formats import Shown
    from bulk_upload_pipeline.reading.sheet_cutter import Part

_ROWS_AT_ONCE = 5_000


class Block(NamedTuple):
    """Some rows of a sheet.

    Attributes:
        row: Number of the first, from 1 as the spreadsheet shows it.
        left: Number of the first column, from 0.
        rows: Values; as many in each row.
    """

    row: int
    left: int
    rows: list[list[Any]]

    def texts(self) -> dict[int, list[str]]:
        """Return the rows with any value as text, from the sheet's first column on, by their numbers."""
        before = [""] * self.left
        texts = ([*before, *(cell_text(value) or "" for value in row)] for row in self.rows)
        return {self.row + at: row for at, row in enumerate(texts) if any(row)}


class Ends(NamedTuple):
    """The first rows of a sheet, None for one that is empty, the last ones, and the cells merged in the first."""

    first: Block | None
    last: list[Block]
    merged: list[Merged]


class Book(Protocol):
    """A spreadsheet file that is open."""

    def names(self) -> list[str]:
        """Return the names of the sheets that a person sees."""

    def hidden(self) -> list[str]:
        """Return the names of those that nobody sees."""

    def blocks(self, name: str) -> Iterator[Block]:
        """Yield the rows of a sheet in their order; blank ones may be missing."""

    def ends(self, name: str, rows: int) -> Ends:
        """Return the first and the last rows of a sheet."""

    @property
    def serials_are_days(self) -> bool:
        """Return whether plain numbers in a column of dates count the days as Excel does."""


@contextmanager
def open_book(
    path: Path, file_format: str, compression: str | None, member: str | None, *, tried: bool = True
) -> Iterator[Book]:
    """Open a spreadsheet.

    Args:
        path: The file as it came.
        file_format: Of the spreadsheet.
        compression: How it is packed.
        member: Name of the spreadsheet inside a zip.
        tried: Whether it was opened before, and nobody has to fear for this process.

    Raises:
        UnreadableError: It is damaged, protected by a password, or refused.
    """
    with unpacked(path, compression, member) as content:
        if file_format == "xlsx":
            with XlsxParts(content) as parts:
                yield _PartedBook(parts)
        else:
            with scratch.folder("sheets") as folder:
                yield _WholeBook(content, file_format, folder, tried=tried)


@contextmanager
def _faults_as_findings() -> Iterator[None]:
    import python_calamine as calamine

    try:
        yield
    except calamine.PasswordError:
        raise UnreadableError(file_finding("PASSWORD_PROTECTED")) from None
    except (calamine.CalamineError, OSError) as error:
        raise UnreadableError(
            file_finding("DAMAGED_FILE", f"the spreadsheet cannot be read ({error})")
        ) from None


class _Laid(NamedTuple):
    """A part in the workbook: the number of its first row less 1 (or 1), and what its XML tells beside the values."""

    offset: int
    told: Told


class _PartedBook:
    """An XLSX file."""

    def __init__(self, parts: XlsxParts) -> None:
        self._parts = parts
        self._sheets = {sheet.name: sheet for sheet in parts.sheets}
        self._beside = BesideValues(parts.styles_shown)

    def names(self) -> list[str]:
        return [name for name, sheet in self._sheets.items() if sheet.is_visible]

    def hidden(self) -> list[str]:
        return [name for name, sheet in self._sheets.items() if not sheet.is_visible]

    def blocks(self, name: str) -> Iterator[Block]:
        parts = self._parts.parts(self._sheets[name])
        while laid := self._laid(islice(parts, PARTS_AT_ONCE)):
            yield from filter(None, self._read(laid))

    def ends(self, name: str, rows: int) -> Ends:
        first, last, merged = self._parts.ends(self._sheets[name], rows)
        if first is None:
            return Ends(None, [], [])
        last = last[1 - PARTS_AT_ONCE :]
        top, *bottom = self._read(self._laid([first, *last]))
        pairs = zip(bottom, last, strict=True)
        return Ends(top, [block or Block(part.first_row, 0, []) for block, part in pairs], merged)

    @property
    def serials_are_days(self) -> bool:
        return not self._parts.starts_in_1904

    def _laid(self, parts: Iterable[Part]) -> list[_Laid]:
        """Lay parts into a workbook; return what their XML tells, since it is not kept."""
        return [
            _Laid(1 if part.numbered else part.first_row, self._beside.told(part))
            for part in self._parts.laid(parts)
        ]

    def _read(self, laid: list[_Laid]) -> Iterator[Block | None]:
        """Yield the values of parts that are laid into the workbook; None for one without any."""
        from python_calamine import CalamineWorkbook

        with _faults_as_findings():
            workbook = CalamineWorkbook.from_path(self._parts.workbook)
        with workbook:
            for number, (offset, told) in enumerate(laid, start=1):
                with _faults_as_findings():
                    found = workbook.get_sheet_by_name(str(number))
                    start = found.start
                    rows = [] if start is None else found.to_python(skip_empty_area=True)
                del found
                row, left = start or (0, 0)
                yield _with_told(Block(row + offset, left, rows), told)


def _with_told(block: Block, told: Told) -> Block | None:
    """Lay what the file tells of cells over their values."""
    if told:
        block = _grown(block, [place for place, text in told.items() if isinstance(text, str)])
        for (row, column), text in told.items():
            cells = block.rows[row - block.row] if 0 <= row - block.row < len(block.rows) else []
            at = column - block.left
            if 0 <= at < len(cells):
                cells[at] = text if isinstance(text, str) else _shown(text, cells[at])
    return block if block.rows else None


def _shown(shown: Shown, value: Any) -> Any:
    return shown(float(value)) if type(value) in (int, float) else value


def _grown(block: Block, places: list[tuple[int, int]]) -> Block:
    """Return the block with room for these places."""
    if not places:
        return block
    tops, lefts = [row for row, _ in places], [column for _, column in places]
    width = len(block.rows[0]) if block.rows else 0
    row = min(block.row, *tops) if block.rows else min(tops)
    left = min(block.left, *lefts) if block.rows else min(lefts)
    last = max(block.row + len(block.rows) - 1, *tops) if block.rows else max(tops)
    right = max(block.left + width - 1, *lefts) if block.rows else max(lefts)
    if (row, left, last - row + 1, right - left + 1) == (block.row, block.left, len(block.rows), width):
        return block
    before, behind = [""] * (block.left - left if block.rows else 0), block.left + width - 1
    rows = [[""] * (right - left + 1) for _ in range(row, last + 1)]
    for at, values in enumerate(block.rows, start=block.row - row):
        rows[at] = [*before, *values, *[""] * (right - behind)]
    return Block(row, left, rows)


class _WholeBook:
    """An XLS, XLSB or ODS file, of which a sheet is read as a whole."""

    def __init__(self, path: Path, file_format: str, folder: Path, *, tried: bool) -> None:
        from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

        beside = Beside({}, starts_in_1904=False)
        if file_format == "xls":
            beside = xls_beside(path)
        elif file_format == "xlsb":
            beside = xlsb_beside(path)
        else:
            path = ods_as_shown(path, folder / "content.ods")
        if not tried:
            refuse_fatal(path)
        with _faults_as_findings():
            self._workbook = CalamineWorkbook.from_path(path)
        self._beside = beside
        sheets = [sheet for sheet in self._workbook.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
        self._names = [sheet.name for sheet in sheets if sheet.visible == SheetVisibleEnum.Visible]
        self._hidden = [sheet.name for sheet in sheets if sheet.visible != SheetVisibleEnum.Visible]

    def names(self) -> list[str]:
        return self._names

    def hidden(self) -> list[str]:
        return self._hidden

    def blocks(self, name: str) -> Iterator[Block]:
        return self._blocks(name, self._sheet(name))

    def _blocks(self, name: str, sheet: CalamineSheet) -> Iterator[Block]:
        told = self._told(name)
        places = sorted(told)
        for block in _blocks(sheet):
            first = bisect_left(places, (block.row, 0))
            behind = bisect_left(places, (block.row + len(block.rows), 0))
            shown = _with_told(block, {place: told[place] for place in places[first:behind]})
            if shown is not None:
                yield shown

    def _told(self, name: str) -> Told:
        """Return what is told of the cells of a sheet, of which an XLS file knows the number only."""
        number = self._workbook.sheet_names.index(name)
        return self._beside.sheets.get(name, self._beside.sheets.get(number, {}))

    def ends(self, name: str, rows: int) -> Ends:
        sheet = self._sheet(name)
        first = None
        last: list[Block] = []
        for block in self._blocks(name, sheet):
            filled = [at for at, values in enumerate(block.rows) if any(value != "" for value in values)]
            if filled and first is None:
                first = Block(block.row, block.left, block.rows[: filled[min(len(filled), rows) - 1] + 1])
            if filled:
                start = filled[-min(len(filled), rows)]
                # A few rows below the edge of a block may be totals and notes of those above it.
                above = last[-1:] if len(filled) < rows else []
                last = [*above, Block(block.row + start, block.left, block.rows[start:])]
        merged = [
            Merged(top + 1, left + 1, bottom + 1, right + 1)
            for (top, left), (bottom, right) in sheet.merged_cell_ranges or ()
        ]
        return Ends(first, last, merged)

    def _sheet(self, name: str) -> CalamineSheet:
        with _faults_as_findings():
            return self._workbook.get_sheet_by_name(name)

    @property
    def serials_are_days(self) -> bool:
        return not self._beside.starts_in_1904


def _blocks(sheet: CalamineSheet) -> Iterator[Block]:
    if sheet.start is None:
        return
    row, left = 1, sheet.start[1]
    rows = sheet.iter_rows()
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        yield Block(row, left, some)
        row += len(some)


def cell_text(value: Any) -> str | None:
    """Return a value of a cell as the text that a person would write; None for an empty one."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    assert isinstance(value, timedelta)
    return str(value)
