"""Where Dagster keeps runs, events and ticks: PostgreSQL, by connections that are held. `dagster.yaml` names it.

Dagster's own storage connects for each statement: of a daemon with nothing to do thirty times a second, with which
PostgreSQL is busy for a fifth of a core, and three times more for each instance, which a sensor's tick makes anew.
Here all instances of a process share a pool.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)

from bulk_upload_pipeline.database import look_before_use

if TYPE_CHECKING:
    from collections.abc import Mapping

HELD = 4
"""Connections that a process keeps. More are opened when as many threads ask at once, and closed afterwards."""

TABLES = frozenset({"runs", "instance_info", "event_logs", "jobs"})
"""By which Dagster sees whether its tables are there."""


class HeldStorage(DagsterPostgresStorage):
    """Dagster's storage on PostgreSQL, for all instances of a process by the same connections."""

    def __init__(self, postgres_url: str, inst_data: Any = None) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False, inst_data=inst_data)
        _make_tables(postgres_url)
        self._run_storage = _Runs(postgres_url)
        self._event_log_storage = _Events(postgres_url)
        self._schedule_storage = _Schedules(postgres_url)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return what `dagster.yaml` has to say."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> HeldStorage:
        """Return the storage that `dagster.yaml` describes."""
        return cls(config_value["postgres_url"], inst_data)


class _Runs(PostgresRunStorage):
    def __init__(self, url: str) -> None:
        super().__init__(url, should_autocreate_tables=False)
        self._engine = _engine(url)


class _Events(PostgresEventLogStorage):
    def __init__(self, url: str) -> None:
        super().__init__(url, should_autocreate_tables=False)
        self._engine = _engine(url)


class _Schedules(PostgresScheduleStorage):
    def __init__(self, url: str) -> None:
        super().__init__(url, should_autocreate_tables=False)
        self._engine = _engine(url)


def _make_tables(url: str) -> None:
    """Let Dagster make its tables in a database that has none."""
    if not TABLES.issubset(sa.inspect(_engine(url)).get_table_names()):
        DagsterPostgresStorage(url)


@cache
def _engine(url: str) -> sa.Engine:
    """Return the engine of this process for a database."""
    engine = sa.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_size=HELD, max_overflow=-1, pool_use_lifo=True
    )
    look_before_use(engine)
    # What a fork inherits is its parent's connection: to speak on it would garble what the parent hears.
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
    return engine
