"""Chunks of text under the contract: the fast way and the slow one agree, cell by cell."""

from __future__ import annotations

import json
from datetime import date
from decimal import ROUND_HALF_UP, Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.contract import Kind
from bulk_upload_pipeline.model import Layout, TextChunk
from bulk_upload_pipeline.parse import parse_chunk
from bulk_upload_pipeline.parsing.dates import AMBIGUOUS, read_date
from bulk_upload_pipeline.parsing.numerals import Notation, read_number
from bulk_upload_pipeline.profiles import Profile

FAST = ["0", "-0", "7", "007", "12.50", "-3.0001", "99999999999.9999", "12345678901", None, ""]
ARROW = ["+5", ".5", "5.", "1e3", "1E+3", "1e-3", "1.50000", "0.00000", "-.5", "1e11", "1e-9", "00.10"]
SLOW = [
    "1,23,456.50",
    "₹ 45.00",
    "(12.00)",
    "12.00-",
    "１２",
    " 5 ",
    "\u00a05",
    "1.234,56",
    "0,5",
    "1.234",
    "N/A",
]
WRONG = [
    "12abc",
    "4 5",
    "1,23",
    "inf",
    "nan",
    "NaN",
    "123456789012",
    "0.12345",
    "1e999",
    "#N/A",
    "\ufffd",
    "5\0",
    "%",
]
numbers = st.sampled_from([*FAST, *ARROW, *SLOW, *WRONG])
dates = st.sampled_from(
    [
        "2024-12-31",
        "31/12/2024",
        "12/31/2024",
        "03/04/2024",
        "03/04/24",
        "31-Dec-24",
        "45658",
        "31-Feb-2024",
        "NA",
        None,
    ]
)


def chunk_of(columns, first=1):
    """A chunk, and the layout of a file whose columns have the contract's titles."""
    known = {name: at for at, name in enumerate(columns) if name in contract.BY_NAME}
    header = tuple(contract.BY_NAME[name].title if name in known else name for name in columns)
    cells = pa.table({str(at): pa.array(cells, pa.string()) for at, cells in enumerate(columns.values())})
    rows = len(cells)
    return TextChunk(cells, pa.array(range(first, first + rows), pa.int64())), Layout(
        "csv", header, known, "x"
    )


def parsed(columns, profile=None, file_format="csv", order=None, excel_serials=False):
    chunk, layout = chunk_of(columns)
    layout = Layout(file_format, layout.header, layout.mapping, "x", excel_serials=excel_serials)
    typed = parse_chunk(chunk, layout, profile or Profile(name="x"), lambda: order)
    found = {(f["column_name"], f["row_number"]): f["error_code"] for f in typed.findings.to_pylist()}
    return typed, found


def outcome(typed, found, name):
    """What each cell of a column came to: its value or the code of its finding."""
    title = contract.BY_NAME[name].title
    values = typed.rows[name].to_pylist()
    return [found.get((title, row), value) for row, value in enumerate(values, start=1)]


@given(
    st.lists(numbers, min_size=1, max_size=8),
    st.sampled_from([("csv", False), ("csv", True), ("xlsx", True), ("xlsx", False)]),
    st.sampled_from(["item_price", "discount"]),
)
def test_a_column_of_numbers_reads_as_its_cells_do_one_by_one(cells, sender, name):
    file_format, comma = sender
    notation = Notation.POINT if not comma else Notation.COMMA if file_format == "csv" else Notation.EITHER
    typed, found = parsed({name: cells}, Profile(name="x", decimal_comma=comma), file_format)
    percent = name == "discount"
    expected = [None if c is None else read_number(c, notation, percent=percent) for c in cells]
    assert outcome(typed, found, name) == expected


iso_dates = st.dates(date(1, 1, 1), date(9999, 12, 31)).map(date.isoformat)


@given(
    st.lists(dates, min_size=1, max_size=8) | st.lists(iso_dates, min_size=1, max_size=8),
    st.sampled_from([None, "dmy", "mdy"]),
    st.booleans(),
)
@example(["1899-12-31", "1900-01-01"], None, False)
@example(["2200-12-31", "2201-01-01"], None, True)
def test_a_column_of_days_reads_as_its_cells_do_one_by_one(cells, order, excel):
    expected = [None if c is None else read_date(c, order, excel_serials=excel) for c in cells]
    for profile, agreed in ((Profile(name="x", date_order=order), None), (Profile(name="x"), order)):
        typed, found = parsed({"invoice_date": cells}, profile, order=agreed, excel_serials=excel)
        assert outcome(typed, found, "invoice_date") == expected


def test_the_file_is_asked_for_its_order_only_when_a_day_can_be_read_two_ways_and_only_once():
    asked = []

    def ask():
        asked.append(True)

    for cells, times in ((["2024-12-31", "31/12/2024"], 0), (["03/04/2024", "04/05/2024"], 1)):
        asked.clear()
        chunk, layout = chunk_of({"invoice_date": cells, "due_date": cells})
        typed = parse_chunk(chunk, layout, Profile(name="x"), ask)
        assert len(asked) == times
        assert set(typed.findings["error_code"].to_pylist()) == ({AMBIGUOUS} if times else set())
    asked.clear()
    parse_chunk(chunk, layout, Profile(name="x", date_order="dmy"), ask)
    assert not asked


def test_a_finding_names_the_senders_column_the_row_and_the_cell_as_it_stands():
    chunk, layout = chunk_of({"item_price": ["1", " 1O.50 ", "5\0"]}, first=7)
    (typed,) = [parse_chunk(chunk, layout, Profile(name="x"), lambda: None)]
    assert typed.findings.to_pylist() == [
        {
            "row_number": row,
            "column_name": "Item Price",
            "error_code": "INVALID_NUMBER",
            "severity": "error",
            "error_message": f"Item Price is {raw}, which is not a number.",
            "raw_value": raw,
        }
        for row, raw in ((8, " 1O.50 "), (9, "5\ufffd"))
    ]


@given(
    st.lists(
        st.tuples(
            st.decimals("-99999", "99999", places=4) | st.none(),
            st.decimals("-99999", "99999", places=4) | st.none(),
            st.sampled_from([None, "", "NULL", "12.5", "x"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_total_is_worked_out_exactly_where_there_is_none_and_left_alone_where_there_is(rows):
    text = [[None if v is None else f"{v:f}" for v in column[:2]] + [column[2]] for column in rows]
    typed, found = parsed(
        dict(zip(["quantity", "item_price", "item_total"], zip(*text, strict=True), strict=True))
    )

    def expected(quantity, price, total):
        if total == "12.5":
            return Decimal(total)
        if total == "x":
            return "INVALID_NUMBER"
        if quantity is None or price is None:
            return None
        return (quantity * price).quantize(Decimal("0.0001"), ROUND_HALF_UP)

    assert outcome(typed, found, "item_total") == [expected(*row) for row in rows]


def test_a_total_that_no_amount_can_hold_is_a_finding():
    typed, found = parsed({"quantity": ["99999999999"], "item_price": ["2"]})
    assert typed.rows["item_total"].to_pylist() == [None]
    assert found == {("item_total", 1): "NUMBER_TOO_LARGE"}


def test_a_stated_total_beside_a_product_that_no_amount_can_hold_stays_while_others_are_worked_out():
    typed, found = parsed(
        {"quantity": ["99999999999", "4"], "item_price": ["2", "2.5"], "item_total": ["5", None]}
    )
    assert (typed.rows["item_total"].to_pylist(), found) == ([Decimal(5), Decimal(10)], {})


def test_columns_that_nobody_knows_are_kept_as_they_stand_and_twins_get_a_number():
    typed, _ = parsed({"sku": ["1", "2"], "Zone": [" N\0 ", None]})
    assert [json.loads(e) if e else e for e in typed.rows["extra"].to_pylist()] == [
        {"Zone": " N\ufffd "},
        None,
    ]
    chunk = TextChunk(pa.table({"0": ["a"], "1": ["b"], "2": ["c"]}), pa.array([1], pa.int64()))
    layout = Layout("csv", ("Zone", "SKU", "Zone"), {"sku": 1}, "x")
    typed = parse_chunk(chunk, layout, Profile(name="x"), lambda: None)
    assert json.loads(typed.rows["extra"][0].as_py()) == {"Zone": "a", "Zone (2)": "c"}


def test_every_kind_of_column_can_be_wholly_empty():
    typed, found = parsed({column.name: [None, None] for column in contract.COLUMNS})
    assert found == {}
    assert typed.rows.schema == contract.STAGED_SCHEMA
    assert all(typed.rows[name].null_count == 2 for name in contract.NAMES)


@pytest.mark.parametrize("column", [c for c in contract.COLUMNS if c.identifier], ids=lambda c: c.name)
def test_identifiers_come_out_as_they_went_in(column):
    cells = ["007", "1234567890123456", "1.23E+15", "0", "NA", "17850.0"]
    typed, found = parsed({column.name: cells})
    assert (typed.rows[column.name].to_pylist(), found) == (cells, {})
    typed, _ = parsed({column.name: cells}, Profile(name="x", float_identifiers=(column.name,)))
    assert typed.rows[column.name].to_pylist() == [*cells[:-1], "17850"]


@pytest.mark.parametrize("column", contract.COLUMNS, ids=lambda c: c.name)
def test_a_spreadsheets_error_is_a_finding_in_every_column(column):
    typed, found = parsed({column.name: ["#N/A", "#REF!"]})
    assert found == {(column.title, 1): "SPREADSHEET_ERROR", (column.title, 2): "SPREADSHEET_ERROR"}
    assert typed.rows[column.name].null_count == 2


def test_a_day_loads_as_a_day_of_the_calendar_and_an_amount_as_an_exact_decimal():
    typed, _ = parsed({"invoice_date": ["31-Dec-2024"], "quantity": ["1,23,456.5"]})
    assert typed.rows["invoice_date"].to_pylist() == [date(2024, 12, 31)]
    assert typed.rows["quantity"].to_pylist() == [Decimal("123456.5000")]
    assert typed.rows.schema.field("quantity").type == Kind.AMOUNT.value
