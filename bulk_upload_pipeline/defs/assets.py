"""The assets of a batch, in the order of the line. Each calls one stage and shows what came of it."""

from collections.abc import Iterator

import dagster as dg

from bulk_upload_pipeline import contract, ledger, settling
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs import account, metadata
from bulk_upload_pipeline.defs.exits import exits, materialize_receipt, tell_batch
from bulk_upload_pipeline.defs.partitions import batch_of, batches
from bulk_upload_pipeline.exceptions import FileStillChangingError
from bulk_upload_pipeline.workplace import Line

GROUP = "invoices"
OWNERS = ["team:back-office"]


@dg.asset(
    partitions_def=batches,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"file"},
    tags={"stage": "upload"},
    output_required=False,
)
def upload(
    context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]
) -> Iterator[dg.MaterializeResult[None]]:
    """The file, taken out of the inbox into the archive, hashed and recognised.

    A file of the same bytes as an earlier loaded one ends here, as exit `duplicate`; an unreadable one, too.
    """
    batch_id = batch_of(context)
    try:
        with exits(context, line):
            uploaded = stages.upload(line, batch_id, context.run.run_id)
    except FileStillChangingError as error:
        context.log.warning(str(error))
        return
    if uploaded.receipt is None:
        yield dg.MaterializeResult(metadata=metadata.of_upload(uploaded.batch))
    else:
        context.log.info(uploaded.receipt.reason)
        materialize_receipt(context, line, uploaded.receipt)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "validated_invoices",
            deps=["upload"],
            group_name=GROUP,
            owners=OWNERS,
            kinds={"pandera", "arrow"},
            tags={"stage": "validate"},
            description="The rows that keep the contract, typed, in Arrow's file format; one record batch a chunk.",
        ),
        dg.AssetSpec(
            "processing_errors",
            deps=["upload"],
            group_name=GROUP,
            owners=OWNERS,
            kinds={"postgres", "table"},
            tags={"stage": "validate"},
            description="What is wrong with rejected rows: code, column, message and the whole source row.",
        ),
    ],
    partitions_def=batches,
)
def judged_rows(
    context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]
) -> Iterator[dg.MaterializeResult[None]]:
    """Both come from one reading of the file, so they cannot disagree."""
    batch_id = batch_of(context)
    with exits(context, line) as watched:
        verdict = stages.validate(watched, batch_id)
        found = account.of_errors(line, batch_id, verdict)
    columns = metadata.of_columns(ledger.batch(line.engine, batch_id))
    yield dg.MaterializeResult("validated_invoices", metadata=metadata.of_verdict(verdict) | columns)
    yield dg.MaterializeResult("processing_errors", metadata=found)
    if verdict.breaker_tripped:
        # The gate stops the run here, so that the receipt's own step is never reached.
        materialize_receipt(context, line, ledger.receipt(line.engine, batch_id))


@dg.asset(
    deps=["validated_invoices"],
    partitions_def=batches,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "table"},
    tags={"stage": "load"},
    pool="mangalam_invoices",
    metadata={
        "dagster/column_schema": metadata.column_schema(),
        "dagster/table_name": contract.TABLE,
    },
)
def mangalam_invoices(
    context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """The invoice lines, loaded chunk by chunk, each exactly once. It reads the verdict again before it loads."""
    batch_id = batch_of(context)
    with exits(context, line) as watched:
        result = stages.load(watched, batch_id)
    return dg.MaterializeResult(metadata=metadata.of_load(result))


@dg.asset(
    deps=["mangalam_invoices", "processing_errors"],
    partitions_def=batches,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "file"},
    tags={"stage": "receipt"},
    # Nobody waits for his receipt until all that is loaded has been inspected, too.
    op_tags={"dagster/priority": "1"},
)
def upload_receipts(
    context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """The final account of the batch: a row in `bulk_upload.upload_batches` and a folder for the clerk."""
    batch_id = batch_of(context)
    with exits(context, line):
        receipt = stages.close(line, batch_id)
        for relative in settling.relatives(line, receipt):
            tell_batch(context, line, relative)
        told = account.of_receipt(line, receipt)
    context.log.info(receipt.reason)
    return dg.MaterializeResult(metadata=told)


ASSETS = [upload, judged_rows, mangalam_invoices, upload_receipts]
