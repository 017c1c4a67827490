"""Profiles as TOML files, one each: read, and refused with a sentence where they say what cannot be.

The shipped ones lie in `profiles/`; a home adds its own in `BULK_UPLOAD_HOME/profiles/`, which win over a
shipped one of the same name.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, get_args

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.contract import Kind
from bulk_upload_pipeline.exceptions import ProfileInvalidError
from bulk_upload_pipeline.model import Severity
from bulk_upload_pipeline.profiles import (
    GENERIC,
    DateOrder,
    OnConflict,
    Profile,
    Profiles,
    is_delimiter,
    normalised,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
"""A profile's name is the name of its folder in the inbox, too."""


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """A profile and where it was read.

    Attributes:
        path: The file in the home.
        problem: Why it cannot be used; None when it can.
    """

    path: Path
    profile: Profile | None = None
    problem: ProfileInvalidError | None = None


def load_profiles(folder: Path | None = None) -> Profiles:
    """Read the shipped profiles and, over them, those in `folder`.

    Raises:
        ProfileInvalidError: A file is no TOML or says what no profile can say.
    """
    own = home_profiles(folder)
    for found in own:
        if found.problem is not None:
            raise found.problem
    return _with_shipped(own)


def usable_profiles(folder: Path | None = None) -> Profiles:
    """Read as `load_profiles` does, without the files that cannot be used: for whoever loads nothing by them."""
    return _with_shipped(home_profiles(folder))


def _with_shipped(own: Iterable[ProfileFile]) -> Profiles:
    return Profiles([*shipped_profiles(), *(found.profile for found in own if found.profile)])


@cache
def shipped_profiles() -> tuple[Profile, ...]:
    """Return the profiles that come with the package, by name."""
    shipped = files("bulk_upload_pipeline").joinpath("profiles")
    texts = {e.name: e.read_text("utf-8") for e in shipped.iterdir() if e.name.endswith(".toml")}
    return tuple(read_profile(texts[name], name) for name in sorted(texts))


def home_profiles(folder: Path | None) -> list[ProfileFile]:
    """Return every profile of a home, those that cannot be used included, by file name."""
    if folder is None or not folder.is_dir():
        return []
    found: list[ProfileFile] = []
    names: dict[str, Path] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            profile = _read_file(path)
            if profile.name in names:
                same = f"{names[profile.name].name} has the name `{profile.name}`, too"
                raise ProfileInvalidError(str(path), same)
        except ProfileInvalidError as error:
            found.append(ProfileFile(path, problem=error))
        else:
            names[profile.name] = path
            found.append(ProfileFile(path, profile))
    return found


def stated_by(profile: Profile) -> dict[str, Any]:
    """Return the keys that a profile states besides its names: what differs from a sender who states nothing."""
    usual = asdict(Profile(name=profile.name, title=profile.title, columns=profile.columns))
    return {key: value for key, value in asdict(profile).items() if value != usual[key]}


def _read_file(path: Path) -> Profile:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ProfileInvalidError(str(path), f"it cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ProfileInvalidError(
            str(path), f"byte {error.start + 1:,} of it is no UTF-8, as TOML must be"
        ) from error
    return read_profile(text, str(path))


def read_profile(text: str, source: str) -> Profile:
    """Return the profile that a TOML text states; `source` names it in errors.

    Raises:
        ProfileInvalidError: With the key that is wrong and what it may be.
    """
    try:
        stated = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileInvalidError(source, f"it is not TOML: {error}") from error
    try:
        return _profile(stated)
    except _Wrong as wrong:
        raise ProfileInvalidError(source, str(wrong)) from None


class _Wrong(ValueError):
    """What is wrong with a profile, before anybody says which profile it is."""


def _profile(stated: dict[str, Any]) -> Profile:
    _refuse_unknown_keys(stated)
    _refuse_wrong_name(stated.get("name"))
    columns = {name: _names(aliases, name) for name, aliases in stated.pop("columns", {}).items()}
    for key in ("required", "float_identifiers"):
        if key in stated:
            stated[key] = _names(stated[key], key)
    _refuse_unknown_columns([*columns, *stated.get("required", ()), *stated.get("float_identifiers", ())])
    _refuse_wrong_aliases(columns)
    _refuse_wrong_values(stated)
    if "total_mismatch" in stated:
        stated["total_mismatch"] = Severity(stated["total_mismatch"])
    return Profile(columns=columns, **stated)


def _names(values: object, key: str) -> tuple[str, ...]:
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    raise _Wrong(f"`{key}` must be a list of names in quotation marks")


def _refuse_unknown_keys(stated: dict[str, Any]) -> None:
    allowed = Profile.__dataclass_fields__
    for key in stated:
        if key not in allowed:
            raise _Wrong(f"it has the unknown key `{key}` (known: {', '.join(allowed)})")
    if not isinstance(stated.get("columns", {}), dict):
        raise _Wrong("`columns` must be a table of lists of header names")


def _refuse_wrong_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise _Wrong("it has no `name`")
    if name == GENERIC:
        raise _Wrong(f"the name `{GENERIC}` stands for all profiles together")
    if not _NAME.fullmatch(name):
        raise _Wrong(
            f"the name `{name}` must be a folder's name of small letters, digits, `_` and `-`, at most 50"
        )


def _refuse_unknown_columns(names: Iterable[str]) -> None:
    for name in names:
        if name not in contract.BY_NAME:
            raise _Wrong(
                f"`{name}` is no column of the contract (`bulk-upload explain --columns` lists them)"
            )


def _refuse_wrong_aliases(columns: dict[str, tuple[str, ...]]) -> None:
    meant: dict[str, str] = {}
    for name, aliases in columns.items():
        for alias in aliases:
            key = normalised(alias)
            if not key:
                raise _Wrong(f"`{name}` has the header name `{alias}`, which has neither letter nor digit")
            if meant.setdefault(key, name) != name:
                raise _Wrong(f"the header name `{alias}` stands for both `{meant[key]}` and `{name}`")


_CHOICES: dict[str, tuple[str, ...]] = {
    "date_order": get_args(DateOrder),
    "on_conflict": get_args(OnConflict),
    "total_mismatch": tuple(Severity),
}
_WORDS: dict[type, str] = {str: "a text in quotation marks", bool: "true or false", float: "a number"}
_TYPES: dict[str, type] = {
    "title": str,
    "decimal_comma": bool,
    "encoding": str,
    "delimiter": str,
    "sheet": str,
    "max_error_rate": float,
    "expected_every_hours": float,
}


def wanted_of(key: str) -> str:
    """Return what may stand under a key of a profile, in words."""
    if key in _CHOICES:
        return ", ".join(f'"{choice}"' for choice in _CHOICES[key])
    lists = {"required": "a list of columns", "float_identifiers": "a list of columns"}
    tables = {"columns": "a table of lists of header names", "name": "small letters, digits, `_` and `-`"}
    return (lists | tables).get(key) or _WORDS[_TYPES[key]]


def _refuse_wrong_values(stated: dict[str, Any]) -> None:
    for key, choices in _CHOICES.items():
        if key in stated and stated[key] not in choices:
            raise _Wrong(f"`{key}` must be one of {', '.join(choices)}")
    for key, wanted in _TYPES.items():
        if key in stated and type(stated[key]) not in (wanted, int if wanted is float else wanted):
            raise _Wrong(f"`{key}` must be {_WORDS[wanted]}")
    if not is_delimiter(stated.get("delimiter", ",")):
        raise _Wrong("`delimiter` must be a single character, and neither a quotation mark nor a line break")
    if not 0 < stated.get("max_error_rate", 0.5) <= 1:
        raise _Wrong("`max_error_rate` must be above 0 and at most 1")
    if not 0 < stated.get("expected_every_hours", 24) < math.inf:
        raise _Wrong("`expected_every_hours` must be above 0")
    _refuse_unknown_encoding(stated.get("encoding", "utf-8"))
    for name in stated.get("float_identifiers", ()):
        if contract.BY_NAME[name].kind is not Kind.TEXT:
            raise _Wrong(f"`float_identifiers` names `{name}`, which is no text")


def _refuse_unknown_encoding(name: str) -> None:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise _Wrong(f"`encoding` is `{name}`, which is no encoding (utf-8 and cp1252 are)") from None
