"""Numbers as people write them, read exactly or not at all.

Read are digits (of any script) with one decimal mark, thousands in Western (`1,234,567`) or Indian
(`12,34,567`) groups, one sign before or behind, accounting brackets, a currency before or behind, and a plain
exponent (`1.5E+3`, as spreadsheets and programs write it). Everything else, and everything that could mean
two numbers, is refused with a code of the catalogue. There are no floats anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from enum import Enum

from bulk_upload_pipeline.contract import AMOUNT_DECIMALS, AMOUNT_DIGITS
from bulk_upload_pipeline.parsing.cells import BLANKS, fault_of, is_absent

INVALID, TOO_PRECISE, TOO_LARGE = "INVALID_NUMBER", "NUMBER_TOO_PRECISE", "NUMBER_TOO_LARGE"

_INTEGER_DIGITS = AMOUNT_DIGITS - AMOUNT_DECIMALS
_LARGEST_EXPONENT = 99
"""`1e999` is no number that anybody meant."""


class Notation(Enum):
    """Which mark stands before the decimals.

    A profile with a decimal comma speaks of text. Numbers that Excel, JSON or Parquet hold as numbers come
    with a point all the same: `EITHER` reads both, and refuses `1.234`, which could be either.
    """

    POINT = "point"
    COMMA = "comma"
    EITHER = "either"


PLAIN = {
    Notation.POINT: r"^-?[0-9]{1,11}(\.[0-9]{1,4})?$",
    Notation.COMMA: r"^-?[0-9]{1,11}(,[0-9]{1,4})?$",
    Notation.EITHER: r"^-?[0-9]{1,11}$",
}
"""Cells that need no further look, for RE2: once a comma is a point, they cast to an amount as they are."""

_GROUP_SPACES = "\u00a0\u2009\u202f"
_CURRENCY = r"(?:₹|rs\.?|inr\.?|us\$|usd|\$|eur|€|gbp|£)"
_AFFIXES = re.compile(
    rf"(?:(?P<money_outside>{_CURRENCY}\s*)?(?P<open>\())?"
    rf"(?P<sign>[+-])?(?P<money>{_CURRENCY}\s*)?(?P<sign_inside>[+-])?"
    rf"(?P<figures>[0-9.,](?:[0-9.,{_GROUP_SPACES}]*[0-9.,])?(?:e[+-]?[0-9]{{1,3}})?)"
    rf"(?:(?P<percent>%)|(?P<sign_behind>[+-])|/-)?(?P<money_behind>\s*{_CURRENCY})?(?P<close>\))?",
    re.IGNORECASE,
)
_LOOSE_BLANKS = re.compile(r"(?<![0-9.,eE\s])\s+|\s+(?![0-9.,eE\s])")
"""Blanks between a sign, a bracket or a currency and the figures. Those within figures stay, and spoil them."""

_POINT_OF_WHAT = re.compile(r"(?:rs|inr)\s+\.", re.IGNORECASE)
"""`Rs .50` may be half a rupee, or fifty behind the point of the abbreviation."""

_PUNCTUATION = str.maketrans(
    {"．": ".", "，": ",", "－": "-", "−": "-", "＋": "+", "（": "(", "）": ")", "％": "%"}
)


def _figures(mark: str, group: str) -> re.Pattern[str]:
    """Return the pattern of an unsigned number with this decimal mark and these group separators.

    A grouped number does not start with a zero: `0,125` is more likely a decimal comma than 125.
    """
    separator = f"[{re.escape(group)}{_GROUP_SPACES}]"
    western = rf"[1-9][0-9]{{0,2}}(?P<western>{separator})[0-9]{{3}}(?:(?P=western)[0-9]{{3}})*"
    indian = rf"[1-9][0-9]?(?P<indian>{separator})[0-9]{{2}}(?:(?P=indian)[0-9]{{2}})*(?P=indian)[0-9]{{3}}"
    return re.compile(
        rf"(?P<whole>{indian}|{western}|[0-9]+)?(?:{re.escape(mark)}(?P<decimals>[0-9]*))?"
        r"(?:[eE](?P<exponent>[+-]?[0-9]+))?"
    )


_WITH = {Notation.POINT: _figures(".", ","), Notation.COMMA: _figures(",", ".")}
_THOUSANDS_OR_DECIMALS = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}")


def read_number(
    text: str, notation: Notation = Notation.POINT, *, percent: bool = False
) -> Decimal | str | None:
    """Return the number that a cell holds.

    Args:
        text: The cell as it stands.
        notation: What stands before the decimals.
        percent: Whether a percent sign may follow; `12%` is then 12.

    Returns:
        The exact number with at most 4 decimals and 11 digits before them, None for a cell without a value, or
        the code of the finding that it earns.
    """
    trimmed = text.strip(BLANKS)
    if is_absent(trimmed):
        return None
    fault = fault_of(trimmed)
    if fault is not None:
        return fault
    match = _AFFIXES.fullmatch(_LOOSE_BLANKS.sub("", _ascii(trimmed)))
    if match is None or _POINT_OF_WHAT.search(trimmed) or (match["percent"] and not percent):
        return INVALID
    negative = _is_negative(match)
    unsigned = _unsigned(match["figures"], notation)
    if negative is None or unsigned is None:
        return INVALID
    return _bounded(unsigned.copy_negate() if negative else unsigned)


def _ascii(text: str) -> str:
    """Return a text with the digits of any script, and full-width marks, as ASCII. Not superscripts: 5² is no 52."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(c)) if unicodedata.decimal(c, None) is not None else c
        for c in text.translate(_PUNCTUATION)
    )


def _is_negative(match: re.Match[str]) -> bool | None:
    """Return the sign; None where there are two, or half a bracket, or two currencies."""
    signs = [match[name] for name in ("sign", "sign_inside", "sign_behind") if match[name]]
    brackets = [match[name] for name in ("open", "close") if match[name]]
    if len(signs) > 1 or len(brackets) == 1 or (brackets and signs):
        return None
    if len([name for name in ("money_outside", "money", "money_behind") if match[name]]) > 1:
        return None
    return bool(brackets) or signs == ["-"]


def _unsigned(figures: str, notation: Notation) -> Decimal | None:
    if notation is Notation.EITHER:
        if _THOUSANDS_OR_DECIMALS.fullmatch(figures):
            return None
        with_point = re.fullmatch(r"[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?", figures) is not None
        notation = Notation.POINT if with_point else Notation.COMMA
    match = _WITH[notation].fullmatch(figures)
    if match is None or not (match["whole"] or match["decimals"]):
        return None
    exponent = match["exponent"] or "0"
    if abs(int(exponent)) > _LARGEST_EXPONENT:
        return None
    whole = re.sub(r"[^0-9]", "", match["whole"] or "")
    return Decimal(f"{whole or '0'}.{match['decimals'] or '0'}E{exponent}")


def _bounded(number: Decimal) -> Decimal | str:
    """Return a number that an amount can hold, without a context that could round it."""
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    figures = "".join(map(str, digits)).lstrip("0")
    if not figures:
        return Decimal(0)
    if len(figures) + exponent > _INTEGER_DIGITS:
        return TOO_LARGE
    kept = figures.rstrip("0")
    exponent += len(figures) - len(kept)
    return TOO_PRECISE if -exponent > AMOUNT_DECIMALS else Decimal((sign, tuple(map(int, kept)), exponent))
