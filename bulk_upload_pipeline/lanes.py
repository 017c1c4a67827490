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

WORTH_A_RUN = 20
"""So many files each have the runs among which more of them are shared, up to those that work at the same time."""

AT_ONCE = 2
AT_ONCE_IN_POOL = 8
"""Runs of small files that work at the same time: the limits of their lane in `dagster.yaml` and for the pool."""


class Sized(Protocol):
    """Something with a number of bytes."""

    @property
    def size(self) -> int:
        """Return the number of bytes."""


Item = TypeVar("Item", bound=Sized)


def is_small(size: int) -> bool:
    """Return whether a file of `size` bytes shares its run with others."""
    return size <= SMALL_BYTES


def share(items: Sequence[Item], at_once: int = AT_ONCE) -> tuple[list[Item], list[list[Item]]]:
    """Return the files that get a run of their own, and the groups of those that share one, in their order.

    A small file that waits alone has its run to itself, where every stage can be watched.

    Args:
        items: What waits.
        at_once: Runs of small files that work at the same time.
    """
    small = [item for item in items if is_small(item.size)]
    if len(small) < 2:
        return list(items), []
    return [item for item in items if not is_small(item.size)], _groups(small, at_once)


def _groups(items: list[Item], at_once: int) -> list[list[Item]]:
    """Return groups of about equal size, each within the bounds."""
    at_least = max(1, min(at_once, len(items) // WORTH_A_RUN))
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
