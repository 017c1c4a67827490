"""Where the batches stand: questions about many of them at once. Each is one look at the ledger."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import sqlalchemy as sa

from bulk_upload_pipeline.kept import NO_TEXT, as_receipt, path_of, path_text
from bulk_upload_pipeline.model import ENDED_STATES, ON_THE_WAY, State
from bulk_upload_pipeline.tables import upload_batches

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from bulk_upload_pipeline.model import Receipt
    from bulk_upload_pipeline.places import Place

MOST_ON_THE_WAY = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """A file of the inbox that is a batch already but was not taken yet.

    Attributes:
        fingerprint: Of the file as it was when its run was requested; None after it was put back.
        attempt: How often a run was requested for it.
        requested_at: When that was the last time.
    """

    batch_id: str
    source: Place
    fingerprint: str | None
    attempt: int
    requested_at: datetime


def waiting(engine: sa.Engine, sources: Collection[Place]) -> dict[Place, Waiting]:
    """Return the batches that wait for these files, by the file's path."""
    if not sources:
        return {}
    columns = upload_batches.c
    query = sa.select(
        columns.batch_id, columns.source_path, columns.fingerprint, columns.attempt, columns.started_at
    ).where(columns.state == State.WAITING, columns.source_path.in_([path_text(s) for s in sources]))
    with engine.connect() as connection:
        found = [Waiting(row[0], path_of(row[1]), *row[2:]) for row in connection.execute(query)]
    return {entry.source: entry for entry in found}


def untaken(engine: sa.Engine, *, or_requested: bool = False) -> set[Place]:
    """Return where the files lie of which the ledger says why they wait, or also those for which a run was asked."""
    columns = upload_batches.c
    known = [columns.reason, columns.fingerprint] if or_requested else [columns.reason]
    query = sa.select(columns.source_path).where(
        columns.state == State.WAITING, sa.or_(*(each.is_not(None) for each in known))
    )
    with engine.connect() as connection:
        return {path_of(row.source_path) for row in connection.execute(query)}


def waiting_elsewhere(engine: sa.Engine, inbox: Place) -> dict[str, Place]:
    """Return where the files lay of the batches that wait, but not in this inbox."""
    columns = upload_batches.c
    query = sa.select(columns.batch_id, columns.source_path).where(
        columns.state == State.WAITING,
        ~columns.source_path.startswith(f"{path_text(inbox)}/", autoescape=True),
    )
    with engine.connect() as connection:
        return {row.batch_id: path_of(row.source_path) for row in connection.execute(query)}


def waiting_since(engine: sa.Engine, before: datetime, inbox: Place) -> dict[str, Place]:
    """Return where files of an inbox lay that wait and had a run asked for before a moment, the oldest batch first."""
    columns = upload_batches.c
    in_it = columns.source_path.startswith(f"{path_text(inbox)}/", autoescape=True)
    query = (
        sa.select(columns.batch_id, columns.source_path)
        .where(columns.state == State.WAITING, in_it, columns.started_at < before)
        .order_by(columns.received_at, columns.batch_id)
    )
    with engine.connect() as connection:
        return {row.batch_id: path_of(row.source_path) for row in connection.execute(query)}


def receipts(
    engine: sa.Engine, *, limit: int = 50, states: Collection[State] = (), since: datetime | None = None
) -> list[Receipt]:
    """Return the latest receipts, the newest first."""
    columns = upload_batches.c
    query = sa.select(upload_batches).order_by(columns.received_at.desc(), columns.batch_id.desc())
    if states:
        query = query.where(columns.state.in_(states))
    if since is not None:
        query = query.where(columns.finished_at >= since)
    with engine.connect() as connection:
        return [as_receipt(row) for row in connection.execute(query.limit(limit))]


def latest(engine: sa.Engine, limit: int) -> dict[str, State]:
    """Return where the latest batches stand, the newest first: a small part of what their receipts say."""
    columns = upload_batches.c
    query = sa.select(columns.batch_id, columns.state).order_by(
        columns.received_at.desc(), columns.batch_id.desc()
    )
    with engine.connect() as connection:
        return {row.batch_id: State(row.state) for row in connection.execute(query.limit(limit))}


def receipts_of(engine: sa.Engine, batch_ids: Collection[str]) -> list[Receipt]:
    """Return the receipts of some batches, in the order of their names."""
    columns = upload_batches.c
    query = sa.select(upload_batches).where(columns.batch_id.in_(batch_ids)).order_by(columns.batch_id)
    with engine.connect() as connection:
        return [as_receipt(row) for row in connection.execute(query)]


def states(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, State]:
    """Return where each of some batches stands."""
    columns = upload_batches.c
    query = sa.select(columns.batch_id, columns.state).where(columns.batch_id.in_(batch_ids))
    with engine.connect() as connection:
        return {row.batch_id: State(row.state) for row in connection.execute(query)}


def failed(engine: sa.Engine) -> list[str]:
    """Return the batches that failed, the oldest first."""
    columns = upload_batches.c
    query = (
        sa.select(columns.batch_id)
        .where(columns.state == State.FAILED)
        .order_by(columns.received_at, columns.batch_id)
    )
    with engine.connect() as connection:
        return list(connection.scalars(query))


def on_the_way(engine: sa.Engine, before: datetime, inbox: Place) -> list[str]:
    """Return batches that were taken before a moment and have not ended, the latest first, and only so many.

    What waits outside of the inbox counts as well: nobody but the command that named it would come for it.
    """
    columns = upload_batches.c
    watched = (f"{path_text(inbox)}/", NO_TEXT)
    elsewhere = sa.and_(*(~columns.source_path.startswith(each, autoescape=True) for each in watched))
    query = (
        sa.select(columns.batch_id)
        .where(sa.or_(columns.state.in_(ON_THE_WAY), sa.and_(columns.state == State.WAITING, elsewhere)))
        .where(columns.started_at < before)
        .order_by(columns.started_at.desc(), columns.batch_id)
        .limit(MOST_ON_THE_WAY)
    )
    with engine.connect() as connection:
        return list(connection.scalars(query))


def unknown(engine: sa.Engine, names: Collection[str]) -> list[str]:
    """Return those of some names that no batch has, in their order."""
    named = sa.func.unnest(sa.cast(list(names), sa.ARRAY(sa.Text))).column_valued("name")
    is_known = sa.exists().where(upload_batches.c.batch_id == named)
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(named).where(~is_known)))


def ended(engine: sa.Engine, batch_ids: Collection[str]) -> list[str]:
    """Return those of the batches that have ended for good: a failed one goes on from what it has staged."""
    if not batch_ids:
        return []
    columns = upload_batches.c
    query = sa.select(columns.batch_id).where(
        columns.batch_id.in_(batch_ids), columns.state.in_(ENDED_STATES)
    )
    with engine.connect() as connection:
        return list(connection.scalars(query))


def ended_since(engine: sa.Engine, moment: datetime) -> list[tuple[str, State, datetime]]:
    """Return the batches that have ended since a moment and stand as they ended, the oldest first: how, and when."""
    columns = upload_batches.c
    query = (
        sa.select(columns.batch_id, columns.state, columns.finished_at)
        .where(columns.finished_at >= moment, columns.state.in_(ENDED_STATES - {State.REVERTED}))
        .order_by(columns.finished_at, columns.batch_id)
    )
    with engine.connect() as connection:
        return [(row.batch_id, State(row.state), row.finished_at) for row in connection.execute(query)]
