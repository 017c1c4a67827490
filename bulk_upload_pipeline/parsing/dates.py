"""Days as people write them, read in the one way that they can be read, or not at all.

Nothing is guessed and no time zone shifts a day: the day that stands in the cell counts, whatever time or
offset follows it. Two digits of a year mean 20yy. After a month's name (`31-Dec-24`) that is how they are
read; among figures only (`31/12/24`), where the year could stand first as well, only when the profile or the
rest of the file says in which order they stand.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from bulk_upload_pipeline.parsing.cells import BLANKS, fault_of, is_absent

if TYPE_CHECKING:
    from bulk_upload_pipeline.profiles import DateOrder

INVALID, AMBIGUOUS = "INVALID_DATE", "AMBIGUOUS_DATE"

FIRST_YEAR, LAST_YEAR = 1900, 2200
"""A year outside is no date at all; whether an invoice can be so old is a rule of the contract."""

_CENTURY = 2000

_LONGEST_DATE = 60
"""A longer text is not worth remembering."""

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("jan", "january"),
            ("feb", "february"),
            ("mar", "march"),
            ("apr", "april"),
            ("may",),
            ("jun", "june"),
            ("jul", "july"),
            ("aug", "august"),
            ("sep", "sept", "september"),
            ("oct", "october"),
            ("nov", "november"),
            ("dec", "december"),
        ),
        start=1,
    )
    for name in names
}
"""The number of each month by its names."""

_TIME = (
    r"(?:(?:[ ]+|[ ]*T[ ]*)(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]{1,9})?)?"
    r"(?:[ ]?(?P<half>[AP]M))?(?:[ ]?(?:Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?)?"
)


def _form(day: str) -> re.Pattern[str]:
    return re.compile(day + _TIME, re.IGNORECASE)


_YEAR_FIRST = _form(r"(?P<y>[0-9]{4})(?P<sep>[-/.])(?P<m>[0-9]{1,2})(?P=sep)(?P<d>[0-9]{1,2})")
_FIGURES = _form(r"(?P<a>[0-9]{1,2})(?P<sep>[-/.])(?P<b>[0-9]{1,2})(?P=sep)(?P<c>[0-9]{4}|[0-9]{2})")
_NAMED = (
    _form(
        r"(?P<d>[0-9]{1,2})(?:st|nd|rd|th)?(?:(?P<sep>[-/])|\.?[ ]|)(?P<m>[a-z]{3,9})"
        r"(?(sep)(?P=sep)|(?:[.,]{0,2}[ ]|))(?P<y>[0-9]{4}|[0-9]{2})"
    ),
    _form(r"(?P<m>[a-z]{3,9})\.?[ -](?P<d>[0-9]{1,2})(?:st|nd|rd|th)?(?:,[ ]?|[ -])(?P<y>[0-9]{4})"),
    _form(r"(?P<y>[0-9]{4})(?P<sep>[- /])(?P<m>[a-z]{3,9})(?P=sep)(?P<d>[0-9]{1,2})"),
)
_SERIAL = re.compile(r"(?P<days>[1-9][0-9]{4,5})(?:\.[0-9]*)?")
"""Those of fewer digits are days before 1928. No invoice is so old: it is a year, or some other number.

Nor does a number begin with a zero: `040124` in a sheet is a day that somebody typed, and not one of 2009."""


def read_date(text: str, order: DateOrder | None, *, excel_serials: bool = False) -> date | str | None:
    """Return the day that a cell holds.

    Args:
        text: The cell as it stands.
        order: How figures that can be read two ways are read; None where nobody said.
        excel_serials: Whether a plain number is the serial of a day, as Excel counts them.

    Returns:
        The day, None for a cell without a value, or the code of the finding that it earns.
    """
    trimmed = text.strip(BLANKS)
    read = _read_trimmed if len(trimmed) <= _LONGEST_DATE else _read_trimmed.__wrapped__
    return read(trimmed, order, excel_serials)


@lru_cache(maxsize=20_000)
def _read_trimmed(trimmed: str, order: DateOrder | None, excel_serials: bool) -> date | str | None:
    """Read a date; the days of a file are few, and come again in each of its chunks."""
    if is_absent(trimmed):
        return None
    fault = fault_of(trimmed)
    if fault is not None:
        return fault
    plain = _plain(trimmed)
    if excel_serials and (serial := _SERIAL.fullmatch(plain)):
        return _day_of_serial(int(serial["days"])) or INVALID
    if match := _FIGURES.fullmatch(plain):
        return _read_figures(match, order) if _has_real_time(match) else INVALID
    return _read_spelled(plain) or INVALID


def order_shown_by(text: str) -> DateOrder | None:
    """Return the order in which a date in figures must have been written, None where it shows none.

    Only four digits of a year count: `31/12/24` could be the 24th of December 2031 as well.
    """
    match = _FIGURES.fullmatch(_plain(text.strip(BLANKS)))
    if match is None or len(match["c"]) == 2 or not _has_real_time(match):
        return None
    days = _readings(match)
    if days["dmy"] and not days["mdy"]:
        return "dmy"
    return "mdy" if days["mdy"] and not days["dmy"] else None


def _plain(text: str) -> str:
    """Return a text with ASCII digits and single, plain spaces."""
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    return " ".join(text.split()) if not text.isalnum() else text


def _read_figures(match: re.Match[str], order: DateOrder | None) -> date | str:
    days = _readings(match)
    possible = {day for day in days.values() if day is not None}
    if not possible:
        return INVALID
    stated = days.get(order) if order is not None else None
    if stated is not None:
        return stated
    return AMBIGUOUS if len(match["c"]) == 2 or len(possible) > 1 else possible.pop()


def _readings(match: re.Match[str]) -> dict[DateOrder, date | None]:
    a, b, c = int(match["a"]), int(match["b"]), int(match["c"])
    if len(match["c"]) == 4:
        return {"dmy": _day(c, b, a), "mdy": _day(c, a, b)}
    return {
        "dmy": _day(_CENTURY + c, b, a),
        "mdy": _day(_CENTURY + c, a, b),
        "ymd": _day(_CENTURY + a, b, c) if len(match["a"]) == 2 else None,
    }


def _read_spelled(text: str) -> date | None:
    for form in (_YEAR_FIRST, *_NAMED):
        match = form.fullmatch(text)
        if match is None:
            continue
        month = int(match["m"]) if match["m"].isdigit() else MONTHS.get(match["m"].lower())
        if month is None or not _has_real_time(match):
            return None
        year = int(match["y"])
        return _day(year + _CENTURY if len(match["y"]) == 2 else year, month, int(match["d"]))
    return None


def _has_real_time(match: re.Match[str]) -> bool:
    if match["hour"] is None:
        return True
    hour, last_hour = int(match["hour"]), 12 if match["half"] else 23
    return (
        (1 if match["half"] else 0) <= hour <= last_hour
        and int(match["minute"]) <= 59
        and int(match["second"] or 0) <= 60
    )


def _day(year: int, month: int, day: int) -> date | None:
    if not FIRST_YEAR <= year <= LAST_YEAR:
        return None
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _day_of_serial(days: int) -> date | None:
    """Return the day of an Excel serial. Excel counts from 1900, in which it has a 29 February that never was."""
    day = date(1899, 12, 30) + timedelta(days=days)
    return day if day.year <= LAST_YEAR else None
