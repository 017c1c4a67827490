"""The top of a delimited text: by which character its cells are parted, and where its header stands."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bulk_upload_pipeline.reading.records import (
    LONGEST_LINE,
    count_lines,
    line_end,
    next_line,
    splitter,
    too_long,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

USUAL = (",", ";", "\t", "|")
"""Delimiters in the order of preference where two do equally well."""

NAMES_ENOUGH = 4
"""So many names of a header under a usual delimiter leave no doubt."""

STAND_IN = "\x1f"
"""ASCII's own unit separator, which takes the place of a delimiter beyond ASCII while records are split."""

TOP_BYTES = 256 << 10
TOP_RECORDS = 50
"""How far down a header is looked for."""

_SEPARATOR_LINE = re.compile(r'\ufeff?"?sep=(.)"?\s*')
"""Excel's own first line that names the delimiter."""


class TopRecord(NamedTuple):
    """A record near the top of a text; `line` counts the physical lines above it."""

    line: int
    cells: list[str]


def top_of(blocks: Iterable[bytes]) -> bytes:
    """Return the first `TOP_BYTES` of a text, more where its first line is longer.

    Raises:
        UnreadableError: `LINE_TOO_LONG`.
    """
    top = b""
    for block in blocks:
        top += block
        if len(top) >= TOP_BYTES and line_end(top, 0) < len(top):
            break
        if len(top) > LONGEST_LINE and line_end(top, 0) == len(top):
            raise too_long(1)
    return top


def top_records(top: bytes, delimiter: str) -> list[TopRecord]:
    """Return the first records of a text, as far as they are whole."""
    text, mark = (top, delimiter) if delimiter.isascii() else (_stood_in(top, delimiter), STAND_IN)
    records: list[TopRecord] = []
    at = line = 0
    while at < len(text) and len(records) < TOP_RECORDS:
        record = splitter(mark).split(text, at)
        cells = record.cells or [text[at : record.end]]
        behind = next_line(text, record.end)
        records.append(TopRecord(line, [cell.decode("utf-8", "replace") for cell in cells]))
        line += max(1, count_lines(text[at:behind]))
        at = behind
    return records


def delimiter_of(top: bytes, known: Callable[[Sequence[str]], int]) -> str:
    """Return the delimiter of a text.

    That under which most names of a header are known, else that which parts most records into equally many
    cells.

    Args:
        top: The first lines, UTF-8.
        known: Says how many cells of a record are header names that a profile knows.
    """
    named = _SEPARATOR_LINE.fullmatch(top[: line_end(top, 0)].decode("utf-8", "replace"))
    if named is not None:
        return named[1]
    there = [(at, mark) for at, mark in enumerate(USUAL) if not at or mark.encode() in top]
    scored = [(_score(top_records(top, mark), known), -at, mark) for at, mark in there]
    if max(scored)[0][0] < NAMES_ENOUGH:
        rare = enumerate(_rare(top), len(USUAL))
        scored += [(_score(top_records(top, mark), known), -at, mark) for at, mark in rare]
    return max(scored)[2]


def _rare(top: bytes) -> list[str]:
    """Return whatever other signs are frequent in the first lines."""
    lines = top[:20_000].decode("utf-8", "replace").splitlines()[:20]
    signs = Counter(sign for line in lines for sign in line if not sign.isalnum())
    frequent = (sign for sign, count in signs.most_common(8) if count >= len(lines) and _may_part(sign))
    return [sign for sign in frequent if sign not in USUAL]


def _may_part(sign: str) -> bool:
    return sign not in "\"'-/._()\r\n\0\ufffd"


def _score(records: list[TopRecord], known: Callable[[Sequence[str]], int]) -> tuple[int, float]:
    names = max((known(record.cells) for record in records), default=0)
    counts = Counter(len(record.cells) for record in records if any(record.cells))
    if not counts:
        return names, 0.0
    cells, often = counts.most_common(1)[0]
    return names, often / counts.total() if cells > 1 else 0.0


def with_stand_in(blocks: Iterable[bytes], delimiter: str) -> Iterator[bytes]:
    """Yield a text with `STAND_IN` for a delimiter that is more than one byte of UTF-8."""
    if delimiter.isascii():
        yield from blocks
        return
    for block in blocks:
        yield _stood_in(block, delimiter)


def _stood_in(block: bytes, delimiter: str) -> bytes:
    return block.replace(STAND_IN.encode(), b"\xef\xbf\xbd").replace(delimiter.encode(), STAND_IN.encode())


def behind_header(blocks: Iterator[bytes], delimiter: str, skip: int) -> tuple[int, Iterator[bytes]]:
    """Pass over the lines above the header and the header itself.

    Args:
        blocks: The text from its beginning.
        delimiter: One ASCII character.
        skip: Physical lines above the header.

    Returns:
        The number of the physical line below the header, and the text from there.
    """
    top = top_of(blocks)
    at = 0
    for _ in range(skip):
        at = next_line(top, line_end(top, at))
    behind = next_line(top, splitter(delimiter).split(top, at).end)
    line = 1 + skip + max(1, count_lines(top[at:behind]))
    return line, _joined(top[behind:], blocks)


def _joined(rest: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if rest:
        yield rest
    yield from blocks
