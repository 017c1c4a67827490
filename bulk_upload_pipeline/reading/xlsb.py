"""What an XLSB file tells beside its values: the binary records of its parts are passed over."""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from bulk_upload_pipeline.reading.number_formats import styles_shown
from bulk_upload_pipeline.reading.sheet_cutter import refuse_entities
from bulk_upload_pipeline.reading.whole_sheets import (
    ERRORS,
    MOST_BYTES,
    Beside,
    Extent,
    refuse_room,
    too_large,
    whole_part,
)
from bulk_upload_pipeline.recognising.unpack import damage_as_finding, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bulk_upload_pipeline.reading.beside_values import Told
    from bulk_upload_pipeline.reading.number_formats import Shown

_PLACE = struct.Struct("<HH")
_STYLE = struct.Struct("<H")
_WIDE_PLACE = struct.Struct("<I")


def xlsb_beside(path: Path) -> Beside:
    """Return what an XLSB file tells beside its values, by the names of its sheets.

    Raises:
        UnreadableError: It is damaged, or one of its sheets asks for too much room.
    """
    with damage_as_finding(), zipfile.ZipFile(path) as archive:
        names = {name.lower().replace("\\", "/"): name for name in archive.namelist()}
        for name in ("xl/sharedstrings.bin", "xl/styles.bin"):
            if name in names and archive.getinfo(names[name]).file_size > MOST_BYTES:
                raise too_large()
        styles = _xlsb_styles(whole_part(archive, names["xl/styles.bin"])) if "xl/styles.bin" in names else {}
        book = whole_part(archive, names.get("xl/workbook.bin", ""))
        starts_in_1904 = any(kind == 153 and record[:1] and record[0] & 1 for kind, record in _records(book))
        sheets: dict[str | int, Told] = {
            sheet: _xlsb_sheet(whole_part(archive, part), styles)
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
    links = whole_part(archive, names.get("xl/_rels/workbook.bin.rels", ""))
    refuse_entities(links)
    try:
        # Entities, by which XML can grow without bounds, are refused before it is parsed.
        tree = ElementTree.fromstring(links)  # noqa: S314
    except ElementTree.ParseError:
        raise damaged("its part xl/_rels/workbook.bin.rels is no XML") from None
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
    extent, row = Extent(), 0
    for kind, record in _records(content):
        if kind == 0 and len(record) >= 4:
            (row,) = _WIDE_PLACE.unpack_from(record)
        elif 1 <= kind <= 11 and len(record) >= 8:
            (column,) = _WIDE_PLACE.unpack_from(record)
            extent.grow(row, column, column)
            style = int.from_bytes(record[4:7], "little")
            if kind in (3, 11) and len(record) >= 9:
                told[row + 1, column] = ERRORS.get(record[8], "#VALUE!")
            elif kind in _XLSB_NUMBERS and style in styles:
                told[row + 1, column] = styles[style]
    refuse_room(extent.cells)
    return told


_XLSB_NUMBERS = frozenset({2, 5, 9})


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
        raise damaged("a part of it ends too early") from None


def _wide(content: bytes, at: int) -> tuple[str, int]:
    """Return a text that is preceded by its length, and where it ends."""
    size = _WIDE_PLACE.unpack_from(content, at)[0] if at + 4 <= len(content) else 0
    end = at + 4 + (0 if size == 0xFFFFFFFF else 2 * size)
    return content[at + 4 : end].decode("utf-16-le", "replace"), end
