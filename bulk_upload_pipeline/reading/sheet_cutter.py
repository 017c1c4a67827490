"""The XML of one sheet of an XLSX file, cut between its rows into parts of bounded size.

Rows and cells without a value are left out on the way: formatted emptiness costs nothing.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import accumulate
from typing import IO, TYPE_CHECKING, NamedTuple

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.recognising.headers import MOST_COLUMNS
from bulk_upload_pipeline.recognising.unpack import damaged, refuse_bomb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulk_upload_pipeline.reading.shared_texts import SharedTexts

ROWS_OF_PART = 16_000
BYTES_OF_PART = 32 << 20
TEXTS_OF_PART = 16 << 20
"""Bytes of long texts that the rows of a part name, each as often as they do."""

LONGEST_ROW = 16 << 20
"""Bytes of XML of one row; beyond it a cell holds more than any cell of an invoice."""

MOST_CELLS = 16_000_000
"""Cells between the first and the last of a part, filled or not."""

_DENSE = MOST_CELLS // (26 * 27)
"""Rows that take no more room than that, however many of the columns A to ZZ they have."""

WIDEST_GAP = 5_000
"""Blank rows for which a part that is spread over many rows is not cut."""

LAST_ROW = 1 << 20
_BLOCK = 1 << 20
_LONGEST_HEAD = 16 << 20
"""Bytes of XML above the rows: widths of columns, panes and the like."""

_OPENING = re.compile(rb"<(\w+:)?sheetData\s*(/?)>")
_ROOT = re.compile(rb"<(?:\w+:)?worksheet\b[^>]*>")
_ROW_NUMBER = re.compile(rb"""[^>]*?\sr=["']([0-9]{1,8})["']""")
_EMPTY_CELL = re.compile(rb"<(?:\w+:)?c\b[^>]*/>")
_LETTERS = bytes.maketrans(b"BCDEFGHIJKLMNOPQRSTUVWXYZ'", b"A" * 25 + b'"')
_TOO_WIDE = re.compile(rb"""\sr=["']([A-Z]{3})[0-9]""")
"""Cells beyond column ZZ, which are beyond the 500 that a header may have."""
_COLUMN = re.compile(rb"""\sr=["']([A-Z]{1,3})[0-9]""")
_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\b[^>]*?\sref=["']([A-Z]+)([0-9]+):([A-Z]+)([0-9]+)["']""")


class Part(NamedTuple):
    """Some rows of a sheet.

    Attributes:
        first_row: Number of the first row among them, from 1; it counts where `numbered` is False.
        numbered: Whether the rows state their numbers themselves.
        rows: Their XML.
        opening: What stands before them in a sheet of their own.
        closing: What stands behind them.
    """

    first_row: int
    numbered: bool
    rows: bytes
    opening: bytes
    closing: bytes


class Merged(NamedTuple):
    """A range of merged cells; rows and columns from 1."""

    top: int
    left: int
    bottom: int
    right: int


class Ends(NamedTuple):
    """The first rows of a sheet, None for one that is empty, the last ones, and the cells merged in the first.

    The last are several parts where much blank room lies between them.
    """

    first: Part | None
    last: list[Part]
    merged: list[Merged]


class Cutter:
    """Cuts the XML of one sheet, which it reads once.

    Args:
        stream: The XML.
        name: Of the sheet, for findings.
        texts: Those that its cells may name.
        packed: Bytes of the whole file.
    """

    def __init__(self, stream: IO[bytes], name: str, texts: SharedTexts, packed: int) -> None:
        self._stream, self._name = stream, name
        self._texts, self._packed = texts, packed
        self._named = 0
        self._row = 1
        self._pending, self._ended = self._behind_opening()

    def parts(self) -> Iterator[Part]:
        """Yield all rows.

        Raises:
            UnreadableError: The sheet is damaged, or has a row too long or a column too many.
        """
        ready: list[bytes] = []
        size = rows = 0
        for some in self._stretches():
            ready.append(some)
            size += len(some)
            rows += some.count(self._tag)
            if size > BYTES_OF_PART or rows >= ROWS_OF_PART:
                yield from self._cut(b"".join(ready))
                ready.clear()
                size = rows = 0
        yield from self._cut(b"".join(ready))

    def ends(self, rows: int) -> Ends:
        """Return up to `rows` rows from the top and from the bottom; those between are passed over.

        Raises:
            UnreadableError: As `parts`, as far as the sheet is looked at.
        """
        head, in_head, head_size = [], 0, 0
        tail: deque[tuple[bytes, int]] = deque()
        passed = in_tail = 0
        for some in self._stretches():
            count = some.count(self._tag)
            if in_head < rows and head_size < BYTES_OF_PART:
                head.append(some)
                in_head, head_size = in_head + count, head_size + len(some)
            tail.append((some, count))
            in_tail += count
            while in_tail - tail[0][1] >= rows:
                passed += tail[0][1]
                in_tail -= tail.popleft()[1]
        starts = self._starts(top := b"".join(head))
        above = list(self._cut(top[: starts[rows]] if len(starts) > rows else top))
        merged = list(self._merged(self._row - 1))
        bottom = b"".join(some for some, _ in tail)
        starts = self._starts(bottom)
        kept = max(0, len(starts) - rows)
        self._row = passed + kept + 1
        below = list(self._cut(bottom[starts[kept] :] if starts else b""))
        return Ends(above[0] if above else None, below, merged)

    def _stretches(self) -> Iterator[bytes]:
        """Yield the rows, a block of them at a time, without those that hold no value."""
        pending = self._pending
        while True:
            end = pending.find(self._end)
            limit = end if end >= 0 else pending.rfind(self._tag)
            if limit > 0 and (rows := self._filled(pending[:limit])):
                yield rows
            if self._ended or end >= 0:
                self._pending = pending[limit:]
                return
            pending = pending[max(limit, 0) :]
            block = self._stream.read(_BLOCK)
            if not block:
                raise damaged(f"the sheet {self._name!r} has no end")
            pending += block
            if len(pending) > LONGEST_ROW:
                raise self._too_long()

    def _behind_opening(self) -> tuple[bytes, bool]:
        """Pass over what stands above the rows; return what follows, and whether there are none."""
        head = b""
        while block := self._stream.read(_BLOCK):
            head += block
            found = _OPENING.search(head)
            if found:
                refuse_entities(head[: found.start()])
                self._learn(found[1] or b"", head[: found.start()], head[found.end() :])
                return head[found.end() :], bool(found[2])
            if len(head) > _LONGEST_HEAD:
                break
        raise damaged(f"the sheet {self._name!r} has no rows that can be found")

    def _learn(self, prefix: bytes, above: bytes, below: bytes) -> None:
        """Note how the sheet's program writes rows."""
        self._tag, self._end = b"<" + prefix + b"row", b"</" + prefix + b"sheetData"
        root = _ROOT.search(above)
        self._opening = (
            b'<?xml version="1.0" encoding="UTF-8"?>'
            + (root[0] if root else b"<worksheet>")
            + b"<"
            + prefix
            + b"sheetData>"
        )
        self._closing = self._end + b"></" + prefix + b"worksheet>"
        cell = rb"<" + prefix + rb"c\b[^>]*/>"
        self._empty = re.compile(
            self._tag + rb"\b(?:[^>]*/>|[^>]*>(?:" + cell + rb")*</" + prefix + rb"row>)"
        )
        first = below.find(self._tag)
        self._numbered = (
            first < 0 or _ROW_NUMBER.match(below[first : first + 5_000], len(self._tag)) is not None
        )

    def _filled(self, rows: bytes) -> bytes:
        """Return rows without those that hold no value, as far as the others say their numbers themselves."""
        filled = self._empty.sub(b"", rows) if self._numbered and b"/>" in rows else rows
        return filled if filled.strip() else b""

    def _starts(self, rows: bytes) -> list[int]:
        """Return where each row begins."""
        before, *pieces = map(len, rows.split(self._tag))
        return (
            list(accumulate((size + len(self._tag) for size in pieces[:-1]), initial=before))
            if pieces
            else []
        )

    def _merged(self, last_row: int) -> Iterator[Merged]:
        """Yield the merged cells that begin in the rows up to one; they are listed behind the rows."""
        behind, seen = self._pending, set()
        while behind:
            for left, top, right, bottom in _MERGED.findall(behind):
                cell = Merged(int(top), column_number(left), int(bottom), column_number(right))
                if cell.top <= last_row and cell not in seen:
                    seen.add(cell)
                    yield cell
            block = self._stream.read(_BLOCK)
            behind = behind[-200:] + block if block else b""

    def _cut(self, rows: bytes) -> Iterator[Part]:
        rows = self._narrow(rows)
        pieces = rows.split(self._tag)[1:]
        if not pieces:
            return
        numbers = self._numbers(pieces)
        cuts = sorted({*self._cuts(numbers, rows), *self._cuts_by_texts(pieces)})
        starts = self._starts(rows) if len(cuts) > 1 else [0]
        for at, until in zip(cuts, [*cuts[1:], None], strict=True):
            some = rows if len(cuts) == 1 else rows[starts[at] : starts[until] if until else len(rows)]
            yield Part(numbers[at], self._numbered, some, self._opening, self._closing)
        self._row = numbers[-1] + 1

    def _narrow(self, rows: bytes) -> bytes:
        """Return rows in which no cell, or else no filled one, stands beyond the last column of any header."""
        if b'="AAA' not in rows.translate(_LETTERS) or not _TOO_WIDE.search(rows):
            return rows
        rows = _EMPTY_CELL.sub(b"", rows)
        if _TOO_WIDE.search(rows):
            raise UnreadableError(
                file_finding(
                    "TOO_MANY_COLUMNS", f"more than {MOST_COLUMNS} columns in the sheet {self._name!r}"
                )
            )
        return rows

    def _numbers(self, pieces: list[bytes]) -> list[int]:
        """Return the number of each row, of which all behind its tag is given."""
        if not self._numbered:
            return list(range(self._row, self._row + len(pieces)))
        stated = [found[1] for piece in pieces if (found := _ROW_NUMBER.match(piece))]
        if len(stated) != len(pieces):
            raise damaged(f"some rows of the sheet {self._name!r} have a number, others none")
        numbers = list(map(int, stated))
        ascending = all(a < b for a, b in zip([self._row - 1, *numbers], numbers, strict=False))
        if not ascending or numbers[-1] > LAST_ROW:
            raise damaged(f"the rows of the sheet {self._name!r} are not in their order")
        return numbers

    def _cuts(self, numbers: list[int], rows: bytes) -> list[int]:
        """Return where to cut so that no part has many rows, nor much room between its rows."""
        span = numbers[-1] - numbers[0] + 1
        if len(numbers) <= 2 * ROWS_OF_PART and span <= _DENSE:
            return [0]
        width = max(map(column_number, set(_COLUMN.findall(rows))), default=1)
        room = max(1, MOST_CELLS // width)
        cuts = [0]
        for at, number in enumerate(numbers):
            wide_gap = at > 0 and number - numbers[at - 1] > WIDEST_GAP
            if wide_gap or number - numbers[cuts[-1]] >= room or at - cuts[-1] >= ROWS_OF_PART:
                cuts.append(at)
        return cuts

    def _cuts_by_texts(self, rows: list[bytes]) -> list[int]:
        """Return where to cut so that no part names many bytes of texts.

        Raises:
            UnreadableError: A row names more than any row has, or all of them more than the file can explain.
        """
        weights = self._texts.weights(rows, TEXTS_OF_PART) or []
        if weights and max(weights) > LONGEST_ROW:
            raise self._too_long()
        cuts, size = [], 0
        for at, weight in enumerate(weights):
            if size + weight > TEXTS_OF_PART:
                cuts.append(at)
                size = 0
            size += weight
        self._named += sum(weights)
        refuse_bomb(self._named, self._packed)
        return cuts

    def _too_long(self) -> UnreadableError:
        return UnreadableError(
            file_finding("LINE_TOO_LONG", f"a row of the sheet {self._name!r} below row {self._row - 1:,}")
        )


def column_number(letters: bytes) -> int:
    """Return the number of a column that is named by letters: A is 1."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def column_letters(number: int) -> bytes:
    """Return the letters by which a column is named: A is 1."""
    letters = b""
    while number:
        number, letter = divmod(number - 1, 26)
        letters = bytes([65 + letter]) + letters
    return letters


def refuse_entities(head: bytes) -> None:
    """Stop where XML declares entities, by which it can grow without bounds.

    Raises:
        UnreadableError: `UNSAFE_ARCHIVE`.
    """
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise UnreadableError(file_finding("UNSAFE_ARCHIVE", "its XML declares entities"))
