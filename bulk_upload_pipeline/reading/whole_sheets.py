"""What has to be known of an XLS, XLSB or ODS file before calamine reads it whole: its room, and what it shows.

Calamine keeps room for every cell between the first and the last of a sheet, so that some bytes can ask for all
memory; it returns nothing for a cell whose formula failed, which would be silence about a lost value, and 0.125 for
one that shows 12.5%. So the records of the file are passed over once before.
"""

from __future__ import annotations

import re
import struct
import zipfile
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.reading.figures import percentage
from bulk_upload_pipeline.reading.number_formats import styles_shown
from bulk_upload_pipeline.reading.sheet_cutter import refuse_entities
from bulk_upload_pipeline.recognising.unpack import damage_as_finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bulk_upload_pipeline.reading.beside_values import Told
    from bulk_upload_pipeline.reading.number_formats import Shown

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
_STYLE = struct.Struct("<H")
_WIDE_PLACE = struct.Struct("<I")


class Beside(NamedTuple):
    """What a file tells beside the values of its cells.

    Attributes:
        sheets: Of each sheet, in their order.
        starts_in_1904: Whether its days are counted from 1904.
    """

    sheets: dict[str | int, Told]
    starts_in_1904: bool


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


def xls_beside(path: Path) -> Beside:
    """Return what an XLS file tells beside its values; its sheets have numbers, from 0.

    Raises:
        UnreadableError: It is damaged, or its sheets ask for too much room.
    """
    stream = _workbook_stream(path)
    above = _XlsGlobals(stream)
    sheets: dict[str | int, Told] = {}
    cells = 0
    for number, start in enumerate(above.starts):
        sheets[number], extent = _xls_sheet(stream, start, above.styles)
        cells += extent.cells
        refuse_room(cells)
    return Beside(sheets, above.starts_in_1904)


class _XlsGlobals:
    """What stands above all sheets: where each begins, what the styles of cells show, the first day."""

    def __init__(self, stream: bytes) -> None:
        self.starts: list[int] = []
        self.starts_in_1904 = False
        formats: list[int] = []
        codes: dict[int, str] = {}
        for kind, content in _biff(stream, 0):
            if kind == 0x0085 and len(content) >= 4:
                self.starts.append(struct.unpack_from("<I", content)[0])
            elif kind == 0x0022:
                self.starts_in_1904 = content[:1] == b"\1"
            elif kind == 0x00E0 and len(content) >= 4:
                formats.append(_PLACE.unpack_from(content)[1])
            elif kind == 0x041E and len(content) >= 5:
                codes[_STYLE.unpack_from(content)[0]] = _xls_text(content[2:])
        self.styles = styles_shown(formats, codes)


def _xls_text(content: bytes) -> str:
    """Return a text that is preceded by its length; since Excel 97 also by whether its characters have two bytes."""
    if len(content) == 1 + content[0]:
        return content[1:].decode("latin-1")
    return content[3:].decode("utf-16-le" if content[2] & 1 else "latin-1", "replace")


def _xls_sheet(stream: bytes, start: int, styles: Mapping[int, Shown]) -> tuple[Told, _Extent]:
    extent = _Extent()
    told: Told = {}
    for kind, content in _biff(stream, start):
        if kind not in _XLS_CELLS or len(content) < 6:
            continue
        row, column = _PLACE.unpack_from(content)
        last = _PLACE.unpack_from(content, len(content) - 4)[1] if kind in _XLS_RUNS else column
        extent.grow(row, column, last)
        if kind == 0x0205 and len(content) >= 8 and content[7] == 1:
            told[row + 1, column] = _TEXTS.get(content[6], "#VALUE!")
        elif kind == 0x0006 and content[12:14] == b"\xff\xff" and content[6] == 2:
            told[row + 1, column] = _TEXTS.get(content[8], "#VALUE!")
        elif styles and kind in _XLS_NUMBERS:
            told |= {
                (row + 1, column + at): styles[style]
                for at, style in enumerate(_xls_styles(kind, content))
                if style in styles
            }
    return told, extent


def _xls_styles(kind: int, content: bytes) -> Iterator[int]:
    """Yield the style of a cell, or of each cell of a run, in which six bytes say style and value of each."""
    behind = len(content) - 2 if kind in _XLS_RUNS else 6
    return (_STYLE.unpack_from(content, at)[0] for at in range(4, behind, 6))


_XLS_CELLS = frozenset({0x0006, 0x0203, 0x0204, 0x0205, 0x00FD, 0x027E, 0x00BD, 0x00D6})
_XLS_NUMBERS = frozenset({0x0006, 0x0203, 0x027E, 0x00BD})
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


def xlsb_beside(path: Path) -> Beside:
    """Return what an XLSB file tells beside its values, by the names of its sheets.

    Raises:
        UnreadableError: It is damaged, or one of its sheets asks for too much room.
    """
    with damage_as_finding(), zipfile.ZipFile(path) as archive:
        names = {name.lower().replace("\\", "/"): name for name in archive.namelist()}
        for name in ("xl/sharedstrings.bin", "xl/styles.bin"):
            if name in names and archive.getinfo(names[name]).file_size > MOST_BYTES:
                raise _too_large()
        styles = _xlsb_styles(_part(archive, names["xl/styles.bin"])) if "xl/styles.bin" in names else {}
        book = _part(archive, names.get("xl/workbook.bin", ""))
        starts_in_1904 = any(kind == 153 and record[:1] and record[0] & 1 for kind, record in _records(book))
        sheets: dict[str | int, Told] = {
            sheet: _xlsb_sheet(_part(archive, part), styles)
            for sheet, part in _xlsb_sheets(archive, names, book)
        }
        return Beside(sheets, starts_in_1904)


def _xlsb_styles(content: bytes) -> dict[int, Shown]:
    formats: list[int] = []
    codes: dict[int, str] = {}
    of_cells = False
    for kind, record in _records(content):
        if kind in (617, 618):
            of_cells = kind == 617
        elif kind == 47 and of_cells and len(record) >= 4:
            formats.append(_PLACE.unpack_from(record)[1])
        elif kind == 44 and len(record) >= 2:
            codes[_STYLE.unpack_from(record)[0]] = _wide(record, 2)[0]
    return styles_shown(formats, codes)


def _xlsb_sheets(archive: zipfile.ZipFile, names: dict[str, str], book: bytes) -> Iterator[tuple[str, str]]:
    links = _part(archive, names.get("xl/_rels/workbook.bin.rels", ""))
    refuse_entities(links)
    try:
        # Entities, by which XML can grow without bounds, are refused before it is parsed.
        tree = ElementTree.fromstring(links)  # noqa: S314
    except ElementTree.ParseError:
        raise _damaged("its part xl/_rels/workbook.bin.rels is no XML") from None
    targets = {link.get("Id"): link.get("Target", "").lower() for link in tree}
    for kind, content in _records(book):
        if kind == 156:
            link, at = _wide(content, 8)
            target = targets.get(link, "")
            part = names.get(target.lstrip("/") if target.startswith("/") else f"xl/{target}")
            if part is not None and "worksheets/" in target:
                yield _wide(content, at)[0], part


def _xlsb_sheet(content: bytes, styles: Mapping[int, Shown]) -> Told:
    told: Told = {}
    extent, row = _Extent(), 0
    for kind, record in _records(content):
        if kind == 0 and len(record) >= 4:
            (row,) = _WIDE_PLACE.unpack_from(record)
        elif 1 <= kind <= 11 and len(record) >= 8:
            (column,) = _WIDE_PLACE.unpack_from(record)
            extent.grow(row, column, column)
            style = int.from_bytes(record[4:7], "little")
            if kind in (3, 11) and len(record) >= 9:
                told[row + 1, column] = _TEXTS.get(record[8], "#VALUE!")
            elif kind in _XLSB_NUMBERS and style in styles:
                told[row + 1, column] = styles[style]
    refuse_room(extent.cells)
    return told


_XLSB_NUMBERS = frozenset({2, 5, 9})


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
_SHARE = re.compile(rb"""<table:table-cell\b[^>]*\boffice:value-type=["']percentage["'][^>]*>""")
_SHARE_KIND = re.compile(rb"""(office|calcext):value-type=["']percentage["']""")
_NUMBER = re.compile(rb"""\boffice:value=["']([^"']*)["']""")
_GAP = re.compile(rb"""<text:(tab|line-break)\b[^>]*(?:/>|></text:(?:tab|line-break)>)""")
_TO_REWRITE = re.compile(
    rb"""(?:calcext:value-type=["']error|office:value-type=["']percentage)["']|<text:(?:tab|line-break)\b"""
)
_BLOCK = 1 << 20


def ods_as_shown(path: Path, target: Path) -> Path:
    """Return an ODS file in which errors and percentages are the texts that their cells show.

    So are tabs and line breaks within a paragraph, at which calamine would join the words. It is `path` itself if
    there is none of all that.

    Args:
        path: The file.
        target: Where it is written otherwise.

    Raises:
        UnreadableError: It is damaged, or its sheets ask for too much room.
    """
    with damage_as_finding(), zipfile.ZipFile(path) as source:
        if "content.xml" not in source.namelist():
            raise _damaged("its part content.xml is missing")
        as_it_is = True
        extent, cells, row = _Extent(), 0, 0
        for piece in _pieces(source):
            as_it_is = as_it_is and _TO_REWRITE.search(piece) is None
            if b"<table:table " in piece or b"<table:table>" in piece:
                cells, row, extent = cells + extent.cells, 0, _Extent()
            times, width = _ods_row(piece)
            if width:
                extent.grow(0, 0, width - 1)
                extent.grow(row + times - 1, 0, width - 1)
            row += times
            refuse_room(cells + extent.cells)
        if as_it_is:
            return path
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as copy:
            for name in ("mimetype", "META-INF/manifest.xml", "styles.xml"):
                if name in source.namelist():
                    copy.writestr(name, _part(source, name))
            with copy.open("content.xml", "w") as file:
                for piece in _pieces(source):
                    without_errors = _ERROR.sub(lambda tag: _NO_TEXT.sub(b"", tag[0]), piece)
                    file.write(_GAP.sub(_as_blank, _SHARE.sub(_as_text, without_errors)))
        return target


def _as_blank(tag: re.Match[bytes]) -> bytes:
    return b"\t" if tag[1] == b"tab" else b"\n"


def _as_text(tag: re.Match[bytes]) -> bytes:
    """Return the tag of a cell with a percentage as that of one with its text."""
    stated = _NUMBER.search(tag[0])
    try:
        text = percentage(float(stated[1])) if stated else None
    except ValueError:
        text = None
    if stated is None or text is None:
        return tag[0]
    kind = _SHARE_KIND.sub(rb'\1:value-type="string"', tag[0])
    return kind.replace(stated[0], b'office:string-value="%b"' % text.encode())


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
