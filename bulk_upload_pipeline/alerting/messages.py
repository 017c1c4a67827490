"""The words of alerts: what happened, to how many, why, and what to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import State, counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from bulk_upload_pipeline.model import CodeCount, Receipt
    from bulk_upload_pipeline.overlooked import Overlooked
    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.silence import Silent

MOST_FILES, MOST_CODES, LONGEST_NAME = 10, 3, 120
STATES = {
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.UNREADABLE: "unreadable",
    State.PARTIALLY_LOADED: "loaded in part",
}
"""The exits of which somebody is told, the worst first."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A message. `subject` says what it is about: of one subject a channel is told once."""

    subject: str
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Account:
    """A receipt with its findings by code and its report folder."""

    receipt: Receipt
    codes: Sequence[CodeCount]
    folder: Place


def of_receipts(receipts: Sequence[Receipt], accounts: Sequence[Account]) -> Alert:
    """Return one message about all `receipts`, with an account of the first ones, the worst first."""
    first = receipts[0]
    subject = f"receipt {first.batch_id} {first.finished_at}"
    return Alert(subject, _title(receipts), "\n\n".join(_told(receipts, accounts)))


def of_night(
    subject: str, night: str, words: str, receipts: Sequence[Receipt], accounts: Sequence[Account]
) -> Alert:
    """Return the message about the batches that a night took again, with an account of those that end badly."""
    how = _count(receipts) or "all is well"
    return Alert(
        subject,
        f"Taken again in the night of {night}: {how}",
        "\n\n".join([words, *_told(receipts, accounts)]),
    )


def _told(receipts: Sequence[Receipt], accounts: Sequence[Account]) -> list[str]:
    more = len(receipts) - len(accounts)
    told = [_account(account) for account in accounts]
    return [*told, f"And {more:,} more: `bulk-upload status` lists them."] if more else told


def _title(receipts: Sequence[Receipt]) -> str:
    if len(receipts) == 1:
        return f"{shown(receipts[0].file_name)}: {STATES[receipts[0].state]}"
    return f"{counted(len(receipts), 'file')}: {_count(receipts)}"


def _count(receipts: Sequence[Receipt]) -> str:
    counts = Counter(receipt.state for receipt in receipts)
    return ", ".join(f"{counts[state]:,} {word}" for state, word in STATES.items() if counts[state])


def _account(account: Account) -> str:
    receipt = account.receipt
    lines = [f"{shown(receipt.file_name)}: {STATES[receipt.state]}", shown(receipt.reason, 1_000)]
    for code in [code for code in account.codes if code.severity == "error"][:MOST_CODES]:
        entry = CATALOGUE[code.code]
        where = f"{code.where}: " if code.where else ""
        often = "once" if code.count == 1 else f"{code.count:,} times"
        lines.append(f"- {entry.title}, {often}. For example {where}{shown(code.example, 300)}")
        lines.append(f"  {entry.fix}")
    if receipt.state is State.FAILED:
        lines.append(
            f"When the cause is gone, `bulk-upload retry {receipt.batch_id}` goes on from what is committed."
        )
    lines.append(f"Report: {account.folder / 'summary.html'}")
    return "\n".join(lines)


_START_AGAIN = "It is started again by itself."
_TAKEN_UP = (
    "What it has not finished is taken up again by itself, in other runs; of a file with which that is of no use "
    "another message tells."
)
_LEFT = "It is not started again by itself: launch it again in Dagster's UI."


def of_lost_worker(run_id: str, job: str, files: Sequence[str], *, retried: bool) -> Alert:
    """Return the message about a run whose process vanished."""
    what = f" It worked on {', '.join(shown(name) for name in files[:MOST_FILES])}." if files else ""
    then = _START_AGAIN if retried else _TAKEN_UP if files else _LEFT
    return Alert(
        f"worker of run {run_id}",
        "A run lost its worker",
        f"The process of run {run_id} ({job}) ended without a word.{what} {then} "
        "When it happens again, look at the memory of the machine: the system ends the largest process first.",
    )


def of_failed_run(run_id: str, job: str) -> Alert:
    """Return the message about a failed run of a job that takes no files."""
    return Alert(
        f"run {run_id}",
        f"{job} failed",
        f"Run {run_id} of {job} failed. Its page in Dagster's UI says why; launch it again there.",
    )


def of_untaken(subject: str, receipts: Sequence[Receipt]) -> Alert:
    """Return one message about files that wait and cannot be taken, those that are news first."""
    told = [f"{shown(each.file_name)}: {shown(each.reason, 1_000)}" for each in receipts[:MOST_FILES]]
    more = len(receipts) - len(told)
    return Alert(
        subject,
        f"{counted(len(receipts), 'file waits', 'files wait')} and cannot be taken",
        "\n\n".join(
            [
                *told,
                *([f"And {more:,} more: `bulk-upload status` lists them."] if more else []),
                "Look whether the disk of the archive has room, and whether the service may write there and remove "
                "files from the folder in which they wait.",
            ]
        ),
    )


def of_overlooked(found: Overlooked, now: datetime) -> Alert:
    """Return the message about files that nobody comes for: once a day, and when others have lain there for longest."""
    names = ", ".join(shown(name) for name in found.names[:MOST_FILES])
    more = f" and {len(found.names) - MOST_FILES:,} more" if len(found.names) > MOST_FILES else ""
    look = (
        "Look in Dagster's UI whether `inbox_sensor` is switched on and what its last ticks say, whether runs wait for "
        "a place, and whether the pool `mangalam_invoices` has a limit above 0."
    )
    return Alert(
        f"overlooked {now:%Y-%m-%d}, since {found.since:%Y-%m-%dT%H}",
        f"{counted(len(found.names), 'file lies', 'files lie')} in the inbox, and nobody comes for "
        f"{'it' if len(found.names) == 1 else 'them'}",
        f"{names}{more}: since {found.since:%Y-%m-%d %H:%M} UTC. {found.hindrance or look}",
    )


def of_silence(silent: Silent, now: datetime) -> Alert:
    """Return the message about a sender whose file is overdue."""
    hours = round((now - silent.since).total_seconds() / 3_600)
    return Alert(
        f"silence of {silent.profile} since {silent.since.isoformat()}",
        f"No file from {shown(silent.profile)} for {counted(hours, 'hour')}",
        f"{silent.in_words} Ask the sender, or look whether files reach the inbox.",
    )


def of_full_disk(home: Path, free: int, total: int, day: str) -> Alert:
    """Return the message about a disk with little room, once a day."""
    return Alert(
        f"disk {day}",
        f"The disk is nearly full: {free / 1e9:,.1f} GB free",
        f"The disk of {home} has {free / 1e9:,.1f} of {total / 1e9:,.1f} GB left. When it is full, loads fail and "
        "are retried. Remove what is not needed, or move the archive to a larger disk.",
    )


def of_many_files(home: Path, free: int, day: str) -> Alert:
    """Return the message about a disk that has room, but for few more files, once a day."""
    return Alert(
        f"files on disk {day}",
        f"The disk takes only {counted(free, 'more file', 'more files')}",
        f"The disk of {home} has room, but its file system takes only {counted(free, 'more file', 'more files')} "
        "(`df -i` shows it). Then loads fail as on a full disk. Remove what is not needed, or move the archive to a "
        "disk that was made for more files.",
    )


def of_strangers(folders: Sequence[str], archive: Place) -> Alert:
    """Return the message about files in the archive that are of no batch, once until there is a later one."""
    named = ", ".join(folders[-MOST_FILES:]) + (", ..." if len(folders) > MOST_FILES else "")
    files = counted(len(folders), "file")
    return Alert(
        f"strangers in the archive up to {folders[-1]}",
        f"The database does not know {files} of the archive",
        f"{files} in {archive} {'is' if len(folders) == 1 else 'are'} of no batch that the database knows: it was "
        "restored from before they were taken, or is another one. Drop the file from each of these folders in the "
        f"inbox again, and remove the folder then: {named}.",
    )


TEST = Alert(
    "test", "Bulk upload: a test", "Alerts of the bulk upload reach this channel. There is nothing to do."
)


def shown(text: str, longest: int = LONGEST_NAME) -> str:
    """Return text from a file on one line and without characters that hide or move others."""
    flat = " ".join(text.split())
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)
    return visible if len(visible) <= longest else visible[: longest - 3] + "..."
