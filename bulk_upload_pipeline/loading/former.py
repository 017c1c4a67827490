"""What rows were before a batch changed them: kept with the change, so that a load can be undone."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Index, String, Table, func
from sqlalchemy.dialects.postgresql import JSONB

from bulk_upload_pipeline.tables import SCHEMA, metadata

former_rows = Table(
    "former_rows",
    metadata,
    Column("batch_id", String(100), primary_key=True),
    Column("target_id", BigInteger, primary_key=True, autoincrement=False),
    Column("former_batch_id", String(100)),
    Column("former", JSONB, nullable=False),
    Column("kept_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("former_rows_former_batch", "former_batch_id"),
    Index("former_rows_target", "target_id"),
    schema=SCHEMA,
)
"""One row for each row that `batch_id` took from another batch (`former_batch_id`, None for rows of nobody).

Rows that a batch inserted itself have none: to undo them is to delete them, or to leave them to a later batch that says
them, too (`confirmed`).
"""

FORMER = f"{former_rows.schema}.{former_rows.name}"
"""That table as SQL names it."""
