"""Each stage of validating on one core, without a database: where the time of a file goes.

python -m bulk_upload_pipeline_tests.benchmarks.stages --rows 300000
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bulk_upload_pipeline.judging import give_memory_back_soon
from bulk_upload_pipeline.loading.copying import Text
from bulk_upload_pipeline.parse import parse_chunk
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.settings import DEFAULT_CHUNK_ROWS, DEFAULT_MAX_ERROR_RATE
from bulk_upload_pipeline.stage import Stage
from bulk_upload_pipeline.validate import judge
from bulk_upload_pipeline_tests.benchmarks.measuring import machine, median

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulk_upload_pipeline.staged import StagedBatch


class Clock:
    """Adds up the processor time of each stage: other work on the machine disturbs it least."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the time of the block to `stage`."""
        started = time.process_time()
        yield
        self.seconds[stage] += time.process_time() - started


def one_core() -> None:
    """Keep this process, Arrow's threads included, on one core where the system allows it."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    give_memory_back_soon()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def validate(sample: Path, folder: Path, clock: Clock, chunk_rows: int) -> StagedBatch:
    """Take a file through recognising, reading, parsing, judging and staging, one after the other."""
    profiles = load_profiles()
    with clock.of("recognise"):
        layout = recognise(sample, profiles)
    profile, today = profiles[layout.profile], datetime.now(UTC).date()
    with Stage(folder) as stage:
        chunks = read_chunks(sample, layout, chunk_rows)
        while True:
            with clock.of("read"):
                chunk = next(chunks, None)
            if chunk is None:
                break
            with clock.of("parse"):
                typed = parse_chunk(chunk, layout, profile, lambda: None)
            with clock.of("judge"):
                verdict = judge(typed, layout, profile, today)
            with clock.of("stage"):
                stage.add(verdict)
        with clock.of("seal"):
            stage.seal("benchmark", DEFAULT_MAX_ERROR_RATE)
    return stage.staged


def encode(staged: StagedBatch, clock: Clock) -> None:
    """Read the staged rows back and write them as COPY reads them, as the loader does."""
    for index in range(staged.chunks):
        with clock.of("encode"):
            text = Text(staged.chunk(index), "benchmark", lambda: None)
            while text.read():
                pass


def stages(rows: int, profile: str, dirty: float, repeat: int, chunk_rows: int) -> dict[str, Any]:
    """Return the median seconds and the rows/s of each stage."""
    clocks: list[Clock] = []
    with tempfile.TemporaryDirectory(prefix="bulk-upload-bench-") as folder:
        sample = Path(folder) / "sample.csv"
        write_sample(sample, rows=rows, profile=profile, dirty=dirty)
        megabytes = round(sample.stat().st_size / 1e6, 1)
        one_core()
        # The first round, unmeasured, pays for the imports.
        for measured in (False, *[True] * repeat):
            clock = Clock()
            encode(validate(sample, Path(folder) / "staged", clock, chunk_rows), clock)
            clocks += [clock] * measured
    seconds = {stage: median(c.seconds[stage] for c in clocks) for stage in clocks[0].seconds}
    return {
        "machine": machine(),
        "rows": rows,
        "megabytes": megabytes,
        "profile": profile,
        "dirty": dirty,
        "seconds": seconds,
        "rows_per_second": {stage: rows / taken for stage, taken in seconds.items()},
        "all": {"seconds": sum(seconds.values()), "rows_per_second": rows / sum(seconds.values())},
    }


def _print(figures: dict[str, Any]) -> None:
    what = f"{figures['rows']:,} {figures['profile']} rows, {figures['megabytes']:,} MB"
    table = Table()
    for name in ("stage", "seconds", "share", "rows/s"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    whole = figures["all"]["seconds"]
    for stage, seconds in figures["seconds"].items():
        speed = figures["rows_per_second"][stage]
        table.add_row(stage, f"{seconds:.3f}", f"{seconds / whole:.0%}", f"{speed:,.0f}")
    table.add_section()
    table.add_row("all", f"{whole:.3f}", "100%", f"{figures['all']['rows_per_second']:,.0f}")
    console = Console()
    console.print(f"{what}, {figures['dirty']:.0%} faulty, one core")
    console.print(table)


@click.command()
@click.option("--rows", default=300_000, show_default=True, type=click.IntRange(1))
@click.option("--profile", default="zoho", show_default=True, type=click.Choice(["zoho", "distributor"]))
@click.option(
    "--dirty", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share of faulty rows."
)
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--chunk-rows", default=DEFAULT_CHUNK_ROWS, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True)
def main(rows: int, profile: str, dirty: float, repeat: int, chunk_rows: int, as_json: bool) -> None:
    """Measure each stage of validating, and the encoding for COPY, on one core."""
    figures = stages(rows, profile, dirty, repeat, chunk_rows)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        _print(figures)


if __name__ == "__main__":
    main()
