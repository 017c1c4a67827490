"""Which findings of a family are resolved: those on rows that its corrections have loaded, as long as they stand."""

from __future__ import annotations

import sqlalchemy as sa

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.family import COPIES, DOWN, corrected_rows

_MARK_LOADED = """
UPDATE bulk_upload.corrected_rows AS c SET loaded_at = CASE (
    SELECT min(CASE e.error_code WHEN 'ALREADY_CORRECTED' THEN 1 ELSE 0 END) FROM bulk_upload.processing_errors AS e
    WHERE e.batch_id = c.batch_id AND e.row_number = c.row_number AND e.severity = 'error'
    AND (NOT e.is_resolved OR e.resolved_by_batch <> e.batch_id))
    WHEN 0 THEN NULL WHEN 1 THEN c.loaded_at ELSE coalesce(c.loaded_at, clock_timestamp()) END
WHERE c.batch_id = :batch_id
"""
"""A row that a later correction has loaded since is left as it is: it stands beneath that one, or does not. One that is
wrong has not been loaded by it, though a later correction may have settled that already."""

_MARK_GONE = f"""
WITH others AS MATERIALIZED (
    SELECT batch_id, row_number FROM bulk_upload.corrected_rows
    WHERE root_batch_id = :root AND batch_id <> :batch_id AND loaded_at IS NOT NULL AND row_number IN (
        SELECT row_number FROM bulk_upload.corrected_rows WHERE batch_id = :batch_id AND loaded_at IS NOT NULL)
), named AS (SELECT array_agg(DISTINCT batch_id)::text[] AS batch_ids FROM others), says AS (
    SELECT upload_batch_id, row_number FROM {contract.TABLE}
    WHERE upload_batch_id = ANY ((SELECT batch_ids FROM named)::text[])
    UNION ALL SELECT f.former_batch_id, (f.former ->> 'row_number')::bigint FROM bulk_upload.former_rows AS f
    JOIN {contract.TABLE} AS t ON t.id = f.target_id
    WHERE f.former_batch_id = ANY ((SELECT batch_ids FROM named)::text[])
    UNION ALL SELECT c.batch_id, said.row_number
    FROM bulk_upload.confirmed_rows AS c, unnest(c.target_ids, c.row_numbers) AS said (id, row_number)
    JOIN {contract.TABLE} AS t ON t.id = said.id WHERE c.batch_id = ANY ((SELECT batch_ids FROM named)::text[])
    UNION ALL SELECT y.batch_id, (y.says ->> 'row_number')::bigint FROM bulk_upload.yielded_rows AS y
    JOIN {contract.TABLE} AS t ON t.id = y.target_id
    WHERE y.batch_id = ANY ((SELECT batch_ids FROM named)::text[])
)
UPDATE bulk_upload.corrected_rows AS c SET loaded_at = NULL
WHERE c.root_batch_id = :root
AND (c.batch_id = :batch_id OR (c.batch_id, c.row_number) IN (TABLE others EXCEPT TABLE says))
"""  # noqa: S608
"""What another correction says of the same row stands: as the row itself, behind a later file that has changed it, or
where it only found it so (see `loading.yielded`). One that let the row be says nothing of it: with its bringer it is
gone."""

_LATEST = f"""{DOWN}, latest AS (
    SELECT DISTINCT ON (row_number) c.row_number, c.batch_id, kin.received_at
    FROM bulk_upload.corrected_rows AS c JOIN kin ON kin.batch_id = c.batch_id
    WHERE c.root_batch_id = :root AND c.loaded_at IS NOT NULL
    ORDER BY row_number, kin.received_at DESC, c.batch_id DESC
), copies AS MATERIALIZED (
    {COPIES} AND batch_id IN (SELECT batch_id FROM kin)
), settled AS (
    SELECT e.id, latest.batch_id AS by_batch FROM bulk_upload.processing_errors AS e
    JOIN kin ON kin.batch_id = e.batch_id JOIN latest ON latest.row_number = e.row_number
    WHERE e.severity = 'error' AND e.batch_id <> latest.batch_id AND kin.received_at < latest.received_at
    UNION ALL
    SELECT e.id, latest.batch_id FROM copies JOIN latest ON latest.row_number = copies.copy_of
    JOIN bulk_upload.processing_errors AS e ON (e.batch_id, e.row_number) = (copies.batch_id, copies.row_number)
    JOIN kin ON kin.batch_id = e.batch_id
    WHERE e.severity = 'error' AND e.batch_id <> latest.batch_id AND kin.received_at < latest.received_at
)"""  # noqa: S608

_RESOLVE = f"""{_LATEST}
UPDATE bulk_upload.processing_errors AS e
SET is_resolved = true, resolved_at = now(), resolved_by_batch = settled.by_batch
FROM settled WHERE settled.id = e.id AND (NOT e.is_resolved
    OR e.resolved_by_batch NOT IN (settled.by_batch, e.batch_id))
RETURNING e.batch_id
"""  # noqa: S608

_UNSAY = f"""{_LATEST}
DELETE FROM bulk_upload.processing_errors AS e
USING kin WHERE kin.batch_id = e.batch_id AND e.error_code = 'ALREADY_CORRECTED'
AND e.is_resolved AND e.resolved_by_batch <> e.batch_id
AND NOT EXISTS (SELECT FROM settled WHERE settled.id = e.id)
AND EXISTS (
    SELECT FROM bulk_upload.processing_errors AS other WHERE other.batch_id = e.batch_id
    AND other.row_number = e.row_number AND other.severity = 'error' AND other.error_code <> e.error_code
)
RETURNING e.batch_id
"""  # noqa: S608
"""That a row was corrected is no longer true when its correction is gone; what else is wrong with it is."""

_REOPEN = f"""{_LATEST}
UPDATE bulk_upload.processing_errors AS e
SET is_resolved = false, resolved_at = NULL, resolved_by_batch = NULL
FROM kin WHERE kin.batch_id = e.batch_id AND e.is_resolved AND e.resolved_by_batch <> e.batch_id
AND NOT EXISTS (SELECT FROM settled WHERE settled.id = e.id)
RETURNING e.batch_id
"""  # noqa: S608


_TOUCHED = f"""{DOWN}, brought AS (SELECT row_number FROM bulk_upload.corrected_rows WHERE batch_id = :batch_id)
SELECT DISTINCT e.batch_id FROM bulk_upload.processing_errors AS e JOIN kin ON kin.batch_id = e.batch_id
WHERE e.severity = 'error' AND e.row_number IN (TABLE brought)
UNION SELECT batch_id FROM ({COPIES}) AS copies
WHERE batch_id IN (SELECT batch_id FROM kin) AND copy_of IN (TABLE brought)
"""  # noqa: S608


MANY_ROWS = 1_000


def _expect_many(connection: sa.Connection, root: str) -> None:
    """Let large families be joined as a whole, for the transaction.

    PostgreSQL has not counted rows yet that were just written, and would look through all findings for each of them.
    """
    columns = corrected_rows.c
    some = sa.select(columns.row_number).where(columns.root_batch_id == root).limit(MANY_ROWS)
    if (connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0) >= MANY_ROWS:
        connection.execute(sa.text("SET LOCAL enable_nestloop = off"))


def settle(
    engine: sa.Engine, root: str, *, loaded: str | None = None, gone: str | None = None
) -> tuple[str, ...]:
    """Resolve the family's findings on rows that a correction has loaded, and reopen those that it has not.

    Args:
        engine: Of the database.
        root: Root of the family.
        loaded: A batch of which all rows without errors stand in the target now.
        gone: One whose load was undone.

    Returns:
        The batches of which findings were resolved or reopened, now or by an earlier attempt that was cut off
        before their receipts said so.
    """
    with engine.begin() as connection:
        _expect_many(connection, root)
        if loaded is not None:
            connection.execute(sa.text(_MARK_LOADED), {"batch_id": loaded})
        if gone is not None:
            connection.execute(sa.text(_MARK_GONE), {"batch_id": gone, "root": root})
        changed = {
            row.batch_id
            for statement in (_RESOLVE, _UNSAY, _REOPEN)
            for row in connection.execute(sa.text(statement), {"root": root})
        }
        for batch_id in filter(None, (loaded, gone)):
            changed.update(connection.scalars(sa.text(_TOUCHED), {"root": root, "batch_id": batch_id}))
    return tuple(sorted(changed))
