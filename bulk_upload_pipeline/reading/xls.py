"""What an XLS file tells beside its values: the records (BIFF) of its one stream are passed over."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from bulk_upload_pipeline.reading.number_formats import styles_shown
from bulk_upload_pipeline.reading.whole_sheets import (
    ERRORS,
    MOST_BYTES,
    Beside,
    Extent,
    refuse_room,
    too_large,
)
from bulk_upload_pipeline.recognising.unpack import damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bulk_upload_pipeline.reading.beside_values import Told
    from bulk_upload_pipeline.reading.number_formats import Shown

_PLACE = struct.Struct("<HH")
_STYLE = struct.Struct("<H")


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


def _xls_sheet(stream: bytes, start: int, styles: Mapping[int, Shown]) -> tuple[Told, Extent]:
    extent = Extent()
    told: Told = {}
    for kind, content in _biff(stream, start):
        if kind not in _XLS_CELLS or len(content) < 6:
            continue
        row, column = _PLACE.unpack_from(content)
        last = _PLACE.unpack_from(content, len(content) - 4)[1] if kind in _XLS_RUNS else column
        extent.grow(row, column, last)
        if kind == 0x0205 and len(content) >= 8 and content[7] == 1:
            told[row + 1, column] = ERRORS.get(content[6], "#VALUE!")
        elif kind == 0x0006 and content[12:14] == b"\xff\xff" and content[6] == 2:
            told[row + 1, column] = ERRORS.get(content[8], "#VALUE!")
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
        raise too_large()
    try:
        with olefile.OleFileIO(path) as file:
            name = next((name for name in ("Workbook", "Book") if file.exists(name)), None)
            return b"" if name is None else file.openstream(name).read()
    except (OSError, struct.error, IndexError, ValueError, TypeError) as error:
        raise damaged(f"the spreadsheet cannot be read ({error})") from None


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
