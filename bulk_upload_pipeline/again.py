"""Batches that should go down the line again: those that failed, and those that newer rules may judge otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from bulk_upload_pipeline import contract, ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.tables import processing_errors, upload_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bulk_upload_pipeline.line import Line

MOST_A_NIGHT = 100
"""So many batches are taken again in a night; the oldest come first, the rest has its turn in the next."""

TRIED_FOR = timedelta(days=14)
"""A batch that has failed for so long will not heal by itself: it is left to a person."""

JUDGED = (State.LOADED, State.PARTIALLY_LOADED, State.REJECTED)
ENDED = (*JUDGED, State.UNREADABLE, State.FAILED)
"""A duplicate has nothing to load, and what a person has reverted stays so."""

_NAMED = 10
"""How many batches a sentence names."""

_FIRST_COME = (upload_batches.c.received_at, upload_batches.c.batch_id)


@dataclass(frozen=True, slots=True)
class Due:
    """A batch to be taken again, and why, in a few words."""

    batch_id: str
    file_name: str
    why: str


def due(line: Line, now: datetime | None = None) -> tuple[list[Due], list[Due]]:
    """Return what a night should take again, the oldest first, and what it cannot, because its file is gone."""
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
    query = sa.select(upload_batches).where(sa.or_(failed, outdated)).order_by(*_FIRST_COME)
    with line.engine.connect() as connection:
        found = [
            Due(row.batch_id, row.file_name, _why(row.state, row.rules_version))
            for row in connection.execute(query.limit(MOST_A_NIGHT))
        ]
    gone = [each for each in found if not _is_archived(line, each.batch_id)]
    return [each for each in found if each not in gone], gone


def _why(state: str, rules_version: int | None) -> str:
    if state == State.FAILED:
        return "failed"
    return f"judged by rules {rules_version}, and today's are {contract.RULES_VERSION}"


def _is_archived(line: Line, batch_id: str) -> bool:
    """Return whether the file of a batch can be read again; one that was never taken lies where it was."""
    batch = ledger.batch(line.engine, batch_id)
    return batch.sha256 is None or stages.archived_file(line, batch).exists()


def since(line: Line, day: date, profile: str | None = None) -> list[Due]:
    """Return every batch that ended and was received on a day (UTC) or later, the oldest first.

    Args:
        line: Where to look.
        day: The first day.
        profile: Only batches of this profile, or of its folder.
    """
    columns = upload_batches.c
    query = (
        sa.select(columns.batch_id, columns.file_name)
        .where(columns.received_at >= datetime.combine(day, time(), UTC), columns.state.in_(ENDED))
        .order_by(*_FIRST_COME)
    )
    if profile is not None:
        query = query.where(sa.func.coalesce(columns.profile, columns.folder) == profile)
    with line.engine.connect() as connection:
        return [
            Due(row.batch_id, row.file_name, f"received since {day}") for row in connection.execute(query)
        ]


def in_words(taken: Sequence[Due], gone: Sequence[Due] = ()) -> str:
    """Return what a night takes again, as a sentence."""
    if not taken and not gone:
        return "No batch has failed, and none waits for newer rules."
    named = "; ".join(f"{each.batch_id} ({each.why})" for each in taken[:_NAMED])
    more = f"; and {len(taken) - _NAMED:,} more" if len(taken) > _NAMED else ""
    told = f"{len(taken):,} batches are taken again{': ' if taken else ''}{named}{more}."
    if gone:
        lost = ", ".join(each.batch_id for each in gone[:_NAMED])
        told += f" The files of {len(gone):,} are not in the archive any more: {lost}."
    return told
