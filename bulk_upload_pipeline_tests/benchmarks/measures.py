"""The measures S1 to S6: one file, loaded by the command, held against psql on the same server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from bulk_upload_pipeline_tests.benchmarks.loads import load
from bulk_upload_pipeline_tests.benchmarks.measuring import Measured, median
from bulk_upload_pipeline_tests.benchmarks.outcome import Outcome
from bulk_upload_pipeline_tests.benchmarks.reference import bare_copy, merge
from bulk_upload_pipeline_tests.benchmarks.world import World, fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MOST_MB = 400


@dataclass(frozen=True)
class Sizes:
    """How much is measured, in rows, files and repetitions."""

    repeat: int
    clean: int
    large: int
    large_repeat: int
    again: int
    memory: tuple[int, ...]
    table: int
    into_table: tuple[int, int]
    faulty: int
    drops: int
    small_files: int
    small_rows: int
    tiny_files: int


DEFAULT = Sizes(
    repeat=3,
    clean=1_000_000,
    large=2_000_000,
    large_repeat=1,
    again=300_000,
    memory=(100_000, 1_000_000),
    table=1_000_000,
    into_table=(300_000, 1_000_000),
    faulty=200_000,
    drops=10,
    small_files=300,
    small_rows=1_800,
    tiny_files=2_000,
)
FULL = replace(
    DEFAULT,
    large=5_000_000,
    large_repeat=3,
    again=1_000_000,
    memory=(100_000, 1_000_000, 10_000_000),
    table=5_000_000,
    into_table=(1_000_000, 10_000_000),
    faulty=1_000_000,
    drops=20,
    tiny_files=10_000,
)
SMOKE = Sizes(
    repeat=1,
    clean=1_000,
    large=2_000,
    large_repeat=1,
    again=1_000,
    memory=(500, 1_000),
    table=1_000,
    into_table=(500, 1_000),
    faulty=500,
    drops=1,
    small_files=4,
    small_rows=20,
    tiny_files=4,
)


def against_copy(world: World, rows: int, repeat: int, key: str, goal: float) -> Outcome:
    """S1 and S2: a clean file into the empty table."""
    sample = world.sample(rows)
    clean = world.clean(sample)
    ours: list[Measured] = []
    reference: list[Measured] = []
    for _ in range(repeat):
        with world.database() as database:
            reference.append(bare_copy(clean, database))
            wanted = fingerprint(database)
        with world.database() as database:
            ours.append(load(sample, world, database))
            _refuse_a_different_outcome(wanted, fingerprint(database))
    return _compared(key, f"load of {rows:,} clean rows / psql \\copy", ours, reference, goal)


def s1(world: World, sizes: Sizes) -> list[Outcome]:
    """Validated, and still not slower than a bare COPY."""
    return [against_copy(world, sizes.clean, sizes.repeat, "S1", 1.0)]


def s2(world: World, sizes: Sizes) -> list[Outcome]:
    """The same on more rows, where the start of a run counts for less."""
    return [against_copy(world, sizes.large, sizes.large_repeat, "S2", 0.9)]


def s3(world: World, sizes: Sizes) -> list[Outcome]:
    """The same rows again, of which every tenth differs, beside a merge written by hand."""
    sample = world.sample(sizes.again)
    changed = _every_tenth_changed(sample)
    ours: list[Measured] = []
    reference: list[Measured] = []
    with world.database() as filled:
        bare_copy(world.clean(sample), filled)
        for _ in range(sizes.repeat):
            with world.database(like=filled) as database:
                reference.append(merge(world.clean(changed), database))
                wanted = fingerprint(database)
            with world.database(like=filled) as database:
                ours.append(load(changed, world, database))
                _refuse_a_different_outcome(wanted, fingerprint(database))
    what = f"{sizes.again:,} rows again, every 10th changed / COPY + INSERT ON CONFLICT"
    return [_compared("S3", what, ours, reference, 1.1)]


def _every_tenth_changed(sample: Path) -> Path:
    changed = sample.with_name(f"changed-{sample.name}")
    with sample.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split(",")
    reading = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
    rows = pyarrow.csv.read_csv(sample, convert_options=reading)
    at = rows.schema.get_field_index("Sales Person")
    tenth = pa.array(np.arange(len(rows)) % 10 == 0)
    column = pc.if_else(tenth, "Somebody Else", rows.column(at).combine_chunks())
    with changed.open("wb") as file:
        file.write(",".join(header).encode() + b"\n")
        form = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
        pyarrow.csv.write_csv(rows.set_column(at, "Sales Person", column), file, form)
    return changed


def s4(world: World, sizes: Sizes) -> list[Outcome]:
    """Memory of the worker, which must not grow with the file."""
    outcomes = []
    for rows in sizes.memory:
        with world.database() as database:
            result = load(world.sample(rows), world, database)
        outcomes.append(Outcome("S4", f"peak memory, {rows:,} rows", "MB", result.peak_mb, MOST_MB))
    return outcomes


def s5(world: World, sizes: Sizes) -> list[Outcome]:
    """Speed on a large file beside that on a small one, into a table that is not empty."""
    small, large = sizes.into_table
    speeds: dict[int, float] = {}
    with world.database() as filled:
        bare_copy(world.clean(world.sample(sizes.table, seed=2)), filled)
        for rows in (small, large):
            with world.database(like=filled) as database:
                speeds[rows] = rows / load(world.sample(rows), world, database).seconds
    what = f"rows/s at {large:,} rows / at {small:,}, into a table of {sizes.table:,}"
    return [Outcome("S5", what, "rows/s", speeds[large], 0.8, speeds[small], at_least=True)]


def s6(world: World, sizes: Sizes) -> list[Outcome]:
    """Files with faults beside a clean one of the same size."""
    seconds: dict[float, list[float]] = {0.0: [], 0.03: [], 0.5: [], 1.0: []}
    for _ in range(sizes.repeat):
        for dirty, taken in seconds.items():
            with world.database() as database:
                taken.append(load(world.sample(sizes.faulty, dirty=dirty), world, database).seconds)
    clean = median(seconds[0.0])
    return [
        Outcome(
            "S6",
            f"{dirty:.0%} of {sizes.faulty:,} rows faulty / none",
            "s",
            median(seconds[dirty]),
            goal,
            clean,
            details={"ours": seconds[dirty], "reference": seconds[0.0]},
        )
        for dirty, goal in ((0.03, 1.3), (0.5, 2.0), (1.0, 2.0))
    ]


def _refuse_a_different_outcome(wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    different = [
        f"{name}: {wanted[name]} and {found[name]}" for name in wanted if wanted[name] != found[name]
    ]
    if different:
        raise SystemExit(f"The two loads do not leave the same rows ({'; '.join(different)}).")


def _compared(key: str, what: str, ours: list[Measured], reference: list[Measured], goal: float) -> Outcome:
    details: dict[str, Any] = {
        "ours": [result.seconds for result in ours],
        "reference": [result.seconds for result in reference],
        "ours_to_the_end": [(result.ended_at - result.started_at).total_seconds() for result in ours],
        "peak_mb": max(result.peak_mb for result in ours),
    }
    taken, beside = (median(result.seconds for result in side) for side in (ours, reference))
    return Outcome(key, what, "s", taken, goal, beside, details=details)
