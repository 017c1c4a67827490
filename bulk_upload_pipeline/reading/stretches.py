"""Where a delimited text that comes in blocks can be cut: where a record ends, whatever quotation marks do to it.

Text comes as UTF-8 in blocks that were cut anywhere and leaves in stretches that end where a record ends. A
stretch in which every quotation mark stands where RFC 4180 wants it can be read as it is. In any other the
lines with a quotation mark are looked at one by one, so that a mark that is never closed costs its own
line and not the rest of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bulk_upload_pipeline.reading import records
from bulk_upload_pipeline.reading.records import (
    CR,
    LF,
    QUOTE,
    Record,
    count_lines,
    fits,
    line_end,
    line_starts,
    next_line,
    splitter,
    too_long,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_END_MARK = b"\x1a"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of whole records.

    Attributes:
        data: UTF-8 text.
        line: Number of the physical line at which it begins, from 1.
        lines: How many line ends are in it.
        bytes_done: Bytes of text up to its end.
        apart: None when every quotation mark stands where RFC 4180 wants it. Otherwise the records of all
            lines with a quotation mark, split one by one; the other lines are records as they stand.
    """

    data: bytes
    line: int
    lines: int
    bytes_done: int
    apart: tuple[Record, ...] | None = None


def stretches(blocks: Iterable[bytes], delimiter: str, columns: int, *, line: int = 1) -> Iterator[Stretch]:
    """Cut a text where records end.

    Args:
        blocks: UTF-8 text, cut anywhere.
        delimiter: One ASCII character.
        columns: Cells of a record that is whole.
        line: Number of the physical line at which the text begins.

    Raises:
        UnreadableError: `LINE_TOO_LONG`.
    """
    cutter = _Cutter(delimiter, columns)
    pending, done = b"", 0
    for block in blocks:
        pending += block
        cut = cutter.cut(pending)
        if cut.end:
            done += cut.end
            data = pending[: cut.end]
            lines = count_lines(data)
            yield Stretch(data, line, lines, done, cut.apart)
            line += lines
            pending = pending[cut.end :]
        elif len(pending) > records.LONGEST_LINE:
            raise too_long(line)
    done += len(pending)
    pending = _without_end_mark(pending)
    if pending:
        yield Stretch(pending, line, count_lines(pending), done, cutter.rest(pending).apart)


def _without_end_mark(text: bytes) -> bytes:
    """Leave out what DOS wrote behind the last line, and filled up its last block with.

    Zeroes alone stay: they stand where a disk lost what had been written.
    """
    kept = text.rstrip(_END_MARK + b"\0")
    is_marked = text[len(kept) :].startswith(_END_MARK) and kept[-1:] in (b"", b"\r", b"\n")
    return kept if is_marked else text


def split_apart(data: bytes, delimiter: str, columns: int, limit: int) -> tuple[tuple[Record, ...], int]:
    """Split the records of all lines with a quotation mark that begin before `limit`.

    A record over several lines of which the cells do not come out right is none: a mark of its first line was
    never closed. Then that line alone is damaged, and the next one is looked at for itself.

    Returns:
        The records, and where the first line behind them and behind `limit` begins.
    """
    starts = line_starts(data)
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == QUOTE)
    of_quotes = np.searchsorted(starts, quotes, side="right") - 1
    quoted_lines = starts[of_quotes[np.diff(of_quotes, prepend=-1) > 0]]
    split: list[Record] = []
    behind = 0
    for start in quoted_lines.tolist():
        if start < behind:
            continue
        if start >= limit:
            break
        record = splitter(delimiter).split(data, start)
        if record.cells is not None and not fits(record.cells, columns):
            end = line_end(data, start)
            record = record if record.end == end else Record(start, end, None)
        split.append(record)
        behind = next_line(data, record.end)
    return tuple(split), max(behind, limit)


class _Cut(NamedTuple):
    """Where the last whole record ends (0: not known yet), and the records that had to be split apart."""

    end: int
    apart: tuple[Record, ...] | None = None


class _Cutter:
    """Finds the last whole record of a text that goes on."""

    def __init__(self, delimiter: str, columns: int) -> None:
        self._delimiter, self._columns = delimiter, columns
        self._edges = np.zeros(256, dtype=bool)
        self._edges[[QUOTE, LF, CR, ord(delimiter)]] = True

    def rest(self, data: bytes) -> _Cut:
        """Return the cut of a text behind which nothing comes."""
        if self._sound(data, len(data)):
            return _Cut(len(data))
        return _Cut(len(data), split_apart(data, self._delimiter, self._columns, len(data))[0])

    def cut(self, data: bytes) -> _Cut:
        """Return the cut of a text that goes on."""
        last = _last_line(data, len(data))
        if last and self._sound(data, last):
            return _Cut(last)
        closed = self._before_open_record(data)
        if closed and self._sound(data, closed):
            return _Cut(closed)
        # Some mark is wrong. What begins in the last part of the text may still go on behind it.
        limit = _last_line(data, len(data) - records.LONGEST_QUOTED_RECORD)
        if not limit:
            return _Cut(0)
        apart, end = split_apart(data, self._delimiter, self._columns, limit)
        return _Cut(end, apart)

    def _before_open_record(self, data: bytes) -> int:
        """Return where the record begins whose quoted cell goes on behind the text; 0 if it is too long."""
        starts = line_starts(data)
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == QUOTE)
        closed = starts[np.searchsorted(quotes, starts) % 2 == 0]
        start = int(closed[-1]) if len(closed) else 0
        return start if len(data) - start <= records.LONGEST_QUOTED_RECORD else 0

    def _sound(self, data: bytes, end: int) -> bool:
        """Return whether what stands before `end` can be read as it is, by looking at all of it at once."""
        if data.find(b'"', 0, end) < 0:
            return True
        codes = np.frombuffer(data, np.uint8, end)
        quotes = np.flatnonzero(codes == QUOTE)
        return self._in_place(codes, quotes) and self._come_out_right(data, codes, quotes)

    def _in_place(self, codes: np.ndarray, quotes: np.ndarray) -> bool:
        """Return whether every quotation mark stands where one belongs.

        Reading from the left, each mark opens or closes in turn; the two halves of a doubled mark close and
        open again. So all is well if each mark that opens stands at the start of a cell or behind a closing
        one, and each that closes stands at the end of a cell or before an opening one.
        """
        if len(quotes) % 2:
            return False
        opening, closing = quotes[0::2], quotes[1::2]
        before = self._edges[codes[opening - 1]] | (opening == 0)
        after = self._edges[codes[np.minimum(closing + 1, len(codes) - 1)]]
        return bool(before.all() and after.all())

    def _come_out_right(self, data: bytes, codes: np.ndarray, quotes: np.ndarray) -> bool:
        """Return whether each record over several lines has the cells that it should.

        One that has not is none, see `split_apart`: then any of its lines may open what goes on behind `codes`.
        """
        if not _breaks_in_cells(codes, quotes):
            return True
        begins, ends = _over_several_lines(line_starts(data[: len(codes)]), quotes, len(codes))
        marks = np.flatnonzero(codes == ord(self._delimiter))
        quoted = np.searchsorted(marks, quotes[1::2]) - np.searchsorted(marks, quotes[0::2])
        quoted_before = np.append(0, np.cumsum(quoted))[np.searchsorted(quotes, (begins, ends)) // 2]
        first, behind = np.searchsorted(marks, (begins, ends)) - quoted_before
        cells = behind - first + 1
        more = (splitter(self._delimiter).split(data, at) for at in begins[cells > self._columns].tolist())
        return bool((cells >= self._columns).all()) and all(
            fits(record.cells or (), self._columns) for record in more
        )


def _breaks_in_cells(codes: np.ndarray, quotes: np.ndarray) -> bool:
    """Return whether a line ends within a quoted cell; where few cells are quoted, by a look at those only."""
    opening, closing = quotes[0::2], quotes[1::2]
    lengths = closing - opening
    if 8 * int(lengths.sum()) > len(codes):
        quoted = codes[opening[0] :]
        breaks = np.flatnonzero((quoted == LF) | (quoted == CR)) + opening[0]
        return bool((np.searchsorted(quotes, breaks) % 2).any())
    behind = np.cumsum(lengths)
    quoted = codes[np.arange(behind[-1]) + np.repeat(opening - behind + lengths, lengths)]
    return bool(((quoted == LF) | (quoted == CR)).any())


def _over_several_lines(starts: np.ndarray, quotes: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the records begin, and where they end, that have more than one of the lines at `starts`."""
    at = np.flatnonzero(np.searchsorted(quotes, starts) % 2 == 0)
    several = np.diff(at, append=len(starts)) > 1
    behind = np.append(starts, end)[np.append(at[1:], len(starts))]
    return starts[at][several], behind[several]


def _last_line(data: bytes, limit: int) -> int:
    """Return where the last line that begins before `limit` begins. A CR at the very end ends no line yet."""
    if limit <= 0:
        return 0
    newline = data.rfind(b"\n", 0, limit)
    lone = data.rfind(b"\r", newline + 1, limit)
    if lone == len(data) - 1:
        lone = data.rfind(b"\r", newline + 1, lone)
    return max(newline, lone) + 1
