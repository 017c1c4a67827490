"""A verdict without a load: what `bulk-upload check` says of a file, by its content alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline import inbox, report, scratch
from bulk_upload_pipeline.exceptions import CorrectionNotJudgedError
from bulk_upload_pipeline.judging import stage
from bulk_upload_pipeline.model import Layout, Overrides, Progress, Verdict
from bulk_upload_pipeline.origin import CORRECTION
from bulk_upload_pipeline.staged import StagedBatch
from bulk_upload_pipeline.terms import judging_by, recognised
from bulk_upload_pipeline.workplace import silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulk_upload_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on a file that is not loaded.

    Attributes:
        findings: The first findings, in file order.
        beside: Sentences on sheets and rows that are in none of the counts; mostly there are none.
    """

    layout: Layout
    verdict: Verdict
    findings: list[dict[str, object]]
    beside: str


def check(
    settings: Settings,
    path: Path,
    overrides: Overrides | None = None,
    *,
    findings: int = 20,
    on_progress: Callable[[Progress], None] = silent,
) -> Checked:
    """Judge a file as a load would, without a database and without a trace.

    So it is not known whether the same bytes are loaded already, nor what a correction corrects.

    Args:
        settings: Whose profiles and limits count.
        path: The file, which stays where it is.
        overrides: What a person states about it.
        findings: How many findings to return.
        on_progress: Hears how far it is.

    Raises:
        UnreadableError: No row of it can be judged.
        CorrectionNotJudgedError: It corrects rows of a batch.
    """
    inbox.found_file(path)
    layout = recognised(settings, path, None, overrides or Overrides())
    if layout.profile == CORRECTION:
        raise CorrectionNotJudgedError
    with scratch.folder("check") as folder:
        staged = StagedBatch(folder / "staged")
        verdict = stage(judging_by(settings, path, layout, on_progress), staged, "check")
        return Checked(layout, verdict, _first_findings(staged, layout, findings), report.beside(layout))


def _first_findings(staged: StagedBatch, layout: Layout, limit: int) -> list[dict[str, object]]:
    return [finding | layout.place_of(finding["row_number"]) for finding in staged.first_findings(limit)]
