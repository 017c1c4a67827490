"""Running one stage beside the next, in order and with a bounded number of items under way."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 2) -> Iterator[Result]:
    """Yield `work(item)` of each item, in the items' order, while later ones are under way.

    At most `workers` + 1 items are held at any time, so that memory stays bounded whichever side is slower.
    The first error of the items or of the work ends the iteration.

    Args:
        work: Applied to each item in a pool of threads; Arrow and pandas release the interpreter lock.
        items: Consumed in one background thread.
        workers: Threads for `work`.
    """
    source = iter(items)
    first = list(islice(source, 2))
    if len(first) < 2:
        yield from map(work, first)  # threads would take longer than the one chunk of a small file
        return
    source = chain(first, source)
    with ThreadPoolExecutor(1, "items") as reader, ThreadPoolExecutor(workers, "work") as pool:
        coming = reader.submit(_next, source)
        under_way: deque[Future[Result]] = deque()
        while item := coming.result():
            under_way.append(pool.submit(work, item[0]))
            coming = reader.submit(_next, source)
            if len(under_way) == workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _next(source: Iterator[Item]) -> tuple[Item] | None:
    return next(((item,) for item in source), None)
