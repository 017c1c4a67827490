"""One huge file by one worker as a whole, by one in parts, and by several: how long each takes.

python -m bulk_upload_pipeline_tests.benchmarks.sharing [--rows 10000000] [--workers 2] [--part-mb 128]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from bulk_upload_pipeline import ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import create_database_if_absent
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.serving import embedded
from bulk_upload_pipeline.upgrading.schema import migrate
from bulk_upload_pipeline_tests.world import drop, line_at

WORKER = """
import sys, time
from pathlib import Path
from bulk_upload_pipeline import sharing
from bulk_upload_pipeline_tests.world import line_at

root, url, batch_id, part_bytes = sys.argv[1:]
with line_at(Path(root), url, part_bytes=int(part_bytes)) as line:
    while not sharing.parts_without_worker(line):
        time.sleep(0.2)
    print(sharing.help_along(line, batch_id))
"""


@click.command()
@click.option("--rows", default=10_000_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--part-mb", default=128, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where there is room for five times the file."
)
def main(rows: int, workers: int, part_mb: int, folder: Path | None) -> None:
    """Measure, and print one line a way."""
    with tempfile.TemporaryDirectory(prefix="bulk-upload-sharing-", dir=folder) as home:
        path = Path(home) / "huge.csv"
        write_sample(path, rows=rows, dirty=0.001, seed=11)
        print(f"{rows:,} rows, {path.stat().st_size >> 20:,} MB")
        with embedded.in_use(Path(home) / "postgres") as server:
            for name, part_bytes, helpers in (
                ("whole", 1 << 60, 0),
                ("parts", part_mb << 20, 0),
                ("shared", part_mb << 20, workers - 1),
            ):
                url = server.set(database=name).render_as_string(hide_password=False)
                create_database_if_absent(url, owned=True)
                migrate(url)
                print(name, _load(Path(home) / name, url, path, part_bytes, helpers), flush=True)


def _load(home: Path, url: str, path: Path, part_bytes: int, helpers: int) -> str:
    with line_at(home, url, part_bytes=part_bytes) as line:
        batch_id = drop(line, path.name, path.read_bytes())
        arguments = [sys.executable, "-c", WORKER, str(home), url, batch_id, str(part_bytes)]
        processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(helpers)]
        begun, spent = time.monotonic(), _cpu_seconds()
        stages.upload(line, batch_id)
        uploaded = time.monotonic()
        stages.validate(line, batch_id)
        judged = time.monotonic()
        stages.load(line, batch_id)
        loaded = time.monotonic()
        stages.close(line, batch_id)
        ended = time.monotonic()
        helped = [process.communicate()[0].strip() for process in processes]
        receipt = ledger.receipt(line.engine, batch_id)
    took = f"upload {uploaded - begun:.1f}, judge {judged - uploaded:.1f}, load {loaded - judged:.1f}"
    cpu = f"{_cpu_seconds() - spent:.1f} s of CPU besides PostgreSQL's"
    account = f"{receipt.state}, {receipt.rows_inserted:,} rows; parts by helpers: {helped}"
    return f"{ended - begun:.1f} s ({took}; {cpu}); {account}"


def _cpu_seconds() -> float:
    """Return what this process and the helpers that have ended spent."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
