"""How the exits of the line look in Dagster: which failure a run shows, and what is retried."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from bulk_upload_pipeline import ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import is_transient, wait_until_it_answers
from bulk_upload_pipeline.defs import account, metadata
from bulk_upload_pipeline.defs.checks import log_evaluation
from bulk_upload_pipeline.exceptions import (
    BulkUploadError,
    DataFaultError,
    FileStillChangingError,
    in_one_line,
)
from bulk_upload_pipeline.model import Progress, Receipt, State
from bulk_upload_pipeline.pace import in_words
from bulk_upload_pipeline.workplace import Line

Context = dg.AssetExecutionContext | dg.OpExecutionContext

RETRIES = 4
SECONDS_BEFORE_FIRST = 2.0
RESTART_PATIENCE = 300.0
"""Seconds for which a step waits for a database that restarts, before each of its retries."""

STOPPED = "It was stopped before it was finished, and can be retried."


def was_stopped(receipt: Receipt) -> bool:
    """Return whether a person, or the system, stopped the run of a batch."""
    return receipt.state is State.FAILED and receipt.reason == STOPPED


@contextmanager
def exits(context: dg.AssetExecutionContext, line: Line) -> Iterator[Line]:
    """Run a stage; whatever goes wrong in it ends in a receipt and in the right kind of failure.

    A fault of the data fails the run for good. A fault of the database or the machine is retried, and leaves
    the receipt `failed` when that does not help. Yields the line, which tells its progress to Dagster.
    """
    try:
        yield line.listening(lambda progress: tell_progress(context, progress))
    except DataFaultError as error:
        receipt = ledger.receipt(line.engine, context.partition_key)
        materialize_receipt(context, line, receipt)
        raise dg.Failure(
            description=str(error), metadata={"reason": receipt.reason}, allow_retries=False
        ) from error
    except FileStillChangingError:
        raise  # the file waits in the inbox again: that is no exit
    except dg.DagsterExecutionInterruptedError:
        receipt_of_failure(context, line, context.partition_key, STOPPED)
        raise
    except Exception as error:  # the sixth exit is for whatever nobody foresaw
        words = in_one_line(error)
        if is_transient(error) and context.retry_number < RETRIES:
            raise retry(context, line, words) from error
        receipt_of_failure(context, line, context.partition_key, f"It failed and can be retried: {words}")
        if isinstance(error, BulkUploadError):
            raise dg.Failure(description=words, allow_retries=False) from error
        raise


def retry(context: Context, line: Line, words: str) -> dg.RetryRequested:
    """Return the request to try a step again, each time later; no receipt yet, since it has not ended."""
    # Dagster's own storage may be on the server that fails: nothing can be told before that answers.
    wait_until_it_answers(line.engine, RESTART_PATIENCE)
    # Two that got in each other's way must not come back at the same moment.
    delay = SECONDS_BEFORE_FIRST * 2**context.retry_number * random.uniform(0.5, 1.5)  # noqa: S311
    context.log.warning(f"{words} Retry {context.retry_number + 1} of {RETRIES} begins in {delay:.0f} s.")
    return dg.RetryRequested(RETRIES, delay)


def receipt_of_failure(context: Context, line: Line, batch_id: str, reason: str) -> Receipt | None:
    """Write and materialize the receipt of exit `failed`; return None where it cannot be written now."""
    try:
        receipt = stages.fail(line, batch_id, reason)
        materialize_receipt(context, line, receipt)
    except (SQLAlchemyError, BulkUploadError, OSError) as unwritten:
        # What failed the stage also takes no receipt, or another run works on it: `batch_failed` looks later.
        context.log.warning(f"The receipt could not be written yet: {in_one_line(unwritten)}")
        return None
    return receipt


def materialize_receipt(context: Context, line: Line, receipt: Receipt) -> None:
    """Materialize `upload_receipts` from a step that ends the line before its own step."""
    context.log_event(receipt_event(line, receipt))


def tell_batch(context: Context, line: Line, receipt: Receipt) -> None:
    """Tell Dagster all of a batch from the step of another one, whose run it shares or which corrects it."""
    for event in account.of_batches(line, [receipt]):
        if isinstance(event, dg.AssetCheckEvaluation):
            log_evaluation(context, event)
        else:
            context.log_event(event)


def receipt_event(line: Line, receipt: Receipt) -> dg.AssetMaterialization:
    """Return a receipt as Dagster's event log keeps it."""
    return dg.AssetMaterialization(
        "upload_receipts",
        description=receipt.reason,
        partition=receipt.batch_id,
        metadata=account.of_receipt(line, receipt),
    )


def tell_progress(context: dg.AssetExecutionContext, progress: Progress) -> None:
    """Write a moment of a long stage to the event log: a line to read, and numbers to plot."""
    context.log.info(in_words(progress))
    asset = "mangalam_invoices" if progress.stage == "loading" else "validated_invoices"
    context.log_event(
        dg.AssetObservation(asset, partition=context.partition_key, metadata=metadata.of_progress(progress))
    )
