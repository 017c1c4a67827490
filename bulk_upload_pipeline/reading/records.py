"""The records of delimited text one by one, and where the lines and records of a text that is whole begin."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_LINE = 8 << 20
"""Bytes of a line beyond which a file is no table of records."""

LONGEST_QUOTED_RECORD = 1 << 20
"""Bytes of a record whose quoted cells hold line breaks. A longer one is a mark that was never closed."""

QUOTE, LF, CR = 0x22, 0x0A, 0x0D


class Record(NamedTuple):
    """One record that was split by itself.

    Attributes:
        start: Its first byte in the stretch.
        end: The byte after it, its line end excluded.
        cells: None where a quotation mark makes its cells untellable.
    """

    start: int
    end: int
    cells: list[bytes] | None


class Splitter:
    """Splits single records, of one delimiter (one ASCII byte)."""

    def __init__(self, delimiter: bytes) -> None:
        self.delimiter = delimiter
        mark = re.escape(delimiter)
        self._quoted = re.compile(rb'"((?:[^"]|"")*+)"')
        self._behind = (delimiter, b"\r", b"\n", b"")
        self._plain = re.compile(rb"[^\r\n" + mark + rb"]*")

    def split(self, data: bytes, start: int) -> Record:
        """Return the record that begins at `start`; one that cannot be told ends with its physical line."""
        cells: list[bytes] = []
        at = start
        while True:
            if data[at : at + 1] == b'"':
                quoted = self._quoted.match(data, at, start + LONGEST_QUOTED_RECORD)
                if quoted is None or data[quoted.end() : quoted.end() + 1] not in self._behind:
                    return Record(start, line_end(data, start), None)
                cells.append(quoted[1].replace(b'""', b'"'))
                at = quoted.end()
            else:
                plain = self._plain.match(data, at)
                assert plain is not None
                cells.append(plain[0])
                at = plain.end()
            if data[at : at + 1] != self.delimiter:
                return Record(start, at, cells)
            at += 1


@lru_cache(maxsize=32)
def splitter(delimiter: str) -> Splitter:
    """Return the splitter of a delimiter."""
    return Splitter(delimiter.encode())


_LINE_END = re.compile(rb"\r\n|\r|\n")


def line_end(data: bytes, start: int) -> int:
    """Return where the physical line of `start` ends, without its line end."""
    found = _LINE_END.search(data, start)
    return len(data) if found is None else found.start()


def next_line(data: bytes, end: int) -> int:
    """Return where the line after the one that ends at `end` begins."""
    if data[end : end + 2] == b"\r\n":
        return end + 2
    return min(end + 1, len(data))


def count_lines(data: bytes) -> int:
    """Return how many line ends are in `data`: LF, CR and CRLF count one each."""
    breaks = int(np.count_nonzero(np.frombuffer(data, np.uint8) == LF))
    return breaks + (data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0)


def line_starts(data: bytes) -> np.ndarray:
    """Return where each physical line begins (int64), a line behind the last line end not included."""
    codes = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(codes == LF)
    if b"\r" in data:
        returns = np.flatnonzero(codes == CR)
        lone = returns[np.append(codes, 0)[returns + 1] != LF]
        breaks = np.sort(np.concatenate((breaks, lone))) if len(lone) else breaks
    starts = np.concatenate(([0], breaks + 1))
    return starts[starts < len(data)]


def record_starts(data: bytes) -> np.ndarray:
    """Return where each record of a sound stretch begins (int64); blank lines are none."""
    starts = line_starts(data)
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == QUOTE)
    if len(quotes):
        starts = starts[np.searchsorted(quotes, starts) % 2 == 0]
    first = np.frombuffer(data, np.uint8)[starts]
    return starts[(first != LF) & (first != CR)]


def starts_outside(data: bytes, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return where the lines begin that are not blank and in none of these spans (int64)."""
    starts = line_starts(data)
    begins, ends = np.array(spans, np.int64).reshape(-1, 2).T
    last = np.searchsorted(begins, starts, side="right") - 1
    within = (last >= 0) & (starts < ends[last]) if len(begins) else np.zeros(len(starts), dtype=bool)
    first = np.frombuffer(data, np.uint8)[starts]
    return starts[~within & (first != LF) & (first != CR)]


def fits(cells: Sequence[bytes] | Sequence[str], columns: int) -> bool:
    """Return whether a record has a cell for each column, and nothing in any further ones."""
    return len(cells) >= columns and not any(cells[columns:])


def too_long(line: int) -> UnreadableError:
    """Return the error of a line that is no record."""
    return UnreadableError(
        file_finding("LINE_TOO_LONG", f"line {line:,} is longer than {LONGEST_LINE >> 20} MB")
    )
