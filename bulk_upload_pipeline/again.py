"""Batches that should go down the line again: those that failed, and those that newer rules may judge otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline import contract, storage
from bulk_upload_pipeline.model import FINAL_STATES, State, counted
from bulk_upload_pipeline.places import Key
from bulk_upload_pipeline.tables import processing_errors, upload_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from bulk_upload_pipeline.model import Receipt
    from bulk_upload_pipeline.workplace import Line

MOST_A_NIGHT = 100
"""So many batches are taken again in a night; the rest has its turn in the next."""

TRIED_FOR = timedelta(days=14)
"""A batch that has failed for so long will not heal by itself: it is left to a person."""

JUDGED = (State.LOADED, State.PARTIALLY_LOADED, State.REJECTED)
ENDED = (*JUDGED, State.UNREADABLE, State.FAILED)
"""A duplicate has nothing to load, and what a person has reverted stays so."""

FEW = 20
"""Folders of a bucket that are sooner looked into one by one than found among all."""

_NAMED = 10
"""How many batches a sentence names."""

_NIGHT_ENDS = time(22)
"""When what became of a night is told although it is not over: before the next one begins."""

_FIRST_COME = (upload_batches.c.received_at, upload_batches.c.batch_id)


@dataclass(frozen=True, slots=True)
class Due:
    """A batch to be taken again, and why, in a few words."""

    batch_id: str
    file_name: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a night does, or who takes batches of some days again.

    Attributes:
        taken: What it takes again, that which was tried longest ago first.
        left: How many more have their turn in the next night.
        gone: What it cannot take, because the file is gone.
    """

    taken: tuple[Due, ...]
    left: int
    gone: tuple[Due, ...]

    @property
    def not_taken(self) -> str:
        """Return what is left out, and why, as sentences; nothing is said of nothing."""
        told = []
        if self.left:
            told.append(
                f"Left for the next night: {self.left:,}, since a night takes at most {MOST_A_NIGHT:,}."
            )
        if self.gone:
            named = ", ".join(each.batch_id for each in self.gone[:_NAMED])
            more = ", ..." if len(self.gone) > _NAMED else ""
            told.append(
                f"Not taken, since the file is not in the archive any more: {len(self.gone):,} ({named}{more})."
            )
        return " ".join(told)

    @property
    def in_words(self) -> str:
        """Return all of it as sentences."""
        if not self.taken and not self.not_taken:
            return "No batch has failed, and none waits for newer rules."
        named = "; ".join(f"{each.batch_id} ({each.why})" for each in self.taken[:_NAMED])
        more = f"; and {len(self.taken) - _NAMED:,} more" if len(self.taken) > _NAMED else ""
        taken = counted(len(self.taken), "batch is", "batches are")
        told = f"{taken} taken again{': ' if self.taken else ''}{named}{more}."
        return f"{told} {self.not_taken}".strip()


def due(line: Line, now: datetime | None = None, under_way: Collection[str] = ()) -> Plan:
    """Return what a night should take again.

    What was tried longest ago comes first, so that batches which fail every night keep nobody from having a turn.

    Args:
        line: Where to look.
        now: The present, in UTC.
        under_way: Batches on which somebody works already.
    """
    columns = upload_batches.c
    failed = sa.and_(
        columns.state == State.FAILED, columns.received_at >= (now or datetime.now(UTC)) - TRIED_FOR
    )
    unresolved = (
        sa.exists()
        .where(
            processing_errors.c.batch_id == columns.batch_id,
            processing_errors.c.severity == "error",
            ~processing_errors.c.is_resolved,
        )
        .correlate(upload_batches)
    )
    outdated = sa.and_(columns.state.in_(JUDGED), columns.rules_version < contract.RULES_VERSION, unresolved)
    tried = sa.func.coalesce(columns.finished_at, columns.received_at)
    told = (columns.batch_id, columns.file_name, columns.sha256, columns.state, columns.rules_version)
    query = sa.select(*told).where(sa.or_(failed, outdated)).order_by(tried, columns.batch_id)
    with line.engine.connect() as connection:
        rows = [row for row in connection.execute(query) if row.batch_id not in under_way]
    able, gone = _parted(line, [(row, _why(row.state, row.rules_version)) for row in rows])
    return Plan(able[:MOST_A_NIGHT], len(able[MOST_A_NIGHT:]), gone)


def _parted(line: Line, found: Iterable[tuple[sa.Row[Any], str]]) -> tuple[tuple[Due, ...], tuple[Due, ...]]:
    """Return the batches that can be taken again, and those of which the file is gone."""
    found = list(found)
    archived = _archived(line, [row.batch_id for row, _ in found])
    able: list[Due] = []
    gone: list[Due] = []
    for row, why in found:
        is_there = row.sha256 is None or row.batch_id in archived
        (able if is_there else gone).append(Due(row.batch_id, row.file_name, why))
    return tuple(able), tuple(gone)


def _why(state: str, rules_version: int | None) -> str:
    if state == State.FAILED:
        return "failed"
    return f"judged by rules {rules_version}, and today's are {contract.RULES_VERSION}"


def _archived(line: Line, batch_ids: Sequence[str]) -> set[str]:
    """Return of which batches the file can be read again; it is alone in its folder.

    A bucket is asked for a thousand folders at once: one by one, the many batches of newer rules would take longer
    than Dagster waits for a schedule. There no folder is empty; on a disk to look into one costs nothing.
    """
    archive = line.home.archive
    if isinstance(archive, Key) and len(batch_ids) > FEW:
        return set(storage.folders(archive)) & set(batch_ids)
    return {batch_id for batch_id in batch_ids if storage.names(archive / batch_id)}


def since(line: Line, day: date, profile: str | None = None) -> Plan:
    """Return every batch that ended and was received on a day (UTC) or later, the oldest first.

    Args:
        line: Where to look.
        day: The first day.
        profile: Only batches of this profile, or of its folder.
    """
    columns = upload_batches.c
    query = (
        sa.select(columns.batch_id, columns.file_name, columns.sha256)
        .where(columns.received_at >= datetime.combine(day, time(), UTC), columns.state.in_(ENDED))
        .order_by(*_FIRST_COME)
    )
    if profile is not None:
        query = query.where(sa.func.coalesce(columns.profile, columns.folder) == profile)
    with line.engine.connect() as connection:
        rows = connection.execute(query).all()
    able, gone = _parted(line, [(row, f"received since {day}") for row in rows])
    return Plan(able, 0, gone)


def subject_of(night: str) -> str:
    """Return what a message about a night is about."""
    return f"night {night}"


@dataclass(frozen=True, slots=True)
class Night:
    """A night as its runs tell of it.

    Attributes:
        name: Its day, such as 2026-11-25.
        asked: How many batches it was to take again.
        batch_ids: Those of which a run exists by now.
        not_taken: What it left out, in words.
    """

    name: str
    asked: int
    batch_ids: frozenset[str]
    not_taken: str = ""

    @property
    def subject(self) -> str:
        """Return what a message about it is about."""
        return subject_of(self.name)

    def is_late(self, now: datetime) -> bool:
        """Return whether it should have ended before: the next one is near."""
        return now >= datetime.combine(date.fromisoformat(self.name), _NIGHT_ENDS, UTC)

    def in_words(self, receipts: Sequence[Receipt]) -> str:
        """Return what became of it, by the receipts of its batches as they are now."""
        counts = Counter(_became(receipt) for receipt in receipts)
        became = ", ".join(f"{counts[words]:,} {words}" for words in BECAME if counts[words])
        asked = counted(self.asked, "batch", "batches")
        named = [receipt.batch_id for receipt in receipts if _became(receipt) != CLOSED]
        those = f" ({', '.join(named[:_NAMED])}{', ...' if len(named) > _NAMED else ''})" if named else ""
        told = f"Of the {asked} that the night of {self.name} took again: {became or 'nothing yet'}"
        return f"{told}{those}. {self.not_taken}".strip()


CLOSED, FAILING, FAULTY, GOING_ON = "closed", "still failed", "still with errors", "not ended yet"
BECAME = (CLOSED, FAILING, FAULTY, GOING_ON)
"""What can become of a batch that is taken again."""


def _became(receipt: Receipt) -> str:
    if receipt.state not in FINAL_STATES:
        return GOING_ON
    if receipt.state is State.FAILED:
        return FAILING
    return FAULTY if receipt.rows_open or receipt.state is State.UNREADABLE else CLOSED
