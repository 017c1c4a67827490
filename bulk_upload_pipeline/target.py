"""Questions to the target that no single batch can answer: are keys unique, do invoices add up?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from bulk_upload_pipeline import contract

if TYPE_CHECKING:
    from decimal import Decimal

_TARGET = f"public.{contract.TARGET}"
_IDENTITY = ", ".join(contract.IDENTITY)
_OF_BATCH = f"SELECT invoice_number FROM {_TARGET} WHERE upload_batch_id = :batch_id"  # noqa: S608 - our own names

IDENTITY_CONSTRAINT = "mangalam_invoices_identity"
EXAMPLES = 3

# The constraint of the contract, by what it says and not by its name: an administrator may have renamed it.
_KEPT = sa.text(
    "SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass(:target) AND i.indisunique "
    "AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnullsnotdistinct "
    "AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute AS a "
    "WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) = :identity)"
)
_TWICE = sa.text(
    f"SELECT count(*) FROM (SELECT FROM {_TARGET} WHERE invoice_number IN ({_OF_BATCH}) "  # noqa: S608
    f"GROUP BY {_IDENTITY} HAVING count(*) > 1) AS twice"
)
_SUMS = "sum(item_total) AS lines, min(subtotal) AS least, max(subtotal) AS most, count(*) AS count"
# A cent for each line: that is how far the rounding of each line can carry a sum. The lines of the batch are added
# up first: nearly always they are all that an invoice has, and what others brought is then looked for in vain.
# `coalesce` keeps the planner from believing statistics of a moment when there was no other batch: it would compare
# each row with each invoice.
_SUBTOTALS = sa.text(
    f"WITH own AS MATERIALIZED (SELECT invoice_number, {_SUMS} FROM {_TARGET} "  # noqa: S608
    "WHERE upload_batch_id = :batch_id GROUP BY invoice_number HAVING count(subtotal) > 0), "
    f"others AS (SELECT invoice_number, {_SUMS} FROM {_TARGET} WHERE coalesce(upload_batch_id, '') <> :batch_id "
    "AND invoice_number IN (SELECT invoice_number FROM own) GROUP BY invoice_number), "
    "sums AS (SELECT invoice_number, own.lines + coalesce(others.lines, 0) AS lines, "
    "least(own.least, others.least) AS least, greatest(own.most, others.most) AS most, "
    "own.count + coalesce(others.count, 0) AS count FROM own LEFT JOIN others USING (invoice_number)), "
    "odd AS (SELECT * FROM sums WHERE least <> most OR abs(lines - most) > 0.01 * count) "
    "SELECT (SELECT count(*) FROM own), (SELECT count(*) FROM odd), invoice_number, lines, most "
    "FROM (SELECT) AS always LEFT JOIN odd ON true ORDER BY invoice_number LIMIT :examples"
)


def identity_is_kept(engine: sa.Engine) -> bool:
    """Return whether the database itself keeps the identity of a line unique, absent values included."""
    named = {"target": _TARGET, "identity": sorted(contract.IDENTITY)}
    with engine.connect() as connection:
        return bool(connection.scalar(_KEPT, named))


def identities_held_twice(engine: sa.Engine, batch_id: str) -> int:
    """Return how many identities of a batch's invoices stand in the target more than once."""
    with engine.connect() as connection:
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


def subtotals(engine: sa.Engine, batch_id: str) -> Subtotals:
    """Hold the lines of each invoice of a batch, whichever batch brought them, against its subtotal."""
    with engine.connect() as connection:
        # The sums of a large batch shall be taken in memory; compiling their one statement takes longer than it.
        connection.execute(sa.text("SET LOCAL work_mem = '64MB'"))
        connection.execute(sa.text("SET LOCAL jit = off"))
        rows = connection.execute(_SUBTOTALS, {"batch_id": batch_id, "examples": EXAMPLES}).all()
    examples = tuple(OddInvoice(row[2], row[3], row[4]) for row in rows if row[2] is not None)
    return Subtotals(rows[0][0], rows[0][1], examples)
