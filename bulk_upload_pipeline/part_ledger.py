"""What PostgreSQL knows of the parts of a shared file: `bulk_upload.file_parts`, and who has which.

A worker has a part as long as it holds the part's advisory lock, which ends with its connection however the
worker ends. A lock can be lost while its worker lives, so it decides nothing: of two that judge the same part the one
that notes it first counts, and a chunk commits only while the row of its part, locked, says that it may.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.holding import connect_alone, is_locked
from bulk_upload_pipeline.kept import stated_verdict, verdict_of
from bulk_upload_pipeline.model import ON_THE_WAY
from bulk_upload_pipeline.reading.parts import Part
from bulk_upload_pipeline.tables import file_parts, load_chunks, upload_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Sequence

    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

    from bulk_upload_pipeline.model import Verdict
    from bulk_upload_pipeline.profiles import DateOrder
    from bulk_upload_pipeline.staged import StagedPart

BETWEEN_LOOKS_S = 0.5
"""How often a worker with nothing to do looks for a part."""


@dataclass(frozen=True, slots=True)
class PartRow:
    """How far a part is.

    Attributes:
        in_doubt: Whether a date in it can only be read in the order of the whole file.
        date_orders: The orders that its dates show; None while nobody has looked.
        staged: Name of its folder once it is judged.
        first_chunk: Index of its first chunk in the batch, while it may load.
        loaded: Whether all of its chunks are committed.
    """

    number: int
    plan: str
    place: Part
    in_doubt: bool
    date_orders: frozenset[DateOrder] | None
    staged: str | None
    verdict: Verdict | None
    first_chunk: int | None
    loaded: bool


def rows(engine: sa.Engine, batch_id: str) -> list[PartRow]:
    """Return the parts of a batch in file order; none when it is not shared."""
    columns = file_parts.c
    query = sa.select(file_parts).where(columns.batch_id == batch_id).order_by(columns.part)
    with engine.connect() as connection:
        return [_part_row(row) for row in connection.execute(query)]


def _part_row(row: sa.Row[Any]) -> PartRow:
    return PartRow(
        number=row.part,
        plan=row.plan,
        place=Part(**row.place),
        in_doubt=row.in_doubt,
        date_orders=None if row.date_orders is None else frozenset(row.date_orders),
        staged=row.staged,
        verdict=None if row.verdict is None else verdict_of(row.verdict),
        first_chunk=row.first_chunk,
        loaded=row.loaded,
    )


def announce(engine: sa.Engine, batch_id: str, plan: str, parts: Sequence[Part]) -> None:
    """Make the parts of a batch known. What is judged under the same plan stays so; nothing may load yet."""
    columns = file_parts.c
    places = [
        {"batch_id": batch_id, "part": number, "plan": plan, "place": dataclasses.asdict(part)}
        for number, part in enumerate(parts)
    ]
    with engine.begin() as connection:
        connection.execute(sa.delete(file_parts).where(columns.batch_id == batch_id, columns.plan != plan))
        connection.execute(
            sa.update(file_parts).where(columns.batch_id == batch_id).values(first_chunk=None, loaded=False)
        )
        connection.execute(insert(file_parts).on_conflict_do_nothing(), places)


def note_orders(engine: sa.Engine, batch_id: str, row: PartRow, shown: Collection[DateOrder]) -> None:
    """Note the orders that the dates of a part show."""
    _update(engine, batch_id, row, date_orders=sorted(shown))


def note_doubt(engine: sa.Engine, batch_id: str, row: PartRow) -> None:
    """Note that a date of a part waits for the order of the whole file."""
    _update(engine, batch_id, row, in_doubt=True)


def note_judged(engine: sa.Engine, batch_id: str, row: PartRow, staged: str, verdict: Verdict) -> bool:
    """Note where a part is staged, and the verdict on it; return False when another worker was faster."""
    values = {"staged": staged, "verdict": stated_verdict(verdict)}
    return _update(engine, batch_id, row, file_parts.c.staged.is_(None), **values)


def note_lost(engine: sa.Engine, batch_id: str, row: PartRow) -> None:
    """Note that what was staged of a part is gone, so that it is judged again."""
    _update(engine, batch_id, row, staged=None, verdict=None)


def note_loaded(engine: sa.Engine, batch_id: str, row: PartRow) -> None:
    """Note that all chunks of a part are committed."""
    _update(engine, batch_id, row, loaded=True)


def _update(
    engine: sa.Engine, batch_id: str, row: PartRow, *where: sa.ColumnElement[bool], **values: Any
) -> bool:
    columns = file_parts.c
    mine = (columns.batch_id == batch_id, columns.part == row.number, columns.plan == row.plan)
    with engine.begin() as connection:
        return bool(connection.execute(sa.update(file_parts).where(*mine, *where).values(**values)).rowcount)


def let_load(engine: sa.Engine, batch_id: str, plan: str, parts: Sequence[StagedPart]) -> None:
    """Let the parts of a batch be loaded by whoever has time."""
    columns = file_parts.c
    with engine.begin() as connection:
        for number, part in enumerate(parts):
            mine = (columns.batch_id == batch_id, columns.plan == plan, columns.part == number)
            placed = sa.update(file_parts).where(*mine)
            connection.execute(placed.values(first_chunk=part.first_chunk, loaded=part.chunks == 0))


def make_sure(cursor: Cursor, batch_id: str, plan: str, index: int) -> None:
    """Make sure that a chunk may be loaded, until the caller's transaction ends.

    Raises:
        BatchBusyError: It may not: somebody else has begun something else with the batch.
    """
    cursor.execute(
        "SELECT FROM bulk_upload.file_parts WHERE batch_id = %s AND plan = %s AND first_chunk <= %s "
        "ORDER BY part DESC LIMIT 1 FOR SHARE",
        (batch_id, plan, index),
    )
    if cursor.rowcount != 1:
        raise BatchBusyError(batch_id)


def halt(engine: sa.Engine, batch_id: str) -> None:
    """Let no more chunk of a batch be loaded; those that are being loaded are waited for."""
    columns = file_parts.c
    with engine.begin() as connection:
        connection.execute(sa.update(file_parts).where(columns.batch_id == batch_id).values(first_chunk=None))


def forget(engine: sa.Engine, batch_id: str) -> None:
    """Drop the parts of a batch that has ended, or that one worker judges."""
    with engine.begin() as connection:
        connection.execute(sa.delete(file_parts).where(file_parts.c.batch_id == batch_id))


def committed(engine: sa.Engine, batch_id: str, plan: str) -> frozenset[int]:
    """Return the chunks of a batch that are in the target by this plan."""
    chunks = load_chunks.c
    query = sa.select(chunks.chunk_index).where(chunks.batch_id == batch_id, chunks.plan == plan)
    with engine.connect() as connection:
        return frozenset(connection.scalars(query))


def shared(engine: sa.Engine) -> list[str]:
    """Return the batches on their way that are shared, the oldest first."""
    batches = upload_batches.c
    known = sa.exists().where(file_parts.c.batch_id == batches.batch_id)
    query = sa.select(batches.batch_id).where(batches.state.in_(ON_THE_WAY), known)
    with engine.connect() as connection:
        return list(connection.scalars(query.order_by(batches.received_at, batches.batch_id)))


class Leases:
    """The parts that this worker has: one at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def one_of(self, batch_id: str, wanted: Iterable[PartRow]) -> Generator[PartRow | None]:
        """Take the first part that nobody has, for the length of the block; None when all are taken."""
        name = f"bulk_upload.part.{batch_id}."
        with self._connection.cursor() as cursor:
            taken = next((row for row in wanted if self._take(cursor, f"{name}{row.number}")), None)
            try:
                yield taken
            finally:
                if taken is not None:
                    cursor.execute("SELECT pg_advisory_unlock_all()")

    def _take(self, cursor: Cursor, name: str) -> bool:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,))
        return cursor.fetchone() == (True,)


@contextmanager
def leases(engine: sa.Engine) -> Generator[Leases]:
    """Yield a worker's leases, on a connection of their own."""
    with closing(connect_alone(engine)) as connection:
        connection.autocommit = True
        yield Leases(connection)


def free(engine: sa.Engine, batch_id: str, wanted: Sequence[PartRow]) -> int:
    """Return how many of some parts nobody has at this moment."""
    names = [f"bulk_upload.part.{batch_id}.{row.number}" for row in wanted]
    query = sa.text(
        f"SELECT count(*) FROM unnest(CAST(:names AS text[])) AS name WHERE NOT {is_locked('name')}"  # noqa: S608
    )
    with engine.connect() as connection:
        return connection.scalar(query, {"names": names}) or 0
