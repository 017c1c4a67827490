"""The form in which a validated file waits in `staging/<batch_id>/` for the loader.

`stage` writes it, `load` and `report` read it:

* `valid.arrow`: the rows that load, one record batch a chunk, schema `contract.STAGED_SCHEMA`. Arrow's own form takes
  a third of the time of Parquet to write and to read, and nobody but the loader reads it, once.
* `occurrences.parquet`: `row_number`, `line_occurrence` of the rows whose occurrence is above 1. It is written last,
  and its metadata names the plan by which all of it was staged.
* What is in `found`: every finding, and the source rows that have some.

Of a file that several workers shared, each part has such files in a folder of its own, with rows numbered from 1,
and `parts.json` says how many rows and chunks come before it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from bulk_upload_pipeline import contract, found

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OCCURRENCES_SCHEMA = pa.schema([("row_number", pa.int64()), ("line_occurrence", pa.int32())])
LOADED_SCHEMA = contract.STAGED_SCHEMA.append(pa.field("line_occurrence", pa.int32()))
"""What a chunk is when it is read back: complete but for the batch's own columns."""

_PLAN = b"plan"


class StagedPart(NamedTuple):
    """A part of a batch, as `parts.json` has it.

    Attributes:
        folder: Name of its folder.
        rows_before: Records of the file before it.
        first_chunk: Index of its first chunk in the batch.
        chunks: How many it has.
        rows: Rows of it that load.
    """

    folder: str
    rows_before: int
    first_chunk: int
    chunks: int
    rows: int


@dataclass(frozen=True)
class StagedBatch:
    """The staged rows and findings of one batch, in `folder`.

    Attributes:
        plan: By which they are wanted; None wants them by whichever they are.
    """

    folder: Path
    plan: str | None = None

    @property
    def valid_path(self) -> Path:
        """The rows that load, in Arrow's file format."""
        return self.folder / "valid.arrow"

    @property
    def occurrences_path(self) -> Path:
        """Parquet of the line occurrences above 1."""
        return self.folder / "occurrences.parquet"

    @property
    def parts_path(self) -> Path:
        """JSON of the parts, of a file that has some."""
        return self.folder / "parts.json"

    @property
    def exists(self) -> bool:
        """Return whether staging was finished, by the plan that is wanted.

        On a disk each plan stages in the same folder, and a worker may be killed before it keeps its verdict: then
        what lies here is not what the verdict of before is on.
        """
        if not (self.occurrences_path.exists() and (self.valid_path.exists() or self.parts_path.exists())):
            return False
        return self.plan is None or self._staged_by == self.plan

    @property
    def _staged_by(self) -> str | None:
        try:
            plan = (pq.read_schema(self.occurrences_path).metadata or {}).get(_PLAN)
        except pa.ArrowInvalid:
            return None  # whoever wrote it was cut off
        return None if plan is None else plan.decode()

    def seal(self, repeated: pa.Table, plan: str) -> None:
        """Write the line occurrences above 1, which says that all else is staged, and by which plan."""
        pq.write_table(repeated.replace_schema_metadata({_PLAN: plan}), self.occurrences_path)

    @property
    def part_exists(self) -> bool:
        """Return whether a part is staged here, in the form that this version reads."""
        return (self.folder / found.FINDINGS).exists()

    @cached_property
    def parts(self) -> tuple[StagedPart, ...]:
        """The parts in file order; none of a file that one worker staged."""
        if not self.parts_path.exists():
            return ()
        return tuple(StagedPart(*part) for part in json.loads(self.parts_path.read_text("utf-8")))

    @property
    def chunks(self) -> int:
        """Return how many chunks are staged."""
        if self.parts:
            return self.parts[-1].first_chunk + self.parts[-1].chunks
        with pa.OSFile(str(self.valid_path)) as file, pa.ipc.open_file(file) as rows:
            return int(rows.num_record_batches)

    def chunk(self, index: int) -> pa.Table:
        """Return chunk `index` with `LOADED_SCHEMA`. Each call opens the file, so threads may share self."""
        part = next((p for p in self.parts if p.first_chunk <= index < p.first_chunk + p.chunks), None)
        path = self.valid_path if part is None else self.folder / part.folder / self.valid_path.name
        rows = _batch(path, index - (part.first_chunk if part else 0))
        rows = numbered_behind(rows, part.rows_before if part else 0)
        occurrences = self.occurrences_of(rows["row_number"].to_numpy())
        return rows.append_column(LOADED_SCHEMA.field("line_occurrence"), pa.array(occurrences, pa.int32()))

    def finding_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the findings with their `row_data` and `line_occurrence`, in file order, some thousands at a time."""
        for folder, rows_before in self._folders():
            for findings in found.with_row_data(folder):
                batch = numbered_behind(findings, rows_before)
                occurrences = self.occurrences_of(batch["row_number"].to_numpy())
                yield batch.append_column("line_occurrence", pa.array(occurrences, pa.int32()))

    def first_findings(self, limit: int) -> list[dict[str, Any]]:
        """Return the first findings in file order, fields as in `findings.SCHEMA`."""
        batches = (
            numbered_behind(findings, rows_before)
            for folder, rows_before in self._folders()
            for findings in found.finding_batches(folder)
        )
        return list(
            islice((finding for batch in batches for finding in batch.slice(0, limit).to_pylist()), limit)
        )

    def _folders(self) -> list[tuple[Path, int]]:
        """Return where findings are, and how many records of the file come before theirs."""
        return [(self.folder / part.folder, part.rows_before) for part in self.parts] or [(self.folder, 0)]

    def occurrences_of(self, row_numbers: np.ndarray) -> np.ndarray:
        """Return the line occurrence of each of these rows (int32)."""
        known, values = self._repeated
        occurrences = np.ones(len(row_numbers), dtype=np.int32)
        if len(known) == 0:
            return occurrences
        at = np.searchsorted(known, row_numbers)
        at[at == len(known)] = 0
        hits = known[at] == row_numbers
        occurrences[hits] = values[at[hits]]
        return occurrences

    @cached_property
    def _repeated(self) -> tuple[np.ndarray, np.ndarray]:
        with pq.ParquetFile(self.occurrences_path) as file:
            table = file.read(use_threads=False)
        return table["row_number"].to_numpy(), table["line_occurrence"].to_numpy()


def valid_writer(file: pa.NativeFile) -> pa.ipc.RecordBatchFileWriter:
    """Return what writes the rows that load to an open file, a record batch a chunk."""
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    return pa.ipc.new_file(file, contract.STAGED_SCHEMA, options=options)


def _batch(path: Path, index: int) -> pa.Table:
    # Threads of Arrow's own would only stand in the way of those that load.
    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file, options=options) as batches:
        return pa.Table.from_batches([batches.get_batch(index)])


def numbered_behind(rows: pa.Table | pa.RecordBatch, rows_before: int) -> pa.Table | pa.RecordBatch:
    """Return rows of a part with their numbers in the file."""
    if rows_before == 0:
        return rows
    at = rows.schema.get_field_index("row_number")
    numbers = pc.add(rows["row_number"], pa.scalar(rows_before, rows.schema.field(at).type))
    return rows.set_column(at, rows.schema.field(at), numbers)
