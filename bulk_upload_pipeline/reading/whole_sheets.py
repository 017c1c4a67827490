"""What has to be known of an XLS, XLSB or ODS file before calamine reads it whole: its room, and its errors.

Calamine keeps room for every cell between the first and the last of a sheet, so that some bytes can ask for all
memory; and it returns nothing for a cell whose formula failed, which would be silence about a lost value. So the
records of the file are passed over once before.
"""

from __future__ import annotations

import re
import struct
import zipfile
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.reading.sheet_cutter import refuse_entities
from bulk_upload_pipeline.recognising.unpack import damage_as_finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_CELLS = 8_000_000
"""Cells that are held at once, filled or not: 200,000 rows of 40 columns."""

MOST_BYTES = 256 << 20
"""Bytes of a part of such a file that has to be in memory as a whole."""

_TEXTS = {
    0x00: "#NULL!",
    0x07: "#DIV/0!",
    0x0F: "#VALUE!",
    0x17: "#REF!",
    0x1D: "#NAME?",
    0x24: "#NUM!",
    0x2A: "#N/A",
    0x2B: "#GETTING_DATA",
}
_PLACE = struct.Struct("<HH")
_WIDE_PLACE = struct.Struct("<I")

Errors = dict[tuple[int, int], str]
"""Texts of the cells that show an error, by row (from 1) and column (from 0)."""


class _Extent:
    """The cells between the first and the last of a sheet."""

    def __init__(self) -> None:
        self.top = self.left = 1 << 30
        self.bottom = self.right = -1

    def grow(self, row: int, left: int, right: int) -> None:
        self.top, self.bottom = min(self.top, row), max(self.bottom, row)
        self.left, self.right = min(self.left, left), max(self.right, right)

    @property
    def cells(self) -> int:
        return max(0, self.bottom - self.top + 1) * max(0, self.right - self.left + 1)


def refuse_room(cells: int) -> None:
    """Stop where a sheet asks for more memory than its reading may take.

    Raises:
        UnreadableError: `TOO_LARGE_INSIDE`.
    """
    if cells > MOST_CELLS:
        raise UnreadableError(
            file_finding(
                "TOO_LARGE_INSIDE",
                f"its sheets have room for {cells:,} cells, and a file of this kind is read whole, up to "
                f"{MOST_CELLS:,}; saved as XLSX or CSV it is read in parts",
            )
        )


# XLS


def xls_errors(path: Path) -> list[Errors]:
    """Return the errors of each sheet of an XLS file, in the order of its sheets.

    Raises:
        UnreadableError: It is damaged, or its sheets ask for too much room.
    """
    stream = _workbook_stream(path)
    starts = [
        struct.unpack_from("<I", content)[0]
        for kind, content in _biff(stream, 0)
        if kind == 0x0085 and len(content) >= 4
    ]
    errors, cells = [], 0
    for start in starts:
        extent, found = _Extent(), {}
        for kind, content in _biff(stream, start):
            if kind not in _XLS_CELLS or len(content) < 6:
                continue
            row, column = _PLACE.unpack_from(content)
            last = _PLACE.unpack_from(content, len(content) - 4)[1] if kind in _XLS_RUNS else column
            extent.grow(row, column, last)
            if kind == 0x0205 and len(content) >= 8 and content[7] == 1:
                found[row + 1, column] = _TEXTS.get(content[6], "#VALUE!")
            elif kind == 0x0006 and content[12:14] == b"\xff\xff" and content[6] == 2:
                found[row + 1, column] = _TEXTS.get(content[8], "#VALUE!")
        cells += extent.cells
        refuse_room(cells)
        errors.append(found)
    return errors


_XLS_CELLS = frozenset({0x0006, 0x0203, 0x0204, 0x0205, 0x00FD, 0x027E, 0x00BD, 0x00D6})
_XLS_RUNS = frozenset({0x00BD})
"""Records of several cells, which end with the number of the last column."""


def _workbook_stream(path: Path) -> bytes:
    import olefile

    if path.stat().st_size > MOST_BYTES:
        raise _too_large()
    try:
        with olefile.OleFileIO(path) as file:
            name = next((name for name in ("Workbook", "Book") if file.exists(name)), None)
            return b"" if name is None else file.openstream(name).read()
    except (OSError, struct.error, IndexError, ValueError, TypeError) as error:
        raise _damaged(f"the spreadsheet cannot be read ({error})") from None


def _biff(stream: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of the records of one sheet (or of what stands above all), without charts in it."""
    depth = 0
    while at + 4 <= len(stream):
        kind, size = _PLACE.unpack_from(stream, at)
        at += 4
        if kind in (0x0809, 0x0409, 0x0209, 0x0009):
            depth += 1
        elif kind == 0x000A:
            depth -= 1
            if depth <= 0:
                return
        elif depth == 1:
            yield kind, stream[at : at + size]
        at += size


# XLSB


def xlsb_errors(path: Path) -> dict[str, Errors]:
    """Return the errors of each sheet of an XLSB file, by the names of its sheets.

    Raises:
        UnreadableError: It is damaged, or one of its sheets asks for too much room.
    """
    with damage_as_finding(), zipfile.ZipFile(path) as archive:
        names = {name.lower().replace("\\", "/"): name for name in archive.namelist()}
        for name in ("xl/sharedstrings.bin", "xl/styles.bin"):
            if name in names and archive.getinfo(names[name]).file_size > MOST_BYTES:
                raise _too_large()
        return {sheet: _xlsb_sheet(_part(archive, part)) for sheet, part in _xlsb_sheets(archive, names)}


def _xlsb_sheets(archive: zipfile.ZipFile, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    links = _part(archive, names.get("xl/_rels/workbook.bin.rels", ""))
    refuse_entities(links)
    try:
        # Entities, by which XML can grow without bounds, are refused before it is parsed.
        tree = ElementTree.fromstring(links)  # noqa: S314
    except ElementTree.ParseError:
        raise _damaged("its part xl/_rels/workbook.bin.rels is no XML") from None
    targets = {link.get("Id"): link.get("Target", "").lower() for link in tree}
    for kind, content in _records(_part(archive, names.get("xl/workbook.bin", ""))):
        if kind == 156:
            link, at = _wide(content, 8)
            target = targets.get(link, "")
            part = names.get(target.lstrip("/") if target.startswith("/") else f"xl/{target}")
            if part is not None and "worksheets/" in target:
                yield _wide(content, at)[0], part


def _xlsb_sheet(content: bytes) -> Errors:
    found: Errors = {}
    extent, row = _Extent(), 0
    for kind, record in _records(content):
        if kind == 0 and len(record) >= 4:
            (row,) = _WIDE_PLACE.unpack_from(record)
        elif 1 <= kind <= 11 and len(record) >= 8:
            (column,) = _WIDE_PLACE.unpack_from(record)
            extent.grow(row, column, column)
            if kind in (3, 11) and len(record) >= 9:
                found[row + 1, column] = _TEXTS.get(record[8], "#VALUE!")
    refuse_room(extent.cells)
    return found


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise _damaged("a part of it is missing")
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _too_large()
    return content


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(content)
    try:
        while at < end:
            kind = content[at]
            at += 1
            if kind & 0x80:
                kind = kind & 0x7F | content[at] << 7
                at += 1
            size = shift = 0
            while True:
                byte = content[at]
                at += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80 or shift > 21:
                    break
            yield kind, content[at : at + size]
            at += size
    except IndexError:
        raise _damaged("a part of it ends too early") from None


def _wide(content: bytes, at: int) -> tuple[str, int]:
    """Return a text that is preceded by its length, and where it ends."""
    size = _WIDE_PLACE.unpack_from(content, at)[0] if at + 4 <= len(content) else 0
    end = at + 4 + (0 if size == 0xFFFFFFFF else 2 * size)
    return content[at + 4 : end].decode("utf-16-le", "replace"), end


# ODS


class _OdsRow(NamedTuple):
    times: int
    width: int


_ROW_TIMES = re.compile(rb"""<table:table-row\b[^>]*number-rows-repeated=["'](\d{1,9})["']""")
_CELL_TIMES = re.compile(
    rb"""<table:(?:covered-)?table-cell\b[^>]*number-columns-repeated=["'](\d{1,9})["']"""
)
_ERROR = re.compile(rb"""<table:table-cell\b[^>]*\bcalcext:value-type=["']error["'][^>]*>""")
_NO_TEXT = re.compile(rb"""\soffice:string-value=["'][^"']*["']""")
_ERROR_MARK = re.compile(rb"""calcext:value-type=["']error["']""")
_BLOCK = 1 << 20


def ods_with_errors(path: Path, target: Path) -> Path:
    """Return an ODS file in which cells that show an error have its text as their value: `path` if there is none.

    Args:
        path: The file.
        target: Where it is written otherwise.

    Raises:
        UnreadableError: It is damaged, or its sheets ask for too much room.
    """
    with damage_as_finding(), zipfile.ZipFile(path) as source:
        if "content.xml" not in source.namelist():
            raise _damaged("its part content.xml is missing")
        errors = False
        extent, cells, row = _Extent(), 0, 0
        for piece in _pieces(source):
            errors = errors or _ERROR_MARK.search(piece) is not None
            if b"<table:table " in piece or b"<table:table>" in piece:
                cells, row, extent = cells + extent.cells, 0, _Extent()
            times, width = _ods_row(piece)
            if width:
                extent.grow(0, 0, width - 1)
                extent.grow(row + times - 1, 0, width - 1)
            row += times
            refuse_room(cells + extent.cells)
        if not errors:
            return path
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as copy:
            for name in ("mimetype", "META-INF/manifest.xml", "styles.xml"):
                if name in source.namelist():
                    copy.writestr(name, _part(source, name))
            with copy.open("content.xml", "w") as file:
                for piece in _pieces(source):
                    file.write(_ERROR.sub(lambda tag: _NO_TEXT.sub(b"", tag[0]), piece))
        return target


def _pieces(source: zipfile.ZipFile) -> Iterator[bytes]:
    """Yield the XML of the sheets row by row."""
    pending = b""
    first = True
    with source.open("content.xml") as stream:
        while block := stream.read(_BLOCK):
            if first:
                refuse_entities(block)
                first = False
            *rows, pending = (pending + block).split(b"</table:table-row>")
            yield from (row + b"</table:table-row>" for row in rows)
            if len(pending) > MOST_BYTES >> 3:
                raise _too_large()
    yield pending


def _ods_row(piece: bytes) -> _OdsRow:
    """Return how often a row stands there, and how wide it is up to its last cell with a value."""
    last = max(piece.rfind(b"office:value-type"), piece.rfind(b"<text:p"))
    found = _ROW_TIMES.search(piece)
    times = int(found[1]) if found else 1
    if last < 0:
        return _OdsRow(times, 0)
    end = piece.find(b">", last)
    cells = piece[: end if end >= 0 else len(piece)]
    width = cells.count(b"<table:table-cell") + cells.count(b"<table:covered-table-cell")
    if b"columns-repeated" in cells:
        width += sum(int(times) - 1 for times in _CELL_TIMES.findall(cells))
    return _OdsRow(times, width)


def _too_large() -> UnreadableError:
    return UnreadableError(
        file_finding(
            "TOO_LARGE_INSIDE",
            f"a file of this kind is read whole, up to {MOST_BYTES >> 20} MB of its content; saved as XLSX or CSV "
            "it is read in parts",
        )
    )


def _damaged(what: str) -> UnreadableError:
    return UnreadableError(file_finding("DAMAGED_FILE", what))
