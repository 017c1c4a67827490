"""PostgreSQL: where it is, how it is reached, and which of its errors pass by themselves."""

from __future__ import annotations

import re
import select
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
import sqlalchemy as sa
from psycopg2.extensions import make_dsn
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InvalidatePoolError,
    OperationalError,
    ProgrammingError,
)

from bulk_upload_pipeline.exceptions import (
    DatabaseNotMadeError,
    DatabaseUnavailableError,
    SettingInvalidError,
    TransientError,
)
from bulk_upload_pipeline.settings import DATABASE_URL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

APPLICATION_NAME = "bulk-upload"
CONNECT_TIMEOUT_S = 10
TRUSTED_S = 1.0
"""A connection that was used so lately is taken to be alive, unless the server has said otherwise."""
SECONDS_BETWEEN_ASKING = 0.5
_LIMITS = {
    "statement_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 14_00_00,
    "transaction_timeout": 17_00_00,
}
"""What a role or a database may limit, and the version from which on a server knows it."""
_VANISHED = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""How the server notices that our machine has vanished, as `CONNECTION` says it for the other way: or it would hold
the locks of a dead worker for two hours."""
INSUFFICIENT_PRIVILEGE, READ_ONLY = "42501", "25006"
NOT_AS_IT_WAS_MADE = frozenset({"42P01", "42703", "3F000", "42809"})
"""No such table, column or schema, or something else in its place: somebody has dropped or renamed it."""

CONNECTION = {
    "application_name": APPLICATION_NAME,
    # Whatever the role, the database or PGCLIENTENCODING says: names and findings are in all scripts.
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_TIMEOUT_S,
    # A server whose machine vanished is noticed within a minute instead of two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def normalised_url(url: str | sa.URL, variable: str = DATABASE_URL) -> sa.URL:
    """Return `url` with the driver that is used everywhere here (psycopg2), whichever it names.

    Args:
        url: Of a database.
        variable: The setting that states it.

    Raises:
        SettingInvalidError: It is no URL of a PostgreSQL database. The message holds no password.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise _bad_url(str(url), variable) from error
    if parsed.get_backend_name() not in ("postgresql", "postgres") or _holds_nul(parsed):
        raise _bad_url(parsed.drivername + "://", variable)
    if parsed.host and "@" in parsed.host:
        # What stands before it is the rest of a password, and shall be shown nowhere.
        raise _bad_url(parsed.drivername + "://", variable, " in which %40 stands for an @ of the password")
    for option in parsed.query:
        if not _is_known(option):
            raise _bad_url(parsed.drivername + "://", variable, f" without the unknown option {option!a}")
    return parsed.set(drivername="postgresql+psycopg2")


def _bad_url(url: str, variable: str, beside: str = "") -> SettingInvalidError:
    scheme, separator, _ = url.partition("://")
    shown = f"{scheme}://..." if separator else "..."
    wanted = f"a URL such as postgresql://user@host:5432/bulk_upload{beside}"
    return SettingInvalidError(variable, shown, wanted)


def _holds_nul(url: sa.URL) -> bool:
    return any(part and "\0" in part for part in (url.username, url.password, url.host, url.database))


def _is_known(option: str) -> bool:
    """Return whether the driver knows a parameter of a connection; it looks at no value."""
    try:
        make_dsn(**{option: "1"})
    except (psycopg2.Error, TypeError, ValueError):
        return False
    return True


def address(url: str | sa.URL) -> str:
    """Return `host:port/database` of a URL, for messages: no user, no password."""
    parsed = normalised_url(url)
    host = parsed.host or parsed.query.get("host") or "localhost"
    host = host if isinstance(host, str) else host[0]
    port = f":{parsed.port}" if parsed.port else ""
    return f"{host}{port}/{parsed.database or ''}"


def make_engine(url: str | sa.URL) -> sa.Engine:
    """Return an engine with a small pool, whose connections survive a restart of the server."""
    engine = sa.create_engine(normalised_url(url), connect_args=CONNECTION, pool_size=4, max_overflow=4)
    sa.event.listen(engine, "connect", _set_up)
    look_before_use(engine)
    return engine


def _set_up(connection: Connection, _record: ConnectionPoolEntry) -> None:
    """Have times in UTC, as we tell them, wherever the server thinks that it stands, and be given the time it takes.

    Limits of the role or the database are meant for questions that people ask. A chunk, a revert or a report of a huge
    file takes longer, and one that holds the lock of a batch rests for as long as the stage works on its file.
    """
    # An older server does not know all of them, and is to be told its age instead.
    known = {limit: 0 for limit, since in _LIMITS.items() if connection.server_version >= since}
    stated = {"TimeZone": "'UTC'", **known, **_VANISHED}
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("; ".join(f"SET {name} = {value}" for name, value in stated.items()))
    connection.autocommit = False


def look_before_use(pool: sa.Engine | sa.Pool) -> None:
    """Let a pool replace a connection that a restart of the server cut, instead of failing its first user.

    SQLAlchemy's `pool_pre_ping` asks the server before each use, fifty times a small file. Here it is asked when
    it has said something unasked (that it closes the connection), and when the connection has rested.
    """
    sa.event.listen(pool, "checkin", _rests)
    sa.event.listen(pool, "checkout", _look)


def _rests(_connection: Connection | None, record: ConnectionPoolEntry) -> None:
    record.info["rests_since"] = time.monotonic()


def _look(connection: Connection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    rested = time.monotonic() - record.info.get("rests_since", time.monotonic())
    if rested < TRUSTED_S and not _has_news(connection):
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except psycopg2.Error as error:
        raise InvalidatePoolError from error


def _has_news(connection: Connection) -> bool:
    """Return whether the server has sent something that nobody has read."""
    try:
        return bool(select.select([connection], [], [], 0)[0])
    except (OSError, ValueError, psycopg2.Error):
        return True  # closed, or numbered beyond what `select` takes


@contextmanager
def asking(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection for single questions: outside of a transaction, whose begin and end are two more each.

    Each statement is committed by itself.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        # Not by SQLAlchemy's isolation level, which asks the server to change its own for a while.
        driver.autocommit = True
        try:
            yield connection
        finally:
            if not driver.closed:
                driver.autocommit = False


def wait_until_it_answers(engine: sa.Engine, patience: float) -> bool:
    """Wait for a server that restarts; return whether it answers after at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with engine.connect():
                return True
        except OperationalError:
            engine.dispose()
        if time.monotonic() > deadline:
            return False
        time.sleep(SECONDS_BETWEEN_ASKING)


def create_database_if_absent(
    url: str | sa.URL, *, owned: bool = False, variable: str = DATABASE_URL
) -> None:
    """Create the database that `url` names, unless it exists.

    Args:
        url: The database; it is created through database `postgres` of the same server.
        owned: Whether the server is the embedded one. Text is then compared by code point, which makes its
            indexes cheaper, with letters still known in all scripts. A server of somebody else keeps its
            administrator's choice.
        variable: The setting that names it.

    Raises:
        DatabaseUnavailableError: The server does not answer, or does not let this user in.
        DatabaseNotMadeError: It does not let this user create databases.
    """
    wanted = normalised_url(url)
    engine = sa.create_engine(
        wanted.set(database="postgres"),
        connect_args=CONNECTION,
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
    )
    try:
        with engine.connect() as connection:
            _create_database(connection, wanted.database or "", owned=owned)
    except (OperationalError, ProgrammingError) as error:
        if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
            raise DatabaseNotMadeError(address(url), first_line(error)) from error
        raise DatabaseUnavailableError(address(url), first_line(error), variable) from error


def _create_database(connection: sa.Connection, name: str, *, owned: bool) -> None:
    known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
    if connection.scalar(known, {"name": name}):
        return
    # The driver reads a percent sign as a placeholder.
    quoted = '"' + name.replace('"', '""').replace("%", "%%") + '"'
    options = ""
    if owned:
        options = (
            " TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            " LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
        )
    try:
        connection.exec_driver_sql(f"CREATE DATABASE {quoted}{options}")
    except DBAPIError as error:
        # Another process was faster: the catalogue says so with either of two codes.
        if sqlstate(error) not in ("42P04", "23505"):
            raise


_TRANSIENT = re.compile(
    r"08|53"  # connection loss; no memory, no disk space, too many connections
    r"|57P0[1-35]"  # shut down, crashed, not yet started, idle for too long
    r"|58"  # input/output errors of the server
    r"|40001|40P01"  # serialization failure, deadlock
    r"|55P03|55006"  # lock not available, object in use
    r"|25006|25P0[34]"  # on a standby after a failover; idle in transaction for too long
)
_REFUSED_AT_THE_DOOR = re.compile(
    r"authentication failed|no pg_hba\.conf entry|does not exist|no password supplied|permission denied"
)
"""Connecting fails without an SQLSTATE in psycopg2; these words tell what waiting will not cure."""


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a database error, None where there is none (a lost connection)."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original.pgcode if isinstance(original, psycopg2.Error) else None


def is_transient(error: BaseException) -> bool:
    """Return whether trying again later may succeed without anybody changing the data or the schema."""
    if isinstance(error, TransientError):
        return True
    original = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(original, psycopg2.Error):
        return False
    if original.pgcode is not None:
        return _TRANSIENT.match(original.pgcode) is not None
    lost = isinstance(original, psycopg2.OperationalError | psycopg2.InterfaceError)
    return lost and _REFUSED_AT_THE_DOOR.search(str(original)) is None


def first_line(error: DBAPIError | psycopg2.Error) -> str:
    """Return what the server or the driver said, in one line; neither repeats a password."""
    original = error.orig if isinstance(error, DBAPIError) else error
    lines = str(original).strip().splitlines()
    return lines[0].strip() if lines else type(original).__name__
