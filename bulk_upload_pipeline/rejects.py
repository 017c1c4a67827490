"""The findings of a batch in PostgreSQL: `bulk_upload.processing_errors`."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import sqlalchemy as sa

from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.kept import sheets_of
from bulk_upload_pipeline.model import CodeCount, Severity, numbers_of, place_in
from bulk_upload_pipeline.overlap import ahead
from bulk_upload_pipeline.tables import load_chunks, processing_errors, upload_batches
from bulk_upload_pipeline.verbatim import row_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bulk_upload_pipeline.model import Finding, Sheet
    from bulk_upload_pipeline.staged import StagedBatch

BY_DATABASE = ("REFUSED_BY_DATABASE", "ALREADY_LOADED")
"""Codes that the loader finds, not the validation."""

_COPIED = (
    "batch_id",
    "row_number",
    "column_name",
    "error_code",
    "severity",
    "error_message",
    "raw_value",
    "row_data",
    "invoice_number",
    "line_occurrence",
)


def keep(connection: sa.Connection, batch_id: str, staged: StagedBatch, has_findings: bool) -> None:
    """Replace the findings of a batch by those that are staged, in the caller's transaction.

    Errors of an earlier verdict that are no more are resolved by the batch itself. What the loader found stays
    as long as its chunks are loaded.

    Args:
        connection: The transaction.
        batch_id: Whose findings they are.
        staged: Where they lie.
        has_findings: Whether the batch has any already.
    """
    if has_findings:
        _settle_earlier(connection, batch_id)
    copy = f"COPY bulk_upload.processing_errors ({', '.join(_COPIED)}) FROM STDIN (FORMAT csv)"
    cursor = connection.connection.cursor()
    # The next are written as CSV while PostgreSQL takes some.
    for text in ahead(_as_csv(batch_id, batch) for batch in staged.finding_batches()):
        cursor.copy_expert(copy, text)
    if has_findings:
        forget_repeated(connection, batch_id)


def _settle_earlier(connection: sa.Connection, batch_id: str) -> None:
    """Drop the warnings of an earlier verdict, and let its errors be resolved."""
    errors = processing_errors.c
    validated = (errors.batch_id == batch_id, errors.error_code.not_in(BY_DATABASE))
    connection.execute(sa.delete(processing_errors).where(*validated, errors.severity == Severity.WARNING))
    connection.execute(
        sa.update(processing_errors)
        .where(*validated, ~errors.is_resolved)
        .values(is_resolved=True, resolved_at=sa.func.now(), resolved_by_batch=batch_id)
    )


def forget(engine: sa.Engine, batch_id: str) -> None:
    """Drop all findings of a batch that turned out to be one that is known already."""
    with engine.begin() as connection:
        connection.execute(sa.delete(processing_errors).where(processing_errors.c.batch_id == batch_id))


def forget_repeated(connection: sa.Connection, batch_id: str) -> None:
    """Drop resolved findings on rows that were rejected again since, in the caller's transaction."""
    errors = processing_errors.c
    resolved = (errors.batch_id == batch_id, errors.is_resolved)
    # Nearly always there is none, which one look tells: the statement below looks at all findings of the batch.
    if not connection.scalar(sa.select(sa.exists().where(*resolved))):
        return
    # Looked at once, side by side. PostgreSQL knows nothing yet of a batch that has just come, takes its findings for
    # one, and would hold each of 100,000 against each other, which takes hours.
    is_open = sa.and_(~errors.is_resolved, errors.severity == Severity.ERROR)
    beside = sa.func.bool_or(is_open).over(partition_by=errors.row_number).label("is_rejected_again")
    found = (
        sa.select(errors.id, errors.is_resolved, beside)
        .where(errors.batch_id == batch_id, errors.row_number.is_not(None))
        .subquery()
    )
    repeated = sa.select(found.c.id).where(found.c.is_resolved, found.c.is_rejected_again)
    ids = sa.func.array(repeated.scalar_subquery())
    connection.execute(sa.delete(processing_errors).where(errors.id == sa.func.any(ids)))


def keep_file_finding(engine: sa.Engine, batch_id: str, finding: Finding) -> None:
    """Replace the findings of a batch by the one that says why its file cannot be read."""
    errors = processing_errors.c
    with engine.begin() as connection:
        connection.execute(sa.delete(processing_errors).where(errors.batch_id == batch_id))
        connection.execute(
            sa.insert(processing_errors).values(
                batch_id=batch_id,
                error_code=finding.code,
                severity=finding.severity,
                error_message=_storable(finding.message),
                raw_value=None if finding.raw_value is None else _storable(finding.raw_value),
            )
        )


# The example of a code is sought in its first row: to sort all findings for it would take longer than to count them.
_BY_CODE = sa.text("""
    WITH open AS NOT MATERIALIZED (
        SELECT id, row_number, column_name, error_code, severity, error_message
        FROM bulk_upload.processing_errors WHERE batch_id = :batch_id AND NOT is_resolved
    ), counted AS (
        SELECT error_code, severity, count(*) AS findings, min(row_number) AS first_row
        FROM open GROUP BY error_code, severity
    )
    SELECT error_code, severity, findings, column_name, first_row, error_message
    FROM counted CROSS JOIN LATERAL (
        SELECT column_name, error_message FROM open
        WHERE open.error_code = counted.error_code AND open.severity = counted.severity
        AND (open.row_number = first_row OR first_row IS NULL AND open.row_number IS NULL)
        ORDER BY id LIMIT 1
    ) AS example
    ORDER BY severity, findings DESC, error_code
""")


def by_code(engine: sa.Engine, batch_id: str) -> list[CodeCount]:
    """Return the unresolved findings of a batch by code, the most frequent first."""
    with asking(engine) as connection:
        found: list[Any] = list(connection.execute(_BY_CODE, {"batch_id": batch_id}))
        if not found:
            return []
        layout = _layout(connection, batch_id)
        rows = _rows_of_first(connection, batch_id, layout)
    codes = (CodeCount(*row) for row in found)
    return [_where_it_stands(code, sheets_of(layout), rows) for code in codes]


def _layout(connection: sa.Connection, batch_id: str) -> dict[str, Any]:
    columns = upload_batches.c
    return connection.scalar(sa.select(columns.layout).where(columns.batch_id == batch_id)) or {}


_ROWS_OF_FIRST = sa.text("""
    WITH RECURSIVE up AS (
        SELECT batch_id, parent_batch_id, rows_read FROM bulk_upload.upload_batches WHERE batch_id = :batch_id
        UNION SELECT b.batch_id, b.parent_batch_id, b.rows_read
        FROM bulk_upload.upload_batches AS b JOIN up ON b.batch_id = up.parent_batch_id
    ) SELECT rows_read FROM up WHERE parent_batch_id IS NULL
""")


def _rows_of_first(connection: sa.Connection, batch_id: str, layout: dict[str, Any]) -> int | None:
    """Return how many row numbers the file has that a correction corrects; None for any other file."""
    if not layout.get("written_as"):
        return None
    rows = connection.scalar(_ROWS_OF_FIRST, {"batch_id": batch_id})
    return None if rows is None else numbers_of(rows, sheets_of(layout))


def _where_it_stands(code: CodeCount, sheets: Sequence[Sheet], rows_of_first: int | None) -> CodeCount:
    row = code.example_row
    if row is not None and rows_of_first is not None and row > rows_of_first:
        return replace(code, own_row=row - rows_of_first)
    return replace(code, **_placed(sheets, row))


def _placed(sheets: Sequence[Sheet], row_number: int | None) -> dict[str, Any]:
    place = None if row_number is None else place_in(sheets, row_number)
    return {} if place is None else dict(zip(("sheet", "sheet_row"), place, strict=True))


def without_source(engine: sa.Engine, batch_id: str) -> list[int]:
    """Return the rows with a finding that lacks the source row: the loader does not have it."""
    errors = processing_errors.c
    query = (
        sa.select(errors.row_number)
        .distinct()
        .where(errors.batch_id == batch_id, errors.error_code.in_(BY_DATABASE), errors.row_data.is_(None))
    )
    with asking(engine) as connection:
        return list(connection.scalars(query))


def add_source(connection: sa.Connection, batch_id: str, rows: pa.Table) -> None:
    """Complete findings by their source row, of which `verbatim.source_rows` are given, in the caller's transaction."""
    connection.execute(
        sa.text(
            "UPDATE bulk_upload.processing_errors AS e SET row_data = CAST(source.row_data AS jsonb) "
            "FROM unnest(CAST(:numbers AS bigint[]), CAST(:sources AS text[])) "
            "AS source (row_number, row_data) WHERE e.batch_id = :batch_id AND e.row_data IS NULL "
            "AND e.row_number = source.row_number"
        ),
        {
            "batch_id": batch_id,
            "numbers": rows["row_number"].to_pylist(),
            "sources": row_data(rows).to_pylist(),
        },
    )


def reopen_refused(connection: sa.Connection, batch_id: str) -> None:
    """Let the chunks of which the database refused rows be loaded anew, in the caller's transaction.

    A row that is refused again gets a new finding.
    """
    errors, chunks = processing_errors.c, load_chunks.c
    refused = (errors.batch_id == batch_id, errors.error_code.in_(BY_DATABASE), ~errors.is_resolved)
    connection.execute(sa.delete(load_chunks).where(chunks.batch_id == batch_id, chunks.refused > 0))
    connection.execute(
        sa.update(processing_errors)
        .where(*refused)
        .values(is_resolved=True, resolved_at=sa.func.now(), resolved_by_batch=batch_id)
    )


def first(engine: sa.Engine, batch_id: str, limit: int) -> list[dict[str, Any]]:
    """Return the first findings of a batch, in file order."""
    errors = processing_errors.c
    query = (
        sa.select(errors.row_number, errors.column_name, errors.error_code, errors.severity)
        .add_columns(errors.error_message, errors.raw_value)
        .where(errors.batch_id == batch_id)
        .order_by(errors.row_number, errors.id)
        .limit(limit)
    )
    with engine.connect() as connection:
        sheets = sheets_of(_layout(connection, batch_id))
        found = [dict(row._mapping) for row in connection.execute(query)]
    return [finding | _placed(sheets, finding["row_number"]) for finding in found]


def _as_csv(batch_id: str, batch: pa.RecordBatch) -> io.BytesIO:
    """Return findings as CSV for COPY, in the order of `_COPIED`."""
    columns = {"batch_id": pa.repeat(batch_id, len(batch))} | {
        name: batch[name] for name in _COPIED if name != "batch_id"
    }
    for name in ("column_name", "error_message", "raw_value", "invoice_number"):
        # PostgreSQL's text has no NUL.
        columns[name] = pc.replace_substring(columns[name], "\0", "\ufffd")
    stream = io.BytesIO()
    pacsv.write_csv(
        pa.record_batch(columns), stream, pacsv.WriteOptions(include_header=False, quoting_style="needed")
    )
    stream.seek(0)
    return stream


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
