"""What made an invoice what it is: the files, rows, corrections and reverts behind each of its lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, String, Table, func

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.exceptions import InvoiceNotFoundError
from bulk_upload_pipeline.kept import sheets_of
from bulk_upload_pipeline.model import numbers_of, on_one_line, place_in, where_in_words
from bulk_upload_pipeline.tables import SCHEMA, metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from bulk_upload_pipeline.model import Sheet

reverted_invoices = Table(
    "reverted_invoices",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("batch_id", String(100), nullable=False),
    Column("invoice_number", String(100), nullable=False),
    Column("deleted", BigInteger, nullable=False),
    Column("restored", BigInteger, nullable=False),
    Column("reverted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("reverted_invoices_invoice_number", "invoice_number"),
    schema=SCHEMA,
)
"""One row an invoice and revert: the only thing that remembers what is not there any more."""

_LINES = sa.text(
    f"SELECT id, created_at, to_jsonb(t)::text AS now FROM {contract.TABLE} AS t "  # noqa: S608 - our own names
    "WHERE invoice_number = :number ORDER BY created_at, row_number, id"
)
_FORMER = sa.text(
    f"SELECT f.target_id, f.batch_id, f.former::text AS former, f.kept_at FROM bulk_upload.former_rows AS f "  # noqa: S608
    f"JOIN {contract.TABLE} AS t ON t.id = f.target_id WHERE t.invoice_number = :number "
    "ORDER BY f.target_id, f.kept_at, f.batch_id"
)
_FINDINGS = sa.text(
    "SELECT batch_id, row_number, error_code, severity, error_message, detected_at, resolved_by_batch, is_resolved "
    "FROM bulk_upload.processing_errors WHERE invoice_number = left(CAST(:number AS text), 100) "
    "ORDER BY detected_at, row_number, id"
)
_REVERTED = sa.text(
    "SELECT batch_id, deleted, restored, reverted_at FROM bulk_upload.reverted_invoices "
    "WHERE invoice_number = :number ORDER BY id"
)
_BATCHES = sa.text(
    "WITH RECURSIVE asked AS (SELECT batch_id, parent_batch_id FROM bulk_upload.upload_batches "
    "WHERE batch_id = ANY (:batches) UNION SELECT b.batch_id, b.parent_batch_id "
    "FROM bulk_upload.upload_batches AS b JOIN asked ON b.batch_id = asked.parent_batch_id) "
    "SELECT batch_id, file_name, state, parent_batch_id, received_at, rows_read, layout "
    "FROM bulk_upload.upload_batches WHERE batch_id IN (SELECT batch_id FROM asked) ORDER BY received_at, batch_id"
)
_OURS = ("id", "upload_batch_id", "row_number", "line_occurrence", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an invoice.

    Attributes:
        batch_id: The batch that did it; None for a row that was there before any batch.
        what: `inserted`, `changed`, `rejected`, `warning` or `reverted`.
        row_number: Of the row in the batch's file; of a correction, in the file that was first corrected, or beyond
            all of its rows.
        item: What the line is about.
        words: What happened, with the values.
        resolved_by: For a rejected row: the batch that brought it corrected.
    """

    at: datetime
    batch_id: str | None
    what: str
    words: str
    row_number: int | None = None
    item: str | None = None
    resolved_by: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file that had to do with an invoice.

    Attributes:
        corrects: The batch whose rejected rows the file brought back corrected.
        rows: How many row numbers it has.
        sheets: Where its rows stand, of a spreadsheet.
    """

    batch_id: str
    file_name: str
    state: str
    received_at: datetime
    corrects: str | None
    rows: int
    sheets: tuple[Sheet, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The story of an invoice, in the order in which it happened, and its lines as they stand now."""

    invoice_number: str
    lines: tuple[dict[str, Any], ...]
    events: tuple[Event, ...]
    sources: dict[str, Source]


def trace(engine: sa.Engine, invoice_number: str) -> Trace:
    """Tell which files, rows, corrections and reverts made an invoice what it is.

    Raises:
        InvoiceNotFoundError: No line of it is in the target, none was rejected and none reverted.
    """
    named = {"number": invoice_number}
    with engine.connect() as connection:
        lines = connection.execute(_LINES, named).all()
        former = connection.execute(_FORMER, named).all()
        findings = connection.execute(_FINDINGS, named).all()
        reverted = connection.execute(_REVERTED, named).all()
        events = [*_of_lines(lines, former), *_of_findings(findings), *_of_reverts(reverted)]
        if not events:
            raise InvoiceNotFoundError(invoice_number)
        batches = {event.batch_id for event in events} | {event.resolved_by for event in events}
        found = connection.execute(_BATCHES, {"batches": sorted(filter(None, batches))})
        sources = {row.batch_id: _source(row) for row in found}
    standing = tuple(_standing_now(_version(row.now)) for row in lines)
    return Trace(invoice_number, standing, tuple(sorted(events, key=lambda event: event.at)), sources)


def _source(row: sa.Row[Any]) -> Source:
    layout = row.layout or {}
    sheets = tuple(sheets_of(layout.get("written_as") or layout))
    rows = numbers_of(row.rows_read, sheets)
    return Source(row.batch_id, row.file_name, row.state, row.received_at, row.parent_batch_id, rows, sheets)


def _version(text: str) -> dict[str, Any]:
    """Return a row, as it was at some time, with its exact amounts."""
    return json.loads(text, parse_float=Decimal)


def _of_lines(lines: Iterable[sa.Row[Any]], former: Iterable[sa.Row[Any]]) -> Iterable[Event]:
    """Yield how each line came in, and each change of it since: a version is what the next one replaced."""
    before = {key: list(rows) for key, rows in groupby(former, lambda row: row.target_id)}
    for line in lines:
        changes = before.get(line.id, [])
        versions = [_version(text) for text in (*(change.former for change in changes), line.now)]
        yield _event(line.created_at, "inserted", versions[0], _figures(versions[0]))
        for change, old, new in zip(changes, versions, versions[1:], strict=False):
            yield _event(change.kept_at, "changed", new, _difference(old, new))


def _event(at: datetime, what: str, version: Mapping[str, Any], words: str) -> Event:
    item = version["item_name"] or version["sku"] or version["product_id"]
    return Event(at, version["upload_batch_id"], what, words, version["row_number"], item)


def _of_findings(findings: Iterable[sa.Row[Any]]) -> Iterable[Event]:
    for row in findings:
        what = "rejected" if row.severity == "error" else "warning"
        words = f"{row.error_code}: {row.error_message}"
        yield Event(
            row.detected_at, row.batch_id, what, words, row.row_number, resolved_by=row.resolved_by_batch
        )


def _of_reverts(reverts: Iterable[sa.Row[Any]]) -> Iterable[Event]:
    for row in reverts:
        taken = "1 line" if row.deleted == 1 else f"{row.deleted:,} lines"
        words = f"{taken} taken back, {row.restored:,} restored to their former values"
        yield Event(row.reverted_at, row.batch_id, "reverted", words)


def _standing_now(version: Mapping[str, Any]) -> dict[str, Any]:
    stated = {name: value for name, value in version.items() if name not in _OURS and value is not None}
    return stated | {name: version[name] for name in ("upload_batch_id", "row_number")}


def _figures(version: Mapping[str, Any]) -> str:
    quantity, price, total = (_plain(version.get(name)) for name in ("quantity", "item_price", "item_total"))
    return f"{quantity} x {price} = {total}"


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changed = [name for name in new if name not in _OURS and old.get(name) != new[name]]
    return ", ".join(f"{name} {_plain(old.get(name))} -> {_plain(new[name])}" for name in changed)


def _plain(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


def in_words(found: Trace) -> str:
    """Return the story as text for a terminal: a paragraph a file, and the lines as they stand."""
    stand = "1 line stands" if len(found.lines) == 1 else f"{len(found.lines):,} lines stand"
    told = [f"Invoice {found.invoice_number}: {stand} in {contract.TARGET}."]
    for batch_id, events in groupby(found.events, lambda event: event.batch_id):
        happened = list(events)
        told += ["", f"{happened[0].at:%Y-%m-%d %H:%M:%S}  {_of_source(found.sources, batch_id)}"]
        told += [f"  {_in_words(event, found.sources)}" for event in happened]
    told += ["", "Now:" if found.lines else "Now: nothing."]
    told += [f"  {_standing(line, found.sources)}" for line in found.lines]
    return "\n".join(map(on_one_line, told))


def _of_source(sources: Mapping[str, Source], batch_id: str | None) -> str:
    if batch_id is None:
        return "before there were batches"
    source = sources.get(batch_id)
    if source is None:
        return f"batch {batch_id}"
    corrects = f", a correction of batch {source.corrects}" if source.corrects else ""
    return f"{source.file_name} (batch {batch_id}, {source.state}{corrects})"


def _first_of(sources: Mapping[str, Source], source: Source) -> Source:
    """Return the file in which the rows of a file have their numbers: of a correction the one that it corrects."""
    while parent := sources.get(source.corrects or ""):
        source = parent
    return source


def _row_in_words(row_number: int, source: Source, sources: Mapping[str, Source]) -> tuple[str, Source]:
    """Return where a row stands, and in which file; one that corrects none of the first file's stands in its own."""
    first = _first_of(sources, source)
    if first is not source and row_number > first.rows:
        row_number, first = row_number - first.rows, source
    sheet, sheet_row = place_in(first.sheets, row_number) or (None, None)
    return where_in_words(row_number, sheet, sheet_row), first


def _in_words(event: Event, sources: Mapping[str, Source]) -> str:
    row, source = "", sources.get(event.batch_id or "")
    if event.row_number is not None and source is None:
        row = f"row {event.row_number:,} "
    elif event.row_number is not None and source is not None:
        place, file = _row_in_words(event.row_number, source, sources)
        row = f"{place} of {file.file_name} " if source.corrects else f"{place} "
    item = "" if event.item is None else f" {event.item}:"
    resolved = "" if event.resolved_by is None else f" Corrected by batch {event.resolved_by}."
    if event.resolved_by == event.batch_id:
        resolved = " Resolved when the batch was taken again."
    return f"{row}{event.what}{item or ':'} {event.words}{resolved}"


def _standing(line: Mapping[str, Any], sources: Mapping[str, Source]) -> str:
    source = sources.get(line["upload_batch_id"] or "")
    item = line.get("item_name") or line.get("sku") or line.get("product_id")
    return f"{item}: {_figures(line)}, from {_origin(line['row_number'], source, sources)}"


def _origin(row_number: int, source: Source | None, sources: Mapping[str, Source]) -> str:
    if source is None:
        return "no file that is known"
    place, file = _row_in_words(row_number, source, sources)
    corrected = f", corrected in {source.file_name}" if file is not source else ""
    return f"{place} of {file.file_name}{corrected}"
