"""JSON, as one list of objects or as one object after the other (JSON Lines), read object by object.

Numbers stay the text that stands in the file, so that no digit of an amount or an identifier is lost.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding, message_of
from bulk_upload_pipeline.model import DamagedRow
from bulk_upload_pipeline.parsing.cells import REPLACEMENT
from bulk_upload_pipeline.reading.chunking import LONGEST_RAW_TEXT, Piece, in_chunks
from bulk_upload_pipeline.reading.fragments import LEAST_CONTENT, Fragments
from bulk_upload_pipeline.reading.records import LONGEST_LINE
from bulk_upload_pipeline.recognising import encodings
from bulk_upload_pipeline.recognising.headers import MOST_COLUMNS
from bulk_upload_pipeline.recognising.unpack import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.recognising.formats import Identified

_ROWS_AT_ONCE = 5_000
_BYTES_AT_ONCE = 8 << 20
_LONGEST_TOKEN = 16
"""Characters before the end of what is at hand in which an error may be a cut."""

_KEPT = 64 << 10
"""Characters that are done with and yet kept at hand, where letting go of them costs more."""

_SHORTEST = 32
"""Characters of an object that names the values of an invoice line, at the least."""

_BLANK = re.compile(r"[ \t\r\n]*")
_NEXT_OBJECT = re.compile(r"\n[ \t]*(?=\{)")
_UNSTORABLE = re.compile(r"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
"""Escapes of halves of surrogate pairs, which no text can hold, and of NUL, which no database can."""


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


class _Damage(NamedTuple):
    """Something that is no record: where it stands, what is wrong with it, and its text."""

    place: str
    why: str
    text: str


_Record = dict[str, Any] | _Damage


def document_header(path: Path, identified: Identified, encoding: str) -> tuple[str, ...]:
    """Return the names in all objects of a file, in the order in which they first appear.

    The whole file is looked at: a name may stand in its last object only.

    Raises:
        UnreadableError: `NO_DATA_ROWS`, `NOT_A_TABLE`, or the file is damaged or refused.
    """
    names: dict[str, None] = {}
    record: _Record | None = None
    with opened(path, identified.compression, identified.member) as stream:
        for record in _Documents(stream, encoding).records(identified.file_format):
            if isinstance(record, dict) and not names.keys() >= record.keys():
                names.update(dict.fromkeys(record))
                if len(names) > MOST_COLUMNS:
                    break
    if not names:
        raise _without_names(record)
    return tuple(names)


def _without_names(last: _Record | None) -> UnreadableError:
    """Return why a file in which nothing has a name is refused, given its last record."""
    if isinstance(last, _Damage):
        return UnreadableError(file_finding("NOT_A_TABLE", "none of its values is an object with names"))
    what = "The list in the file is empty" if last is None else "The objects in the file are empty"
    return UnreadableError(replace(file_finding("NO_DATA_ROWS"), message=f"{what}, so that it has no row."))


def read_documents(path: Path, layout: Layout, chunk_rows: int) -> Iterator[TextChunk]:
    """Yield the objects of a file in their order, `chunk_rows` at a time.

    Raises:
        UnreadableError: The file is damaged.
    """
    assert layout.encoding is not None
    with opened(path, layout.compression, layout.member) as stream:
        documents = _Documents(stream, layout.encoding)
        yield from in_chunks(_pieces(documents, layout), chunk_rows)


def _pieces(documents: _Documents, layout: Layout) -> Iterator[Piece]:
    """Yield objects as columns of text; one without any value is no record, as in a delimited text."""
    records = documents.records(layout.file_format)
    done = 0
    while some := _some(records, documents):
        rows: list[list[str | None]] = []
        numbers: list[int] = []
        damaged: list[DamagedRow] = []
        for record in some:
            if isinstance(record, _Damage):
                done += 1
                damaged.append(_damaged(record, done))
                continue
            cells = [_text(record.get(name)) for name in layout.header]
            if any(cells):
                done += 1
                rows.append(cells)
                numbers.append(done)
        columns = list(zip(*rows, strict=True)) or [()] * len(layout.header)
        table = pa.table({str(at): pa.array(column, pa.string()) for at, column in enumerate(columns)})
        yield Piece(table, np.array(numbers, np.int64), tuple(damaged), documents.bytes_done)


def _some(records: Iterator[_Record], documents: _Documents) -> list[_Record]:
    """Return the next records, fewer where they are long."""
    some: list[_Record] = []
    behind = documents.bytes_done + _BYTES_AT_ONCE
    for record in islice(records, _ROWS_AT_ONCE):
        some.append(record)
        if documents.bytes_done > behind:
            break
    return some


def _damaged(damage: _Damage, number: int) -> DamagedRow:
    message = message_of("DAMAGED_RECORD", f"{damage.place} {damage.why}")
    return DamagedRow(number, "DAMAGED_RECORD", message, damage.text[:LONGEST_RAW_TEXT])


class _Documents:
    """The values of one text, decoded one by one while it comes."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._blocks = encodings.utf8_blocks(stream, encoding)
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=_Number, parse_int=_Number, parse_constant=_constant
        )
        # A name that stands twice in one object of the value that was decoded last.
        self._twice: str | None = None
        # What is at hand of the text, where the next value begins in it, and up to where lines are counted.
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0
        self._ended = False
        self._fragments = Fragments()
        self.bytes_done = 0

    def records(self, file_format: str) -> Iterator[_Record]:
        """Yield the records of a `json` or `jsonl` text."""
        return self._listed() if file_format == "json" else self._in_a_row()

    def _listed(self) -> Iterator[_Record]:
        """Yield what stands in one list. A list that is no valid JSON is refused."""
        self._pass("[")
        for number in count(1):
            if number == 1 and self._peek() == "]":
                break
            try:
                yield self._record(*self._value(), f"Item {number:,} of the list")
            except ValueError as error:
                raise self._broken(str(error)) from None
            if self._peek() == "]":
                break
            self._pass(",")
        self._pass("]")
        if self._peek():
            raise self._broken("something follows the end of its list")

    def _in_a_row(self) -> Iterator[_Record]:
        """Yield one value after the other. One that is no valid JSON costs itself, up to the next object."""
        while self._peek():
            try:
                yield self._record(*self._value(), None)
            except ValueError as error:
                place, skipped = self._place(), self._skip_to_next_object()
                self._let_go()
                self._count(skipped)
                yield _Damage(place, f"is no valid JSON: {error}", skipped)

    def _record(self, value: Any, end: int, place: str | None) -> _Record:
        text = self._text[self._at : end]
        self._count(text)
        if self._twice is not None:
            record: _Record = _Damage(place or self._place(), f"has two values named {self._twice!r}", text)
        elif not isinstance(value, dict):
            record = _Damage(place or self._place(), "is no object with names and values", text)
        else:
            record = _storable(value) if _UNSTORABLE.search(text) else value
        self._at = end
        return record

    def _count(self, record: str) -> None:
        self._fragments.count(1, LEAST_CONTENT if len(record) >= _SHORTEST else 0)

    def _value(self) -> tuple[Any, int]:
        """Return the next value and where it ends.

        Raises:
            ValueError: It is no valid JSON.
        """
        self._peek()
        while True:
            self._twice = None
            try:
                return self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _LONGEST_TOKEN
                if not (cut and self._more()):
                    raise ValueError(error.msg) from None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object, however deep in a value it is."""
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            self._twice = next(name for name in names if names.count(name) > 1)
        return record

    def _more(self) -> bool:
        """Read on, and let go of what is done with; return False at the end of the text."""
        if self._ended:
            return False
        if len(self._text) - self._at > LONGEST_LINE:
            what = f"the value at line {self._line_here():,} is longer than {LONGEST_LINE >> 20} MB"
            raise UnreadableError(file_finding("LINE_TOO_LONG", what))
        self._line_here()
        block = next(self._blocks, None)
        self._ended = block is None
        self.bytes_done += len(block or b"")
        self._text = self._text[self._at :] + (block or b"").decode()
        self._at = self._counted = 0
        return not self._ended

    def _let_go(self) -> None:
        """Forget what is done with: each error of the decoder counts the lines above it once more."""
        if self._at > _KEPT:
            self._line_here()
            self._text = self._text[self._at :]
            self._at = self._counted = 0

    def _peek(self) -> str:
        """Return the next character that is no blank, without passing it; an empty text at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _pass(self, expected: str) -> None:
        found = self._peek()
        if found != expected:
            raise self._broken(f"it has {found!r}" if found else "it ends in the middle of its list")
        self._at += 1

    def _skip_to_next_object(self) -> str:
        """Pass over what is no JSON, and return its text (or as much of it as is kept)."""
        kept, passed = self._text[self._at : self._at + LONGEST_RAW_TEXT], 0
        while True:
            found = _NEXT_OBJECT.search(self._text, self._at)
            if found:
                passed += found.start() - self._at
                self._at = found.end()
                return kept[:passed]
            end = max(self._at, len(self._text) - 1)
            passed, self._at = passed + end - self._at, end
            if not self._more():
                self._at = len(self._text)
                return kept

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _place(self) -> str:
        return f"Line {self._line_here():,} of the file"

    def _broken(self, why: str) -> UnreadableError:
        return UnreadableError(file_finding("DAMAGED_FILE", f"at line {self._line_here():,}, {why}"))


def _constant(name: str) -> _Number | None:
    """Return what stands for a constant that is no JSON: NaN is how programs write that there is no value."""
    return None if name == "NaN" else _Number(name)


def _storable(value: Any) -> Any:
    """Return a value with U+FFFD for each half of a surrogate pair, and in names for each NUL.

    A NUL in a cell stays: it goes the way of all characters that nobody sees, from whatever format it came.
    """
    if isinstance(value, dict):
        return {_storable(name).replace("\0", REPLACEMENT): _storable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, str) and not isinstance(value, _Number):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _text(value: Any) -> str | None:
    """Return a value as a cell of text; what is made of several values stays JSON."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    return _compact(value)


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(name)}:{_compact(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_compact, value)) + "]"
    return str(value) if isinstance(value, _Number) else _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
