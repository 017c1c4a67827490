"""All measures of speed, in one table.

python -m bulk_upload_pipeline_tests.benchmarks [--full] [--only S1,S3] [--json FILE] [--folder FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from bulk_upload_pipeline_tests.benchmarks import flood, measures
from bulk_upload_pipeline_tests.benchmarks.loads import warm_up
from bulk_upload_pipeline_tests.benchmarks.measuring import machine
from bulk_upload_pipeline_tests.benchmarks.outcome import Outcome, table_of
from bulk_upload_pipeline_tests.benchmarks.world import world

if TYPE_CHECKING:
    from collections.abc import Collection

    from bulk_upload_pipeline_tests.benchmarks.measures import Sizes

ON_THE_COMMAND = {
    "S1": measures.s1,
    "S2": measures.s2,
    "S3": measures.s3,
    "S4": measures.s4,
    "S5": measures.s5,
    "S6": measures.s6,
}
ON_UP = {"S7": flood.s7, "S8": flood.s8, "S9": flood.s9}
ALL = (*ON_THE_COMMAND, *ON_UP)


def run(sizes: Sizes, only: Collection[str] = ALL, folder: Path | None = None) -> list[Outcome]:
    """Take the measures that are asked for, one after the other, each told of when it is done."""
    outcomes: list[Outcome] = []
    on_the_command = [key for key in ON_THE_COMMAND if key in only]
    if on_the_command:
        with world(folder) as here:
            warm_up(here)
            for key in on_the_command:
                outcomes += _told(ON_THE_COMMAND[key](here, sizes))
    on_up = [key for key in ON_UP if key in only]
    if on_up:
        with tempfile.TemporaryDirectory(prefix="bulk-upload-bench-", dir=folder) as name:
            root = Path(name)
            with flood.running(root / "home") as up:
                for key in on_up:
                    outcomes += _told(ON_UP[key](up, root / "files", sizes))
    return outcomes


def _told(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes:
        beside = "" if outcome.ratio is None else f", ratio {outcome.ratio:.2f}"
        print(f"{outcome.key} {outcome.what}: {outcome.ours:,.2f} {outcome.unit}{beside}", file=sys.stderr)
    return outcomes


def _keys(_context: click.Context, _parameter: click.Parameter, stated: str) -> tuple[str, ...]:
    keys = tuple(key.strip().upper() for key in stated.split(",") if key.strip())
    unknown = [key for key in keys if key not in ALL]
    if unknown:
        raise click.BadParameter(f"There is no {unknown[0]}; there are {', '.join(ALL)}.")
    return keys or ALL


@click.command()
@click.option(
    "--full", is_flag=True, help="The sizes of the goals: more than an hour. Otherwise about 15 minutes."
)
@click.option("--only", default="", callback=_keys, help="Measures to take, such as S1,S3.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where to work."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures."
)
def main(full: bool, only: tuple[str, ...], folder: Path | None, json_file: Path | None) -> None:
    """Measure the loading of files and print one table."""
    outcomes = run(measures.FULL if full else measures.DEFAULT, only, folder)
    figures = {"machine": machine(), "full": full, "measures": [o.as_json() for o in outcomes]}
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    console.print(table_of(outcomes))


if __name__ == "__main__":
    main()
