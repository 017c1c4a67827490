"""The rules of an invoice line, against an oracle that works with Python's own decimals, row by row."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import contract, rules
from bulk_upload_pipeline.findings import CATALOGUE, SCHEMA
from bulk_upload_pipeline.model import DamagedRow, Layout, Severity, TextChunk, TypedChunk
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.profiles import Profile
from bulk_upload_pipeline.validate import judge
from bulk_upload_pipeline.verbatim import row_data

TODAY = date(2026, 6, 1)
LAYOUT = Layout(
    file_format="csv",
    header=tuple(column.title for column in contract.COLUMNS),
    mapping={name: position for position, name in enumerate(contract.NAMES)},
    profile="zoho",
)
GOOD = {
    "invoice_number": "INV-1",
    "invoice_date": date(2025, 12, 31),
    "customer_name": "Sharma Sweets",
    "quantity": Decimal("4"),
    "item_price": Decimal("12.50"),
    "item_total": Decimal("50"),
    "sku": "KK-1",
}
amounts = st.decimals("-99999999999", "99999999999", places=4, allow_nan=False)
small = st.decimals("-2000", "2000", places=4, allow_nan=False)


def typed(*changes):
    columns = {name: [(GOOD | change).get(name) for change in changes] for name in contract.NAMES}
    table = pa.table(columns, schema=contract.ARROW_SCHEMA)
    numbers = pa.array(range(1, len(changes) + 1), pa.int64())
    cells = pa.table(
        {
            str(at): pa.array([None if v is None else str(v) for v in columns[name]], pa.string())
            for at, name in enumerate(contract.NAMES)
        }
    )
    rows = table.append_column("extra", pa.nulls(len(changes), pa.string()))
    rows = rows.append_column("row_number", numbers.cast(pa.int32()))
    return TypedChunk(rows, SCHEMA.empty_table(), TextChunk(cells, numbers))


def codes(*changes, profile=None):
    profile = profile or load_profiles()["zoho"]
    verdict = judge(typed(*changes), LAYOUT, profile, TODAY)
    return [(f["row_number"], f["error_code"]) for f in verdict.findings.to_pylist()]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"invoice_number": None}, ["MISSING_VALUE"]),
        ({"customer_name": None}, ["MISSING_VALUE"]),
        ({"quantity": Decimal(0), "item_total": Decimal(0)}, ["ZERO_QUANTITY"]),
        ({"quantity": Decimal(-4), "item_total": Decimal(-50)}, ["CREDIT_LINE"]),
        ({"quantity": Decimal(0)}, ["ZERO_QUANTITY"]),
        ({"item_price": Decimal("-1"), "item_total": Decimal(-4)}, ["NEGATIVE_PRICE"]),
        ({"item_total": Decimal("50.04")}, ["TOTAL_MISMATCH"]),
        ({"item_total": Decimal("50.03")}, []),
        ({"item_total": Decimal("45"), "discount": Decimal(10)}, []),
        ({"item_total": Decimal("45"), "discount": Decimal(5)}, []),
        ({"item_total": Decimal("45"), "discount_amount": Decimal(5)}, []),
        ({"item_total": Decimal("44"), "discount": Decimal(5)}, ["TOTAL_MISMATCH"]),
        ({"sku": None}, ["MISSING_ITEM"]),
        ({"sku": None, "item_name": "Kaju Katli"}, []),
        ({"sku": None, "product_id": "7"}, []),
        ({"invoice_date": date(1989, 12, 31)}, ["DATE_TOO_EARLY"]),
        ({"invoice_date": date(1990, 1, 1)}, []),
        ({"invoice_date": TODAY + timedelta(days=366)}, []),
        ({"invoice_date": TODAY + timedelta(days=367)}, ["DATE_IN_FUTURE"]),
        ({"due_date": date(2025, 12, 30)}, ["DUE_BEFORE_INVOICE"]),
        ({"due_date": date(2025, 12, 31)}, []),
        ({"invoice_number": "x" * 100}, []),
        ({"invoice_number": "x" * 101}, ["TEXT_TOO_LONG"]),
        ({"invoice_number": "4.00638E+12"}, ["ROUNDED_IDENTIFIER"]),
        ({"product_id": "4,6e+018"}, ["ROUNDED_IDENTIFIER"]),
        ({"sku": "4E+1", "invoice_number": "A+1", "customer_id": "40.1E+12"}, []),
        ({"item_name": "4.00638E+12"}, []),
        ({"item_desc": "ß" * 10_001}, ["TEXT_TOO_LONG"]),
        ({"quantity": None, "customer_name": None}, ["MISSING_VALUE", "MISSING_VALUE"]),
    ],
)
def test_a_row_gets_the_findings_of_the_contract_and_no_others(change, expected):
    assert sorted(code for _, code in codes(change)) == expected


def test_a_row_with_an_error_does_not_load_and_one_with_a_warning_does():
    verdict = judge(
        typed({}, {"quantity": Decimal(0)}, {"due_date": date(2000, 1, 1)}),
        LAYOUT,
        load_profiles()["zoho"],
        TODAY,
    )
    assert verdict.valid["row_number"].to_pylist() == [1, 3]
    assert (verdict.rows_read, verdict.rows_rejected) == (3, 1)


def test_a_wrong_total_is_a_warning_when_the_profile_says_so():
    profile = Profile(name="zoho", total_mismatch=Severity.WARNING)
    verdict = judge(typed({"item_total": Decimal(1)}), LAYOUT, profile, TODAY)
    assert (verdict.rows_rejected, verdict.findings["severity"].to_pylist()) == (0, ["warning"])


def test_a_message_shows_the_calculation():
    verdict = judge(typed({"item_total": Decimal("152.5")}), LAYOUT, load_profiles()["zoho"], TODAY)
    assert verdict.findings["error_message"].to_pylist() == [
        "Item Total does not agree: 4 x 12.5 = 50, but the file says 152.5."
    ]


@pytest.mark.parametrize(
    ("quantity", "price", "shown"),
    [
        ("4", "0", "4 x 0 = 0"),
        ("0.001", "0.0001", "0.001 x 0.0001 = 0"),
        ("-200", "0.5", "-200 x 0.5 = -100"),
    ],
)
def test_a_message_writes_every_product_as_people_do(quantity, price, shown):
    change = {"quantity": Decimal(quantity), "item_price": Decimal(price), "item_total": Decimal(7)}
    verdict = judge(typed(change), LAYOUT, load_profiles()["zoho"], TODAY)
    messages = verdict.findings.filter(pc.equal(verdict.findings["error_code"], "TOTAL_MISMATCH"))[
        "error_message"
    ]
    assert messages.to_pylist() == [f"Item Total does not agree: {shown}, but the file says 7."]


def test_a_damaged_row_is_rejected_with_its_text():
    chunk = typed({})
    damaged = (DamagedRow(2, "WRONG_FIELD_COUNT", "Line 3 has 9 cells, the header has 8", "a,b\0"),)
    text = TextChunk(chunk.text.cells, chunk.text.row_numbers, damaged)
    verdict = judge(TypedChunk(chunk.rows, chunk.findings, text), LAYOUT, load_profiles()["zoho"], TODAY)
    assert (verdict.rows_read, verdict.rows_rejected, len(verdict.valid)) == (2, 1, 1)
    assert verdict.sources["row_number"].to_pylist() == [2]
    (kept,) = row_data(verdict.sources).to_pylist()
    assert json.loads(kept) == {"_raw": "a,b\ufffd"}


def test_control_totals_are_exact_sums():
    verdict = judge(
        typed({}, {"quantity": Decimal("0.0001")}, {"item_total": Decimal("99999999999.9999")}),
        LAYOUT,
        load_profiles()["zoho"],
        TODAY,
    )
    assert verdict.totals_read.quantity == Decimal("8.0001")
    assert verdict.totals_read.item_total == Decimal("100000000099.9999")
    assert verdict.totals_valid.item_total == Decimal("50")


def agrees(quantity, price, total, discount, amount):
    """The rule of the contract, in the plainest words."""
    if quantity == 0:
        return True
    gross = quantity * price
    nets = [gross]
    if discount is not None:
        nets += [gross - discount, gross * (100 - discount) / 100]
    if amount is not None:
        nets.append(gross - amount)
    allowed = Decimal("0.01") + Decimal("0.005") * abs(quantity)
    return any(abs(net - total) <= allowed for net in nets)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(small, amounts),
            st.one_of(small, amounts),
            st.sampled_from([0, 1, 2, 3]),
            st.one_of(st.none(), small, amounts),
            st.one_of(st.none(), small, amounts),
            st.decimals("-0.05", "0.05", places=4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_totals_agree_exactly_when_the_oracle_says_so(rows):
    cases = []
    for quantity, price, how, discount, amount, off in rows:
        net = [
            quantity * price,
            quantity * price - (discount or 0),
            quantity * price * (100 - (discount or 0)) / 100,
            quantity * price - (amount or 0),
        ][how]
        total = (net + off).quantize(Decimal("0.0001"))
        total = max(min(total, Decimal("99999999999.9999")), Decimal("-99999999999.9999"))
        cases.append((quantity, price, total, discount, amount))
    names = ["quantity", "item_price", "item_total", "discount", "discount_amount"]
    table = typed(*(dict(zip(names, case, strict=True)) for case in cases)).rows
    assert rules.agreements(table)["total_agrees"].to_pylist() == [agrees(*case) for case in cases]


def test_every_rule_names_a_code_of_the_catalogue():
    all_rules = rules.rules_of(frozenset(contract.NAMES), contract.REQUIRED, TODAY)
    assert {code for of_column in all_rules.values() for code in of_column} <= set(CATALOGUE)
