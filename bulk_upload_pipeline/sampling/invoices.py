"""Invented invoices as figures: who bought what, when and for how much. `layouts` writes them out.

Money is counted in whole paise and quantities in whole hundredths, so that every sum is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bulk_upload_pipeline.sampling import goods
from bulk_upload_pipeline.sampling.draws import Draws

FEWEST_LINES, MOST_LINES = 2, 8
FIRST_DAY = np.datetime64("2024-04-01")
"""Start of the business year that the invoices of a file cover from its first to its last row."""
YEAR = 365
NO_DAY = -1
"""Stands for an absent date among day numbers (days since `FIRST_DAY`)."""

CLOSED, PARTLY_PAID, OVERDUE, OPEN = range(4)

_INVOICES_AT_ONCE = 200_000


@dataclass(frozen=True, slots=True)
class Invoices:
    """A run of invoices, one element an invoice.

    Attributes:
        number: Position of each invoice in the file, from 0.
        shop: Index into `goods.shops()`.
        day, due, expected, paid: Days since `FIRST_DAY`, or `NO_DAY`.
        status: `CLOSED`, `PARTLY_PAID`, `OVERDUE` or `OPEN`.
        subtotal, total, balance: Paise; `subtotal` is the sum of the lines, `total` includes tax.
    """

    number: np.ndarray
    shop: np.ndarray
    day: np.ndarray
    due: np.ndarray
    expected: np.ndarray
    paid: np.ndarray
    status: np.ndarray
    subtotal: np.ndarray
    total: np.ndarray
    balance: np.ndarray


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a run of invoices, one element a line.

    Attributes:
        row: Position of each line in the file, from 0.
        invoice: Index into the run's invoices.
        item: Index into `goods.items()`.
        quantity: Hundredths of a unit, above 0.
        price, discount, total: Paise; `total` is quantity times price less `discount`, rounded half up.
        percent: Hundredths of a per cent from which `discount` comes.
    """

    row: np.ndarray
    invoice: np.ndarray
    item: np.ndarray
    quantity: np.ndarray
    price: np.ndarray
    percent: np.ndarray
    discount: np.ndarray
    total: np.ndarray


def invoice_sizes(draws: Draws, rows: int) -> np.ndarray:
    """Return how many lines each invoice has (uint8), `rows` in all: 2 to 8, or the only one."""
    blocks: list[np.ndarray] = []
    lines = first = 0
    while lines < rows:
        positions = np.arange(first, first + _INVOICES_AT_ONCE)
        spread = draws.below(MOST_LINES - FEWEST_LINES + 1, "lines", positions)
        blocks.append((spread + FEWEST_LINES).astype(np.uint8))
        lines += int(blocks[-1].sum())
        first += _INVOICES_AT_ONCE
    if not blocks:
        return np.empty(0, np.uint8)
    sizes = np.concatenate(blocks)
    ends = np.cumsum(sizes, dtype=np.int64)
    last = int(np.searchsorted(ends, rows))
    sizes = sizes[: last + 1]
    sizes[last] -= ends[last] - rows
    return _without_a_stray_line(sizes)


def _without_a_stray_line(sizes: np.ndarray) -> np.ndarray:
    """Give the last invoice two lines, or its only line to its neighbour, where the cut left it one."""
    if len(sizes) < 2 or sizes[-1] >= FEWEST_LINES:
        return sizes
    if sizes[-2] < MOST_LINES:
        sizes[-2] += 1
        return sizes[:-1]
    sizes[-2] -= 1
    sizes[-1] += 1
    return sizes


def invoices(
    draws: Draws, sizes: np.ndarray, first: int, last: int, first_row: int
) -> tuple[Invoices, Lines]:
    """Return the invoices from `first` up to `last` (excluded) and their lines.

    Args:
        draws: Chance, by the file's seed.
        sizes: Lines of every invoice of the file.
        first: Position in the file of the first invoice.
        last: Position of the invoice behind the last.
        first_row: Position in the file of the first of the lines.
    """
    number = np.arange(first, last)
    shop = draws.skewed(len(goods.shops()), "shop", number)
    lines = _lines(draws, number, shop, sizes[first:last].astype(np.int64), first_row)
    day = number * YEAR // len(sizes)
    due = day + np.array([shop.days for shop in goods.shops()])[shop]
    status = _status(draws, number, due)
    starts = np.concatenate([[0], np.cumsum(sizes[first : last - 1], dtype=np.int64)])
    subtotal = np.add.reduceat(lines.total, starts)
    tax = np.array([item.tax for item in goods.items()])[lines.item]
    total = subtotal + (np.add.reduceat(lines.total * tax, starts) + 50) // 100
    part = total * (1 + draws.below(9, "part", number)) // 10
    is_paid = status <= PARTLY_PAID
    paid = np.minimum(day + draws.below(40, "paid", number), YEAR - 1)
    is_expected = ~is_paid & draws.chance(1, 2, "expected", number)
    return Invoices(
        number=number,
        shop=shop,
        day=day,
        due=due,
        expected=np.where(is_expected, due + 7, NO_DAY),
        paid=np.where(is_paid, paid, NO_DAY),
        status=status,
        subtotal=subtotal,
        total=total,
        balance=np.where(status == CLOSED, 0, np.where(status == PARTLY_PAID, part, total)),
    ), lines


def _status(draws: Draws, number: np.ndarray, due: np.ndarray) -> np.ndarray:
    """Most invoices that are due are paid when the books close at the end of the year."""
    is_due = due < YEAR - 1
    is_closed = np.where(is_due, draws.chance(8, 10, "closed", number), draws.chance(3, 10, "closed", number))
    is_partly_paid = draws.chance(15, 100, "partly", number)
    unpaid = np.where(is_partly_paid, PARTLY_PAID, np.where(is_due, OVERDUE, OPEN))
    return np.where(is_closed, CLOSED, unpaid)


def _lines(draws: Draws, number: np.ndarray, shop: np.ndarray, sizes: np.ndarray, first_row: int) -> Lines:
    invoice = np.repeat(np.arange(len(number)), sizes)
    row = first_row + np.arange(len(invoice))
    position = np.arange(len(invoice)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    item = _items(draws, number, invoice, position, sizes)
    margin = np.array([shop.margin for shop in goods.shops()])[shop][invoice]
    quantity = _quantities(draws, row, item)
    price = np.array([item.mrp for item in goods.items()])[item] * (100 - margin) // 100
    gross = _rounded(quantity * price, 100)
    has_discount = draws.chance(15, 100, "has discount", row)
    percent = np.where(has_discount, 250 * (1 + draws.below(4, "discount", row)), 0)
    discount = _rounded(gross * percent, 10_000)
    return Lines(
        row=row,
        invoice=invoice,
        item=item,
        quantity=quantity,
        price=price,
        percent=percent,
        discount=discount,
        total=gross - discount,
    )


def _items(
    draws: Draws, number: np.ndarray, invoice: np.ndarray, position: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Pick different items for the lines of an invoice; in one invoice of 250 the last repeats the first."""
    count = len(goods.items())
    start = draws.skewed(count, "item", number)
    # Seven steps of at most an eighth of the list never come round to where they began.
    step = 1 + draws.below(count // MOST_LINES - 1, "step", number)
    doubles = draws.chance(1, 250, "double line", number)[invoice] & (position == sizes[invoice] - 1)
    return (start[invoice] + np.where(doubles, 0, position) * step[invoice]) % count


def _quantities(draws: Draws, row: np.ndarray, item: np.ndarray) -> np.ndarray:
    is_weighed = np.array([item.weighed for item in goods.items()])[item]
    quarters = 25 * (1 + draws.skewed(160, "weight", row))
    pieces = 100 * (1 + draws.skewed(96, "pieces", row))
    return np.where(is_weighed, quarters, pieces)


def _rounded(amounts: np.ndarray, divisor: int) -> np.ndarray:
    return (amounts + divisor // 2) // divisor
