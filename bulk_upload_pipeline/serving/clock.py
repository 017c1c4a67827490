"""A clock that was set back: a laptop may start with a wrong one, hours ahead, until the network corrects it.

Dagster looks at a sensor again when so much time has passed since it did last, and at a schedule only for times that
come after its last. Where that lies in the future, the inbox would be watched by nobody until it has come, no day would
be counted again, and everything would look healthy.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from bulk_upload_pipeline.database import make_engine

LEAST = 60.0
"""Seconds; less is what clocks are put right by every day, and soon over."""

_FORGET_SENSORS = sa.text("""
UPDATE instigators SET instigator_body = jsonb_set(jsonb_set(
    instigator_body::jsonb, '{job_specific_data,last_tick_timestamp}', 'null'),
    '{job_specific_data,last_tick_start_timestamp}', 'null')::text
WHERE instigator_type = 'SENSOR' AND :soon < greatest(
    (instigator_body::jsonb #>> '{job_specific_data,last_tick_timestamp}')::float,
    (instigator_body::jsonb #>> '{job_specific_data,last_tick_start_timestamp}')::float)
""")

_FORGET_SCHEDULES = sa.text("""
UPDATE instigators SET instigator_body = jsonb_set(jsonb_set(
    instigator_body::jsonb, '{job_specific_data,start_timestamp}', to_jsonb(CAST(:now AS float))),
    '{job_specific_data,last_iteration_timestamp}', to_jsonb(CAST(:now AS float)))::text
WHERE instigator_type = 'SCHEDULE' AND :soon < greatest(
    (instigator_body::jsonb #>> '{job_specific_data,start_timestamp}')::float,
    (instigator_body::jsonb #>> '{job_specific_data,last_iteration_timestamp}')::float)
""")
_FORGET_TICKS = sa.text(
    "DELETE FROM job_ticks WHERE type = 'SCHEDULE' AND timestamp > to_timestamp(:soon) AT TIME ZONE 'UTC'"
)
"""Times for which a schedule was looked at that have not come yet: the next is looked for behind the last of them."""


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


def forget_the_future(url: str) -> None:
    """Let Dagster look at every sensor and schedule at its time again, where it believes to have looked in the future.

    Args:
        url: Of Dagster's database. One that Dagster has not filled yet knows of none.
    """
    engine = make_engine(url)
    now = time.time()
    try:
        if sa.inspect(engine).has_table("instigators"):
            with engine.begin() as connection:
                for forget in (_FORGET_SENSORS, _FORGET_SCHEDULES, _FORGET_TICKS):
                    connection.execute(forget, {"now": now, "soon": now + LEAST})
    finally:
        engine.dispose()
