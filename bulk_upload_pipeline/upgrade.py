"""Bringing a database up to date, one of the old system included, or saying in SQL what that would be."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from bulk_upload_pipeline import database
from bulk_upload_pipeline.exceptions import DatabaseUnavailableError, InTheWayError
from bulk_upload_pipeline.patience import in_peace, patiently
from bulk_upload_pipeline.tables import SCHEMA
from bulk_upload_pipeline.upgrading import adoption, obstacles, rights, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_WAIT_FOR_EVER = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout')
"""
"""Another upgrade takes as long as it takes. Limits are set aside that the server knows."""

_DONE = "bulk_upload.steps_done"
"""A setting of the session in which psql runs the script: how many of its steps are done."""

_REFUSE_AFTER_FAILURE = f"""DO $$ BEGIN
    IF current_setting('{_DONE}') <> '{{}}' THEN
        RAISE EXCEPTION 'A step before this one has failed, so that it is not done. Print the SQL anew, and run that.';
    END IF;
END $$"""


def upgrade(url: str | sa.URL, *, on_step: Callable[[str], object] = lambda why: None) -> None:
    """Make the tables of the old system ours, where there are any, and run the migrations.

    Safe to repeat, to do from two processes at once, and to kill: it goes on with the step that it was at.

    Args:
        url: The database.
        on_step: Told what each step does, before it is done.

    Raises:
        InTheWayError: A table of the old system has what no upgrade can make fit; nothing is changed.
        AdoptionRefusedError: A table of the old system cannot be changed as it must be.
        UpgradeForbiddenError: This user may not change it, or nobody may at the moment.
        DatabaseBusyError: Somebody holds a table for longer than we wait.
        DatabaseTooOldError: The server is older than PostgreSQL 15.
        DatabaseEncodingError: The database keeps text in another encoding than UTF-8.
        DatabaseUnavailableError: The server does not answer, or refuses this user or database.
    """
    engine = database.make_engine(url)
    shown = database.address(url)
    try:
        with engine.connect() as holder:
            holder.exec_driver_sql(_WAIT_FOR_EVER)
            holder.commit()
            # Ends with the connection, however this process ends.
            holder.execute(sa.text("SELECT pg_advisory_lock(hashtextextended('bulk_upload.upgrade', 0))"))
            schema.check_server(holder, shown)
            holder.commit()
            _adopt(engine, shown, on_step)
            schema.migrate(url)
    except sa.exc.OperationalError as error:
        raise DatabaseUnavailableError(shown, database.first_line(error)) from error
    finally:
        engine.dispose()


def _adopt(engine: sa.Engine, shown: str, on_step: Callable[[str], object]) -> None:
    with engine.connect() as connection:
        steps = [] if schema.revision(connection) else _plan(connection, shown)
    for step in steps:
        on_step(step.why)
        try:
            patiently(engine, shown, lambda connection, step=step: _run(connection, step))  # type: ignore[misc]
        except DBAPIError as error:
            if isinstance(error, sa.exc.OperationalError):
                raise
            raise schema.refusal(error, shown, step.why) from error


def _plan(connection: sa.Connection, shown: str) -> list[adoption.Step]:
    if found := obstacles.find(connection):
        raise InTheWayError(shown, [obstacle.message for obstacle in found])
    return adoption.plan(connection)


def _run(connection: sa.Connection, step: adoption.Step) -> None:
    for statement in step.statements:
        # Names of others may hold a percent sign, which the driver would take for a placeholder.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def script(url: str | sa.URL) -> str:
    """Return the SQL that `upgrade` would run, for psql; nothing is changed, and nobody waits.

    Raises:
        InTheWayError: A table of the old system has what no upgrade can make fit.
        DatabaseTooNewError: A newer version of this package has migrated it already.
        DatabaseUnavailableError: The server does not answer, or refuses this user or database.
    """
    engine = database.make_engine(url)
    try:
        with engine.connect() as connection:
            return _script(connection, database.address(url))
    except sa.exc.OperationalError as error:
        raise DatabaseUnavailableError(database.address(url), database.first_line(error)) from error
    finally:
        engine.dispose()


def _script(connection: sa.Connection, shown: str) -> str:
    known = schema.known_revision(connection, shown)
    if known == schema.head():
        return "-- The database is up to date.\n"
    steps = [] if known else _plan(connection, shown)
    parts = [_transaction(number, step.why, step.statements) for number, step in enumerate(steps)]
    for number, (before, after) in enumerate(schema.ways(known), start=len(steps)):
        why = f"Migration {after}" if before else "The migrations from the first on"
        parts.append(_transaction(number, why, _migrations(connection, before, after)))
    return "\n".join([f"SET {_DONE} = '0';\n", *parts])


def _transaction(number: int, why: str, statements: Iterable[str]) -> str:
    """Return a step for psql, which goes on when one has failed: none is done unless all before it are."""
    begin = (*in_peace(), _REFUSE_AFTER_FAILURE.format(number)) if number else in_peace()
    # In the transaction, and undone with it.
    told = "".join(f"{statement};\n" for statement in (*begin, *statements, f"SET {_DONE} = '{number + 1}'"))
    return f"-- {why}\nBEGIN;\n{told}COMMIT;\n"


def _migrations(connection: sa.Connection, before: str | None, after: str) -> tuple[str, ...]:
    from alembic import command

    config = schema.migration_config(connection)
    config.output_buffer = text = io.StringIO()
    with redirect_stdout(text):
        command.upgrade(config, f"{before}:{after}" if before else after, sql=True)
    within = text.getvalue().strip().removeprefix("BEGIN;").removesuffix("COMMIT;").strip().removesuffix(";")
    created = str(sa.schema.CreateSchema(SCHEMA, if_not_exists=True).compile(connection))
    return *(() if before else (created,)), within, rights.GRANTS
