"""Rows into the target when some of their identities stand there already.

The rows are copied to a temporary table and leave it as they find their place: what exists is settled by
the policy, what is new is inserted, and what the database refuses is isolated by bisection. All of it is
one transaction, the caller's, at isolation level READ COMMITTED.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.errors import SerializationFailure

from bulk_upload_pipeline import contract, findings
from bulk_upload_pipeline.loading import statements
from bulk_upload_pipeline.loading.confirmed import ONE_AT_A_TIME
from bulk_upload_pipeline.loading.copying import Text, copy
from bulk_upload_pipeline.model import LoadResult, Severity, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor

    from bulk_upload_pipeline.profiles import OnConflict

REFUSED = "REFUSED_BY_DATABASE"
ALREADY_LOADED = "ALREADY_LOADED"

_ROUNDS = 3
"""Attempts to place a row that others insert or delete between our looking for it and our inserting it."""

_SETTLED = ("said", "versions", "changed", "owners", "yielded")


class Merge:
    """Merges rows of one batch in the transaction of `cursor`.

    Args:
        chunk_index: The chunk whose rows they are; its ledger row has to follow in the same transaction.
        check: Called now and then; what it raises ends the merge.
    """

    def __init__(
        self,
        cursor: Cursor,
        batch_id: str,
        chunk_index: int,
        on_conflict: OnConflict,
        check: Callable[[], None],
    ) -> None:
        self._cursor, self._batch_id, self._chunk_index, self._check = cursor, batch_id, chunk_index, check
        self._on_conflict: OnConflict = on_conflict
        self._holds_rows = False
        self._settled: list[Sequence[str | None]] = []
        cursor.execute(statements.CREATE)

    def place(self, rows: pa.Table) -> LoadResult:
        """Insert, settle or refuse each of `rows` (schema `staged.LOADED_SCHEMA`).

        Raises:
            psycopg2.Error: For a reason that does not lie in a row; the transaction is then aborted.
        """
        return self._place(rows.sort_by([(name, "ascending") for name in contract.IDENTITY]))

    def make_sure(self) -> None:
        """Make sure, as the last thing of the transaction, that what it settled is settled rightly.

        Raises:
            SerializationFailure: It is not; the transaction has to begin anew.
        """
        if not self._settled:
            return
        self._cursor.execute(ONE_AT_A_TIME)
        if not self._is(statements.OTHERS):
            return
        for settled in self._settled:
            if self._is(statements.OVERTAKEN, **dict(itertools.zip_longest(_SETTLED, settled))):
                raise SerializationFailure("Another batch has changed the same rows at the same time.")

    def _is(self, condition: str, **named: str | None) -> bool:
        self._cursor.execute(condition, named | {"batch_id": self._batch_id})
        return self._cursor.fetchone() == (True,)

    def _place(self, rows: pa.Table) -> LoadResult:
        """Place all but the rows that the database refuses, which halving and halving again finds."""
        outcome = self._try(rows)
        if isinstance(outcome, LoadResult):
            return outcome
        if rows.num_rows == 1:
            return self._refuse(rows, outcome)
        half = rows.num_rows // 2
        return together(self._place(rows.slice(0, half)), self._place(rows.slice(half)))

    def _try(self, rows: pa.Table) -> LoadResult | psycopg2.Error:
        """Place `rows` if the database refuses none of them, else nothing, and return why."""
        self._check()
        if self._holds_rows:
            self._cursor.execute(statements.EMPTY)
        self._cursor.execute("SAVEPOINT before_rows")
        settled = len(self._settled)
        try:
            # In this order every merge takes its locks, so that two merges of the same invoices seldom deadlock.
            copy(self._cursor, statements.STAGED, Text(rows, self._batch_id, self._check))
            lacking = frozenset(name for name in statements.NULLABLE if rows[name].null_count)
            result = self._place_copied(rows.num_rows, statements.settling(self._on_conflict, lacking))
        except psycopg2.Error as error:
            if not lies_in_a_row(error):
                raise
            self._cursor.execute("ROLLBACK TO SAVEPOINT before_rows")
            del self._settled[settled:]
            return error
        self._cursor.execute("RELEASE SAVEPOINT before_rows")
        self._holds_rows = True
        return result

    def _place_copied(self, count: int, settling: Sequence[str]) -> LoadResult:
        result = LoadResult()
        for _ in range(_ROUNDS):
            # What exists is settled first: it shall not be refused for a rule that only new rows must meet.
            for statement in (*settling, statements.INSERT):
                remaining = count - result.rows - result.refused
                result = together(result, self._run(statement, ALREADY_LOADED, remaining=remaining))
                if result.rows + result.refused == count:
                    return result
        # It is not found, and inserting it leaves nothing behind.
        return together(result, self._run(statements.REFUSE, REFUSED, "a trigger of the table skips it"))

    def _refuse(self, rows: pa.Table, refusal: psycopg2.Error) -> LoadResult:
        row = rows.select(["row_number", "line_occurrence", "invoice_number"]).to_pylist()[0]
        stated = self._stated(REFUSED, _reason(refusal)) | row | {"column": refusal.diag.column_name}
        self._cursor.execute(statements.REFUSE_ONE, stated)
        return LoadResult(refused=1)

    def _run(self, statement: str, code: str, value: str = "", *, remaining: int = 0) -> LoadResult:
        self._cursor.execute(statement, self._stated(code, value) | {"remaining": remaining})
        row = self._cursor.fetchone()
        assert row is not None
        inserted, updated, unchanged, refused, quantity, item_total, *settled = row
        if any(settled):
            self._settled.append(settled)
        return LoadResult(inserted, updated, unchanged, refused, Totals(quantity, item_total))

    def _stated(self, code: str, value: str) -> dict[str, object]:
        message = findings.message_of(code, findings.shorten(value))
        return {
            "batch_id": self._batch_id,
            "chunk_index": self._chunk_index,
            "code": code,
            "severity": str(Severity.ERROR),
            "message": message,
        }


def together(first: LoadResult, second: LoadResult) -> LoadResult:
    """Return the sum of two results."""
    return LoadResult(
        first.inserted + second.inserted,
        first.updated + second.updated,
        first.unchanged + second.unchanged,
        first.refused + second.refused,
        first.totals + second.totals,
    )


def is_identity_violation(error: psycopg2.Error) -> bool:
    """Return whether a row could not be copied because its identity stands in the target."""
    return error.pgcode == "23505" and error.diag.constraint_name == contract.IDENTITY_CONSTRAINT


def lies_in_a_row(error: psycopg2.Error) -> bool:
    """Return whether the database refused a row for what it holds, by a rule that somebody added.

    Class 22 are values that a type cannot hold, 23 constraints, P0001 exceptions raised by a trigger, and
    44000 is the check of a view.
    """
    code = error.pgcode or ""
    return code[:2] in ("22", "23") or code in ("P0001", "44000")


def _reason(refusal: psycopg2.Error) -> str:
    """Return what the database said, without a NUL, which it could not store."""
    return (refusal.diag.message_primary or str(refusal).strip()).replace("\0", "")
