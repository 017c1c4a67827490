"""The contract: what an invoice line is. One declaration a column, from which all else is derived.

The Arrow schema of parsed rows, the pandera schema that judges them, the SQL table (`tables`), the
template file and the column reference follow from `COLUMNS`. To add a column, add it here and write its
migration.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from datetime import date

    import pandera.pandas as pandera

RULES_VERSION = 2
"""Raise it with every change of a rule: batches judged by an older version can be judged anew."""

TARGET = "mangalam_invoices"
"""The table, in schema `public` so that the dashboards of the old system keep working."""

TABLE = f"public.{TARGET}"
"""The same as SQL names it."""

AMOUNT_DIGITS, AMOUNT_DECIMALS = 15, 4
"""numeric(15,4): 11 digits before the point, 4 behind it."""


class Kind(Enum):
    """How the cells of a column are read."""

    TEXT = pa.string()
    AMOUNT = pa.decimal128(AMOUNT_DIGITS, AMOUNT_DECIMALS)
    DATE = pa.date32()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the contract.

    Attributes:
        limit: Most characters of a text; None for other kinds.
        required: Whether a row without it is rejected, unless the profile says otherwise.
        identifier: Text that a system may export as a number (`17850.0`).
        unlimited: The SQL type is `text`; `limit` is then a rule and no part of the type.
        remark: What the column promises beyond its kind, as a sentence.
    """

    name: str
    kind: Kind
    title: str
    limit: int | None = None
    required: bool = False
    identifier: bool = False
    unlimited: bool = False
    remark: str = ""


def _text(name: str, title: str, limit: int, *, required: bool = False, remark: str = "") -> Column:
    return Column(name, Kind.TEXT, title, limit, required, remark=remark)


def _identifier(name: str, title: str, *, required: bool = False, remark: str = "") -> Column:
    return Column(name, Kind.TEXT, title, 100, required, identifier=True, remark=remark)


def _amount(name: str, title: str, *, required: bool = False, remark: str = "") -> Column:
    return Column(name, Kind.AMOUNT, title, None, required, remark=remark)


def _date(name: str, title: str, *, required: bool = False, remark: str = "") -> Column:
    return Column(name, Kind.DATE, title, None, required, remark=remark)


_ONE_OF_THREE = "Item name, SKU or product id: a row needs at least one of the three."
_LESS = "Counts when the total of the line is checked, as an amount or as a percentage."

COLUMNS: tuple[Column, ...] = (
    _identifier("invoice_number", "Invoice Number", required=True),
    _date(
        "invoice_date",
        "Invoice Date",
        required=True,
        remark="Not before 1990-01-01; more than a year ahead is remarked on.",
    ),
    _text("customer_name", "Customer Name", 500, required=True),
    _amount("quantity", "Quantity", required=True, remark="Not zero; a negative one books a credit."),
    _amount("item_price", "Item Price", required=True, remark="A negative one is remarked on."),
    _amount(
        "item_total",
        "Item Total",
        remark="Quantity times price, as is or less the discount, but for rounding (0.01, and half a cent for "
        "each unit). Worked out where the file leaves it empty.",
    ),
    _text("item_name", "Item Name", 500, remark=_ONE_OF_THREE),
    _identifier("sku", "SKU", remark=_ONE_OF_THREE),
    _identifier("product_id", "Product ID", remark=_ONE_OF_THREE),
    _identifier("invoice_id", "Invoice ID"),
    _identifier("customer_id", "Customer ID"),
    _identifier("purchase_order", "Purchase Order"),
    _identifier("sales_order_number", "Sales Order Number"),
    _text("invoice_status", "Invoice Status", 50),
    _text("usage_unit", "Usage unit", 50),
    _date("due_date", "Due Date", remark="One before the invoice date is remarked on."),
    _date("expected_payment_date", "Expected Payment Date"),
    _date("last_payment_date", "Last Payment Date"),
    _text("brand", "Brand", 200),
    _text("category_name", "Category Name", 200),
    _text("warehouse_name", "Warehouse Name", 200),
    _text("sales_person", "Sales Person", 200),
    Column("item_desc", Kind.TEXT, "Item Desc", 10_000, unlimited=True),
    _amount("mrp", "MRP"),
    _amount("discount", "Discount", remark=_LESS),
    _amount("discount_amount", "Discount Amount", remark="Counts when the total of the line is checked."),
    _amount("subtotal", "SubTotal"),
    _amount("total", "Total"),
    _amount("balance", "Balance"),
    _text("billing_city", "Billing City", 200),
    _text("billing_state", "Billing State", 200),
    _text("billing_country", "Billing Country", 200),
    _text("billing_code", "Billing Code", 50),
    _text("shipping_city", "Shipping City", 200),
    _text("shipping_state", "Shipping State", 200),
    _text("shipping_country", "Shipping Country", 200),
    _text("shipping_code", "Shipping Code", 50),
)

BY_NAME: dict[str, Column] = {column.name: column for column in COLUMNS}
NAMES: tuple[str, ...] = tuple(BY_NAME)
REQUIRED: tuple[str, ...] = tuple(column.name for column in COLUMNS if column.required)
ITEM_COLUMNS = ("item_name", "sku", "product_id")
"""At least one of them names what was sold."""

IDENTITY = ("invoice_number", "product_id", "sku", "line_occurrence")
"""Unique in the target, NULLS NOT DISTINCT. `line_occurrence` counts equal first three values in a file."""

IDENTITY_CONSTRAINT = f"{TARGET}_identity"

ARROW_SCHEMA = pa.schema([(column.name, column.kind.value) for column in COLUMNS])
"""Parsed rows: text, exact decimals and days."""

STAGED_SCHEMA = ARROW_SCHEMA.append(pa.field("extra", pa.string())).append(pa.field("row_number", pa.int32()))
"""Valid rows as they are staged: the contract, unknown columns as JSON text, and the row number."""


@lru_cache(maxsize=64)
def pandera_schema(judged: frozenset[str], required: tuple[str, ...], today: date) -> pandera.DataFrameSchema:
    """Return the schema that judges parsed rows (Arrow-backed pandas columns).

    Every check is named after its column and its code in the catalogue of findings.

    Args:
        judged: Names of the columns that are judged by themselves: a call costs a fixed time for each.
        required: Names of the columns that may not be empty.
        today: The day from which "in the future" counts.
    """
    import pandas as pd
    import pandera.pandas as pandera

    from bulk_upload_pipeline import rules

    known = rules.rules_of(judged, required, today)
    kinds = {name: BY_NAME[name].kind.value if name in BY_NAME else pa.bool_() for name in known}
    columns = {name: pandera.Column(pd.ArrowDtype(kind), nullable=True) for name, kind in kinds.items()}
    checks = [rules.check(name, code, rule) for name in known for code, rule in known[name].items()]
    return pandera.DataFrameSchema(columns, checks=checks, strict=False, coerce=False)


def rule_in_words(column: Column) -> str:
    """Return what may stand in a cell of the column, as one or two sentences."""
    match column.kind:
        case Kind.TEXT:
            what = f"Text of at most {column.limit:,} characters."
        case Kind.AMOUNT:
            before = AMOUNT_DIGITS - AMOUNT_DECIMALS
            what = f"Number with at most {before} digits before the decimal point and {AMOUNT_DECIMALS} behind it."
        case Kind.DATE:
            what = "Day, such as 2024-12-31."
    return f"{what} {column.remark}".rstrip()


def sql_type(column: Column) -> str:
    """Return the PostgreSQL type of a column."""
    if column.kind is Kind.TEXT:
        return "text" if column.unlimited else f"varchar({column.limit})"
    return f"numeric({AMOUNT_DIGITS},{AMOUNT_DECIMALS})" if column.kind is Kind.AMOUNT else "date"
