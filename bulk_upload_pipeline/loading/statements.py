"""The SQL by which rows that were copied to a temporary table find their place in the target, or are refused.

Each statement returns the rows that it inserted, changed, found unchanged and refused, and their control totals; one
that settles what exists also says what `merging` has to look at again before the transaction ends.

Why not `INSERT ... ON CONFLICT ... DO UPDATE` alone: it says neither which rows it left unchanged nor what
they were before, and it locks and dirties every row that is equal. Here a row that is equal is only read.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.loading.confirmed import HELD, LATER, SAID, confirming
from bulk_upload_pipeline.loading.copying import ROW, VALUES
from bulk_upload_pipeline.loading.former import FORMER
from bulk_upload_pipeline.loading.yielded import yielded_rows
from bulk_upload_pipeline.stale import TOUCH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bulk_upload_pipeline.profiles import OnConflict

TARGET = contract.TABLE
YIELDED = f"{yielded_rows.schema}.{yielded_rows.name}"

STAGED = "pg_temp.bulk_upload_staged"
NULLABLE = contract.IDENTITY[:3]

_LATER_AND_HELD = f"later AS MATERIALIZED ({LATER}), held AS MATERIALIZED ({HELD})"
"""CTEs of the batches that came later, and of the rows which they have found just so."""


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


CREATE = (
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {STAGED.partition('.')[2]} "
    f"({', '.join(f'{name} {_staged_type(name)}' for name in ROW)}) ON COMMIT DELETE ROWS"
)

EMPTY = f"DELETE FROM {STAGED}"  # noqa: S608


def _gone(placed: str, key: str = "ctid = {}.place") -> str:
    """Return SQL by which rows leave, as long as others stay: the last ones go with the transaction.

    They are found by where they lie: the planner takes `placed` for a single row, and would compare each with each.
    """
    return (
        f"DELETE FROM {STAGED} AS s USING {placed} WHERE s.{key.format(placed)} "  # noqa: S608
        f"AND (SELECT count(*) FROM {placed}) < %(remaining)s"
    )


INSERT = f"""
WITH placed AS (
    INSERT INTO {TARGET} ({", ".join(ROW)})
    SELECT {", ".join(map(_staged, ROW))} FROM {STAGED} AS s
    ON CONFLICT ({", ".join(contract.IDENTITY)}) DO NOTHING
    RETURNING row_number, invoice_date, quantity, item_total
), gone AS (
    {_gone("placed", "row_number = {}.row_number")}
), touched AS (
    {TOUCH} SELECT DISTINCT invoice_date FROM placed WHERE invoice_date IS NOT NULL
)
SELECT count(*), 0, 0, 0, coalesce(sum(quantity), 0), coalesce(sum(item_total), 0) FROM placed
"""  # noqa: S608


def _matches(lacking: Iterable[str]) -> Iterable[str]:
    """Return one query for each way in which an identity can lack values of the columns `lacking`.

    `IS NOT DISTINCT FROM` would say it in one, but cannot use the index.
    """
    differs = (
        f"({', '.join(f't.{name}' for name in VALUES)}) IS DISTINCT FROM ({', '.join(map(_staged, VALUES))})"
    )
    for absent in itertools.product(*((False, True) if name in lacking else (False,) for name in NULLABLE)):
        pairs = list(zip(NULLABLE, absent, strict=True))
        on = " AND ".join(f"t.{n} IS NULL" if null else f"t.{n} = s.{n}" for n, null in pairs)
        where = " AND ".join(f"s.{n} IS {'' if null else 'NOT '}NULL" for n, null in pairs)
        yield (
            "SELECT s.ctid AS place, s.row_number, t.id, t.quantity, t.item_total, "  # noqa: S608
            f"s.quantity AS said_quantity, s.item_total AS said_total, {differs} AS differs, "
            "t.xmin AS version, t.upload_batch_id AS owner, t.upload_batch_id IS NOT DISTINCT FROM %(batch_id)s AS own "
            f"FROM {STAGED} AS s JOIN {TARGET} AS t ON {on} AND t.line_occurrence = s.line_occurrence "
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
), {_LATER_AND_HELD}, matched AS MATERIALIZED (
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
    so the counts of a batch always say what became of the table by it, and its sums what that was. A row that a batch
    has changed which was received later stays as it is, whenever this one is taken again: then what the batch `says`
    (SQL) is noted.
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
    FROM locked JOIN {STAGED} AS s ON s.ctid = locked.place WHERE t.id = locked.id
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
    UNION ALL SELECT id, place, CASE WHEN (brought OR yields) AND NOT own THEN said_quantity ELSE quantity END,
        CASE WHEN (brought OR yields) AND NOT own THEN said_total ELSE item_total END, brought, false
    FROM matched WHERE (yields OR NOT differs) AND {which}
), {confirming(f"matched WHERE NOT (differs OR own OR yields) AND {which}")}, noted AS (
    INSERT INTO {YIELDED} (target_id, batch_id, chunk_index, says)
    SELECT id, %(batch_id)s, %(chunk_index)s, to_jsonb(jsonb_populate_record(NULL::{TARGET}, to_jsonb(stated)))
    FROM matched JOIN {STAGED} AS s ON s.ctid = matched.place, LATERAL (SELECT {_SAYS}) AS stated
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

ERROR_COLUMNS = (
    "batch_id, row_number, line_occurrence, invoice_number, column_name, error_code, severity, error_message"
)

_REJECT = f""", other AS (SELECT * FROM matched WHERE NOT yields), refused AS (
    INSERT INTO bulk_upload.processing_errors ({ERROR_COLUMNS})
    SELECT %(batch_id)s, s.row_number, s.line_occurrence, s.invoice_number, NULL, %(code)s, %(severity)s, %(message)s
    FROM other JOIN {STAGED} AS s ON s.ctid = other.place WHERE differs ORDER BY s.row_number
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
def settling(on_conflict: OnConflict, lacking: frozenset[str]) -> tuple[str, ...]:
    """Return the statements that settle what stands in the target, of rows that lack values of these columns."""
    return tuple(_matched(lacking) + settle for settle in _SETTLE[on_conflict])


REFUSE = f"""
WITH gone AS (DELETE FROM {STAGED} RETURNING row_number, line_occurrence, invoice_number), refused AS (
    INSERT INTO bulk_upload.processing_errors ({ERROR_COLUMNS})
    SELECT %(batch_id)s, row_number, line_occurrence, invoice_number, NULL, %(code)s, %(severity)s, %(message)s
    FROM gone ORDER BY row_number
)
SELECT 0, 0, 0, count(*), 0, 0 FROM gone
"""  # noqa: S608

REFUSE_ONE = f"""
INSERT INTO bulk_upload.processing_errors ({ERROR_COLUMNS})
VALUES (
    %(batch_id)s, %(row_number)s, %(line_occurrence)s, %(invoice_number)s, %(column)s,
    %(code)s, %(severity)s, %(message)s
)
"""  # noqa: S608

OTHERS = """
SELECT EXISTS (
    SELECT FROM bulk_upload.upload_batches WHERE batch_id <> %(batch_id)s
    AND (state IN ('received', 'validated', 'loading') OR finished_at >= now()
        OR finished_at IS NULL AND state = 'reverted')
)
"""
"""Whether any other batch can have committed rows, or undone them, since this transaction began."""

OVERTAKEN = f"""
WITH {_LATER_AND_HELD}
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
