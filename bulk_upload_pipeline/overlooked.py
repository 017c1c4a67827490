"""Files that lie in the inbox for so long that nobody seems to come for them.

Of a file that is no batch yet no receipt will ever tell: somebody may have switched off the sensor, a profile that
cannot be used holds up all files, or runs wait for a place that a limit of 0 never gives. A run that waits while others
are worked on has its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline import holding, inbox, storage, whereabouts
from bulk_upload_pipeline.exceptions import StorageUnavailableError
from bulk_upload_pipeline.profile_files import home_profiles, usable_profiles

if TYPE_CHECKING:
    from bulk_upload_pipeline.inbox import FoundFile
    from bulk_upload_pipeline.workplace import Line

AFTER, WHEN_HINDERED = timedelta(hours=1), timedelta(minutes=5)
"""So long files may wait for their turn; where a profile keeps all of them from it, they will not get one."""

BETWEEN_FILES = timedelta(minutes=5)
"""Longer than it takes, when a file has ended, until another is worked on."""


@dataclass(frozen=True, slots=True)
class Overlooked:
    """Files that nobody has come for.

    Attributes:
        names: Of the files, the one first that has lain there for longest.
        since: When that one came.
        hindrance: Why none is taken, where that is known.
    """

    names: tuple[str, ...]
    since: datetime
    hindrance: str | None


def overlooked(line: Line, now: datetime, watched_since: datetime | None = None) -> Overlooked | None:
    """Return the files that have lain in the inbox for too long; None when there are none.

    Of those that cannot be taken the ledger says why, and somebody is told of that; of others it may know that a run
    was asked for.

    Args:
        line: Whose inbox it is.
        now: Until when they have lain there.
        watched_since: When those began who come for files; None where nobody need have begun. What came before,
            over a weekend say, has as long from then on.
    """
    folder = storage.profiles_at_hand(line.home)
    unusable = [file for file in home_profiles(folder) if file.problem is not None]
    folders = {profile.name for profile in usable_profiles(folder)} | {file.path.stem for file in unusable}
    before = now - (WHEN_HINDERED if unusable else AFTER)
    if watched_since is not None and watched_since > before:
        return None
    since = {
        file: came for file in _found(line, folders) if (came := _came(file)) is not None and came < before
    }
    known = whereabouts.untaken(line.engine, or_requested=_is_busy(line, now)) if since else set()
    left = sorted((file for file in since if file.path not in known), key=since.__getitem__)
    if not left:
        return None
    hindrance = f"{unusable[0].problem} No file of any sender is taken until then." if unusable else None
    return Overlooked(tuple(file.path.name for file in left), since[left[0]], hindrance)


def _is_busy(line: Line, now: datetime) -> bool:
    """Return whether somebody works on a file, or has done so a moment ago."""
    on_the_way = whereabouts.on_the_way(line.engine, now, line.home.inbox)
    is_held = len(holding.unheld(line.engine, on_the_way)) < len(on_the_way)
    return is_held or bool(whereabouts.ended_since(line.engine, now - BETWEEN_FILES))


def _found(line: Line, folders: set[str]) -> tuple[FoundFile, ...]:
    """Return the files of the inbox; none where it cannot be looked at, which keeps no other alert back."""
    try:
        return inbox.look(line.home.inbox, folders.__contains__, {}).restless
    except (OSError, StorageUnavailableError):
        return ()


def _came(file: FoundFile) -> datetime | None:
    """Return when a file came: a rename changes the inode's time and not the file's, which may be old."""
    if not isinstance(file.path, Path):
        return datetime.fromtimestamp(file.mtime_ns / 1e9, UTC)
    try:
        return datetime.fromtimestamp(file.path.lstat().st_ctime, UTC)
    except OSError:
        return None  # taken a moment ago
