"""The line: strings the verbs together, a function a stage. Assets, jobs and commands all call it.

Six exits lead out of it, and each leaves one receipt: `loaded`, `partially_loaded`, `rejected`, `unreadable`,
`duplicate`, `failed`. A .zip of several files ends as `unpacked`, and each file goes down the line by itself.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline import (
    archiving,
    closing,
    counting,
    family,
    ledger,
    members,
    mending,
    parentage,
    part_ledger,
    rejects,
    report,
    settling,
    sharing,
    storage,
    taking,
    terms,
    whereabouts,
)
from bulk_upload_pipeline.exceptions import (
    BatchRejectedError,
    BulkUploadError,
    NothingToRevertError,
    RevertedMeanwhileError,
    RevertRefusedError,
    SeveralFilesError,
    StorageUnavailableError,
    TargetUnfitError,
    UnreadableError,
    in_one_line,
)
from bulk_upload_pipeline.holding import queued
from bulk_upload_pipeline.model import (
    ENDED_STATES,
    LOADED_STATES,
    Layout,
    LoadResult,
    Overrides,
    State,
    Verdict,
)
from bulk_upload_pipeline.origin import CORRECTION
from bulk_upload_pipeline.pace import Pace
from bulk_upload_pipeline.profiles import GENERIC
from bulk_upload_pipeline.upgrading import obstacles
from bulk_upload_pipeline.workplace import alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import Batch, Receipt
    from bulk_upload_pipeline.staged import StagedBatch
    from bulk_upload_pipeline.workplace import Line


ON_ITS_WAY = (State.REJECTED, State.VALIDATED, State.LOADING)
"""Where a batch stands that follows its corrections."""

NOT_READ_AGAIN = "It was to be read again and could not, so that nothing was changed:"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What `upload` found out: the batch and, if the line already ends here, its receipt."""

    batch: Batch
    receipt: Receipt | None = None


# Stage 1: upload


@alone
def upload(line: Line, batch_id: str, run_id: str | None = None) -> Uploaded:
    """Take the file out of the inbox, hash it, and recognise how it is to be read.

    Raises:
        UnreadableError: Exit `unreadable`; the receipt is written.
        FileStillChangingError: Somebody still writes the file; it is back in the inbox.
        FileThrownAwayError: Its file was taken before, and is gone from the archive.
    """
    entry = ledger.entry(line.engine, batch_id)
    batch = entry.batch
    path, sha256 = archiving.take_in(line, batch)
    received = ledger.received(line.engine, batch_id, sha256, run_id)
    earlier = _twin(line, received, entry.stated)
    if earlier is not None:
        return Uploaded(received, closing.duplicate(line, batch_id, earlier))
    parent = None
    with _ending_unreadable(line, batch_id):
        try:
            layout = terms.recognised(line.settings, path, batch.folder, entry.stated)
        except SeveralFilesError:
            return Uploaded(batch, _close_unpacked(line, batch, path))
        if layout.profile == CORRECTION:
            layout, parent = parentage.laid_over(line.engine, path, layout)
    return Uploaded(ledger.recognised(line.engine, batch_id, layout, parent))


def _twin(line: Line, batch: Batch, stated: Overrides) -> str | None:
    """Return the batch that loaded the same bytes, unless this one did so itself or is to load anyway."""
    if batch.sha256 is None or stated.force:
        return None
    return ledger.loaded_with(line.engine, batch.sha256, batch.batch_id)


# Stage 2: validate


@alone
def validate(line: Line, batch_id: str) -> Verdict:
    """Judge the whole file, stage the rows that may load, and keep findings and verdict together.

    When the breaker trips, the receipt of exit `rejected` is written here: nothing after it will run.

    Raises:
        UnreadableError: Exit `unreadable`, met in the middle of the file; the receipt is written.
        NothingToJudgeError: It was not recognised as a table: a .zip of several files, say.
        RevertedMeanwhileError: Its load was undone, and nobody has taken it again since.
    """
    entry = _not_reverted(line, batch_id)
    batch = entry.batch
    path = archiving.archived_file(line, batch)
    with parentage.one_at_a_time(line.engine, batch, is_corrected=entry.has_findings):
        judging = terms.judging_of(line, batch, is_corrected=entry.has_findings)
        with (
            _ending_unreadable(line, batch_id),
            archiving.returning_what_changes(line, batch),
            taking.unchanging(path, batch.file_size if archiving.is_ours(line, batch) else None),
        ):
            verdict = sharing.judged(line, entry, judging)
        with line.engine.begin() as connection:
            if batch.state is State.RECEIVED and entry.has_findings:
                # Whoever takes a batch again wants what the database refused to be tried anew.
                rejects.reopen_refused(connection, batch_id)
            rejects.keep(connection, batch_id, line.staged(batch_id, verdict.plan), entry.has_findings)
            ledger.keep_verdict(connection, batch_id, verdict)
            mending.keep(connection, batch_id, judging)
    if verdict.breaker_tripped:
        settling.settle(line, entry)
        with settling.family_of(line, entry):
            closing.rejected(line, batch, settling.now(line, batch_id, verdict))
    return verdict


def _not_reverted(line: Line, batch_id: str) -> Entry:
    """Return what is known of a batch; one whose load was undone goes on by way of `upload` only.

    A step may wait for its retry meanwhile, and a run that is executed again from its failure leaves `upload` out.
    """
    entry = ledger.entry(line.engine, batch_id)
    if entry.batch.state is State.REVERTED:
        raise RevertedMeanwhileError(batch_id)
    return entry


# The gate between validating and loading


def pass_gate(verdict: Verdict, batch_id: str) -> Verdict:
    """Return the verdict under which a batch may load.

    Raises:
        BatchRejectedError: The circuit breaker tripped.
    """
    if verdict.breaker_tripped:
        raise BatchRejectedError(batch_id, verdict.rows_rejected, verdict.rows_read, verdict.max_error_rate)
    return verdict


# Stage 3: load


@alone
def load(line: Line, batch_id: str) -> LoadResult:
    """Load the staged rows, exactly once, under the kept verdict.

    Staged rows that are gone (the batch was loaded before, or the disk was lost) are staged again: the plan is
    the same, so the chunk ledger still says which of them are in the target.

    Of two files with the same content that come at the same time, one loads; for the other the receipt of exit
    `duplicate` is written here.

    Raises:
        NoVerdictError: Nobody has judged the batch.
        BatchRejectedError: The circuit breaker tripped.
        UnreadableError: It corrects a batch that was reverted meanwhile; the receipt is written.
        RevertedMeanwhileError: Its own load was undone, and nobody has taken it again since.
        TargetUnfitError: The table would hold other than what the file says.
    """
    entry = _not_reverted(line, batch_id)
    batch, verdict = entry.batch, pass_gate(entry.judged(), batch_id)
    staged = _staged_at_hand(line, batch_id, verdict.plan)
    if not staged.exists or _may_be_overtaken(entry):
        verdict = pass_gate(validate(line, batch_id), batch_id)
        staged = line.staged(batch_id, verdict.plan)
    with queued(line.engine, f"content.{batch.sha256}"):
        earlier = _twin(line, batch, entry.stated)
        if earlier is not None:
            closing.duplicate(line, batch_id, earlier)
            return LoadResult()
        _make_sure_that_the_target_fits(line, batch_id)
        _begin_loading(line, batch)
        return _loaded(line, batch, staged, verdict)


def _may_be_overtaken(entry: Entry) -> bool:
    """Return whether others may have loaded rows of a batch since it was judged: none waits for one that has failed."""
    return entry.batch.state is State.FAILED and settling.has_family(entry)


def _make_sure_that_the_target_fits(line: Line, batch_id: str) -> None:
    """Refuse a table that was changed since it was upgraded: PostgreSQL rounds to fewer decimals without a word."""
    if obstacle := obstacles.in_the_way(line.engine):
        raise TargetUnfitError(batch_id, obstacle.message)


def _begin_loading(line: Line, batch: Batch) -> None:
    """Note that chunks are loaded from now on, so that nobody reverts what a correction corrects before it ends."""
    with parentage.one_at_a_time(line.engine, batch), _ending_unreadable(line, batch.batch_id):
        if batch.parent_batch_id is not None:
            parentage.root_that_stands(line.engine, batch.batch_id)
        ledger.loading(line.engine, batch.batch_id)


def _loaded(line: Line, batch: Batch, staged: StagedBatch, verdict: Verdict) -> LoadResult:
    """Load what is staged of a batch, or this worker's share of it."""
    from bulk_upload_pipeline.load import load_staged

    assert batch.layout is not None
    profile = line.profiles()[batch.layout.profile]
    pace = Pace("loading", line.on_progress, verdict.rows_valid)
    with sharing.share_of(line, batch, staged, verdict.plan, pace) as share:
        return load_staged(
            line.engine,
            batch.batch_id,
            staged,
            verdict.plan,
            profile.on_conflict,
            on_rows=pace.advance,
            share=share,
            is_held=True,
        )


def _staged_at_hand(line: Line, batch_id: str, plan: str) -> StagedBatch:
    """Return the staged rows of a batch, which another machine may have staged."""
    staged = line.staged(batch_id, plan)
    if not staged.exists:
        storage.folder_at_hand(line.home, line.staging(batch_id, plan))
    return staged


# All stages at once


@alone
def take(line: Line, batch_id: str, run_id: str | None = None) -> Receipt:
    """Take a batch down the whole line, from wherever it stands, and return its receipt.

    Raises:
        FileStillChangingError: Somebody still writes the file; it is back in the inbox.
        BatchBusyError: Another worker has it.
    """
    try:
        uploaded = upload(line, batch_id, run_id)
        if uploaded.receipt is not None:
            return uploaded.receipt
        if validate(line, batch_id).breaker_tripped:
            return ledger.receipt(line.engine, batch_id)
        load(line, batch_id)
        return close(line, batch_id)
    except UnreadableError:
        return ledger.receipt(line.engine, batch_id)


# The exits


@alone
def close(line: Line, batch_id: str) -> Receipt:
    """Write the receipt of a batch whose rows are loaded, and clear its staging folder.

    A correction settles the findings on its rows first, wherever in its family they are, and the receipts of those
    batches say what is still open. A batch that the breaker stopped follows as a whole when so many of its rows
    are corrected that it would not be stopped any more. Its own receipt comes last: it says that all is done.

    Raises:
        NoVerdictError: Nobody has judged the batch.
        BatchRejectedError: The circuit breaker tripped.
        RowsNotLoadedError: Its rows are not loaded, or not all of them.
        RevertedMeanwhileError: Its load was undone, and nobody has taken it again since.
    """
    entry = _not_reverted(line, batch_id)
    if entry.batch.state is State.DUPLICATE:
        return entry.receipt
    if settling.has_family(entry):  # whose findings are settled before the receipt is written
        done = counting.committed(line.engine, batch_id)
        closing.make_sure_it_is_loaded(batch_id, pass_gate(entry.judged(), batch_id), done)
    if entry.has_findings:
        closing.complete_refusals(line, entry.batch)
    for relative in settling.settle(line, entry, loaded=batch_id):
        _close_again(line, relative)
    with settling.family_of(line, entry):
        return _close_loaded(line, entry)


def _close_loaded(line: Line, entry: Entry, *, again: bool = False, but: str = "") -> Receipt:
    verdict = pass_gate(entry.judged(), entry.batch.batch_id)
    return closing.loaded(line, entry, verdict, again=again, but=but)


def _close_again(line: Line, batch_id: str) -> None:
    """Bring a receipt up to date of which rows were corrected, or are open again.

    A batch that has begun to follow its corrections and was cut off on its way follows to the end.
    """
    with family.locked(line.engine, family.root_of(line.engine, batch_id)):
        goes_on = _is_to_go_on(line, ledger.entry(line.engine, batch_id))
    if goes_on and not validate(line, batch_id).breaker_tripped:
        load(line, batch_id)
        close(line, batch_id)


def _is_to_go_on(line: Line, entry: Entry) -> bool:
    """Return whether a batch has to follow its corrections; write the receipt of one that has ended once more."""
    batch = entry.batch
    if batch.state in LOADED_STATES:
        _close_loaded(line, entry, again=True)
        return False
    if batch.state is State.REVERTED:
        # Its findings are still those on the rows of its family.
        closing.write(line, batch.batch_id, State.REVERTED, entry.receipt.reason, again=True)
        return False
    if batch.state is State.REJECTED and not settling.follows(line, entry):
        closing.rejected(line, batch, settling.now(line, batch.batch_id, entry.verdict), again=True)
        return False
    return batch.state in ON_ITS_WAY and batch.parent_batch_id is None


@alone
def fail(line: Line, batch_id: str, reason: str) -> Receipt:
    """Write the receipt of exit `failed`: committed chunks stay, the rest follows on retry.

    A batch that has ended in another exit keeps its receipt: its run failed before it had begun anything, or behind
    its end. Its report is written to its end, where whoever did so was cut off.

    Raises:
        OSError: Its file waits and cannot be taken, which the ledger says now.
        StorageUnavailableError: The same of a file in an object store.
    """
    entry = ledger.entry(line.engine, batch_id)
    if entry.batch.state in ENDED_STATES:
        return entry.receipt if is_published(line, batch_id) else publish(line, batch_id)
    part_ledger.halt(line.engine, batch_id)
    if entry.batch.state is State.WAITING:
        with _noting_why_it_waits(line, batch_id):
            archiving.set_aside(line, entry.batch)
    return closing.write(line, batch_id, State.FAILED, reason, keep_staged=True)


@contextmanager
def _noting_why_it_waits(line: Line, batch_id: str) -> Iterator[None]:
    """Note why a file can be brought nowhere: without a receipt, since it gets further runs as long as it waits."""
    try:
        yield
    except (OSError, StorageUnavailableError) as error:
        why = in_one_line(error).rstrip(".")
        ledger.could_not_be_taken(
            line.engine, batch_id, f"It waits, since it cannot be taken: {why}. It is tried again by itself."
        )
        raise


@alone
def publish(line: Line, batch_id: str) -> Receipt:
    """Write the report of a batch that has ended once more: whoever ended it may have been killed before the report."""
    receipt = ledger.receipt(line.engine, batch_id)
    closing.publish(line, receipt, keep_staged=receipt.state is State.FAILED)
    return receipt


def publish_missing(line: Line, since: datetime) -> list[str]:
    """Write the reports of batches that ended since a moment and have none, or one of before; return which these are.

    A disk may have been full for longer than there were runs for them. In an object store nothing fills up.
    """
    folder = line.home.reports
    if not isinstance(folder, Path):
        return []
    written = []
    for batch_id, state, ended_at in whereabouts.ended_since(line.engine, since):
        if report.is_finished(folder / batch_id, state, ended_at):
            continue
        with suppress(OSError, BulkUploadError):  # the disk is full still, or somebody works on it
            publish(line, batch_id)
            written.append(batch_id)
    return written


def is_published(line: Line, batch_id: str) -> bool:
    """Return whether the report of a batch that has ended was written to its end."""
    return closing.is_published(line, ledger.receipt(line.engine, batch_id))


def _close_unpacked(line: Line, batch: Batch, path: Path) -> Receipt:
    released = members.release(line.engine, line.home, batch, path, watched=archiving.is_ours(line, batch))
    names = tuple(member.batch_id for member in released)
    layout = Layout("zip", (), {}, GENERIC, compression="zip", members=names)
    ledger.recognised(line.engine, batch.batch_id, layout)
    return closing.write(line, batch.batch_id, State.UNPACKED, members.in_words(released))


@contextmanager
def _ending_unreadable(line: Line, batch_id: str) -> Iterator[None]:
    """Write the receipt of exit `unreadable` when the file turns out to be so.

    What was loaded from it before stays, and so does its receipt, which says that it could not be read again.
    """
    try:
        yield
    except UnreadableError as error:
        if ledger.has_passed(line.engine, batch_id):
            entry = ledger.entry(line.engine, batch_id)
            _close_loaded(line, entry, but=f"{NOT_READ_AGAIN} {closing.why_unreadable(error.finding)}")
            raise
        closing.unreadable(line, batch_id, error.finding)
        raise


# Undoing a load


@alone
def revert(line: Line, batch_id: str) -> Receipt:
    """Undo a load: its rows go, those that it changed are as they were before, and its file can be loaded again.

    One that was cut off when its rows were gone already is brought to its end, and the reports of one that is
    reverted are written once more: they may be what an attempt did not come to.

    Raises:
        NothingToRevertError: No row of the batch is loaded.
        RevertRefusedError: Later batches have changed or corrected the same rows since.
        RevertForbiddenError: A rule that somebody added to the table keeps rows as they are.
        BatchBusyError: A worker is loading the batch.
    """
    entry = ledger.entry(line.engine, batch_id)
    batch, before = entry.batch, entry.receipt
    is_undone = batch.state is State.REVERTED
    has_ended = is_undone and before.finished_at is not None
    reason = before.reason if is_undone else _undo(line, entry)
    for relative in settling.settle(line, entry, gone=batch_id):
        _close_again(line, relative)
    with settling.family_of(line, entry):
        receipt = closing.write(line, batch_id, State.REVERTED, reason, again=has_ended)
    if has_ended:
        raise NothingToRevertError(batch_id, batch.state)
    return receipt


def _undo(line: Line, entry: Entry) -> str:
    """Undo a load in the target, and return what the receipt says of it."""
    from bulk_upload_pipeline import revert as verb

    batch = entry.batch
    if batch.state not in LOADED_STATES and not entry.has_passed:
        raise NothingToRevertError(batch.batch_id, batch.state)
    with family.locked(line.engine, family.root_of(line.engine, batch.batch_id)):
        corrections = () if batch.parent_batch_id else settling.corrections_above(line, batch.batch_id)
        if corrections:
            raise RevertRefusedError(batch.batch_id, corrections)
        part_ledger.halt(line.engine, batch.batch_id)
        return verb.revert(line.engine, batch.batch_id, is_held=True).in_words
