"""Bringing files at hand: everything is read and written as a file of this machine, wherever a home is.

A home in a folder is at hand already, and all here costs nothing. Of a home in an object store each line keeps copies
in a `scratch` folder of its own, which goes with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline import objects, scratch
from bulk_upload_pipeline.exceptions import NO_ROOM, DiskFullError
from bulk_upload_pipeline.places import Key, Place

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from bulk_upload_pipeline.settings import Home, Settings

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@contextmanager
def opened(settings: Settings) -> Generator[Settings]:
    """Yield settings with which the files of the home can be brought at hand, for the length of the block."""
    home = settings.home
    if isinstance(home.root, Path):
        yield settings
        return
    with scratch.folder("home") as copies:
        yield replace(settings, home=replace(home, scratch=copies))


def mirrored(home: Home, place: Place) -> Path:
    """Return where a place of the home is on this machine, or would be if it were brought at hand."""
    if isinstance(place, Path):
        return place
    assert home.scratch is not None, "a line over an object store is opened by storage.opened"
    parts = place.url.removeprefix(f"{home.root}/").split("/")
    return home.scratch.joinpath(*(_harmless(part) for part in parts))


def _harmless(name: str) -> str:
    """Return a name that every disk takes, whatever a key is called."""
    return name if _SAFE.fullmatch(name) else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()


def file_at_hand(home: Home, place: Place) -> Path:
    """Return where a file of the home can be read on this machine.

    Raises:
        FileMissingError: It was to be fetched, and is not there.
    """
    path = mirrored(home, place)
    if isinstance(place, Key) and not path.exists():
        objects.fetch(place, path)
    return path


def folder_at_hand(home: Home, place: Place) -> Path:
    """Return where the files of a folder of the home can be read on this machine; there may be none."""
    folder = mirrored(home, place)
    if isinstance(place, Key):
        for entry in objects.listed(place):
            if not entry.is_folder:
                file_at_hand(home, place / entry.name)
    return folder


def profiles_at_hand(home: Home) -> Path:
    """Return the folder of a home's profiles; those of an object store are fetched when first asked for."""
    folder = home.profiles
    if isinstance(home.root, Key) and not folder.exists():
        folder.mkdir()
        folder_at_hand(home, home.root / folder.name)
    return folder


def publish(home: Home, place: Place) -> None:
    """Put what was written on this machine to where others see it: exactly these files, the last name last.

    Folders in it are published by themselves.
    """
    if isinstance(place, Path):
        return
    written = {path.name: path for path in sorted(mirrored(home, place).iterdir()) if path.is_file()}
    for name, path in written.items():
        objects.put(path, place / name)
    for entry in objects.listed(place):
        if entry.name not in written and not entry.is_folder:
            objects.remove(place / entry.name)


def write_new(home: Home, place: Place, text: str) -> None:
    """Write a text to where others see it.

    Raises:
        FileExistsError: There is a file already.
    """
    path = mirrored(home, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    if isinstance(place, Key) and not objects.put_new(path, place):
        raise FileExistsError(str(place))


def exists(place: Place) -> bool:
    """Return whether there is a file at a place."""
    return place.exists() if isinstance(place, Path) else objects.found(place) is not None


def names(folder: Place) -> set[str]:
    """Return the names of all that lies in a folder; none when it does not exist."""
    if isinstance(folder, Key):
        return {entry.name for entry in objects.listed(folder)}
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def folders(parent: Place) -> list[str]:
    """Return the names of the folders in another one."""
    if isinstance(parent, Key):
        return [entry.name for entry in objects.listed(parent) if entry.is_folder]
    with os.scandir(parent) as entries:  # which asks a share nothing more of each of them
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def remove(home: Home, place: Place) -> None:
    """Remove a folder with all that is in it, here and where others see it."""
    shutil.rmtree(mirrored(home, place), ignore_errors=True)
    if isinstance(place, Key):
        objects.remove(place)


def let_go(home: Home, places: Iterable[Place]) -> None:
    """Remove the copies on this machine of folders that nobody reads here any more."""
    for place in places:
        if isinstance(place, Key):
            shutil.rmtree(mirrored(home, place), ignore_errors=True)


def disk_of(home: Home) -> Path:
    """Return a folder on the disk that a home fills on this machine."""
    return home.root if isinstance(home.root, Path) else Path(tempfile.gettempdir())


@contextmanager
def naming_a_full_disk(home: Home, batch_id: str) -> Generator[None]:
    """Say which disk it is that is full while a batch is worked on.

    Raises:
        DiskFullError: It was full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskFullError(batch_id, disk_of(home)) from error
