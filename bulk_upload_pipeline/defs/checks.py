"""The checks on a batch. `error_rate` is the gate: it blocks loading when the circuit breaker trips."""

import warnings
from collections.abc import Callable

import dagster as dg

from bulk_upload_pipeline import ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs.partitions import batches
from bulk_upload_pipeline.line import Line

CheckFunction = Callable[..., dg.AssetCheckResult]


def batch_check(asset: str, *, blocking: bool = False) -> Callable[[CheckFunction], dg.AssetChecksDefinition]:
    """Return a decorator for a check with a result of its own for each batch.

    `partitions_def` on a check is a preview in Dagster 1.13: without it the last batch to run would own the
    light of every batch. This is the only place that leans on it.
    """

    def decorate(function: CheckFunction) -> dg.AssetChecksDefinition:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*partitions_def.*")
            return dg.asset_check(asset=asset, blocking=blocking, partitions_def=batches)(function)

    return decorate


@batch_check("validated_invoices", blocking=True)
def error_rate(context: dg.AssetCheckExecutionContext, line: dg.ResourceParam[Line]) -> dg.AssetCheckResult:
    """The gate: so many rejected rows mean the wrong file, and nothing of it is loaded."""
    batch_id = context.op_execution_context.partition_key
    verdict = ledger.verdict(line.engine, batch_id)
    assert verdict is not None
    return dg.AssetCheckResult(
        passed=verdict.rows_rejected == 0,
        severity=dg.AssetCheckSeverity.ERROR if verdict.breaker_tripped else dg.AssetCheckSeverity.WARN,
        description=(
            f"{verdict.rows_rejected:,} of {verdict.rows_read:,} rows are rejected "
            f"({verdict.error_rate:.1%}; the breaker trips at {verdict.max_error_rate:.0%})."
        ),
        metadata={
            "rows_read": verdict.rows_read,
            "rows_rejected": verdict.rows_rejected,
            "error_rate": round(verdict.error_rate, 4),
            "max_error_rate": verdict.max_error_rate,
        },
    )


@batch_check("mangalam_invoices")
def control_totals(
    context: dg.AssetCheckExecutionContext, line: dg.ResourceParam[Line]
) -> dg.AssetCheckResult:
    """What the ledger says was loaded is what a recount of the table finds."""
    recount = stages.recount(line, context.op_execution_context.partition_key)
    return dg.AssetCheckResult(
        passed=recount.agrees,
        severity=dg.AssetCheckSeverity.WARN,
        description=recount.in_words,
        metadata={"rows_in_table": recount.rows, "rows_in_ledger": recount.rows_expected},
    )


@batch_check("upload_receipts")
def nothing_lost(context: dg.AssetCheckExecutionContext, line: dg.ResourceParam[Line]) -> dg.AssetCheckResult:
    """The conservation law: every row read is loaded, rejected, or named as not processed."""
    receipt = ledger.receipt(line.engine, context.op_execution_context.partition_key)
    loaded = receipt.rows_inserted + receipt.rows_updated + receipt.rows_unchanged
    accounted = loaded + receipt.rows_rejected + receipt.rows_unprocessed
    return dg.AssetCheckResult(
        passed=accounted == receipt.rows_read and receipt.rows_unprocessed == 0,
        description=(
            f"{receipt.rows_read:,} rows read: {loaded:,} loaded, {receipt.rows_rejected:,} rejected, "
            f"{receipt.rows_unprocessed:,} not processed."
        ),
        metadata={"rows_read": receipt.rows_read, "rows_accounted_for": accounted},
    )


CHECKS = [error_rate, control_totals, nothing_lost]
