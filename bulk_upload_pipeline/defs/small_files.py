"""The lane of the small files: one run takes many of them down the line, each with its own outcome.

Every file has its own verdict, receipt, materializations and checks, under its own partition. A file that is
bad, unreadable or refused is told of and left behind; the next one is taken. The run fails when the runs of
such files alone would have failed, but only after all the others are done.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import whereabouts
from bulk_upload_pipeline.database import is_transient
from bulk_upload_pipeline.defs.exits import RETRIES, STOPPED, receipt_of_failure, retry
from bulk_upload_pipeline.defs.lanes import LANE_TAG, SMALL
from bulk_upload_pipeline.defs.resources import line_resource
from bulk_upload_pipeline.defs.telling import Telling
from bulk_upload_pipeline.exceptions import (
    BatchNotFoundError,
    BulkUploadError,
    FileStillChangingError,
    in_one_line,
)
from bulk_upload_pipeline.kept import storable
from bulk_upload_pipeline.model import ENDED_STATES, Receipt, State, counted
from bulk_upload_pipeline.workplace import Line

OP = "take_small_files"
SECONDS_BETWEEN_LINES = 2.0
MOST_IN_A_ROW = 3
"""So many files in a row that the database fails mean that it is away: the rest waits for the retry."""

FAILED_STATES = frozenset({State.REJECTED, State.UNREADABLE, State.FAILED})
"""Exits in which the run of a file alone fails, too."""


class SmallFiles(dg.Config):
    """The batches that one run takes down the line, in this order."""

    batch_ids: list[str]


def config_of(batch_ids: list[str]) -> dict[str, Any]:
    """Return the run config of a run that takes these batches."""
    return {"ops": {OP: {"config": {"batch_ids": batch_ids}}}}


def batch_ids_in(run_config: Mapping[str, Any]) -> list[str]:
    """Return the batches of a run config.

    That of a run which a person has launched may say `env: NAME` in place of an id, or what PostgreSQL keeps nowhere:
    such a run must not make the sensors fail that look at all of them.
    """
    stated = run_config["ops"][OP]["config"]["batch_ids"]
    return [each for each in stated if isinstance(each, str) and each == storable(each)]


@dg.op(name=OP, description="Takes each file through the same stages as `load_batch`, one after the other.")
def take_small_files(
    context: dg.OpExecutionContext, config: SmallFiles, line: dg.ResourceParam[Line]
) -> None:
    """What an earlier attempt finished is not repeated."""
    tally = _Tally(len(config.batch_ids))
    with _telling(context, line) as telling:
        for batch_id in _unfinished(context, line, config.batch_ids, telling, tally):
            with _whatever_happens(context, line, batch_id, tally):
                receipt = stages.take(line, batch_id, context.run_id)
                telling.add(receipt)
                tally.count(receipt)
            if telling.is_due:
                telling.tell()
            if tally.is_time():
                context.log.info(tally.in_words)
            if tally.faults_in_a_row == MOST_IN_A_ROW:
                break
    context.log.info(tally.in_words)
    _conclude(context, line, tally)


@contextmanager
def _telling(context: dg.OpExecutionContext, line: Line) -> Iterator[Telling]:
    """Tell of what has ended however the block ends; where that cannot be done now, the next attempt does it."""
    telling = Telling(context, line)
    try:
        try:
            yield telling
        finally:
            telling.tell()
    except SQLAlchemyError as error:
        if is_transient(error) and context.retry_number < RETRIES:
            raise retry(context, line, in_one_line(error)) from error
        raise


def _unfinished(
    context: dg.OpExecutionContext, line: Line, batch_ids: list[str], telling: Telling, tally: "_Tally"
) -> list[str]:
    """Return the batches to take; what is finished but was not told before a worker was killed, is told.

    It counts for the end of this attempt, too: a run that fails for a file does not succeed when it starts again.
    """
    states = whereabouts.states(line.engine, batch_ids)
    tally.unended |= {b: str(BatchNotFoundError(b)) for b in batch_ids if b not in states}
    finished = {batch_id for batch_id, state in states.items() if state in ENDED_STATES}
    if finished:
        told = context.instance.get_materialized_partitions(dg.AssetKey("upload_receipts"))
        for batch_id in sorted(finished - told):
            _publish(line, batch_id, telling, tally)
        for receipt in whereabouts.receipts_of(line.engine, finished & told):
            tally.count(receipt)
    return [batch_id for batch_id in batch_ids if batch_id in states and batch_id not in finished]


def _publish(line: Line, batch_id: str, telling: Telling, tally: "_Tally") -> None:
    """Write the report of a batch that is finished, as the killed worker may not have done, and tell of it."""
    try:
        receipt = stages.publish(line, batch_id)
        telling.add(receipt)
        tally.count(receipt)
    except (SQLAlchemyError, BulkUploadError, OSError) as error:
        tally.unended[batch_id] = in_one_line(error)


@contextmanager
def _whatever_happens(
    context: dg.OpExecutionContext, line: Line, batch_id: str, tally: "_Tally"
) -> Iterator[None]:
    """Keep what happens to one file from its neighbours; a fault of the database is counted for the retry."""
    try:
        yield
        tally.faults_in_a_row = 0
    except FileStillChangingError as error:
        context.log.warning(str(error))
    except dg.DagsterExecutionInterruptedError:
        _receipt_of_failure(context, line, batch_id, STOPPED)
        raise
    except Exception as error:  # the sixth exit is for whatever nobody foresaw
        words = in_one_line(error)
        if is_transient(error) and context.retry_number < RETRIES:
            context.log.warning(f"{batch_id}: {words}")
            tally.again.append(words)
            tally.faults_in_a_row += 1
            return
        context.log.exception("Batch %s failed.", batch_id)
        receipt = _receipt_of_failure(context, line, batch_id, f"It failed and can be retried: {words}")
        if receipt is None:
            tally.unended[batch_id] = words
        else:
            tally.count(receipt)


def _receipt_of_failure(
    context: dg.OpExecutionContext, line: Line, batch_id: str, reason: str
) -> Receipt | None:
    """Write the receipt of a file that failed; None where that cannot be, or the file had ended before its report.

    Dagster is told nothing then, so that `recovery` gives the file a run of its own, which writes the report.
    """
    with suppress(SQLAlchemyError):
        if whereabouts.states(line.engine, [batch_id])[batch_id] in ENDED_STATES:
            return None
    return receipt_of_failure(context, line, batch_id, reason)


@dataclass
class _Tally:
    """What became of the files of one run so far.

    Attributes:
        again: Why some have to be tried again.
        failed: Receipts of the exits in which a run fails.
        unended: Why others could not be brought to their end.
    """

    files: int
    states: dict[State, int] = field(default_factory=dict)
    failed: list[Receipt] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    unended: dict[str, str] = field(default_factory=dict)
    faults_in_a_row: int = 0
    told_at: float = field(default_factory=time.monotonic)

    def count(self, receipt: Receipt) -> None:
        """Add a file that has its receipt."""
        self.states[receipt.state] = self.states.get(receipt.state, 0) + 1
        if receipt.state in FAILED_STATES:
            self.failed.append(receipt)

    def is_time(self) -> bool:
        """Return whether the last line was long enough ago for another one."""
        due = time.monotonic() - self.told_at >= SECONDS_BETWEEN_LINES
        if due:
            self.told_at = time.monotonic()
        return due

    @property
    def in_words(self) -> str:
        """Return how far the run is, as a line."""
        done = ", ".join(f"{count:,} {state}" for state, count in sorted(self.states.items()))
        return f"{sum(self.states.values()):,} of {counted(self.files, 'file')}{': ' + done if done else ''}"

    @property
    def first_in_words(self) -> str:
        """Return which file is the first that is not loaded, and why."""
        for receipt in self.failed:
            return f"The first: {receipt.file_name} ({receipt.state}). {receipt.reason}"
        batch_id, words = next(iter(self.unended.items()))
        return f"The first: batch {batch_id}, which has no report yet. {words}"


def _conclude(context: dg.OpExecutionContext, line: Line, tally: _Tally) -> None:
    """End the run as its files ended.

    Raises:
        dagster.RetryRequested: The database failed, or another worker held a batch.
        dagster.Failure: Files were rejected, could not be read, or failed for good. What has no report yet, `recovery`
            takes up.
    """
    if tally.again:
        raise retry(context, line, tally.again[0])
    if tally.failed or tally.unended:
        not_loaded = [*(receipt.batch_id for receipt in tally.failed), *tally.unended]
        of_all = f"{len(not_loaded):,} of {counted(tally.files, 'file')}"
        are = "is" if 1 in (len(not_loaded), tally.files) else "are"
        raise dg.Failure(
            f"{of_all} {are} not loaded; all others are. {tally.first_in_words}",
            metadata={"not_loaded": not_loaded},
            allow_retries=False,
        )


@dg.job(
    description="Takes many small files that waited together down the whole line, in one run.",
    tags={LANE_TAG: SMALL},
    # Bound here, since a sensor of two jobs is copied (with a warning) when a job gets its resources later.
    resource_defs={"line": line_resource},
)
def load_small_files() -> None:
    """A job of one op: a step for each stage of each file would cost more than the files."""
    take_small_files()
