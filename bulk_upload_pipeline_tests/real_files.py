"""Real daily invoice files, and what the standard library's CSV reader finds in them."""

from __future__ import annotations

import csv
from collections import Counter
from decimal import Decimal
from pathlib import Path

HERE = Path(__file__).parent
ALL_DAYS = HERE.parent.parent / "shared" / "data" / "online-retail"
DAYS = sorted((ALL_DAYS if ALL_DAYS.is_dir() else HERE / "data" / "online_retail").glob("*.csv"))


def lines(paths=DAYS):
    """Every line of the files as the table should hold it, read by the standard library, with how often."""
    return Counter(_line(row) for path in paths for row in _rows(path))


def _rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _line(row):
    return (
        row["InvoiceNo"].strip(),
        row["StockCode"].strip(),
        row["Description"].strip() or None,
        Decimal(row["Quantity"]),
        row["InvoiceDate"][:10],
        Decimal(row["UnitPrice"]),
        row["CustomerID"].strip().removesuffix(".0") or None,
        row["Country"].strip() or None,
    )


IN_THE_TABLE = (
    "SELECT invoice_number, sku, item_name, quantity, invoice_date::text, item_price, customer_id, "
    "billing_country FROM mangalam_invoices"
)
