"""The rules of an invoice line, as pandera checks over whole columns.

A rule between columns is first computed as a boolean column (an agreement), which pandera then judges
like any other: a check on the whole frame would be reported once for every column of every row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.parsing.cells import bytes_of

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pandera

EARLIEST_INVOICE = date(1990, 1, 1)
LATEST_INVOICE = timedelta(days=366)

ROUNDING = pa.scalar(Decimal("0.01"), pa.decimal128(4, 4))
ZERO = pa.scalar(Decimal(0), pa.decimal128(4, 4))
HUNDREDTH = pa.scalar(Decimal("0.01"), pa.decimal256(3, 2))
ROUNDING_A_UNIT = pa.scalar(Decimal("0.005"), pa.decimal128(4, 4))
"""A unit price rounded to cents is off by at most half a cent, so a total by that times the quantity."""

ROUNDED = r"^[1-9]([.,][0-9]+)?[eE]\+[0-9]{2,3}$"
"""How a spreadsheet shows a long number in a narrow cell, `4.00638E+12`, and saves it: its last digits are gone."""

Rule = Callable[[pa.ChunkedArray], pa.ChunkedArray]
"""Says of each value of a column whether it keeps a rule; null where there is no value to judge."""


@lru_cache(maxsize=64)
def rules_of(names: frozenset[str], required: tuple[str, ...], today: date) -> dict[str, dict[str, Rule]]:
    """Return the rules of columns and of the agreements, by column and by the code of the finding.

    Args:
        names: The columns that are judged by themselves.
        required: Names of the columns that may not be empty.
        today: The day from which "in the future" counts.
    """
    columns = [column for column in contract.COLUMNS if column.name in names]
    single = {column.name: _rules_of_one(column, today, column.name in required) for column in columns}
    return single | {name: {code: _as_it_is} for name, code in AGREEMENTS.items()}


def _rules_of_one(column: contract.Column, today: date, required: bool) -> dict[str, Rule]:
    rules: dict[str, Rule] = {"MISSING_VALUE": pc.is_valid} if required else {}
    if column.identifier:
        rules["ROUNDED_IDENTIFIER"] = _is_whole
    if column.limit is not None:
        return rules | {"TEXT_TOO_LONG": _at_most(column.limit)}
    return rules | _ranges(today).get(column.name, {})


def _as_it_is(agrees: pa.ChunkedArray) -> pa.ChunkedArray:
    return agrees


def _is_whole(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.invert(pc.match_substring_regex(texts, ROUNDED))


def _at_most(limit: int) -> Rule:
    return lambda texts: pc.less_equal(pc.utf8_length(texts), limit)


def _ranges(today: date) -> dict[str, dict[str, Rule]]:
    """Return the rules on how small and how large values are, by column and finding code."""
    return {
        "invoice_date": {
            "DATE_TOO_EARLY": lambda days: pc.greater_equal(days, EARLIEST_INVOICE),
            "DATE_IN_FUTURE": lambda days: pc.less_equal(days, today + LATEST_INVOICE),
        },
        "quantity": {
            "ZERO_QUANTITY": lambda amounts: pc.not_equal(amounts, ZERO),
            "CREDIT_LINE": lambda amounts: pc.greater_equal(amounts, ZERO),
        },
        "item_price": {"NEGATIVE_PRICE": lambda amounts: pc.greater_equal(amounts, ZERO)},
    }


_RANGED = frozenset(_ranges(date.min))


def may_break(column: contract.Column, values: pa.ChunkedArray, *, required: bool) -> bool:
    """Return whether some value of a column could break a rule of its own.

    A look that costs next to nothing: pandera takes half a millisecond for every column that it is to judge.
    """
    if column.name in _RANGED or (required and values.null_count):
        return True
    if column.limit is None or values.null_count == len(values):
        return False
    if column.identifier and (bytes_of(_whole(values))[0] == ord("+")).any():
        return True
    # No text has more characters than bytes.
    return pc.max(pc.binary_length(values)).as_py() > column.limit


def check(column: str, code: str, rule: Rule) -> pandera.Check:
    """Return a rule as a check of pandera on a whole chunk, named `column: code`.

    It says that a column breaks the rule, not where: to collect single values is what pandera takes longest
    for, and next to it to collect the errors of each column apart.
    """
    import pandera.pandas as pandera

    def judge(rows: pd.DataFrame) -> bool:
        return pc.all(rule(rows[column].array.__arrow_array__())).as_py() is not False

    return pandera.Check(judge, name=f"{column}: {code}", ignore_na=False)


AGREEMENTS: dict[str, str] = {
    "names_item": "MISSING_ITEM",
    "total_agrees": "TOTAL_MISMATCH",
    "due_after_invoice": "DUE_BEFORE_INVOICE",
}
"""Boolean columns that `agreements` computes, and the code of the finding where one is false."""

FINDING_COLUMN: dict[str, str | None] = {
    "names_item": None,
    "total_agrees": "item_total",
    "due_after_invoice": "due_date",
}
"""The column of the contract that a finding about an agreement names."""


def agreements(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return, for each agreement, whether each row keeps it; nothing is said where a value is absent."""
    return {
        "names_item": _names_item(rows),
        "total_agrees": _total_agrees(rows),
        "due_after_invoice": pc.fill_null(pc.greater_equal(rows["due_date"], rows["invoice_date"]), True),
    }


def _names_item(rows: pa.Table) -> pa.ChunkedArray:
    name, sku, product = (pc.is_valid(rows[column]) for column in contract.ITEM_COLUMNS)
    return pc.or_(pc.or_(name, sku), product)


def _total_agrees(rows: pa.Table) -> pa.ChunkedArray:
    """Quantity times price, as is or less the discount (an amount or a percentage), but for rounding.

    Most rows agree as they are; the discounts are tried only on the others. A quantity of zero has a finding
    of its own, and whatever total stands beside it says nothing more.
    """
    gross = product(rows["quantity"], rows["item_price"])
    agrees = pc.fill_null(_close(gross, rows["item_total"], rows["quantity"]), True)
    agrees = pc.or_(agrees, pc.fill_null(pc.equal(rows["quantity"], ZERO), True))
    if pc.all(agrees).as_py():
        return agrees
    open_rows = pc.invert(agrees)
    agrees_less_discount = _agrees_less_discount(
        rows.select(["quantity", "item_total", "discount", "discount_amount"]).filter(open_rows),
        gross.filter(open_rows),
    )
    return pc.replace_with_mask(_whole(agrees), _whole(open_rows), _whole(agrees_less_discount))


def _agrees_less_discount(rows: pa.Table, gross: pa.ChunkedArray) -> pa.ChunkedArray:
    wide = gross.cast(pa.decimal256(31, 8))  # times a percentage it has more digits than 128 bits hold
    share = pc.subtract(pa.scalar(100, pa.decimal256(16, 4)), rows["discount"].cast(pa.decimal256(15, 4)))
    percentage = pc.multiply(pc.multiply(wide, share), HUNDREDTH)
    candidates = (
        pc.subtract(gross, rows["discount"]),
        pc.subtract(gross, rows["discount_amount"]),
        percentage,
    )
    close = [pc.fill_null(_close(c, rows["item_total"], rows["quantity"]), False) for c in candidates]
    return pc.or_(pc.or_(close[0], close[1]), close[2])


def product(quantity: pa.ChunkedArray, price: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return quantity times price, exactly, with 8 decimals."""
    return pc.multiply(quantity, price)


def _close(expected: pa.ChunkedArray, stated: pa.ChunkedArray, quantity: pa.ChunkedArray) -> pa.ChunkedArray:
    difference = pc.abs(pc.subtract(expected, stated))
    allowed = pc.add(pc.multiply(pc.abs(quantity), ROUNDING_A_UNIT), ROUNDING)
    return pc.less_equal(difference, allowed)


def _whole(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
