"""What of a database does not fit the contract: in its tables, and in rows that no load of ours wrote.

Rows of the old system stay as they are; this says which of them a person should look at. Nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline import contract, database, target
from bulk_upload_pipeline.exceptions import DatabaseUnavailableError
from bulk_upload_pipeline.rules import EARLIEST_INVOICE, LATEST_INVOICE, ROUNDED
from bulk_upload_pipeline.upgrading import adoption, lost, obstacles, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

_TARGET = contract.TABLE
_OLD_KEY = ", ".join(contract.IDENTITY[:-1])
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Misfit:
    """One kind of thing that does not fit.

    Attributes:
        code: Which kind, such as `SHARED_KEY`.
        column: Where, None when it concerns the row or the table.
        rows: How many rows; 0 for what concerns the table.
        message: What it is and what becomes of it.
        examples: The first few, ids of rows or keys, as text.
    """

    code: str
    column: str | None
    rows: int
    message: str
    examples: tuple[str, ...] = ()


def find(url: str | sa.URL) -> list[Misfit]:
    """Return what does not fit; nothing for a database without our tables.

    Raises:
        DatabaseUnavailableError: The server does not answer, or refuses this user or database.
    """
    engine = database.make_engine(url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = 0")
            return list(_find(connection))
    except sa.exc.OperationalError as error:
        raise DatabaseUnavailableError(database.address(url), database.first_line(error)) from error
    finally:
        engine.dispose()


def _find(connection: sa.Connection) -> Iterator[Misfit]:
    if schema.revision(connection) is None:
        for step in adoption.plan(connection):
            yield Misfit("OLD_TABLE", None, 0, f"{step.why}: `bulk-upload db upgrade` does this")
    found = obstacles.find(connection)
    if schema.revision(connection) == schema.head():
        named = {obstacle.column for obstacle in found if obstacle.column}
        found += [obstacle for obstacle in lost.find(connection) if obstacle.column not in named]
    for obstacle in found:
        said = f"nothing can be loaded as long as {obstacle.message}"
        yield Misfit("IN_THE_WAY", obstacle.column, 0, said)
    there = adoption.columns(connection, _TARGET)
    if not there:
        return
    if set(contract.IDENTITY) <= set(there):  # the key goes with a column that is called otherwise
        yield from _key(connection)
    usable = set(there) - {obstacle.column for obstacle in found}
    known = [column for column in contract.COLUMNS if column.name in usable]
    yield from _types(there, known)
    if {"id", "upload_batch_id", *contract.IDENTITY[:-1]} <= usable:
        yield from _shared_keys(connection)
    if known and "id" in there:
        yield from _rules(connection, known)


def _key(connection: sa.Connection) -> Iterator[Misfit]:
    if schema.revision(connection) == schema.head() and not target.identity_is_kept(connection.engine):
        yield Misfit("NO_KEY", None, 0, f"a line that is loaded again is doubled: {lost.KEY}")


def _types(there: dict[str, adoption.Column], known: list[contract.Column]) -> Iterator[Misfit]:
    for column in known:
        found, wanted = there[column.name], contract.sql_type(column)
        if found.type != wanted:
            said = f"it is {found.type}, in the contract {wanted}; what it cannot hold is refused row by row"
            yield Misfit("OTHER_TYPE", column.name, 0, said)
        if found.required:
            yield Misfit("NOT_NULL", column.name, 0, "rows without it are refused, whatever a profile says")


def _shared_keys(connection: sa.Connection) -> Iterator[Misfit]:
    """Yield the rows that the old key took for different because a part of it is absent."""
    query = sa.text(
        f"SELECT sum(count), count(*), (array_agg(shown ORDER BY first))[1:{EXAMPLES}] FROM ("  # noqa: S608
        "SELECT count(*) AS count, min(id) AS first, "
        f"concat_ws(' / ', invoice_number, product_id, sku) || ': ids ' || "
        f"array_to_string((array_agg(id ORDER BY id))[1:{EXAMPLES}], ', ') AS shown "
        f"FROM {_TARGET} GROUP BY {_OLD_KEY} "
        "HAVING count(*) > 1 AND (count(DISTINCT upload_batch_id) <> 1 "
        "OR num_nulls(invoice_number, product_id, sku) > 0)) AS shared"
    )
    found: Any = connection.execute(query).one()
    rows, keys, examples = found
    if rows:
        yield Misfit(
            "SHARED_KEY",
            None,
            int(rows),
            f"they share {keys:,} keys of number, product and SKU, and are told apart by their number "
            f"(line_occurrence) only: lines of one product, or one line that was uploaded more than once",
            tuple(examples),
        )


def _rules(connection: sa.Connection, known: list[contract.Column]) -> Iterator[Misfit]:
    """Yield what breaks a rule of the contract; one pass over the rows for all of them."""
    rules = [rule for column in known for rule in _rules_of(column)]
    if len(known) == len(contract.COLUMNS):
        rules += _RULES_BETWEEN
    found: Any = connection.execute(sa.text(_tally([rule.condition for rule in rules]))).one()
    for position, rule in enumerate(rules):
        rows, examples = found[2 * position : 2 * position + 2]
        if rows:
            shown = tuple(f"id {row}" for row in examples)
            yield Misfit(rule.code, rule.column, rows, rule.message, shown)


def _tally(conditions: list[str]) -> str:
    counts = ", ".join(
        f"count(*) FILTER (WHERE {condition}), "
        f"(array_agg(id ORDER BY id) FILTER (WHERE {condition}))[1:{EXAMPLES}]"
        for condition in conditions
    )
    return f"SELECT {counts} FROM {_TARGET}"  # noqa: S608 - names of the contract


@dataclass(frozen=True, slots=True)
class _Rule:
    """A finding that a row has where a condition in SQL holds."""

    code: str
    column: str | None
    condition: str
    message: str


def _rules_of(column: contract.Column) -> Iterator[_Rule]:
    name = column.name
    if column.required:
        yield _Rule("MISSING_VALUE", name, f"{name} IS NULL", "it is required, and absent")
    if column.limit is not None:
        long = f"length({name}::text) > {column.limit}"
        yield _Rule("TEXT_TOO_LONG", name, long, f"it is longer than {column.limit:,} characters")
    if column.identifier:
        yield _Rule("ROUNDED_IDENTIFIER", name, f"{name} ~ '{ROUNDED}'", "its last digits are gone")
    if column.kind is contract.Kind.AMOUNT:
        odd = f"{name}::text IN ('NaN', 'Infinity', '-Infinity')"
        yield _Rule("NOT_A_NUMBER", name, odd, "it is no figure that a file could state")
    if name == "invoice_date":
        early, late = f"{name} < '{EARLIEST_INVOICE}'", f"{name} > CURRENT_DATE + {LATEST_INVOICE.days}"
        yield _Rule("DATE_TOO_EARLY", name, early, f"it is before {EARLIEST_INVOICE}")
        yield _Rule("DATE_IN_FUTURE", name, late, "it is more than a year ahead")
    if name == "quantity":
        yield _Rule("ZERO_QUANTITY", name, f"{name} = 0", "a line of nothing")


_RULES_BETWEEN = (
    _Rule(
        "MISSING_ITEM",
        None,
        " AND ".join(f"{name} IS NULL" for name in contract.ITEM_COLUMNS),
        "nothing says what was sold",
    ),
    _Rule(
        "TOTAL_MISMATCH",
        "item_total",
        # As in `rules`: as is, or less the discount, an amount or a percentage. NULLs are not the least.
        "least(abs(quantity * item_price - item_total), "
        "abs(quantity * item_price - discount - item_total), "
        "abs(quantity * item_price - discount_amount - item_total), "
        "abs(quantity * item_price * (1 - discount / 100) - item_total)) > 0.01 + 0.005 * abs(quantity) "
        "AND quantity <> 0",
        "it is not quantity times price, nor that less the discount",
    ),
)
