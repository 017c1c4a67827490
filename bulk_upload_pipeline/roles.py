"""Who may do what in PostgreSQL, when the server is shared: one role for each of four kinds of work.

The owner changes tables, the loader loads files, the reader reads, and Dagster has a database of its own that
none of the others can enter. So a fault in the code that reads strangers' files cannot drop a table, and a
dashboard cannot change a figure.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
import sqlalchemy as sa
from psycopg2 import sql
from psycopg2.extensions import encrypt_password
from sqlalchemy.exc import OperationalError

from bulk_upload_pipeline import database
from bulk_upload_pipeline.exceptions import DatabaseUnavailableError, ProvisionRefusedError
from bulk_upload_pipeline.local import DAGSTER, INVOICES
from bulk_upload_pipeline.settings import ADMIN_DATABASE_URL
from bulk_upload_pipeline.tables import SCHEMA
from bulk_upload_pipeline.upgrade import upgrade
from bulk_upload_pipeline.upgrading.rights import GRANTS, LOADED, LOADER, READER

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg2.extensions import cursor as Cursor

OWNER, DAGSTER_ROLE = "bulk_upload_owner", "bulk_upload_dagster"

SUMMARY = "invoice_summary"
"""The view that dashboards read."""


@dataclass(frozen=True, slots=True, repr=False)
class Passwords:
    """The passwords of the roles."""

    owner: str
    loader: str
    reader: str
    dagster: str

    def by_role(self) -> dict[str, str]:
        """Return the password of each role."""
        return {OWNER: self.owner, LOADER: self.loader, READER: self.reader, DAGSTER_ROLE: self.dagster}


def provision(
    admin_url: str | sa.URL, passwords: Passwords, *, on_step: Callable[[str], object] = lambda why: None
) -> None:
    """Make the roles and databases, bring the tables up to date, and let each role do its own work.

    Safe to repeat: passwords are set to those that are given, and what later versions add is granted.

    Args:
        admin_url: Of any database on the server, as a role that may create roles and databases.
        passwords: Of the roles.
        on_step: Told what each step does, before it is done.

    Raises:
        DatabaseUnavailableError: The server does not answer, or does not let this role create databases.
        ProvisionRefusedError: It does not let this role do something else.
        BulkUploadError: The tables cannot be brought up to date; see `upgrade.upgrade`.
    """
    admin = database.normalised_url(admin_url, ADMIN_DATABASE_URL)
    on_step("Roles and databases are made")
    with _session(admin) as cursor:
        by_code_point = _knows_builtin_locales(cursor)
    for name in (INVOICES, DAGSTER):
        database.create_database_if_absent(admin.set(database=name), owned=by_code_point)
    with _session(admin) as cursor:
        for role, password in passwords.by_role().items():
            _make_role(cursor, role, password)
        _act_for(cursor, OWNER, DAGSTER_ROLE)
        _own_database(cursor, INVOICES, OWNER)
        _own_database(cursor, DAGSTER, DAGSTER_ROLE)
        _run(cursor, "GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}", INVOICES, LOADER)
        _run(cursor, "GRANT CONNECT ON DATABASE {} TO {}", INVOICES, READER)
    with _session(admin.set(database=INVOICES)) as cursor:
        _own_tables(cursor)
    invoices = admin.set(database=INVOICES, username=OWNER, password=passwords.owner)
    upgrade(invoices, on_step=on_step)
    on_step("The roles are allowed what they need")
    with _session(invoices) as cursor:
        _grant(cursor)
    with _session(admin.set(database=INVOICES)) as cursor:
        _let_read(cursor)


def _knows_builtin_locales(cursor: Cursor) -> bool:
    """Return whether text can be compared by code point with all letters known: from PostgreSQL 17 on."""
    return cursor.connection.server_version >= 170_000


@contextmanager
def _session(url: sa.URL) -> Generator[Cursor]:
    """Yield a cursor whose statements take effect one by one."""
    engine = database.make_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            try:
                yield connection.connection.cursor()
            except psycopg2.Error:
                connection.invalidate()  # it may be closed, and nothing in it is worth a rollback
                raise
    except OperationalError as error:
        raise DatabaseUnavailableError(database.address(url), database.first_line(error)) from error
    except psycopg2.Error as error:
        is_away = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        told = DatabaseUnavailableError if is_away else ProvisionRefusedError
        raise told(database.address(url), str(error).partition("\n")[0]) from error
    finally:
        engine.dispose()


def _run(cursor: Cursor, statement: str, *names: str) -> None:
    cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _make_role(cursor: Cursor, role: str, password: str) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
    if cursor.fetchone() is None:
        _run(cursor, "CREATE ROLE {} NOSUPERUSER NOCREATEDB NOCREATEROLE", role)
    # Hashed here, so that no log of the server shows it.
    hashed = encrypt_password(password, role, cursor.connection, "scram-sha-256")
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(hashed))
    cursor.execute(statement)


def _act_for(cursor: Cursor, *roles: str) -> None:
    """Let whoever provisions hand things over to roles, and see to what is theirs: a superuser may anyway."""
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    if cursor.fetchone() != (True,):
        for role in roles:
            _run(cursor, "GRANT {} TO CURRENT_USER", role)


def _own_database(cursor: Cursor, name: str, owner: str) -> None:
    _run(cursor, "ALTER DATABASE {} OWNER TO {}", name, owner)
    _run(cursor, "REVOKE ALL ON DATABASE {} FROM PUBLIC", name)


def _own_tables(cursor: Cursor) -> None:
    """Hand over what is there already, such as tables of the old system; who had it may go on reading it."""
    _run(cursor, "CREATE SCHEMA IF NOT EXISTS {}", SCHEMA)
    _run(cursor, "ALTER SCHEMA {} OWNER TO {}", SCHEMA, OWNER)
    _run(cursor, "GRANT USAGE, CREATE ON SCHEMA public TO {}", OWNER)
    cursor.execute(
        "SELECT schemaname, tablename, tableowner FROM pg_tables WHERE tableowner <> %(owner)s "
        "AND (schemaname = %(schema)s OR schemaname = 'public' AND tablename = ANY (%(loaded)s))",
        {"owner": OWNER, "schema": SCHEMA, "loaded": list(LOADED)},
    )
    for schema, table, former_owner in cursor.fetchall():
        _run(cursor, "ALTER TABLE {}.{} OWNER TO {}", schema, table, OWNER)
        # A view reads with its owner's rights.
        _run(cursor, "GRANT SELECT ON {}.{} TO {}", schema, table, former_owner)


def _grant(cursor: Cursor) -> None:
    for role in (LOADER, READER):
        _run(cursor, "GRANT USAGE ON SCHEMA public, {} TO {}", SCHEMA, role)
    cursor.execute(GRANTS)


def _let_read(cursor: Cursor) -> None:
    """Let the reader read what is ours in `public`, the view of an old system's owner included."""
    cursor.execute(
        "SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE nspname = 'public' AND relname = ANY (%(read)s) AND pg_has_role(relowner, 'USAGE')",
        {"read": [*LOADED, SUMMARY]},
    )
    for table in cursor.fetchall():
        _run(cursor, "GRANT SELECT ON {}.{} TO {}", *table, READER)
