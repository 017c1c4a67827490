"""Parquet files as chunks of text, row group by row group."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.reading.chunking import Piece, in_chunks
from bulk_upload_pipeline.reading.figures import figure, texts_of
from bulk_upload_pipeline.reading.fragments import counted_pieces
from bulk_upload_pipeline.reading.records import LONGEST_LINE
from bulk_upload_pipeline.recognising.unpack import refuse_bomb, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.recognising.formats import Identified

MOST_ROWS = 2**31 - 1
"""A file of a kilobyte can state any number of rows; a row number has 31 bits."""

_ROWS_AT_ONCE = 8_192
_BYTES_AT_ONCE = 8 << 20


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
        yield from in_chunks(counted_pieces(_pieces(file, path.stat().st_size)), chunk_rows)


@contextmanager
def _file(path: Path, compression: str | None, member: str | None) -> Iterator[pq.ParquetFile]:
    with unpacked(path, compression, member) as content:
        try:
            stated = pq.read_metadata(content)
            _refuse_large(stated, content.stat().st_size)
            # A text that many rows share stays one: a kilobyte could ask for any memory otherwise.
            shared = _of_dictionaries(stated)
            with pq.ParquetFile(
                content, memory_map=False, pre_buffer=False, buffer_size=1 << 20, read_dictionary=shared
            ) as file:
                yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            raise UnreadableError(
                file_finding("DAMAGED_FILE", "it is no whole Parquet file, or one that is encrypted")
            ) from None


def _refuse_large(stated: pq.FileMetaData, size: int) -> None:
    if stated.num_rows > MOST_ROWS:
        raise UnreadableError(file_finding("TOO_LARGE_INSIDE", f"it states {stated.num_rows:,} rows"))
    refuse_bomb(sum(stated.row_group(at).total_byte_size for at in range(stated.num_row_groups)), size)


def _of_dictionaries(stated: pq.FileMetaData) -> list[str]:
    """Return the columns of text that some rows take from a dictionary."""
    groups = [stated.row_group(at) for at in range(stated.num_row_groups)]
    columns = (group.column(at) for group in groups for at in range(group.num_columns))
    return sorted(
        {
            column.path_in_schema
            for column in columns
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page
        }
    )


def _pieces(file: pq.ParquetFile, size: int) -> Iterator[Piece]:
    """Yield rows as text; one without any value is no record, as in a delimited text."""
    done = text = 0
    for batch in _batches(file):
        columns = [as_cells(column) for column in batch.columns]
        cells = pa.table(columns, [str(at) for at in range(len(columns))])
        filled = np.zeros(len(cells), dtype=bool)
        for column in columns:
            filled |= pc.is_valid(column).to_numpy(zero_copy_only=False)
        if not filled.all():
            cells = cells.filter(pa.array(filled))
        numbers = np.arange(done + 1, done + 1 + len(cells), dtype=np.int64)
        done += len(cells)
        piece = Piece(cells, numbers, (), 0)
        text += piece.text_bytes
        refuse_bomb(text, size)
        yield piece


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield rows, as few at once as their text allows."""
    for group in range(file.num_row_groups):
        stated = file.metadata.row_group(group)
        a_row = stated.total_byte_size // max(stated.num_rows, 1) + 1
        at_once = min(_ROWS_AT_ONCE, max(1, _BYTES_AT_ONCE // a_row))
        for batch in file.iter_batches(at_once, row_groups=[group], use_threads=False):
            yield from _bounded(batch)


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    size = sum(map(_text_bytes, batch.columns))
    if len(batch) == 1 and size > LONGEST_LINE:
        what = f"a row is longer than {LONGEST_LINE >> 20} MB"
        raise UnreadableError(file_finding("LINE_TOO_LONG", what))
    if len(batch) <= 1 or size <= _BYTES_AT_ONCE:
        yield batch
        return
    half = len(batch) // 2
    yield from _bounded(batch.slice(0, half))
    yield from _bounded(batch.slice(half))


def _text_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary)
    return pc.sum(lengths.take(column.indices)).as_py() or 0


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
