"""What a profile states, from the file in its sender's folder to the rows in the table and the receipt."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import pytest
import xlsxwriter

from bulk_upload_pipeline import intake, report
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import BulkUploadError
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, receipt, rows

ROWS = (
    "SELECT invoice_number, invoice_date, customer_name, quantity, item_price, item_total, customer_id, sku "
)
COLUMNS = (
    "invoice_number",
    "invoice_date",
    "customer_name",
    "quantity",
    "item_price",
    "item_total",
    "customer_id",
    "sku",
)


def profile(line, text, name="mine"):
    (line.home.profiles / f"{name}.toml").write_text(f'name = "{name}"\n{text}\n', "utf-8")


def through(line, batch_id):
    """Take a batch through the line as the assets do, and return its receipt."""
    try:
        if stages.upload(line, batch_id).receipt is None:
            stages.validate(line, batch_id)
            stages.load(line, batch_id)
            stages.close(line, batch_id)
    except BulkUploadError:
        pass
    return receipt(line, batch_id)


def dropped(line, name, content, folder="mine"):
    """Drop a file in a sender's folder, find it as the sensor does, and return its receipt."""
    path = line.home.inbox / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    seen = intake.survey(line, {}, lambda _: False).seen
    (request,) = intake.survey(line, seen, lambda _: False).requests
    return through(line, request.batch_id)


def loaded(line):
    found = rows(line, f"{ROWS} FROM mangalam_invoices ORDER BY invoice_number")
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def findings(line, batch_id):
    query = (
        "SELECT error_code, severity FROM bulk_upload.processing_errors WHERE batch_id = :batch ORDER BY id"
    )
    return rows(line, query, batch=batch_id)


def sheet_row(**changed):
    return good_row(1, **changed)


STATED = {
    "date_order mdy": (
        'date_order = "mdy"',
        {"Invoice Date": "03/04/2024"},
        {"invoice_date": date(2024, 3, 4)},
    ),
    "date_order dmy": (
        'date_order = "dmy"',
        {"Invoice Date": "03/04/2024"},
        {"invoice_date": date(2024, 4, 3)},
    ),
    "date_order ymd": (
        'date_order = "ymd"',
        {"Invoice Date": "24/03/04"},
        {"invoice_date": date(2024, 3, 4)},
    ),
    "decimal_comma": (
        "decimal_comma = true",
        {"Quantity": "1.000", "Item Price": "1,25", "Item Total": "1.250,00"},
        {"quantity": Decimal(1000), "item_price": Decimal("1.25"), "item_total": Decimal(1250)},
    ),
    "float_identifiers": ('float_identifiers = ["sku"]', {"SKU": "17850.0"}, {"sku": "17850"}),
    "total_mismatch": ('total_mismatch = "warning"', {"Item Total": "1"}, {"item_total": Decimal(1)}),
    "required": (
        'required = ["invoice_number", "invoice_date", "quantity", "item_price"]',
        {"Customer Name": ""},
        {"customer_name": None},
    ),
}


@pytest.mark.parametrize("key", STATED)
def test_what_a_profile_states_decides_how_its_files_load(line, key):
    stated, changed, expected = STATED[key]
    profile(line, stated)
    got = dropped(line, "a.csv", csv_of([sheet_row(**changed)]))
    assert (got.state, got.profile) == ("loaded", "mine")
    (row,) = loaded(line)
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("key", STATED)
def test_without_the_profile_the_same_file_means_something_else_or_is_refused(line, key):
    _, changed, expected = STATED[key]
    through(line, drop(line, "a.csv", csv_of([sheet_row(**changed)])))
    assert [{name: row[name] for name in expected} for row in loaded(line)] != [expected]


def test_a_total_that_is_only_remarked_on_is_a_warning_on_the_receipt(line):
    profile(line, 'total_mismatch = "warning"')
    got = dropped(line, "a.csv", csv_of([sheet_row(**{"Item Total": "1"})]))
    assert (got.warnings, findings(line, got.batch_id)) == (1, [("TOTAL_MISMATCH", "warning")])


def test_a_column_that_a_profile_requires_may_be_neither_missing_nor_empty(line):
    profile(line, 'required = ["invoice_number", "invoice_date", "quantity", "item_price", "brand"]')
    got = dropped(line, "a.csv", csv_of([good_row(1)]))
    assert got.state == "unreadable"
    assert "Required column missing: `Brand`" in got.reason
    got = dropped(
        line,
        "b.csv",
        csv_of([good_row(1, Brand="X"), good_row(2), good_row(3, Brand="Y")], (*HEADER, "Brand")),
    )
    assert (got.state, findings(line, got.batch_id)) == ("partially_loaded", [("MISSING_VALUE", "error")])


def test_a_profile_states_the_encoding(line):
    profile(line, 'encoding = "cp437"')
    dropped(line, "a.csv", csv_of([good_row(1, **{"Customer Name": "Café Ωmega"})]).encode("cp437"))
    assert loaded(line)[0]["customer_name"] == "Café Ωmega"


def test_a_profile_states_the_delimiter(line):
    profile(line, 'delimiter = "_"')
    text = "\n".join(
        "_".join(cells) for cells in (HEADER, good_row(1, **{"Item Name": "Kaju, Katli"}).values())
    )
    got = dropped(line, "a.csv", text)
    assert (got.state, got.layout["delimiter"]) == ("loaded", "_")


def test_a_profile_states_the_sheet(line, tmp_path):
    profile(line, 'sheet = "March"')
    with xlsxwriter.Workbook(tmp_path / "a.xlsx") as book:
        for number, name in enumerate(("February", "March"), start=1):
            sheet = book.add_worksheet(name)
            sheet.write_row(0, 0, HEADER)
            sheet.write_row(1, 0, good_row(number).values())
    content = (tmp_path / "a.xlsx").read_bytes()
    assert dropped(line, "a.xlsx", content).rows_read == 1
    assert [row["invoice_number"] for row in loaded(line)] == ["INV-000002"]
    assert through(line, drop(line, "b.xlsx", content + b"\n")).rows_read == 2


def test_a_profile_states_how_many_bad_rows_are_too_many(line):
    profile(line, "max_error_rate = 0.25")
    content = csv_of([good_row(n) for n in range(3)] + [good_row(4, Quantity="x")])
    assert through(line, drop(line, "a.csv", content)).state == "partially_loaded"
    got = dropped(line, "b.csv", content + "\n")
    assert (got.state, got.rows_inserted) == ("rejected", 0)
    assert "at 25%" in got.reason


@pytest.mark.parametrize(
    ("policy", "price", "counts"),
    [
        ("update", "25.0000", (0, 1, 0, 0)),
        ("skip", "12.5000", (0, 0, 1, 0)),
        ("reject", "12.5000", (0, 0, 0, 1)),
    ],
)
def test_a_profile_states_what_becomes_of_a_line_that_is_there_already(line, policy, price, counts):
    profile(line, f'on_conflict = "{policy}"')
    dropped(line, "a.csv", csv_of([good_row(1)]))
    changed = {"Item Price": "25", "Item Total": "100"}
    got = dropped(line, "b.csv", csv_of([good_row(1, **changed), good_row(2), good_row(3)]))
    assert loaded(line)[0]["item_price"] == Decimal(price)
    inserted, *others = counts
    assert (got.rows_inserted, got.rows_updated, got.rows_unchanged, got.rows_rejected) == (
        inserted + 2,
        *others,
    )


def test_a_folder_decides_whose_names_and_whose_rules_count(line):
    retail = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    retail += "1,22,Kaju,4,2010-12-01,1.5,17850.0,India\n"
    got = dropped(line, "a.csv", retail, folder="distributor")
    assert got.state == "unreadable"
    assert "Required column missing" in got.reason
    assert through(line, drop(line, "b.csv", retail + "\n")).profile == "online_retail"
    text = csv_of([good_row(2, **{"Invoice Date": "03/04/2024"})])
    assert dropped(line, "c.csv", text, folder="distributor").profile == "distributor"
    assert loaded(line)[-1]["invoice_date"] == date(2024, 4, 3)


def test_a_profile_with_names_of_its_own_reads_its_senders_header(line):
    names = {"Invoice Number": "Bill №", "Quantity": "मात्रा", "Customer Name": "Zákazník"}
    aliases = {"invoice_number": "bill no", "quantity": "मात्रा", "customer_name": "ZAKAZNIK"}
    others = {"invoice_date": "Invoice Date", "item_price": "Item Price", "sku": "SKU"}
    table = "\n".join(f'{column} = ["{name}"]' for column, name in (aliases | others).items())
    profile(line, f"[columns]\n{table}")
    header = [names.get(name, name) for name in HEADER]
    row = {names.get(name, name): value for name, value in good_row(1).items()}
    got = through(line, drop(line, "a.csv", csv_of([row], header)))
    assert (got.state, got.profile) == ("loaded", "mine")
    assert loaded(line)[0]["quantity"] == Decimal(4)


# Headers


def test_a_near_miss_is_suggested_and_never_applied(line):
    header = ["Invoce No", *HEADER[1:]]
    row = {
        "Invoce No": "7",
        **{name: value for name, value in good_row(1).items() if name != "Invoice Number"},
    }
    got = through(line, drop(line, "a.csv", csv_of([row], header)))
    assert got.state == "unreadable"
    assert "Required column missing: `Invoice Number`; `Invoce No` looks like `Invoice Number`." in got.reason
    assert loaded(line) == []


@pytest.mark.parametrize(
    ("strange", "said"),
    [
        (["Qnty"], "nothing is known of the column `Qnty`."),
        (["Q" * 41], f"nothing is known of the column `{'Q' * 39}…`."),
        ([*"ABCDEFG"], "nothing is known of the columns `A`, `B`, `C`, `D`, `E` and 2 more."),
    ],
)
def test_a_missing_column_is_told_with_those_of_which_nothing_is_known(line, strange, said):
    header = [name for name in HEADER if name != "Quantity"] + strange
    got = through(line, drop(line, "a.csv", csv_of([dict.fromkeys(header, "4")], header)))
    assert got.reason.startswith(f"Required column missing: `Quantity`; {said}")


def test_a_folder_that_nobody_is_named_after_is_told_with_the_names_that_there_are(line):
    for number in range(7):
        (line.home.inbox / f"zoho{number}").mkdir()
    (line.home.inbox / "zoho").mkdir()
    words = intake.survey(line, {}, lambda batch_id: True).in_words
    assert words == (
        "Files in the inbox: 7 never taken (folders that are no profile). No profile is named as the folders 'zoho0', "
        "'zoho1', 'zoho2', 'zoho3', 'zoho4' and others. Known are distributor, online_retail, zoho."
    )
    for folder in line.home.inbox.iterdir():
        folder.rmdir()
    assert intake.survey(line, {}, lambda batch_id: True).in_words == "Files in the inbox: none."


def test_two_columns_that_mean_the_same_are_both_named(line):
    got = through(line, drop(line, "a.csv", csv_of([good_row(1, Rate="5")], (*HEADER, "Rate"))))
    # Under the sender's own names `Rate` is unknown, so it is kept beside them.
    assert (got.state, got.profile) == ("loaded", "zoho")
    got = through(line, drop(line, "b.csv", csv_of([good_row(1, ITEM_PRICE="5")], (*HEADER, "ITEM_PRICE"))))
    assert got.state == "unreadable"
    assert "`Item Price` and `ITEM_PRICE`" in got.reason


def test_columns_that_nobody_knows_are_kept_and_listed_on_the_receipt(line):
    header = (*HEADER, "Zone", "Discont", "Zone")
    text = ",".join(header) + "\n" + ",".join(f'"{v}"' for v in good_row(1).values()) + ",North,5%,South\n"
    got = through(line, drop(line, "a.csv", text))
    assert got.state == "loaded"
    assert rows(line, "SELECT extra FROM mangalam_invoices") == [
        ({"Zone": "North", "Discont": "5%", "Zone (2)": "South"},)
    ]
    told = report.in_words(got, ())
    assert "Kept in `extra`: Zone, Discont, Zone" in told
    stated = json.loads((line.reports(got.batch_id) / report.SUMMARY).read_text("utf-8"))
    assert stated["columns_to_extra"] == ["Zone", "Discont", "Zone"]
    page = (line.reports(got.batch_id) / report.PAGE).read_text("utf-8")
    assert "Discont" in page


@pytest.mark.parametrize(
    "spelling",
    [
        "invoice_number",
        "INVOICE  NUMBER",
        "Invoice-Number:",
        "Ìnvoïce Númber",
        "invoice.number",
        "ＩｎｖｏｉｃｅNumber",
    ],
)
def test_case_blanks_punctuation_accents_and_width_of_a_header_do_not_matter(line, spelling):
    header = (spelling, *HEADER[1:])
    text = csv_of([good_row(1)]).replace("Invoice Number", spelling, 1)
    got = through(line, drop(line, "a.csv", text))
    assert (got.state, got.profile) == ("loaded", "zoho")
    assert tuple(got.layout["header"]) == header
