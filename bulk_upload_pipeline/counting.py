"""What the receipt of a batch counts: what the ledger of its chunks proves, what was corrected, and what is open."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline import target
from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.model import LoadResult, Totals
from bulk_upload_pipeline.tables import load_chunks, processing_errors, upload_batches

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import Verdict
    from bulk_upload_pipeline.target import Held

# Put together once, as those of `ledger`.
_OF_BATCH: sa.BindParameter[str] = sa.bindparam("of_batch")
_OF_BATCHES: sa.BindParameter[Any] = sa.bindparam("of_batches", expanding=True)


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


_CORRECTED = sa.select(sa.func.count(processing_errors.c.row_number.distinct())).where(
    processing_errors.c.batch_id == _OF_BATCH,
    processing_errors.c.is_resolved,
    processing_errors.c.resolved_by_batch != _OF_BATCH,
)


def corrected(engine: sa.Engine, batch_id: str) -> int:
    """Return how many rejected rows of a batch are loaded by corrections."""
    with asking(engine) as connection:
        return connection.scalar(_CORRECTED, {"of_batch": batch_id}) or 0


_CODES = (
    sa.select(processing_errors.c.error_code, sa.func.count().label("findings"))
    .where(processing_errors.c.batch_id == _OF_BATCH, ~processing_errors.c.is_resolved)
    .group_by(processing_errors.c.error_code)
    .order_by(sa.func.count().desc(), processing_errors.c.error_code)
)


def _codes(engine: sa.Engine, batch_id: str) -> dict[str, int]:
    with asking(engine) as connection:
        return {row.error_code: row.findings for row in connection.execute(_CODES, {"of_batch": batch_id})}


def standing(engine: sa.Engine, entry: Entry) -> Held:
    """Return the rows that a batch loaded and that are wrong now that it is judged anew.

    They stay in the target as they are until they are corrected, or the batch is reverted.
    """
    batch_id = entry.batch.batch_id
    if entry.verdict is None or not entry.verdict.has_passed:
        return target.Held()
    return target.standing(engine, [batch_id])[batch_id]
