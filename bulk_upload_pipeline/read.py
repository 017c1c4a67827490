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
    match layout.file_format:
        case "csv":
            from bulk_upload_pipeline.delimited import read_delimited as read
        case "parquet":
            from bulk_upload_pipeline.columnar import read_parquet as read
        case "json" | "jsonl":
            from bulk_upload_pipeline.documents import read_documents as read
        case _:
            from bulk_upload_pipeline.spreadsheets import read_sheets as read
    return read(path, layout, chunk_rows)
