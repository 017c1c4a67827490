"""How the exits of the line look in Dagster: which failure a run shows, and what is retried."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from bulk_upload_pipeline import ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs import metadata
from bulk_upload_pipeline.exceptions import (
    BatchBusyError,
    DataFaultError,
    FileStillChangingError,
    TransientError,
)
from bulk_upload_pipeline.line import Line
from bulk_upload_pipeline.model import Progress, Receipt
from bulk_upload_pipeline.pace import in_words

RETRIES = 3
SECONDS_BETWEEN = 5.0


@contextmanager
def exits(context: dg.AssetExecutionContext, line: Line) -> Iterator[Line]:
    """Run a stage; whatever goes wrong in it ends in a receipt and in the right kind of failure.

    A fault of the data fails the run for good. A fault of the database or the machine leaves the receipt
    `failed` and is retried. Yields the line, which tells its progress to Dagster's event log.
    """
    batch_id = context.partition_key
    try:
        yield line.listening(lambda progress: tell_progress(context, progress))
    except DataFaultError as error:
        receipt = ledger.receipt(line.engine, batch_id)
        materialize_receipt(context, line, receipt)
        raise dg.Failure(
            description=str(error), metadata={"reason": receipt.reason}, allow_retries=False
        ) from error
    except FileStillChangingError:
        raise  # the file waits in the inbox again: that is no exit
    except BatchBusyError as error:
        raise dg.RetryRequested(RETRIES, SECONDS_BETWEEN) from error
    except Exception as error:  # the sixth exit is for whatever nobody foresaw
        _receipt_of_failure(context, line, error)
        if _is_transient(error):
            raise dg.RetryRequested(RETRIES, SECONDS_BETWEEN) from error
        raise


def _is_transient(error: Exception) -> bool:
    from bulk_upload_pipeline.database import is_transient

    return isinstance(error, TransientError) or is_transient(error)


def _receipt_of_failure(context: dg.AssetExecutionContext, line: Line, error: Exception) -> None:
    words = str(error).partition("\n")[0] or type(error).__name__
    try:
        receipt = stages.fail(line, context.partition_key, f"It failed and can be retried: {words}")
        materialize_receipt(context, line, receipt)
    except SQLAlchemyError as unwritten:
        # The database that failed the stage also takes no receipt: sensor `batch_failed` writes it later.
        context.log.warning(f"The receipt could not be written yet: {unwritten}")


def materialize_receipt(context: dg.AssetExecutionContext, line: Line, receipt: Receipt) -> None:
    """Materialize `upload_receipts` from a step that ends the line before its own step."""
    context.log_event(
        dg.AssetMaterialization(
            "upload_receipts",
            description=receipt.reason,
            partition=receipt.batch_id,
            metadata=metadata.of_receipt(receipt, line.reports(receipt.batch_id)),
        )
    )


def tell_progress(context: dg.AssetExecutionContext, progress: Progress) -> None:
    """Write a moment of a long stage to the event log: a line to read, and numbers to plot."""
    context.log.info(in_words(progress))
    asset = "mangalam_invoices" if progress.stage == "loading" else "validated_invoices"
    context.log_event(
        dg.AssetObservation(asset, partition=context.partition_key, metadata=metadata.of_progress(progress))
    )
