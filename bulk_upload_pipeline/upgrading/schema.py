"""The schema of the database: which revision it has, and how it is brought up to date."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

import bulk_upload_pipeline
from bulk_upload_pipeline.database import (
    CONNECTION,
    INSUFFICIENT_PRIVILEGE,
    READ_ONLY,
    address,
    first_line,
    normalised_url,
    sqlstate,
)
from bulk_upload_pipeline.exceptions import (
    AdoptionRefusedError,
    BulkUploadError,
    DatabaseEncodingError,
    DatabaseTooNewError,
    DatabaseTooOldError,
    DatabaseUnavailableError,
    OldDatabaseError,
    UpgradeForbiddenError,
)
from bulk_upload_pipeline.holding import make_sure_that_locks_hold
from bulk_upload_pipeline.patience import patiently
from bulk_upload_pipeline.tables import SCHEMA
from bulk_upload_pipeline.upgrading import adoption, obstacles, rights

if TYPE_CHECKING:
    from alembic.config import Config

OLDEST_SERVER = 15
"""UNIQUE NULLS NOT DISTINCT, which the identity of a line needs, came with PostgreSQL 15."""

ENCODING = "UTF8"
"""Of any other, a database refuses letters that stand in invoices, or takes them for single bytes."""

_MIGRATIONS = Path(bulk_upload_pipeline.__file__).parent / "migrations" / "versions"


def migrate(url: str | sa.URL) -> None:
    """Bring the schema up to date; safe to repeat, and to do from two processes at once.

    Each migration of tables that are in use is a transaction of its own: what one locks is free while the next works.

    Raises:
        DatabaseUnavailableError: The server does not answer, or refuses this user or database.
        DatabaseTooOldError: The server is older than PostgreSQL 15.
        DatabaseEncodingError: The database keeps text in another encoding than UTF-8.
        LocksLostError: A pooler between gives each transaction another session.
        DatabaseTooNewError: A newer version of this package has migrated it already.
        OldDatabaseError: It is one of the old system; `upgrade.upgrade` moves it over.
        DatabaseBusyError: Somebody holds a table for longer than we wait.
        UpgradeForbiddenError: It is out of date, and this user may not change it.
        AdoptionRefusedError: PostgreSQL refuses a migration; nothing of that one is done.
    """
    engine = sa.create_engine(normalised_url(url), connect_args=CONNECTION, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            check_server(connection, address(url))
            known = revision(connection)
        make_sure_that_locks_hold(engine)
        if known == head():
            return
        reached = None
        while reached != head():
            reached = patiently(engine, address(url), lambda connection: _upgrade(connection, address(url)))
    except OperationalError as error:
        raise DatabaseUnavailableError(address(url), first_line(error)) from error
    except DBAPIError as error:
        raise refusal(error, address(url), "its migrations") from error


def refusal(error: DBAPIError, shown: str, step: str) -> BulkUploadError:
    """Return what it comes to that PostgreSQL refuses a step of an upgrade, with the detail that names the culprit."""
    if sqlstate(error) in (INSUFFICIENT_PRIVILEGE, READ_ONLY):
        return UpgradeForbiddenError(shown, first_line(error))
    detail = error.orig.diag.message_detail if isinstance(error.orig, psycopg2.Error) else None
    cause = first_line(error) + (f" ({detail.splitlines()[0]})" if detail else "")
    return AdoptionRefusedError(shown, step, cause)


def check_server(connection: sa.Connection, shown: str) -> None:
    """Look whether a database can hold what we need, before anything in it is changed.

    Raises:
        DatabaseTooOldError: The server is older than PostgreSQL 15.
        DatabaseEncodingError: It keeps text in another encoding than UTF-8.
    """
    asked = ("server_version_num", "server_version", "server_encoding")
    settings = sa.select(*(sa.func.current_setting(name) for name in asked))
    found: Any = connection.execute(settings).one()
    number, version, encoding = found
    if int(number) < OLDEST_SERVER * 10_000:
        raise DatabaseTooOldError(shown, version)
    if encoding != ENCODING:
        raise DatabaseEncodingError(shown, encoding)


def _upgrade(connection: sa.Connection, shown: str) -> str:
    """Run Alembic in the caller's transaction, so that a failed migration leaves nothing behind; return how far."""
    from alembic import command

    _wait_for_others(connection)
    known = known_revision(connection, shown)
    if known == head():
        return known
    if known is None and (adoption.plan(connection) or obstacles.find(connection)):
        raise OldDatabaseError(shown)
    connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
    reached = next(after for _, after in ways(known))
    command.upgrade(migration_config(connection), reached)
    connection.exec_driver_sql(rights.GRANTS, execution_options={"no_parameters": True})
    return reached


def _wait_for_others(connection: sa.Connection) -> None:
    """Wait until no other process migrates, for as long as that takes: nobody has to wait behind one who waits here."""
    limit = connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))
    set_limit = sa.text("SELECT set_config('lock_timeout', :limit, true)")
    connection.execute(set_limit, {"limit": "0"})
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('bulk_upload.migrate', 0))"))
    connection.execute(set_limit, {"limit": limit})


def ways(known: str | None) -> list[tuple[str | None, str]]:
    """Return from which revision to which each transaction leads: a new schema is in nobody's way, and made in one."""
    if known is None:
        return [(None, head())]
    return list(pairwise([known, *(each for each in _revisions() if each > known)]))


def migration_config(connection: sa.Connection) -> Config:
    """Return Alembic's configuration, which lives in code: a file would have to be found first."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "bulk_upload_pipeline:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def revision(connection: sa.Connection) -> str | None:
    """Return the revision of the schema, without the import of Alembic that every run would pay for."""
    table = f"{SCHEMA}.alembic_version"
    if connection.scalar(sa.text("SELECT to_regclass(:table)"), {"table": table}) is None:
        return None
    return connection.scalar(sa.text(f"SELECT version_num FROM {table}"))  # noqa: S608 - a constant


def known_revision(connection: sa.Connection, shown: str) -> str | None:
    """Return the revision of a schema that this version knows.

    Raises:
        DatabaseTooNewError: A newer version of this package has migrated it already.
    """
    known = revision(connection)
    if known is not None and known > head():
        raise DatabaseTooNewError(shown, known, head())
    return known


def head() -> str:
    """Return the newest revision: revisions are numbered, and their files are named after them."""
    return _revisions()[-1]


def _revisions() -> list[str]:
    return sorted(path.name.partition("_")[0] for path in _MIGRATIONS.glob("[0-9]*.py"))
