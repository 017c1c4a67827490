"""What Dagster hears of a batch: the metadata of its stages and, for one that shared its run, every event."""

from collections.abc import Iterator, Sequence

import dagster as dg

from bulk_upload_pipeline import inspection, rejects
from bulk_upload_pipeline.defs import metadata
from bulk_upload_pipeline.defs.checks import evaluation
from bulk_upload_pipeline.evidence import Evidence, Known
from bulk_upload_pipeline.model import LOADED_STATES, Receipt, State, Verdict
from bulk_upload_pipeline.workplace import Line

PREVIEW_ROWS = 20

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def of_errors(line: Line, batch_id: str, verdict: Verdict) -> metadata.Metadata:
    """Return how many findings a batch has, by code, with the first of them."""
    findings = sum(verdict.findings_by_code.values())
    return {"dagster/row_count": findings, **_of_findings(line, batch_id, findings)}


def of_receipt(line: Line, receipt: Receipt) -> metadata.Metadata:
    """Return the counts of a receipt, its files, and the findings behind it."""
    findings = sum(receipt.findings_by_code.values())
    return {
        **metadata.of_receipt(receipt, line.reports(receipt.batch_id)),
        **_of_findings(line, receipt.batch_id, findings),
    }


def _of_findings(line: Line, batch_id: str, findings: int) -> metadata.Metadata:
    if not findings:
        return {}
    preview = rejects.first(line.engine, batch_id, PREVIEW_ROWS)
    return metadata.of_findings(preview, rejects.by_code(line.engine, batch_id))


def of_batches(line: Line, receipts: Sequence[Receipt]) -> Iterator[Event]:
    """Yield the events that the run of each batch alone leaves behind, that of the receipt last.

    They are told from what PostgreSQL knows, so that they can be told again when a worker was killed between
    the end of a batch and its events.
    """
    evidence = Evidence(line.engine, [receipt.batch_id for receipt in receipts])
    for receipt in receipts:
        yield from _of_batch(line, evidence.of(receipt.batch_id), receipt)


def _of_batch(line: Line, known: Known, receipt: Receipt) -> Iterator[Event]:
    batch_id = receipt.batch_id
    if receipt.state in (*LOADED_STATES, State.REJECTED):
        yield from _of_judging(line, known)
    if receipt.state in LOADED_STATES:
        yield _materialization("mangalam_invoices", batch_id, metadata.of_load(known.committed))
        yield from _checked(known, "mangalam_invoices")
        yield from _checked(known, "upload_receipts")
    yield _materialization("upload_receipts", batch_id, of_receipt(line, receipt), receipt.reason)


def _of_judging(line: Line, known: Known) -> Iterator[Event]:
    batch_id, batch, verdict = known.batch_id, known.entry.batch, known.entry.verdict
    assert verdict is not None
    yield _materialization("upload", batch_id, metadata.of_upload(batch))
    judged = metadata.of_verdict(verdict) | metadata.of_columns(batch)
    yield _materialization("validated_invoices", batch_id, judged)
    yield _materialization("processing_errors", batch_id, of_errors(line, batch_id, verdict))
    yield from _checked(known, "validated_invoices")


def _materialization(
    asset: str, batch_id: str, facts: metadata.Metadata, description: str | None = None
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(asset, description, facts, batch_id)


def _checked(known: Known, asset: str) -> Iterator[dg.AssetCheckEvaluation]:
    return (evaluation(inspected, known) for inspected in inspection.of(asset))
