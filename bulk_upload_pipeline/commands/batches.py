"""What became of batches: `status` and `errors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulk_upload_pipeline import scratch, terminal
from bulk_upload_pipeline.commands.frame import FILE, TEXT, as_json, open_line, writing

if TYPE_CHECKING:
    from bulk_upload_pipeline.workplace import Line


@click.command()
@click.argument("batch", required=False, type=TEXT)
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="How many batches to list.",
)
@as_json
def status(batch: str | None, limit: int, as_json: bool) -> None:
    """List the batches, or tell everything about one BATCH."""
    from bulk_upload_pipeline import ledger, rejects, report, whereabouts

    with open_line() as line:
        if batch is None:
            receipts = whereabouts.receipts(line.engine, limit=limit)
            if as_json:
                terminal.print_json([report.as_json(receipt) for receipt in receipts])
            else:
                terminal.print_receipts(receipts)
                _complain_of_overlooked(line)
            return
        receipt = ledger.receipt(line.engine, batch)
        if as_json:
            terminal.print_json(report.as_json(receipt))
        else:
            terminal.print_account(receipt, rejects.by_code(line.engine, batch))


def _complain_of_overlooked(line: Line) -> None:
    """Say which files are in no list, since nobody comes for them."""
    from datetime import UTC, datetime

    from bulk_upload_pipeline.alerting import messages
    from bulk_upload_pipeline.overlooked import overlooked

    now = datetime.now(UTC)
    if found := overlooked(line, now):
        told = messages.of_overlooked(found, now)
        terminal.complain(f"{told.title}: {told.body}")


@click.command()
@click.argument("batch", type=TEXT)
@click.option("--csv", "csv_path", type=FILE, help="Write the rejected rows there, to be corrected.")
@click.option("--xlsx", "xlsx_path", type=FILE, help="The same as a sheet of texts.")
@as_json
def errors(batch: str, csv_path: Path | None, xlsx_path: Path | None, as_json: bool) -> None:
    """Show the findings of BATCH by code, with an example each."""
    import dataclasses

    from bulk_upload_pipeline import ledger, rejects
    from bulk_upload_pipeline.exceptions import NothingToCorrectError
    from bulk_upload_pipeline.reporting import finding_files, rejected_sheet

    with open_line() as line:
        receipt = ledger.receipt(line.engine, batch)
        codes = rejects.by_code(line.engine, batch)
        if (csv_path or xlsx_path) and not receipt.layout.get("header"):
            raise NothingToCorrectError(batch, receipt.state)
        if csv_path is not None:
            with writing(csv_path):
                finding_files.write_rejected(line.engine, batch, receipt.layout, csv_path)
        if xlsx_path is not None:
            with writing(xlsx_path), scratch.folder("rejected") as folder:
                rows = folder / "rejected_rows.csv"
                finding_files.write_rejected(line.engine, batch, receipt.layout, rows)
                rejected_sheet.write(rows, xlsx_path, receipt.layout)
    if as_json:
        terminal.print_json([dataclasses.asdict(code) for code in codes])
    else:
        terminal.print_codes(codes)
