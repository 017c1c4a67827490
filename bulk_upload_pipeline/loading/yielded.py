"""What a batch says of rows that stand as a later one says them: kept for when that one no longer does.

What a batch says of a row is told by one of three: the row itself, or the former row behind it, where the batch has
changed it (`former`); that row all the same, where the batch was the latest and found it just so (`confirmed`); or a
note here. The row is always as the latest batch says it, and is that batch's, or that of an earlier one which it
confirms.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, String, Table
from sqlalchemy.dialects.postgresql import JSONB

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.loading.confirmed import count_on_chunks, count_on_receipts
from bulk_upload_pipeline.loading.copying import VALUES
from bulk_upload_pipeline.loading.former import FORMER
from bulk_upload_pipeline.stale import TOUCH
from bulk_upload_pipeline.tables import SCHEMA, load_chunks, metadata

yielded_rows = Table(
    "yielded_rows",
    metadata,
    Column("target_id", BigInteger, primary_key=True, autoincrement=False),
    Column("batch_id", String(100), primary_key=True),
    Column("chunk_index", Integer, nullable=False),
    Column("says", JSONB, nullable=False),
    Index("yielded_rows_chunk", "batch_id", "chunk_index"),
    # What a chunk yielded is forgotten with the chunk; it is noted before the chunk is.
    ForeignKeyConstraint(
        ["batch_id", "chunk_index"],
        [load_chunks.c.batch_id, load_chunks.c.chunk_index],
        name="yielded_rows_chunk_fkey",
        ondelete="CASCADE",
        deferrable=True,
        initially="DEFERRED",
    ),
    schema=SCHEMA,
)
"""One row for each row of the target that `batch_id` left to a later batch, with what it says of it."""

_TARGET = contract.TABLE
_ORDER = ", ".join(f't.{name} COLLATE "C"' for name in contract.IDENTITY[:3]) + ", t.line_occurrence"
_SAID = (*VALUES, "upload_batch_id", "row_number")
_CHANGED = "SELECT * FROM falling WHERE owner IS DISTINCT FROM batch_id"


def in_order(ids: str) -> str:
    """Return SQL that locks rows of the target as merges do, so that a load that goes on meanwhile waits its turn.

    Args:
        ids: SQL of their ids.
    """
    return f"SELECT FROM {_TARGET} AS t WHERE t.id IN ({ids}) ORDER BY {_ORDER} FOR UPDATE"


YIELDED_TO = """
SELECT target_id FROM bulk_upload.yielded_rows WHERE target_id IN (
    SELECT unnest(target_ids) FROM bulk_upload.confirmed_rows WHERE batch_id = %(batch_id)s
)
"""
"""The rows that a batch confirms and an earlier one may say otherwise."""

FALL = f"""
WITH going AS MATERIALIZED (
    SELECT id FROM {_TARGET} WHERE upload_batch_id = %(undone)s
    UNION SELECT target_id FROM {FORMER} WHERE batch_id = %(undone)s
    UNION SELECT unnest(target_ids) FROM bulk_upload.confirmed_rows WHERE batch_id = %(batch_id)s
), noted AS MATERIALIZED (
    SELECT y.*, b.received_at FROM bulk_upload.yielded_rows AS y JOIN bulk_upload.upload_batches AS b USING (batch_id)
    WHERE y.target_id IN (TABLE going) AND y.batch_id <> %(batch_id)s
), held AS MATERIALIZED (
    SELECT said.id, b.received_at, b.batch_id
    FROM bulk_upload.confirmed_rows AS c JOIN bulk_upload.upload_batches AS b USING (batch_id),
        unnest(c.target_ids) AS said (id)
    WHERE b.received_at >= (SELECT min(received_at) FROM noted) AND b.batch_id <> %(batch_id)s
        AND said.id IN (SELECT target_id FROM noted)
), falling AS MATERIALIZED (
    SELECT DISTINCT ON (t.id) t.id, y.batch_id, y.chunk_index, y.says, t.invoice_date, t.upload_batch_id AS owner,
        to_jsonb(t) AS former, (t.upload_batch_id = %(undone)s) IS NOT TRUE AS has_former
    FROM noted AS y JOIN {_TARGET} AS t ON t.id = y.target_id LEFT JOIN bulk_upload.upload_batches AS b
        ON b.batch_id = t.upload_batch_id AND (t.upload_batch_id = %(undone)s) IS NOT TRUE
    WHERE (b.batch_id IS NULL OR (y.received_at, y.batch_id) >= (b.received_at, b.batch_id)) AND NOT EXISTS (
        SELECT FROM held WHERE held.id = t.id AND (held.received_at, held.batch_id) > (y.received_at, y.batch_id)
    )
    ORDER BY t.id, y.received_at DESC, y.batch_id DESC
), kept AS (
    INSERT INTO {FORMER} (batch_id, target_id, former_batch_id, former)
    SELECT batch_id, id, owner, former FROM ({_CHANGED}) AS changed WHERE has_former
), changed AS (
    UPDATE {_TARGET} AS t SET ({", ".join(_SAID)}, updated_at) = (
        SELECT {", ".join(_SAID)}, now() FROM jsonb_populate_record(NULL::{_TARGET}, falling.says)
    ) FROM falling WHERE t.id = falling.id RETURNING t.upload_batch_id
), done AS (
    SELECT upload_batch_id AS batch_id, count(*) AS n FROM changed GROUP BY 1
), forgotten AS (
    DELETE FROM bulk_upload.yielded_rows AS y USING falling
    WHERE (y.target_id, y.batch_id) = (falling.id, falling.batch_id)
), touched AS (
    {TOUCH} SELECT invoice_date FROM falling WHERE invoice_date IS NOT NULL
    UNION SELECT (says ->> 'invoice_date')::date FROM falling WHERE says ->> 'invoice_date' IS NOT NULL
), chunks AS ({count_on_chunks(_CHANGED)}), receipts AS ({count_on_receipts(_CHANGED)})
SELECT falling.batch_id, count(*), count(f.batch_id),
    count(*) - coalesce((SELECT n FROM done WHERE done.batch_id = falling.batch_id), 0)
FROM falling LEFT JOIN {FORMER} AS f ON f.batch_id = %(undone)s AND f.target_id = falling.id
GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - names of our own tables only
"""Lets rows fall to the latest batch that still says them, where that is one that has yielded them.

They are those that `batch_id` confirms, which it is about to say no more, and those that it brought, where it is
`undone` (the same batch, or None): these stand by now as they were before it, or are still its own and about to go.
It returns, for each batch to which rows fall, how many they are, how many of them `undone` had taken from another, and
how many a trigger keeps as they were.
"""
