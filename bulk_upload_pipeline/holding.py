"""Holding a batch: connections of our own, and the lock that lets only one worker touch a batch's rows."""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakSet, ref

import psycopg2
import psycopg2.errors
import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from bulk_upload_pipeline.database import address, asking, look_before_use
from bulk_upload_pipeline.exceptions import BatchBusyError, LocksLostError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

BUSY_AFTER_S = 5
"""How long to wait for another worker that holds the batch, such as one that is just ending."""

BETWEEN_TRIES_S = 0.1

_TRY_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")

CONTENTION = ("40P01", "40001", "55P03")
"""Deadlock, serialization failure, lock not available: others got in the way, the next try may succeed."""


_FOR_MERGING = """
SET client_min_messages = warning;
-- By the server and not by the driver, which would ask it anew whenever a transaction is not to be begun.
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
-- The statements of a merge are long but run once: compiling them takes longer than they do.
SET jit = off;
-- A chunk shall be sorted and joined in memory, and looked up in the target by its index: its keys come in
-- order, so that the pages that they need are near each other.
SET work_mem = '64MB';
SET random_page_cost = 1.1;
"""

MOST_KEPT = 4
"""Connections that wait for the next load: those of one."""

TRIES_OF_A_LOCK = 3
"""A pooler that is busy may happen to give a session back to whom it took it from: not so often."""

_sound: WeakSet[sa.Engine] = WeakSet()
_kept: WeakKeyDictionary[sa.Engine, QueuePool] = WeakKeyDictionary()
_keeping = Lock()


def connect_alone(engine: sa.Engine) -> Connection:
    """Return a psycopg2 connection outside of the pool, set up for merging at READ COMMITTED.

    What it leaves behind (settings, locks, temporary tables) ends with it; the caller closes it.

    Raises:
        sqlalchemy.exc.DBAPIError: The server does not answer.
    """
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    pooled.detach()
    assert connection is not None
    connection.set_session(isolation_level="DEFAULT")
    connection.set_client_encoding("UTF8")
    with connection, connection.cursor() as cursor:
        cursor.execute(_FOR_MERGING)
    return connection


def make_sure_that_locks_hold(engine: sa.Engine) -> None:
    """Make sure, once for an engine, that a lock stays with the connection that took it.

    Raises:
        LocksLostError: A pooler gives each transaction another session: others would be given what we hold.
    """
    if engine in _sound:
        return
    with asking(engine) as connection:
        if _is_pooled(connection) and any(_is_lost(engine, connection) for _ in range(TRIES_OF_A_LOCK)):
            raise LocksLostError(address(engine.url))
    _sound.add(engine)


def _is_pooled(connection: sa.Connection) -> bool:
    """Return whether somebody else answers than the session that does the work, as a pooler does for it."""
    driver = connection.connection.driver_connection
    assert driver is not None
    return bool(connection.scalar(sa.text("SELECT pg_backend_pid()")) != driver.info.backend_pid)


def _is_lost(engine: sa.Engine, holder: sa.Connection) -> bool:
    """Return whether a lock of `holder`, which rests now, is another's for the asking, or not to be given back."""
    key = {"name": f"bulk_upload.probe.{uuid4()}"}
    holder.execute(_TRY_LOCK, key)
    with engine.begin() as other:
        if other.scalar(_TRY_LOCK, key):
            other.execute(_UNLOCK, key)
            other.execute(_UNLOCK, key)
            return True
        return not holder.scalar(_UNLOCK, key)


@contextmanager
def connected(engine: sa.Engine) -> Generator[Connection]:
    """Yield a connection such as `connect_alone` returns, which an earlier load has left where there is one.

    A new one costs the server more than the rows of a small file. What goes wrong within the block closes it.
    """
    pooled = _connections(engine).connect()
    connection = pooled.driver_connection
    assert connection is not None
    try:
        yield connection
        connection.rollback()
    except BaseException:
        pooled.invalidate()  # whatever it was, nobody knows what the server still does for it
        raise
    try:
        _empty(connection)
        pooled.close()
    except psycopg2.Error:
        pooled.invalidate()  # what was done with it is done
    except BaseException:
        pooled.invalidate()  # stopped by a signal, it may hold a lock for which others wait
        raise


def _empty(connection: Connection) -> None:
    """Leave nothing of its last user but its settings."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all(); DISCARD TEMP")
    connection.autocommit = False


def _connections(engine: sa.Engine) -> QueuePool:
    make_sure_that_locks_hold(engine)
    with _keeping:
        if engine not in _kept:
            _kept[engine] = _pool(ref(engine))
            sa.event.listen(engine, "engine_disposed", _forget)
        return _kept[engine]


def _pool(engine: ref[sa.Engine]) -> QueuePool:
    def connect() -> Connection:
        alive = engine()
        assert alive is not None
        return connect_alone(alive)

    pool = QueuePool(connect, pool_size=MOST_KEPT, max_overflow=-1, reset_on_return=None)
    look_before_use(pool)
    return pool


def _forget(engine: sa.Engine) -> None:
    with _keeping:
        pool = _kept.pop(engine, None)
    if pool is not None:
        pool.dispose()


@contextmanager
def holding(engine: sa.Engine, batch_id: str) -> Generator[Connection]:
    """Hold the batch's advisory lock, which ends with its connection however this process ends.

    Yields:
        The connection that holds it, outside of a transaction.

    Raises:
        BatchBusyError: Another worker holds it, and goes on doing so for `BUSY_AFTER_S`.
        LocksLostError: A pooler would not let it be held.
    """
    key = (lock_name(batch_id),)
    with connected(engine) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{BUSY_AFTER_S}s",))
            try:
                cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
            except psycopg2.errors.LockNotAvailable as error:
                raise BatchBusyError(batch_id) from error
        yield connection


@contextmanager
def alone(engine: sa.Engine, batch_id: str, patience: float | None = None) -> Generator[None]:
    """Hold the batch's advisory lock for a short stage, on a connection of the pool.

    Args:
        engine: Where to connect.
        batch_id: Whose lock.
        patience: Seconds to wait for another worker that holds it; `BUSY_AFTER_S` when it is None.

    Raises:
        BatchBusyError: Another worker holds it, and goes on doing so.
        LocksLostError: A pooler would not let it be held.
        sqlalchemy.exc.DBAPIError: The lock was lost on the way, so that another may have worked on the batch.
    """
    key = {"name": lock_name(batch_id)}
    make_sure_that_locks_hold(engine)
    with asking(engine) as connection:
        deadline = time.monotonic() + (BUSY_AFTER_S if patience is None else patience)
        while not connection.scalar(_TRY_LOCK, key):
            if time.monotonic() > deadline:
                raise BatchBusyError(batch_id)
            time.sleep(BETWEEN_TRIES_S)
        try:
            yield
            connection.execute(_UNLOCK, key)
        except BaseException:
            connection.invalidate()  # it may be lost already; the lock ends with it
            raise


@contextmanager
def queued(engine: sa.Engine, name: str) -> Generator[None]:
    """Hold the advisory lock `name` and wait, however long it takes, for whoever holds it."""
    with connected(engine) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            # Asked for again and again instead of waited for, so that Ctrl-C is heard meanwhile.
            while not _is_free(cursor, f"bulk_upload.{name}"):
                time.sleep(BETWEEN_TRIES_S)
        yield


def _is_free(cursor: Cursor, name: str) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,))
    return cursor.fetchone() == (True,)


def unheld(engine: sa.Engine, batch_ids: Collection[str]) -> list[str]:
    """Return those of some batches that no worker holds at this moment, in the same order."""
    if not batch_ids:
        return []
    names = {lock_name(batch_id): batch_id for batch_id in batch_ids}
    query = sa.text(
        f"SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE NOT {is_locked('name')}"  # noqa: S608
    )
    with engine.connect() as connection:
        free = set(connection.scalars(query, {"names": list(names)}))
    return [batch_id for name, batch_id in names.items() if name in free]


def is_locked(name: str) -> str:
    """Return the condition, in SQL, that somebody holds the advisory lock whose name is the SQL expression `name`."""
    return (
        "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "  # noqa: S608
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        f"AND ((classid::bigint << 32) | objid::bigint) = hashtextextended({name}, 0))"
    )


def lock_name(batch_id: str) -> str:
    """Return the text whose hash is the key of a batch's advisory lock."""
    return f"bulk_upload.batch.{batch_id}"
