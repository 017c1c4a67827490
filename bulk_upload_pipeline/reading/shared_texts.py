"""How long the texts are that the cells of an XLSX file share.

A text stands in the file once, and any number of cells name it by its number: some kilobytes can ask for
any memory. So rows are weighed by the long texts that they name before anybody reads their values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG = 256
"""Bytes from which on a text counts: XML can name as many bytes of shorter ones only as it has itself, times ten."""

_ROOT = re.compile(rb"<(\w+:)?sst\b")
_NAMED = re.compile(rb"""<(?:\w+:)?c\b[^>]*?\st=["']s["'][^>]*>\s*<(?:\w+:)?v>([0-9]{1,9})<""")


class SharedTexts:
    """The lengths of the long texts of one workbook, learnt from the XML that holds them, block by block."""

    def __init__(self) -> None:
        self._tag = b""
        self._held = b""
        # What stands above the first text counts as one, with the number -1.
        self._number, self._size = -1, 0
        self._learnt: list[tuple[np.ndarray, np.ndarray]] = []
        self._numbers, self._sizes = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def learn(self, block: bytes) -> None:
        """Look at the next bytes of the XML."""
        if not self._tag:
            root = _ROOT.search(block)
            self._tag = b"<" + (root[1] or b"" if root else b"") + b"si"
        some = self._held + block
        last = some.rfind(b"<")
        # A tag that is cut off here goes on in the next block.
        end = last if 0 <= len(some) - last < len(self._tag) else len(some)
        self._held = some[end:]
        self._look(some[:end])

    def close(self) -> None:
        """Know that there is no more."""
        self._look(self._held)
        self._note([self._size])
        self._numbers = np.concatenate([self._numbers, *(numbers for numbers, _ in self._learnt)])
        self._sizes = np.concatenate([self._sizes, *(sizes for _, sizes in self._learnt)])
        self._learnt.clear()

    def _look(self, some: bytes) -> None:
        before, *texts = map(len, some.split(self._tag)) if some else [0]
        self._size += before
        if texts:
            self._note([self._size, *texts[:-1]])
            self._size = texts[-1]

    def _note(self, sizes: Sequence[int]) -> None:
        """Keep the long ones of some texts that are whole."""
        known = np.array(sizes, np.int64)
        numbers = np.arange(self._number, self._number + len(known), dtype=np.int64)
        long = (known >= LONG) & (numbers >= 0)
        if long.any():
            self._learnt.append((numbers[long], known[long]))
        self._number += len(known)

    def weights(self, rows: Sequence[bytes], little: int) -> list[int] | None:
        """Return how many bytes of long texts each of some rows names.

        Args:
            rows: Their XML.
            little: When all rows together can only name so many, they are not looked at, and None is returned.
        """
        if len(self._sizes) == 0:
            return None
        cells = sum(row.count(b't="s"') + row.count(b"t='s'") for row in rows)
        return None if cells * int(self._sizes.max()) <= little else [self._weight(row) for row in rows]

    def _weight(self, row: bytes) -> int:
        named = np.array([int(number) for number in _NAMED.findall(row)], np.int64)
        at = np.minimum(np.searchsorted(self._numbers, named), len(self._numbers) - 1)
        return int(self._sizes[at][self._numbers[at] == named].sum())
