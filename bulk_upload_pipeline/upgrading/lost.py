"""What the migrations made and somebody has taken away since: tables and columns, dropped or renamed, and the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline import contract, family, sales, stale, trace
from bulk_upload_pipeline.loading import confirmed, former, yielded
from bulk_upload_pipeline.tables import metadata
from bulk_upload_pipeline.upgrading.obstacles import Obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = (
    *metadata.tables.values(),
    *(family.corrected_rows, former.former_rows, confirmed.confirmed_rows, yielded.yielded_rows),
    *(stale.stale_dates, sales.daily_sales, trace.reverted_invoices),
)
"""All tables: what a room keeps for itself is known to `metadata` once the room is imported."""

KEY = (
    f"`ALTER TABLE {contract.TABLE} ADD CONSTRAINT {contract.IDENTITY_CONSTRAINT} UNIQUE NULLS NOT DISTINCT "
    f"({', '.join(contract.IDENTITY)})` keeps it again, once no row stands there twice"
)
"""How the database is made to keep the key of an invoice line."""


def find(connection: sa.Connection) -> list[Obstacle]:
    """Return what is not there any more of an up-to-date schema; only the catalogue is read."""
    there: dict[str, set[str]] = {}
    query = sa.text(
        "SELECT nspname || '.' || relname, attname::text FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid "
        "JOIN pg_namespace AS n ON n.oid = relnamespace WHERE attnum > 0 AND NOT attisdropped "
        "AND nspname IN ('public', 'bulk_upload')"
    )
    rows: list[Any] = list(connection.execute(query))
    for table, column in rows:
        there.setdefault(table, set()).add(column)
    return [obstacle for table in dict.fromkeys(OURS) for obstacle in _of(table, there)]


def _of(table: sa.Table, there: dict[str, set[str]]) -> Iterator[Obstacle]:
    name = f"{table.schema or 'public'}.{table.name}"
    if name not in there:
        yield Obstacle(None, f"{name} is not there: give it its name again, or restore it from a backup")
        return
    for column in table.columns:
        if column.name not in there[name]:
            said = f"{name} has no column {column.name}: give it its name again, or restore it from a backup"
            yield Obstacle(column.name, said)
