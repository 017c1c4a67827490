"""`bulk-upload load` of a clean file beside a bare COPY of the same rows, in one run on one server.

python -m bulk_upload_pipeline_tests.benchmarks.bench_load --rows 1000000 --repeat 3
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.benchmarks.measuring import Measured, machine, measured, median
from bulk_upload_pipeline_tests.benchmarks.reference import bare_copy, write_clean_copy
from bulk_upload_pipeline_tests.benchmarks.world import World, fingerprint, world

if TYPE_CHECKING:
    from collections.abc import Mapping

LOAD = (sys.executable, "-m", "bulk_upload_pipeline.cli", "load", "--json")
WARM_UP_ROWS = 1_000
STEPS = ("started", "first chunk in", "last chunk in", "receipt", "exit")
"""Moments of a load, each in seconds since the command was given."""


def load(file: Path, world: World, database: sa.URL) -> tuple[Measured, dict[str, float]]:
    """Run the command on a database and return what it took, and when it reached each of `STEPS`.

    Raises:
        SystemExit: It did not load the file.
    """
    environment = world.environment(database)
    result = measured([*LOAD, str(file)], environment)
    if result.exit_code:
        raise SystemExit(
            f"`bulk-upload load` ended with exit code {result.exit_code}: {result.output[-2000:]}"
        )
    shutil.rmtree(environment["BULK_UPLOAD_HOME"])
    receipt = json.loads(result.output)[0]
    return result, _steps(receipt, result, database)


def _steps(receipt: Mapping[str, Any], result: Measured, database: sa.URL) -> dict[str, float]:
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        chunks = sa.text("SELECT min(committed_at), max(committed_at) FROM bulk_upload.load_chunks")
        first, last = connection.execute(chunks).one()
    engine.dispose()
    started, finished = (datetime.fromisoformat(receipt[name]) for name in ("started_at", "finished_at"))
    moments = zip(STEPS, (started, first, last, finished, result.ended_at), strict=True)
    return {name: (moment - result.started_at).total_seconds() for name, moment in moments}


def compare(rows: int, repeat: int, seed: int, folder: Path | None) -> dict[str, Any]:
    """Measure both loads `repeat` times, in turns, and return all figures."""
    with world(folder) as here:
        sample, clean = here.folder / "sample.csv", here.folder / "clean.csv"
        write_sample(sample, rows=rows, seed=seed)
        write_clean_copy(sample, clean)
        _warm_up(here)
        reference: list[Measured] = []
        ours: list[Measured] = []
        steps: list[dict[str, float]] = []
        for _ in range(repeat):
            with here.database() as database:
                reference.append(bare_copy(clean, database))
                wanted = fingerprint(database)
            with here.database() as database:
                result, moments = load(sample, here, database)
                _refuse_a_different_outcome(wanted, fingerprint(database))
            ours.append(result)
            steps.append(moments)
        return {
            "machine": machine(),
            "rows": rows,
            "megabytes": round(sample.stat().st_size / 1e6, 1),
            "reference": _figures(reference, rows),
            "ours": _figures(ours, rows) | {"steps": {s: median(m[s] for m in steps) for s in STEPS}},
            "ratio": median(m.seconds for m in ours) / median(m.seconds for m in reference),
        }


def _warm_up(here: World) -> None:
    """Let Dagster create its tables and Python its byte code: neither is part of a load."""
    small = here.folder / "warm_up.csv"
    write_sample(small, rows=WARM_UP_ROWS, seed=0)
    with here.database() as database:
        load(small, here, database)


def _refuse_a_different_outcome(wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    different = [
        f"{name}: {wanted[name]} and {found[name]}" for name in wanted if wanted[name] != found[name]
    ]
    if different:
        raise SystemExit(f"The two loads do not leave the same rows ({'; '.join(different)}).")


def _figures(results: list[Measured], rows: int) -> dict[str, Any]:
    seconds = median(result.seconds for result in results)
    return {
        "seconds": seconds,
        "all_seconds": [result.seconds for result in results],
        "rows_per_second": rows / seconds,
        "peak_mb": max(result.peak_mb for result in results),
    }


def _print(figures: dict[str, Any]) -> None:
    table = Table()
    for name in ("", "median s", "all s", "rows/s", "peak MB"):
        table.add_column(name, justify="left" if not name else "right")
    for name, side in ((r"psql \copy", figures["reference"]), ("bulk-upload load", figures["ours"])):
        every = " ".join(f"{seconds:.1f}" for seconds in side["all_seconds"])
        table.add_row(
            name,
            f"{side['seconds']:.2f}",
            every,
            f"{side['rows_per_second']:,.0f}",
            f"{side['peak_mb']:,.0f}",
        )
    console = Console()
    on = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    console.print(f"{figures['rows']:,} clean zoho rows, {figures['megabytes']:,} MB ({on})")
    console.print(table)
    moments = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in figures["ours"]["steps"].items())
    console.print(f"load: {moments}")
    console.print(f"ratio to the bare COPY: {figures['ratio']:.2f}")


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1))
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to work.")
@click.option("--json", "as_json", is_flag=True)
def main(rows: int, repeat: int, seed: int, folder: Path | None, as_json: bool) -> None:
    """Measure a load of a clean file against a bare COPY of its rows."""
    figures = compare(rows, repeat, seed, folder)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        _print(figures)


if __name__ == "__main__":
    main()
