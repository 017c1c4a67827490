"""Undoing a load: rows that it inserted go, rows that it changed get their former values back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.exceptions import RevertRefusedError
from bulk_upload_pipeline.holding import holding
from bulk_upload_pipeline.loading.copying import VALUES
from bulk_upload_pipeline.loading.former import former_rows
from bulk_upload_pipeline.stale import TOUCH

if TYPE_CHECKING:
    import sqlalchemy as sa
    from psycopg2.extensions import cursor as Cursor

_TARGET = f"public.{contract.TARGET}"
_FORMER = f"{former_rows.schema}.{former_rows.name}"
_ORDER = ", ".join(f't.{name} COLLATE "C"' for name in contract.IDENTITY[:3]) + ", t.line_occurrence"

# In the order in which merges take their locks, so that a load that goes on meanwhile waits its turn.
_LOCK = f"""
SELECT FROM {_TARGET} AS t
WHERE t.id IN (
    SELECT id FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s
    UNION SELECT target_id FROM {_FORMER} WHERE batch_id = %(batch_id)s
    UNION SELECT target_id FROM {_FORMER} WHERE former_batch_id = %(batch_id)s
) ORDER BY {_ORDER} FOR UPDATE
"""  # noqa: S608 - names of our own tables only, here and below

_LATER = f"""
SELECT DISTINCT t.upload_batch_id FROM {_FORMER} AS f JOIN {_TARGET} AS t ON t.id = f.target_id
WHERE %(batch_id)s IN (f.batch_id, f.former_batch_id) AND t.upload_batch_id IS DISTINCT FROM %(batch_id)s
ORDER BY 1
"""  # noqa: S608

_DATES = f"""
{TOUCH} SELECT invoice_date FROM (
    SELECT invoice_date FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s
    UNION SELECT (former ->> 'invoice_date')::date FROM {_FORMER} WHERE batch_id = %(batch_id)s
) AS dates WHERE invoice_date IS NOT NULL
"""  # noqa: S608

_REMEMBER = f"""
INSERT INTO bulk_upload.reverted_invoices (batch_id, invoice_number, deleted, restored)
SELECT %(batch_id)s, t.invoice_number, count(*) - count(f.target_id), count(f.target_id)
FROM {_TARGET} AS t LEFT JOIN {_FORMER} AS f ON f.batch_id = %(batch_id)s AND f.target_id = t.id
WHERE t.upload_batch_id = %(batch_id)s AND t.invoice_number IS NOT NULL GROUP BY t.invoice_number
"""  # noqa: S608

_RESTORED = (*VALUES, "upload_batch_id", "row_number", "updated_at")
_RESTORE = f"""
UPDATE {_TARGET} AS t SET ({", ".join(_RESTORED)}) = (
    SELECT {", ".join(_RESTORED)} FROM jsonb_populate_record(NULL::{_TARGET}, f.former)
)
FROM {_FORMER} AS f WHERE f.batch_id = %(batch_id)s AND t.id = f.target_id
"""  # noqa: S608

_DELETE = f"DELETE FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s"  # noqa: S608
_FORGET = (
    f"DELETE FROM {_FORMER} WHERE batch_id = %(batch_id)s",  # noqa: S608
    "DELETE FROM bulk_upload.load_chunks WHERE batch_id = %(batch_id)s",
    "DELETE FROM bulk_upload.processing_errors WHERE batch_id = %(batch_id)s "
    "AND error_code IN ('REFUSED_BY_DATABASE', 'ALREADY_LOADED')",
)

_REVERTED = """
UPDATE bulk_upload.upload_batches SET state = 'reverted', rows_inserted = 0, rows_updated = 0, rows_unchanged = 0,
    rows_unprocessed = rows_read - rows_rejected, reason = %(reason)s, finished_at = NULL,
    verdict = verdict - 'has_passed'
WHERE batch_id = %(batch_id)s
"""
"""In the same transaction, so that no receipt says for a moment that rows are loaded which are gone. It has ended
when its receipt is complete: whoever is cut off before that knows by it what is still to do."""


@dataclass(frozen=True, slots=True)
class RevertResult:
    """What undoing a load did to the target, in rows."""

    deleted: int
    restored: int

    @property
    def in_words(self) -> str:
        """Return the sentence of the batch's receipt."""
        return (
            f"The load was undone: {self.deleted:,} rows are gone, and {self.restored:,} have their former values "
            f"again. The same file can be loaded anew."
        )


def revert(engine: sa.Engine, batch_id: str) -> RevertResult:
    """Undo what a batch did to the target, in one transaction, and forget that its chunks were loaded.

    Its file can be loaded again afterwards. To revert a batch that loaded nothing does nothing.

    Raises:
        BatchBusyError: A worker is loading the batch.
        RevertRefusedError: Later batches have changed the same rows since; nothing is undone.
        psycopg2.Error: The database failed; nothing is undone, and it may be tried again.
    """
    with holding(engine, batch_id) as connection, connection, connection.cursor() as cursor:
        return _undo(cursor, batch_id)


def _undo(cursor: Cursor, batch_id: str) -> RevertResult:
    named = {"batch_id": batch_id}
    cursor.execute(_LOCK, named)
    cursor.execute(_LATER, named)
    later = [name or "(changed by hand)" for (name,) in cursor.fetchall()]
    if later:
        raise RevertRefusedError(batch_id, later)
    for statement in (_DATES, _REMEMBER):
        cursor.execute(statement, named)
    cursor.execute(_RESTORE, named)
    restored = cursor.rowcount
    # The rows that were restored belong to others again, so that those that it inserted are left.
    cursor.execute(_DELETE, named)
    deleted = cursor.rowcount
    for statement in _FORGET:
        cursor.execute(statement, named)
    result = RevertResult(deleted, restored)
    cursor.execute(_REVERTED, named | {"reason": result.in_words})
    return result
