"""Profiles: what differs by sender, as TOML files, and which of them a header belongs to.

The shipped profiles lie in `profiles/`; a home adds its own in `BULK_UPLOAD_HOME/profiles/`, which win
over a shipped one of the same name.
"""

from __future__ import annotations

import tomllib
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.exceptions import ProfileInvalidError
from bulk_upload_pipeline.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

DateOrder = Literal["dmy", "mdy", "ymd"]
OnConflict = Literal["update", "skip", "reject"]

GENERIC = "generic"
"""Name on the receipt of a file that no profile matches, but all profiles' aliases together do."""


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


def normalised(name: str) -> str:
    """Return a header name without case, accents, spaces and punctuation: `Invoice No.` is `invoiceno`."""
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in decomposed if c.isalnum() and not unicodedata.combining(c))


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
        """Return the best match: a profile that fits with most columns, else the generic one."""
        fitting = [match for match in (lay_over(header, profile) for profile in self) if match.fits]
        generic = lay_over(header, self.generic)
        if not fitting:
            return generic
        best = max(fitting, key=lambda match: len(match.mapping))
        # A header that mixes the names of two senders is nobody's own format.
        return generic if generic.fits and len(generic.mapping) > len(best.mapping) else best


def lay_over(header: Sequence[str], profile: Profile) -> HeaderMatch:
    """Return which header cell is which canonical column under `profile`. Nothing near is guessed."""
    known = {normalised(alias): name for name, aliases in profile.columns.items() for alias in aliases}
    mapping: dict[str, int] = {}
    twice: dict[str, tuple[str, str]] = {}
    for position, cell in enumerate(header):
        name = known.get(normalised(cell))
        if name is None:
            continue
        if name in mapping:
            twice[name] = (header[mapping[name]], cell)
        else:
            mapping[name] = position
    missing = tuple(name for name in profile.required if name not in mapping)
    if not any(name in mapping for name in contract.ITEM_COLUMNS):
        missing = (*missing, "item_name")
    return HeaderMatch(profile, mapping, twice, missing)


def load_profiles(folder: Path | None = None) -> Profiles:
    """Read the shipped profiles and, over them, those in `folder`.

    Raises:
        ProfileInvalidError: A file is no TOML or says what no profile can say.
    """
    shipped = files("bulk_upload_pipeline").joinpath("profiles")
    texts = {e.name: e.read_text("utf-8") for e in shipped.iterdir() if e.name.endswith(".toml")}
    found = [read_profile(texts[name], name) for name in sorted(texts)]
    if folder is not None and folder.is_dir():
        found += [read_profile(p.read_text("utf-8"), str(p)) for p in sorted(folder.glob("*.toml"))]
    return Profiles(found)


def read_profile(text: str, source: str) -> Profile:
    """Return the profile that a TOML text states; `source` names it in errors.

    Raises:
        ProfileInvalidError: With the key that is wrong and what it may be.
    """
    try:
        stated = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileInvalidError(source, f"it is not TOML: {error}") from error
    _refuse_unknown(stated, source)
    columns = {name: _names(aliases, name, source) for name, aliases in stated.pop("columns", {}).items()}
    for key in ("required", "float_identifiers"):
        if key in stated:
            stated[key] = _names(stated[key], key, source)
    _refuse_unknown_columns(
        [*columns, *stated.get("required", ()), *stated.get("float_identifiers", ())], source
    )
    _refuse_wrong_values(stated, source)
    if "total_mismatch" in stated:
        stated["total_mismatch"] = Severity(stated["total_mismatch"])
    return Profile(columns=columns, **stated)


def _names(values: object, key: str, source: str) -> tuple[str, ...]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    raise ProfileInvalidError(source, f"`{key}` must be a list of names in quotation marks")


def _refuse_unknown(stated: dict[str, Any], source: str) -> None:
    allowed = Profile.__dataclass_fields__
    for key in stated:
        if key not in allowed:
            raise ProfileInvalidError(source, f"it has the unknown key `{key}` (known: {', '.join(allowed)})")
    if not isinstance(stated.get("name"), str) or not stated["name"]:
        raise ProfileInvalidError(source, "it has no `name`")
    if not isinstance(stated.get("columns", {}), dict):
        raise ProfileInvalidError(source, "`columns` must be a table of lists of header names")


def _refuse_unknown_columns(names: Iterable[str], source: str) -> None:
    for name in names:
        if name not in contract.BY_NAME:
            raise ProfileInvalidError(source, f"`{name}` is no column of the contract")


_CHOICES: dict[str, tuple[str, ...]] = {
    "date_order": get_args(DateOrder),
    "on_conflict": get_args(OnConflict),
    "total_mismatch": tuple(Severity),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "decimal_comma": (bool,),
    "encoding": (str,),
    "delimiter": (str,),
    "sheet": (str,),
    "max_error_rate": (int, float),
    "expected_every_hours": (int, float),
}


def _refuse_wrong_values(stated: dict[str, Any], source: str) -> None:
    for key, choices in _CHOICES.items():
        if key in stated and stated[key] not in choices:
            raise ProfileInvalidError(source, f"`{key}` must be one of {', '.join(choices)}")
    for key, types in _TYPES.items():
        if key in stated and not (isinstance(stated[key], types) and type(stated[key]) in types):
            raise ProfileInvalidError(source, f"`{key}` must be a {types[-1].__name__}")
    if len(stated.get("delimiter", ",")) != 1:
        raise ProfileInvalidError(source, "`delimiter` must be a single character")
    if not 0 < stated.get("max_error_rate", 0.5) <= 1:
        raise ProfileInvalidError(source, "`max_error_rate` must be above 0 and at most 1")
