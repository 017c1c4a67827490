"""Where the records of delimited text begin and end, whatever quotation marks do to it.

Text comes as UTF-8 in blocks that were cut anywhere and leaves in stretches that end where a record ends. A
stretch in which every quotation mark stands where RFC 4180 wants it can be read as it is. In any other the
lines with a quotation mark are looked at one by one, so that a mark that is never closed costs its own
line and not the rest of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LONGEST_LINE = 8 << 20
"""Bytes of a line beyond which a file is no table of records."""

LONGEST_QUOTED_RECORD = 1 << 20
"""Bytes of a record whose quoted cells hold line breaks. A longer one is a mark that was never closed."""

_QUOTE, _LF, _CR = 0x22, 0x0A, 0x0D
_END_MARK = b"\x1a"


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
    breaks = int(np.count_nonzero(np.frombuffer(data, np.uint8) == _LF))
    return breaks + (data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0)


def line_starts(data: bytes) -> np.ndarray:
    """Return where each physical line begins (int64), a line behind the last line end not included."""
    codes = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(codes == _LF)
    if b"\r" in data:
        returns = np.flatnonzero(codes == _CR)
        lone = returns[np.append(codes, 0)[returns + 1] != _LF]
        breaks = np.sort(np.concatenate((breaks, lone))) if len(lone) else breaks
    starts = np.concatenate(([0], breaks + 1))
    return starts[starts < len(data)]


def record_starts(data: bytes) -> np.ndarray:
    """Return where each record of a sound stretch begins (int64); blank lines are none."""
    starts = line_starts(data)
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
    if len(quotes):
        starts = starts[np.searchsorted(quotes, starts) % 2 == 0]
    first = np.frombuffer(data, np.uint8)[starts]
    return starts[(first != _LF) & (first != _CR)]


def starts_outside(data: bytes, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return where the lines begin that are not blank and in none of these spans (int64)."""
    starts = line_starts(data)
    begins, ends = np.array(spans, np.int64).reshape(-1, 2).T
    last = np.searchsorted(begins, starts, side="right") - 1
    within = (last >= 0) & (starts < ends[last]) if len(begins) else np.zeros(len(starts), dtype=bool)
    first = np.frombuffer(data, np.uint8)[starts]
    return starts[~within & (first != _LF) & (first != _CR)]


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
        elif len(pending) > LONGEST_LINE:
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


def too_long(line: int) -> UnreadableError:
    """Return the error of a line that is no record."""
    return UnreadableError(
        file_finding("LINE_TOO_LONG", f"line {line:,} is longer than {LONGEST_LINE >> 20} MB")
    )


def split_apart(data: bytes, delimiter: str, columns: int, limit: int) -> tuple[tuple[Record, ...], int]:
    """Split the records of all lines with a quotation mark that begin before `limit`.

    A record over several lines of which the cells do not come out right is none: a mark of its first line was
    never closed. Then that line alone is damaged, and the next one is looked at for itself.

    Returns:
        The records, and where the first line behind them and behind `limit` begins.
    """
    starts = line_starts(data)
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
    of_quotes = np.searchsorted(starts, quotes, side="right") - 1
    quoted_lines = starts[of_quotes[np.diff(of_quotes, prepend=-1) > 0]]
    records: list[Record] = []
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
        records.append(record)
        behind = next_line(data, record.end)
    return tuple(records), max(behind, limit)


def fits(cells: Sequence[bytes] | Sequence[str], columns: int) -> bool:
    """Return whether a record has a cell for each column, and nothing in any further ones."""
    return len(cells) >= columns and not any(cells[columns:])


class _Cut(NamedTuple):
    """Where the last whole record ends (0: not known yet), and the records that had to be split apart."""

    end: int
    apart: tuple[Record, ...] | None = None


class _Cutter:
    """Finds the last whole record of a text that goes on."""

    def __init__(self, delimiter: str, columns: int) -> None:
        self._delimiter, self._columns = delimiter, columns
        self._edges = np.zeros(256, dtype=bool)
        self._edges[[_QUOTE, _LF, _CR, ord(delimiter)]] = True

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
        limit = _last_line(data, len(data) - LONGEST_QUOTED_RECORD)
        if not limit:
            return _Cut(0)
        apart, end = split_apart(data, self._delimiter, self._columns, limit)
        return _Cut(end, apart)

    def _before_open_record(self, data: bytes) -> int:
        """Return where the record begins whose quoted cell goes on behind the text; 0 if it is too long."""
        starts = line_starts(data)
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
        closed = starts[np.searchsorted(quotes, starts) % 2 == 0]
        start = int(closed[-1]) if len(closed) else 0
        return start if len(data) - start <= LONGEST_QUOTED_RECORD else 0

    def _sound(self, data: bytes, end: int) -> bool:
        """Return whether what stands before `end` can be read as it is, by looking at all of it at once."""
        if data.find(b'"', 0, end) < 0:
            return True
        codes = np.frombuffer(data, np.uint8, end)
        quotes = np.flatnonzero(codes == _QUOTE)
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
        breaks = np.flatnonzero((quoted == _LF) | (quoted == _CR)) + opening[0]
        return bool((np.searchsorted(quotes, breaks) % 2).any())
    behind = np.cumsum(lengths)
    quoted = codes[np.arange(behind[-1]) + np.repeat(opening - behind + lengths, lengths)]
    return bool(((quoted == _LF) | (quoted == _CR)).any())


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
