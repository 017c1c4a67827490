"""The findings of a batch as files: `findings.csv` to sort and count, `rejected_rows.csv` to correct.

PostgreSQL writes them, however many they are. The layout is that of the batch, as its receipt has it.
"""

from __future__ import annotations

import codecs
import csv
import io
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from bulk_upload_pipeline.kept import sheets_of
from bulk_upload_pipeline.origin import FORMULA, MARK, OWN_COLUMNS, PLAIN_NUMBER, harmless
from bulk_upload_pipeline.parsing.cells import unique_names
from bulk_upload_pipeline.verbatim import raw_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import sqlalchemy as sa

    from bulk_upload_pipeline.model import Sheet


_FROM_THE_FILE = ("sheet", "column_name", "error_message", "raw_value")
"""Columns of a finding in which something stands as the file has it, a message beginning with its column's name."""


def write_findings(engine: sa.Engine, batch_id: str, layout: dict[str, Any], path: Path) -> None:
    """Write every finding of a batch as CSV, for whoever wants to sort and count. No cell is run as a formula."""
    sheets = sheets_of(layout)
    of_file = {name: _harmless(sql.Identifier(name)) for name in _FROM_THE_FILE}
    query = sql.SQL(
        "SELECT row_number, {place}{column_name}, error_code, severity, {error_message}, {raw_value} "
        "FROM bulk_upload.processing_errors{places} WHERE batch_id = {batch_id} ORDER BY row_number, id"
    ).format(
        place=sql.SQL("{sheet}, sheet_row, ").format(**of_file) if sheets else sql.SQL(""),
        places=_places(sheets),
        batch_id=sql.Literal(batch_id),
        **of_file,
    )
    own = ("sheet", "sheet_row") if sheets else ()
    header = ("row_number", *own, "column", "code", "severity", "message", "value")
    _write_csv(engine, query, header, path)


def _places(sheets: Sequence[Sheet]) -> sql.Composable:
    """Return SQL that joins to each `row_number` the `sheet` and the `sheet_row` where the record stands."""
    if not sheets:
        return sql.SQL("")
    until = list(accumulate((sheet.last_row - sheet.header_row for sheet in sheets), initial=0))
    values = sql.SQL(", ").join(
        sql.SQL("({}, {}, {}, {})").format(*map(sql.Literal, (sheet.name, before, upto, sheet.header_row)))
        for sheet, before, upto in zip(sheets, until, until[1:], strict=False)
    )
    return sql.SQL(
        " LEFT JOIN LATERAL (SELECT name AS sheet, row_number - before + header_row AS sheet_row FROM "
        "(VALUES {}) AS sheets (name, before, upto, header_row) "
        "WHERE row_number > before AND row_number <= upto) AS places ON true"
    ).format(values)


def write_rejected(engine: sa.Engine, batch_id: str, layout: dict[str, Any], path: Path) -> None:
    """Write the rejected rows in the source's own columns and order, to be corrected and dropped again.

    A cell that a spreadsheet would run as a formula gets an apostrophe before it, and so does a cell that
    starts with an apostrophe already: dropping one apostrophe restores every cell exactly. A record that
    has no cells (too many, too few) stands as its text in the first column.
    """
    header = tuple(layout["header"])
    query = _rejected(batch_id, unique_names(header), sheets_of(layout))
    _write_csv(engine, query, (*map(harmless, header), *OWN_COLUMNS), path)


def _rejected(batch_id: str, names: Sequence[str], sheets: Sequence[Sheet]) -> sql.Composed:
    """Return the query for the rejected rows of a batch, a column of the source as a column."""
    source = sql.SQL(", ").join(
        sql.SQL("row_data->>{} AS {}").format(sql.Literal(name), sql.Identifier(f"c{position}"))
        for position, name in enumerate(names)
    )
    shown = [_harmless(sql.Identifier(f"c{position}")) for position in range(len(names))]
    shown[0] = sql.SQL("coalesce({}, {})").format(_harmless(sql.Identifier("raw_text")), shown[0])
    where = sql.SQL(
        "coalesce('row ' || sheet_row || ' of the sheet ' || '''' || sheet || ''': ', '') || "
        if sheets
        else ""
    )
    return sql.SQL(
        "SELECT {shown}, {batch_id}, row_number, line_occurrence, {where}{errors} FROM ("
        "SELECT {source}, {raw} AS raw_text, row_number, line_occurrence, errors FROM ("
        "SELECT row_number, min(line_occurrence) AS line_occurrence, "
        "(array_agg(row_data ORDER BY id))[1] AS row_data, "
        "string_agg(error_message, ' | ' ORDER BY id) AS errors "
        "FROM bulk_upload.processing_errors WHERE batch_id = {batch_id} AND severity = 'error' "
        "AND row_number IS NOT NULL AND NOT is_resolved GROUP BY row_number) AS rejected "
        "OFFSET 0) AS cells{places} ORDER BY row_number"
    ).format(
        shown=sql.SQL(", ").join(shown),
        source=source,
        raw=sql.SQL(raw_text("row_data")),
        batch_id=sql.Literal(batch_id),
        where=where,
        errors=_harmless(sql.Identifier("errors")),
        places=_places(sheets),
    )


def _harmless(cell: sql.Composable) -> sql.Composable:
    """Return SQL for a cell that no spreadsheet runs as a formula; a plain number stays as it is."""
    return sql.SQL(
        "CASE WHEN {cell} ~ {formula} AND {cell} !~ {number} THEN {apostrophe} || {cell} ELSE {cell} END"
    ).format(
        cell=cell,
        formula=sql.Literal(FORMULA),
        number=sql.Literal(PLAIN_NUMBER),
        apostrophe=sql.Literal(MARK),
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
