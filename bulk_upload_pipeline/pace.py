"""How far a long stage is, told rarely enough that telling it costs nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bulk_upload_pipeline.model import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_APART = 2.0
PERCENT_APART = 2.0


class Pace:
    """Counts the rows of one stage and tells a listener at most every 2 s and every 2 %.

    Args:
        stage: What the listener is told is going on.
        listener: Called with each `Progress` that is told.
        rows_total: Rows of the whole stage, None while nobody knows.
    """

    def __init__(
        self, stage: str, listener: Callable[[Progress], None], rows_total: int | None = None
    ) -> None:
        self._stage, self._listener, self._rows_total = stage, listener, rows_total
        self._started = self._told = time.monotonic()
        self._told_percent = 0.0
        self._rows = 0

    def advance(self, rows: int, share: float | None = None) -> None:
        """Add rows that are done.

        Args:
            rows: How many more are done.
            share: 0 to 1 of the stage, where it is known from the bytes read instead of the rows.
        """
        self._rows += rows
        if share is None and self._rows_total:
            share = self._rows / self._rows_total
        now = time.monotonic()
        percent = None if share is None else min(share, 1.0) * 100
        due = now - self._told >= SECONDS_APART
        if due and (percent is None or percent - self._told_percent >= PERCENT_APART):
            self._told, self._told_percent = now, percent or 0.0
            self._listener(self._progress(now - self._started, percent))

    def _progress(self, seconds: float, percent: float | None) -> Progress:
        return Progress(
            stage=self._stage,
            rows_done=self._rows,
            rows_total=self._rows_total,
            rows_per_second=self._rows / seconds,
            percent=percent,
            eta_seconds=None if not percent else seconds * (100 - percent) / percent,
        )


def in_words(progress: Progress) -> str:
    """Return one readable line: `loading 37 %, 3,700,000 of 10,000,000 rows, 212,000 rows/s, 29 s left`."""
    percent = "" if progress.percent is None else f" {progress.percent:.0f} %,"
    total = "" if progress.rows_total is None else f" of {progress.rows_total:,}"
    rows = "row" if (progress.rows_total or progress.rows_done) == 1 else "rows"
    left = "" if progress.eta_seconds is None else f", {progress.eta_seconds:.0f} s left"
    return (
        f"{progress.stage}{percent} {progress.rows_done:,}{total} {rows}, "
        f"{progress.rows_per_second:,.0f} rows/s{left}"
    )
