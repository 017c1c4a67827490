"""The watched folder: which files in it are settled, and how one is dropped there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from bulk_upload_pipeline import objects
from bulk_upload_pipeline.exceptions import FileMissingError, NeverTakenError
from bulk_upload_pipeline.places import Key, is_usable, named, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from bulk_upload_pipeline.places import Place

UNFINISHED = (".part", ".tmp", ".crdownload", ".partial", ".filepart")
"""Endings under which copying programs and browsers write what is not complete."""

DROPPING = ".dropping-"
"""What we copy ourselves begins so until it is whole; a hidden file is never taken."""

NO_PROFILE = "folders that are no profile"
UNREADABLE = "folders that we may not read"
GONE = "folders that cannot be read"
CLOSED = "files that cannot be looked at"

SLUG_LENGTH = 40


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file in the inbox, as one look saw it.

    Attributes:
        folder: Name of the profile folder in which it lies, None for the inbox itself.
        identity: Its inode; of an object its ETag.
    """

    path: Place
    folder: str | None
    size: int
    mtime_ns: int
    identity: int | str

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the file's place, size, time or identity on disk."""
        stated = f"{self.path}|{self.size}|{self.mtime_ns}|{self.identity}"
        return hashlib.sha256(os.fsencode(stated)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the inbox saw.

    Attributes:
        settled: Files that have not changed since the look before, the oldest first.
        restless: Files that are new or have changed: they wait for the next look.
        left_out: How many entries are never taken, by the reason.
        strangers: Names of folders that are no profile.
    """

    settled: tuple[FoundFile, ...] = ()
    restless: tuple[FoundFile, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()


def look(inbox: Place, is_profile: Callable[[str], bool], seen: Mapping[str, str]) -> Look:
    """Look at the inbox once, without reading any content.

    Args:
        inbox: The folder; its subfolders named after a profile are looked into as well.
        is_profile: Whether a subfolder's name is a profile.
        seen: Fingerprints by name (`name_in_inbox`) that the look before found.
    """
    found: list[FoundFile] = []
    left_out: dict[str, int] = {}
    strangers: list[str] = []

    def is_known(name: str) -> bool:
        known = is_profile(name)
        if not known:
            strangers.append(name)
        return known

    for seen_now in _objects(inbox, is_known) if isinstance(inbox, Key) else _files(inbox, is_known):
        if isinstance(seen_now, str):
            left_out[seen_now] = left_out.get(seen_now, 0) + 1
        else:
            found.append(seen_now)
    found.sort(key=lambda file: file.mtime_ns)
    settled: list[FoundFile] = []
    restless: list[FoundFile] = []
    for file in found:
        before = seen.get(name_in_inbox(file))
        # Of a hundred thousand files a look before has remembered few.
        is_settled = before is not None and before == file.fingerprint
        (settled if is_settled else restless).append(file)
    return Look(tuple(settled), tuple(restless), left_out, tuple(sorted(strangers)))


def strangers(inbox: Path, is_profile: Callable[[str], bool]) -> list[str]:
    """Return the folders of an inbox that are no profile, without a look at any file."""
    with os.scandir(inbox) as entries:
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in folders if not is_profile(name))


def name_in_inbox(file: FoundFile) -> str:
    """Return 12 hex digits for the file's place, so that a cursor stays short whatever the name is."""
    return hashlib.sha256(os.fsencode(str(file.path))).hexdigest()[:12]


def remaining(files: list[FoundFile]) -> list[FoundFile]:
    """Return the files that are still where a look has seen them."""
    folders = {file.path.parent for file in files if isinstance(file.path, Key)}
    there = {folder / entry.name for folder in folders for entry in objects.listed(folder)}
    return [
        file for file in files if (file.path.exists() if isinstance(file.path, Path) else file.path in there)
    ]


def _files(inbox: Path, is_profile: Callable[[str], bool]) -> Iterator[FoundFile | str]:
    """Yield each file of a folder, or the reason why it is never taken."""
    for entry, folder, reason in _entries(inbox, is_profile):
        if reason:
            yield reason
            continue
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # taken or renamed since the folder was listed
        except OSError:
            yield CLOSED  # a folder may be listed and what is in it not be looked at; the others' files are taken
            continue
        yield FoundFile(Path(entry.path), folder, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _objects(inbox: Key, is_profile: Callable[[str], bool]) -> Iterator[FoundFile | str]:
    """Yield each object of an inbox in a store, or the reason why it is never taken."""
    for entry in objects.listed(inbox):
        if entry.is_folder and is_profile(entry.name):
            inner = objects.listed(inbox / entry.name)
            yield from (_object(inbox / entry.name, entry.name, each) for each in inner)
        else:
            yield _object(inbox, None, entry)


def _object(place: Key, folder: str | None, entry: objects.Entry) -> FoundFile | str:
    if entry.is_folder:
        return NO_PROFILE
    if not is_usable(entry.name):
        return "names that cannot be used"
    return _why_unnamed(entry.name) or FoundFile(
        place / entry.name, folder, entry.size, entry.modified_ns, entry.etag
    )


def _entries(
    inbox: Path, is_profile: Callable[[str], bool]
) -> Iterator[tuple[os.DirEntry[str], str | None, str | None]]:
    """Yield each entry with its profile folder and, if it is never taken, the reason."""
    with os.scandir(inbox) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and is_profile(entry.name):
                yield from _of_folder(entry)
            else:
                yield entry, None, _why_left_out(entry)


def _of_folder(folder: os.DirEntry[str]) -> Iterator[tuple[os.DirEntry[str], str | None, str | None]]:
    """Yield each entry of one sender's folder; where it cannot be read, the others' files are taken nevertheless."""
    try:
        with os.scandir(folder.path) as inner:
            for file in inner:
                yield file, folder.name, _why_left_out(file)
    except PermissionError:
        yield folder, None, UNREADABLE
    except FileNotFoundError:
        return  # it was removed since the inbox was listed
    except OSError:
        yield folder, None, GONE  # on a share that does not answer, say


def _why_left_out(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return NO_PROFILE
    if not entry.is_file(follow_symlinks=False):
        return "special files"
    return _why_unnamed(entry.name)


def _why_unnamed(name: str) -> str | None:
    if name.startswith("."):
        return "hidden files"
    if name.startswith("~$") or name.lower().endswith(UNFINISHED):
        return "unfinished files"
    return None


def found_file(path: Path) -> FoundFile:
    """Return what there is to know of one file outside the inbox, without reading it.

    Raises:
        FileMissingError: There is no such file.
    """
    if not path.is_file():
        raise FileMissingError(path)
    stat = path.stat()
    return FoundFile(path.absolute(), None, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def batch_id_for(file: FoundFile, now: datetime) -> str:
    """Return the batch id, safe as a folder name and partition key whatever the file is called.

    Args:
        file: The file to become a batch.
        now: The moment, in UTC.
    """
    # A file can be named twice within a second, on a command line.
    exactly = hashlib.sha256(f"{file.fingerprint}|{now.isoformat()}".encode()).hexdigest()
    return f"{now:%Y%m%dT%H%M%S}-{slug(file.path.stem)}-{exactly[:8]}"


def slug(stem: str) -> str:
    """Return a file's name as a part of a batch id: `[a-z0-9-]`, at most `SLUG_LENGTH` characters."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_LENGTH].strip("-") or "file"


def drop(source: Path, folder: Place) -> Place:
    """Copy a file, which stays where it is, into the inbox; return its place there.

    It appears under its own name only when it is complete; a name that is taken gets a number.

    Raises:
        FileMissingError: There is no such file.
        NeverTakenError: Nobody would take it from there.
    """
    if not source.is_file():
        raise FileMissingError(source)
    if kind := _why_unnamed(source.name):
        raise NeverTakenError(source, kind)
    if isinstance(folder, Key):
        return _put(source, folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{DROPPING}{uuid4().hex}.part"
    try:
        shutil.copyfile(source, unfinished)
        return next(target for target in numbered(folder / source.name) if _is_named(unfinished, target))
    except BaseException:  # whatever stopped it: half of a huge file would fill the disk further
        unfinished.unlink(missing_ok=True)
        raise


def _is_named(unfinished: Path, target: Path) -> bool:
    """Give a complete copy its name, unless something has it: a rename replaces what another `drop` has just named."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        return False
    except OSError:  # a file system that knows no links
        if target.exists():
            return False
        unfinished.rename(target)
        return True
    unfinished.unlink()
    return True


def _put(source: Path, folder: Key) -> Key:
    for number in count(1):
        name = source.name if number == 1 else f"{source.stem} ({number}){source.suffix}"
        target = named(folder, name)
        assert isinstance(target, Key)
        if objects.put_new(source, target):
            return target
    raise AssertionError("numbers do not end")


def sweep(inbox: Place, older_than: float) -> None:
    """Remove what a killed `drop` left in the inbox or a folder in it: its copies, not what others write.

    Args:
        inbox: The folder.
        older_than: Seconds since the epoch: a copy that was written to since then may be under way.
    """
    if isinstance(inbox, Key):
        return  # an object appears whole, so that nothing unfinished can be left
    for pattern in (f"{DROPPING}*.part", f"*/{DROPPING}*.part"):
        for left in inbox.glob(pattern):
            if left.is_file() and left.stat().st_mtime < older_than:
                left.unlink(missing_ok=True)
