"""A batch and its corrections in PostgreSQL: which rows were corrected, by which batch, under which identity.

The corrections of a batch, and those of its corrections, are one family; its `root` is the batch whose file
came first. Row numbers are the root's throughout the family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, String, Table

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.holding import queued
from bulk_upload_pipeline.model import LOADED_STATES, State
from bulk_upload_pipeline.origin import TWICE
from bulk_upload_pipeline.tables import SCHEMA, metadata
from bulk_upload_pipeline.verbatim import raw_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

corrected_rows = Table(
    "corrected_rows",
    metadata,
    Column("batch_id", String(100), primary_key=True),
    Column("row_number", BigInteger, primary_key=True, autoincrement=False),
    Column("root_batch_id", String(100), nullable=False),
    Column("identity", BigInteger, nullable=False),
    Column("line_occurrence", Integer, nullable=False),
    Column("loaded_at", DateTime(timezone=True)),
    Index("corrected_rows_root", "root_batch_id", "row_number"),
    schema=SCHEMA,
)
"""One row for each row that a correction brings; `identity` is the hash of the first three values of its key.

`loaded_at` is set as long as the row stands in the target by this correction.
"""


class Rejected(NamedTuple):
    """A row of a root that was rejected: some of its cells, or the text of a record that has none."""

    row_number: int
    line_occurrence: int
    raw: str | None
    is_loaded: bool
    cells: tuple[str | None, ...]


class Corrected(NamedTuple):
    """A row as a correction brings it."""

    row_number: int
    identity: int
    line_occurrence: int
    batch_id: str = ""
    loaded_at: datetime | None = None


DOWN = (
    "WITH RECURSIVE kin AS (SELECT batch_id, received_at FROM bulk_upload.upload_batches WHERE batch_id = :root "
    "UNION SELECT b.batch_id, b.received_at FROM bulk_upload.upload_batches AS b "
    "JOIN kin ON b.parent_batch_id = kin.batch_id)"
)
"""SQL that begins a query of the family of `:root`, as `kin`."""

COPIES = (
    "SELECT batch_id, row_number, raw_value::bigint AS copy_of FROM bulk_upload.processing_errors "  # noqa: S608 - our own name
    f"WHERE error_code = '{TWICE}' AND raw_value IS NOT NULL"
)
"""Rows that stood in a correction more than once: each has a number of its own there, beyond those of the root."""


def root_of(engine: sa.Engine, batch_id: str) -> str:
    """Return the batch at which the corrections that lead to `batch_id` began: itself for any other batch."""
    query = sa.text(
        "WITH RECURSIVE up AS (SELECT batch_id, parent_batch_id FROM bulk_upload.upload_batches "
        "WHERE batch_id = :batch_id UNION SELECT b.batch_id, b.parent_batch_id "
        "FROM bulk_upload.upload_batches AS b JOIN up ON b.batch_id = up.parent_batch_id) "
        "SELECT batch_id FROM up WHERE parent_batch_id IS NULL"
    )
    with asking(engine) as connection:
        return connection.scalar(query, {"batch_id": batch_id}) or batch_id


def members(engine: sa.Engine, root: str) -> tuple[str, ...]:
    """Return the family of a root, which comes first, the others in the order in which they came."""
    query = sa.text(f"{DOWN} SELECT batch_id FROM kin ORDER BY received_at, batch_id")  # noqa: S608
    with asking(engine) as connection:
        found = [row.batch_id for row in connection.execute(query, {"root": root})]
    return (root, *(batch_id for batch_id in found if batch_id != root))


def locked(engine: sa.Engine, root: str) -> AbstractContextManager[None]:
    """Let nobody else bring or settle corrections of a root meanwhile; wait for whoever does."""
    return queued(engine, f"family.{root}")


def rejected(engine: sa.Engine, root: str, keys: Sequence[str | None]) -> list[Rejected]:
    """Return the rows of a root that were ever rejected, by row number.

    Args:
        engine: Of the database.
        root: The batch.
        keys: Under which key the source row keeps each cell that is wanted; None for a column it lacks.
    """
    values = ", ".join(f"source->>:key{at}" for at in range(len(keys)))
    query = sa.text(
        f"SELECT row_number, occurrence, {raw_text('source')}, loaded, {values} FROM ("  # noqa: S608
        "SELECT row_number, min(line_occurrence) AS occurrence, "
        "bool_and(is_resolved AND resolved_by_batch = batch_id) AS loaded, "
        "(array_agg(row_data ORDER BY id) FILTER (WHERE row_data IS NOT NULL))[1] AS source "
        "FROM bulk_upload.processing_errors WHERE batch_id = :root AND severity = 'error' "
        "AND row_number IS NOT NULL GROUP BY row_number) AS rejected ORDER BY row_number"
    )
    named = {f"key{at}": "" if key is None else key for at, key in enumerate(keys)}
    with asking(engine) as connection:
        found = connection.execute(query, {"root": root, **named})
        return [
            Rejected(
                row[0],
                row[1] or 1,
                row[2],
                row[3],
                tuple(None if key is None else value for key, value in zip(keys, row[4:], strict=True)),
            )
            for row in found
        ]


Before = dict[int, list[tuple[str, dict[str, str | None]]]]
"""Batches that had a row, the oldest first, each with the row's cells by the names of their columns; by row number."""


def rows_before(
    engine: sa.Engine,
    batch_ids: Sequence[str],
    numbers: Sequence[int],
    copies: Mapping[tuple[str, int], int],
) -> Before:
    """Return some rejected rows as they stood in each of some batches of a family, which are given in their order.

    Args:
        engine: Of the database.
        batch_ids: The batches.
        numbers: Of the rows in the root.
        copies: Which row is meant by each copy of one that stood in a correction more than once: it is one of those
            that the row was.
    """
    query = sa.text(
        "SELECT row_number, came.batch_id, (array_agg(row_data ORDER BY id))[1] AS cells "
        "FROM unnest(CAST(:batch_ids AS text[])) WITH ORDINALITY AS came (batch_id, place) "
        "JOIN bulk_upload.processing_errors USING (batch_id) WHERE row_number = ANY(:numbers) "
        "AND severity = 'error' AND row_data IS NOT NULL GROUP BY row_number, place, came.batch_id "
        "ORDER BY place, row_number"
    )
    wanted = set(numbers)
    wanted |= {number for (_, number), meant in copies.items() if meant in wanted}
    found: Before = {}
    with asking(engine) as connection:
        for row in connection.execute(query, {"batch_ids": list(batch_ids), "numbers": list(wanted)}):
            meant = copies.get((row.batch_id, row.row_number), row.row_number)
            found.setdefault(meant, []).append((row.batch_id, row.cells))
    return found


def copies(engine: sa.Engine, batch_ids: Collection[str]) -> dict[tuple[str, int], int]:
    """Return which row of the root each copy is of one that stood in a correction more than once.

    Args:
        engine: Of the database.
        batch_ids: The batches of a family.

    Returns:
        The row, by the correction and the number that the copy has there.
    """
    query = sa.text(
        f"SELECT batch_id, row_number, copy_of FROM ({COPIES}) AS copies WHERE batch_id = ANY(:batch_ids)"  # noqa: S608
    )
    with asking(engine) as connection:
        found = connection.execute(query, {"batch_ids": list(batch_ids)})
        return {(row.batch_id, row.row_number): row.copy_of for row in found}


def texts(engine: sa.Engine, root: str) -> frozenset[str]:
    """Return the cells of a root's rejected rows that are not all ASCII."""
    query = sa.text(
        "SELECT DISTINCT value FROM bulk_upload.processing_errors, jsonb_each_text(row_data) "
        "WHERE batch_id = :root AND row_data IS NOT NULL AND octet_length(value) > length(value)"
    )
    with asking(engine) as connection:
        return frozenset(connection.scalars(query, {"root": root}))


def corrections(engine: sa.Engine, root: str) -> list[Corrected]:
    """Return all rows that corrections of a root brought, the one loaded last behind the others."""
    columns = corrected_rows.c
    query = (
        sa.select(
            columns.row_number,
            columns.identity,
            columns.line_occurrence,
            columns.batch_id,
            columns.loaded_at,
        )
        .where(columns.root_batch_id == root)
        .order_by(columns.row_number, columns.loaded_at.nulls_first(), columns.batch_id)
    )
    with asking(engine) as connection:
        found: list[Any] = list(connection.execute(query))
        return [Corrected(*row) for row in found]


_UNSETTLED = f"""
WITH brought AS MATERIALIZED (
    SELECT * FROM bulk_upload.corrected_rows WHERE root_batch_id = :root AND loaded_at IS NULL
)
SELECT c.row_number, c.identity, c.line_occurrence, c.batch_id
FROM brought AS c JOIN bulk_upload.upload_batches AS b USING (batch_id)
WHERE b.state IN ('validated', 'loading') AND NOT EXISTS (
    SELECT FROM bulk_upload.processing_errors AS e WHERE e.batch_id = c.batch_id
    AND e.row_number = c.row_number AND e.severity = 'error' AND NOT e.is_resolved
) OR (c.batch_id, c.row_number) IN (
    SELECT upload_batch_id, row_number FROM {contract.TABLE}
    WHERE upload_batch_id = ANY (ARRAY(SELECT DISTINCT batch_id::text FROM brought))
) ORDER BY c.row_number, b.received_at, c.batch_id
"""  # noqa: S608 - our own names


def unsettled(engine: sa.Engine, root: str) -> list[Corrected]:
    """Return rows of a root that a correction brings, or has brought, though it does not count as their bringer.

    It is judged and on its way to load them, or stopped behind that, or finds them wrong since it was judged anew.
    """
    with asking(engine) as connection:
        found: list[Any] = list(connection.execute(sa.text(_UNSETTLED), {"root": root}))
        return [Corrected(*row) for row in found]


def standing(engine: sa.Engine, root: str) -> dict[int, str]:
    """Return the rows of a root that stand in the target by a correction, or will, with the latest that brings each."""
    loaded = [row for row in corrections(engine, root) if row.loaded_at is not None]
    return {row.row_number: row.batch_id for row in (*unsettled(engine, root), *loaded)}


_FORGET_OTHERS = """
DELETE FROM bulk_upload.corrected_rows WHERE batch_id = :batch_id AND row_number <> ALL(:numbers) AND loaded_at IS NULL
"""
_KEEP = """
INSERT INTO bulk_upload.corrected_rows (batch_id, root_batch_id, row_number, identity, line_occurrence)
SELECT :batch_id, :root, *
FROM unnest(CAST(:numbers AS bigint[]), CAST(:identities AS bigint[]), CAST(:occurrences AS integer[]))
ON CONFLICT (batch_id, row_number) DO UPDATE
SET identity = excluded.identity, line_occurrence = excluded.line_occurrence
"""


def keep(connection: sa.Connection, batch_id: str, root: str, rows: Iterable[Corrected]) -> None:
    """Keep what a correction brings, in place of what it brought when it was judged before."""
    stated = list(rows)
    numbers, identities, occurrences = (
        zip(*(row[:3] for row in stated), strict=True) if stated else ((), (), ())
    )
    connection.execute(sa.text(_FORGET_OTHERS), {"batch_id": batch_id, "numbers": list(numbers)})
    connection.execute(
        sa.text(_KEEP),
        {
            "batch_id": batch_id,
            "root": root,
            "numbers": list(numbers),
            "identities": list(identities),
            "occurrences": list(occurrences),
        },
    )


def loading(engine: sa.Engine, root: str) -> tuple[str, ...]:
    """Return the corrections of a root that are loading, or were cut off between their load and its receipt."""
    query = sa.text(
        f"{DOWN} SELECT kin.batch_id FROM kin JOIN bulk_upload.upload_batches AS b USING (batch_id) "  # noqa: S608
        "WHERE kin.batch_id <> :root AND (b.state = :loading OR b.state <> ALL(:closed) AND EXISTS ("
        "SELECT FROM bulk_upload.load_chunks AS c WHERE c.batch_id = kin.batch_id)) ORDER BY kin.received_at"
    )
    named = {"root": root, "loading": State.LOADING, "closed": list(LOADED_STATES)}
    with asking(engine) as connection:
        return tuple(connection.scalars(query, named))


def living(engine: sa.Engine, root: str) -> tuple[str, ...]:
    """Return the corrections of which rows stand in the target, in the order in which they were loaded."""
    columns = corrected_rows.c
    query = (
        sa.select(columns.batch_id)
        .where(columns.root_batch_id == root, columns.loaded_at.is_not(None))
        .group_by(columns.batch_id)
        .order_by(sa.func.max(columns.loaded_at))
    )
    with asking(engine) as connection:
        return tuple(connection.scalars(query))
