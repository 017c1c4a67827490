"""Rows on their way into PostgreSQL: from Arrow to the text that COPY reads, a slice at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.csv

from bulk_upload_pipeline import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from psycopg2.extensions import cursor as Cursor

VALUES: tuple[str, ...] = (*contract.NAMES, "extra")
"""What a line says: two lines of one identity are equal when these are."""

ROW: tuple[str, ...] = (*VALUES, "line_occurrence", "upload_batch_id", "row_number")
"""What the loader writes. `id`, `created_at` and `updated_at` are PostgreSQL's own."""

SLICE_ROWS = 5_000
"""Rows encoded at once: about 2 MB of text, so that the server works while the next are encoded."""

READ_BYTES = 1 << 20

# Text is always quoted and an absent value never is, so that "" and NULL, and a cell that is `\.`, differ.
_FORMAT = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")


class Text:
    """The CSV text of some rows, as a file that psycopg2 reads from.

    Args:
        rows: Schema `staged.LOADED_SCHEMA`.
        batch_id: Written to `upload_batch_id` of each row.
        check: Called before each slice; what it raises ends the COPY.
    """

    def __init__(self, rows: pa.Table, batch_id: str, check: Callable[[], None]) -> None:
        self._slices = _encoded(rows, batch_id, check)
        self._current = memoryview(b"")

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        if not self._current:
            self._current = next(self._slices, memoryview(b""))
        taken, self._current = self._current[:size], self._current[size:]
        return bytes(taken)


def _encoded(rows: pa.Table, batch_id: str, check: Callable[[], None]) -> Iterator[memoryview]:
    complete = rows.append_column("upload_batch_id", pa.repeat(batch_id, rows.num_rows)).select(list(ROW))
    for start in range(0, complete.num_rows, SLICE_ROWS):
        check()
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(complete.slice(start, SLICE_ROWS), sink, _FORMAT)
        yield memoryview(sink.getvalue())


def copy(cursor: Cursor, table: str, text: Text) -> int:
    """Copy rows into `table` (trusted SQL) and return how many it took.

    Raises:
        psycopg2.Error: The table or the connection refuses them; the transaction is then aborted.
    """
    cursor.copy_expert(
        f"COPY {table} ({', '.join(ROW)}) FROM STDIN (FORMAT csv, NULL '', ENCODING 'UTF8')",
        cast("TextIO", text),  # only its `read` is ever called
        READ_BYTES,
    )
    return cursor.rowcount
