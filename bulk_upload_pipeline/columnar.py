"""Parquet files as chunks of text, row group by row group."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk_upload_pipeline.chunking import Piece, in_chunks
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.figures import figure, texts_of
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.fragments import counted_pieces
from bulk_upload_pipeline.unpack import unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from bulk_upload_pipeline.formats import Identified
    from bulk_upload_pipeline.model import Layout, TextChunk

MOST_ROWS = 2**31 - 1
"""A file of a kilobyte can state any number of rows; a row number has 31 bits."""

_ROWS_AT_ONCE = 8_192


def parquet_header(path: Path, identified: Identified) -> tuple[str, ...]:
    """Return the names of a file's columns.

    Raises:
        UnreadableError: It is damaged or refused.
    """
    with _file(path, identified.compression, identified.member) as file:
        if file.metadata.num_rows == 0:
            raise UnreadableError(file_finding("NO_DATA_ROWS"))
        return tuple(file.schema_arrow.names)


def read_parquet(path: Path, layout: Layout, chunk_rows: int) -> Iterator[TextChunk]:
    """Yield the rows of a file in their order, `chunk_rows` at a time.

    Raises:
        UnreadableError: The file is damaged.
    """
    with _file(path, layout.compression, layout.member) as file:
        yield from in_chunks(counted_pieces(_pieces(file)), chunk_rows)


@contextmanager
def _file(path: Path, compression: str | None, member: str | None) -> Iterator[pq.ParquetFile]:
    with unpacked(path, compression, member) as content:
        try:
            with pq.ParquetFile(content, memory_map=False, pre_buffer=False, buffer_size=1 << 20) as file:
                if file.metadata.num_rows > MOST_ROWS:
                    raise UnreadableError(
                        file_finding("TOO_LARGE_INSIDE", f"it states {file.metadata.num_rows:,} rows")
                    )
                yield file
        except (pa.ArrowException, OSError):
            raise UnreadableError(
                file_finding("DAMAGED_FILE", "it is no whole Parquet file, or one that is encrypted")
            ) from None


def _pieces(file: pq.ParquetFile) -> Iterator[Piece]:
    """Yield rows as text; one without any value is no record, as in a delimited text."""
    done = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, use_threads=False):
        columns = [as_cells(column) for column in batch.columns]
        cells = pa.table(columns, [str(at) for at in range(len(columns))])
        filled = np.zeros(len(cells), dtype=bool)
        for column in columns:
            filled |= pc.is_valid(column).to_numpy(zero_copy_only=False)
        if not filled.all():
            cells = cells.filter(pa.array(filled))
        numbers = np.arange(done + 1, done + 1 + len(cells), dtype=np.int64)
        done += len(cells)
        yield Piece(cells, numbers, (), 0)


def as_cells(column: pa.Array) -> pa.StringArray:
    """Return typed values as a person would write them: exact, and a day without a shift to another zone."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return as_cells(column.storage)
    if pa.types.is_dictionary(kind):
        return as_cells(column.cast(kind.value_type))
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        # The shortest text of a small float says what was meant; as a larger one it would grow digits.
        return texts_of(column.cast(pa.string()).to_pylist(), lambda text: text and figure(float(text)))
    if pa.types.is_float64(kind):
        return texts_of(column.to_pylist(), lambda value: None if value is None else figure(value))
    if pa.types.is_nested(kind):
        return _spelled(column, lambda value: json.dumps(value, ensure_ascii=False, default=str))
    if pa.types.is_duration(kind) or pa.types.is_interval(kind):
        return _spelled(column, str)
    if pa.types.is_timestamp(kind):
        return _moments(column)
    if pa.types.is_date64(kind):
        column = column.cast(pa.date32())
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _spelled(column, lambda value: value.decode("utf-8", "replace") or None)
    texts = column.cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _spelled(column: pa.Array, text_of: Callable[[Any], str | None]) -> pa.StringArray:
    texts = [None if value is None else text_of(value) for value in column.to_pylist()]
    return pa.array(texts, pa.string())


def _moments(column: pa.Array) -> pa.StringArray:
    """Return moments on the clock of their own zone; one at midnight is a day."""
    local = column if column.type.tz is None else pc.local_timestamp(column)
    texts = pc.replace_substring_regex(local.cast(pa.string()), r"\.0+$", "")
    return pc.replace_substring_regex(texts, r"[ T]00:00:00$", "")
