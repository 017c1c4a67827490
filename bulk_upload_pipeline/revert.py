"""Undoing a load: rows that it inserted go, rows that it changed get their former values back.

So each row is as if the batch had never been: where a batch that is left says it, it is as the latest of these says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.database import first_line
from bulk_upload_pipeline.exceptions import RevertForbiddenError, RevertRefusedError
from bulk_upload_pipeline.holding import connected, holding
from bulk_upload_pipeline.loading.confirmed import LATER, ONE_AT_A_TIME, count_on_chunks, count_on_receipts
from bulk_upload_pipeline.loading.copying import VALUES
from bulk_upload_pipeline.loading.former import FORMER
from bulk_upload_pipeline.loading.merging import lies_in_a_row
from bulk_upload_pipeline.loading.yielded import FALL, YIELDED_TO, in_order
from bulk_upload_pipeline.model import counted
from bulk_upload_pipeline.stale import TOUCH

if TYPE_CHECKING:
    import sqlalchemy as sa
    from psycopg2.extensions import cursor as Cursor

_NAMED = 3
"""Later batches that a sentence names."""

_TARGET = contract.TABLE

_LOCK = in_order(f"""
    SELECT id FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s
    UNION SELECT target_id FROM {FORMER} WHERE batch_id = %(batch_id)s
    UNION SELECT target_id FROM {FORMER} WHERE former_batch_id = %(batch_id)s
    UNION {YIELDED_TO}
""")  # noqa: S608 - names of our own tables only, here and below

_LATER = f"""
SELECT DISTINCT t.upload_batch_id FROM {FORMER} AS f JOIN {_TARGET} AS t ON t.id = f.target_id
WHERE %(batch_id)s IN (f.batch_id, f.former_batch_id) AND t.upload_batch_id IS DISTINCT FROM %(batch_id)s
ORDER BY 1
"""  # noqa: S608

_HEIRS = f"""
CREATE TEMPORARY TABLE heirs ON COMMIT DROP AS
WITH later AS ({LATER})
SELECT DISTINCT ON (t.id) t.id, c.batch_id, c.chunk_index, said.row_number,
    EXISTS (SELECT FROM {FORMER} AS f WHERE f.batch_id = %(batch_id)s AND f.target_id = t.id) AS has_former
FROM bulk_upload.confirmed_rows AS c JOIN bulk_upload.upload_batches AS b USING (batch_id),
    unnest(c.target_ids, c.row_numbers) AS said (id, row_number)
    JOIN {_TARGET} AS t ON t.id = said.id AND t.upload_batch_id = %(batch_id)s
WHERE c.batch_id IN (TABLE later)
ORDER BY t.id, b.received_at, b.batch_id
"""  # noqa: S608
"""The rows that stay since a later batch says them, too, with the first such batch, which the others then confirm."""

_INHERIT = (
    f"UPDATE {FORMER} AS f SET batch_id = h.batch_id FROM heirs AS h "  # noqa: S608
    "WHERE f.batch_id = %(batch_id)s AND f.target_id = h.id",
    f"UPDATE {_TARGET} AS t SET upload_batch_id = h.batch_id, row_number = h.row_number, updated_at = now() "  # noqa: S608
    "FROM heirs AS h WHERE t.id = h.id",
    count_on_chunks("TABLE heirs"),
    count_on_receipts("TABLE heirs"),
)
"""What a later batch found unchanged counts from then on as what it brought itself, as if it had come first."""

_DATES = f"""
{TOUCH} SELECT invoice_date FROM (
    SELECT invoice_date FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s
    UNION SELECT (former ->> 'invoice_date')::date FROM {FORMER} WHERE batch_id = %(batch_id)s
) AS dates WHERE invoice_date IS NOT NULL
"""  # noqa: S608

_REMEMBER = f"""
INSERT INTO bulk_upload.reverted_invoices (batch_id, invoice_number, deleted, restored)
SELECT %(batch_id)s, t.invoice_number, count(*) - count(f.target_id), count(f.target_id)
FROM {_TARGET} AS t LEFT JOIN {FORMER} AS f ON f.batch_id = %(batch_id)s AND f.target_id = t.id
WHERE t.upload_batch_id = %(batch_id)s AND t.invoice_number IS NOT NULL GROUP BY t.invoice_number
"""  # noqa: S608

_RESTORED = (*VALUES, "upload_batch_id", "row_number")
_RESTORE = f"""
UPDATE {_TARGET} AS t SET ({", ".join(_RESTORED)}, updated_at) = (
    SELECT {", ".join(_RESTORED)}, now() FROM jsonb_populate_record(NULL::{_TARGET}, f.former)
)
FROM {FORMER} AS f WHERE f.batch_id = %(batch_id)s AND t.id = f.target_id
"""  # noqa: S608
"""Their time is not the former one: who reads what has changed since it last looked has seen the undone values."""

_DELETE = f"DELETE FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s"  # noqa: S608
_NOT_LEFT = (
    f"SELECT count(*) FROM heirs JOIN {_TARGET} AS t USING (id) WHERE t.upload_batch_id = %(batch_id)s"  # noqa: S608
)
_NOT_DELETED = f"SELECT count(*) FROM {_TARGET} WHERE upload_batch_id = %(batch_id)s"  # noqa: S608
_NOT_RESTORED = f"""
SELECT count(*) FROM {FORMER} AS f JOIN {_TARGET} AS t ON t.id = f.target_id
WHERE f.batch_id = %(batch_id)s AND t.upload_batch_id = %(batch_id)s
"""  # noqa: S608
"""A trigger may keep a row as it is without a word. One that is not restored, nor left to another batch that says it,
would be deleted with the others."""

_FORGET = (
    f"DELETE FROM {FORMER} WHERE batch_id = %(batch_id)s",  # noqa: S608
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
    """What undoing a load did to the target, in rows.

    Attributes:
        inherited: Rows that stay, since later batches say them just so.
        heirs: Those batches.
        fallen: Rows that are as earlier batches say them, which had left them to the one that is undone.
        fallen_to: Those batches.
    """

    deleted: int
    restored: int
    inherited: int = 0
    heirs: tuple[str, ...] = ()
    fallen: int = 0
    fallen_to: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """Return the sentence of the batch's receipt."""
        stays, falls = "", ""
        if self.inherited:
            stay = "1 stays: it stands" if self.inherited == 1 else f"{self.inherited:,} stay: they stand"
            later = "a later file" if len(self.heirs) == 1 else "later files"
            stays = f" {stay} in {later}, too ({_named(self.heirs)})."
        if self.fallen:
            says = "an earlier file says" if len(self.fallen_to) == 1 else "earlier files say"
            falls = f" {counted(self.fallen, 'is', 'are')} now as {says} ({_named(self.fallen_to)})."
        restored = counted(self.restored, "has its", "have their")
        return (
            f"The load was undone: {counted(self.deleted, 'row is', 'rows are')} gone, and {restored} former values "
            f"again.{stays}{falls} The same file can be loaded anew."
        )


def _named(batches: tuple[str, ...]) -> str:
    more = f" and {len(batches) - _NAMED:,} more" if len(batches) > _NAMED else ""
    return ", ".join(batches[:_NAMED]) + more


def revert(engine: sa.Engine, batch_id: str, *, is_held: bool = False) -> RevertResult:
    """Undo what a batch did to the target, in one transaction, and forget that its chunks were loaded.

    Its file can be loaded again afterwards. To revert a batch that loaded nothing does nothing.

    Args:
        engine: Of the database.
        batch_id: The batch.
        is_held: Whether the caller holds the batch already.

    Raises:
        BatchBusyError: A worker is loading the batch.
        RevertRefusedError: Later batches have changed the same rows since; nothing is undone.
        RevertForbiddenError: A rule that somebody added to the table keeps rows as they are; nothing is undone.
        psycopg2.Error: The database failed; nothing is undone, and it may be tried again.
    """
    held = connected(engine) if is_held else holding(engine, batch_id)
    try:
        with held as connection, connection, connection.cursor() as cursor:
            return _undo(cursor, batch_id)
    except psycopg2.Error as error:
        if lies_in_a_row(error):
            raise RevertForbiddenError(batch_id, first_line(error)) from error
        raise


def _undo(cursor: Cursor, batch_id: str) -> RevertResult:
    named = {"batch_id": batch_id}
    cursor.execute(_LOCK, named)
    cursor.execute(ONE_AT_A_TIME)
    cursor.execute(_LATER, named)
    later = [name or "(changed by hand)" for (name,) in cursor.fetchall()]
    if later:
        raise RevertRefusedError(batch_id, later)
    inherited, heirs = _leave_to_heirs(cursor, named)
    for statement in (_DATES, _REMEMBER):
        cursor.execute(statement, named)
    cursor.execute(_RESTORE, named)
    restored = cursor.rowcount
    _require_none(cursor, _NOT_RESTORED, named)
    cursor.execute(FALL, named | {"undone": batch_id})
    fallen_to, fallen, not_restored, kept = (
        zip(*cursor.fetchall(), strict=True) if cursor.rowcount else ((), (), (), ())
    )
    _require_no_kept(batch_id, sum(kept))
    # The rows that were restored belong to others again, so that those that it inserted are left.
    cursor.execute(_DELETE, named)
    deleted = cursor.rowcount
    _require_none(cursor, _NOT_DELETED, named)
    for statement in _FORGET:
        cursor.execute(statement, named)
    restored -= sum(not_restored)
    result = RevertResult(deleted, restored, inherited, heirs, sum(fallen), fallen_to)
    cursor.execute(_REVERTED, named | {"reason": result.in_words})
    return result


def _require_none(cursor: Cursor, query: str, named: dict[str, str]) -> None:
    """Refuse to go on where there are rows that are not as they were to become."""
    cursor.execute(query, named)
    found = cursor.fetchone()
    _require_no_kept(named["batch_id"], found[0] if found else 0)


def _require_no_kept(batch_id: str, rows: int) -> None:
    if rows:
        cause = f"a trigger or rule leaves {counted(rows, 'row')} unchanged"
        raise RevertForbiddenError(batch_id, cause)


def _leave_to_heirs(cursor: Cursor, named: dict[str, str]) -> tuple[int, tuple[str, ...]]:
    """Give each row that later batches say just so to the first of them; return how many, and those batches."""
    cursor.execute(_HEIRS, named)
    if cursor.rowcount:
        for statement in _INHERIT:
            cursor.execute(statement, named)
        _require_none(cursor, _NOT_LEFT, named)
    cursor.execute("SELECT batch_id, count(*) FROM heirs GROUP BY 1 ORDER BY 1")
    given = cursor.fetchall()
    return sum(count for _, count in given), tuple(batch_id for batch_id, _ in given)
