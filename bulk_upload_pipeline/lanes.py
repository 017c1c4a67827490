"""Which files share a run: a big file has one of its own, small ones that wait together go together.

A run costs some seconds before its first row, which is most of the time of a small file and nothing to a big one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL_BYTES = 8_000_000
"""A file up to this size is small: it takes about a second."""

MOST_FILES = 200
MOST_BYTES = 128_000_000
"""Bounds of one run of small files: it ends within a minute or two, and so little waits behind it."""

WORTH_TWO_RUNS = 40
"""From so many files on they are shared among two runs, since two work at the same time."""


class Sized(Protocol):
    """Something with a number of bytes."""

    @property
    def size(self) -> int:
        """Return the number of bytes."""


Item = TypeVar("Item", bound=Sized)


def is_small(size: int) -> bool:
    """Return whether a file of `size` bytes shares its run with others."""
    return size <= SMALL_BYTES


def share(items: Sequence[Item]) -> tuple[list[Item], list[list[Item]]]:
    """Return the files that get a run of their own, and the groups of those that share one, in their order.

    A small file that waits alone has its run to itself, where every stage can be watched.
    """
    small = [item for item in items if is_small(item.size)]
    if len(small) < 2:
        return list(items), []
    return [item for item in items if not is_small(item.size)], _groups(small)


def _groups(items: list[Item]) -> list[list[Item]]:
    """Return groups of about equal size, each within the bounds."""
    at_least = 2 if len(items) >= WORTH_TWO_RUNS else 1
    files = math.ceil(len(items) / max(at_least, math.ceil(len(items) / MOST_FILES)))
    groups: list[list[Item]] = [[]]
    taken = 0
    for item in items:
        if groups[-1] and (len(groups[-1]) == files or taken + item.size > MOST_BYTES):
            groups.append([])
            taken = 0
        groups[-1].append(item)
        taken += item.size
    return groups
