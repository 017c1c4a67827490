"""Rows that hold too little to be invoice lines: a file of nothing else is refused before it floods the error table.

Every rejected row is written down with its reasons and its source, some hundred bytes for each. A row of two bytes
would take a hundred times its size, and 300 MB of them, which pack into one, would hold a worker for hours and
fill the disk of the database; and no person corrects millions of them. So a bound is needed that no table of
invoices meets:

* A line that could load states a number, a day, a quantity, a price and an item: nine characters at the least,
  whatever the profile. Rows that come together (a block of text, a batch of a sheet) with fewer than
  `LEAST_CONTENT` on average are fragments.
* Fragments are rejected one by one, like all rows, up to `MOST_FRAGMENTS`, and beyond as long as they are
  fewer than the other rows up to there. So a sound file with page breaks, headings and totals among its lines is
  read to its end however long it is, and the fragments of a file cost at most what its other rows may cost.
* Rows without anything in them are no rows, as ever, and do not count, however many they are.

What is left is a file that the circuit breaker would have rejected as a whole.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.reading.records import line_starts, record_starts, starts_outside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulk_upload_pipeline.reading.chunking import Piece
    from bulk_upload_pipeline.reading.stretches import Stretch

LEAST_CONTENT = 8
"""Characters of a row, without what parts its cells and without blanks, below which it is no invoice line."""

MOST_FRAGMENTS = 100_000
"""Fragments up to which a file may have more of them than of other rows."""

_SPARE = 32
"""Bytes of a line, beside three for each cell, from which on nobody has to look how many are content."""


class Fragments:
    """Counts the rows of one file in their order."""

    def __init__(self) -> None:
        self._fragments = self._others = 0

    def count(self, rows: int, content: int) -> None:
        """Count rows that come together.

        Args:
            rows: How many; those without anything in them are none.
            content: Characters in all of them.

        Raises:
            UnreadableError: `MOSTLY_FRAGMENTS`.
        """
        if content >= rows * LEAST_CONTENT:
            self._others += rows
            return
        self._fragments += rows
        if self._fragments > max(MOST_FRAGMENTS, self._others):
            what = (
                f"{self._fragments:,} of the first {self._fragments + self._others:,} hold fewer than "
                f"{LEAST_CONTENT} characters on average"
            )
            raise UnreadableError(file_finding("MOSTLY_FRAGMENTS", what))


def counted_stretches(stretches: Iterable[Stretch], delimiter: str, columns: int) -> Iterator[Stretch]:
    """Yield the stretches of a delimited text, from its beginning, as long as it is no file of fragments.

    Raises:
        UnreadableError: `MOSTLY_FRAGMENTS`.
    """
    fragments = Fragments()
    for stretch in stretches:
        fragments.count(*_weighed(stretch, delimiter, columns))
        yield stretch


def counted_pieces(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the pieces of a file whose cells are told already, as long as it is no file of fragments.

    Raises:
        UnreadableError: `MOSTLY_FRAGMENTS`.
    """
    fragments = Fragments()
    for piece in pieces:
        rows = len(piece.numbers) + len(piece.damaged)
        fragments.count(rows, piece.text_bytes)
        yield piece


class Filled(NamedTuple):
    """A sound text without its empty records, and which of its records those are that stayed (all where None)."""

    data: bytes
    stayed: np.ndarray | None = None

    def of(self, starts: np.ndarray) -> np.ndarray:
        """Return which of these, one for each record of the whole text, belong to what stayed."""
        return starts if self.stayed is None else starts[self.stayed]


def filled_records(data: bytes, lines: int, delimiter: str, columns: int) -> Filled:
    """Leave empty records out of a text at once, where there may be many: one by one, millions take minutes.

    They are those that a look at each cell would leave out: too few cells with nothing but blanks in them, or cells
    for all columns without even a blank.

    Args:
        data: Text of which every quotation mark is in its place.
        lines: How many line ends are in it.
        delimiter: One ASCII character.
        columns: Cells of a record that is whole.
    """
    if not _is_thin(data, lines, columns):
        return Filled(data)
    starts = record_starts(data)
    if not len(starts):
        return Filled(data)
    held = _held(data, starts, delimiter)
    stayed = (held.content > 0) | (held.quotes > 0) | ((held.blanks > 0) & (held.delimiters >= columns - 1))
    if stayed.all():
        return Filled(data)
    lengths = np.diff(np.append(starts, len(data)))
    codes = np.frombuffer(data, np.uint8)[starts[0] :]
    return Filled(codes[np.repeat(stayed, lengths)].tobytes(), stayed)


class _Held(NamedTuple):
    """What each record of a text holds, in bytes; the line ends are none of it."""

    content: np.ndarray
    quotes: np.ndarray
    blanks: np.ndarray
    delimiters: np.ndarray


def _held(data: bytes, starts: np.ndarray, delimiter: str) -> _Held:
    codes = np.frombuffer(data, np.uint8)
    kinds = np.zeros(256, np.uint8)
    kinds[list(string.whitespace.encode())] = 2
    kinds[list(b"\r\n")] = 4
    kinds[ord('"')] = 1
    kinds[ord(delimiter)] = 3
    found = kinds[codes]
    return _Held(*(np.add.reduceat(found == kind, starts, dtype=np.int32) for kind in range(4)))


def _is_thin(data: bytes, lines: int, columns: int) -> bool:
    """Return whether lines are so short that many may be without content."""
    return len(data) < (lines + 1) * (3 * columns + _SPARE)


def _weighed(stretch: Stretch, delimiter: str, columns: int) -> tuple[int, int]:
    """Return how many records with anything in them a stretch has, and the bytes of their content."""
    data = stretch.data
    if not _is_thin(data, stretch.lines, columns):
        return stretch.lines, len(data)
    starts = _starts(stretch)
    if not len(starts):
        return 0, 0
    held = _held(data, starts, delimiter)
    empty = (held.content == 0) & (held.blanks == 0) & (held.delimiters >= columns - 1)
    empty |= (held.content == 0) & (held.quotes == 0) & (held.delimiters < columns - 1)
    empty &= (held.quotes == 0) | (_lines(data, starts) == 1)
    return int(np.count_nonzero(~empty)), int(held.content.sum())


def _starts(stretch: Stretch) -> np.ndarray:
    if stretch.apart is None:
        return record_starts(stretch.data)
    spans = [(record.start, record.end) for record in stretch.apart]
    apart = np.array([start for start, _ in spans], np.int64)
    return np.sort(np.concatenate((starts_outside(stretch.data, spans), apart)))


def _lines(data: bytes, starts: np.ndarray) -> np.ndarray:
    """Return over how many physical lines each record goes."""
    lines = line_starts(data)
    return np.diff(np.append(np.searchsorted(lines, starts), len(lines)))
