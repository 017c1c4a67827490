"""The form in which a validated file waits in `staging/<batch_id>/` for the loader.

`stage` writes it, `load` and `report` read it:

* `valid.parquet`: the rows that load, one row group a chunk, schema `contract.STAGED_SCHEMA`.
* `occurrences.parquet`: `row_number`, `line_occurrence` of the rows whose occurrence is above 1.
* `findings.parquet`: every finding with the source row, schema `FINDINGS_SCHEMA`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bulk_upload_pipeline import contract, findings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OCCURRENCES_SCHEMA = pa.schema([("row_number", pa.int64()), ("line_occurrence", pa.int32())])
FINDINGS_SCHEMA = findings.SCHEMA.append(pa.field("row_data", pa.string()))
LOADED_SCHEMA = contract.STAGED_SCHEMA.append(pa.field("line_occurrence", pa.int32()))
"""What a chunk is when it is read back: complete but for the batch's own columns."""


@dataclass(frozen=True)
class StagedBatch:
    """The staged rows and findings of one batch, in `folder`."""

    folder: Path

    @property
    def valid_path(self) -> Path:
        """Parquet of the rows that load."""
        return self.folder / "valid.parquet"

    @property
    def occurrences_path(self) -> Path:
        """Parquet of the line occurrences above 1."""
        return self.folder / "occurrences.parquet"

    @property
    def findings_path(self) -> Path:
        """Parquet of the findings."""
        return self.folder / "findings.parquet"

    @property
    def exists(self) -> bool:
        """Return whether staging was finished: `occurrences.parquet` is written last."""
        return self.occurrences_path.exists() and self.valid_path.exists()

    @property
    def chunks(self) -> int:
        """Return how many chunks are staged."""
        return pq.read_metadata(self.valid_path).num_row_groups

    def chunk(self, index: int) -> pa.Table:
        """Return chunk `index` with `LOADED_SCHEMA`. Each call opens the file, so threads may share self."""
        with pq.ParquetFile(self.valid_path) as file:
            rows = file.read_row_group(index)
        occurrences = self.occurrences_of(rows["row_number"].to_numpy())
        return rows.append_column(LOADED_SCHEMA.field("line_occurrence"), pa.array(occurrences, pa.int32()))

    def finding_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the findings with their `line_occurrence`, in file order, some thousands at a time."""
        with pq.ParquetFile(self.findings_path) as file:
            for batch in file.iter_batches(batch_size=10_000):
                occurrences = self.occurrences_of(batch["row_number"].to_numpy())
                yield batch.append_column("line_occurrence", pa.array(occurrences, pa.int32()))

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
        table = pq.read_table(self.occurrences_path)
        return table["row_number"].to_numpy(), table["line_occurrence"].to_numpy()
