"""Records of a reader, in whatever pieces they come, as chunks of a stated number of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.model import TextChunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulk_upload_pipeline.model import DamagedRow

LONGEST_RAW_TEXT = 20_000
"""Characters of a damaged record that are kept."""

MOST_TEXT = 8 << 20
"""Bytes beyond which a chunk of long rows has no further piece: what judges it holds it several times over."""

LONG_ROW = 2_000
"""Bytes of a row, on average of a chunk, up to which it has as many as it shall."""


class Piece(NamedTuple):
    """Some records in file order.

    Attributes:
        cells: As in `TextChunk`.
        numbers: Row number of each row of `cells` (int64), ascending; gaps are the damaged rows.
        damaged: Records between them that have no cells.
        bytes_done: Bytes of the source up to the end of the piece.
    """

    cells: pa.Table
    numbers: np.ndarray
    damaged: tuple[DamagedRow, ...]
    bytes_done: int

    @property
    def last(self) -> int:
        """Return the highest row number, damaged rows included; 0 for a piece without records."""
        rows = int(self.numbers[-1]) if len(self.numbers) else 0
        return max(rows, self.damaged[-1].row_number if self.damaged else 0)

    @property
    def text_bytes(self) -> int:
        """Return how many bytes of text are in the cells and in the damaged records."""
        cells = sum(pc.sum(pc.binary_length(column)).as_py() or 0 for column in self.cells.columns)
        return cells + sum(len(row.raw_text) for row in self.damaged)

    def split(self, number: int) -> tuple[Piece, Piece]:
        """Return the records up to `number` and those behind it."""
        at = int(np.searchsorted(self.numbers, number, side="right"))
        first = tuple(row for row in self.damaged if row.row_number <= number)
        return (
            Piece(self.cells.slice(0, at), self.numbers[:at], first, self.bytes_done),
            Piece(self.cells.slice(at), self.numbers[at:], self.damaged[len(first) :], self.bytes_done),
        )


def in_chunks(pieces: Iterable[Piece], chunk_rows: int) -> Iterator[TextChunk]:
    """Yield chunks of exactly `chunk_rows` row numbers, damaged ones included; the last may be shorter.

    So may one be of rows longer than `LONG_ROW` that has more than `MOST_TEXT`: a row may take megabytes.

    Row numbers that no record has, as of blank rows in a spreadsheet, count; where a whole chunk would be
    made of them there is none.

    So which record is in which chunk depends on nothing but the file and the setting, as the chunk ledger
    needs it.
    """
    held: list[Piece] = []
    limit = chunk_rows
    for coming in pieces:
        piece = coming
        while piece.last >= limit:
            first, piece = piece.split(limit)
            if held or len(first.numbers) or first.damaged:
                yield _chunk([*held, first])
            held, limit = [], limit + chunk_rows
        if len(piece.numbers) or piece.damaged:
            held.append(piece)
            if _is_long(held):
                yield _chunk(held)
                held, limit = [], piece.last + chunk_rows
    if held:
        yield _chunk(held)


def _is_long(pieces: list[Piece]) -> bool:
    rows = sum(len(piece.numbers) + len(piece.damaged) for piece in pieces)
    size = sum(piece.cells.nbytes for piece in pieces)
    size += sum(len(row.raw_text) for piece in pieces for row in piece.damaged)
    return size > max(MOST_TEXT, rows * LONG_ROW)


def _chunk(pieces: list[Piece]) -> TextChunk:
    return TextChunk(
        pa.concat_tables([piece.cells for piece in pieces]),
        pa.array(np.concatenate([piece.numbers for piece in pieces]), pa.int64()),
        tuple(row for piece in pieces for row in piece.damaged),
        pieces[-1].bytes_done,
    )
