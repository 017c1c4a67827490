"""The watched folder: which files are settled, and how one is taken out of it without ever being lost."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import re
import shutil
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from bulk_upload_pipeline import objects
from bulk_upload_pipeline.exceptions import FileMissingError, FileStillChangingError
from bulk_upload_pipeline.places import Key, is_usable, named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from bulk_upload_pipeline.places import Place

UNFINISHED = (".part", ".tmp", ".crdownload", ".partial", ".filepart")
"""Endings under which copying programs and browsers write what is not complete."""

UNFINISHED_COPY = ".unfinished"
DROPPING = ".dropping-"
"""What we copy ourselves begins so until it is whole; a hidden file is never taken."""

NO_PROFILE = "folders that are no profile"

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
    """

    settled: tuple[FoundFile, ...] = ()
    restless: tuple[FoundFile, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


def look(inbox: Place, is_profile: Callable[[str], bool], seen: Mapping[str, str]) -> Look:
    """Look at the inbox once, without reading any content.

    Args:
        inbox: The folder; its subfolders named after a profile are looked into as well.
        is_profile: Whether a subfolder's name is a profile.
        seen: Fingerprints by name (`name_in_inbox`) that the look before found.
    """
    found: list[FoundFile] = []
    left_out: dict[str, int] = {}
    for seen_now in _objects(inbox, is_profile) if isinstance(inbox, Key) else _files(inbox, is_profile):
        if isinstance(seen_now, str):
            left_out[seen_now] = left_out.get(seen_now, 0) + 1
        else:
            found.append(seen_now)
    found.sort(key=lambda file: file.mtime_ns)
    settled = tuple(f for f in found if seen.get(name_in_inbox(f)) == f.fingerprint)
    restless = tuple(f for f in found if seen.get(name_in_inbox(f)) != f.fingerprint)
    return Look(settled, restless, left_out)


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
        path = inbox / folder / entry.name if folder else inbox / entry.name
        yield FoundFile(path, folder, stat.st_size, stat.st_mtime_ns, stat.st_ino)


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
                with os.scandir(entry.path) as inner:
                    for file in inner:
                        yield file, entry.name, _why_left_out(file)
            else:
                yield entry, None, _why_left_out(entry)


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


def take(source: Place, folder: Place, *, keep_source: bool) -> Place:
    """Bring a file into its archive folder and return where it is now. Doing it twice does it once.

    Within a file system this is one rename. Onto another one the file is copied, synced and renamed into
    place before the source goes, so that at every moment a whole file exists. In an object store it is copied and
    then deleted; of two who do so at the same time for two batches both would succeed: the caller sees to it that
    nobody else takes from `source` meanwhile.

    Args:
        source: Where the file waits.
        folder: `archive/<batch_id>/`.
        keep_source: Copy instead of move: the file was named on the command line and is the user's own.

    Raises:
        FileMissingError: It is in neither place.
        FileStillChangingError: It changed while it was copied, and is where it was.
    """
    if isinstance(folder, Key):
        return _take_into_store(source, folder)
    assert isinstance(source, Path), "what waits in a store is archived there"
    target = folder / source.name
    if target.exists():
        if not keep_source:
            _finish_moving(source, target)
        return target
    if not source.is_file():
        raise FileMissingError(source)
    folder.mkdir(parents=True, exist_ok=True)
    if keep_source:
        _copy(source, target)
    else:
        _move(source, target)
    return target


def _take_into_store(source: Place, folder: Key) -> Place:
    """Archive an object of the inbox, or a file of this machine, which stays."""
    target = named(folder, source.name)
    assert isinstance(target, Key)
    archived = objects.found(target)
    if isinstance(source, Key):
        if archived:
            objects.finish_moving(source, target)
        else:
            objects.move(source, target)
    elif not archived:
        if not source.is_file():
            raise FileMissingError(source)
        with unchanging(source, None):
            objects.put(source, target)
    return target


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)
        source.unlink()


def _finish_moving(source: Path, target: Path) -> None:
    """Remove the source of a move that was cut off after its copy; another file of that name stays."""
    if source.is_file() and not source.samefile(target) and filecmp.cmp(source, target, shallow=False):
        source.unlink()


def _copy(source: Path, target: Path) -> None:
    unfinished = target.with_name(UNFINISHED_COPY)
    before = source.stat()
    shutil.copyfile(source, unfinished)
    after = source.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        unfinished.unlink()
        raise FileStillChangingError(source)
    shutil.copystat(source, unfinished)
    _sync(unfinished)
    unfinished.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_back(folder: Place, source: Place) -> None:
    """Return a file to the inbox that was taken while somebody still wrote it.

    Args:
        folder: Its archive folder, which may be empty.
        source: Where it waited. Should another file have that name by now, this one gets a number.
    """
    if isinstance(folder, Key):
        _put_back_in_store(folder, source)
        return
    assert isinstance(source, Path), "what waits in a store is archived there"
    archived = folder / source.name
    if archived.exists():
        _move(archived, _free(source))
    (folder / UNFINISHED_COPY).unlink(missing_ok=True)
    if folder.exists():
        folder.rmdir()


def _put_back_in_store(folder: Key, source: Place) -> None:
    archived = named(folder, source.name)
    assert isinstance(archived, Key)
    assert isinstance(source, Key)
    if objects.found(archived):
        if objects.found(source):
            source = source.with_name(f"{source.stem} ({folder.name}){source.suffix}")
        objects.move(archived, source)


def _free(wanted: Path) -> Path:
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
    return path


def content_hash(path: Path, size: int | None) -> str:
    """Return the SHA-256 of a file in hex; `size` bytes are expected of it, None expects any number.

    Raises:
        FileStillChangingError: The file has another size, or changed while it was read.
    """
    with unchanging(path, size), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def unchanging(path: Path, size: int | None) -> Iterator[None]:
    """Make sure that nobody writes a file while the block reads it; whatever the block makes of it.

    Raises:
        FileStillChangingError: It has not `size` bytes (None allows any number), or changed meanwhile.
    """
    before = path.stat()
    if size is not None and before.st_size != size:
        raise FileStillChangingError(path)
    try:
        yield
    finally:
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise FileStillChangingError(path)


def drop(source: Path, folder: Place) -> Place:
    """Copy a file, which stays where it is, into the inbox; return its place there.

    It appears under its own name only when it is complete; a name that is taken gets a number.

    Raises:
        FileMissingError: There is no such file.
    """
    if not source.is_file():
        raise FileMissingError(source)
    if isinstance(folder, Key):
        return _put(source, folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{DROPPING}{uuid4().hex}.part"
    shutil.copyfile(source, unfinished)
    target = _free(folder / source.name)
    unfinished.rename(target)
    return target


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
