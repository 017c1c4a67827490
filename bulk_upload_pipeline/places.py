"""What a place is: a path of this machine, or a key in an object store that many machines reach.

A `Key` can be named, joined and compared, but not opened: `storage` brings what lies there at hand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEME = "s3://"

LONGEST_NAME = 255
"""Bytes of a name that every disk takes; a key has room for four times as many."""

VERSION = "?versionId="
"""What clients of S3 take for a version of an object with a shorter name."""


@dataclass(frozen=True, slots=True)
class Key:
    """An object, or all objects below it, in a bucket. Its name is hostile input: it is never a pattern.

    Attributes:
        url: `s3://bucket/prefix/name`, without a slash at its end; nothing in it is escaped.
    """

    url: str

    def __truediv__(self, name: str) -> Key:
        """Return what lies below this one; an empty name is the place itself."""
        return Key(f"{self.url}/{name}") if name else self

    def __str__(self) -> str:
        return self.url

    @property
    def parent(self) -> Key:
        """What this lies in."""
        return Key(self.url.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name, with its point."""
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> Key:
        """Return the place beside this one that has another name."""
        return self.parent / name


Place: TypeAlias = Path | Key


def place_of(text: str) -> Place:
    """Return the place that a URL or a path names."""
    return Key(text.rstrip("/")) if text.startswith(SCHEME) else Path(text)


def numbered(wanted: Path) -> Iterator[Path]:
    """Yield the wanted path, and then, for ever, those with a number behind its name."""
    yield wanted
    for number in count(2):
        yield wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")


def is_usable(name: str) -> bool:
    """Return whether an object of this name can be asked for by it, and its copy be called so."""
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    return 0 < length <= LONGEST_NAME and name.isprintable() and VERSION not in name


def named(folder: Place, name: str) -> Place:
    """Return the place of a file in a folder; in an object store a name that is not usable becomes a digest."""
    if isinstance(folder, Key) and not is_usable(name):
        name = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return folder / name


def lies_in(place: Place, folder: Place) -> bool:
    """Return whether a place is below another one."""
    if isinstance(place, Key):
        return isinstance(folder, Key) and place.url.startswith(f"{folder.url}/")
    return isinstance(folder, Path) and place.is_relative_to(folder)
