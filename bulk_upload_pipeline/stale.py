"""Invoice dates that changed since their sales were counted.

Whatever changes a row of the target notes the row's date, the one that it leaves included, in the same
transaction. Notes are only added, so that loaders never wait for each other here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Date, DateTime, Identity, Index, Table, func

from bulk_upload_pipeline.tables import SCHEMA, metadata

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from psycopg2.extensions import cursor as Cursor

stale_dates = Table(
    "stale_dates",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("invoice_date", Date, nullable=False),
    Column("touched_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("stale_dates_invoice_date", "invoice_date"),
    schema=SCHEMA,
)
"""One row a date and transaction that touched it; counting the date removes those that it saw."""

TOUCH = f"INSERT INTO {SCHEMA}.stale_dates (invoice_date)"
"""To be followed by the query of the dates."""


def touch(cursor: Cursor, dates: Sequence[date]) -> None:
    """Note that rows of these dates change in the transaction of `cursor`."""
    cursor.execute(f"{TOUCH} SELECT unnest(%s::date[])", (list(dates),))
