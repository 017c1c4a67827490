"""What a pool of workers gets through: `python -m bulk_upload_pipeline_tests.benchmarks.pool --workers 1,2,4`.

The services are those of `docker/compose.yaml` as processes of this machine (Redis from packages), so that workers,
PostgreSQL and daemon share its cores. Beside files and rows a second it says how many cores each of them took: when
all of them together take what there is, more workers on the same machine cannot help, and when PostgreSQL takes what
it has, none anywhere can. `--postgresql-cores 0.2` shows that: it gives PostgreSQL so little that few workers fill it.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import click
import psutil

from bulk_upload_pipeline_tests.benchmarks.limits import cores_at_most
from bulk_upload_pipeline_tests.composed import Deployment
from bulk_upload_pipeline_tests.world import csv_of, good_row

LOADED = "SELECT count(*) FROM bulk_upload.upload_batches WHERE state = 'loaded'"


@click.command()
@click.option(
    "--workers", default="1,2,4", show_default=True, help="Numbers of workers, one measurement each."
)
@click.option("--files", default=300, show_default=True)
@click.option("--rows", default=200, show_default=True, help="Rows of each file.")
@click.option("--postgresql-cores", type=float, help="Most that PostgreSQL gets (Linux, root).")
def main(workers: str, files: int, rows: int, postgresql_cores: float | None) -> None:
    """Load FILES files of ROWS rows with each number of workers, each time into a database of its own."""
    for count in map(int, workers.split(",")):
        print(measured(count, files, rows, postgresql_cores), flush=True)


def measured(workers: int, files: int, rows: int, postgresql_cores: float | None) -> str:
    """Return the result of one measurement as a line."""
    names = [f"worker {number}" for number in range(workers)]
    with Deployment(COMPOSE_PROFILES="workers", WORKER_PROCESSES="1") as running:
        running.start_pool(*names)
        drop(running, 0, 40, 1)  # every worker has imported everything before the clock starts
        running.wait(lambda: running.ask(LOADED) == [(40,)])
        before = cores(running, names)
        postgres = running.processes["postgres"].pid
        with cores_at_most(postgres, postgresql_cores) if postgresql_cores else nullcontext():
            drop(running, 1, files, rows)
            began = time.monotonic()
            running.wait(lambda: running.ask(LOADED) == [(40 + files,)])
            seconds = time.monotonic() - began
        used = {who: spent - before[who] for who, spent in cores(running, names).items()}
    took = ", ".join(f"{who} {spent / seconds:.2f}" for who, spent in used.items())
    return (
        f"{workers} workers: {files} files of {rows} rows in {seconds:.1f} s, {files / seconds:.1f} files/s, "
        f"{files * rows / seconds:,.0f} rows/s; cores used: {took} of {psutil.cpu_count()}"
    )


def drop(running: Deployment, wave: int, files: int, rows: int) -> None:
    """Lay files into the inbox, none of which has a line of another."""
    inbox = running.data / "inbox"
    inbox.mkdir(exist_ok=True)
    for number in range(files):
        first = wave * 1_000_000 + number * rows
        unfinished = inbox / f"{wave}-{number}.part"
        unfinished.write_text(csv_of([good_row(first + row) for row in range(rows)]))
        unfinished.rename(inbox / f"{wave}-{number}.csv")


def cores(running: Deployment, workers: list[str]) -> dict[str, float]:
    """Return the CPU seconds that the workers, PostgreSQL, and all else have taken."""
    groups = {
        "workers": workers,
        "PostgreSQL": ["postgres"],
        "daemon and others": ["daemon", "code", "redis"],
    }
    return {who: sum(spent(running.processes[name].pid) for name in names) for who, names in groups.items()}


def spent(pid: int) -> float:
    """Return the CPU seconds of a process and its children, ended ones included."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
