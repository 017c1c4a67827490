"""Folders for what a process needs for a while, in the system's temporary folder (`TMPDIR`).

Each goes with its block. What a killed process left there, the next one on the same machine that makes one removes:
the largest file is the likeliest to be killed, and what it unpacked would fill the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline.exceptions import NO_ROOM, ScratchFullError

if TYPE_CHECKING:
    from collections.abc import Generator

PREFIX = "bulk-upload-"
LOCK = ".lock"
ROOM = 1 << 20
"""Bytes: a disk that has so few left is full; what did not fit may have been as long as a buffer."""
BEING_MADE_S = 60
"""A lock file younger than this may belong to a process that has not come to lock it."""


@contextmanager
def folder(purpose: str) -> Generator[Path]:
    """Make a private folder for the length of the block.

    Args:
        purpose: A word of its name, for who looks what fills the disk.

    Raises:
        ScratchFullError: There was no room for what the block wrote there.
    """
    _sweep()
    with tempfile.NamedTemporaryFile(prefix=f"{PREFIX}{purpose}-", suffix=LOCK) as lock:
        # The kernel drops it with the process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Path(lock.name.removesuffix(LOCK))
        made.mkdir(mode=0o700)
        try:
            yield made
        except OSError as error:
            if error.errno in NO_ROOM and _is_full(made):
                raise ScratchFullError(made.parent) from error
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _is_full(folder: Path) -> bool:
    """Return whether this disk is the full one: who works in a folder may write elsewhere, too."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize < ROOM or (room.f_files > 0 and room.f_favail == 0)


def _sweep() -> None:
    """Remove the folders of this user's processes that are no more."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{LOCK}"):
        with suppress(OSError), lock.open("rb") as file:
            if time.time() - lock.stat().st_mtime < BEING_MADE_S:
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_name(lock.name.removesuffix(LOCK)), ignore_errors=True)
            lock.unlink()
