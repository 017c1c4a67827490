"""Invented invoices as text: the cells of a file in the layout of the accounting system or of a distributor.

Cells are held by the contract's column name (or an own one for columns that the contract does not know)
and are already quoted where CSV wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.sampling import goods
from bulk_upload_pipeline.sampling.cells import (
    amount_cells,
    calendar,
    day_cells,
    grouped,
    number_cells,
    text_cells,
    written_day_cells,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bulk_upload_pipeline.sampling.draws import Draws
    from bulk_upload_pipeline.sampling.invoices import Invoices, Lines

Cells = dict[str, pa.StringArray]

_STATUSES = ("Closed", "PartiallyPaid", "Overdue", "Open")


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """A source format that can be written.

    Attributes:
        titles: Header of each column by the name under which `cells` has it, in file order.
        cells: Writes out some invoices and their lines; the third argument is the file's chance.
    """

    titles: dict[str, str]
    cells: Callable[[Invoices, Lines, Draws], Cells]

    @property
    def header(self) -> tuple[str, ...]:
        """Return the titles in file order."""
        return tuple(self.titles.values())


def zoho_cells(bills: Invoices, lines: Lines, draws: Draws) -> Cells:
    """Return the 37 columns of the accounting system's export."""
    series = f"INV-{draws.seed:04d}-"
    figures = _grouped_figures(bills, draws)
    on_invoice: Cells = {
        "invoice_date": day_cells(bills.day),
        "invoice_id": number_cells("46000001", bills.number + draws.seed * 10_000_000, 11),
        "invoice_number": number_cells(series, bills.number + 1, 7),
        "invoice_status": text_cells(_STATUSES).take(pa.array(bills.status)),
        "due_date": day_cells(bills.due),
        "expected_payment_date": day_cells(bills.expected),
        "last_payment_date": day_cells(bills.paid),
        "purchase_order": _sometimes(
            draws, "order", bills.number, number_cells("PO-", 3 * bills.number + 10_007, 6)
        ),
        "sales_order_number": number_cells("SO-", bills.number + 50_001, 6),
        **figures,
        **_shop_cells(bills.shop),
    }
    return {
        **_spread(on_invoice, lines.invoice),
        **_item_cells(lines.item),
        "quantity": amount_cells(lines.quantity),
        "item_price": amount_cells(lines.price),
        "mrp": _prices_with_signs(lines, draws),
        "discount": amount_cells(lines.percent),
        "discount_amount": amount_cells(lines.discount),
        "item_total": amount_cells(lines.total),
    }


def distributor_cells(bills: Invoices, lines: Lines, draws: Draws) -> Cells:
    """Return the 18 columns of a distributor's export; each depot writes dates in its own way."""
    shops = goods.shops()
    depot = np.array([shop.warehouse for shop in shops])[bills.shop]
    with_slashes = depot % 3 == 2
    on_invoice: Cells = {
        "invoice_number": number_cells(f"DS{draws.seed:02d}/", bills.number + 1, 7),
        "invoice_date": written_day_cells(bills.day, with_slashes),
        "month": calendar("{month}").take(pa.array(bills.day)),
        "year": calendar("{day:%Y}").take(pa.array(bills.day)),
        "sales_person": text_cells(shop.sales_person for shop in shops).take(pa.array(bills.shop)),
        "customer_name": text_cells(shop.name for shop in shops).take(pa.array(bills.shop)),
        "customer_id": text_cells(shop.code for shop in shops).take(pa.array(bills.shop)),
        "warehouse_name": text_cells(goods.WAREHOUSES).take(pa.array(depot)),
    }
    item = _item_cells(lines.item)
    packed = calendar("/{day:%y%m}").take(pa.array(bills.day[lines.invoice]))
    expiry = bills.day[lines.invoice] + 60 + 30 * (lines.item % 5)
    return {
        **_spread(on_invoice, lines.invoice),
        "item_name": item["item_name"],
        "sku": pc.binary_join_element_wise(item["sku"], packed, ""),
        "quantity": amount_cells(lines.quantity),
        "item_price": amount_cells(lines.price),
        "mrp": _prices_with_signs(lines, draws),
        "discount": amount_cells(lines.discount),
        "item_total": grouped(amount_cells(lines.total), draws.chance(5, 1000, "grouped", lines.row)),
        "brand": item["brand"],
        "category_name": item["category_name"],
        "expiry_date": written_day_cells(expiry, with_slashes[lines.invoice]),
    }


ZOHO = SampleLayout(
    {
        "invoice_date": "Invoice Date",
        "invoice_id": "Invoice ID",
        "invoice_number": "Invoice Number",
        "invoice_status": "Invoice Status",
        "customer_name": "Customer Name",
        "customer_id": "Customer ID",
        "due_date": "Due Date",
        "expected_payment_date": "Expected Payment Date",
        "last_payment_date": "Last Payment Date",
        "purchase_order": "Purchase Order",
        "sales_order_number": "Sales Order Number",
        "product_id": "Product ID",
        "item_name": "Item Name",
        "sku": "SKU",
        "brand": "Brand",
        "category_name": "Category Name",
        "item_desc": "Item Desc",
        "quantity": "Quantity",
        "usage_unit": "Usage unit",
        "item_price": "Item Price",
        "mrp": "MRP",
        "discount": "Discount",
        "discount_amount": "Discount Amount",
        "item_total": "Item Total",
        "subtotal": "SubTotal",
        "total": "Total",
        "balance": "Balance",
        "warehouse_name": "Warehouse Name",
        "sales_person": "Sales Person",
        "billing_city": "Billing City",
        "billing_state": "Billing State",
        "billing_country": "Billing Country",
        "billing_code": "Billing Code",
        "shipping_city": "Shipping City",
        "shipping_state": "Shipping State",
        "shipping_country": "Shipping Country",
        "shipping_code": "Shipping Code",
    },
    zoho_cells,
)
DISTRIBUTOR = SampleLayout(
    {
        "invoice_number": "Invoice No",
        "invoice_date": "Invoice Date",
        "month": "Month",
        "year": "Year",
        "sales_person": "Salesman Name",
        "customer_name": "Store Name",
        "customer_id": "Store Code",
        "item_name": "Item Name",
        "sku": "Batch No",
        "quantity": "Quantity",
        "item_price": "Rate",
        "mrp": "MRP",
        "discount": "Discount",
        "item_total": "Amount",
        "brand": "Company Name",
        "category_name": "Division",
        "warehouse_name": "HQ",
        "expiry_date": "Expiry Date",
    },
    distributor_cells,
)
LAYOUTS = {"zoho": ZOHO, "distributor": DISTRIBUTOR}


def _spread(on_invoice: Cells, invoice: np.ndarray) -> Cells:
    """Repeat what stands on an invoice for each of its lines."""
    at = pa.array(invoice)
    return {name: cells.take(at) for name, cells in on_invoice.items()}


@lru_cache(maxsize=1)
def _shop_columns() -> Cells:
    shops = goods.shops()
    return {
        "customer_name": text_cells(shop.name for shop in shops),
        "customer_id": text_cells(shop.account for shop in shops),
        "warehouse_name": text_cells(goods.WAREHOUSES[shop.warehouse] for shop in shops),
        "sales_person": text_cells(shop.sales_person for shop in shops),
        "billing_city": text_cells(shop.billing.name for shop in shops),
        "billing_state": text_cells(shop.billing.state for shop in shops),
        "billing_country": text_cells("India" for _ in shops),
        "billing_code": text_cells(shop.billing_code for shop in shops),
        "shipping_city": text_cells(shop.shipping.name for shop in shops),
        "shipping_state": text_cells(shop.shipping.state for shop in shops),
        "shipping_country": text_cells("India" for _ in shops),
        "shipping_code": text_cells(shop.shipping_code for shop in shops),
    }


def _shop_cells(shop: np.ndarray) -> Cells:
    at = pa.array(shop)
    return {name: texts.take(at) for name, texts in _shop_columns().items()}


@lru_cache(maxsize=1)
def _item_columns() -> Cells:
    items = goods.items()
    return {
        "product_id": text_cells(item.code for item in items),
        "item_name": text_cells(item.name for item in items),
        "sku": text_cells(item.sku for item in items),
        "brand": text_cells(item.brand for item in items),
        "category_name": text_cells(item.category for item in items),
        "item_desc": text_cells(item.description for item in items),
        "usage_unit": text_cells(item.unit for item in items),
    }


def _item_cells(item: np.ndarray) -> Cells:
    at = pa.array(item)
    return {name: texts.take(at) for name, texts in _item_columns().items()}


def _sometimes(draws: Draws, name: str, positions: np.ndarray, cells: pa.StringArray) -> pa.StringArray:
    """Keep three cells of five, and empty the others."""
    return pc.if_else(pa.array(draws.chance(3, 5, name, positions)), cells, "")


def _grouped_figures(bills: Invoices, draws: Draws) -> Cells:
    """Return the figures of the invoices; in one invoice of 200 they are grouped as people write them."""
    as_people_do = draws.chance(5, 1000, "grouped", bills.number)
    figures = {"subtotal": bills.subtotal, "total": bills.total, "balance": bills.balance}
    return {name: grouped(amount_cells(amounts), as_people_do) for name, amounts in figures.items()}


def _prices_with_signs(lines: Lines, draws: Draws) -> pa.StringArray:
    """Return the printed prices; one of 500 has a currency sign before it."""
    prices = amount_cells(np.array([item.mrp for item in goods.items()])[lines.item])
    signed = pa.array(draws.chance(1, 500, "sign", lines.row))
    sign = pc.if_else(pa.array(draws.chance(1, 2, "which sign", lines.row)), "₹ ", "Rs. ")
    return pc.if_else(signed, pc.binary_join_element_wise(sign, prices, ""), prices)
