"""What PostgreSQL knows of the batches: who is where, the verdict, and the one receipt of each.

Every function is one transaction. Nothing here decides; `line` does.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from bulk_upload_pipeline import family, target
from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.exceptions import BatchNotFoundError
from bulk_upload_pipeline.model import (
    FINAL_STATES,
    LOADED_STATES,
    Batch,
    Layout,
    LoadResult,
    Overrides,
    Receipt,
    Sheet,
    State,
    Totals,
    Verdict,
)
from bulk_upload_pipeline.places import place_of
from bulk_upload_pipeline.tables import load_chunks, processing_errors, upload_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.target import Held


# Questions that every file asks are put together once: that takes longer than their answer.
_OF_BATCH: sa.BindParameter[str] = sa.bindparam("of_batch")
_OF_BATCHES: sa.BindParameter[Any] = sa.bindparam("of_batches", expanding=True)
_ROW = sa.select(upload_batches).where(upload_batches.c.batch_id == _OF_BATCH)


def _has_passed(batches: sa.FromClause) -> sa.ColumnElement[bool]:
    chunks = sa.exists().where(load_chunks.c.batch_id == batches.c.batch_id)
    return sa.or_(chunks, sa.func.coalesce(batches.c.verdict["has_passed"].as_boolean(), False))


_ENTRIES = sa.select(
    upload_batches,
    _has_passed(upload_batches).label("has_passed"),
    sa.exists().where(processing_errors.c.batch_id == upload_batches.c.batch_id).label("has_findings"),
    sa.exists()
    .where(family.corrected_rows.c.root_batch_id == upload_batches.c.batch_id)
    .label("has_corrections"),
)
_ENTRY = _ENTRIES.where(upload_batches.c.batch_id == _OF_BATCH)
_UPDATE = sa.update(upload_batches).where(upload_batches.c.batch_id == _OF_BATCH).returning(upload_batches)

_NO_TEXT = "hex:"
"""How a place begins in `source_path` when its bytes are no text; others are absolute paths, or URLs."""


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


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """All that the ledger says of a batch, from one look at it.

    Attributes:
        stated: What a person stated about the file.
        has_passed: Whether rows of it were loaded, be it before it was judged anew, and not reverted since.
        has_findings: Whether there are any, resolved ones included.
        has_corrections: Whether corrections brought rows of it, loaded or not.
    """

    batch: Batch
    stated: Overrides
    verdict: Verdict | None
    receipt: Receipt
    has_passed: bool
    has_findings: bool
    has_corrections: bool


def register(
    engine: sa.Engine, batches: Sequence[Batch], fingerprints: Sequence[str | None], overrides: Overrides
) -> None:
    """Make files known as batches in state `waiting`; one that is known already stays as it is."""
    if not batches:
        return
    rows = [
        {
            "batch_id": batch.batch_id,
            "file_name": storable(batch.file_name),
            "file_size": batch.file_size,
            "source_path": _path_text(batch.source),
            "folder": batch.folder,
            "fingerprint": fingerprint,
            "overrides": dataclasses.asdict(overrides),
            "state": State.WAITING,
            "received_at": batch.received_at,
            "started_at": batch.received_at,
        }
        for batch, fingerprint in zip(batches, fingerprints, strict=True)
    ]
    with engine.begin() as connection:
        connection.execute(insert(upload_batches).on_conflict_do_nothing(), rows)


def waiting(engine: sa.Engine, sources: Collection[Place]) -> dict[Place, Waiting]:
    """Return the batches that wait for these files, by the file's path."""
    if not sources:
        return {}
    columns = upload_batches.c
    query = sa.select(
        columns.batch_id, columns.source_path, columns.fingerprint, columns.attempt, columns.started_at
    ).where(columns.state == State.WAITING, columns.source_path.in_([_path_text(s) for s in sources]))
    with engine.connect() as connection:
        found = [Waiting(row[0], _path(row[1]), *row[2:]) for row in connection.execute(query)]
    return {entry.source: entry for entry in found}


def request_again(engine: sa.Engine, batch_id: str, size: int, fingerprint: str) -> int:
    """Note that another run is requested for a waiting batch; return which attempt it is."""
    return _update(
        engine,
        batch_id,
        file_size=size,
        fingerprint=fingerprint,
        attempt=upload_batches.c.attempt + 1,
        started_at=sa.func.now(),
    ).attempt


def put_back(engine: sa.Engine, batch_id: str, reason: str) -> None:
    """Return a batch to `waiting`: its file changed while it was read and lies in the inbox again."""
    _update(
        engine,
        batch_id,
        state=State.WAITING,
        fingerprint=None,
        sha256=None,
        layout=None,
        reason=storable(reason),
        findings_by_code=None,
        control_totals=None,
        finished_at=None,
    )


def batch(engine: sa.Engine, batch_id: str) -> Batch:
    """Return a batch.

    Raises:
        BatchNotFoundError: There is none with this id.
    """
    return _batch(_row(engine, batch_id))


def entry(engine: sa.Engine, batch_id: str) -> Entry:
    """Return all that is known of a batch.

    Raises:
        BatchNotFoundError: There is none with this id.
    """
    return _entry(_one(engine, _ENTRY, batch_id))


def entries(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, Entry]:
    """Return all that is known of some batches, by their ids; those that do not exist are left out."""
    with asking(engine) as connection:
        query = _ENTRIES.where(upload_batches.c.batch_id.in_(_OF_BATCHES))
        rows = connection.execute(query, {"of_batches": list(batch_ids)})
        return {row.batch_id: _entry(row) for row in rows}


def overrides(engine: sa.Engine, batch_id: str) -> Overrides:
    """Return what a person stated about the file of a batch."""
    return Overrides(**(_row(engine, batch_id).overrides or {}))


def received(engine: sa.Engine, batch_id: str, sha256: str, run_id: str | None) -> Batch:
    """Note that the file of a batch is archived and hashed; return the batch as it is then."""
    row = _update(
        engine,
        batch_id,
        state=State.RECEIVED,
        sha256=sha256,
        run_id=run_id,
        reason=None,
        duplicate_of=None,
        started_at=sa.func.now(),
        finished_at=None,
    )
    return _batch(row)


def recognised(engine: sa.Engine, batch_id: str, layout: Layout, parent: str | None = None) -> Batch:
    """Note how the file of a batch is laid out, and which batch it corrects; return the batch as it is then."""
    written = layout.written_as or layout
    row = _update(
        engine,
        batch_id,
        layout=dataclasses.asdict(layout),
        file_format=written.file_format,
        encoding=written.encoding,
        profile=layout.profile,
        parent_batch_id=parent,
    )
    return _batch(row)


def _loaded_with() -> sa.Select[Any]:
    columns, this = upload_batches.c, upload_batches.alias("this")
    passed = sa.select(_has_passed(this)).where(this.c.batch_id == _OF_BATCH).scalar_subquery()
    chunks = sa.select(sa.func.count()).where(load_chunks.c.batch_id == columns.batch_id).scalar_subquery()
    ready = sa.and_(columns.state == State.LOADING, columns.verdict["chunks"].as_integer() == chunks)
    return (
        sa.select(columns.batch_id)
        .where(columns.sha256 == sa.bindparam("sha256"), columns.batch_id != _OF_BATCH)
        .where(sa.or_(columns.state.in_(LOADED_STATES), ready), sa.not_(passed))
        .order_by(columns.received_at, columns.batch_id)
        .limit(1)
    )


_LOADED_WITH = _loaded_with()


def loaded_with(engine: sa.Engine, sha256: str, besides: str) -> str | None:
    """Return the first batch that loaded the same bytes, other than `besides`; none when that did so itself.

    One of which all chunks are committed is loaded, though its receipt is still to be written.
    """
    with asking(engine) as connection:
        return connection.scalar(_LOADED_WITH, {"sha256": sha256, "of_batch": besides})


def has_passed(engine: sa.Engine, batch_id: str) -> bool:
    """Return whether rows of a batch were loaded, be it before it was judged anew, and not reverted since."""
    query = sa.select(_has_passed(upload_batches)).where(upload_batches.c.batch_id == _OF_BATCH)
    with asking(engine) as connection:
        return bool(connection.scalar(query, {"of_batch": batch_id}))


def standing(engine: sa.Engine, entry: Entry) -> Held:
    """Return the rows that a batch loaded and that are wrong now that it is judged anew.

    They stay in the target as they are until they are corrected, or the batch is reverted.
    """
    batch_id = entry.batch.batch_id
    if entry.verdict is None or not entry.verdict.has_passed:
        return target.Held()
    return target.standing(engine, [batch_id])[batch_id]


_CORRECTED = sa.select(sa.func.count(processing_errors.c.row_number.distinct())).where(
    processing_errors.c.batch_id == _OF_BATCH,
    processing_errors.c.is_resolved,
    processing_errors.c.resolved_by_batch != _OF_BATCH,
)


def corrected(engine: sa.Engine, batch_id: str) -> int:
    """Return how many rejected rows of a batch are loaded by corrections."""
    with asking(engine) as connection:
        return connection.scalar(_CORRECTED, {"of_batch": batch_id}) or 0


def keep_verdict(connection: sa.Connection, batch_id: str, verdict: Verdict) -> None:
    """Keep the verdict on a batch; in the caller's transaction, with its findings."""
    connection.execute(
        sa.update(upload_batches)
        .where(upload_batches.c.batch_id == batch_id)
        .values(
            verdict=stated_verdict(verdict),
            state=State.VALIDATED,
            validated_at=sa.func.clock_timestamp(),  # the transaction began before the findings were copied
            rows_read=verdict.rows_read,
            rows_rejected=verdict.rows_rejected,
            rows_unprocessed=verdict.rows_valid,
            rows_inserted=0,
            rows_updated=0,
            rows_unchanged=0,
            warnings=verdict.warnings,
            rules_version=verdict.rules_version,
            max_error_rate=verdict.max_error_rate,
            findings_by_code=verdict.findings_by_code,
            control_totals={"read": verdict.totals_read.as_dict()},
        )
    )


def verdict(engine: sa.Engine, batch_id: str) -> Verdict | None:
    """Return the kept verdict on a batch, None while there is none."""
    stated: dict[str, Any] | None = _row(engine, batch_id).verdict
    return None if stated is None else verdict_of(stated)


def stated_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as it is kept: JSON."""
    return dataclasses.asdict(verdict) | {
        "totals_read": verdict.totals_read.as_dict(),
        "totals_valid": verdict.totals_valid.as_dict(),
    }


def verdict_of(stated: dict[str, Any]) -> Verdict:
    """Return a verdict that was kept."""
    totals = {name: _totals(stated[name]) for name in ("totals_read", "totals_valid")}
    return Verdict(**(stated | totals))


_LOADING = sa.update(upload_batches).where(upload_batches.c.batch_id == _OF_BATCH).values(state=State.LOADING)


def loading(engine: sa.Engine, batch_id: str) -> None:
    """Note that chunks of a batch are being loaded."""
    with asking(engine) as connection:
        connection.execute(_LOADING, {"of_batch": batch_id})


def committed(engine: sa.Engine, batch_id: str) -> LoadResult:
    """Return what the chunk ledger says is in the target by now, under the verdict on the batch.

    Chunks of an older plan count for nothing from the moment at which the batch is judged anew: the next load forgets
    them, and what is wrong by now of their rows is counted as `standing`.
    """
    return committed_of(engine, [batch_id])[batch_id]


_SUMS = ("inserted", "updated", "unchanged", "refused", "quantity", "item_total")
_COMMITTED = (
    sa.select(load_chunks.c.batch_id, *(sa.func.sum(load_chunks.c[name]) for name in _SUMS))
    .join(upload_batches, upload_batches.c.batch_id == load_chunks.c.batch_id)
    .where(load_chunks.c.batch_id.in_(_OF_BATCHES))
    .where(load_chunks.c.plan == upload_batches.c.verdict["plan"].as_string())
    .group_by(load_chunks.c.batch_id)
)


def committed_of(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, LoadResult]:
    """Return what the chunk ledger says of each of some batches."""
    with asking(engine) as connection:
        rows = connection.execute(_COMMITTED, {"of_batches": list(batch_ids)})
        found: dict[str, Sequence[Any]] = {row[0]: row[1:] for row in rows}
    nothing = (0,) * len(_SUMS)
    return {batch_id: _load_result(found.get(batch_id, nothing)) for batch_id in batch_ids}


def _load_result(sums: Sequence[Any]) -> LoadResult:
    inserted, updated, unchanged, refused, quantity, item_total = sums
    totals = Totals(Decimal(quantity), Decimal(item_total))
    return LoadResult(int(inserted), int(updated), int(unchanged), int(refused), totals)


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """What a receipt counts.

    Attributes:
        verdict: That on the batch, None without one.
        done: What the chunk ledger proves.
        corrected: Rejected rows that corrections have loaded.
        findings_by_code: Those that are open, the most frequent first.
        standing: Rows that are loaded, and wrong now that they are judged anew.
    """

    verdict: Verdict | None
    done: LoadResult
    corrected: int
    findings_by_code: dict[str, int]
    standing: Held


def counted(engine: sa.Engine, entry: Entry) -> Counted:
    """Return what the receipt of a batch counts now; whoever looked at its entry keeps others from loading it."""
    batch_id = entry.batch.batch_id
    return Counted(
        entry.verdict,
        committed(engine, batch_id),
        corrected(engine, batch_id) if entry.has_findings else 0,
        _codes(engine, batch_id) if entry.has_findings else {},
        standing(engine, entry),
    )


def close(
    engine: sa.Engine,
    batch_id: str,
    state: State,
    reason: str,
    counts: Counted,
    *,
    duplicate_of: str | None = None,
    again: bool = False,
) -> Receipt:
    """Write the receipt of a batch: its final state, with the counts that the chunk ledger proves.

    Rows that were read but are neither loaded nor rejected are `unprocessed`, so that the conservation law
    holds in every exit. The time at which it ended stays when the receipt is written `again`.
    """
    done = counts.done
    judged = None if state in (State.UNREADABLE, State.DUPLICATE) else counts.verdict
    rejected = (judged.rows_rejected if judged else 0) + done.refused
    read = judged.rows_read if judged else done.rows + rejected
    totals: dict[str, Any] = {
        "read": (judged.totals_read if judged else Totals()).as_dict(),
        "loaded": done.totals.as_dict(),
    }
    if counts.standing.rows:
        totals["standing"] = {"rows": counts.standing.rows} | counts.standing.totals.as_dict()
    closed = _update(
        engine,
        batch_id,
        state=state,
        reason=storable(reason),
        rows_read=read,
        rows_inserted=done.inserted,
        rows_updated=done.updated,
        rows_unchanged=done.unchanged,
        rows_rejected=rejected,
        rows_unprocessed=read - done.rows - rejected,
        rows_corrected=min(counts.corrected, rejected),
        findings_by_code=counts.findings_by_code,
        control_totals=totals,
        duplicate_of=duplicate_of,
        finished_at=upload_batches.c.finished_at if again else sa.func.now(),
    )
    return as_receipt(closed)


_CODES = (
    sa.select(processing_errors.c.error_code, sa.func.count().label("findings"))
    .where(processing_errors.c.batch_id == _OF_BATCH, ~processing_errors.c.is_resolved)
    .group_by(processing_errors.c.error_code)
    .order_by(sa.func.count().desc(), processing_errors.c.error_code)
)


def _codes(engine: sa.Engine, batch_id: str) -> dict[str, int]:
    with asking(engine) as connection:
        return {row.error_code: row.findings for row in connection.execute(_CODES, {"of_batch": batch_id})}


def receipt(engine: sa.Engine, batch_id: str) -> Receipt:
    """Return the receipt of a batch, which is still open while its state is not final."""
    return as_receipt(_row(engine, batch_id))


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


ON_THE_WAY = (State.RECEIVED, State.VALIDATED, State.LOADING)
MOST_ON_THE_WAY = 50


def on_the_way(engine: sa.Engine, before: datetime) -> list[str]:
    """Return batches that were taken before a moment and have not ended, the latest first, and only so many."""
    columns = upload_batches.c
    query = (
        sa.select(columns.batch_id)
        .where(columns.state.in_(ON_THE_WAY), columns.started_at < before)
        .order_by(columns.started_at.desc(), columns.batch_id)
        .limit(MOST_ON_THE_WAY)
    )
    with engine.connect() as connection:
        return list(connection.scalars(query))


def unfinished(engine: sa.Engine, batch_id: str) -> bool:
    """Return whether a batch has not ended in one of the exits."""
    return State(_row(engine, batch_id).state) not in FINAL_STATES


def ended(engine: sa.Engine, batch_ids: Collection[str]) -> list[str]:
    """Return those of the batches that have ended for good: a failed one goes on from what it has staged."""
    columns = upload_batches.c
    query = sa.select(columns.batch_id).where(
        columns.batch_id.in_(batch_ids), columns.state.in_(FINAL_STATES - {State.FAILED})
    )
    if not batch_ids:
        return []
    with engine.connect() as connection:
        return list(connection.scalars(query))


def as_receipt(row: sa.Row[Any]) -> Receipt:
    """Return a row of `upload_batches` as a receipt."""
    stated = row._asdict()
    names = {field.name for field in dataclasses.fields(Receipt)}
    empty = {"layout": {}, "findings_by_code": {}, "control_totals": {}, "reason": ""}
    values = {name: stated[name] for name in names}
    values |= {name: value for name, value in empty.items() if values[name] is None}
    return Receipt(**(values | {"state": State(row.state)}))


def _entry(row: sa.Row[Any]) -> Entry:
    return Entry(
        _batch(row),
        Overrides(**(row.overrides or {})),
        None if row.verdict is None else verdict_of(row.verdict),
        as_receipt(row),
        row.has_passed,
        row.has_findings,
        row.has_corrections,
    )


def _batch(row: sa.Row[Any]) -> Batch:
    return Batch(
        batch_id=row.batch_id,
        file_name=row.file_name,
        state=State(row.state),
        source=_path(row.source_path),
        received_at=row.received_at,
        file_size=row.file_size,
        folder=row.folder,
        sha256=row.sha256,
        layout=None if row.layout is None else _layout(row.layout),
        run_id=row.run_id,
        parent_batch_id=row.parent_batch_id,
        duplicate_of=row.duplicate_of,
    )


def _row(engine: sa.Engine, batch_id: str) -> sa.Row[Any]:
    return _one(engine, _ROW, batch_id)


def _one(engine: sa.Engine, query: sa.Select[Any], batch_id: str) -> sa.Row[Any]:
    with asking(engine) as connection:
        row = connection.execute(query, {"of_batch": batch_id}).one_or_none()
    if row is None:
        raise BatchNotFoundError(batch_id)
    return row


def _update(engine: sa.Engine, batch_id: str, **values: Any) -> sa.Row[Any]:
    worked_out = {name: value for name, value in values.items() if isinstance(value, sa.ColumnElement)}
    stated = {name: value for name, value in values.items() if name not in worked_out}
    with asking(engine) as connection:
        row = connection.execute(_UPDATE.values(worked_out), stated | {"of_batch": batch_id}).one_or_none()
    if row is None:
        raise BatchNotFoundError(batch_id)
    return row


def _layout(stated: dict[str, Any]) -> Layout:
    sheets = tuple(Sheet(**sheet) for sheet in stated["sheets"])
    lists = {name: tuple(stated.get(name, ())) for name in ("header", "left_out", "unread_sheets", "members")}
    written = stated.get("written_as")
    nested = {"sheets": sheets, "written_as": None if written is None else _layout(written)}
    return Layout(**(stated | lists | nested))


def _totals(stated: dict[str, str]) -> Totals:
    return Totals(Decimal(stated["quantity"]), Decimal(stated["item_total"]))


def storable(text: str) -> str:
    """Return a text of somebody else's as PostgreSQL can hold it: bytes that are no text are shown by number."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "")


def _path_text(place: Place) -> str:
    """Return a place as text that PostgreSQL can hold and `_path` turns back, whatever bytes it has."""
    text = str(place)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _NO_TEXT + text.encode("utf-8", "surrogateescape").hex()
    return text


def _path(text: str) -> Place:
    if text.startswith(_NO_TEXT):
        return place_of(bytes.fromhex(text.removeprefix(_NO_TEXT)).decode("utf-8", "surrogateescape"))
    return place_of(text)
