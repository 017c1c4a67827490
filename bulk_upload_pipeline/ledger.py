"""What PostgreSQL knows of a batch: where it is, the verdict on it, and its one receipt.

Every function is one transaction. Nothing here decides; `line` does. `kept` has the form of the rows, `counting` what a
receipt counts, `whereabouts` the questions about many batches.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from bulk_upload_pipeline import family
from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.exceptions import BatchNotFoundError
from bulk_upload_pipeline.kept import (
    as_batch,
    as_entry,
    as_receipt,
    path_text,
    stated_verdict,
    storable,
    verdict_of,
)
from bulk_upload_pipeline.model import LOADED_STATES, Overrides, State, Totals
from bulk_upload_pipeline.tables import load_chunks, processing_errors, upload_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bulk_upload_pipeline.counting import Counted
    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import Batch, Layout, Receipt, Verdict
    from bulk_upload_pipeline.places import Place

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


# What is asked


def batch(engine: sa.Engine, batch_id: str) -> Batch:
    """Return a batch.

    Raises:
        BatchNotFoundError: There is none with this id.
    """
    return as_batch(_row(engine, batch_id))


def entry(engine: sa.Engine, batch_id: str) -> Entry:
    """Return all that is known of a batch.

    Raises:
        BatchNotFoundError: There is none with this id.
    """
    return as_entry(_one(engine, _ENTRY, batch_id))


def entries(engine: sa.Engine, batch_ids: Collection[str]) -> dict[str, Entry]:
    """Return all that is known of some batches, by their ids; those that do not exist are left out."""
    with asking(engine) as connection:
        query = _ENTRIES.where(upload_batches.c.batch_id.in_(_OF_BATCHES))
        rows = connection.execute(query, {"of_batches": list(batch_ids)})
        return {row.batch_id: as_entry(row) for row in rows}


def overrides(engine: sa.Engine, batch_id: str) -> Overrides:
    """Return what a person stated about the file of a batch."""
    return Overrides(**(_row(engine, batch_id).overrides or {}))


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


def verdict(engine: sa.Engine, batch_id: str) -> Verdict | None:
    """Return the kept verdict on a batch, None while there is none."""
    stated: dict[str, Any] | None = _row(engine, batch_id).verdict
    return None if stated is None else verdict_of(stated)


def receipt(engine: sa.Engine, batch_id: str) -> Receipt:
    """Return the receipt of a batch, which is still open while its state is not final."""
    return as_receipt(_row(engine, batch_id))


def _row(engine: sa.Engine, batch_id: str) -> sa.Row[Any]:
    return _one(engine, _ROW, batch_id)


def _one(engine: sa.Engine, query: sa.Select[Any], batch_id: str) -> sa.Row[Any]:
    with asking(engine) as connection:
        row = connection.execute(query, {"of_batch": batch_id}).one_or_none()
    if row is None:
        raise BatchNotFoundError(batch_id)
    return row


# What is noted, in the order of the line


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
            "source_path": path_text(batch.source),
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


def request_again(engine: sa.Engine, batch_id: str, size: int, fingerprint: str) -> int:
    """Note that another run is requested for a waiting batch; return which attempt it is."""
    return _update(
        engine,
        batch_id,
        file_size=size,
        fingerprint=fingerprint,
        attempt=upload_batches.c.attempt + 1,
        started_at=sa.func.now(),
        # It changes no more; why it could not be taken holds until it is.
        reason=sa.case((upload_batches.c.fingerprint.is_not(None), upload_batches.c.reason)),
    ).attempt


def could_not_be_taken(engine: sa.Engine, batch_id: str, reason: str) -> None:
    """Note why the file of a batch still waits, although its run was there."""
    _update(engine, batch_id, reason=storable(reason))


def moved(engine: sa.Engine, batch_id: str, source: Place) -> None:
    """Note that the file of a waiting batch lies elsewhere by now."""
    _update(engine, batch_id, source_path=path_text(source))


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
    return as_batch(row)


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
    return as_batch(row)


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


_LOADING = sa.update(upload_batches).where(upload_batches.c.batch_id == _OF_BATCH).values(state=State.LOADING)


def loading(engine: sa.Engine, batch_id: str) -> None:
    """Note that chunks of a batch are being loaded."""
    with asking(engine) as connection:
        connection.execute(_LOADING, {"of_batch": batch_id})


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
        control_totals=_control_totals(counts, judged),
        duplicate_of=duplicate_of,
        finished_at=upload_batches.c.finished_at if again else sa.func.now(),
    )
    return as_receipt(closed)


def _control_totals(counts: Counted, judged: Verdict | None) -> dict[str, Any]:
    """Return the sums of the rows read, loaded and, where there are any, `standing`."""
    totals: dict[str, Any] = {
        "read": (judged.totals_read if judged else Totals()).as_dict(),
        "loaded": counts.done.totals.as_dict(),
    }
    if counts.standing.rows:
        totals["standing"] = {"rows": counts.standing.rows} | counts.standing.totals.as_dict()
    return totals


def _update(engine: sa.Engine, batch_id: str, **values: Any) -> sa.Row[Any]:
    worked_out = {name: value for name, value in values.items() if isinstance(value, sa.ColumnElement)}
    stated = {name: value for name, value in values.items() if name not in worked_out}
    with asking(engine) as connection:
        row = connection.execute(_UPDATE.values(worked_out), stated | {"of_batch": batch_id}).one_or_none()
    if row is None:
        raise BatchNotFoundError(batch_id)
    return row
