"""What was found wrong with a file, staged: its findings, and the source rows that they are on.

One record batch a chunk that has findings, the same one in both files. The rows wait as the cells that they are:
as JSON, which PostgreSQL is given in the end, they would be three times as long, and be written once for each finding.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.findings import SCHEMA
from bulk_upload_pipeline.verbatim import INVOICE_NUMBER, row_data

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline.model import ChunkVerdict

FINDINGS, SOURCES = "findings.arrow", "sources.arrow"

FINDINGS_AT_ONCE = 2_500
"""With their rows as JSON these take some megabytes."""

_ROW_DATA = pa.field("row_data", pa.string())
_OF_INVOICE = pa.field("invoice_number", pa.string())
_LONGEST = contract.BY_NAME[_OF_INVOICE.name].limit
"""A longer text is no number of an invoice, and would not fit into an index."""


class FoundWriter:
    """Writes what was found to a staging folder. Of a file without fault there is an empty `findings.arrow`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = ExitStack()
        self._findings = self._opened(FINDINGS, SCHEMA)
        self._sources: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, verdict: ChunkVerdict) -> None:
        """Write the findings of one chunk; it has some."""
        if self._sources is None:
            self._sources = self._opened(SOURCES, verdict.sources.schema)
        for writer, rows in ((self._findings, verdict.findings), (self._sources, verdict.sources)):
            (batch,) = rows.combine_chunks().to_batches()
            writer.write_batch(batch)

    def close(self) -> None:
        """Finish both files, also when the disk is too full for the end of one."""
        self._files.close()

    def _opened(self, name: str, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        file = self._files.enter_context(pa.OSFile(str(self._folder / name), "wb"))
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        return self._files.enter_context(pa.ipc.new_file(file, schema, options=options))


def finding_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """Yield the findings, schema `findings.SCHEMA`, in file order."""
    with pa.OSFile(str(folder / FINDINGS)) as file, pa.ipc.open_file(file) as findings:
        for index in range(findings.num_record_batches):
            yield findings.get_batch(index)


def with_row_data(folder: Path) -> Iterator[pa.RecordBatch]:
    """Yield the findings with the `row_data` of each, its source row as JSON text, and its `invoice_number`."""
    with ExitStack() as files:
        rows: pa.ipc.RecordBatchFileReader | None = None
        for index, findings in enumerate(finding_batches(folder)):
            if rows is None:
                file = files.enter_context(pa.OSFile(str(folder / SOURCES)))
                rows = files.enter_context(pa.ipc.open_file(file))
            sources = rows.get_batch(index)
            for start in range(0, len(findings), FINDINGS_AT_ONCE):
                yield _joined(findings.slice(start, FINDINGS_AT_ONCE), sources)


def _joined(findings: pa.RecordBatch, sources: pa.RecordBatch) -> pa.RecordBatch:
    """Make JSON of the rows that some findings are on, once each, and lay it beside the findings."""
    numbers = findings["row_number"].unique()
    rows = sources.filter(pc.is_in(sources["row_number"], value_set=numbers))
    at = pc.index_in(findings["row_number"], value_set=rows["row_number"])
    with_rows = findings.append_column(_ROW_DATA, row_data(rows).take(at))
    return with_rows.append_column(_OF_INVOICE, _invoices_of(rows).take(at))


def _invoices_of(rows: pa.RecordBatch) -> pa.StringArray:
    if INVOICE_NUMBER not in rows.schema.names:
        return pa.nulls(len(rows), pa.string())  # it was staged before the invoice was told
    return pc.utf8_slice_codeunits(rows[INVOICE_NUMBER], 0, _LONGEST)
