"""A file on its way from the inbox into the archive, and back: at every moment a whole one exists."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline import objects
from bulk_upload_pipeline.exceptions import FileMissingError, FileStillChangingError
from bulk_upload_pipeline.places import Key, named, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulk_upload_pipeline.places import Place

UNFINISHED_COPY = ".unfinished"
"""What a copy in the archive is called until it is whole."""


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
        FileMissingError: It is in neither place, or what waits by now is a link.
        FileStillChangingError: It changed while it was copied, and is where it was.
    """
    if isinstance(folder, Key):
        return _take_into_store(source, folder)
    assert isinstance(source, Path), "what waits in a store is archived there"
    target = folder / source.name
    if keep_source:
        _copy_once(source, target)
    else:
        _move_once(source, target)
        _refuse_link(source, target)
    return target


def _copy_once(source: Path, target: Path) -> None:
    if not target.exists():
        _make_way(source, target)
        _copy(source, target)


def _move_once(source: Path, target: Path) -> None:
    if target.exists():
        _finish_moving(source, target)
    else:
        _make_way(source, target)
        _move(source, target)


def _make_way(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileMissingError(source)
    target.parent.mkdir(parents=True, exist_ok=True)


def _refuse_link(source: Path, target: Path) -> None:
    """Put a link back that somebody has laid in the place of the file since it was seen.

    Where it leads may be read by us and not by him. It is looked at here, where nobody else may change it.
    """
    if target.is_symlink():
        with suppress(FileExistsError):
            source.symlink_to(target.readlink())
        target.unlink()
        with suppress(OSError):
            target.parent.rmdir()
        raise FileMissingError(source)


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
        _copy(source, target, through_links=False)
        source.unlink()


def _finish_moving(source: Path, target: Path) -> None:
    """Remove the source of a move that was cut off after its copy; another file of that name stays."""
    if source.is_file() and not source.samefile(target) and filecmp.cmp(source, target, shallow=False):
        source.unlink()


def _copy(source: Path, target: Path, *, through_links: bool = True) -> None:
    unfinished = target.with_name(UNFINISHED_COPY)
    before = source.stat()
    shutil.copyfile(source, unfinished, follow_symlinks=through_links)
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
        next(place for place in numbered(source) if _is_back(archived, place))
    (folder / UNFINISHED_COPY).unlink(missing_ok=True)
    if folder.exists():
        folder.rmdir()


def _is_back(archived: Path, place: Path) -> bool:
    """Move a file to a place, unless something has it: a rename replaces what was dropped there just now."""
    try:
        os.link(archived, place)
    except FileExistsError:
        # It lies there already when a worker was killed between the two steps.
        if not place.samefile(archived):
            return False
    except OSError:  # on another file system, or one that knows no links
        if place.exists():
            return False
        _move(archived, place)
        return True
    archived.unlink()
    return True


def _put_back_in_store(folder: Key, source: Place) -> None:
    archived = named(folder, source.name)
    assert isinstance(archived, Key)
    assert isinstance(source, Key)
    if objects.found(archived):
        if objects.found(source):
            source = source.with_name(f"{source.stem} ({folder.name}){source.suffix}")
        objects.move(archived, source)


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
