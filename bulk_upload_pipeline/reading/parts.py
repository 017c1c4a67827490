"""A large text as parts that several workers read at once, and each of them as if it had read all before it.

A quotation mark decides what a line break means, and one that is never closed costs its own line only. So
where a record begins cannot be told from the middle of a file for sure. Instead of guessing, whoever plans the
parts cuts the whole text once as the reader itself would, which looks for little more than quotation marks
and line ends and costs a fifteenth of judging it. A part begins where a stretch of that reading begins, knows
its physical line, and is read by the same blocks: so its stretches are those of one reading, byte by byte.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from bulk_upload_pipeline.reading.fragments import counted_stretches
from bulk_upload_pipeline.reading.stretches import stretches
from bulk_upload_pipeline.recognising import encodings
from bulk_upload_pipeline.recognising.dialects import behind_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline.model import Layout

FEWEST = 3
"""Parts below which a file is read as a whole: planning and composing would cost more than is won."""

_CONTINUES, _CONTINUES_MASK = 0x80, 0xC0
"""What the bytes of a UTF-8 character look like that are not its first."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of whole records in the middle of a file.

    Attributes:
        start: Its first byte in the file.
        end: The byte after it.
        first_block: Bytes from `start` that the reader looks at first, so that its blocks end where those of
            a reading of the whole file do.
        line: Number of the physical line at which it begins, from 1.
    """

    start: int
    end: int
    first_block: int
    line: int


def may_be_parted(layout: Layout) -> bool:
    """Return whether a file can be read from its middle: plain text, of which each byte has its own place."""
    if layout.file_format != "csv" or layout.compression or layout.written_as is not None:
        return False
    if layout.encoding is None or layout.delimiter is None or not layout.delimiter.isascii():
        return False
    return layout.encoding == "utf-8" or _is_one_byte(layout.encoding)


def _is_one_byte(codec: str) -> bool:
    """Return whether every byte is a character, whatever stands before it."""
    alone = "".join(bytes([byte]).decode(codec, "replace") for byte in range(256))
    return len(alone) == 256 and bytes(range(256)).decode(codec, "replace") == alone


def parts_of(path: Path, layout: Layout, part_bytes: int) -> tuple[Part, ...]:
    """Return the parts of a file of `may_be_parted`, each of at least `part_bytes` but for the last.

    None where it is too small to be worth it, or where bytes that are no text move what comes after them.

    Raises:
        UnreadableError: A line is longer than any record, or most rows are fragments.
    """
    assert layout.encoding is not None
    assert layout.delimiter is not None
    size = path.stat().st_size
    if size < FEWEST * part_bytes:
        return ()
    with path.open("rb") as file:
        walk = _Walk(file, layout.encoding)
        starts = list(_starts(walk, layout, part_bytes, size))
    if walk.text_bytes != size or len(starts) < FEWEST:
        return ()
    ends = [*(start for start, _, _ in starts[1:]), size]
    return tuple(
        Part(start, end, block, line) for (start, block, line), end in zip(starts, ends, strict=True)
    )


def _starts(walk: _Walk, layout: Layout, part_bytes: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield where each part begins, the bytes of its first block, and its physical line."""
    delimiter = layout.delimiter or ""
    line, below = behind_header(walk.blocks(), delimiter, layout.skip_rows)
    first = next(below, b"")
    start = last = walk.text_bytes - walk.in_file(first)
    yield start, walk.seen - start, line
    cut_at = 0
    cut = stretches(_led_by(first, below), delimiter, len(layout.header), line=line)
    for stretch in counted_stretches(cut, delimiter, len(layout.header)):
        # A stretch at the very end may be what remains, which is cut by other rules: no part begins there.
        if start - last >= part_bytes and cut_at < size:
            yield start, cut_at - start + encodings.BLOCK_BYTES, stretch.line
            last = start
        start += walk.in_file(stretch.data)
        cut_at = walk.seen


def _led_by(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


class _Walk:
    """A reading of a whole file that knows how far it is.

    Attributes:
        seen: Bytes of the file that were read.
        text_bytes: Bytes of the file that the text which came out of them stood in.
    """

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._file, self._codec = file, codec
        self.seen = self.text_bytes = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes of the file."""
        raw = self._file.read(size)
        if self.seen == 0 and self._codec == "utf-8" and raw.startswith(codecs.BOM_UTF8):
            self.text_bytes = len(codecs.BOM_UTF8)
        self.seen += len(raw)
        return raw

    def blocks(self) -> Iterator[bytes]:
        """Yield the text as `utf8_blocks` does."""
        for block in encodings.utf8_blocks(self, self._codec):
            self.text_bytes += self.in_file(block)
            yield block

    def in_file(self, text: bytes) -> int:
        """Return how many bytes of the file a text stands in."""
        return bytes_in_file(text, self._codec)


def bytes_in_file(text: bytes, codec: str) -> int:
    """Return how many bytes of a file in a codec of `may_be_parted` some UTF-8 stands in."""
    if codec == "utf-8" or text.isascii():
        return len(text)
    codes = np.frombuffer(text, np.uint8)
    return len(text) - int(np.count_nonzero(codes & _CONTINUES_MASK == _CONTINUES))


class PartStream:
    """A file from the beginning of a part, for `utf8_blocks`."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        file.seek(part.start)
        self._file, self._first = file, part.first_block

    def read(self, size: int) -> bytes:
        """Return the next bytes: as many as the first block has, and `size` from then on."""
        wanted, self._first = self._first or size, 0
        return self._file.read(wanted)
