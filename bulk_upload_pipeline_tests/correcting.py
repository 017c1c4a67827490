"""Files with rejected rows, their corrections, and what became of both."""

from __future__ import annotations

import csv
import io

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, receipt, rows
from bulk_upload_pipeline_tests.writers import xlsx_of

TARGET = "mangalam_invoices"

ERRORS = "bulk_upload.processing_errors"


def take(line, batch_id):
    """Take a batch down the line and return its receipt."""
    try:
        uploaded = stages.upload(line, batch_id)
        if uploaded.receipt is None and not stages.validate(line, batch_id).breaker_tripped:
            stages.load(line, batch_id)
            stages.close(line, batch_id)
    except UnreadableError:
        pass
    return receipt(line, batch_id)


def load(line, name, content):
    return take(line, drop(line, name, content))


def rejected(line, batch_id):
    path = line.reports(batch_id) / "rejected_rows.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def as_csv(found, header=None, delimiter=","):
    text = io.StringIO()
    names = header or list(found[0])
    writer = csv.DictWriter(text, names, lineterminator="\n", delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def as_sheet(found):
    """The rows of a correction in a workbook whose sheet is called as a spreadsheet calls it that opened the CSV."""
    return xlsx_of({"rejected_rows": [list(found[0]), *(list(row.values()) for row in found)]})


def found_codes(line, batch_id):
    query = (
        f"SELECT row_number, error_code FROM {ERRORS} WHERE batch_id = :b AND NOT is_resolved ORDER BY 1, 2"
    )
    return rows(line, query, b=batch_id)


def resolutions(line, batch_id):
    query = f"SELECT row_number, resolved_by_batch FROM {ERRORS} WHERE batch_id = :b ORDER BY 1"
    return dict(rows(line, query, b=batch_id))


def in_target(line):
    query = (
        "SELECT invoice_number, sku, line_occurrence, quantity, upload_batch_id, row_number "
        f"FROM {TARGET} ORDER BY invoice_number, sku, line_occurrence"
    )
    return [(*row[:3], int(row[3]), *row[4:]) for row in rows(line, query)]


def with_bad(line, *bad, good=20, header=HEADER):
    """Load a file of good rows with some bad ones behind them."""
    return load(line, "parent.csv", csv_of([*(good_row(n) for n in range(1, good + 1)), *bad], header))


BAD = good_row(90, Quantity="x")
