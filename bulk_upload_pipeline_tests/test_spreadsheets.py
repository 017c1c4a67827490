"""Spreadsheets as people keep them: titles, totals, merged headers, days, errors, many sheets, emptiness."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from datetime import date, datetime
from decimal import Decimal

import openpyxl
import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.model import Overrides, Sheet, State
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.reading import sheet_blocks, sheet_cutter
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.test_formats import judged, recognise_loosely
from bulk_upload_pipeline_tests.world import HEADER, drop, good_row, line_at
from bulk_upload_pipeline_tests.writers import Filled, Formatted

PROFILES = load_profiles()
NUMBER, DAY, QUANTITY, PRICE, TOTAL = (
    HEADER.index(name) for name in ("Invoice Number", "Invoice Date", "Quantity", "Item Price", "Item Total")
)


def line_of(number, **changed):
    """A row of a sheet: numbers as numbers, days as days."""
    row = [writers.typed(cell) for cell in good_row(number).values()]
    for at, value in changed.items():
        row[int(at.removeprefix("c"))] = value
    return row


@pytest.fixture
def book(tmp_path):
    """Return a function that writes sheets to a file."""

    def book(sheets):
        path = tmp_path / "book.xlsx"
        path.write_bytes(writers.xlsx_of(sheets))
        return path

    return book


def cells(path, layout, chunk_rows=1_000):
    """Rows by their numbers, and the damaged records."""
    rows, damaged = {}, {}
    for chunk in read_chunks(path, layout, chunk_rows):
        rows |= {
            n: list(row.values())
            for n, row in zip(chunk.row_numbers.to_pylist(), chunk.cells.to_pylist(), strict=True)
        }
        damaged |= {row.row_number: row for row in chunk.damaged}
    return rows, damaged


def refused(path, **stated):
    with pytest.raises(UnreadableError) as error:
        recognise(path, PROFILES, overrides=Overrides(**stated))
    return error.value.finding


def test_titles_above_the_header_and_totals_below_the_rows_are_no_records(book):
    total = ["Grand Total", "", "", "", "", 8.0, "", 100.0]
    note = ["Printed by Ravi on 3 January"]
    path = book({"May": [["Sales of May"], [], list(HEADER), line_of(1), [], line_of(2), [], total, note]})
    valid, findings, layout = judged(path)
    assert layout.sheets == (Sheet("May", 3, 6),)
    assert layout.left_out == (
        "May, row 8: Grand Total | 8 | 100",
        "May, row 9: Printed by Ravi on 3 January",
    )
    assert findings == []
    assert valid["invoice_number"].to_pylist() == ["INV-000001", "INV-000002"]
    # The blank row between them counts: numbers follow the sheet.
    assert valid["row_number"].to_pylist() == [1, 3]
    assert [layout.place(number) for number in (1, 3)] == [("May", 4), ("May", 6)]


@pytest.mark.parametrize("block", [500, 20_000, 1 << 20])
def test_totals_are_found_below_any_number_of_rows_that_are_passed_over(book, monkeypatch, block):
    monkeypatch.setattr(sheet_cutter, "_BLOCK", block)
    total = ["Grand Total", "", "", "", "", 8.0, "", 100.0]
    path = book({"May": [list(HEADER), *(line_of(number) for number in range(1, 301)), [], total]})
    valid, findings, layout = judged(path)
    assert (len(valid), findings) == (300, [])
    assert layout.sheets == (Sheet("May", 1, 301),)
    assert layout.left_out == ("May, row 303: Grand Total | 8 | 100",)


@pytest.mark.parametrize(("notes", "read"), [(40, 4), (60, 14)])
def test_below_more_notes_than_are_looked_at_the_rows_are_records_still(book, notes, read):
    terms = [[f"{number}. These are our terms"] for number in range(notes)]
    path = book(
        {"May": [list(HEADER), *map(line_of, range(1, 4)), [], *terms], "June": [list(HEADER), line_of(9)]}
    )
    layout = recognise(path, PROFILES)
    rows, _ = cells(path, layout)
    assert (len(rows), len(layout.left_out)) == (read, min(notes, 50))
    assert [layout.place(number) for number in list(rows)[:3]] == [("May", at) for at in (2, 3, 4)]


def test_records_far_above_a_note_are_read(tmp_path):
    path = tmp_path / "x.xlsx"
    workbook = openpyxl.Workbook()
    for row in (list(HEADER), line_of(1), line_of(2)):
        workbook.active.append(row)
    workbook.active.cell(1_048_576, 1, "End of the list")
    workbook.save(path)
    layout = recognise(path, PROFILES)
    assert (layout.sheets, len(layout.left_out)) == ((Sheet("Sheet", 1, 3),), 1)


def test_a_note_in_the_first_row_that_is_read_by_itself_is_no_end_of_all_rows_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet_blocks, "_ROWS_AT_ONCE", 4)
    path = tmp_path / "x.ods"
    note = ["Printed by Ravi", *[""] * (len(HEADER) - 1)]
    path.write_bytes(writers.as_ods([HEADER, *(list(good_row(n).values()) for n in range(3)), note]))
    assert len(judged(path)[0]) == 3


def test_records_above_as_many_notes_as_are_looked_at_are_read_in_ods(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet_blocks, "_ROWS_AT_ONCE", 54)
    path = tmp_path / "x.ods"
    notes = [["Printed by Ravi", *[""] * (len(HEADER) - 1)]] * 50
    path.write_bytes(writers.as_ods([HEADER, *(list(good_row(n).values()) for n in range(56)), *notes]))
    assert len(judged(path)[0]) == 56


def test_a_row_with_an_invoice_number_is_a_record_whatever_its_item_is_called(book):
    row = line_of(2, c4="Total Slim Tea")
    valid, _, layout = judged(book({"May": [list(HEADER), line_of(1), row]}))
    assert (len(valid), layout.left_out) == (2, ())


def test_a_row_with_quantity_and_price_is_a_record_unless_nothing_but_total_stands_there(book):
    bottom = [
        line_of(2, c0="", c1=None, c4="Sum Fresh Orange 1L"),
        line_of(3, c0="", c1=None, c2="Total Wine"),
    ]
    _, findings, layout = judged(book({"May": [list(HEADER), line_of(1), *bottom]}))
    assert {finding["row_number"] for finding in findings} == {2, 3}
    assert layout.left_out == ()
    summed = line_of(2, c0="", c1=None, c2="", c3="", c4="Grand Total:")
    valid, findings, layout = judged(book({"May": [list(HEADER), line_of(1), summed]}))
    assert (len(valid), findings) == (1, [])
    assert layout.left_out == ("May, row 3: Grand Total: | 4 | 12.5 | 50",)


def test_a_sheet_whose_names_are_written_otherwise_is_laid_out_alike(book):
    loud = [name.upper().replace(" ", "_") for name in HEADER]
    path = book({"Apr": [[*HEADER, "Note"], line_of(1)], "May": [[*loud, "NOTE"], line_of(2)]})
    valid, findings, layout = judged(path)
    assert (valid["invoice_number"].to_pylist(), findings) == (["INV-000001", "INV-000002"], [])
    assert layout.unread_sheets == ()


def other_sheets():
    """A sheet that is read, and others that are not: by their header, because they are hidden, as no table."""
    sink = io.BytesIO()
    sheets = {
        "Apr": [list(HEADER), line_of(1), line_of(2), ["Grand Total", "", "", "", "", 8.0]],
        "May": [[*HEADER, "Remark"], *(line_of(n) for n in (3, 4, 5))],
        "Cover": [["Mangalm"]],
        "Empty": [],
        "Old": [list(HEADER), line_of(6)],
        "Lists": [["Paid"], ["Open"]],
    }
    with xlsxwriter.Workbook(sink) as workbook:
        for name, table in sheets.items():
            sheet = workbook.add_worksheet(name)
            for at, row in enumerate(table):
                sheet.write_row(at, 0, [str(cell) for cell in row])
            if name in ("Old", "Lists"):
                sheet.hide()
    return sink.getvalue()


def test_the_receipt_and_its_page_name_the_sheets_and_rows_that_were_not_read(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url) as line:
        account = stages.take(line, drop(line, "book.xlsx", other_sheets()))
        page = (line.reports(account.batch_id) / "summary.html").read_text()
    assert (account.state, account.rows_inserted) == (State.LOADED, 2)
    told = (
        "All 2 rows are loaded. Not read, because laid out otherwise or hidden: sheet May (3 rows); Cover (1 row); "
        "Old (hidden, 1 row). Left out at the bottom, as totals or notes: Apr, row 4: Grand Total | 8.0."
    )
    assert account.reason == told
    assert told in page


def test_the_sheet_with_the_records_is_found_and_others_are_not_read(book):
    path = book(
        {"Cover": [["Mangalm"], ["Report"]], "Data": [list(HEADER), line_of(1)], "Notes": [["x", "y"]]}
    )
    valid, _, layout = judged(path)
    assert (len(valid), [sheet.name for sheet in layout.sheets]) == (1, ["Data"])


def test_of_sheets_with_as_many_names_one_with_rows_is_read(book):
    path = book({"May": [list(HEADER)], "June": [["", *HEADER], ["", *line_of(1)]]})
    merged = b'</sheetData><mergeCells><mergeCell ref="A1:A2"/></mergeCells>'
    for content in (
        path.read_bytes(),
        rewritten(path.read_bytes(), sheet1=lambda x: x.replace(b"</sheetData>", merged)),
    ):
        path.write_bytes(content)
        layout = recognise(path, PROFILES)
        assert (layout.sheets, layout.unread_sheets) == ((Sheet("June", 1, 2),), ("May (0 rows)",))


def test_all_sheets_that_are_laid_out_alike_are_read_and_each_row_names_its_sheet(book):
    sheets = {
        "Jan": [list(HEADER), line_of(1), line_of(2)],
        "Rates": [["SKU", "Rate"], ["x", 1]],
        "Feb": [["February"], list(HEADER), line_of(3), line_of(4, c0=""), ["Total", "", "", "", "", 8.0]],
    }
    valid, findings, layout = judged(book(sheets))
    assert layout.sheets == (Sheet("Jan", 1, 3), Sheet("Feb", 2, 4))
    assert valid["invoice_number"].to_pylist() == ["INV-000001", "INV-000002", "INV-000003"]
    (finding,) = findings
    assert (finding["row_number"], layout.place(finding["row_number"])) == (4, ("Feb", 4))


def test_a_sheet_can_be_stated_and_must_exist(book):
    sheets = {"Jan": [list(HEADER), line_of(1)], "Feb": [list(HEADER), line_of(2)]}
    path = book(sheets)
    valid, _, layout = judged(path, Overrides(sheet="Feb"))
    assert (valid["invoice_number"].to_pylist(), len(layout.sheets)) == (["INV-000002"], 1)
    assert "'Mar'" in refused(path, sheet="Mar").message


def test_hidden_sheets_and_charts_are_not_read(tmp_path):
    path = tmp_path / "x.xlsx"
    with xlsxwriter.Workbook(path) as workbook:
        shown, hidden = workbook.add_worksheet("Shown"), workbook.add_worksheet("Hidden")
        workbook.add_chartsheet("Chart")
        for sheet, number in ((shown, 1), (hidden, 2)):
            sheet.write_row(0, 0, HEADER)
            sheet.write_row(1, 0, good_row(number).values())
        hidden.hide()
    assert [sheet.name for sheet in judged(path)[2].sheets] == ["Shown"]


def test_merged_cells_of_a_header_give_each_column_its_name(tmp_path):
    path = tmp_path / "x.xlsx"
    with xlsxwriter.Workbook(path) as workbook:
        sheet = workbook.add_worksheet("S")
        for column, name in enumerate(HEADER):
            sheet.merge_range(1, column, 2, column, name)
        sheet.merge_range(1, 8, 1, 9, "Billing")
        sheet.write_row(2, 8, ["City", "State"])
        sheet.merge_range(0, 0, 0, 9, "All invoices of the year")
        sheet.write_row(3, 0, [*good_row(1).values(), "Pune", "Maharashtra"])
    valid, findings, layout = judged(path)
    assert findings == []
    assert layout.header == (*HEADER, "Billing City", "Billing State")
    assert layout.sheets == (Sheet("S", 3, 4),)
    (row,) = valid.select(["billing_city", "billing_state"]).to_pylist()
    assert row == {"billing_city": "Pune", "billing_state": "Maharashtra"}


@pytest.mark.parametrize("text", ["Please check all prices", ""])
def test_merged_cells_beside_a_table_cost_none_of_its_rows(tmp_path, text):
    path = tmp_path / "x.xlsx"
    with xlsxwriter.Workbook(path) as workbook:
        sheet = workbook.add_worksheet("May")
        sheet.merge_range("K1:M8", text)
        for at, row in enumerate([HEADER, *(good_row(number).values() for number in range(5))], start=2):
            sheet.write_row(at, 0, row)
    layout = recognise(path, PROFILES)
    assert (layout.sheets, len(cells(path, layout)[0])) == ((Sheet("May", 3, 8),), 5)


def test_days_numbers_and_identifiers_mean_what_the_sheet_shows(tmp_path):
    path = tmp_path / "x.xlsx"
    with xlsxwriter.Workbook(path) as workbook:
        sheet = workbook.add_worksheet("S")
        sheet.write_row(0, 0, [*HEADER, "Discount", "Invoice ID"])
        sheet.write_row(1, 0, good_row(1).values())
        evening = datetime(2024, 12, 31, 18, 30)  # noqa: DTZ001
        sheet.write_datetime(1, DAY, evening, workbook.add_format({"num_format": "d mmm"}))
        sheet.write_string(1, QUANTITY, " 1,000 ")
        sheet.write_number(1, PRICE, 0.1 + 0.2)
        sheet.write_formula(1, TOTAL, "=F2*G2", None, 300.00000000000006)
        sheet.write_number(1, 8, 0.125, workbook.add_format({"num_format": "0.0%"}))
        sheet.write_number(1, 9, 1234567890123456)
        sheet.write_row(2, 0, good_row(2).values())
        sheet.write_number(2, DAY, 45657)
        sheet.write_string(2, 9, "007")
    rows, _ = cells(path, recognise(path, PROFILES))
    first, second = rows[1], rows[2]
    assert first[DAY : DAY + 1] + first[QUANTITY:] == [
        *("2024-12-31 18:30:00", " 1,000 ", "0.3", "300", "12.5%", "1234567890123456")
    ]
    assert (second[DAY], second[9]) == ("45657", "007")
    valid, _, _ = judged(path)
    assert valid["invoice_date"].to_pylist() == [date(2024, 12, 31)] * 2


def test_days_counted_from_1904_are_read_and_bare_numbers_are_no_days_there(tmp_path):
    path = tmp_path / "x.xlsx"
    rows = [list(HEADER), line_of(1), line_of(2, c1=45657.0)]
    path.write_bytes(writers.xlsx_of({"S": rows}, date_1904=True))
    valid, findings, _ = judged(path)
    assert valid["invoice_date"].to_pylist() == [date(2024, 12, 31)]
    assert [finding["error_code"] for finding in findings] == ["INVALID_DATE"]


def test_errors_and_formulas_without_a_value_become_findings(tmp_path):
    path = tmp_path / "x.xlsx"
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.append(HEADER)
    for number in range(1, 6):
        sheet.append(line_of(number))
    sheet.cell(2, TOTAL + 1, "#N/A").data_type = "e"
    sheet.cell(3, 4 + 1, "#REF!").data_type = "e"
    sheet.cell(4, TOTAL + 1, "=F4*G4")
    workbook.save(path)
    _, findings, _ = judged(path)
    found = [(f["row_number"], f["column_name"], f["error_code"], f["raw_value"]) for f in findings]
    assert found == [
        (1, "Item Total", "SPREADSHEET_ERROR", "#N/A"),
        (2, "Item Name", "SPREADSHEET_ERROR", "#REF!"),
        (3, "Item Total", "SPREADSHEET_ERROR", "#CALC!"),
    ]


@pytest.mark.parametrize("kind", ["xls", "xlsb", "ods"])
def test_errors_in_every_kind_of_spreadsheet_become_findings(tmp_path, kind):
    table = [list(HEADER), *(list(good_row(number).values()) for number in range(1, 5))]
    table[1][TOTAL], table[2][4], table[2][0] = "#N/A", "#REF!", "#N/A"
    path = tmp_path / "x"
    path.write_bytes(getattr(writers, f"as_{kind}")(table))
    valid, findings, layout = judged(path)
    found = sorted((f["row_number"], f["column_name"], f["error_code"], f["raw_value"]) for f in findings)
    assert found == [
        (1, "Item Total", "SPREADSHEET_ERROR", "#N/A"),
        (2, "Invoice Number", "SPREADSHEET_ERROR", "#N/A"),
        (2, "Item Name", "SPREADSHEET_ERROR", "#REF!"),
    ]
    assert (layout.file_format, len(valid)) == (kind, 2)


SHOWN = ("Discount", "Invoice ID", "Billing Code", "Customer ID")


def shown_in(path):
    valid, findings, _ = judged(path)
    assert findings == []
    names = ("discount", "invoice_id", "billing_code", "customer_id")
    return [[row[name] for name in names] for row in valid.to_pylist()]


@pytest.mark.parametrize("kind", ["xlsx", "xls", "xlsb"])
def test_a_number_means_what_its_format_shows_in_every_kind_of_spreadsheet(tmp_path, kind):
    shares, codes = ("0.0%", "0.0%;-0.0%"), ("00000", '"C;"\\-000;@')
    cells = [
        [Formatted(0.125, shares[0]), Formatted(2134.0, codes[0]), "02134", Formatted(7.0, codes[1])],
        [Formatted(0.3, shares[1]), Formatted(1.5, codes[0]), "x", Formatted(12345.0, codes[1])],
        [Formatted(1.0, shares[0]), Formatted(-3.0, codes[0]), Formatted(3.0, '0.00" kg"'), "7"],
    ]
    table = [[*HEADER, *SHOWN], *([*good_row(at).values(), *row] for at, row in enumerate(cells))]
    path = tmp_path / "x"
    path.write_bytes(getattr(writers, f"as_{kind}")(table))
    assert shown_in(path) == [
        [Decimal("12.5"), "02134", "02134", "C;-007"],
        [Decimal(30), "1.5", "x", "C;-12345"],
        [Decimal(100), "-3", "3", "7"],
    ]


def test_a_percentage_in_ods_is_the_one_that_its_cell_shows(tmp_path):
    path = tmp_path / "x.ods"
    row = [*good_row(1).values(), Formatted(0.125, "0.0%"), "", "", ""]
    path.write_bytes(writers.as_ods([[*HEADER, *SHOWN], row]))
    assert shown_in(path) == [[Decimal("12.5"), None, None, None]]


def test_a_code_of_figures_in_ods_is_the_one_that_its_cell_shows(tmp_path):
    path = tmp_path / "x.ods"
    cells = [
        ["", Filled(2134, "", 5), "02134", Filled(7, "C-", 3)],
        ["", Filled(12345, "", 5), "x", Filled(12345, "C-", 3)],
        ["", Filled(3, "", 1), "3", Filled(-3, "", 3)],
    ]
    table = [[*HEADER, *SHOWN], *([*good_row(at).values(), *row] for at, row in enumerate(cells))]
    path.write_bytes(writers.as_ods(table))
    assert shown_in(path) == [
        [None, "02134", "02134", "C-007"],
        [None, "12345", "x", "C-12345"],
        [None, "3", "3", "-3"],
    ]


def test_words_stay_apart_at_tabs_and_line_breaks_in_ods(tmp_path):
    path = tmp_path / "x.ods"
    table = [list(HEADER), list(good_row(1, **{"Item Name": "Kaju_Katli^500 g"}).values())]
    with zipfile.ZipFile(io.BytesIO(writers.as_ods(table))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    gaps = (
        parts["content.xml"]
        .replace(b"_", b"<text:tab/>")
        .replace(b"^", b"<text:line-break></text:line-break>")
    )
    path.write_bytes(writers.zip_of(parts | {"content.xml": gaps}))
    valid, findings, _ = judged(path)
    assert (valid["item_name"].to_pylist(), findings) == (["Kaju\tKatli\n500 g"], [])


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ('table:formula="of:=A1" office:value-type="float" office:value="0"><text:p>#N/A</text:p>', "#N/A"),
        ('office:value-type="string" office:string-value=""><text:p>#REF!</text:p>', "#REF!"),
        (
            'office:value-type="percentage" office:value="0" calcext:value-type="error"><text:p>Err:502</text:p>',
            "#VALUE!",
        ),
        ('office:value-type="string"><text:p>#NV</text:p><text:p>Raipur</text:p>', "#NV\nRaipur"),
        ('table:formula="of:=1+1">', "#CALC!"),
        ('office:value="12345678901234567" office:value-type="float">', "12345678901234567"),
    ],
)
def test_what_a_float_cannot_hold_is_read_from_the_xml_of_ods(tmp_path, cell, shown):
    path = tmp_path / "x.ods"
    table = [HEADER, *([*good_row(at).values()] for at in range(3))]
    table[2][HEADER.index("SKU")] = "here"
    with zipfile.ZipFile(io.BytesIO(writers.as_ods(table))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    content = parts["content.xml"].replace(
        b'<table:table-cell office:value-type="string"><text:p>here</text:p>',
        f"<table:table-cell {cell}".encode(),
    )
    path.write_bytes(writers.zip_of(parts | {"content.xml": content}))
    rows, _ = cells(path, recognise(path, PROFILES))
    assert [row[HEADER.index("SKU")] for row in rows.values()] == ["KK-000", shown, "KK-002"]


def test_each_cell_of_a_run_in_xls_is_shown_in_its_own_style(tmp_path):
    path = tmp_path / "x.xls"
    first = [*good_row(1).values(), Formatted(0.5, "0%"), Formatted(1.0, "0000"), "", ""]
    run = writers.xls_run(2, len(HEADER), (1, 1), (42, 2), (42, 0))
    table = [[*HEADER, *SHOWN], first, list(good_row(2).values())]
    path.write_bytes(writers.as_xls(table, runs=run))
    assert shown_in(path)[1] == [Decimal(100), "0042", "42", None]


@pytest.mark.parametrize("named", [b"[A-Z]+[0-9]+", b"[A-Z]*[0-9]+"], ids=["cells", "rows and cells"])
def test_what_a_cell_shows_is_known_where_it_does_not_say_its_place(tmp_path, named):
    path = tmp_path / "x.xlsx"
    table = [[*HEADER, *SHOWN], [*good_row(1).values(), Formatted(0.125, "0.0%"), "", "", "x"]]
    nowhere = rewritten(writers.as_xlsx(table), sheet1=lambda sheet: re.sub(b' r="%b"' % named, b"", sheet))
    path.write_bytes(nowhere)
    assert shown_in(path)[0][0] == Decimal("12.5")


def test_texts_and_styles_are_found_by_whatever_name_a_workbook_gives_them(tmp_path):
    path = tmp_path / "x.xlsx"
    row = [*good_row(1).values(), Formatted(0.125, "0.0%"), "", "", ""]
    with zipfile.ZipFile(io.BytesIO(writers.as_xlsx([[*HEADER, *SHOWN], row]))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    texts, styles = parts.pop("xl/sharedStrings.xml"), parts.pop("xl/styles.xml")
    links = parts["xl/_rels/workbook.xml.rels"]
    links = links.replace(b"sharedStrings.xml", b"/xl/own/texts.xml").replace(b"styles.xml", b"looks.xml")
    own = {"xl/_rels/workbook.xml.rels": links, "xl/own/texts.xml": texts, "xl/looks.xml": styles}
    path.write_bytes(writers.zip_of(parts | own))
    assert shown_in(path) == [[Decimal("12.5"), None, None, None]]


def test_long_figures_in_a_sheet_keep_every_digit(tmp_path):
    path = tmp_path / "x.xlsx"
    numbers = ["9876543210987655", "12345678901234567", "123456789012345678901234"]
    table = [[*HEADER, "Invoice ID"], *([*good_row(at).values(), "1.5"] for at in range(3))]
    figures = iter(numbers)
    path.write_bytes(
        rewritten(
            writers.as_xlsx(table),
            sheet1=lambda sheet: re.sub(rb"<v>1\.5<", lambda _: f"<v>{next(figures)}<".encode(), sheet),
        )
    )
    valid, findings, _ = judged(path)
    assert (valid["invoice_id"].to_pylist(), findings) == (numbers, [])


@pytest.mark.parametrize("kind", ["xls", "xlsb"])
def test_bare_numbers_are_no_days_in_any_workbook_that_counts_from_1904(tmp_path, kind):
    path = tmp_path / "x"
    row = [Formatted(45657.0, "yyyy-mm-dd") if at == DAY else cell for at, cell in enumerate(line_of(1))]
    table = [list(HEADER), [str(c) if isinstance(c, float) else c for c in row], list(good_row(2).values())]
    path.write_bytes(getattr(writers, f"as_{kind}")(table, starts_in_1904=True))
    valid, findings, _ = judged(path)
    assert valid["invoice_date"].to_pylist() == [date(2029, 1, 1)]
    assert [(f["row_number"], f["error_code"]) for f in findings if f["severity"] == "error"] == [
        (2, "INVALID_DATE")
    ]


def test_a_cell_beyond_the_header_is_reported_and_not_lost(book):
    path = book({"May": [list(HEADER), line_of(1), [*line_of(2), "", "see mail"], line_of(3)]})
    rows, damaged = cells(path, recognise(path, PROFILES))
    assert sorted(rows) == [1, 3]
    assert damaged[2].code == "WRONG_FIELD_COUNT"
    assert "Row 3 of the sheet 'May'" in damaged[2].message
    assert damaged[2].raw_text.endswith("see mail")


CELL = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=10)
    | st.integers(-(10**14), 10**14)
    | st.floats(-1e9, 1e9).map(lambda value: round(value, 4))
    | st.booleans()
    | st.dates(date(1901, 1, 1), date(2100, 1, 1))
    | st.none()
)


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=25),
    rows_of_part=st.sampled_from([1, 3, 1_000]),
    block=st.sampled_from([200, 1 << 20]),
    writer=st.sampled_from(["xlsxwriter", "openpyxl"]),
)
def test_each_cell_of_a_sheet_comes_out_as_it_was_written(
    tmp_path_factory, table, rows_of_part, block, writer
):
    path = tmp_path_factory.getbasetemp() / "cells.xlsx"
    table = [["a", "b", "c"], *table, ["end", 1, 1]]
    if writer == "xlsxwriter":
        path.write_bytes(writers.xlsx_of({"S": table}))
    else:
        workbook = openpyxl.Workbook()
        for row in table:
            # A text that begins with "=" would be a formula there.
            workbook.active.append([f"x{v}" if str(v).startswith("=") else v for v in row])
        workbook.save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet_cutter, "ROWS_OF_PART", rows_of_part)
        patch.setattr(sheet_cutter, "_BLOCK", block)
        layout = recognise_loosely(path)
        rows, damaged = cells(path, layout, 7)
    first = layout.sheets[0].header_row + 1
    wanted = {
        at - first + 1: [shown(value, writer) for value in row]
        for at, row in enumerate(table, start=1)
        if at >= first and any(shown(value, writer) for value in row)
    }
    assert damaged == {}
    assert {n: [cell or None for cell in row] for n, row in rows.items()} == wanted


def shown(value, writer):
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else f"{Decimal(f'{value:.15g}'):f}"
    text = "" if value is None else str(value)
    # openpyxl does not say of blanks alone that they are to be kept.
    if not (text.strip(" ") if writer == "openpyxl" else text):
        return None
    return f"x{text}" if writer == "openpyxl" and text.startswith("=") else text


# Emptiness and hostility


def rewritten(content, **parts):
    """The workbook with some parts changed by functions of bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(sink, "w", 8) as target:
        for name in source.namelist():
            change = parts.get(name.rsplit("/")[-1].split(".")[0], lambda part: part)
            target.writestr(name, change(source.read(name)))
    return sink.getvalue()


SMALL = writers.xlsx_of({"S": [list(HEADER), line_of(1), line_of(2)]})


def test_a_million_formatted_rows_without_values_cost_nothing(tmp_path):
    empty = b"".join(b'<row r="%d" s="1" ht="15"/>' % n for n in range(4, 600_001))
    styled = b"".join(b'<row r="%d"><c r="A%d" s="1"/></row>' % (n, n) for n in range(600_001, 1_048_577))
    path = tmp_path / "x.xlsx"
    path.write_bytes(
        rewritten(SMALL, sheet1=lambda x: x.replace(b"</sheetData>", empty + styled + b"</sheetData>"))
    )
    valid, findings, layout = judged(path)
    assert (len(valid), findings, layout.sheets[0].last_row) == (2, [], 3)


@pytest.mark.parametrize("value", [b' t="str"><f>""</f><v></v>', b"><v></v>"], ids=["blank", "nothing"])
def test_records_above_many_formulas_that_show_nothing_are_read(tmp_path, value):
    below = b"".join(b'<row r="%d"><c r="A%d"%b</c></row>' % (n, n, value) for n in range(4, 64))
    path = tmp_path / "x.xlsx"
    path.write_bytes(rewritten(SMALL, sheet1=lambda x: x.replace(b"</sheetData>", below + b"</sheetData>")))
    valid, findings, _ = judged(path)
    assert (len(valid), findings) == (2, [])


def test_cells_in_the_corners_of_a_sheet_take_no_room_between_them(tmp_path):
    far = b'<row r="1048576"><c r="A1048576" t="str"><v>INV-9</v></c></row></sheetData>'
    path = tmp_path / "x.xlsx"
    path.write_bytes(rewritten(SMALL, sheet1=lambda x: x.replace(b"</sheetData>", far)))
    rows, _ = cells(path, recognise(path, PROFILES))
    assert sorted(rows) == [1, 2, 1_048_575]
    corner = far.replace(b"A1048576", b"XFD1048576")
    path.write_bytes(rewritten(SMALL, sheet1=lambda x: x.replace(b"</sheetData>", corner)))
    assert refused(path).code == "TOO_MANY_COLUMNS"


@pytest.mark.parametrize("part", ["sheet1", "sharedStrings", "workbook", "styles"])
def test_xml_that_declares_entities_is_refused(tmp_path, part):
    lol = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    path = tmp_path / "x.xlsx"
    path.write_bytes(rewritten(SMALL, **{part: lambda x: x.replace(b"?>", b"?>" + lol, 1)}))
    finding = refused(path)
    assert finding.code == "UNSAFE_ARCHIVE"
    assert "entities" in finding.message


@pytest.mark.parametrize(
    ("part", "change", "code"),
    [
        ("sheet1", lambda x: x[: len(x) // 2], "DAMAGED_FILE"),
        ("sheet1", lambda x: x.replace(b'<row r="3"', b'<row r="1"'), "DAMAGED_FILE"),
        ("sheet1", lambda x: x.replace(b'<row r="3"', b'<row r="2000000"'), "DAMAGED_FILE"),
        ("sheet1", lambda x: x.replace(b"<sheetData>", b"<nothing>"), "DAMAGED_FILE"),
        ("workbook", lambda x: x[:100], "DAMAGED_FILE"),
        ("sharedStrings", lambda x: x + b"<si><t>x</t></si>" * 7_000_000, "TOO_LARGE_INSIDE"),
        (
            "sheet1",
            lambda x: x.replace(b"</sheetData>", b'<row r="9"><c r="A9" t="str"><v>' + b"x" * (20 << 20)),
            "LINE_TOO_LONG",
        ),
    ],
    ids=["half", "disorder", "too far down", "no rows", "workbook", "texts", "a huge cell"],
)
def test_a_damaged_or_swollen_workbook_is_refused(tmp_path, part, change, code):
    path = tmp_path / "x.xlsx"
    path.write_bytes(rewritten(SMALL, **{part: change}))
    assert refused(path).code == code


def test_a_workbook_as_other_programs_write_it_is_read(tmp_path):
    """With a prefix of names, single quotation marks, and rows and cells that do not say where they are."""

    def other(sheet):
        sheet = re.sub(rb' (?:r|spans)="[A-Z]*[0-9:]+"', b"", sheet)
        sheet = re.sub(rb"<(/?)(worksheet|sheetData|row|c|v)\b", rb"<\1x:\2", sheet)
        return sheet.replace(b'xmlns="http', b'xmlns:x="http', 1).replace(b't="s"', b"t='s'")

    path = tmp_path / "x.xlsx"
    path.write_bytes(rewritten(SMALL, sheet1=other))
    valid, findings, _ = judged(path)
    assert (len(valid), findings) == (2, [])


KILLED = """
import os, signal, sys
from pathlib import Path
from bulk_upload_pipeline.reading.sheet_blocks import open_book

with open_book(Path(sys.argv[1]), "xlsx", "gzip", None):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_unpacked_is_removed_by_the_next_one(book, tmp_path, monkeypatch):
    packed, folder = tmp_path / "book.xlsx.gz", tmp_path / "temporary"
    packed.write_bytes(gzip.compress(book({"Sheet": [HEADER, line_of(1)]}).read_bytes()))
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", KILLED, str(packed)], env={**os.environ, "TMPDIR": str(folder)}, check=False
    )
    assert [path for path in folder.rglob("*") if path.name in ("content", "base.xlsx")]
    for lock in folder.glob("*.lock"):
        os.utime(lock, (0, 0))

    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    layout = recognise(packed, PROFILES)
    assert layout.profile == "zoho"
    assert list(folder.iterdir()) == []
