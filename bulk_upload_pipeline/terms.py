"""On what terms a file is read and judged: by which profile, and what corrections of it have loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bulk_upload_pipeline import family, ledger, mending
from bulk_upload_pipeline.archiving import archived_file
from bulk_upload_pipeline.exceptions import NothingToJudgeError
from bulk_upload_pipeline.judging import Judging
from bulk_upload_pipeline.model import ENDED_STATES
from bulk_upload_pipeline.workplace import profiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bulk_upload_pipeline.model import Batch, Layout, Overrides, Progress
    from bulk_upload_pipeline.settings import Settings
    from bulk_upload_pipeline.workplace import Line


def recognised(settings: Settings, path: Path, folder: str | None, stated: Overrides) -> Layout:
    """Return how a file is to be read, by the profiles as they are now."""
    from bulk_upload_pipeline.recognise import recognise

    return recognise(path, profiles(settings), folder=folder, overrides=stated)


def judging_of(line: Line, batch: Batch, *, is_corrected: bool = True) -> Judging:
    """Return how the file of a batch is to be judged; rows of one that `is_corrected` may be loaded by corrections.

    Raises:
        NothingToJudgeError: It was not recognised as a table.
    """
    if batch.layout is None or batch.layout.members:
        has_ended = batch.state in ENDED_STATES
        reason = ledger.receipt(line.engine, batch.batch_id).reason if has_ended else None
        raise NothingToJudgeError(batch.batch_id, batch.state, reason)
    path = archived_file(line, batch)
    plain = judging_by(line.settings, path, batch.layout, line.on_progress)
    if batch.parent_batch_id is None:
        standing = family.standing(line.engine, batch.batch_id) if is_corrected else {}
        return replace(plain, corrected=standing)
    return mending.mending(plain, line.engine, batch.batch_id, lambda parent: archived_file(line, parent))


def judging_by(
    settings: Settings, path: Path, layout: Layout, on_progress: Callable[[Progress], None]
) -> Judging:
    """Return how a file is to be judged, by the profiles as they are now."""
    profile = profiles(settings)[layout.profile]
    limit = profile.max_error_rate or settings.max_error_rate
    return Judging(path, layout, profile, settings.chunk_rows, limit, on_progress)
