"""What cells of a correction mean that a spreadsheet may have written anew, beside what they were before.

A spreadsheet writes days and amounts in the way of its own country, whatever the sender's way is, and takes articles of
figures for numbers. A cell that is as it was means what it meant; of any other nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, get_args

import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.parsing import dates
from bulk_upload_pipeline.parsing.cells import BLANKS
from bulk_upload_pipeline.parsing.numerals import Notation, read_number
from bulk_upload_pipeline.profiles import DateOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import date


def has_ambiguous_day(cells: pa.StringArray, earlier: Iterable[Iterable[Earlier]]) -> bool:
    """Return whether some day of a column can be read two ways, or could before."""
    texts = {*cells.to_pylist(), *(was.text for before in earlier for was in before)}
    return any(_is_ambiguous(text) for text in texts if text)


def day_meant(
    cell: str, before: str | None, order: DateOrder, *, is_in_doubt: bool, excel_serials: bool
) -> str:
    """Return a day so that it can be read in one way, or as it stands where it has two and both are likely.

    Args:
        cell: As the correction has it.
        before: As the row had it that is corrected.
        order: In which the sender writes days.
        is_in_doubt: Whether other days of the correction are in another order.
        excel_serials: Whether a plain number is the serial of a day.
    """
    if not _is_ambiguous(cell):
        return cell
    day = dates.read_date(cell, order)
    if not _is_same(cell, before):
        was = dates.read_date(before or "", order, excel_serials=excel_serials)
        if is_in_doubt or (was != day and was in _days(cell)):
            return cell
    return cell if day is None or isinstance(day, str) else day.isoformat()


class Earlier(NamedTuple):
    """A cell as a row had it before, and how its amounts were read then."""

    text: str | None
    notation: Notation


@dataclass(frozen=True, slots=True)
class Reread:
    """A column of a correction as it is meant.

    Attributes:
        cells: Each so that it can be read in one way; one that is in doubt is null.
        code: Of what there is to say about some of them.
        said: About which, by position, and what.
    """

    cells: pa.StringArray
    code: str = ""
    said: tuple[tuple[int, str], ...] = ()


def days(
    cells: pa.StringArray,
    earlier: Sequence[Sequence[Earlier]],
    meaning: Callable[[str, str | None], str],
    order: DateOrder,
) -> Reread:
    """Return a column of days, each as `meaning` spells it, given the cell and what it was at first.

    Of one that a spreadsheet may have taken for another day is said so.
    """
    spell = cache(meaning)
    found: list[str | None] = []
    said = []
    for at, (cell, before) in enumerate(zip(cells.to_pylist(), earlier, strict=True)):
        known = tuple(was.text for was in before)
        taken = None if cell is None else _taken_for_another(cell, known, order)
        if taken is not None:
            said.append((at, f"{cell} and was {taken}"))
        found.append(None if cell is None or taken else spell(cell, known[0] if known else None))
    return Reread(_texts(found), dates.AMBIGUOUS, tuple(said))


@cache
def _taken_for_another(cell: str, earlier: tuple[str | None, ...], order: DateOrder) -> str | None:
    """Return what a cell was when a spreadsheet may have taken that for another day, None when it has not.

    One of another country takes 03/04/2024 for the other of its two days, and keeps that as a day that can be no other.
    Whoever writes the name of a month says what he means.
    """
    day = dates.read_date(cell, None)
    told = (*earlier[:1], *filter(_names_month, (*earlier[1:], cell)))
    if day is None or isinstance(day, str) or any(dates.read_date(was or "", None) == day for was in told):
        return None
    return next((was for was in earlier if was and _was_another(was, day, order)), None)


def _was_another(before: str, day: date, order: DateOrder) -> bool:
    return _is_ambiguous(before) and day in _days(before) and day != dates.read_date(before, order)


def _names_month(text: str | None) -> bool:
    return text is not None and re.search("[A-Za-z]{3}", text) is not None


def amounts(cells: pa.StringArray, earlier: Sequence[Sequence[Earlier]], notation: Notation) -> Reread:
    """Return a column of amounts; of one that a spreadsheet may have taken for another number is said so."""
    found: list[str | None] = []
    said = []
    for at, (cell, before) in enumerate(zip(cells.to_pylist(), earlier, strict=True)):
        meant = None
        if cell is not None and any(was != (cell, notation) for was in before):
            meant = amount_meant(cell, notation, before)
        in_doubt = meant == IN_DOUBT
        if in_doubt and cell is not None:
            said.append((at, _beside_before(cell, before)))
        shown = spelled(meant, notation) if isinstance(meant, Decimal) else cell
        found.append(None if in_doubt else shown)
    return Reread(_texts(found), IN_DOUBT, tuple(said))


def texts(cells: pa.StringArray, earlier: Sequence[Sequence[Earlier]], longest: int) -> Reread:
    """Return a column of texts; what a spreadsheet took for a number or could not write is as it was, which is said."""
    found = cells.to_pylist()
    said = []
    for at, (cell, before) in enumerate(zip(found, earlier, strict=True)):
        if cell is None or not before:
            continue
        meant = text_meant(cell, [was.text for was in before if was.text], longest)
        if not _is_same(meant, cell):
            found[at] = meant
            said.append((at, f"{cell} and was {meant}"))
    return Reread(_texts(found), "FIGURES_KEPT", tuple(said))


def _beside_before(cell: str, earlier: Sequence[Earlier]) -> str:
    before = next((was.text for was in earlier if was.text and _taken_for(was.text)), cell)
    return cell if _is_same(cell, before) else f"{cell} and was {before}"


def _texts(found: Iterable[str | None]) -> pa.StringArray:
    return pa.array(list(found), pa.string())


IN_DOUBT = "AMBIGUOUS_NUMBER"
"""The code of an amount of which nobody knows whether it is as it was."""


def amount_meant(cell: str, notation: Notation, earlier: Sequence[Earlier]) -> Decimal | str | None:
    """Return the amount that a cell means, None for one that is absent, or the code of what is wrong with it.

    A spreadsheet of another country takes `1,250` for another number than its sender, and writes that. A plain number
    that a cell before could be read as, and was not, may therefore come from nobody.

    Args:
        cell: As the correction has it.
        notation: In which it is read where it is new.
        earlier: What the row had before, the oldest first.
    """
    known: list[tuple[str, Decimal | str | None]] = []
    for was in earlier:
        if was.text is not None:
            known.append((was.text, _amount(was.text, was.notation, known)))
    return _amount(cell, notation, known)


def _amount(
    text: str, notation: Notation, known: Sequence[tuple[str, Decimal | str | None]]
) -> Decimal | str | None:
    for before, meant in reversed(known):
        if _is_same(text, before):
            return IN_DOUBT if isinstance(meant, str) and _two_ways(text) else meant
    number = read_number(text, notation)
    is_plain = isinstance(number, Decimal) and _PLAIN.fullmatch(text.strip(BLANKS))
    if is_plain and any(number in _taken_for(before) and number != meant for before, meant in known):
        return IN_DOUBT
    return number


_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]*[1-9])?")
"""A number as a spreadsheet of another country writes it when it is not told how.

Whoever types `1250.00` says what he means, and so does he who writes the decimal comma of his sender."""


@cache
def _two_ways(text: str) -> frozenset[Decimal]:
    """Return the two numbers that a cell can be, by what is taken for thousands; none where it is one at most."""
    read = {read_number(text, notation) for notation in (Notation.POINT, Notation.COMMA)}
    numbers = frozenset(number for number in read if isinstance(number, Decimal))
    return numbers if len(numbers) > 1 else frozenset()


_LOOSE = (
    re.compile(r"-?[0-9]+(,[0-9]+)*,[0-9]{3,}(\.[0-9]*)?"),
    re.compile(r"-?[0-9]+(\.[0-9]+)*\.[0-9]{3,}(,[0-9]*)?"),
)


@cache
def _taken_for(text: str) -> frozenset[Decimal]:
    """Return the numbers for which spreadsheets take a cell, of different countries different ones.

    They pass over marks of thousands wherever those stand, and take `0,125` for 125.
    """
    plain = text.strip(BLANKS)
    loose = (
        plain.replace(mark, "").replace(point, ".")
        for form, mark, point in zip(_LOOSE, ",.", ".,", strict=True)
        if form.fullmatch(plain)
    )
    return _two_ways(text) | frozenset(map(Decimal, loose))


def spelled(number: Decimal, notation: Notation) -> str:
    """Return an amount as it is read in a notation, and in no other way."""
    return format(number, "f").replace(".", "." if notation is Notation.POINT else ",")


_FIGURES = re.compile(r"0[0-9]+|\+[0-9]+|[0-9]{12,}|[0-9]+(\.[0-9]*0|[eE][+-]?[0-9]{1,2})")
"""Texts of figures that a spreadsheet takes for numbers and does not write as they were."""
_WRITTEN = re.compile(r"(?P<digits>(0|[1-9][0-9]*)([.,][0-9]+)?)(?P<exponent>[eE][+-]?[0-9]{1,3})?")
_DIGITS_OF_SPREADSHEETS = 15


def text_meant(cell: str, earlier: Iterable[str], longest: int) -> str:
    """Return a text as it was before a spreadsheet took it for a number or a day, or could not write it.

    Any other stays as it stands.

    Args:
        cell: As the correction has it, such as `123`, `1.23457E+15`, `04-Mar` or `???`.
        earlier: What the row had before, such as `00123`, `1234567890123456`, `3-4` or `राम`.
        longest: How many characters the column takes: what is longer has to become shorter.
    """
    known: list[tuple[str, str]] = []
    for text in earlier:
        known.append((text, _figures(text, known, longest)))
    return _figures(cell, known, longest)


def _figures(text: str, known: Sequence[tuple[str, str]], longest: int) -> str:
    for before, meant in reversed(known):
        if _is_same(text, before):
            return meant
    taken = (was for _, was in reversed(known) if len(was) <= longest and _is_made_of(text, was))
    return next(taken, text)


_MAY_BE_MADE = (
    r"^\s*([0-9][0-9.,]*([eE][+-]?[0-9]+)?|([0-9]{1,4}[-/. ]{1,2}){1,2}([0-9]{1,4}|\p{L}{3,9}\.?)( 0?0:00(:00)?)?"
    r"|([0-9]{1,2}[-/. ])?\p{L}{3,9}[-/. ]{1,2}[0-9]{1,4})\s*$|\?"
)


def may_be_made(cells: pa.StringArray) -> bool:
    """Return whether some text of a column may be what a spreadsheet made of another: a number, a day, or marks."""
    return bool(pc.any(pc.match_substring_regex(cells, _MAY_BE_MADE)).as_py())


def _is_made_of(cell: str, text: str) -> bool:
    return _is_number_of(cell, text) or _is_day_of(cell, text) or _is_text_in_marks(cell, text)


def _is_text_in_marks(cell: str, text: str) -> bool:
    """Return whether a cell is a text that was saved in an encoding that lacks some of its letters."""
    if text.isascii() or "?" not in cell:
        return False
    letters = text.strip(BLANKS)
    forms = ("".join(_itself_or_marks(letter, units) for letter in letters) for units in (1, 2))
    return any(re.fullmatch(form, cell.strip(BLANKS)) for form in forms)


def _itself_or_marks(letter: str, units: int) -> str:
    """Return how a letter may be written by a program that counts those behind U+FFFF as so many."""
    itself = re.escape(letter)
    marks = r"\?" * (units if letter > "\uffff" else 1)
    return itself if letter.isascii() else f"(?:{itself}|{marks})"


def _is_number_of(cell: str, text: str) -> bool:
    """Return whether a spreadsheet writes a text of figures as a cell has it."""
    written = _WRITTEN.fullmatch(cell.strip(BLANKS))
    if written is None or not _FIGURES.fullmatch(text.strip(BLANKS)):
        return False
    number, was = Decimal(written[0].replace(",", ".")), Decimal(text.strip(BLANKS))
    digits = len(re.sub("[^0-9]", "", written["digits"])) if written["exponent"] else _DIGITS_OF_SPREADSHEETS
    kept = (Context(digits, ROUND_HALF_UP).plus(was), Context(digits, ROUND_DOWN).plus(was))
    return number in (was, *kept, *_as_float(was))


def _as_float(was: Decimal) -> set[Decimal]:
    """Return how programs write the float of a number that keep more of its figures than a spreadsheet shows."""
    kept = float(was)
    return {Decimal(kept), Decimal(repr(kept)), Context(16).plus(was), Context(17).plus(Decimal(kept))}


class _Day(NamedTuple):
    """A day as far as a text tells it; one of a month alone is its first."""

    year: int | None
    month: int
    day: int


_TWO_FIGURES = re.compile(r"([0-9]{1,4})[-/.]([0-9]{1,4})")
_THREE_FIGURES = re.compile(r"([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4}|[0-9]{2})")
_MONTH_AND_FIGURES = (
    re.compile(r"(?P<figures>[0-9]{1,4})[-/. ]{0,2}(?P<month>[^\W\d_]{3,9})\.?"),
    re.compile(r"(?P<month>[^\W\d_]{3,9})[-/. ]{0,2}(?P<figures>[0-9]{1,4})"),
)
_MONTHS_ABROAD = (
    "jan feb mrz apr mai jun jul aug sep okt nov dez",  # German
    "jan feb mär apr mai jun jul aug sep okt nov dez",
    "janv févr mars avr mai juin juil août sept oct nov déc",  # French
    "ene feb mar abr may jun jul ago sep oct nov dic",  # Spanish
    "gen feb mar apr mag giu lug ago set ott nov dic",  # Italian
    "jan feb mrt apr mei jun jul aug sep okt nov dec",  # Dutch
    "jan fev mar abr mai jun jul ago set out nov dez",  # Portuguese
)
_MONTHS = dates.MONTHS | {
    name: number for names in _MONTHS_ABROAD for number, name in enumerate(names.split(), start=1)
}
"""The number of each month by the names that spreadsheets show in their countries."""


def _is_day_of(cell: str, text: str) -> bool:
    """Return whether a spreadsheet that takes a text of figures for a day may show that as a cell has it.

    Two figures are never what it made, and three stay in their order: whoever has changed that has meant to. Nor does
    it write a month in capitals: `SET-6` is no day of September.
    """
    written, taken = cell.strip(BLANKS), text.strip(BLANKS)
    made = frozenset() if written.isupper() else _shown_days(written)
    if not made or (_in_order(written) and _in_order(taken) and _in_order(written) != _in_order(taken)):
        return False
    meant = _shown_days(taken) | _days_of_two_figures(taken)
    return any(_is_one_day(one, other) for one in made for other in meant)


def _shown_days(text: str) -> frozenset[_Day]:
    """Return the days that a text with the name of a month, or with three figures, can be."""
    whole = {_Day(day.year, day.month, day.day) for day in _days(text) if day and not isinstance(day, str)}
    return frozenset(whole or _days_of_a_month(text))


def _days_of_a_month(text: str) -> set[_Day]:
    found = next((found for form in _MONTH_AND_FIGURES if (found := form.fullmatch(text))), None)
    month = None if found is None else _MONTHS.get(found["month"].lower())
    return set() if found is None or month is None else _with_figures(month, found["figures"])


def _days_of_two_figures(text: str) -> set[_Day]:
    found = _TWO_FIGURES.fullmatch(text)
    if found is None:
        return set()
    pairs = ((found[1], found[2]), (found[2], found[1]))
    return {
        day for month, other in pairs if 1 <= int(month) <= 12 for day in _with_figures(int(month), other)
    }


def _with_figures(month: int, figures: str) -> set[_Day]:
    """Return what figures beside a month can make of it: a day of it, or it in a year."""
    if len(figures) > 2:
        return {_Day(int(figures), month, 1)}
    return {
        _Day(None, month, int(figures)),
        *(_Day(century + int(figures), month, 1) for century in (1900, 2000)),
    }


def _in_order(text: str) -> list[int]:
    """Return three figures as they stand, of a year the last two; nothing for any other text."""
    found = _THREE_FIGURES.fullmatch(text)
    return [] if found is None else [int(figures) % 100 for figures in found.groups()]


def _is_one_day(one: _Day, other: _Day) -> bool:
    return one[1:] == other[1:] and (one.year is None or other.year is None or one.year == other.year)


def _is_ambiguous(cell: str) -> bool:
    return dates.read_date(cell, None) == dates.AMBIGUOUS


def _is_same(cell: str, before: str | None) -> bool:
    return before is not None and cell.strip(BLANKS) == before.strip(BLANKS)


def _days(cell: str) -> set[date | str | None]:
    """Return all days that a cell can be."""
    return {dates.read_date(cell, order) for order in get_args(DateOrder)}
