"""Making the next item while one is worked on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items in their order; the one behind is made in a background thread while the caller has one.

    Arrow and the file system release the interpreter lock, so that two cores are busy; a further thread for what
    the caller does gained nothing on two cores, and held one more chunk in memory. The first error of the items
    ends the iteration.
    """
    source = iter(items)
    first = list(islice(source, 2))
    if len(first) < 2:
        yield from first  # a thread would take longer than the one chunk of a small file
        return
    source = chain(first, source)
    with ThreadPoolExecutor(1, "ahead") as maker:
        coming = maker.submit(_next, source)
        while item := coming.result():
            coming = maker.submit(_next, source)
            yield item[0]


def _next(source: Iterator[Item]) -> tuple[Item] | None:
    return next(((item,) for item in source), None)
