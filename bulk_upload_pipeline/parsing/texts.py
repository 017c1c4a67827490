"""Columns of text: trimmed, blank is absent, invisible characters removed with a warning.

A clean column is recognised by one look at its bytes and passes as it is. Only cells that need it take a
closer look, and none takes a Python function but those that look as if they had been encoded twice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.parsing.cells import BLANKS, REPLACEMENT, SPREADSHEET_ERRORS, bytes_of, cells_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
"""Control characters, for RE2; line breaks and tabs inside a text stay."""

_SECOND_LOOK = rf"{_CONTROL}|{REPLACEMENT}|^#"

_CP1252 = {
    character: byte
    for byte in range(0x80, 0x100)
    for character in (bytes([byte]).decode("cp1252", "ignore") or chr(byte),)
}
"""What Windows-1252 shows for each high byte; its five gaps show as the control character of that number."""


def _shown(first: int, last: int) -> str:
    """Return a character class of what the bytes `first` to `last` look like in Windows-1252."""
    return "[" + "".join(c for c, byte in _CP1252.items() if first <= byte <= last) + "]"


_NEXT = _shown(0x80, 0xBF)
_ENCODED_TWICE = "|".join(
    (
        f"[ÂÃÄÅÎÏÐÑØÙ]{_NEXT}",
        f"[àáâãï]{_NEXT}{_NEXT}",
        f"ð{_NEXT}{_NEXT}{_NEXT}",
    )
)
"""How the bytes of one character beyond ASCII look when they are taken for Windows-1252."""

_FLOAT = r"^([0-9]+)\.0$"


class Finding(NamedTuple):
    """A finding on some cells of a column; `where` is a mask (bool)."""

    code: str
    where: pa.BooleanArray


class Texts(NamedTuple):
    """A column as it loads, and what was found in it."""

    values: pa.StringArray
    findings: tuple[Finding, ...] = ()


def read_texts(cells: pa.StringArray, *, float_identifier: bool = False) -> Texts:
    """Return the texts of a column: null where a cell is blank or cannot be read.

    Args:
        cells: The column as it stands in the source.
        float_identifier: Whether `17850.0` is the identifier `17850`.
    """
    edged, odd = _look(cells)
    values = _null_if_empty(pc.utf8_trim(cells, BLANKS)) if edged else cells
    findings: tuple[Finding, ...] = ()
    if odd is not None:
        values, findings = _repaired_where(values, odd)
    if float_identifier:
        values = pc.replace_substring_regex(values, _FLOAT, r"\1")
    return Texts(values, findings)


def _look(cells: pa.StringArray) -> tuple[bool, np.ndarray | None]:
    """Return whether any cell may need trimming (or is empty), and which hold odd characters (None: none).

    Looks at bytes. A character beyond ASCII may be a blank, so wherever a cell has one at an edge it counts
    as in need of trimming.
    """
    data, begins = bytes_of(cells)
    if data.size == 0:
        return bool(cells.null_count < len(cells)), None
    filled = begins[1:] > begins[:-1]
    empty = len(cells) - int(np.count_nonzero(filled)) > cells.null_count
    first, last = data[begins[:-1][filled]], data[begins[1:][filled] - 1]
    edged = empty or _beside_ascii_letters(first) or _beside_ascii_letters(last)
    # uint8 wraps around, so that one comparison tells control characters and all beyond ASCII.
    odd = np.flatnonzero(data - np.uint8(0x20) >= 0x7F - 0x20)
    hashes = begins[:-1][filled][first == ord("#")]
    return edged, cells_at(begins, np.concatenate((odd, hashes))) if len(odd) or len(hashes) else None


def _beside_ascii_letters(edges: np.ndarray) -> bool:
    return bool(((edges <= 0x20) | (edges >= 0x7F)).any())


def _null_if_empty(texts: pa.StringArray) -> pa.StringArray:
    empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(empty, pa.scalar(None, pa.string()), texts) if pc.any(empty).as_py() else texts


def _repaired_where(texts: pa.StringArray, odd: np.ndarray) -> Texts:
    """Take the second look at some cells."""
    if odd.all():
        return _repaired(texts)
    where = pa.array(odd)
    values, findings = _repaired(texts.filter(where))
    spread = tuple(Finding(code, pc.replace_with_mask(where, where, found)) for code, found in findings)
    return Texts(pc.replace_with_mask(texts, where, values), spread)


def _repaired(texts: pa.StringArray) -> Texts:
    """Take the second look: remove what cannot be seen, refuse what cannot be read, remark on the rest."""
    findings: list[Finding] = []
    if _any(odd := _matches(texts, _SECOND_LOOK)):
        unreadable = list(_unreadable(texts))
        controls = pc.and_(odd, _matches(texts, _CONTROL))
        findings += unreadable
        for finding in unreadable:
            texts = pc.if_else(finding.where, pa.scalar(None, pa.string()), texts)
            controls = pc.and_not(controls, finding.where)
        if _any(controls):
            findings.append(Finding("CONTROL_CHARACTERS", controls))
    damaged = _encoded_twice(texts)
    if _any(damaged):
        findings.append(Finding("DOUBLE_ENCODED_TEXT", damaged))
    if any(finding.code == "CONTROL_CHARACTERS" for finding in findings):
        cleaned = pc.replace_substring_regex(texts, _CONTROL, "")
        texts = _null_if_empty(pc.utf8_trim(cleaned, BLANKS))
    return Texts(texts, tuple(findings))


def _unreadable(texts: pa.StringArray) -> Iterator[Finding]:
    """Yield the cells that are no text: undecodable bytes, errors of a spreadsheet."""
    undecodable = pc.fill_null(pc.match_substring(texts, REPLACEMENT), False)
    if _any(undecodable):
        yield Finding("UNDECODABLE_TEXT", undecodable)
    hashes = pc.fill_null(pc.starts_with(texts, "#"), False)
    if _any(hashes):
        known = pa.array(sorted(SPREADSHEET_ERRORS))
        errors = pc.is_in(pc.utf8_lower(texts), value_set=known)
        if _any(errors):
            yield Finding("SPREADSHEET_ERROR", errors)


def _encoded_twice(texts: pa.StringArray) -> pa.BooleanArray:
    """Return which cells look like UTF-8 that was read as Windows-1252 and saved so."""
    candidates = _matches(texts, _ENCODED_TWICE)
    if not _any(candidates):
        return candidates
    encoded = texts.filter(candidates).dictionary_encode()
    looks = pa.array([looks_encoded_twice(text) for text in encoded.dictionary.to_pylist()], pa.bool_())
    return pc.replace_with_mask(candidates, candidates, looks.take(encoded.indices))


def looks_encoded_twice(text: str) -> bool:
    """Return whether a text as a whole turns into other, sound text when taken back one encoding."""
    if re.search(_ENCODED_TWICE, text) is None:
        return False
    try:
        again = b"".join(c.encode() if c.isascii() else bytes([_CP1252[c]]) for c in text)
        return again.decode("utf-8") != text
    except (KeyError, UnicodeDecodeError):
        return False


def _matches(texts: pa.StringArray, pattern: str) -> pa.BooleanArray:
    return pc.fill_null(pc.match_substring_regex(texts, pattern), False)


def _any(mask: pa.BooleanArray) -> bool:
    return bool(pc.any(mask).as_py())
