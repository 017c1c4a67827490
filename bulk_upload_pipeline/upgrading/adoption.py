"""A database of the system that this one replaces, and how it becomes ours with every row it has.

Its tables are brought to the form in which the first migration would have made them; the migrations then go
on as anywhere. Nothing is dropped but the old key, which takes two lines of one product in an invoice for
one. Types stay as they are, since views stand on them; columns, views and triggers of others stay, too.

Each step is a transaction of its own, and the plan is made from what the database looks like, so that an
upgrade that was killed goes on where it stopped. Readers wait for milliseconds at most: the long work
(numbering, building the key) holds a lock that only writers wait for. Indexes are not built concurrently
for that reason: it would spare the old system's writers a second for each million rows, but leave invalid
indexes behind when it is killed, and let doubled rows in while it builds the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline.contract import IDENTITY, TABLE, TARGET
from bulk_upload_pipeline.tables import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_TARGET = TABLE
_ERRORS = f"{SCHEMA}.processing_errors"
_KEY = f"{TARGET}_identity"
_OLD_KEY = IDENTITY[:-1]
_UPDATE_EVENT = 16
"""The bit of `pg_trigger.tgtype` that stands for UPDATE."""
_ENABLED = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}

_NUMBER = f"""UPDATE {_TARGET} AS line SET line_occurrence = numbered.occurrence
FROM (
    SELECT id, row_number() OVER (PARTITION BY {", ".join(_OLD_KEY)} ORDER BY id) AS occurrence
    FROM {_TARGET}
) AS numbered
WHERE line.id = numbered.id AND line.line_occurrence IS DISTINCT FROM numbered.occurrence"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Step:
    """Statements that belong into one transaction, and what they are for."""

    why: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it is: its type as PostgreSQL writes it, with `varchar` for short."""

    type: str
    required: bool
    default: str | None
    category: str


def plan(connection: sa.Connection) -> list[Step]:
    """Return the steps that are left until the tables are ours; none for a database that is, or is empty.

    Only the catalogue is read, and the largest id: no lock that anybody waits for.
    """
    return [step for step in (*_target_steps(connection), *_error_steps(connection)) if step.statements]


def _target_steps(connection: sa.Connection) -> Iterator[Step]:
    there = columns(connection, _TARGET)
    if not there:
        return
    first = _first_migration()
    ours = _declared(first.TARGET)
    missing = {name: made for name, made in ours.items() if name not in there}
    # Of others' columns the loader knows nothing, and must be able to leave them empty.
    foreign = _unfillable(there, ours)
    yield _altered(
        _TARGET,
        f"{_TARGET} gets the columns that it lacks",
        [
            *(f"ADD COLUMN {name} {made}" for name, made in missing.items()),
            *map(_relaxed, foreign),
            *(made for name, column in there.items() for made in _default(name, column, ours.get(name))),
        ],
    )
    yield _numbered(connection, _TARGET, there)
    yield Step("Indexes that exist under another name are not built again", _renamed(connection, first))
    yield from _key_steps(connection)


def _key_steps(connection: sa.Connection) -> Iterator[Step]:
    has_key, has_index = _key_state(connection)
    if not (has_key or has_index):
        yield Step(
            "Rows that share number, product and SKU are numbered in the order of their id, and the key is "
            "built; triggers of others do not see it",
            (
                f"LOCK TABLE {_TARGET} IN SHARE ROW EXCLUSIVE MODE",
                *_without_triggers(connection, _TARGET, _NUMBER),
                f"CREATE UNIQUE INDEX {_KEY} ON {_TARGET} ({', '.join(IDENTITY)}) NULLS NOT DISTINCT",
            ),
        )
    changes = [] if has_key else [f"ADD CONSTRAINT {_KEY} UNIQUE USING INDEX {_KEY}"]
    old_constraints, old_indexes = _old_keys(connection)
    changes += [f"DROP CONSTRAINT {name}" for name in old_constraints]
    swap = _altered(_TARGET, "The key replaces the old one, which knew no second line of a product", changes)
    yield Step(swap.why, (*swap.statements, *(f"DROP INDEX public.{name}" for name in old_indexes)))


def _numbered(connection: sa.Connection, table: str, there: dict[str, Column]) -> Step:
    """Give each new row an id of its own: what was copied by hand has lost its key, its numbers, or their count."""
    if "id" not in there or there["id"].type not in ("integer", "bigint"):
        return Step("", ())
    changes = [] if _is_unique(connection, table) else [f"ADD {_key_of_ids(connection, table)} (id)"]
    count = connection.scalar(sa.text(f"SELECT quote_literal({_COUNT.format(table)})"))
    has_numbers = there["id"].default is not None
    if not has_numbers:
        numbers = f"SET DEFAULT nextval({count})" if count else "ADD GENERATED BY DEFAULT AS IDENTITY"
        changes += ["ALTER COLUMN id SET NOT NULL", f"ALTER COLUMN id {numbers}"]
    is_behind = connection.scalar(sa.text(f"SELECT EXISTS (SELECT {_BEHIND.format(table)})"))
    catch_up = f"SELECT setval({_COUNT.format(table)}, max(id)) {_BEHIND.format(table)}"
    why = f"New rows of {table} get ids that no other row has"
    return Step(
        why,
        (*_altered(table, "", changes).statements, *((catch_up,) if is_behind or not has_numbers else ())),
    )


_COUNT = "pg_get_serial_sequence('{0}', 'id')"
_BEHIND = (
    f"FROM {{0}} HAVING {_COUNT} IS NOT NULL "
    f"AND max(id) > (SELECT coalesce(pg_sequence_last_value({_COUNT}), 0) WHERE {_COUNT} IS NOT NULL)"
)


def _is_unique(connection: sa.Connection, table: str) -> bool:
    """Return whether no two rows can have the same id."""
    query = sa.text(
        "SELECT EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] "
        "WHERE indrelid = to_regclass(:table) AND indisunique AND indisvalid AND indnatts = 1 "
        "AND indpred IS NULL AND attname = 'id')"
    )
    return bool(connection.scalar(query, {"table": table}))


def _key_of_ids(connection: sa.Connection, table: str) -> str:
    query = sa.text(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = to_regclass(:table) AND indisprimary)"
    )
    return "UNIQUE" if connection.scalar(query, {"table": table}) else "PRIMARY KEY"


def _error_steps(connection: sa.Connection) -> Iterator[Step]:
    there = columns(connection, _ERRORS)
    if not there:
        return
    wanted = _declared(_first_migration().PROCESSING_ERRORS)
    missing = {name: made for name, made in wanted.items() if name not in there}
    changes = [_added(name, made) for name, made in missing.items()]
    changes += map(_relaxed, _unfillable(there, wanted))
    for name, column in there.items():
        changes += _fitted(name, column, wanted.get(name))
    fills = _fills(missing, there)
    yield Step(
        f"{_ERRORS} gets the columns that it lacks, and can be written without those that only it has",
        (
            *_altered(_ERRORS, "", changes).statements,
            *(_without_triggers(connection, _ERRORS, fills) if fills else ()),
            *_altered(
                _ERRORS, "", [f"ALTER COLUMN {n} DROP DEFAULT" for n in missing if _bare(wanted[n])]
            ).statements,
        ),
    )


def _added(name: str, made: str) -> str:
    return f"ADD COLUMN {name} {made}" + (" DEFAULT 'unknown'" if _bare(made) else "")


def _bare(made: str) -> bool:
    """Return whether rows that are there already would lack a value for such a column."""
    return "NOT NULL" in made and "DEFAULT" not in made


def _fills(missing: dict[str, str], there: dict[str, Column]) -> str:
    """Return what gives the old findings their new columns' values: they are found under their job's id."""
    sources = {"batch_id": ("upload_job_id", "::text"), "detected_at": ("occurred_at", "")}
    sets = [
        f"{name} = coalesce({source}{cast}, {name})"
        for name, (source, cast) in sources.items()
        if name in missing and source in there
    ]
    return f"UPDATE {_ERRORS} SET {', '.join(sets)}" if sets else ""  # noqa: S608 - constants


def _fitted(name: str, column: Column, wanted: str | None) -> Iterator[str]:
    """Yield what lets a column that is there take what we write to it."""
    if wanted is None:
        return
    if column.required and "NOT NULL" not in wanted and "PRIMARY KEY" not in wanted:
        yield _relaxed(name)
    if _is_text(wanted) and _narrower(column.type, wanted.partition(" NOT")[0]):
        # An enumeration, or a text too short: ours is a text that views of the old system do not know.
        if column.default is not None and column.category == "E":
            yield f"ALTER COLUMN {name} DROP DEFAULT"
        yield f"ALTER COLUMN {name} TYPE text USING {name}::text"
    if column.default is None and name == "id" and column.type == "uuid":
        yield "ALTER COLUMN id SET DEFAULT gen_random_uuid()"
    yield from _default(name, column, wanted)


def _default(name: str, column: Column, wanted: str | None) -> Iterator[str]:
    if wanted and column.default is None and " DEFAULT " in wanted and "IDENTITY" not in wanted:
        yield f"ALTER COLUMN {name} SET DEFAULT {wanted.partition(' DEFAULT ')[2]}"


def _is_text(made: str) -> bool:
    return made.startswith(("text", "varchar"))


def _narrower(found: str, wanted: str) -> bool:
    """Return whether a type that is there may refuse a text of ours: by its length, or since it is no text."""
    lengths = [re.fullmatch(r"varchar\((\d+)\)", made) for made in (found, wanted)]
    if all(lengths):
        return int(lengths[0][1]) < int(lengths[1][1])  # type: ignore[index]
    return found not in ("text", "varchar")


def _relaxed(name: str) -> str:
    return f"ALTER COLUMN {name} DROP NOT NULL"


def _unfillable(there: dict[str, Column], ours: dict[str, str]) -> list[str]:
    return [n for n, c in there.items() if n not in ours and c.required and c.default is None]


def _altered(table: str, why: str, changes: list[str]) -> Step:
    return Step(why, (f"ALTER TABLE {table}\n    " + ",\n    ".join(changes),) if changes else ())


def _first_migration() -> ModuleType:
    """Return the module of the first migration: what it makes, and not what `tables` says by now."""
    return import_module("bulk_upload_pipeline.migrations.versions.0001_first_schema")


def _declared(create_table: str) -> dict[str, str]:
    """Return the columns of a statement of ours, in its order: what follows each name."""
    return dict(re.findall(r"^ {4}([a-z]\w*) (.+?),?$", create_table, re.MULTILINE))


def columns(connection: sa.Connection, table: str) -> dict[str, Column]:
    """Return the columns of an ordinary table, none when there is no such table; names are quoted."""
    query = sa.text(
        "SELECT quote_ident(attname), format_type(atttypid, atttypmod), attnotnull, "
        "coalesce(pg_get_expr(adbin, adrelid), nullif(attidentity::text, '')), typcategory::text "
        "FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type ON pg_type.oid = atttypid "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = to_regclass(:table) AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum"
    )
    rows: list[Any] = list(connection.execute(query, {"table": table}))
    return {
        name: Column(_short(kind), required, default, category)
        for name, kind, required, default, category in rows
    }


def _short(kind: str) -> str:
    return kind.replace("character varying", "varchar")


def _key_state(connection: sa.Connection) -> tuple[bool, bool]:
    """Return whether the key is a constraint, and whether its index is built."""
    query = sa.text(
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = :key AND conrelid = to_regclass(:table)), "
        "to_regclass('public.' || :key) IS NOT NULL"
    )
    row = connection.execute(query, {"key": _KEY, "table": _TARGET}).one()
    return row[0], row[1]


def _old_keys(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """Return the constraints and the lone indexes, by quoted name, that let a key stand only once."""
    query = sa.text(
        "SELECT quote_ident(relname), conname IS NOT NULL FROM pg_index "
        "JOIN pg_class ON pg_class.oid = indexrelid "
        "LEFT JOIN pg_constraint ON conindid = indexrelid AND contype = 'u' "
        "WHERE indrelid = to_regclass(:table) AND indisunique AND indpred IS NULL AND indexprs IS NULL "
        "AND (SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute "
        "WHERE attrelid = indrelid AND attnum = ANY (indkey)) = CAST(:columns AS text[])"
    )
    found: Any = connection.execute(query, {"table": _TARGET, "columns": sorted(_OLD_KEY)}).all()
    return [n for n, constraint in found if constraint], [n for n, constraint in found if not constraint]


def _renamed(connection: sa.Connection, first: ModuleType) -> tuple[str, ...]:
    query = sa.text(
        "SELECT substring(pg_get_indexdef(indexrelid) FROM 'USING .*'), quote_ident(relname), relname "
        "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = to_regclass(:table) AND NOT indisunique AND indisvalid ORDER BY indexrelid DESC"
    )
    found = {
        definition: (quoted, name)
        for definition, quoted, name in connection.execute(query, {"table": _TARGET})
    }
    renames = []
    for ours, place in first.INDEXES.items():
        table, _, columns = place.partition(" ")
        wanted = columns if columns.startswith("USING") else f"USING btree {columns}"
        if table == _TARGET and wanted in found and found[wanted][1] not in first.INDEXES:
            renames.append(f"ALTER INDEX public.{found[wanted][0]} RENAME TO {ours}")
    return tuple(renames)


def _without_triggers(connection: sa.Connection, table: str, statement: str) -> tuple[str, ...]:
    """Return `statement` between what puts the triggers of others aside and what sets them as they were.

    One might note every row as changed today, or refuse it. The lock that this takes keeps writers away,
    and with the transaction it all comes back as it was.
    """
    query = sa.text(
        "SELECT quote_ident(tgname), tgenabled::text FROM pg_trigger WHERE tgrelid = to_regclass(:table) "
        "AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & :update <> 0 ORDER BY tgname"
    )
    triggers: Any = connection.execute(query, {"table": table, "update": _UPDATE_EVENT}).all()
    return (
        *(f"ALTER TABLE {table} DISABLE TRIGGER {name}" for name, _ in triggers),
        statement,
        *(f"ALTER TABLE {table} {_ENABLED[state]} TRIGGER {name}" for name, state in triggers),
    )
