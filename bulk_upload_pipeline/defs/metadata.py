"""Facts of the line as Dagster metadata that reads well in the UI."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import dagster as dg

from bulk_upload_pipeline import contract, report, storage
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import Batch, CodeCount, LoadResult, Progress, Receipt, Verdict
from bulk_upload_pipeline.places import Place
from bulk_upload_pipeline.sales import COUNTED_FROM, Day, as_numbers, daily_sales

Metadata = dict[str, Any]


def column_schema() -> dg.TableSchema:
    """Return the contract as the UI's column tab shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                contract.sql_type(column),
                f"{column.title}. {contract.rule_in_words(column)}",
                dg.TableColumnConstraints(nullable=not column.required),
            )
            for column in contract.COLUMNS
        ]
    )


_FIGURES = {
    "invoice_date": "The day.",
    "lines": "Invoice lines of the day.",
    "invoices": "Different invoice numbers.",
    "customers": "Different customers: by their id, or by name where there is none.",
    "quantity": "Sum of the quantities, credits taken off.",
    "sales": "Sum of the totals of all lines but credits.",
    "credits": "Sum of the totals of credit lines, which have a negative quantity.",
    "refreshed_at": "When the day was counted last.",
}


def sales_schema() -> dg.TableSchema:
    """Return the columns of `daily_sales`."""
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, str(column.type).lower(), _FIGURES[column.name])
            for column in daily_sales.columns
        ]
    )


def of_day(day: Day) -> Metadata:
    """Return the figures of a day. The UI plots floats; the exact figures are in the table."""
    figures = {
        name: float(value) if isinstance(value, Decimal) else value for name, value in as_numbers(day).items()
    }
    return figures | _lineage(contract.TARGET, COUNTED_FROM)


def _lineage(upstream: str, columns: Mapping[str, Iterable[str]]) -> Metadata:
    """Return which columns of `upstream` each column comes from, as the UI's lineage tab shows it."""
    stated = tuple((column, tuple(sources)) for column, sources in columns.items())
    return {"dagster/column_lineage": _lineage_of(upstream, stated)}


@lru_cache(maxsize=32)
def _lineage_of(upstream: str, columns: tuple[tuple[str, tuple[str, ...]], ...]) -> dg.TableColumnLineage:
    """Files of one sender have the same: it is a tenth of what the events of a small file take."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(upstream), source) for source in sources]
            for column, sources in columns
        }
    )


def of_columns(batch: Batch) -> Metadata:
    """Return which column of the file each column of the contract was read from."""
    layout = batch.layout
    assert layout is not None
    return _lineage("upload", {name: [layout.header[at]] for name, at in layout.mapping.items()})


def of_upload(batch: Batch) -> Metadata:
    """Return what `upload` recognised; a spreadsheet has neither encoding nor delimiter."""
    layout = batch.layout
    assert layout is not None
    sure = f"{layout.encoding} ({layout.encoding_confidence:.0%} sure)"
    return {
        "file": batch.file_name,
        "bytes": batch.file_size,
        "sha256": batch.sha256 or "",
        "format": layout.file_format
        if not layout.compression
        else f"{layout.file_format} in {layout.compression}",
        **({"encoding": sure} if layout.encoding else {}),
        **({"delimiter": repr(layout.delimiter)} if layout.delimiter else {}),
        "profile": layout.profile,
        "header": dg.MetadataValue.md(_mapping_table(batch)),
        "columns_to_extra": [layout.header[position] for position in layout.extra_columns],
    }


def _mapping_table(batch: Batch) -> str:
    assert batch.layout is not None
    in_file_order = sorted(batch.layout.mapping.items(), key=lambda mapped: mapped[1])
    rows = [(_cell(batch.layout.header[at]), name) for name, at in in_file_order]
    return "\n".join(["| in the file | loaded as |", "|---|---|", *(f"| {a} | `{b}` |" for a, b in rows)])


def _cell(text: str) -> str:
    """Return text that stays within its cell of a Markdown table, whatever a file has in it."""
    plain = " ".join(text.split())
    for mark in "\\`*_[]<>|#":
        plain = plain.replace(mark, "\\" + mark)
    return plain


def of_verdict(verdict: Verdict) -> Metadata:
    """Return the verdict on a file."""
    return {
        "dagster/row_count": verdict.rows_valid,
        "rows_read": verdict.rows_read,
        "rows_valid": verdict.rows_valid,
        "rows_rejected": verdict.rows_rejected,
        "warnings": verdict.warnings,
        "error_rate": round(verdict.error_rate, 4),
        "chunks": verdict.chunks,
        "rules_version": verdict.rules_version,
        "control_totals": dg.MetadataValue.json(verdict.totals_read.as_dict()),
    }


def of_findings(preview: Iterable[Mapping[str, Any]], codes: Iterable[CodeCount]) -> Metadata:
    """Return findings by code, and a preview of the first ones, as tables."""
    by_code = [
        {
            "code": c.code,
            "title": CATALOGUE[c.code].title,
            "severity": c.severity,
            "count": c.count,
            "example": c.example,
        }
        for c in codes
    ]
    first = [{name: "" if value is None else value for name, value in row.items()} for row in preview]
    tables: Metadata = {}
    if by_code:
        tables["findings_by_code"] = _table(by_code, {"count": "int"})
    if first:
        tables["first_findings"] = _table(first, {})
    return tables


def _table(rows: list[dict[str, Any]], types: Mapping[str, str]) -> dg.TableMetadataValue:
    schema = dg.TableSchema([dg.TableColumn(name, types.get(name, "string")) for name in rows[0]])
    records = [
        dg.TableRecord({name: v if name in types else str(v) for name, v in row.items()}) for row in rows
    ]
    return dg.MetadataValue.table(records, schema)


def of_load(result: LoadResult) -> Metadata:
    """Return what a load did to the target."""
    return {
        "dagster/row_count": result.rows,
        "rows_inserted": result.inserted,
        "rows_updated": result.updated,
        "rows_unchanged": result.unchanged,
        "rows_refused": result.refused,
        "control_totals": dg.MetadataValue.json(result.totals.as_dict()),
        **_lineage("validated_invoices", {name: [name] for name in contract.NAMES}),
    }


def of_receipt(receipt: Receipt, folder: Place) -> Metadata:
    """Return the counts of a receipt, and where its files are."""
    there = storage.names(folder)
    files = {
        ("rejected_sheet" if name == report.REJECTED_SHEET else name.split(".")[0]): dg.MetadataValue.path(
            str(folder / name)
        )
        for name in (report.PAGE, report.FINDINGS, report.REJECTED_ROWS, report.REJECTED_SHEET)
        if name in there
    }
    return {
        "state": str(receipt.state),
        "reason": receipt.reason,
        "file": receipt.file_name,
        "rows_read": receipt.rows_read,
        "rows_inserted": receipt.rows_inserted,
        "rows_updated": receipt.rows_updated,
        "rows_unchanged": receipt.rows_unchanged,
        "rows_rejected": receipt.rows_rejected,
        "rows_unprocessed": receipt.rows_unprocessed,
        "warnings": receipt.warnings,
        "control_totals": dg.MetadataValue.json(receipt.control_totals),
        "seconds": _seconds(receipt),
        **files,
    }


def _seconds(receipt: Receipt) -> float:
    if receipt.started_at is None or receipt.finished_at is None:
        return 0.0
    return round((receipt.finished_at - receipt.started_at).total_seconds(), 3)


def of_progress(progress: Progress) -> Metadata:
    """Return a moment of a long stage as numbers, which the UI plots."""
    numbers = {
        "rows_done": progress.rows_done,
        "rows_total": progress.rows_total,
        "rows_per_second": round(progress.rows_per_second),
        "percent": None if progress.percent is None else round(progress.percent, 1),
        "eta_seconds": None if progress.eta_seconds is None else round(progress.eta_seconds, 1),
    }
    return {name: value for name, value in numbers.items() if value is not None}
