"""Floats, in which spreadsheets and Parquet keep figures, as the decimal numbers that were meant.

A float holds 15 decimal digits for sure; what stands behind them is an artefact of arithmetic (0.1 + 0.2 is
kept as 0.30000000000000004), which no spreadsheet shows. Whole numbers are exact up to 2**53.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_EXACT = 2**53
_LONGEST = 1e21
"""Numbers from here on keep their exponent: they are no identifiers and no amounts."""


def figure(value: float) -> str | None:
    """Return a float as decimal text without an exponent; None where it is not a number."""
    if value != value:
        return None
    if math.isinf(value) or abs(value) >= _LONGEST:
        return repr(value)
    if value == int(value):
        return str(int(value)) if abs(value) < _EXACT else f"{Decimal(repr(value)):.0f}"
    text = f"{value:.15g}"
    return f"{Decimal(text):f}" if "e" in text else text


def percentage(value: float) -> str | None:
    """Return a share as the percentage that a spreadsheet shows: 0.125 is `12.5%`."""
    text = figure(value)
    if text is None:
        return None
    return f"{(Decimal(text) * 100).normalize():f}%"


def texts_of(values: Iterable[Any], text_of: Callable[[Any], str | None]) -> pa.StringArray:
    """Return values as text, looking at each distinct one once. Equal values must have equal texts."""
    column = list(values)
    texts = {value: text_of(value) for value in set(column)}
    return pa.array(map(texts.__getitem__, column), pa.string(), size=len(column))
