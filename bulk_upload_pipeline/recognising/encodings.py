"""Which encoding the text of a file is in, and its bytes as UTF-8, block by block.

A byte-order mark decides, then whether the whole file is UTF-8, then the look of its bytes. What is left is
one of the many encodings of one or two bytes a character, of which Windows-1252 is what Western
spreadsheets write.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.recognising import letters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

BLOCK_BYTES = 2 << 20
"""Bytes read at once. Arrow reads text fastest in blocks of 1 to 4 MB, which stay in the cache."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order marks of wide characters; that of UTF-32 LE starts with that of UTF-16 LE, so it is tried first."""

_SAMPLE_BYTES = 64 << 10
_LONGEST_SAMPLE = 4096
_ASCII, _LEAD = 0x7F, 0xC0
"""The highest byte of ASCII, and the lowest with which UTF-8 begins a longer character."""


_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")

_BETWEEN_WORDS = re.compile(rb'[ ,;\t"\r\n]|(?<![\x80-\xff])[|~^]|[|~^](?![\x80-\xff,;\t|~^"\r\n])')
"""Blanks and signs that part cells; three of these may also end a character of Shift JIS, Big5 or GB 18030."""

_OF_ANOTHER_SCRIPT = 0.4
"""Share of bytes beyond ASCII that words in Western languages do not reach, but for signs that stand alone."""

_FEWEST_OF_A_SCRIPT = 12

_SUREST_GUESS = 0.95

_WESTERN = frozenset(
    {
        *(
            "ascii",
            "cp1250",
            "cp1252",
            "cp1254",
            "cp1257",
            "cp437",
            "cp500",
            "cp850",
            "cp852",
            "cp858",
            "cp1140",
        ),
        *("hp_roman8", "latin_1", "iso8859_2", "iso8859_3", "iso8859_4", "iso8859_9", "iso8859_10"),
        *("iso8859_13", "iso8859_14", "iso8859_15", "iso8859_16", "mac_iceland", "mac_latin2", "mac_roman"),
        *("mac_turkish", "cp037", "cp775", "cp860", "cp861", "cp863", "cp865", "cp1026", "cp273"),
    }
)
"""Encodings whose bytes do not tell them apart; `letters` may, and Windows-1252 stands for all of them otherwise."""


class Encoding(NamedTuple):
    """A codec of Python, and how sure it is (0 to 1; 1 is stated, marked or proven)."""

    codec: str
    confidence: float


@dataclass(slots=True)
class _Walked:
    """What a walk through a file found out.

    Attributes:
        utf8: Whether all of it is UTF-8.
        multibyte: Characters of more than one byte, as UTF-8 writes them.
        stray: Bytes beyond ASCII that belong to none of those.
        sample: Some of its lines that are no ASCII.
    """

    utf8: bool = True
    multibyte: int = 0
    stray: int = 0
    sample: bytearray = field(default_factory=bytearray)


def stated_encoding(name: str) -> Encoding:
    """Return the encoding that a person or a profile names.

    Raises:
        UnreadableError: Python knows no such encoding of text.
    """
    try:
        info = codecs.lookup(name)
        "".encode(info.name)
    except (LookupError, UnicodeError, TypeError, ValueError):
        raise UnreadableError(file_finding("UNKNOWN_ENCODING", repr(name))) from None
    return Encoding("utf-8" if info.name == "utf-8-sig" else info.name, 1.0)


def detect(stream: BinaryIO) -> Encoding:
    """Return the encoding of a text, reading it to its end.

    Raises:
        UnreadableError: No encoding makes text of it.
    """
    head = stream.read(BLOCK_BYTES)
    if head.startswith(codecs.BOM_UTF8):
        return Encoding("utf-8", 1.0)
    found = wide(head)
    if found is not None:
        return found
    text = _walk(_rest_of(stream, head))
    if text.utf8:
        return Encoding("utf-8", 1.0)
    # Some bytes that are none among many characters that are: a damaged spot, not another encoding.
    if text.multibyte > 10 * text.stray:
        return Encoding("utf-8", round(text.multibyte / (text.multibyte + text.stray), 2))
    return _guess(bytes(text.sample))


def wide(head: bytes) -> Encoding | None:
    """Return which encoding of two or four bytes a character a text is in, None for any other.

    Args:
        head: Its first kilobytes.
    """
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return Encoding(codec, 1.0)
    unmarked = _utf16_without_mark(head) or _utf32_without_mark(head)
    return None if unmarked is None else Encoding(unmarked, 0.9)


def decoded_head(head: bytes) -> str:
    """Return the first characters of a text, of which only the ASCII ones are sure."""
    found = wide(head)
    return head.decode(found.codec if found else "utf-8", "replace").removeprefix("\ufeff")


def _utf16_without_mark(head: bytes) -> str | None:
    """Return which UTF-16 a text mostly of ASCII is: every other byte of it is NUL."""
    even, odd = head[0:4096:2], head[1:4096:2]
    if len(odd) < 8:
        return None
    if odd.count(0) > 0.7 * len(odd) and even.count(0) == 0:
        return "utf-16-le"
    if even.count(0) > 0.7 * len(even) and odd.count(0) == 0:
        return "utf-16-be"
    return None


def _utf32_without_mark(head: bytes) -> str | None:
    """Return which UTF-32 a text mostly of ASCII is: of four bytes only the first, or the last, is not NUL."""
    first, second, third, last = (head[at:4096:4] for at in range(4))
    most = 0.7 * len(last)
    if len(last) < 8:
        return None
    if not any(last) and min(second.count(0), third.count(0)) > most and first.count(0) == 0:
        return "utf-32-le"
    if not any(first) and min(second.count(0), third.count(0)) > most and last.count(0) == 0:
        return "utf-32-be"
    return None


def _rest_of(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    yield head
    while block := stream.read(BLOCK_BYTES):
        yield block


def _walk(blocks: Iterable[bytes]) -> _Walked:
    """Look at every byte: ASCII passes at memory speed, the rest is decoded."""
    found, cut = _Walked(), b""
    for block in blocks:
        if block.isascii() and not (found.utf8 and cut):
            continue
        if found.utf8:
            whole = _before_cut_character(cut + block)
            found.utf8, cut = _is_utf8(whole), (cut + block)[len(whole) :]
        if found.utf8:
            found.multibyte += int(np.count_nonzero(np.frombuffer(block, np.uint8) >= _LEAD))
        else:
            others, characters = _MULTIBYTE.subn(b"", block)
            found.multibyte += characters
            found.stray += int(np.count_nonzero(np.frombuffer(others, np.uint8) > _ASCII))
        _sample(block, found.sample)
    found.utf8 = found.utf8 and not cut
    return found


def _sample(block: bytes, sample: bytearray) -> None:
    """Add lines of a block that are no ASCII, as long as the sample wants some."""
    beyond = np.flatnonzero(np.frombuffer(block, np.uint8) > _ASCII)
    at = 0
    while len(sample) < _SAMPLE_BYTES and (next_one := np.searchsorted(beyond, at)) < len(beyond):
        found = int(beyond[next_one])
        start = max(block.rfind(b"\n", at, found) + 1, at)
        end = block.find(b"\n", found)
        at = len(block) if end < 0 else end + 1
        sample += block[start:at][:_LONGEST_SAMPLE] + b"\n"


def _guess(sample: bytes) -> Encoding:
    told = letters.told_by(sample)
    if not told.is_sure:
        found = _guessed_by_statistics(sample)
        if found.codec != letters.WESTERN:
            return found
        told = told._replace(fit=min(told.fit, found.confidence))
    # Five bytes are nothing in Windows-1252; ISO-8859-1 has something (if invisible) for each.
    gaps = any(byte in sample for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D))
    codec = "iso8859-1" if gaps and told.codec == letters.WESTERN else told.codec
    return Encoding(codec, min(told.fit, _SUREST_GUESS))


def _guessed_by_statistics(sample: bytes) -> Encoding:
    """Return which encoding of another script a text seems to be in, Windows-1252 where it seems to be of none."""
    from charset_normalizer import from_bytes

    best = from_bytes(_telling(sample)).best()
    sure = 0.8 if best is None else round(max(0.0, 1 - best.chaos), 2)
    confidence = min(sure, _SUREST_GUESS)
    if best is not None and best.encoding not in _WESTERN and not best.encoding.startswith("utf"):
        return Encoding(best.encoding, confidence)
    return Encoding(letters.WESTERN, confidence)


def _telling(sample: bytes) -> bytes:
    """Return what of a sample tells most of its encoding.

    Where the words beyond ASCII hardly have anything else, they are in a script of their own, and what stands around
    them only makes all encodings look alike. Accented letters are few among others, and need those.
    """
    beyond_ascii = (word for word in _BETWEEN_WORDS.split(sample) if not word.isascii())
    words = b"\n".join(dict.fromkeys(beyond_ascii))
    beyond = int(np.count_nonzero(np.frombuffer(words, np.uint8) > _ASCII))
    own_script = beyond >= max(_FEWEST_OF_A_SCRIPT, _OF_ANOTHER_SCRIPT * len(words))
    return words if own_script else sample


def _as_utf8(decoder: codecs.IncrementalDecoder, raw: bytes, codec: str) -> bytes:
    """Return what the decoder makes of more bytes, as UTF-8."""
    if codec == "utf-8":
        # Mostly it is sound, and need not be written anew: only its ends may hold a part of a character.
        text = decoder.getstate()[0] + raw
        whole = _before_cut_character(text)
        if _is_utf8(whole):
            decoder.setstate((text[len(whole) :], 0))
            return whole
    return decoder.decode(raw).encode("utf-8", "replace")


def _before_cut_character(text: bytes) -> bytes:
    """Return UTF-8 text without a character at its end that goes on behind it."""
    for back, byte in enumerate(reversed(text[-3:]), start=1):
        if byte >= _LEAD:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if back < length else text
        if byte <= _ASCII:
            break
    return text


def _is_utf8(text: bytes) -> bool:
    """Return whether bytes are sound UTF-8: Arrow looks twenty times faster than Python decodes."""
    ends = pa.py_buffer(np.array([0, len(text)], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(text)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""


def utf8_blocks(stream: Readable, codec: str, *, from_start: bool = True) -> Iterator[bytes]:
    """Yield a text as UTF-8 without its byte-order mark, some megabytes at a time.

    A character is never cut. Bytes that are no text become U+FFFD, which parsing reports for its cell.

    Args:
        stream: The bytes.
        codec: What they are encoded in.
        from_start: Whether the text begins here; in its middle a byte-order mark is a character.
    """
    decoder = codecs.getincrementaldecoder(codec)("replace")
    first = from_start
    while raw := stream.read(BLOCK_BYTES):
        plain = codec == "utf-8" and not decoder.getstate()[0] and raw.isascii()
        block = raw if plain else _as_utf8(decoder, raw, codec)
        if first:
            block, first = block.removeprefix(codecs.BOM_UTF8), not block
        if block:
            yield block
    rest = decoder.decode(b"", final=True).encode("utf-8", "replace")
    if rest:
        yield rest
