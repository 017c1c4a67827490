"""`bulk-upload load`, the command itself, on a database of its own."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from bulk_upload_pipeline import settings
from bulk_upload_pipeline_tests.benchmarks.measuring import Measured, measured

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

    from bulk_upload_pipeline_tests.benchmarks.world import World

LOAD = (sys.executable, "-m", "bulk_upload_pipeline.cli", "load", "--json")
WARM_UP_ROWS = 1_000
LOADED, SOME_REJECTED, ALL_REJECTED = 0, 1, 2


def load(file: Path, world: World, database: sa.URL) -> Measured:
    """Load a file; one with faults loads what is sound of it, be it nothing.

    Returns:
        The command, with the seconds from its start to the receipt. Until its end it looks at what it has loaded.

    Raises:
        SystemExit: It did not load the file.
    """
    # However many rows are faulty: what is measured is the work on them, not the breaker.
    environment = world.environment(database) | {settings.MAX_ERROR_RATE: "1"}
    result = measured([*LOAD, str(file)], environment)
    if result.exit_code not in (LOADED, SOME_REJECTED, ALL_REJECTED):
        raise SystemExit(
            f"`bulk-upload load` ended with exit code {result.exit_code}: {result.output[-2000:]}"
        )
    shutil.rmtree(environment[settings.HOME])
    (receipt,) = json.loads(result.output)
    if receipt["rows_unprocessed"] or not receipt["rows_read"]:
        raise SystemExit(f"The load did not take every row: {receipt['reason']}")
    finished = datetime.fromisoformat(receipt["finished_at"])
    return replace(result, seconds=(finished - result.started_at).total_seconds())


def warm_up(world: World) -> None:
    """Let Dagster create its tables and Python its byte code: neither is part of a load."""
    with world.database() as database:
        load(world.sample(WARM_UP_ROWS, seed=0), world, database)
