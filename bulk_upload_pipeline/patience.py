"""Changing tables that others use: a lock is waited for briefly, and again later, instead of once for long.

A statement that waits for the lock of a table makes everybody wait who comes after it, readers included.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import psycopg2
from sqlalchemy.exc import OperationalError

from bulk_upload_pipeline.exceptions import DatabaseBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

T = TypeVar("T")

# Seconds.
LOCK_TIMEOUT = 1.0
PAUSE = 0.5
PATIENCE = 60.0

_CONTENTION = ("55P03", "40P01")
"""Lock not available, deadlock: others were there, and may be gone soon."""


def in_peace() -> tuple[str, ...]:
    """Return how a transaction begins that changes tables, whatever limits the role or the database sets."""
    return (
        # Who has waited for another has to see what that one did.
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'",
        # A limit that is meant for questions would end each attempt at what takes longer.
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        # Known from PostgreSQL 17 on.
        "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'",
    )


def patiently(engine: sa.Engine, shown: str, act: Callable[[sa.Connection], T]) -> T:
    """Do something in one transaction, again and again while others hold what it needs.

    Args:
        engine: Where.
        shown: The address for messages.
        act: Called with the transaction; what it did is undone before it is called again.

    Raises:
        DatabaseBusyError: Others hold it for more than `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with engine.begin() as connection:
                for statement in in_peace():
                    connection.exec_driver_sql(statement)
                return act(connection)
        except OperationalError as error:
            if not isinstance(error.orig, psycopg2.Error) or error.orig.pgcode not in _CONTENTION:
                raise
            if time.monotonic() > deadline:
                raise DatabaseBusyError(shown) from error
        time.sleep(PAUSE)
