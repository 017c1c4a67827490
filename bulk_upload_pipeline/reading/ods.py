"""An ODS file as it shows itself: its XML is passed over row by row, and written anew where that is not its values."""

from __future__ import annotations

import re
import zipfile
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bulk_upload_pipeline.parsing.cells import SPREADSHEET_ERRORS
from bulk_upload_pipeline.reading.beside_values import NEVER_CALCULATED
from bulk_upload_pipeline.reading.figures import percentage
from bulk_upload_pipeline.reading.sheet_cutter import refuse_entities
from bulk_upload_pipeline.reading.whole_sheets import (
    MOST_BYTES,
    Extent,
    refuse_room,
    too_large,
    whole_part,
)
from bulk_upload_pipeline.recognising.unpack import damage_as_finding, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _OdsRow(NamedTuple):
    times: int
    width: int


_ROW_TIMES = re.compile(rb"""<table:table-row\b[^>]*number-rows-repeated=["'](\d{1,9})["']""")
_CELL_TIMES = re.compile(
    rb"""<table:(?:covered-)?table-cell\b[^>]*number-columns-repeated=["'](\d{1,9})["']"""
)
_ERRORS = b"|".join(
    [*(re.escape(name.upper().encode()) for name in sorted(SPREADSHEET_ERRORS)), rb"Err:[0-9]{3}"]
)
_ERROR = re.compile(
    rb"""<table:table-cell\b(?:[^>]*\bcalcext:value-type=["']error["'][^>]*>(?:(?=<text:p>([^<]*)<))?"""
    rb"""|[^>]*>(?=<text:p>(%b)</text:p>\s*</table:table-cell>))""" % _ERRORS
)
_NO_VALUE = re.compile(
    rb"""<table:table-cell\b(?=[^>]*\btable:formula=)(?![^>]*\boffice:value-type=)[^>]*(?:/>|>(?=</table:table-cell>))"""
)
_VALUE = re.compile(
    rb"""\s(?:office|calcext):(?:value-type|(?:[a-z]+-)?value|currency)=(?:"[^"]*"|'[^']*')"""
)
_LONG_NUMBER = re.compile(
    rb"""<table:table-cell\b(?=[^>]*\boffice:value-type=["']float["'])[^>]*\boffice:value=["']([1-9][0-9]{15,})["'][^>]*>"""
)
_SHARE = re.compile(rb"""<table:table-cell\b[^>]*\boffice:value-type=["']percentage["'][^>]*>""")
_NUMBER = re.compile(rb"""\boffice:value=["']([^"']*)["']""")
_FORMAT = re.compile(
    rb"""<number:number-style\b[^>]*>(?:<number:text>([^<]*)</number:text>)?<number:number\b([^>]*)/>"""
    rb"""</number:number-style>"""
)
_FIGURES = re.compile(rb"""\bnumber:min-integer-digits=["']([0-9]{1,2})["']""")
_NO_WHOLE = re.compile(rb"""\bnumber:(?:decimal-places=["'][1-9]|grouping=["']true)""")
_FILLED = re.compile(
    rb"""(<table:table-cell\b[^>]*\boffice:value-type=["']float["'][^>]*>)(?=<text:p>([^<0-9]*)([0-9]+)</text:p>)"""
)
_KIND = re.compile(rb"""(office|calcext):value-type=["']float["']""")
_STATED = re.compile(rb"""\soffice:value=["']([^"']*)["']""")
_GAP = re.compile(rb"""<text:(tab|line-break)\b[^>]*(?:/>|></text:(?:tab|line-break)>)""")
_TO_REWRITE = re.compile(
    rb"""(?:calcext:value-type=["']error|office:value-type=["']percentage)["']|<text:(?:tab|line-break)\b"""
    rb"""|<text:p>(?:%b)</text:p>""" % _ERRORS
)
_HINTS = (b"error", b"percentage", b"<text:tab", b"<text:line-break", b"<text:p>#", b"<text:p>Err:")
"""One of them is in whatever `_TO_REWRITE` finds, and found in less time."""
_LONG_VALUE = re.compile(rb"""office:value=["'][1-9][0-9]{15}""")
_BLOCK = 1 << 20


def ods_as_shown(path: Path, target: Path) -> Path:
    """Return an ODS file in which errors, percentages and codes of figures are the texts that their cells show.

    So are numbers with more figures than a float holds, and tabs and line breaks within a paragraph, at which calamine
    would join the words. It is `path` itself if there is none of all that.

    Args:
        path: The file.
        target: Where it is written otherwise.

    Raises:
        UnreadableError: It is damaged, or its sheets ask for too much room.
    """
    with damage_as_finding(), zipfile.ZipFile(path) as source:
        if "content.xml" not in source.namelist():
            raise damaged("its part content.xml is missing")
        as_it_is, formats = _surveyed(source)
        if as_it_is:
            return path
        _write_as_shown(source, target, formats)
        return target


class _Filled(NamedTuple):
    """A format of whole numbers that always shows some figures, and what it writes before them."""

    before: bytes
    figures: int


def _surveyed(source: zipfile.ZipFile) -> tuple[bool, set[_Filled]]:
    """Return whether every cell is what it shows, and the formats of codes; refuse sheets that ask for much room."""
    as_it_is, formats = True, set[_Filled]()
    extent, cells, row = Extent(), 0, 0
    for piece in _pieces(source):
        formats.update(_formats(piece))
        as_it_is = as_it_is and not formats and not _is_to_rewrite(piece)
        if b"<table:table " in piece or b"<table:table>" in piece:
            cells, row, extent = cells + extent.cells, 0, Extent()
        times, width = _ods_row(piece)
        if width:
            extent.grow(0, 0, width - 1)
            extent.grow(row + times - 1, 0, width - 1)
        row += times
        refuse_room(cells + extent.cells)
    return as_it_is, formats


def _is_to_rewrite(piece: bytes) -> bool:
    return bool(
        (any(hint in piece for hint in _HINTS) and _TO_REWRITE.search(piece))
        or (b"formula=" in piece and _NO_VALUE.search(piece))
        or _LONG_VALUE.search(piece)
    )


def _write_as_shown(source: zipfile.ZipFile, target: Path, formats: set[_Filled]) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as copy:
        for name in ("mimetype", "META-INF/manifest.xml", "styles.xml"):
            if name in source.namelist():
                copy.writestr(name, whole_part(source, name))
        with copy.open("content.xml", "w") as file:
            for piece in _pieces(source):
                file.write(_shown(piece, formats))


def _shown(piece: bytes, formats: set[_Filled]) -> bytes:
    """Return the XML of rows in which each cell is what it shows."""
    shown = _ERROR.sub(_as_error, piece)
    shown = _NO_VALUE.sub(lambda tag: _with_text(tag[0], NEVER_CALCULATED.encode()), shown)
    shown = _LONG_NUMBER.sub(lambda tag: _with_text(tag[0], tag[1]), shown)
    shown = _FILLED.sub(partial(_as_code, formats), shown) if formats else shown
    return _GAP.sub(_as_blank, _SHARE.sub(_as_text, shown))


def _as_error(tag: re.Match[bytes]) -> bytes:
    """Return the tag of a cell whose formula failed as that of one with the error, of which it may keep 0 or nothing.

    An error that no other kind of spreadsheet has, such as `Err:502`, is kept there as this one, too.
    """
    shown = tag[1] or tag[2] or b""
    is_known = shown.startswith(b"#") and shown.decode("utf-8", "replace").casefold() in SPREADSHEET_ERRORS
    return _with_text(tag[0], shown if is_known else b"#VALUE!")


def _with_text(cell: bytes, text: bytes) -> bytes:
    """Return the tag of a cell as that of one with this text."""
    start = len(b"<table:table-cell")
    value = b' office:value-type="string" office:string-value="%b"' % text
    return cell[:start] + value + _VALUE.sub(b"", cell[start:])


def _formats(piece: bytes) -> Iterator[_Filled]:
    """Yield the formats, which stand above the sheets, in which a number is a code with leading zeroes."""
    for before, stated in _FORMAT.findall(piece) if b"<number:number-style" in piece else ():
        figures = _FIGURES.search(stated)
        if figures is not None and int(figures[1]) > 1 and not _NO_WHOLE.search(stated):
            yield _Filled(before, int(figures[1]))


def _as_code(formats: set[_Filled], tag: re.Match[bytes]) -> bytes:
    """Return the tag of a cell that shows its number in one of some formats as that of one with its text."""
    cell, before, figures = tag.groups()
    stated = _STATED.search(cell)
    is_shown = stated is not None and figures.lstrip(b"0") == stated[1].lstrip(b"0")
    is_filled = any(before == f.before and len(figures) >= f.figures for f in formats)
    return _KIND.sub(rb'\1:value-type="string"', _STATED.sub(b"", cell)) if is_shown and is_filled else cell


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
    return _with_text(tag[0], text.encode())


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
                raise too_large()
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
