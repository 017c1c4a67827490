"""A file as chunks of records, text by text, whatever its format is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline.model import Layout, TextChunk


def read_chunks(path: Path, layout: Layout, chunk_rows: int) -> Iterator[TextChunk]:
    """Yield the records of a file in their order.

    The same file, layout and `chunk_rows` give the same chunks each time. Memory does not grow with the file.

    Args:
        path: The file, packed as it came.
        layout: What `recognise` found out about it.
        chunk_rows: Records of a chunk, damaged ones included; only the last has fewer.

    Raises:
        UnreadableError: In the middle of the file it turns out that it cannot be read to its end.
    """
    if layout.file_format == "csv":
        from bulk_upload_pipeline.reading.delimited import read_delimited

        return read_delimited(path, layout, chunk_rows)
    if layout.file_format == "parquet":
        from bulk_upload_pipeline.reading.columnar import read_parquet

        return read_parquet(path, layout, chunk_rows)
    if layout.file_format in ("json", "jsonl"):
        from bulk_upload_pipeline.reading.documents import read_documents

        return read_documents(path, layout, chunk_rows)
    from bulk_upload_pipeline.reading.spreadsheets import read_sheets

    return read_sheets(path, layout, chunk_rows)
