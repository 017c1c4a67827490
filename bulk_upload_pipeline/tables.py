"""The tables, as SQLAlchemy Core. What they hold is described in the README; `migrations/` creates them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.model import FINAL_STATES

SCHEMA = "bulk_upload"
metadata = MetaData()


def _sql_type(column: contract.Column) -> TypeEngine[Any]:
    if column.kind is contract.Kind.DATE:
        return Date()
    if column.kind is contract.Kind.AMOUNT:
        return Numeric(contract.AMOUNT_DIGITS, contract.AMOUNT_DECIMALS)
    return Text() if column.unlimited else String(column.limit)


def _now() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


mangalam_invoices = Table(
    contract.TARGET,
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    *(Column(column.name, _sql_type(column)) for column in contract.COLUMNS),
    Column("extra", JSONB),
    Column("line_occurrence", Integer, nullable=False, server_default="1"),
    Column("upload_batch_id", String(100)),
    Column("row_number", Integer),
    _now(),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint(
        *contract.IDENTITY, name=contract.IDENTITY_CONSTRAINT, postgresql_nulls_not_distinct=True
    ),
    Index("mangalam_invoices_invoice_number", "invoice_number"),
    Index("mangalam_invoices_invoice_date", "invoice_date"),
    Index("mangalam_invoices_customer", "customer_name", "customer_id"),
    Index("mangalam_invoices_item", "item_name", "sku"),
    # Written in physical order: BRIN is small and no two connections fight over a last leaf.
    Index(
        "mangalam_invoices_upload_batch",
        "upload_batch_id",
        postgresql_using="brin",
        postgresql_ops={"upload_batch_id": "text_bloom_ops(n_distinct_per_range=256)"},
        postgresql_with={"pages_per_range": 32},
    ),
    Index("mangalam_invoices_created", "created_at", postgresql_using="brin"),
)
"""One row an invoice line: the contract's columns and what the loader knows about them."""

_FINAL = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))
CONSERVATION_LAW = (
    f"state NOT IN ({_FINAL}) OR rows_unprocessed >= 0 AND rows_read = "
    "rows_inserted + rows_updated + rows_unchanged + rows_rejected + rows_unprocessed"
)
"""No row is lost without a word, and none is counted twice, whatever code writes a receipt."""


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


upload_batches = Table(
    "upload_batches",
    metadata,
    Column("batch_id", String(100), primary_key=True),
    Column("file_name", Text, nullable=False),
    Column("file_size", BigInteger, nullable=False),
    Column("source_path", Text, nullable=False),
    Column("folder", Text),
    Column("fingerprint", Text),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("sha256", String(64)),
    Column("file_format", Text),
    Column("encoding", Text),
    Column("profile", Text),
    Column("layout", JSONB),
    Column("overrides", JSONB),
    Column("state", String(30), nullable=False),
    Column("reason", Text),
    Column("max_error_rate", Double),
    _count("rows_read"),
    _count("rows_inserted"),
    _count("rows_updated"),
    _count("rows_unchanged"),
    _count("rows_rejected"),
    _count("rows_unprocessed"),
    _count("rows_corrected"),
    _count("warnings"),
    Column("findings_by_code", JSONB),
    Column("control_totals", JSONB),
    Column("verdict", JSONB),
    Column("rules_version", Integer),
    Column("run_id", Text),
    Column("parent_batch_id", String(100)),
    Column("duplicate_of", String(100)),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("alerted_at", DateTime(timezone=True)),
    Column("validated_at", DateTime(timezone=True)),
    CheckConstraint(CONSERVATION_LAW, name="conservation_law"),
    Index("upload_batches_sha256", "sha256"),
    Index("upload_batches_state", "state"),
    Index("upload_batches_received", "received_at", "batch_id"),
    Index("upload_batches_finished", "finished_at"),
    Index("upload_batches_source_path", "source_path"),
    Index("upload_batches_parent", "parent_batch_id"),
    Index("upload_batches_profile", "profile", "received_at", "batch_id"),
    schema=SCHEMA,
)
"""One row a batch, from the moment its file is seen; in a final state it is the receipt."""

processing_errors = Table(
    "processing_errors",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("batch_id", String(100), nullable=False),
    Column("row_number", BigInteger),
    Column("line_occurrence", Integer),
    Column("column_name", Text),
    Column("error_code", String(50), nullable=False),
    Column("severity", String(10), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("raw_value", Text),
    Column("row_data", JSONB),
    Column("invoice_number", String(100)),
    Column("detected_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("is_resolved", Boolean, nullable=False, server_default="false"),
    Column("resolved_at", DateTime(timezone=True)),
    Column("resolved_by_batch", String(100)),
    Index("processing_errors_batch", "batch_id", "row_number"),
    Index("processing_errors_code", "error_code"),
    Index("processing_errors_resolved", "batch_id", postgresql_where=text("is_resolved")),
    # A btree would take 4 us a finding, where all else that PostgreSQL does for one takes some 20.
    Index(
        "processing_errors_invoice",
        "invoice_number",
        postgresql_using="brin",
        postgresql_ops={
            "invoice_number": "text_bloom_ops(n_distinct_per_range=512, false_positive_rate=0.001)"
        },
        postgresql_with={"pages_per_range": 64, "autosummarize": "on"},
    ),
    schema=SCHEMA,
)
"""One row a finding, with the whole source row as it stood in the file, and the invoice as it was read."""

load_chunks = Table(
    "load_chunks",
    metadata,
    Column("batch_id", String(100), primary_key=True),
    Column("chunk_index", Integer, primary_key=True),
    Column("plan", String(64), nullable=False),
    Column("path", String(10), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("inserted", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("unchanged", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False, server_default="0"),
    Column("quantity", Numeric, nullable=False, server_default="0"),
    Column("item_total", Numeric, nullable=False, server_default="0"),
    Column("committed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    schema=SCHEMA,
)
"""The chunk ledger: a row commits in its chunk's transaction, so what it says is loaded is loaded."""

file_parts = Table(
    "file_parts",
    metadata,
    Column("batch_id", String(100), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("plan", String(64), nullable=False),
    Column("place", JSONB, nullable=False),
    Column("in_doubt", Boolean, nullable=False, server_default="false"),
    Column("date_orders", JSONB),
    Column("staged", Text),
    Column("verdict", JSONB),
    Column("first_chunk", Integer),
    Column("loaded", Boolean, nullable=False, server_default="false"),
    schema=SCHEMA,
)
"""One row a part of a file that several workers share, as long as it is on its way. It may load while `first_chunk`
is set."""

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("subject", Text, nullable=False),
    Column("channel", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("failure", Text),
    Column("sent_at", DateTime(timezone=True)),
    UniqueConstraint("subject", "channel", name="alerts_once"),
    schema=SCHEMA,
)
"""The outbox: one row a message and channel. A receipt is told when its `alerted_at` is its `finished_at`, a file
that waits and cannot be taken when it is its `received_at`."""
