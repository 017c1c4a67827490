"""A .zip of several files: each of them becomes a batch of its own, and waits in the inbox like any other.

Ids and places follow from the archive's own batch, so that whoever is interrupted here does everything again
and has done it once. Names of members are hostile input: they are shown, and never a path.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from bulk_upload_pipeline import inbox, ledger, objects, scratch, storage
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.model import Batch, State, counted
from bulk_upload_pipeline.places import Key
from bulk_upload_pipeline.recognising.archives import Archive
from bulk_upload_pipeline.recognising.formats import is_archive

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from bulk_upload_pipeline.settings import Home

_ENDING = re.compile(r"\.[a-z0-9]{1,8}")
_SHOWN = 20
"""Members that a receipt's sentence names; its layout names them all."""


class _Member(NamedTuple):
    """A member on its way: where its content lies now, and the batch that it becomes."""

    content: Path
    batch: Batch


def release(engine: sa.Engine, home: Home, archive: Batch, path: Path, *, watched: bool) -> list[Batch]:
    """Make each file of a .zip a batch, and lay it into the inbox.

    Args:
        engine: Told of the new batches.
        home: Its inbox receives them.
        archive: The batch of the .zip.
        path: Where the .zip lies.
        watched: Whether the inbox's sensor shall start them; otherwise the caller does.

    Returns:
        The batches, in the order of the archive.

    Raises:
        UnreadableError: A member is an archive itself, or the .zip is damaged or refused. Nothing is released.
    """
    folder = storage.mirrored(home, home.staging / archive.batch_id / "members")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        members = _unpacked(home, archive, path, folder)
        stated = ledger.overrides(engine, archive.batch_id)
        fingerprints = [None if watched else member.batch.batch_id[-8:] for member in members]
        ledger.register(engine, [member.batch for member in members], fingerprints, stated)
        for member in members:
            _place(engine, home, member)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [member.batch for member in members]


@contextmanager
def unpacked_members(path: Path) -> Iterator[list[tuple[str, Path]]]:
    """Yield the name of each file of a .zip, and where it lies until the end of the block.

    Raises:
        UnreadableError: A member is an archive itself, or the .zip is damaged or refused.
    """
    with scratch.folder("members") as folder, Archive(path) as opened:
        yield list(_extracted(opened, folder))


def in_words(members: list[Batch]) -> str:
    """Return the sentence of the archive's receipt."""
    named = ", ".join(f"{member.file_name} as {member.batch_id}" for member in members[:_SHOWN])
    more = f" and {len(members) - _SHOWN:,} more" if len(members) > _SHOWN else ""
    return f"The archive holds {counted(len(members), 'file')}; each is a batch of its own: {named}{more}."


def _unpacked(home: Home, archive: Batch, path: Path, folder: Path) -> list[_Member]:
    with Archive(path) as opened:
        return [
            _Member(content, _batch(home, archive, at, name, content))
            for at, (name, content) in enumerate(_extracted(opened, folder), start=1)
        ]


def _extracted(archive: Archive, folder: Path) -> Iterator[tuple[str, Path]]:
    """Unpack each file into a folder, and yield its name in the archive and where it lies."""
    for at, entry in enumerate(archive.members(), start=1):
        content = folder / f"{at:04}"
        archive.extract(entry, content)
        if is_archive(content):
            what = f"{entry.filename!a} in it is a packed file itself"
            raise UnreadableError(file_finding("UNSAFE_ARCHIVE", what))
        yield entry.filename, content


def _batch(home: Home, archive: Batch, at: int, name: str, content: Path) -> Batch:
    ending = PurePosixPath(name).suffix.lower()
    if not _ENDING.fullmatch(ending) or ending in inbox.UNFINISHED:
        ending = ""
    source = home.inbox / f"{archive.batch_id}.{at:04}{ending}"
    digest = hashlib.sha256(f"{archive.batch_id}|{at}|{name}".encode("utf-8", "surrogateescape")).hexdigest()
    stem = inbox.slug(PurePosixPath(name).stem)
    return Batch(
        batch_id=f"{archive.received_at:%Y%m%dT%H%M%S}-{stem}-{digest[:8]}",
        file_name=f"{archive.file_name}/{name}",
        state=State.WAITING,
        source=source,
        received_at=archive.received_at + timedelta(microseconds=at),
        file_size=content.stat().st_size,
        folder=archive.folder,
    )


def _place(engine: sa.Engine, home: Home, member: _Member) -> None:
    """Lay a file into the inbox, unless that was done before and it is on its way already."""
    batch = member.batch
    archived = home.archive / batch.batch_id / batch.source.name
    if ledger.batch(engine, batch.batch_id).state is not State.WAITING or storage.exists(archived):
        return
    if isinstance(batch.source, Key):
        objects.put(member.content, batch.source)
        return
    unfinished = batch.source.with_name(f"{batch.source.name}.part")
    shutil.move(member.content, unfinished)
    unfinished.rename(batch.source)
