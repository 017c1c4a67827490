"""The embedded PostgreSQL of a home: its users start it together, and the last of them stops it."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from bulk_upload_pipeline.exceptions import EmbeddedPostgresError
from bulk_upload_pipeline.serving.cluster import cluster_in, postmaster_of, started, stop

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import sqlalchemy as sa


@contextmanager
def in_use(folder: Path) -> Generator[sa.URL]:
    """Keep the server of a data folder running for the length of the block.

    It is created and started when it does not run, and reused when it does, be it another process's or left
    behind by one that was killed. Whoever leaves last stops it.

    Args:
        folder: The data folder. Its parent is created as needed.

    Yields:
        The URL of database `postgres` as superuser.

    Raises:
        EmbeddedPostgresMissingError: The extra `local` is not installed.
        EmbeddedPostgresError: The server does not start.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with _beside(folder, ".lock") as users:
        try:
            yield _join(folder, users)
        finally:
            _leave(folder, users)


def revive(folder: Path) -> bool:
    """Start the server again if it died under its users; the caller must be one (`in_use`).

    Its address stays the same.

    Returns:
        Whether it had died.

    Raises:
        EmbeddedPostgresError: The server does not start, or its disk cannot be used just now.
    """
    folder = folder.resolve()
    try:
        if postmaster_of(cluster_in(folder)):
            return False
        with _starting(folder):
            started(cluster_in(folder))
    except OSError as error:
        raise EmbeddedPostgresError(folder, str(error)) from error
    return True


def _join(folder: Path, users: IO[str]) -> sa.URL:
    with _starting(folder):
        # Waits for one who is stopping the server: that one holds this lock exclusively.
        fcntl.flock(users, fcntl.LOCK_SH)
        return started(cluster_in(folder))


def _leave(folder: Path, users: IO[str]) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # somebody else still uses it, and will come here, too
    if folder.exists() and postmaster_of(cluster := cluster_in(folder)):
        stop(cluster)


@contextmanager
def _starting(folder: Path) -> Generator[None]:
    """Let one process at a time look whether the server runs, and start it."""
    with _beside(folder, ".starting.lock") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        try:
            yield
        except OSError as error:
            raise EmbeddedPostgresError(folder, str(error)) from error


@contextmanager
def _beside(folder: Path, suffix: str) -> Generator[IO[str]]:
    """Open a lock file next to the data folder. The kernel drops its locks with the process, always."""
    try:
        file = folder.with_name(folder.name + suffix).open("a")
    except OSError as error:  # a home that is read-only, or another user's
        raise EmbeddedPostgresError(folder, str(error)) from error
    with file:
        yield file
