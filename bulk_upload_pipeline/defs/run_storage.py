"""Where Dagster keeps runs, events and ticks: PostgreSQL, by connections that are held. `dagster.yaml` names it.

Dagster's own storage connects for each statement: of a daemon with nothing to do thirty times a second, with which
PostgreSQL is busy for a fifth of a core, and three times more for each instance, which a sensor's tick makes anew.
Here all instances of a process share a pool.
"""

from __future__ import annotations

import os
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from sqlalchemy.exc import OperationalError

from bulk_upload_pipeline.database import (
    CONNECTION,
    SECONDS_BETWEEN_ASKING,
    is_transient,
    look_before_use,
    normalised_url,
)
from bulk_upload_pipeline.settings import DAGSTER_DATABASE_URL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg2.extensions import connection as Connection
    from sqlalchemy.pool import ConnectionPoolEntry

HELD = 4
"""Connections that a process keeps. More are opened when as many threads ask at once, and closed afterwards."""

RESTART_PATIENCE_S = 15.0
"""How long a process that starts waits for a server that is just away, as Dagster's own storage does."""

VANISHED_AFTER_MS = 30_000
"""A statement that no server has taken for so long is lost with its machine: keepalives do not look after it.

The lines of a load are not sent so: a server that waits for a lock takes none of them meanwhile, and is alive.
"""

TABLES = frozenset({"runs", "instance_info", "event_logs", "jobs"})
"""By which Dagster sees whether its tables are there."""

_ALONE = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('bulk_upload.tables_of_dagster', 0))")


class HeldStorage(DagsterPostgresStorage):
    """Dagster's storage on PostgreSQL, for all instances of a process by the same connections."""

    def __init__(self, postgres_url: str, inst_data: Any = None) -> None:
        url = normalised_url(postgres_url, DAGSTER_DATABASE_URL).render_as_string(hide_password=False)
        super().__init__(url, should_autocreate_tables=False, inst_data=inst_data)
        _make_tables(url)
        self._run_storage = _Runs(url)
        self._event_log_storage = _Events(url)
        self._schedule_storage = _Schedules(url)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return what `dagster.yaml` has to say."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> HeldStorage:
        """Return the storage that `dagster.yaml` describes."""
        return cls(config_value["postgres_url"], inst_data)


class _Held:
    """What Dagster asks of each part of its storage for a webserver, and we for a run: here all of it is held."""

    postgres_url: str
    _engine: sa.Engine

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Let no statement take longer than so many milliseconds.

        Dagster would hold connections of each instance and each part, and use them after the server has ended them.
        """
        self._engine = _engine(self.postgres_url, statement_timeout)


class _Runs(_Held, PostgresRunStorage):
    def __init__(self, url: str) -> None:
        PostgresRunStorage.__init__(self, url, should_autocreate_tables=False)
        self._engine = _engine(url)


class _Events(_Held, PostgresEventLogStorage):
    def __init__(self, url: str) -> None:
        PostgresEventLogStorage.__init__(self, url, should_autocreate_tables=False)
        self._engine = _engine(url)


class _Schedules(_Held, PostgresScheduleStorage):
    def __init__(self, url: str) -> None:
        PostgresScheduleStorage.__init__(self, url, should_autocreate_tables=False)
        self._engine = _engine(url)


def _make_tables(url: str) -> None:
    """Let Dagster make its tables in a database that has none: one process at a time, or they disturb each other."""
    if TABLES.issubset(_tables(url)):
        return
    with _engine(url).connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.execute(_ALONE)
        if not TABLES.issubset(sa.inspect(connection).get_table_names()):
            DagsterPostgresStorage(url)


def _tables(url: str) -> list[str]:
    deadline = time.monotonic() + RESTART_PATIENCE_S
    while True:
        try:
            return sa.inspect(_engine(url)).get_table_names()
        except OperationalError as error:
            if not is_transient(error) or time.monotonic() > deadline:
                raise
        time.sleep(SECONDS_BETWEEN_ASKING)


@cache
def _engine(url: str, statement_timeout: int | None = None) -> sa.Engine:
    """Return the engine of this process for a database."""
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        connect_args={**CONNECTION, "tcp_user_timeout": VANISHED_AFTER_MS},
        pool_size=HELD,
        max_overflow=-1,
        pool_use_lifo=True,
    )
    look_before_use(engine)
    if statement_timeout is not None:
        sa.event.listen(engine, "connect", partial(_limit, statement_timeout))
    # What a fork inherits is its parent's connection: to speak on it would garble what the parent hears.
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
    return engine


def _limit(statement_timeout: int, connection: Connection, _record: ConnectionPoolEntry) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {statement_timeout:d}")
