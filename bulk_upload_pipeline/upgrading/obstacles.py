"""What nothing can be loaded into, whatever is added to it: only whoever made it can say what it shall become."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.tables import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TARGET = f"public.{contract.TARGET}"
_BESIDE = ("public.daily_sales", f"{SCHEMA}.upload_batches", f"{SCHEMA}.processing_errors")
_KINDS = {"v": "a view", "m": "a materialized view", "p": "a partitioned table", "f": "a foreign table"}

FRESH_S = 5.0
"""So long a table that has fitted is taken to fit: of small files ten are loaded in this time."""

_fitted: WeakKeyDictionary[sa.Engine, float] = WeakKeyDictionary()

_INTEGER, _TIME = r"integer|bigint", r"timestamp.*"
_OURS = {
    "id": ("bigint", _INTEGER),
    "row_number": ("integer", _INTEGER),
    "line_occurrence": ("integer", _INTEGER),
    "extra": ("jsonb", "jsonb"),
    "upload_batch_id": ("varchar(100)", r"text|character varying(\([1-9]\d\d+\))?"),
    "created_at": ("timestamptz", _TIME),
    "updated_at": ("timestamptz", _TIME),
}
"""The loader's own columns: the type to make of one, and which are as good."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that keeps rows out of a table; `column` is None when it concerns the table."""

    column: str | None
    message: str


@dataclass(frozen=True, slots=True)
class _Found:
    type: str
    category: str
    is_computed: bool


def in_the_way(engine: sa.Engine) -> Obstacle | None:
    """Return something that keeps rows out of the target now, None where nothing does or did moments ago.

    What somebody has made of another table, a view of `daily_sales` say, is for the next upgrade to tell.
    """
    if time.monotonic() - _fitted.get(engine, -math.inf) < FRESH_S:
        return None
    with asking(engine) as connection:
        found = next(iter(_of_target(connection)), None)
    if found is None:
        _fitted[engine] = time.monotonic()
    return found


def find(connection: sa.Connection) -> list[Obstacle]:
    """Return what is in the way; only the catalogue is read."""
    return [*_of_target(connection), *_no_tables(connection, _BESIDE)]


def _of_target(connection: sa.Connection) -> list[Obstacle]:
    """Return what keeps rows out of the target; of what is no table nothing else is told."""
    if found := [*_no_tables(connection, [_TARGET])]:
        return found
    return [*_columns(_columns_of(connection)), *_rules(connection), *_row_security(connection)]


def _no_tables(connection: sa.Connection, names: Sequence[str]) -> Iterator[Obstacle]:
    query = sa.text(
        "SELECT name, relkind::text FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named (name, at) "
        "JOIN pg_class AS c ON c.oid = to_regclass(name) WHERE relkind <> 'r' ORDER BY at"
    )
    found: list[Any] = list(connection.execute(query, {"names": list(names)}))
    for name, kind in found:
        said = _KINDS.get(kind, "no table")
        yield Obstacle(None, f"{name} is {said}, and rows can be loaded into an ordinary table only")


def _columns_of(connection: sa.Connection) -> dict[str, _Found]:
    """Return the columns of the target; of a domain, what is below it."""
    query = sa.text(
        "SELECT attname::text, format_type(CASE typtype WHEN 'd' THEN typbasetype ELSE t.oid END, "
        "CASE typtype WHEN 'd' THEN typtypmod ELSE atttypmod END), typcategory::text, attgenerated <> '' "
        "FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid "
        "WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    rows: list[Any] = list(connection.execute(query, {"table": _TARGET}))
    return {name: _Found(*found) for name, *found in rows}


def _columns(there: dict[str, _Found]) -> Iterator[Obstacle]:
    for column in contract.COLUMNS if there else ():
        if column.name in there:
            wanted = contract.sql_type(column)
            yield from _unfit(column.name, there[column.name], wanted, _holds(column, there[column.name]))
        else:
            yield from _misspelt(column.name, there)
    for name, (wanted, fitting) in _OURS.items():
        if name in there:
            yield from _unfit(name, there[name], wanted, bool(re.fullmatch(fitting, there[name].type)))


def _holds(column: contract.Column, found: _Found) -> bool:
    """Return whether a column takes what we write to it: exactly, or by refusing a row."""
    if column.kind is contract.Kind.TEXT:
        return found.category == "S"
    if column.kind is contract.Kind.DATE:
        return found.type == "date"
    scaled = re.fullmatch(r"numeric(?:\(\d+,(-?\d+)\))?", found.type)
    return bool(scaled) and int(scaled[1] or contract.AMOUNT_DECIMALS) >= contract.AMOUNT_DECIMALS  # type: ignore[index]


def _unfit(name: str, found: _Found, wanted: str, fits: bool) -> Iterator[Obstacle]:
    alter = f"`ALTER TABLE {_TARGET} ALTER COLUMN {name}"
    if found.is_computed:
        yield Obstacle(
            name, f"{name} is computed from other columns: {alter} DROP EXPRESSION` makes it one to load"
        )
    if not fits:
        yield Obstacle(
            name,
            f"{name} is {found.type}, which does not hold exactly what files say: {alter} TYPE {wanted} ...` (views "
            "that show it have to be dropped before, and made again)",
        )


def _misspelt(name: str, there: dict[str, _Found]) -> Iterator[Obstacle]:
    for other in there:
        if re.sub(r"\W|_", "", other.lower()) == name.replace("_", ""):
            quoted = '"' + other.replace('"', '""') + '"'
            yield Obstacle(
                name, f"{name} is called {quoted}: `ALTER TABLE {_TARGET} RENAME COLUMN {quoted} TO {name}`"
            )


def _rules(connection: sa.Connection) -> Iterator[Obstacle]:
    query = sa.text("SELECT rulename FROM pg_rewrite WHERE ev_class = to_regclass(:table) ORDER BY 1")
    for rule in connection.scalars(query, {"table": _TARGET}):
        yield Obstacle(
            None, f"rule {rule} on {_TARGET} changes what statements do: make it a trigger, or drop it"
        )


def _row_security(connection: sa.Connection) -> Iterator[Obstacle]:
    """Yield that PostgreSQL copies nothing into the table for this role, which may see a part of its rows only."""
    query = sa.text("SELECT quote_ident(current_user) WHERE row_security_active(to_regclass(:table))")
    for role in connection.scalars(query, {"table": _TARGET}):
        yield Obstacle(
            None,
            f"row level security of {_TARGET} holds for role {role}: `ALTER ROLE {role} BYPASSRLS`, or load as the "
            "owner of the table",
        )
