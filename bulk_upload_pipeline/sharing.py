"""A huge file on the line: whether it is judged in parts, what each worker does of it, and how others help."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bulk_upload_pipeline import helping, ledger, part_judging, part_ledger, splitting, storage
from bulk_upload_pipeline.exceptions import WorkersDifferError
from bulk_upload_pipeline.judging import plan_of, stage
from bulk_upload_pipeline.model import ON_THE_WAY
from bulk_upload_pipeline.part_loading import LoadShare
from bulk_upload_pipeline.splitting import Shared
from bulk_upload_pipeline.terms import judging_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bulk_upload_pipeline.judging import Judging
    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import Batch, Verdict
    from bulk_upload_pipeline.pace import Pace
    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.reading.parts import Part
    from bulk_upload_pipeline.staged import StagedBatch
    from bulk_upload_pipeline.workplace import Line


def judged(line: Line, entry: Entry, judging: Judging) -> Verdict:
    """Judge a file and stage what may load: a huge one together with whoever helps.

    A batch that has passed the gate before may have more open rows than then, when a correction of it was reverted
    or rules are stricter: what is loaded is no wrong file.
    """
    batch, plan = entry.batch, plan_of(judging, entry.batch.sha256)
    parts = splitting.planned(judging, line.settings.part_bytes) if _is_parted(line, entry, plan) else ()
    if parts:
        verdict = part_judging.judge(shared(line, batch, judging, parts), parts)
        return replace(verdict, has_passed=entry.has_passed)
    if batch.file_size >= line.settings.part_bytes:
        part_ledger.forget(line.engine, batch.batch_id)
    verdict = stage(judging, line.staged(batch.batch_id, plan), plan)
    verdict = replace(verdict, has_passed=entry.has_passed)
    if not verdict.breaker_tripped:
        storage.publish(line.home, line.staging(batch.batch_id, plan))
    return verdict


def _is_parted(line: Line, entry: Entry, plan: str) -> bool:
    """Return whether a file is judged in parts, if it is huge: to plan them takes a reading, which help must be worth.

    What was begun in parts goes on so, and what was judged as a whole by this plan is again: else the chunk ledger
    would know nothing of what is loaded.
    """
    if entry.verdict is not None:
        return entry.verdict.plan != plan
    return line.is_helped or bool(part_ledger.rows(line.engine, entry.batch.batch_id))


def shared(line: Line, batch: Batch, judging: Judging, parts: Sequence[Part]) -> Shared:
    """Return a huge file that is judged in these parts, as this worker sees it."""
    plan = splitting.plan_in_parts(plan_of(judging, batch.sha256), parts)
    return _shared_by_plan(line, batch, judging, plan)


def _shared_by_plan(line: Line, batch: Batch, judging: Judging, plan: str) -> Shared:
    place = line.staging(batch.batch_id, plan)
    return Shared(
        line.engine,
        batch.batch_id,
        judging,
        line.staged(batch.batch_id, plan),
        plan,
        publish=lambda folder: storage.publish(line.home, place / folder),
        bring=lambda folder: _bring(line, place / folder),
    )


def _bring(line: Line, place: Place) -> None:
    storage.folder_at_hand(line.home, place)


@contextmanager
def share_of(
    line: Line, batch: Batch, staged: StagedBatch, plan: str, pace: Pace
) -> Iterator[LoadShare | None]:
    """Yield what is loaded here of a huge file, so that others can load the rest; None means all of it."""
    if not staged.parts:
        yield None
        return
    whole = _shared_by_plan(line, batch, judging_of(line, batch), plan)
    if len(whole.rows()) != len(staged.parts):
        for part in staged.parts:
            whole.bring(part.folder)
        yield None
        return
    with part_ledger.leases(line.engine) as leases:
        yield LoadShare(whole, leases, pace.advance)


def help_along(line: Line, batch_id: str, stays: Callable[[], bool] = lambda: True) -> int:
    """Work on the parts of a huge file that another worker has taken, until nothing is left to do.

    Args:
        line: Of this worker.
        batch_id: Whose file it is; one that is not shared, or has ended (be it that a person cancelled it
            meanwhile), needs no help.
        stays: Asked before each part; the helper leaves when it answers no.

    Returns:
        How many parts it has worked on.

    Raises:
        WorkersDifferError: This worker would judge the file by other rules.
    """
    rows = part_ledger.rows(line.engine, batch_id)
    if not rows:
        return 0
    batch = ledger.batch(line.engine, batch_id)
    assert batch.layout is not None
    judging = judging_of(line, batch)
    whole = shared(line, batch, judging, [row.place for row in rows])
    if whole.plan != rows[0].plan:
        raise WorkersDifferError(batch_id)

    def is_wanted() -> bool:
        return ledger.batch(line.engine, batch_id).state in ON_THE_WAY and stays()

    with storage.naming_a_full_disk(line.home, batch_id):
        return helping.help_along(whole, judging.profile.on_conflict, is_wanted)


def parts_without_worker(line: Line) -> dict[str, int]:
    """Return how many parts of each huge file on its way could be worked on now, but nobody does."""
    found: dict[str, int] = {}
    for batch_id in part_ledger.shared(line.engine):
        found[batch_id] = part_ledger.free(
            line.engine, batch_id, helping.open_parts(part_ledger.rows(line.engine, batch_id))
        )
    return found
