"""Proof of life: a worker holds an advisory lock for the length of its run, and the server drops it with it.

However a worker ends, be it by kill -9 together with whoever started it, its connection ends and the lock is
free. So anybody who reaches the database can tell a run that is worked on from one that is not.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from bulk_upload_pipeline.database import address
from bulk_upload_pipeline.exceptions import DatabaseInUseError
from bulk_upload_pipeline.holding import connect_alone, is_locked

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

# Seconds.
BETWEEN_LOOKS = 2.0
"""How often the connection is looked at, so that the lock is soon taken again after the server restarted."""
FIRST_PATIENCE = 10.0
SERVER_SETTLED = 30.0
"""So long after the server started, workers that live may still be taking their locks again."""

UP = "up"
"""What `bulk-upload up` holds, as a run does its id."""

_NAME = "'bulk_upload.run.' || {run_id}"


@contextmanager
def alive(engine: sa.Engine, run_id: str) -> Generator[bool]:
    """Hold the lock of a run for the length of the block; taken again when the connection is lost.

    Yields:
        Whether it is held by now; who is kept from it longer than `FIRST_PATIENCE` begins without.
    """
    taken, stop = Event(), Event()
    keeper = Thread(target=_keep, args=(engine, run_id, taken, stop), name="proof-of-life", daemon=True)
    keeper.start()
    try:
        yield taken.wait(FIRST_PATIENCE)
    finally:
        stop.set()
        keeper.join(FIRST_PATIENCE)


@contextmanager
def only_up(engine: sa.Engine) -> Generator[None]:
    """Be the only `up` that works with a database: a second one would take files of this home into its own archive.

    Raises:
        DatabaseInUseError: There is one already.
    """
    if not without_worker(engine, [UP], settled=0):
        raise DatabaseInUseError(address(engine.url))
    with alive(engine, UP) as held:
        if not held:
            raise DatabaseInUseError(address(engine.url))
        yield


def _keep(engine: sa.Engine, run_id: str, taken: Event, stop: Event) -> None:
    while not stop.is_set():
        try:
            with closing(connect_alone(engine)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    name = _NAME.format(run_id="%s")
                    cursor.execute(f"SELECT pg_advisory_lock(hashtextextended({name}, 0))", (run_id,))
                    taken.set()
                    while not stop.wait(BETWEEN_LOOKS):
                        cursor.execute("SELECT 1")
        except (DBAPIError, psycopg2.Error):
            stop.wait(BETWEEN_LOOKS)  # the server is away; the stage that needs it says so


def without_worker(engine: sa.Engine, run_ids: Collection[str], settled: float | None = None) -> set[str]:
    """Return those of the runs that nobody works on; none while the server has just started.

    A worker whose connection was cut takes a moment to come back: judge a run by more than one look.

    Args:
        engine: Of the invoices' database.
        run_ids: The runs.
        settled: Seconds for which the server must have been up, `SERVER_SETTLED` if None. For 0 its clock, which may
            have been set back since then, is not asked.
    """
    query = sa.text(
        f"SELECT run_id FROM unnest(CAST(:run_ids AS text[])) AS run_id "  # noqa: S608 - a constant
        f"WHERE (:settled = 0 OR now() - pg_postmaster_start_time() > make_interval(secs => :settled)) "
        f"AND NOT {is_locked(_NAME.format(run_id='run_id'))}"
    )
    with engine.connect() as connection:
        found = connection.execute(
            query, {"run_ids": list(run_ids), "settled": SERVER_SETTLED if settled is None else settled}
        )
        return set(found.scalars())
