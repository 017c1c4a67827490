"""The exits: each way in which a batch can end writes one receipt, and the folder that the clerk reads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bulk_upload_pipeline import counting, ledger, part_ledger, rejects, report, storage, terms
from bulk_upload_pipeline import findings as catalogue
from bulk_upload_pipeline.exceptions import FileMissingError, RowsNotLoadedError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.reporting import finding_files, rejected_sheet

if TYPE_CHECKING:
    from bulk_upload_pipeline.counting import Counted
    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import Batch, Finding, LoadResult, Receipt, Verdict
    from bulk_upload_pipeline.workplace import Line


def loaded(line: Line, entry: Entry, verdict: Verdict, *, again: bool = False, but: str = "") -> Receipt:
    """Write the receipt of a batch of which rows are loaded: exit `loaded` or `partially_loaded`.

    Args:
        line: Of this worker.
        entry: The batch as the ledger has it.
        verdict: Under which it was loaded.
        again: The batch has ended before; when it did so stays as it is.
        but: A sentence to add to the reason.

    Raises:
        RowsNotLoadedError: Its rows are not loaded, or not all of them, and it has not ended before.
    """
    batch_id = entry.batch.batch_id
    counts = counting.counted(line.engine, entry)
    if not again:
        make_sure_it_is_loaded(batch_id, verdict, counts.done)
    rejected = verdict.rows_rejected + counts.done.refused
    state = State.PARTIALLY_LOADED if rejected > counts.corrected else State.LOADED
    reason = report.why_loaded(
        counts.done.rows,
        rejected,
        counts.corrected,
        counts.findings_by_code,
        _format(entry.batch),
        counts.standing.rows,
    )
    reason = " ".join(filter(None, (reason, report.beside(entry.batch.layout), but)))
    return write(line, batch_id, state, reason, again=again, counts=counts)


def make_sure_it_is_loaded(batch_id: str, verdict: Verdict, done: LoadResult) -> None:
    """Make sure that all good rows are in the table: a person may ask for the receipt before, or after half a load.

    As a loaded batch it would also make a duplicate of every file that brings the same rows.

    Args:
        batch_id: The batch.
        verdict: Under which it is loaded.
        done: What the chunk ledger proves.

    Raises:
        RowsNotLoadedError: Some are missing.
    """
    missing = verdict.rows_valid - done.rows - done.refused
    if missing > 0:
        raise RowsNotLoadedError(batch_id, missing, verdict.rows_valid)


def rejected(line: Line, batch: Batch, verdict: Verdict, *, again: bool = False) -> None:
    """Write the receipt of exit `rejected`."""
    why = report.why_rejected if batch.parent_batch_id is None else report.why_still_wrong
    reason = f"{why(verdict, _format(batch))} {report.beside(batch.layout)}".strip()
    write(line, batch.batch_id, State.REJECTED, reason, again=again)


def duplicate(line: Line, batch_id: str, earlier: str) -> Receipt:
    """Write the receipt of exit `duplicate`, which names the batch that loaded the same bytes."""
    first = ledger.receipt(line.engine, earlier)
    reason = (
        f"The same content was loaded on {first.received_at:%Y-%m-%d} from {first.file_name} (batch "
        f"{earlier}), so nothing was changed."
    )
    if first.rows_open:
        is_open = "1 of its rows is" if first.rows_open == 1 else f"{first.rows_open:,} of its rows are"
        reason += f" {is_open} still rejected: see the report of that batch."
    rejects.forget(line.engine, batch_id)
    return write(line, batch_id, State.DUPLICATE, reason, duplicate_of=earlier)


def unreadable(line: Line, batch_id: str, finding: Finding) -> None:
    """Write the receipt of exit `unreadable`, and its finding."""
    rejects.keep_file_finding(line.engine, batch_id, finding)
    write(line, batch_id, State.UNREADABLE, why_unreadable(finding))


def why_unreadable(finding: Finding) -> str:
    """Return what is wrong with a file and what to do, as sentences."""
    return f"{finding.message} {catalogue.CATALOGUE[finding.code].fix}"


def _format(batch: Batch) -> str:
    return batch.layout.file_format if batch.layout else "csv"


def write(
    line: Line,
    batch_id: str,
    state: State,
    reason: str,
    *,
    duplicate_of: str | None = None,
    keep_staged: bool = False,
    again: bool = False,
    counts: Counted | None = None,
) -> Receipt:
    """Write a receipt: its row, the folder for the clerk, and nothing that is staged stays.

    Args:
        line: Of this worker.
        batch_id: Whose receipt it is.
        state: The exit.
        reason: Why it is this one, as sentences.
        duplicate_of: The batch that loaded the same bytes.
        keep_staged: Whether a retry may go on with what is staged.
        again: The batch has ended before; when it did so stays as it is.
        counts: What the ledger counts, where the caller knows it already.
    """
    counts = counts or counting.counted(line.engine, ledger.entry(line.engine, batch_id))
    close = partial(
        ledger.close, line.engine, batch_id, state, reason, duplicate_of=duplicate_of, again=again
    )
    receipt = close(counts)
    # A load that was undone since they were counted may have left rows to this batch that it had found unchanged.
    while counts.done.unchanged and (done := counting.committed(line.engine, batch_id)) != counts.done:
        counts = replace(counts, done=done)
        receipt = close(counts)
    publish(line, receipt, keep_staged=keep_staged)
    return receipt


def publish(line: Line, receipt: Receipt, *, keep_staged: bool = False) -> None:
    """Write the folder of a receipt for the clerk, and leave nothing staged. Doing it twice does it once."""
    batch_id = receipt.batch_id
    folder = storage.mirrored(line.home, line.reports(batch_id))
    codes = rejects.by_code(line.engine, batch_id) if receipt.findings_by_code else []
    report.write(folder, receipt, codes)
    if report.FINDINGS in report.files(receipt):
        finding_files.write_findings(line.engine, batch_id, receipt.layout, folder / report.FINDINGS)
    if report.REJECTED_ROWS in report.files(receipt):
        finding_files.write_rejected(line.engine, batch_id, receipt.layout, folder / report.REJECTED_ROWS)
    if report.REJECTED_SHEET in report.files(receipt):
        rejected_sheet.write(folder / report.REJECTED_ROWS, folder / report.REJECTED_SHEET, receipt.layout)
    report.finish(folder, receipt, codes)
    storage.publish(line.home, line.reports(batch_id))
    if not keep_staged:
        storage.remove(line.home, line.home.staging / batch_id)
        if receipt.file_size >= line.settings.part_bytes:
            part_ledger.forget(line.engine, batch_id)
    home = line.home
    storage.let_go(home, [part / batch_id for part in (home.archive, home.staging, home.reports)])


def is_published(line: Line, receipt: Receipt) -> bool:
    """Return whether the folder of a receipt is whole: its worker may have been cut off before, or a disk was full."""
    place = line.reports(receipt.batch_id)
    try:
        summary = storage.file_at_hand(line.home, place / report.SUMMARY)
    except FileMissingError:
        return False
    whole = report.is_finished(summary.parent, receipt.state, receipt.finished_at)
    storage.let_go(line.home, [place])
    return whole


def complete_refusals(line: Line, batch: Batch) -> None:
    """Give each row that the database refused its source row, which the loader does not have."""
    import pyarrow as pa

    from bulk_upload_pipeline.verbatim import source_rows

    wanted = rejects.without_source(line.engine, batch.batch_id)
    if wanted:
        judging = terms.judging_of(line, batch)
        with line.engine.begin() as connection:
            for chunk in judging.chunks():
                rows = source_rows(chunk, judging.layout.header, pa.array(wanted, pa.int64()))
                rejects.add_source(connection, batch.batch_id, rows)
