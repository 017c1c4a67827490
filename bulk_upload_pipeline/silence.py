"""Senders from whom a file is expected every so often, and from whom none came."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import func

from bulk_upload_pipeline.model import Judgement, counted
from bulk_upload_pipeline.tables import upload_batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bulk_upload_pipeline.profiles import Profile


# By the last entry of an index for each sender: this is asked every few seconds. A file that nobody could recognise has
# no profile, but may lie in the folder of one.
_LATEST = sa.text("""
SELECT name, latest FROM unnest(CAST(:names AS text[])) AS name, LATERAL (SELECT greatest(
    (SELECT max(received_at) FROM bulk_upload.upload_batches WHERE profile = name),
    (SELECT max(received_at) FROM bulk_upload.upload_batches WHERE profile IS NULL AND folder = name)
) AS latest) AS found WHERE latest IS NOT NULL
""")


@dataclass(frozen=True, slots=True)
class Silent:
    """A sender whose file is overdue.

    Attributes:
        since: When its last file came; for one that never sent any, when the first file of all came.
        expected_every_hours: As its profile says.
    """

    profile: str
    since: datetime
    ever: bool
    expected_every_hours: float

    @property
    def in_words(self) -> str:
        """Return it as a sentence."""
        last = f"its last came {self.since:%Y-%m-%d %H:%M} UTC" if self.ever else "none ever came"
        hours = self.expected_every_hours
        often = "hour" if hours == 1 else f"{hours:g} hours"
        return f"A file of {self.profile} is expected every {often}, and {last}."


def silent(engine: sa.Engine, profiles: Iterable[Profile], now: datetime | None = None) -> list[Silent]:
    """Return the senders whose file is overdue, by name.

    Whatever came counts, loaded or not: a file that cannot be read is told of elsewhere. Before the first
    file of all nobody is overdue.

    Args:
        engine: The invoices' database.
        profiles: All of a home; those without `expected_every_hours` are not waited for.
        now: The time to judge by, with a zone; the present if None.
    """
    expected = {p.name: p.expected_every_hours for p in profiles if p.expected_every_hours is not None}
    if not expected:
        return []
    with engine.connect() as connection:
        last: dict[str, datetime] = {
            row.name: row.latest for row in connection.execute(_LATEST, {"names": list(expected)})
        }
        first = connection.scalar(sa.select(func.min(upload_batches.c.received_at)))
    if first is None:
        return []
    moment = now or datetime.now(UTC)
    return [
        Silent(name, last.get(name, first), name in last, hours)
        for name, hours in sorted(expected.items())
        if moment - last.get(name, first) > timedelta(hours=hours)
    ]


def judged(overdue: Sequence[Silent], waited_for: int) -> Judgement:
    """Return what is to be said of the senders that are overdue, among those that are waited for."""
    if not waited_for:
        return Judgement(passed=True, words="No profile says how often a file is expected of it.")
    words = " ".join(sender.in_words for sender in overdue)
    return Judgement(
        passed=not overdue,
        words=words or f"The files of {counted(waited_for, 'sender')} came in time.",
        numbers={"senders_waited_for": waited_for, "senders_silent": [sender.profile for sender in overdue]},
    )
