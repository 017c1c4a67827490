"""What the machine has to give: several loads at once, so that no core waits, beside one load and a bare COPY.

python -m bulk_upload_pipeline_tests.benchmarks.ceiling [--rows 1000000] [--at-once 3] [--repeat 3]

However the work of one load is spread over the cores, it cannot come far below what one of several takes: less
work could. (Those that end first look at what they have loaded while the others still load.)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from bulk_upload_pipeline_tests.benchmarks.loads import load, warm_up
from bulk_upload_pipeline_tests.benchmarks.reference import bare_copy
from bulk_upload_pipeline_tests.benchmarks.world import World, world

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--at-once", default=3, show_default=True, help="Loads that begin together.")
@click.option("--repeat", default=3, show_default=True)
def main(rows: int, at_once: int, repeat: int) -> None:
    """Measure in turns, and print a line a turn: seconds a file."""
    with world() as bench:
        file = bench.sample(rows)
        warm_up(bench)
        for _ in range(repeat):
            with bench.database() as database:
                copied = bare_copy(bench.clean(file), database).seconds
            alone, together = (_seconds_a_file(bench, file, loads) for loads in (1, at_once))
            print(
                f"bare COPY {copied:.1f} s, one load {alone:.1f} s ({alone / copied:.2f}), "
                f"{at_once} at once {together:.1f} s each ({together / copied:.2f})",
                flush=True,
            )


def _seconds_a_file(bench: World, file: Path, loads: int) -> float:
    """Return the seconds from the start of some loads to the last receipt, for each of them."""
    with ExitStack() as stack, ThreadPoolExecutor(loads) as beside:
        databases = [stack.enter_context(bench.database()) for _ in range(loads)]
        found = list(beside.map(lambda database: load(file, bench, database), databases))
    begun = min(result.started_at for result in found)
    told = max(result.started_at + timedelta(seconds=result.seconds) for result in found)
    return (told - begun).total_seconds() / loads


if __name__ == "__main__":
    main()
