"""What a cell of text is made of: its blanks, the words that stand for "no value", its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEPARATORS = "\x1c\x1d\x1e\x1f"
_ZERO_WIDTH = "\u200b\ufeff"

_LAST_SPACE = 0x3000
"""The ideographic one: no character behind it is white space, and looking at all of Unicode takes a while."""

BLANKS = (
    "".join(c for c in map(chr, range(_LAST_SPACE + 1)) if c.isspace() and c not in _SEPARATORS) + _ZERO_WIDTH
)
"""What is trimmed off a cell: white space of any width (non-breaking, thin, ideographic ...), and the two
marks of no width that come along at the start of a file or a copied text. (The joiners that Indian scripts
need are none of them, and the four separators below U+0020 are control characters.)"""

ABSENT_WORDS = frozenset({"", "null", "n/a", "na", "nan", "none", "-"})
"""Trimmed, without case: what stands for no value in columns of numbers and dates."""

_ERRORS = (
    "#N/A #REF! #DIV/0! #VALUE! #NAME? #NULL! #NUM! "
    "#SPILL! #CALC! #FIELD! #BLOCKED! #UNKNOWN! #CONNECT! #BUSY! #GETTING_DATA",
    "#NV #BEZUG! #WERT! #ZAHL! #ÜBERLAUF!",  # German
    "#VALEUR! #NOM? #NOMBRE! #NUL!",  # French
    "#N/D #¡REF! #¡DIV/0! #¡VALOR! #¿NOMBRE? #¡NULO! #¡NUM!",  # Spanish
    "#N/D #RIF! #VALORE! #NOME? #NULLO!",  # Italian
    "#N/D #VALOR! #NOME? #NULO! #NÚM!",  # Portuguese
    "#N/B #VERW! #DEEL/0! #WAARDE! #NAAM? #LEEG! #GETAL!",  # Dutch
    "#N/D! #ADR! #DZIEL/0! #ARG! #NAZWA? #ZERO! #LICZBA!",  # Polish
    "#NENÍ_K_DISPOZICI #ODKAZ! #DĚLENÍ_NULOU! #HODNOTA! #NÁZEV? #ČÍSLO!",  # Czech
    "#Н/Д #ССЫЛКА! #ДЕЛ/0! #ЗНАЧ! #ИМЯ? #ПУСТО! #ЧИСЛО!",  # Russian
    "#YOK #BAŞV! #SAYI/0! #DEĞER! #AD? #BOŞ! #SAYI!",  # Turkish
)

SPREADSHEET_ERRORS = frozenset(" ".join(_ERRORS).casefold().split())
"""Trimmed, without case: what a spreadsheet shows where a formula failed, in the language of whoever saved it."""

REPLACEMENT = "\ufffd"
"""What a decoder puts where bytes are no text."""


def is_absent(trimmed: str) -> bool:
    """Return whether a trimmed cell of a typed column says that there is no value."""
    return trimmed.casefold() in ABSENT_WORDS


def fault_of(trimmed: str) -> str | None:
    """Return the code of what spoils a trimmed cell of any kind, None for a cell that is sound."""
    if REPLACEMENT in trimmed:
        return "UNDECODABLE_TEXT"
    if trimmed.startswith("#") and trimmed.casefold() in SPREADSHEET_ERRORS:
        return "SPREADSHEET_ERROR"
    return None


def as_text(column: pa.ChunkedArray | pa.Array) -> pa.StringArray:
    """Return a column of cells as one contiguous array of type string."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole if pa.types.is_string(whole.type) else whole.cast(pa.string())


def bytes_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes of all cells (uint8) and where each begins among them (int32, one more).

    Both are views, so that a look at a million cells costs no copy. A null cell has no bytes as a rule, but
    an array may keep some for it: what is seen here may therefore only lead to a closer look.
    """
    _, offsets, data = texts.buffers()
    if offsets is None or len(texts) == 0:
        return np.empty(0, np.uint8), np.zeros(len(texts) + 1, np.int32)
    begins = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    whole = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return whole[begins[0] : begins[-1]], begins - begins[0]


def cells_at(begins: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return which cells hold some of these bytes (bool, one a cell).

    Args:
        begins: As `bytes_of` returns it.
        positions: Places among the bytes of all cells (int64).
    """
    held = np.zeros(len(begins) - 1, dtype=bool)
    held[np.searchsorted(begins, positions, side="right") - 1] = True
    return held


def storable(texts: pa.StringArray) -> pa.StringArray:
    """Return cells with U+FFFD for each NUL, which PostgreSQL stores in neither text nor JSON."""
    data, _ = bytes_of(texts)
    return pc.replace_substring(texts, "\0", REPLACEMENT) if (data == 0).any() else texts


def unique_names(names: Sequence[str]) -> list[str]:
    """Return names of which a repeated one has the suffix ` (2)`, ` (3)` ..."""
    taken = set(names)
    seen: set[str] = set()
    result: list[str] = []
    for name in names:
        chosen, count = name, 1
        while chosen in seen or (count > 1 and chosen in taken):
            count += 1
            chosen = f"{name} ({count})"
        seen.add(chosen)
        result.append(chosen)
    return result
