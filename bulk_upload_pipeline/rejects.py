"""The findings of a batch in PostgreSQL: `bulk_upload.processing_errors`, and the files made from it."""

from __future__ import annotations

import codecs
import csv
import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import sqlalchemy as sa
from psycopg2 import sql

from bulk_upload_pipeline.cells import unique_names
from bulk_upload_pipeline.model import CodeCount
from bulk_upload_pipeline.tables import processing_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bulk_upload_pipeline.model import Finding
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
    "line_occurrence",
)


def keep(connection: sa.Connection, batch_id: str, staged: StagedBatch) -> None:
    """Replace the findings of a batch by those that are staged, in the caller's transaction."""
    errors = processing_errors.c
    connection.execute(sa.delete(processing_errors).where(errors.batch_id == batch_id, ~errors.is_resolved))
    copy = f"COPY bulk_upload.processing_errors ({', '.join(_COPIED)}) FROM STDIN (FORMAT csv)"
    cursor = connection.connection.cursor()
    for batch in staged.finding_batches():
        cursor.copy_expert(copy, _as_csv(batch_id, batch))


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


def by_code(engine: sa.Engine, batch_id: str) -> list[CodeCount]:
    """Return the unresolved findings of a batch by code, the most frequent first."""
    query = sa.text(
        "SELECT error_code, severity, count(*), (array_agg(column_name ORDER BY row_number, id))[1], "
        "min(row_number), (array_agg(error_message ORDER BY row_number, id))[1] "
        "FROM bulk_upload.processing_errors WHERE batch_id = :batch_id AND NOT is_resolved "
        "GROUP BY error_code, severity ORDER BY severity, count(*) DESC, error_code"
    )
    with engine.connect() as connection:
        found: list[Any] = list(connection.execute(query, {"batch_id": batch_id}))
    return [CodeCount(*row) for row in found]


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
        return [dict(row._mapping) for row in connection.execute(query)]


def write_findings(engine: sa.Engine, batch_id: str, path: Path) -> None:
    """Write every finding of a batch as CSV, for whoever wants to sort and count."""
    query = sql.SQL(
        "SELECT row_number, column_name, error_code, severity, error_message, raw_value "
        "FROM bulk_upload.processing_errors WHERE batch_id = {} ORDER BY row_number, id"
    ).format(sql.Literal(batch_id))
    header = ("row_number", "column", "code", "severity", "message", "value")
    _write_csv(engine, query, header, path)


OWN_COLUMNS = ("_batch_id", "_row_number", "_line_occurrence", "_errors")
"""What `rejected_rows.csv` adds to the source's columns: by these a corrected row is known again."""


def write_rejected(engine: sa.Engine, batch_id: str, header: Sequence[str], path: Path) -> None:
    """Write the rejected rows in the source's own columns and order, to be corrected and dropped again.

    A cell that a spreadsheet would run as a formula gets an apostrophe before it, and so does a cell that
    starts with an apostrophe already: dropping one apostrophe restores every cell exactly. A record that
    has no cells (too many, too few) stands as its text in the first column.
    """
    names = unique_names(header)
    source = sql.SQL(", ").join(
        sql.SQL("row_data->>{} AS {}").format(sql.Literal(name), sql.Identifier(f"c{position}"))
        for position, name in enumerate(names)
    )
    shown = [_harmless(sql.Identifier(f"c{position}")) for position in range(len(names))]
    shown[0] = sql.SQL("coalesce(raw_text, {})").format(shown[0])
    query = sql.SQL(
        "SELECT {shown}, {batch_id}, row_number, line_occurrence, errors FROM ("
        "SELECT {source}, row_data->>'_raw' AS raw_text, row_number, line_occurrence, errors FROM ("
        "SELECT row_number, min(line_occurrence) AS line_occurrence, "
        "(array_agg(row_data ORDER BY id))[1] AS row_data, "
        "string_agg(error_message, ' | ' ORDER BY id) AS errors "
        "FROM bulk_upload.processing_errors WHERE batch_id = {batch_id} AND severity = 'error' "
        "AND row_number IS NOT NULL AND NOT is_resolved GROUP BY row_number) AS rejected "
        "OFFSET 0) AS cells ORDER BY row_number"
    ).format(shown=sql.SQL(", ").join(shown), source=source, batch_id=sql.Literal(batch_id))
    _write_csv(engine, query, (*header, *OWN_COLUMNS), path)


def _harmless(cell: sql.Composable) -> sql.Composable:
    """Return SQL for a cell that no spreadsheet runs as a formula; a plain number stays as it is."""
    return sql.SQL(
        "CASE WHEN {cell} ~ {formula} AND {cell} !~ {number} THEN {apostrophe} || {cell} ELSE {cell} END"
    ).format(
        cell=cell,
        formula=sql.Literal("^[=+@\t\r'-]"),
        number=sql.Literal("^[+-]?[0-9.,]+$"),
        apostrophe=sql.Literal("'"),
    )


def _write_csv(engine: sa.Engine, query: sql.Composable, header: Sequence[str], path: Path) -> None:
    """Copy the rows of a query into a CSV file, in UTF-8 with the mark by which Excel knows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    with engine.connect() as connection, unfinished.open("wb") as file:
        file.write(codecs.BOM_UTF8)
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        csv.writer(text, lineterminator="\n").writerow(header)
        text.detach()
        cursor = connection.connection.cursor()
        copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)
        cursor.copy_expert(copy.as_string(connection.connection.driver_connection), file)
    unfinished.replace(path)


def _as_csv(batch_id: str, batch: pa.RecordBatch) -> io.BytesIO:
    """Return findings as CSV for COPY, in the order of `_COPIED`."""
    columns = {"batch_id": pa.repeat(batch_id, len(batch))} | {
        name: batch[name] for name in _COPIED if name != "batch_id"
    }
    for name in ("column_name", "error_message", "raw_value"):
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
