"""Profiles: what differs by sender, and which of them a header belongs to. `profile_files` reads them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

DateOrder = Literal["dmy", "mdy", "ymd"]
OnConflict = Literal["update", "skip", "reject"]

GENERIC = "generic"
"""Name on the receipt of a file that no profile matches, but all profiles' aliases together do."""

_NO_DELIMITER = frozenset('\r\n\0"')
_ACCENTS = frozenset(map(chr, range(0x300, 0x370)))


def is_delimiter(text: str) -> bool:
    """Return whether a text can stand between two cells: one character, no quotation mark and no line break."""
    return len(text) == 1 and text not in _NO_DELIMITER


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A source format.

    Attributes:
        columns: Canonical column to the header names that stand for it.
        required: Canonical columns that may be neither missing nor empty.
        date_order: How a date in figures is read when it can be read two ways.
        decimal_comma: Whether `1.234,56` is the way of this sender (and `1,234.56` is not).
        float_identifiers: Identifiers that the sender's system exports as floats (`17850.0`).
        total_mismatch: Severity of `TOTAL_MISMATCH`.
        expected_every_hours: A file is missed when none came for so long.
    """

    name: str
    title: str = ""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = contract.REQUIRED
    date_order: DateOrder | None = None
    decimal_comma: bool = False
    float_identifiers: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    max_error_rate: float | None = None
    on_conflict: OnConflict = "update"
    total_mismatch: Severity = Severity.ERROR
    expected_every_hours: float | None = None


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """How a header lies over a profile.

    Attributes:
        mapping: Canonical column to position in the header.
        twice: Canonical columns to which two header cells map, with those cells.
        missing: Required canonical columns without a header cell.
    """

    profile: Profile
    mapping: dict[str, int]
    twice: dict[str, tuple[str, str]]
    missing: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Return whether the file can be read by this profile."""
        return not self.missing and not self.twice


_BETWEEN = "\x1f"
_ASCII_PUNCTUATION = {code: None for code in range(128) if not chr(code).isalnum() and chr(code) != _BETWEEN}


def normalised(name: str) -> str:
    """Return a header name without case, accents, spaces and punctuation: `Invoice No.` is `invoiceno`."""
    if name.isascii():
        return name.lower().translate(_ASCII_PUNCTUATION).replace(_BETWEEN, "")
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in decomposed if c.isalnum() or _is_part_of_a_letter(c))


def all_normalised(names: Sequence[str]) -> set[str]:
    """Return the different names of a row, each as `normalised` has it."""
    row = _BETWEEN.join(names)
    if row.isascii() and row.count(_BETWEEN) == len(names) - 1:
        # Every row near the top of a file is asked about, so that it is done in one go.
        return set(row.lower().translate(_ASCII_PUNCTUATION).split(_BETWEEN))
    return {normalised(name) for name in names}


def _is_part_of_a_letter(character: str) -> bool:
    """Return whether a mark changes the letter before it, as the vowel signs of Indian scripts do.

    Latin, Greek and Cyrillic letters keep their meaning without their accents.
    """
    return unicodedata.category(character) in ("Mn", "Mc") and character not in _ACCENTS


class Profiles:
    """The profiles of a home, by name."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        self._by_name = {profile.name: profile for profile in profiles}

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Profile:
        """Return the profile `name`; raises KeyError when there is none."""
        return self.generic if name == GENERIC else self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name == GENERIC or name in self._by_name

    @cached_property
    def generic(self) -> Profile:
        """The aliases of all profiles together, with the contract's own rules and names."""
        columns: dict[str, tuple[str, ...]] = {}
        for column in contract.COLUMNS:
            own = [alias for profile in self for alias in profile.columns.get(column.name, ())]
            columns[column.name] = tuple(dict.fromkeys([column.name, column.title, *own]))
        return Profile(name=GENERIC, title="Any known header names", columns=columns)

    def match(self, header: Sequence[str]) -> HeaderMatch:
        """Return the best match: a profile whose own names fit and cover most columns, else the generic one."""
        own = [_own_names(header, profile) for profile in self]
        fitting = [match for match in own if match.fits]
        generic = _own_names(header, self.generic)
        if not fitting:
            return _lacking_least(own, generic)
        best = lay_over(header, max(fitting, key=lambda match: len(match.mapping)).profile)
        # A sender who never needs a customer's name may lack it; a file that has one is not that sender's.
        needed = set(contract.REQUIRED) & set(generic.mapping) - set(best.mapping)
        return generic if generic.fits and needed else best


def _lacking_least(own: Iterable[HeaderMatch], generic: HeaderMatch) -> HeaderMatch:
    """Return the match of a sender whose names a header has and no others, and who needs less than the contract does.

    So what the header lacks is told without what this sender never sends.
    """
    whole = [match for match in own if match.mapping == generic.mapping]
    return min([generic, *whole], key=lambda match: len(match.missing))


def lay_over(header: Sequence[str], profile: Profile) -> HeaderMatch:
    """Return which header cell is which canonical column under `profile`. Nothing near is guessed.

    Columns for which the header has none of the sender's names are found under the contract's own, too.
    """
    own = _own_names(header, profile)
    known = {
        normalised(name): column.name
        for column in contract.COLUMNS
        if column.name not in own.mapping
        for name in (column.name, column.title)
    }
    free = {
        at: known.get(normalised(cell)) for at, cell in enumerate(header) if at not in own.mapping.values()
    }
    return _laid_over(header, profile, own, free)


def _own_names(header: Sequence[str], profile: Profile) -> HeaderMatch:
    """Return which header cell is which canonical column under the names that a profile states."""
    known = {normalised(alias): name for name, aliases in profile.columns.items() for alias in aliases}
    cells = {at: known.get(normalised(cell)) for at, cell in enumerate(header)}
    return _laid_over(header, profile, HeaderMatch(profile, {}, {}, ()), cells)


def _laid_over(
    header: Sequence[str], profile: Profile, before: HeaderMatch, cells: dict[int, str | None]
) -> HeaderMatch:
    """Return a match to which the cells at some positions are added under the names that they have."""
    mapping, twice = dict(before.mapping), dict(before.twice)
    for position, name in cells.items():
        if name is None:
            continue
        if name in mapping:
            twice[name] = (header[mapping[name]], header[position])
        else:
            mapping[name] = position
    missing = tuple(name for name in profile.required if name not in mapping)
    if not any(name in mapping for name in contract.ITEM_COLUMNS):
        missing = (*missing, "item_name")
    return HeaderMatch(profile, mapping, twice, missing)
