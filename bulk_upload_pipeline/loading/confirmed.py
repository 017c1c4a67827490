"""Rows that a batch found standing just as it says them: they are not written again, but they are what it says, too."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Identity, Index, Integer, String, Table
from sqlalchemy.dialects.postgresql import ARRAY

from bulk_upload_pipeline.tables import SCHEMA, load_chunks, metadata

confirmed_rows = Table(
    "confirmed_rows",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("batch_id", String(100), nullable=False),
    Column("chunk_index", Integer, nullable=False),
    Column("target_ids", ARRAY(BigInteger), nullable=False),
    Column("row_numbers", ARRAY(Integer), nullable=False),
    Index("confirmed_rows_chunk", "batch_id", "chunk_index"),
    # What a chunk confirmed is forgotten with the chunk; it is noted before the chunk is.
    ForeignKeyConstraint(
        ["batch_id", "chunk_index"],
        [load_chunks.c.batch_id, load_chunks.c.chunk_index],
        name="confirmed_rows_chunk_fkey",
        ondelete="CASCADE",
        deferrable=True,
        initially="DEFERRED",
    ),
    schema=SCHEMA,
)
"""The rows of a chunk as two arrays, their ids and their numbers in the file: a row each would cost a load a tenth."""

LATE_CHECK = f"SET CONSTRAINTS {SCHEMA}.confirmed_rows_chunk_fkey, {SCHEMA}.yielded_rows_chunk_fkey DEFERRED"

LATER = """
SELECT batch_id FROM bulk_upload.upload_batches WHERE (received_at, batch_id) > (
    SELECT received_at, batch_id FROM bulk_upload.upload_batches WHERE batch_id = %(batch_id)s
)
"""
"""The batches that came later than this one."""

HELD = """
SELECT unnest(said.target_ids) AS id FROM later CROSS JOIN LATERAL (
    SELECT target_ids FROM bulk_upload.confirmed_rows AS c WHERE c.batch_id = later.batch_id OFFSET 0
) AS said
"""
"""The rows that the batches of a relation `later` confirm: of nearly every load there are few such batches.

The planner takes them for a third of all, and would read what all batches have ever confirmed: so each is asked for.
"""


def confirming(rows: str) -> str:
    """Return CTEs by which a chunk confirms rows.

    Args:
        rows: SQL of a relation with `id`, `row_number` and `version`.
    """
    return f"""said AS MATERIALIZED (SELECT id, row_number, version FROM {rows}), confirmed AS (
    INSERT INTO bulk_upload.confirmed_rows (batch_id, chunk_index, target_ids, row_numbers)
    SELECT %(batch_id)s, %(chunk_index)s, array_agg(id), array_agg(row_number) FROM said HAVING count(*) > 0
)"""  # noqa: S608 - our own SQL only


SAID = "(SELECT array_agg(id)::text FROM said), (SELECT array_agg(version)::text FROM said)"
"""What a statement returns of the rows that it confirms: their ids, and which version of each it saw."""

ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('bulk_upload.settled', 0))"
"""Lets one transaction at a time look whether another has come in between, until it has committed.

A row that is confirmed is not locked, which would cost as much as to write it: so an earlier file may change it, or a
revert remove it, before either can see what the other does. Who waits here holds locks on rows, so whoever has passed
must not wait for such any more.
"""


def count_on_chunks(heirs: str) -> str:
    """Return SQL by which rows that batches did not bring count for their chunks as what they brought.

    Args:
        heirs: SQL of the rows, with `batch_id`, `chunk_index`, and whether it `has_former`.
    """
    return f"""
    UPDATE bulk_upload.load_chunks AS c
    SET unchanged = unchanged - n, updated = updated + u, inserted = inserted + n - u
    FROM (
        SELECT batch_id, chunk_index, count(*) AS n, count(*) FILTER (WHERE has_former) AS u
        FROM ({heirs}) AS heirs GROUP BY 1, 2
    ) AS h WHERE (c.batch_id, c.chunk_index) = (h.batch_id, h.chunk_index)
    """  # noqa: S608


def count_on_receipts(heirs: str) -> str:
    """Return SQL by which these rows count so in receipts, too, as `count_on_chunks`.

    A batch on its way has none yet, and no receipt counts chunks of another plan than the verdict's.
    """
    return f"""
    UPDATE bulk_upload.upload_batches AS b SET rows_unchanged = rows_unchanged - n, rows_updated = rows_updated + u,
        rows_inserted = rows_inserted + n - u
    FROM (
        SELECT batch_id, plan, count(*) AS n, count(*) FILTER (WHERE has_former) AS u
        FROM ({heirs}) AS heirs JOIN bulk_upload.load_chunks USING (batch_id, chunk_index) GROUP BY 1, 2
    ) AS h WHERE b.batch_id = h.batch_id AND b.verdict ->> 'plan' = h.plan AND b.finished_at IS NOT NULL
    """  # noqa: S608
