"""Rows into the target when some of their identities stand there already.

The rows are copied to a temporary table and leave it as they find their place: what exists is settled by
the policy, what is new is inserted, and what the database refuses is isolated by bisection. All of it is
one transaction, the caller's, at isolation level READ COMMITTED.

Why not `INSERT ... ON CONFLICT ... DO UPDATE` alone: it says neither which rows it left unchanged nor what
they were before, and it locks and dirties every row that is equal. Here a row that is equal is only read.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.errors import SerializationFailure

from bulk_upload_pipeline import contract, findings
from bulk_upload_pipeline.loading.confirmed import LATER, ONE_AT_A_TIME, SAID, confirming
from bulk_upload_pipeline.loading.copying import ROW, VALUES, Text, copy
from bulk_upload_pipeline.loading.former import former_rows
from bulk_upload_pipeline.loading.yielded import yielded_rows
from bulk_upload_pipeline.model import LoadResult, Severity, Totals
from bulk_upload_pipeline.stale import TOUCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor

    from bulk_upload_pipeline.profiles import OnConflict

TARGET = f"public.{contract.TARGET}"
IDENTITY_CONSTRAINT = "mangalam_invoices_identity"
FORMER = f"{former_rows.schema}.{former_rows.name}"
YIELDED = f"{yielded_rows.schema}.{yielded_rows.name}"
REFUSED = "REFUSED_BY_DATABASE"
ALREADY_LOADED = "ALREADY_LOADED"

_STAGED = "pg_temp.bulk_upload_staged"
_ROUNDS = 3
"""Attempts to place a row that others insert or delete between our looking for it and our inserting it."""

_NULLABLE = contract.IDENTITY[:3]


def _staged_type(name: str) -> str:
    """Return a wide type: what the target's own type refuses must be refused there, row by row."""
    column = contract.BY_NAME.get(name)
    if column is None:
        return "integer" if name in ("line_occurrence", "row_number") else "text"
    return {contract.Kind.TEXT: "text", contract.Kind.AMOUNT: "numeric", contract.Kind.DATE: "date"}[
        column.kind
    ]


def _staged(name: str) -> str:
    return "s.extra::jsonb" if name == "extra" else f"s.{name}"


_CREATE = (
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGED.partition('.')[2]} "
    f"({', '.join(f'{name} {_staged_type(name)}' for name in ROW)}) ON COMMIT DELETE ROWS"
)


def _gone(placed: str, key: str = "ctid = {}.place") -> str:
    """Return SQL by which rows leave, as long as others stay: the last ones go with the transaction.

    They are found by where they lie: the planner takes `placed` for a single row, and would compare each with each.
    """
    return (
        f"DELETE FROM {_STAGED} AS s USING {placed} WHERE s.{key.format(placed)} "  # noqa: S608
        f"AND (SELECT count(*) FROM {placed}) < %(remaining)s"
    )


_INSERT = f"""
WITH placed AS (
    INSERT INTO {TARGET} ({", ".join(ROW)})
    SELECT {", ".join(map(_staged, ROW))} FROM {_STAGED} AS s
    ON CONFLICT ({", ".join(contract.IDENTITY)}) DO NOTHING
    RETURNING row_number, invoice_date, quantity, item_total
), gone AS (
    {_gone("placed", "row_number = {}.row_number")}
), touched AS (
    {TOUCH} SELECT DISTINCT invoice_date FROM placed WHERE invoice_date IS NOT NULL
)
SELECT count(*), 0, 0, 0, coalesce(sum(quantity), 0), coalesce(sum(item_total), 0) FROM placed
"""  # noqa: S608 - names of the contract only, here and below


def _matches(lacking: Iterable[str]) -> Iterable[str]:
    """Return one query for each way in which an identity can lack values of the columns `lacking`.

    `IS NOT DISTINCT FROM` would say it in one, but cannot use the index.
    """
    differs = (
        f"({', '.join(f't.{name}' for name in VALUES)}) IS DISTINCT FROM ({', '.join(map(_staged, VALUES))})"
    )
    for absent in itertools.product(*((False, True) if name in lacking else (False,) for name in _NULLABLE)):
        pairs = list(zip(_NULLABLE, absent, strict=True))
        on = " AND ".join(f"t.{n} IS NULL" if null else f"t.{n} = s.{n}" for n, null in pairs)
        where = " AND ".join(f"s.{n} IS {'' if null else 'NOT '}NULL" for n, null in pairs)
        yield (
            "SELECT s.ctid AS place, s.row_number, t.id, t.quantity, t.item_total, "  # noqa: S608
            f"{differs} AS differs, "
            "t.xmin AS version, t.upload_batch_id AS owner, t.upload_batch_id IS NOT DISTINCT FROM %(batch_id)s AS own "
            f"FROM {_STAGED} AS s JOIN {TARGET} AS t ON {on} AND t.line_occurrence = s.line_occurrence "
            f"WHERE {where}"
        )


def _matched(lacking: Iterable[str]) -> str:
    """Return the rows that stand in the target.

    `place` is where a row lies in the temporary table: the order in which they were copied, and the way back to it.
    `yields`: the line stands as a file says it that came later, be it that it found it so. The later file wins,
    whichever is loaded last: so a batch that is taken again, or late, undoes nothing that came after it.
    `brought`: the batch is one of those that changed the row or brought it in, whoever did since.
    """
    return f"""WITH found AS MATERIALIZED (
    {" UNION ALL ".join(_matches(lacking))}
), later AS MATERIALIZED ({LATER}), held AS MATERIALIZED (
    SELECT unnest(target_ids) AS id FROM bulk_upload.confirmed_rows WHERE batch_id IN (TABLE later)
), matched AS MATERIALIZED (
    SELECT *, own OR yields AND EXISTS (
        SELECT FROM {FORMER} AS f WHERE f.former_batch_id = %(batch_id)s AND f.target_id = id
    ) AS brought
    FROM (SELECT *, coalesce(owner IN (TABLE later), false) OR id IN (TABLE held) AS yields FROM found) AS seen
)"""  # noqa: S608


_SUMS = "coalesce(sum(quantity), 0), coalesce(sum(item_total), 0)"
_SAYS = ", ".join(f"{_staged(name)} AS {name}" for name in (*VALUES, "upload_batch_id", "row_number"))


def _update(which: str, says: str) -> str:
    """Return what settles the matched rows `which` (SQL) by giving them the new values, behind `_matched`.

    A row that the batch brought in or took over itself, before it was judged anew, counts as what it was then:
    so the counts of a batch always say what became of the table by it. A row that a batch has changed which
    was received later stays as it is, whenever this one is taken again: then what the batch `says` (SQL) is noted.
    """
    return f""", locked AS MATERIALIZED (
    SELECT t.id, matched.place, t.upload_batch_id AS former_batch_id, to_jsonb(t) AS former
    FROM matched JOIN {TARGET} AS t ON t.id = matched.id
    WHERE matched.differs AND {which} AND (t.upload_batch_id IN (TABLE later)) IS NOT TRUE
        AND t.id NOT IN (TABLE held)
    ORDER BY matched.place FOR UPDATE OF t
), changed AS (
    UPDATE {TARGET} AS t SET
        {", ".join(f"{name} = {_staged(name)}" for name in (*VALUES, "upload_batch_id", "row_number"))},
        updated_at = now()
    FROM locked JOIN {_STAGED} AS s ON s.ctid = locked.place WHERE t.id = locked.id
    RETURNING t.id, locked.place, t.invoice_date, t.quantity, t.item_total, former_batch_id, former
), touched AS (
    {TOUCH} SELECT invoice_date FROM changed WHERE invoice_date IS NOT NULL
    UNION SELECT (former ->> 'invoice_date')::date FROM changed WHERE former ->> 'invoice_date' IS NOT NULL
), kept AS (
    INSERT INTO {FORMER} AS f (batch_id, target_id, former_batch_id, former)
    SELECT %(batch_id)s, id, former_batch_id, former FROM changed
    WHERE former_batch_id IS DISTINCT FROM %(batch_id)s
    ON CONFLICT (batch_id, target_id) DO UPDATE
    SET former_batch_id = excluded.former_batch_id, former = excluded.former
), settled AS (
    SELECT id, place, quantity, item_total, former_batch_id IS NOT DISTINCT FROM %(batch_id)s AS own,
        true AS updated FROM changed
    UNION ALL SELECT id, place, quantity, item_total, brought, false
    FROM matched WHERE (yields OR NOT differs) AND {which}
), {confirming(f"matched WHERE NOT (differs OR own OR yields) AND {which}")}, noted AS (
    INSERT INTO {YIELDED} (target_id, batch_id, chunk_index, says)
    SELECT id, %(batch_id)s, %(chunk_index)s, to_jsonb(jsonb_populate_record(NULL::{TARGET}, to_jsonb(stated)))
    FROM matched JOIN {_STAGED} AS s ON s.ctid = matched.place, LATERAL (SELECT {_SAYS}) AS stated
    WHERE yields AND (differs OR NOT own) AND {says}
), gone AS (
    {_gone("settled")}
), told AS (
    SELECT quantity, item_total, CASE
        WHEN NOT own AND updated THEN 'updated' WHEN NOT own THEN 'unchanged'
        WHEN EXISTS (SELECT FROM {FORMER} AS f WHERE f.batch_id = %(batch_id)s AND f.target_id = settled.id)
        THEN 'updated' ELSE 'inserted' END AS outcome
    FROM settled
)
SELECT count(*) FILTER (WHERE outcome = 'inserted'), count(*) FILTER (WHERE outcome = 'updated'),
    count(*) FILTER (WHERE outcome = 'unchanged'), 0, {_SUMS}, {SAID},
    (SELECT array_agg(id)::text FROM changed), (SELECT array_agg(former_batch_id)::text FROM changed),
    (SELECT array_agg(id)::text FROM matched WHERE yields AND {which})
FROM told
"""  # noqa: S608


_SKIP = f""", other AS (SELECT * FROM matched WHERE NOT yields), {confirming("other WHERE NOT differs")}, gone AS (
    {_gone("other")}
)
SELECT 0, 0, count(*), 0, {_SUMS}, {SAID} FROM other
"""  # noqa: S608

_ERROR_COLUMNS = "batch_id, row_number, line_occurrence, column_name, error_code, severity, error_message"

_REJECT = f""", other AS (SELECT * FROM matched WHERE NOT yields), refused AS (
    INSERT INTO bulk_upload.processing_errors ({_ERROR_COLUMNS})
    SELECT %(batch_id)s, s.row_number, s.line_occurrence, NULL, %(code)s, %(severity)s, %(message)s
    FROM other JOIN {_STAGED} AS s ON s.ctid = other.place WHERE differs ORDER BY s.row_number
), gone AS (
    {_gone("other")}
), {confirming("other WHERE NOT differs")}, kept AS (
    SELECT quantity, item_total FROM other WHERE NOT differs
)
SELECT 0, 0, count(*), (SELECT count(*) FROM other WHERE differs), {_SUMS}, {SAID} FROM kept
"""  # noqa: S608

# The policy is about what was there before: what the batch wrote itself it may write again, and what it did not take
# over when it came it never says.
_OWN = _update("(own OR yields)", "(brought OR NOT differs)")
_SETTLE: dict[OnConflict, tuple[str, ...]] = {
    "update": (_update("true", "true"),),
    "skip": (_OWN, _SKIP),
    "reject": (_OWN, _REJECT),
}


@cache
def _settling(on_conflict: OnConflict, lacking: frozenset[str]) -> tuple[str, ...]:
    """Return the statements that settle what stands in the target, of rows that lack values of these columns."""
    return tuple(_matched(lacking) + settle for settle in _SETTLE[on_conflict])


_REFUSE = f"""
WITH gone AS (DELETE FROM {_STAGED} RETURNING row_number, line_occurrence), refused AS (
    INSERT INTO bulk_upload.processing_errors ({_ERROR_COLUMNS})
    SELECT %(batch_id)s, row_number, line_occurrence, NULL, %(code)s, %(severity)s, %(message)s FROM gone
    ORDER BY row_number
)
SELECT 0, 0, 0, count(*), 0, 0 FROM gone
"""  # noqa: S608


_OTHERS = """
SELECT EXISTS (
    SELECT FROM bulk_upload.upload_batches WHERE batch_id <> %(batch_id)s
    AND (state IN ('received', 'validated', 'loading') OR finished_at >= now()
        OR finished_at IS NULL AND state = 'reverted')
)
"""
"""Whether any other batch can have committed rows, or undone them, since this transaction began."""

_OVERTAKEN = f"""
WITH later AS MATERIALIZED ({LATER}), held AS MATERIALIZED (
    SELECT unnest(target_ids) AS id FROM bulk_upload.confirmed_rows WHERE batch_id IN (TABLE later)
)
SELECT EXISTS (
    SELECT FROM unnest(%(said)s::bigint[], %(versions)s::xid[]) AS said (id, version)
    LEFT JOIN {TARGET} AS t ON t.id = said.id WHERE t.xmin IS DISTINCT FROM said.version
) OR EXISTS (
    SELECT FROM unnest(%(changed)s::bigint[], %(owners)s::text[]) AS changed (id, owner)
    WHERE owner IN (TABLE later) OR id IN (TABLE held)
) OR EXISTS (
    SELECT FROM unnest(%(yielded)s::bigint[]) AS yielded (id) LEFT JOIN {TARGET} AS t USING (id)
    WHERE t.id IS NULL OR (t.upload_batch_id IN (TABLE later)) IS NOT TRUE AND t.id NOT IN (TABLE held)
)
"""  # noqa: S608
"""Whether a row that was confirmed is another by now, one that was changed is a later batch's, or one that was left to
a later batch is so no more: as all others have committed, and not as it was when the statement began which settled the
row."""


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
        cursor.execute(_CREATE)

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
        if not self._is(_OTHERS):
            return
        for settled in self._settled:
            if self._is(_OVERTAKEN, **dict(itertools.zip_longest(_SETTLED, settled))):
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
            self._cursor.execute(f"DELETE FROM {_STAGED}")  # noqa: S608
        self._cursor.execute("SAVEPOINT before_rows")
        settled = len(self._settled)
        try:
            # In this order every merge takes its locks, so that two merges of the same invoices seldom deadlock.
            copy(self._cursor, _STAGED, Text(rows, self._batch_id, self._check))
            lacking = frozenset(name for name in _NULLABLE if rows[name].null_count)
            result = self._place_copied(rows.num_rows, _settling(self._on_conflict, lacking))
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
            for statement in (*settling, _INSERT):
                remaining = count - result.rows - result.refused
                result = together(result, self._run(statement, ALREADY_LOADED, remaining=remaining))
                if result.rows + result.refused == count:
                    return result
        # It is not found, and inserting it leaves nothing behind.
        return together(result, self._run(_REFUSE, REFUSED, "a trigger of the table skips it"))

    def _refuse(self, rows: pa.Table, refusal: psycopg2.Error) -> LoadResult:
        row = rows.select(["row_number", "line_occurrence"]).to_pylist()[0]
        self._cursor.execute(
            f"INSERT INTO bulk_upload.processing_errors ({_ERROR_COLUMNS}) VALUES (%(batch_id)s, "  # noqa: S608
            "%(row_number)s, %(line_occurrence)s, %(column)s, %(code)s, %(severity)s, %(message)s)",
            self._stated(REFUSED, _reason(refusal)) | row | {"column": refusal.diag.column_name},
        )
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
        message = findings.CATALOGUE[code].message.format(value=findings.shorten(value), column="")
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
    return error.pgcode == "23505" and error.diag.constraint_name == IDENTITY_CONSTRAINT


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
