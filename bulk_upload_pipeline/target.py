"""Questions to the target: does it hold what was loaded, are keys unique, do invoices add up?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.model import Totals

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from decimal import Decimal

_TARGET = contract.TABLE
_IDENTITY = ", ".join(contract.IDENTITY)
_OF_BATCH = f"SELECT invoice_number FROM {_TARGET} WHERE upload_batch_id = :batch_id"  # noqa: S608 - our own names

EXAMPLES = 3

# The constraint of the contract, by what it says and not by its name: an administrator may have renamed it.
_KEPT = sa.text(
    "SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass(:target) AND i.indisunique "
    "AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnullsnotdistinct "
    "AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute AS a "
    "WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])) = :identity)"
)
_TWICE = sa.text(
    f"SELECT count(*) FROM (SELECT FROM {_TARGET} WHERE invoice_number IN ({_OF_BATCH}) "  # noqa: S608
    f"GROUP BY {_IDENTITY} HAVING count(*) > 1) AS twice"
)
_HELD = sa.text(
    f"SELECT upload_batch_id, count(*), coalesce(sum(quantity), 0), coalesce(sum(item_total), 0) FROM {_TARGET} "  # noqa: S608
    "WHERE upload_batch_id = ANY(:batch_ids) GROUP BY upload_batch_id"
)
_ERROR_ON = (
    "EXISTS (SELECT FROM bulk_upload.processing_errors AS e WHERE e.batch_id = {batch} AND e.row_number = {row} "
    "AND e.severity = 'error' AND {which})"
)
_OPEN = "NOT e.is_resolved"
_NOT_BROUGHT = f"({_OPEN} OR e.resolved_by_batch <> e.batch_id)"
"""Which errors say that a batch does not bring a row itself: those that are open, or settled by its correction."""


def _standing(which: str) -> sa.TextClause:
    error = _ERROR_ON.format(batch="t.upload_batch_id", row="t.row_number", which=which)
    return sa.text(
        f"SELECT upload_batch_id, count(*), sum(quantity), sum(item_total) FROM {_TARGET} AS t "  # noqa: S608
        f"WHERE upload_batch_id = ANY(:batch_ids) AND {error} GROUP BY upload_batch_id"
    )


_STANDING, _LEFT = _standing(_OPEN), _standing(_NOT_BROUGHT)
_STANDING_ROWS = sa.text(
    f"SELECT row_number FROM {_TARGET} AS t WHERE upload_batch_id = :batch_id "  # noqa: S608
    f"AND {_ERROR_ON.format(batch='t.upload_batch_id', row='t.row_number', which=_OPEN)}"
)
_KEYS = sa.text(
    f"SELECT row_number, {', '.join(contract.IDENTITY[:3])} FROM {_TARGET} WHERE upload_batch_id = :batch_id"  # noqa: S608
)
# The former row names the batch that had brought it; one that was deleted since is not there, and does not count. Nor
# does one that its batch, judged anew since, does not bring any more.
_BY_FORMER = _ERROR_ON.format(
    batch="f.former_batch_id", row="(f.former ->> 'row_number')::bigint", which=_NOT_BROUGHT
)
_TAKEN = sa.text(
    "SELECT f.former_batch_id, count(DISTINCT t.id) FROM bulk_upload.former_rows AS f "  # noqa: S608
    f"JOIN {_TARGET} AS t ON t.id = f.target_id WHERE f.former_batch_id = ANY(:batch_ids) "
    f"AND t.upload_batch_id IS DISTINCT FROM f.former_batch_id AND NOT {_BY_FORMER} GROUP BY f.former_batch_id"
)
_SUMS = "sum(item_total) AS lines, min(subtotal) AS least, max(subtotal) AS most, count(*) AS count"
# A cent for each line: that is how far the rounding of each line can carry a sum. The lines of a batch are added
# up first: nearly always they are all that an invoice has, and what others brought is then looked for in vain.
# `coalesce` keeps the planner from believing statistics of a moment when there was no other batch: it would compare
# each row with each invoice. Of one batch its own lines are left out before they are compared with any invoice.
_SUBTOTALS = sa.text(
    f"WITH own AS MATERIALIZED (SELECT upload_batch_id, invoice_number, {_SUMS} FROM {_TARGET} "  # noqa: S608
    "WHERE upload_batch_id = ANY(:batch_ids) GROUP BY upload_batch_id, invoice_number HAVING count(subtotal) > 0), "
    "others AS (SELECT own.upload_batch_id, invoice_number, sum(t.item_total) AS lines, min(t.subtotal) AS least, "
    f"max(t.subtotal) AS most, count(*) AS count FROM {_TARGET} AS t JOIN own USING (invoice_number) "
    "WHERE coalesce(t.upload_batch_id, '') <> own.upload_batch_id "
    "AND NOT (cardinality(CAST(:batch_ids AS text[])) = 1 "
    "AND coalesce(t.upload_batch_id, '') = (CAST(:batch_ids AS text[]))[1]) "
    "GROUP BY own.upload_batch_id, invoice_number), "
    "sums AS (SELECT upload_batch_id, invoice_number, own.lines + coalesce(others.lines, 0) AS lines, "
    "least(own.least, others.least) AS least, greatest(own.most, others.most) AS most, "
    "own.count + coalesce(others.count, 0) AS count "
    "FROM own LEFT JOIN others USING (upload_batch_id, invoice_number)), "
    "odd AS MATERIALIZED (SELECT * FROM sums WHERE least <> most OR abs(lines - most) > 0.01 * count), "
    "counted AS (SELECT upload_batch_id, count(*) AS invoices, "
    "(SELECT count(*) FROM odd WHERE odd.upload_batch_id = own.upload_batch_id) AS disagree "
    "FROM own GROUP BY upload_batch_id) "
    "SELECT upload_batch_id, invoices, disagree, invoice_number, lines, most FROM counted LEFT JOIN LATERAL ("
    "SELECT invoice_number, lines, most FROM odd WHERE odd.upload_batch_id = counted.upload_batch_id "
    "ORDER BY invoice_number LIMIT :examples) AS examples ON true ORDER BY upload_batch_id, invoice_number"
)


@dataclass(frozen=True, slots=True)
class Held:
    """The rows of the target that carry a batch, and their control totals."""

    rows: int = 0
    totals: Totals = Totals()  # noqa: RUF009 - it is frozen


def held(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, Held]:
    """Return what the target has of each of some batches."""
    return _held(engine, _HELD, batch_ids)


def standing(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, Held]:
    """Return the rows that the target has of each of some batches although they are rejected by now."""
    return _held(engine, _STANDING, batch_ids)


def standing_rows(engine: sa.Engine, batch_id: str) -> set[int]:
    """Return the numbers of the rows that the target has of a batch although they are rejected by now."""
    with asking(engine) as connection:
        return set(connection.scalars(_STANDING_ROWS, {"batch_id": batch_id}))


def keys(engine: sa.Engine, batch_id: str) -> dict[int, tuple[str | None, ...]]:
    """Return the first three values of the key of each row that the target has of a batch, by row number."""
    with asking(engine) as connection:
        rows = connection.execute(_KEYS, {"batch_id": batch_id}).all()
    return {row[0]: tuple(row[1:]) for row in rows}


def left(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, Held]:
    """Return what the target has of each of some batches, judged anew, that they do not bring any more.

    That is what is wrong by now, and what a correction has found just as it is meant.
    """
    return _held(engine, _LEFT, batch_ids)


def taken(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, int]:
    """Return how many rows that each of some batches brought are another's by now, which has changed them."""
    with asking(engine) as connection:
        rows = connection.execute(_TAKEN, {"batch_ids": list(batch_ids)}).all()
    found = {row[0]: row[1] for row in rows}
    return {batch_id: found.get(batch_id, 0) for batch_id in batch_ids}


def _held(engine: sa.Engine, query: sa.TextClause, batch_ids: Collection[str]) -> dict[str, Held]:
    with asking(engine) as connection:
        rows = connection.execute(query, {"batch_ids": list(batch_ids)}).all()
    found = {row[0]: Held(row[1], Totals(row[2], row[3])) for row in rows}
    return {batch_id: found.get(batch_id, Held()) for batch_id in batch_ids}


def identity_is_kept(engine: sa.Engine) -> bool:
    """Return whether the database itself keeps the identity of a line unique, absent values included."""
    named = {"target": _TARGET, "identity": sorted(contract.IDENTITY)}
    with asking(engine) as connection:
        return bool(connection.scalar(_KEPT, named))


def identities_held_twice(engine: sa.Engine, batch_id: str) -> int:
    """Return how many identities of a batch's invoices stand in the target more than once."""
    with asking(engine) as connection:
        return int(connection.scalar(_TWICE, {"batch_id": batch_id}) or 0)


@dataclass(frozen=True, slots=True)
class OddInvoice:
    """An invoice whose lines do not add up to what the file says."""

    invoice_number: str
    lines: Decimal
    stated: Decimal


@dataclass(frozen=True, slots=True)
class Subtotals:
    """How the invoices of a batch that have a subtotal compare with it, over all of their lines."""

    invoices: int
    disagree: int
    examples: tuple[OddInvoice, ...]


def subtotals(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, Subtotals]:
    """Hold the lines of each invoice of some batches, whichever batch brought them, against its subtotal."""
    with engine.connect() as connection:
        # The sums of a large batch shall be taken in memory; compiling their one statement takes longer than it.
        connection.execute(sa.text("SET LOCAL work_mem = '64MB'; SET LOCAL jit = off"))
        rows: Sequence[Any] = connection.execute(
            _SUBTOTALS, {"batch_ids": list(batch_ids), "examples": EXAMPLES}
        ).all()
    found = {batch_id: Subtotals(0, 0, ()) for batch_id in batch_ids}
    for batch_id, invoices, disagree, *odd in rows:
        examples = found[batch_id].examples
        if odd[0] is not None:
            examples = (*examples, OddInvoice(*odd))
        found[batch_id] = Subtotals(invoices, disagree, examples)
    return found
