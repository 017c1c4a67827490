"""What the format of a cell shows of its number, where that is another text: percentages, and leading zeroes.

A number keeps neither: 12.5 % is kept as 0.125, and the code 02134 as 2134 in a cell that shows five figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bulk_upload_pipeline.reading.figures import figure, percentage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shown = Callable[[float], str | None]
"""Makes of a number the text that its cell shows."""

_PERCENTAGES = frozenset({9, 10})
"""Numbers of the formats for percentages that each spreadsheet has without saying so."""

_LITERAL = re.compile(r'"[^"]*"|\\.')
_ZEROES = re.compile(r'((?:"[^"]*"|\\.|[-/ ])*)(0{2,})')
"""Figures that are always shown, and what is written before them: `00000`, `"INV-"0000`."""


def shown_by(code: str) -> Shown | None:
    """Return what a format makes of a number; None where the number itself says it."""
    if "%" in _LITERAL.sub("", code):
        return percentage
    zeroes = _ZEROES.fullmatch(_LITERAL.sub(lambda text: text[0].replace(";", "\0"), code).split(";")[0])
    if zeroes is None:
        return None
    before = _LITERAL.sub(lambda text: text[0].strip('"').removeprefix("\\"), zeroes[1])
    return partial(_filled, before.replace("\0", ";"), len(zeroes[2]))


def styles_shown(formats: Sequence[int], codes: Mapping[int, str]) -> dict[int, Shown]:
    """Return what the styles of a workbook show, by their number, as far as it is another text.

    Args:
        formats: The number of the format of each style.
        codes: The formats that the workbook has of its own.
    """
    known = {number: shown for number, code in codes.items() if (shown := shown_by(code))}
    known |= dict.fromkeys(_PERCENTAGES - codes.keys(), percentage)
    return {style: known[number] for style, number in enumerate(formats) if number in known}


def _filled(before: str, figures: int, value: float) -> str | None:
    text = figure(value)
    if text is None or not text.isdigit():
        return text  # less than nothing, or no whole number
    return before + text.zfill(figures)
