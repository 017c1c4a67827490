"""The file of a batch on its way into the archive, where it lies there, and back where it came from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline import ledger, report, storage, taking
from bulk_upload_pipeline.exceptions import FileMissingError, FileStillChangingError, FileThrownAwayError
from bulk_upload_pipeline.holding import queued
from bulk_upload_pipeline.model import ENDED_STATES
from bulk_upload_pipeline.places import Key, lies_in, named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from bulk_upload_pipeline.model import Batch
    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.workplace import Line

WORTH_A_THREAD = 64 << 20
"""Bytes of a file whose hashing takes about as long as the imports beside it, or longer."""


def archived(line: Line, batch: Batch) -> Place:
    """Return where the file of a batch lies in the archive."""
    return named(line.home.archive / batch.batch_id, batch.source.name)


def archived_file(line: Line, batch: Batch) -> Path:
    """Return where the archived file of a batch can be read on this machine."""
    return storage.file_at_hand(line.home, archived(line, batch))


def make_sure_it_is_there(line: Line, batch: Batch) -> None:
    """Make sure that a batch whose file is taken already, or which has ended, can be read again.

    What has its name in the inbox by now is another file. One that was named on a command line, and has failed, is
    where it was.

    Raises:
        FileThrownAwayError: It was removed from the archive, be it by the policy of this home or by a person.
    """
    was_taken = batch.sha256 is not None and is_ours(line, batch)
    if (batch.state in ENDED_STATES or was_taken) and not storage.exists(archived(line, batch)):
        raise FileThrownAwayError(batch.batch_id)


def take_in(line: Line, batch: Batch) -> tuple[Path, str]:
    """Return where the file of a batch is archived, and its SHA-256."""
    make_sure_it_is_there(line, batch)
    place = archived(line, batch)
    ours = is_ours(line, batch)
    with returning_what_changes(line, batch):
        if batch.sha256 is None or not storage.exists(place):
            with _taking_alone(line, batch.source):
                taking.take(batch.source, line.home.archive / batch.batch_id, keep_source=not ours)
        path = archived_file(line, batch)
        return path, _hashed(path, batch.file_size if ours else None)


def set_aside(line: Line, batch: Batch) -> None:
    """Archive the file of a batch that ends while it waits in the inbox, where it would become a batch once more.

    A retry finds it there. One that is gone, or still written, is left to the next look at the inbox.
    """
    if is_ours(line, batch):
        with suppress(FileMissingError, FileStillChangingError), _taking_alone(line, batch.source):
            taking.take(batch.source, line.home.archive / batch.batch_id, keep_source=False)


def _hashed(path: Path, size: int | None) -> str:
    """Return the SHA-256 of a file. A long one is hashed beside the imports of what judges it, most of a second."""
    if path.stat().st_size < WORTH_A_THREAD:
        return taking.content_hash(path, size)
    from bulk_upload_pipeline.validate import prepare

    with ThreadPoolExecutor(1, "hash") as beside:
        hashed = beside.submit(taking.content_hash, path, size)
        prepare()
        return hashed.result()


def _taking_alone(line: Line, source: Place) -> AbstractContextManager[None]:
    """Let one batch at a time take an object: who comes second finds that it is gone, as after a rename."""
    return queued(line.engine, f"source.{source}") if isinstance(source, Key) else nullcontext()


def is_ours(line: Line, batch: Batch) -> bool:
    """Return whether a file came by the inbox; another one was named on a command line and stays where it is."""
    return lies_in(batch.source, line.home.inbox)


@contextmanager
def returning_what_changes(line: Line, batch: Batch) -> Iterator[None]:
    """Put a file that somebody still writes back into the inbox, from which it is taken again later."""
    try:
        yield
    except FileStillChangingError as error:
        if is_ours(line, batch):
            taking.put_back(line.home.archive / batch.batch_id, batch.source)
            storage.let_go(line.home, [line.home.archive / batch.batch_id])
            ledger.put_back(line.engine, batch.batch_id, str(error))
            _withdraw_report(line, batch.batch_id)
        raise


def _withdraw_report(line: Line, batch_id: str) -> None:
    """Remove what an attempt has reported of a file that turned out to be still written."""
    place = line.reports(batch_id)
    if isinstance(place, Path):
        report.withdraw(place)
    else:
        storage.remove(line.home, place)
