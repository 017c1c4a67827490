"""What the XML of a sheet tells of its cells that the reader of their values does not.

Errors, formulas that were never calculated, what a format shows in place of the number, and figures beyond those that
a float holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bulk_upload_pipeline.reading.number_formats import Shown
from bulk_upload_pipeline.reading.sheet_cutter import column_letters, column_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulk_upload_pipeline.reading.sheet_cutter import Part

NEVER_CALCULATED = "#CALC!"
"""What stands for a formula of which the file holds no value."""

Told = dict[tuple[int, int], str | Shown]
"""Of some cells, by row (from 1) and column (from 0): their text, or what makes it of their number."""

_CELL = rb"""<(?:\w+:)?c\b([^>]*%s[^>]*)>(.*?)</(?:\w+:)?c>"""
_ERROR = re.compile(_CELL % rb"""\bt=["']e["']""", re.DOTALL)
_STYLED = rb"""<(?:\w+:)?c\b([^>]*\bs=["'](%s)["'][^>]*)>"""
_NO_VALUE = re.compile(
    rb"""<(?:\w+:)?c\b([^>]*)><(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)"""
    rb"""(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?</(?:\w+:)?c>"""
)
_REFERENCE = re.compile(rb"""\br=["']([A-Z]{1,3})([0-9]{1,8})["']""")
_VALUE = re.compile(rb"<(?:\w+:)?v>([^<]*)</")
_LONG_NUMBER = re.compile(rb"<(?:\w+:)?c\b([^>]*)><(?:\w+:)?v>([1-9][0-9]{15,})</")
_TO_ZEROES = bytes.maketrans(b"123456789", b"0" * 9)
_SOME_LONG_NUMBER = b"v>" + b"0" * 16
_FIRST_CELL = re.compile(rb"<(?:\w+:)?c\b([^>]*)>")
_ROW_OR_CELL = re.compile(rb"<((?:\w+:)?)(row|c)\b([^>]*)>")
_ROW_NUMBER = re.compile(rb"""\sr=["']([0-9]{1,8})["']""")


class BesideValues:
    """Looks up what the XML tells, in the sheets of one workbook.

    Args:
        styles: What the styles of cells show, as far as that is not the number.
    """

    def __init__(self, styles: Mapping[int, Shown]) -> None:
        self._styles = {str(number).encode(): shown for number, shown in styles.items()}
        numbers = b"|".join(self._styles)
        self._styled = re.compile(_STYLED % numbers) if numbers else None

    def told(self, part: Part) -> Told:
        """Return what is told of the cells of a part."""
        rows = _placed(part)
        told: Told = {}
        if self._styled is not None:
            for attributes, style in self._styled.findall(rows):
                told[_place(attributes)] = self._styles[style]
        if _SOME_LONG_NUMBER in rows.translate(_TO_ZEROES):
            for attributes, figures in _LONG_NUMBER.findall(rows):
                told[_place(attributes)] = figures.decode()
        if b't="e"' in rows or b"t='e'" in rows:
            for attributes, content in _ERROR.findall(rows):
                value = _VALUE.search(content)
                told[_place(attributes)] = value[1].decode() if value else "#VALUE!"
        if b"<f" in rows or (b":" in part.closing and b":f" in rows):
            for attributes in _NO_VALUE.findall(rows):
                if b't="str"' not in attributes:
                    told[_place(attributes)] = NEVER_CALCULATED
        return told


def _place(attributes: bytes) -> tuple[int, int]:
    """Return row (from 1) and column (from 0) that a cell states."""
    found = _REFERENCE.search(attributes)
    return (int(found[2]), column_number(found[1]) - 1) if found else (0, 0)


def _placed(part: Part) -> bytes:
    """Return rows of which each cell states where it is, as most programs write them."""
    first = _FIRST_CELL.search(part.rows)
    if first is None or _REFERENCE.search(first[1]):
        return part.rows
    row, column = part.first_row - 1, 0

    def place(tag: re.Match[bytes]) -> bytes:
        nonlocal row, column
        prefix, name, attributes = tag.groups()
        if name == b"row":
            stated = _ROW_NUMBER.search(attributes)
            row, column = int(stated[1]) if stated else row + 1, 0
            return tag[0]
        found = _REFERENCE.search(attributes)
        column = column_number(found[1]) if found else column + 1
        where = b"" if found else b' r="%b%d"' % (column_letters(column), row)
        return b"<%bc%b%b>" % (prefix, where, attributes)

    return _ROW_OR_CELL.sub(place, part.rows)
