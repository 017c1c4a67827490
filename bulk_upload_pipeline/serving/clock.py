"""A clock that was set back: a laptop may start with a wrong one, hours ahead, until the network corrects it.

Dagster looks at a sensor again when so much time has passed since it did last. Where that lies in the future, the
inbox would be watched by nobody until it has come, and everything would look healthy.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from bulk_upload_pipeline.database import make_engine

LEAST = 60.0
"""Seconds; less is what clocks are put right by every day, and soon over."""

_FORGET = sa.text("""
UPDATE instigators SET instigator_body = jsonb_set(jsonb_set(
    instigator_body::jsonb, '{job_specific_data,last_tick_timestamp}', 'null'),
    '{job_specific_data,last_tick_start_timestamp}', 'null')::text
WHERE instigator_type = 'SENSOR' AND :now < greatest(
    (instigator_body::jsonb #>> '{job_specific_data,last_tick_timestamp}')::float,
    (instigator_body::jsonb #>> '{job_specific_data,last_tick_start_timestamp}')::float)
""")


class Clock:
    """The clock of this machine, watched by one that nobody sets."""

    def __init__(self) -> None:
        self._ahead = _ahead()

    def set_back(self) -> float:
        """Return by how many seconds it was set back since the last look; 0 if it was not, or by little."""
        before, self._ahead = self._ahead, _ahead()
        back = before - self._ahead
        return back if back >= LEAST else 0.0


def _ahead() -> float:
    return time.time() - time.monotonic()


def forget_the_future(url: str) -> int:
    """Let Dagster look at once at every sensor that it believes to have looked at in the future.

    Args:
        url: Of Dagster's database. One that Dagster has not filled yet knows of no sensor.

    Returns:
        How many sensors those were.
    """
    engine = make_engine(url)
    try:
        if not sa.inspect(engine).has_table("instigators"):
            return 0
        with engine.begin() as connection:
            return connection.execute(_FORGET, {"now": time.time() + LEAST}).rowcount
    finally:
        engine.dispose()
