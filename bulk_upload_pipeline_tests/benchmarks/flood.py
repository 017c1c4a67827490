"""The measures S7 to S9: files dropped into the inbox of a running `bulk-upload up`."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline.inspection import INSPECTIONS
from bulk_upload_pipeline.model import FINAL_STATES
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.benchmarks.outcome import Outcome
from bulk_upload_pipeline_tests.upped import Upped, upped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline_tests.benchmarks.measures import Sizes

ASSETS = ("upload", "validated_invoices", "processing_errors", "mangalam_invoices", "upload_receipts")
BETWEEN_LOOKS_S = 0.2
BETWEEN_QUESTIONS_S = 2.0
PATIENCE_S = 1800
SLOWEST_ANSWER_S = 10.0
"""A page of the UI that takes longer is none that people use."""

_RUNS = "{ runsOrError(limit: 25) { ... on Runs { results { runId status jobName } } } }"
_TICKS = """
{
  sensorOrError(sensorSelector: {
    repositoryName: "__repository__", repositoryLocationName: "bulk_upload_pipeline", sensorName: "inbox_sensor"
  }) {
    ... on Sensor { sensorState { ticks(limit: 500) { status timestamp endTimestamp error { message } } } }
  }
}
"""


@dataclass
class Flood:
    """Files that were dropped at once, and what became of them."""

    up: Upped
    names: list[str]
    started_at: datetime
    answers: list[float] = field(default_factory=list)

    def batches(self) -> dict[str, datetime]:
        """Return when each batch got its receipt, of those that have one."""
        query = sa.text(
            "SELECT batch_id, finished_at FROM bulk_upload.upload_batches "
            "WHERE file_name = ANY(:names) AND state = ANY(:final)"
        )
        assert self.up.engine is not None
        with self.up.engine.connect() as connection:
            rows = connection.execute(query, {"names": self.names, "final": [str(s) for s in FINAL_STATES]})
            return {row.batch_id: row.finished_at for row in rows}

    def last_receipt(self) -> float:
        """Wait for the last receipt; return the seconds from the drop to it.

        Raises:
            SystemExit: It does not come.
        """
        deadline = time.monotonic() + PATIENCE_S
        with self._asking():
            while len(done := self.batches()) < len(self.names):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{len(done):,} of {len(self.names):,} files have their receipt.")
                time.sleep(BETWEEN_LOOKS_S)
        return (max(done.values()) - self.started_at).total_seconds()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the UI all the time for its list of runs, as a page that is open does."""
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(BETWEEN_QUESTIONS_S):
                began = time.monotonic()
                self.up.ask(_RUNS)
                self.answers.append(time.monotonic() - began)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            yield
        finally:
            stop.set()
            asking.join()

    def refuse_what_is_missing(self) -> None:
        """Hold every batch to its materializations and checks.

        Raises:
            SystemExit: One lacks some.
        """
        wanted = set(self.batches())
        deadline = time.monotonic() + 60  # the events of the last file follow its receipt
        while missing := self._missing(wanted):
            if time.monotonic() > deadline:
                raise SystemExit(f"Not all batches have {missing}.")
            time.sleep(1)

    def _missing(self, wanted: set[str]) -> str | None:
        assert self.up.engine is not None
        url = self.up.engine.url.set(database="dagster")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            for asset in ASSETS:
                found = connection.scalars(
                    sa.text(
                        "SELECT DISTINCT partition FROM event_logs WHERE asset_key = :asset "
                        "AND dagster_event_type = 'ASSET_MATERIALIZATION'"
                    ),
                    {"asset": f'["{asset}"]'},
                )
                if not wanted <= set(found):
                    return f"a materialization of {asset}"
            for inspected in INSPECTIONS:
                found = connection.scalars(
                    sa.text("SELECT partition FROM asset_check_executions WHERE check_name = :check"),
                    {"check": inspected.name},
                )
                if not wanted <= set(found):
                    return f"a result of {inspected.name}"
        return None


def drop(up: Upped, files: list[Path]) -> Flood:
    """Move files into the inbox at once."""
    started_at = datetime.now(UTC)
    for file in files:
        file.rename(up.home.inbox / file.name)
    return Flood(up, [file.name for file in files], started_at)


def _written(folder: Path, prefix: str, files: int, rows: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{prefix}-{number:05}.csv" for number in range(files)]
    for number, path in enumerate(paths):
        write_sample(path, rows=rows, seed=sum(map(ord, prefix)) * 100_000 + number)
    return paths


def s7(up: Upped, folder: Path, sizes: Sizes) -> list[Outcome]:
    """One file at a time into an idle `up`."""
    waited = sorted(
        drop(up, [file]).last_receipt() for file in _written(folder, "single", sizes.drops, 1_000)
    )
    p95 = waited[-(-len(waited) * 95 // 100) - 1]
    what = f"drop to receipt, 1,000 rows, idle, p95 of {sizes.drops}"
    return [Outcome("S7", what, "s", p95, 8.0, details={"ours": waited})]


def s8(up: Upped, folder: Path, sizes: Sizes) -> list[Outcome]:
    """Many small files at once, each with its own outcome."""
    flood = drop(up, _written(folder, "small", sizes.small_files, sizes.small_rows))
    seconds = flood.last_receipt()
    flood.refuse_what_is_missing()
    what = f"{sizes.small_files:,} files of {sizes.small_rows:,} rows at once, to the last receipt"
    return [Outcome("S8", what, "s", seconds, 30.0, details={"answers_s": flood.answers})]


def s9(up: Upped, folder: Path, sizes: Sizes) -> list[Outcome]:
    """A flood of tiny files: it passes, the UI answers, and no tick of the sensor fails."""
    flood = drop(up, _written(folder, "tiny", sizes.tiny_files, 20))
    seconds = flood.last_receipt()
    ticks = _ticks(up)
    failed = [tick["error"] for tick in ticks if tick["status"] == "FAILURE"]
    longest = max((t["endTimestamp"] - t["timestamp"] for t in ticks if t["endTimestamp"]), default=0.0)
    details = {"answers_s": flood.answers, "longest_tick_s": longest, "failed_ticks": failed}
    files = f"{sizes.tiny_files:,} files of 20 rows at once"
    slowest = max(flood.answers, default=0.0)
    return [
        Outcome(
            "S9",
            f"{files}, to the last receipt",
            "s",
            seconds,
            600 * sizes.tiny_files / 10_000,
            details=details,
        ),
        Outcome("S9", "  slowest answer of the UI meanwhile", "s", slowest, SLOWEST_ANSWER_S),
        Outcome("S9", "  ticks of the sensor that failed", "", len(failed), 0),
        Outcome("S9", "  longest tick of the sensor", "s", longest, 60.0),
    ]


def _ticks(up: Upped) -> list[dict[str, Any]]:
    return up.ask(_TICKS)["sensorOrError"]["sensorState"]["ticks"]


@contextmanager
def running(root: Path) -> Iterator[Upped]:
    """Yield an `up` with an embedded server of its own, at rest."""
    with upped(root) as up:
        yield up
