"""The faults that real files have, each with the finding that it earns. A faulty row has exactly one.

No fault touches another row: quotation marks that nobody closes are left out for that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline import contract

if TYPE_CHECKING:
    from bulk_upload_pipeline.sampling.draws import Draws
    from bulk_upload_pipeline.sampling.layouts import Cells, SampleLayout

Spoil = Callable[[pa.StringArray, np.ndarray], pa.StringArray]
"""Cells and a random number each (int64, 0 to 999) -> the cells as the fault leaves them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A way in which a row is wrong.

    Attributes:
        code: The finding that it earns.
        column: Column that the finding names; None for a finding on the whole row.
        spoils: What happens to the cells, by column.
        loses_last_cell: Whether the line ends one cell too early.
    """

    code: str
    column: str | None
    spoils: dict[str, Spoil]
    loses_last_cell: bool = False

    def fits(self, layout: SampleLayout) -> bool:
        """Return whether the layout has the column at fault; others that it lacks are left out."""
        return self.column is None or self.column in layout.titles


def _one_of(*texts: str) -> Spoil:
    choices = pa.array(texts)
    return lambda _cells, chance: choices.take(pa.array(chance % len(texts)))


def _with_a_digit_before(cells: pa.StringArray, _chance: np.ndarray) -> pa.StringArray:
    # No rounding or discount explains a total that is at least twice what it should be.
    return pc.binary_join_element_wise("1", pc.replace_substring_regex(cells, '[",]', ""), "")


_NO_NUMBER = _one_of("12abc", "1O.50", "4 5", "3..5", '"1,23"', "1.2.3", "twelve", "?")
_TOO_PRECISE = _one_of("12.34567", "0.123456", "99.99999", "1.00001")
_NO_DATE = _one_of("31-Feb-2024", "2023-02-29", "yesterday", "00/00/0000", "2024-13-01", "soon")
_EMPTY = _one_of("")
_ABSENT = _one_of("", "   ", "N/A", "-", "null")


def _too_long(column: str, phrase: str) -> Fault:
    limit = contract.BY_NAME[column].limit
    assert limit is not None
    text = (phrase * (limit // len(phrase) + 2)).strip()
    return Fault("TEXT_TOO_LONG", column, {column: _one_of(text)})


FAULTS: tuple[Fault, ...] = (
    Fault("INVALID_NUMBER", "quantity", {"quantity": _NO_NUMBER}),
    Fault("INVALID_NUMBER", "item_price", {"item_price": _NO_NUMBER}),
    Fault("INVALID_NUMBER", "mrp", {"mrp": _NO_NUMBER}),
    Fault("NUMBER_TOO_PRECISE", "quantity", {"quantity": _TOO_PRECISE}),
    Fault("NUMBER_TOO_PRECISE", "item_price", {"item_price": _TOO_PRECISE}),
    Fault("NUMBER_TOO_LARGE", "mrp", {"mrp": _one_of("8901234567890", "4006381333931")}),
    Fault("MISSING_VALUE", "quantity", {"quantity": _ABSENT}),
    Fault("MISSING_VALUE", "item_price", {"item_price": _ABSENT}),
    Fault("MISSING_VALUE", "invoice_number", {"invoice_number": _one_of("", "   ")}),
    Fault("MISSING_VALUE", "customer_name", {"customer_name": _one_of("", "   ")}),
    Fault("MISSING_VALUE", "invoice_date", {"invoice_date": _ABSENT}),
    Fault("INVALID_DATE", "invoice_date", {"invoice_date": _NO_DATE}),
    Fault("INVALID_DATE", "due_date", {"due_date": _NO_DATE}),
    Fault("DATE_TOO_EARLY", "invoice_date", {"invoice_date": _one_of("1900-01-01", "1924-12-31")}),
    _too_long("usage_unit", "carton of trays "),
    _too_long("category_name", "sweets and snacks "),
    _too_long("sku", "8901234567890/"),
    Fault("ZERO_QUANTITY", "quantity", {"quantity": _one_of("0", "0.00"), "item_total": _one_of("0.00")}),
    Fault("TOTAL_MISMATCH", "item_total", {"item_total": _with_a_digit_before}),
    Fault("WRONG_FIELD_COUNT", None, {"item_name": _one_of("Kaju Katli, loose", "Soan Papdi, 250 g")}),
    Fault("WRONG_FIELD_COUNT", None, {}, loses_last_cell=True),
    Fault("MISSING_ITEM", None, {"item_name": _EMPTY, "sku": _EMPTY, "product_id": _EMPTY}),
)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Which rows of a file, or of a stretch of it, are faulty and how.

    Attributes:
        faults: The faults that the file's layout can have.
        rows: Positions of the faulty rows, ascending, counted from the start of the file or stretch.
        kinds: Index into `faults` of each of them.
        chance: A random number of each (0 to 999), which picks the wrong text.
    """

    faults: tuple[Fault, ...]
    rows: np.ndarray
    kinds: np.ndarray
    chance: np.ndarray

    def stretch(self, first: int, last: int) -> FaultPlan:
        """Return the faults of the rows from `first` up to `last` (excluded), counted from `first`."""
        here = slice(*np.searchsorted(self.rows, [first, last]))
        return FaultPlan(self.faults, self.rows[here] - first, self.kinds[here], self.chance[here])

    def spoil(self, cells: Cells) -> Cells:
        """Return the cells of the stretch with the faults that cells can have."""
        spoilt = dict(cells)
        for kind in np.unique(self.kinds).tolist():
            chosen = self.kinds == kind
            for name in spoilt.keys() & self.faults[kind].spoils.keys():
                where = _mask(len(spoilt[name]), self.rows[chosen])
                wrong = self.faults[kind].spoils[name](spoilt[name].filter(where), self.chance[chosen])
                spoilt[name] = pc.replace_with_mask(spoilt[name], where, wrong)
        return spoilt

    def shorten(self, lines: pa.StringArray) -> pa.StringArray:
        """Return the lines of the stretch, those without their last cell that lose it."""
        shortened = np.array([fault.loses_last_cell for fault in self.faults])[self.kinds]
        if not shortened.any():
            return lines
        where = _mask(len(lines), self.rows[shortened])
        shorter = pc.replace_substring_regex(lines.filter(where), r",[^,]*\n$", "\n")
        return pc.replace_with_mask(lines, where, shorter)


def plan_faults(layout: SampleLayout, draws: Draws, rows: int, count: int) -> FaultPlan:
    """Return a plan for `count` faulty rows: one in each of as many equal stretches of the file."""
    faults = tuple(fault for fault in FAULTS if fault.fits(layout))
    starts = np.arange(count + 1) * rows // max(count, 1)
    within = draws.below(1 << 31, "faulty row", np.arange(count)) * np.diff(starts) >> 31
    faulty = starts[:-1] + within
    kinds = (np.arange(count) + draws.seed) % len(faults)
    return FaultPlan(faults, faulty, kinds.astype(np.uint8), draws.below(1000, "fault text", faulty))


def _mask(length: int, positions: np.ndarray) -> pa.BooleanArray:
    mask = np.zeros(length, dtype=bool)
    mask[positions] = True
    return pa.array(mask)
