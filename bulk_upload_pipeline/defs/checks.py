"""The checks on a batch, one step an asset. `error_rate` is the gate: it blocks when the breaker trips."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import dagster as dg

from bulk_upload_pipeline import evidence, inspection
from bulk_upload_pipeline.defs.partitions import batch_of, batches
from bulk_upload_pipeline.evidence import Known
from bulk_upload_pipeline.exceptions import BulkUploadError, in_one_line
from bulk_upload_pipeline.inspection import Inspection
from bulk_upload_pipeline.model import Judgement
from bulk_upload_pipeline.workplace import Line


def _spec(inspected: Inspection) -> dg.AssetCheckSpec:
    """Return a check with a result of its own for each batch.

    `partitions_def` on a check is a preview in Dagster 1.13: without it the last batch to run would own the
    light of every batch. This is the only place that leans on it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*partitions_def.*")
        return dg.AssetCheckSpec(
            inspected.name,
            asset=inspected.asset,
            description=inspected.description,
            blocking=inspected.blocking,
            partitions_def=batches,
        )


def as_facts(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement in Dagster's words: what the result of any check has."""
    return {
        "passed": judgement.passed,
        "severity": dg.AssetCheckSeverity.ERROR if judgement.severe else dg.AssetCheckSeverity.WARN,
        "description": judgement.words,
        "metadata": judgement.numbers,
    }


def result(judgement: Judgement) -> dg.AssetCheckResult:
    """Return a judgement as the result of a check that judges nothing else."""
    return dg.AssetCheckResult(**as_facts(judgement))


def evaluation(inspected: Inspection, known: Known) -> dg.AssetCheckEvaluation:
    """Inspect a batch and return the event for it, for a run that takes many batches."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(inspected.asset),
        check_name=inspected.name,
        partition=known.batch_id,
        blocking=inspected.blocking,
        **as_facts(inspected.judge(known)),
    )


def log_evaluation(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, evaluated: dg.AssetCheckEvaluation
) -> None:
    """Write the event of a check that was made outside of its own step: `log_event` takes it, untold."""
    context.log_event(cast("dg.AssetObservation", evaluated))


def _checks_of(asset: str) -> dg.AssetChecksDefinition:
    """Return all checks of an asset as one step: steps are what a small file's time goes to."""
    inspected = inspection.of(asset)

    @dg.multi_asset_check(specs=[_spec(each) for each in inspected], name=f"checks_of_{asset}")
    def check(
        context: dg.AssetCheckExecutionContext, line: dg.ResourceParam[Line]
    ) -> Iterator[dg.AssetCheckResult]:
        known = evidence.of(line.engine, batch_of(context.op_execution_context))
        for each in inspected:
            with _failing_in_words():
                facts = as_facts(each.judge(known))
            yield dg.AssetCheckResult(asset_key=each.asset, check_name=each.name, **facts)

    return check


@contextmanager
def _failing_in_words() -> Iterator[None]:
    """Let a person who inspects a batch that nobody has judged, say, read why in the first line."""
    try:
        yield
    except BulkUploadError as error:
        raise dg.Failure(in_one_line(error), allow_retries=False) from error


CHECKS = [_checks_of(asset) for asset in dict.fromkeys(each.asset for each in inspection.INSPECTIONS)]
