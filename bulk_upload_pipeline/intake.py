"""From files to batches: which files in the inbox become batches now, and which have to wait, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bulk_upload_pipeline import inbox, kept, lanes, ledger, whereabouts
from bulk_upload_pipeline.model import Batch, Overrides, State
from bulk_upload_pipeline.places import Key, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import sqlalchemy as sa

    from bulk_upload_pipeline.workplace import Line

MOST_REQUESTS = 50
"""Big files, and files for the second time, that one look asks runs for: each takes some hundredths of a second."""

MOST_SEEN = 1_500
"""Files whose fingerprints are remembered until the next look, so that the cursor stays small (80 kB)."""

SETTLED_S = 2.0
"""Seconds for which size and time of a file must not have changed."""

LOOKING_S = 4.4
"""Seconds for which one watch goes on looking: most of the five until Dagster's next tick."""

BETWEEN_LOOKS_S = 0.5
BETWEEN_LISTINGS_S = 2.0
"""The same for an inbox in an object store, which is paid by the listing."""

Sightings = dict[str, tuple[str, float]]
"""Fingerprint of each file, by its name in the inbox, and when it was first seen so (seconds since the epoch)."""

APART = timedelta(microseconds=200)
"""Between the times of two files that one look has seen, so that the one that was written later counts as later: of two
files that say something about one line the later wins. The files of a .zip are microseconds apart."""

MOST_NAMED, LONGEST_NAME = 5, 40
"""How many folders a sentence names, and how much of each name."""

OVERDUE = timedelta(minutes=2)
"""A requested run that does not exist after so long was lost between the request and the queue."""


@dataclass(frozen=True, slots=True)
class Request:
    """A batch to be taken down the line.

    Attributes:
        file_name: As the ledger has it: of any bytes, Dagster's storage takes only text.
        attempt: Makes the key of its run new.
    """

    batch_id: str
    file_name: str
    attempt: int
    size: int

    @property
    def key(self) -> str:
        """Return what no other request is called."""
        return f"{self.batch_id}#{self.attempt}"


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look at the inbox comes to.

    Attributes:
        seen: Fingerprints to be shown to the next look.
        in_words: How many files wait and why, in a sentence.
    """

    requests: tuple[Request, ...]
    seen: dict[str, str]
    in_words: str


def announce(line: Line, path: Path, overrides: Overrides | None = None) -> str:
    """Make a file known that lies outside the inbox and stays there; return the id of its batch.

    Raises:
        FileMissingError: There is no such file.
    """
    return _register(line, [inbox.found_file(path)], overrides or Overrides())[0].batch_id


def follow(engine: sa.Engine, inbox_now: Place) -> None:
    """Let files that wait in an inbox stay the batches that they are when it was moved, with its home.

    Otherwise each would become another batch, and of the one that it is a person would be told that its file is gone.

    Args:
        engine: Of the invoices' database.
        inbox_now: Where the inbox is now.
    """
    if isinstance(inbox_now, Key):
        return
    for batch_id, was in whereabouts.waiting_elsewhere(engine, inbox_now).items():
        here = None if isinstance(was, Key) else _moved_with(was, inbox_now)
        if here is not None:
            ledger.moved(engine, batch_id, here)


def _moved_with(was: Path, inbox_now: Path) -> Path | None:
    """Return where a file lies now whose inbox is gone from where it was."""
    for folder in was.parents[:2]:  # the inbox itself, or the folder of a profile in it
        here = inbox_now / was.relative_to(folder)
        if folder.name == inbox_now.name and not folder.exists() and here.exists():
            return here
    return None


def watch(line: Line, sighted: Sightings, has_run: Callable[[str], bool]) -> tuple[Survey, Sightings]:
    """Look at the inbox until a batch is to be started, but not for long.

    So a file waits for itself to settle, and not for Dagster's ticks besides.

    Args:
        line: As for `survey`.
        sighted: What the watch before returned.
        has_run: As for `survey`.
    """
    deadline = time.monotonic() + LOOKING_S
    # One that the clock has been set back behind is as good as new; nobody shall wait until it has come round.
    sighted = {name: (print_, min(since, time.time())) for name, (print_, since) in sighted.items()}
    between = BETWEEN_LISTINGS_S if isinstance(line.home.inbox, Key) else BETWEEN_LOOKS_S
    while True:
        began, now = time.monotonic(), time.time()
        settled = {name: seen for name, (seen, since) in sighted.items() if now - since >= SETTLED_S}
        found = survey(line, settled, has_run)
        sighted = {
            name: sighted[name] if sighted.get(name, ("",))[0] == seen else (seen, round(now, 1))
            for name, seen in found.seen.items()
        }
        # A full inbox takes a while to look at, and shall not take all of a processor.
        pause = max(between, 4 * (time.monotonic() - began))
        if found.requests or time.monotonic() + pause > deadline:
            return found, sighted
        time.sleep(pause)


def survey(line: Line, seen: Mapping[str, str], has_run: Callable[[str], bool]) -> Survey:
    """Look at the inbox once and say which batches are to be started.

    Args:
        line: Its inbox is looked at, its database told of new batches.
        seen: What the look before returned as `seen`.
        has_run: Whether any run exists for a batch.
    """
    profiles = line.profiles()
    look = inbox.look(line.home.inbox, profiles.__contains__, seen)
    known = whereabouts.waiting(line.engine, [file.path for file in look.settled])
    # A run may have taken a file since we looked: then nothing waits for it any more, and it is not there.
    unknown = inbox.remaining([file for file in look.settled if file.path not in known])
    again = [(file, known[file.path]) for file in look.settled if file.path in known]
    repeated = _request_again(line, again, has_run)
    new = _register(line, _bounded(unknown, MOST_REQUESTS - len(repeated)), Overrides())
    return Survey(
        requests=(*repeated, *(_request(b.batch_id, b.file_name, 1, b.file_size) for b in new)),
        seen=_remembered(look),
        in_words=_in_words(look, len(again) - len(repeated), len(unknown) - len(new))
        + of_strangers(look.strangers, [profile.name for profile in profiles]),
    )


def _bounded(files: list[inbox.FoundFile], most_big: int) -> list[inbox.FoundFile]:
    """Return the files whose turn it is: of the big ones, which cost a run each, only so many."""
    big = [file for file in files if not lanes.is_small(file.size)]
    later = set(big[most_big:])
    return [file for file in files if file not in later]


def _register(line: Line, files: list[inbox.FoundFile], overrides: Overrides) -> list[Batch]:
    """Make batches of files, which come in the order in which they were written."""
    now = datetime.now(UTC)
    batches = [_batch(file, now + number * APART) for number, file in enumerate(files)]
    ledger.register(line.engine, batches, [file.fingerprint for file in files], overrides)
    return batches


def _batch(file: inbox.FoundFile, received_at: datetime) -> Batch:
    return Batch(
        batch_id=inbox.batch_id_for(file, received_at),
        file_name=file.path.name,
        state=State.WAITING,
        source=file.path,
        received_at=received_at,
        file_size=file.size,
        folder=file.folder,
    )


def _request_again(
    line: Line, again: list[tuple[inbox.FoundFile, whereabouts.Waiting]], has_run: Callable[[str], bool]
) -> list[Request]:
    """Return requests for batches that were put back, or whose run never came to be."""
    overdue = datetime.now(UTC) - OVERDUE
    requests: list[Request] = []
    for file, entry in again:
        put_back = entry.fingerprint is None
        lost = entry.requested_at < overdue and not has_run(entry.batch_id)
        if len(requests) < MOST_REQUESTS and (put_back or lost):
            attempt = ledger.request_again(line.engine, entry.batch_id, file.size, file.fingerprint)
            requests.append(_request(entry.batch_id, file.path.name, attempt, file.size))
    return requests


def _request(batch_id: str, name: str, attempt: int, size: int) -> Request:
    return Request(batch_id, kept.storable(name), attempt, size)


def _remembered(look: inbox.Look) -> dict[str, str]:
    files = (*look.settled, *look.restless)[:MOST_SEEN]
    return {inbox.name_in_inbox(file): file.fingerprint for file in files}


def of_strangers(folders: Sequence[str], profiles: Sequence[str]) -> str:
    """Return which folders no file is taken from, for who misspells his own."""
    if not folders:
        return ""
    named = ", ".join(ascii(name[:LONGEST_NAME]) for name in folders[:MOST_NAMED])
    more = " and others" if len(folders) > MOST_NAMED else ""
    folder = "folder" if len(folders) == 1 else "folders"
    return f" No profile is named as the {folder} {named}{more}. Known are {', '.join(profiles)}."


def _in_words(look: inbox.Look, queued: int, later: int) -> str:
    parts = [
        (queued, "waiting for their run"),
        (later, "waiting for the next look"),
        (len(look.restless), "still being written or just arrived"),
        *((count, f"never taken ({reason})") for reason, count in sorted(look.left_out.items())),
    ]
    told = [f"{count:,} {why}" for count, why in parts if count]
    return "Files in the inbox: " + ("; ".join(told) if told else "none") + "."
