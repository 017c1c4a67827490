"""Rejected rows of a spreadsheet come back as a spreadsheet: `rejected_rows.xlsx`."""

from __future__ import annotations

import csv

import openpyxl
import pytest
from click.testing import CliRunner

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import rejects, report
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.origin import OWN_COLUMNS
from bulk_upload_pipeline.reporting import rejected_sheet
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.correcting import TARGET, in_target, load, rejected, resolutions
from bulk_upload_pipeline_tests.test_senders import dropped, profile
from bulk_upload_pipeline_tests.world import HEADER, count, csv_of, drop, good_row, receipt, rows

SETTINGS = {"chunk_rows": 7}

COLUMNS = "\n".join(f'{name.lower().replace(" ", "_")} = ["{name}"]' for name in HEADER)
OTHER = (*HEADER, "Remark")


def values(row):
    return [writers.typed(cell) for cell in row.values()]


def book_of(bad, good=20, sheet="May"):
    """A workbook with a title, good rows, and bad rows with remarks behind them."""
    lines = [values(good_row(number)) for number in range(1, good + 1)]
    return writers.xlsx_of({sheet: [["Sales"], list(OTHER), *lines, *bad]})


def sheet_of(path):
    """Rows of a workbook as openpyxl has them: header, then each row by column."""
    book = openpyxl.load_workbook(path)
    header, *found = book.active.iter_rows(values_only=True)
    return book.active.title, header, [dict(zip(header, row, strict=True)) for row in found]


def as_workbook(found, header=None, sheet="Sheet1"):
    book = openpyxl.Workbook()
    book.active.title = sheet
    header = header or list(found[0])
    book.active.append(header)
    for row in found:
        book.active.append([row[name] for name in header])
        for cell in book.active[book.active.max_row]:
            # openpyxl would make a formula of a text that begins so.
            cell.data_type = "s" if isinstance(cell.value, str) else cell.data_type
    return book


def saved(book, path):
    book.save(path)
    return path.read_bytes()


HOSTILE = [
    [*values(good_row(90, **{"Invoice Number": "0091", "Quantity": "x"})), "=HYPERLINK(1)"],
    [*values(good_row(91, **{"Invoice Number": "1234567890123456", "Quantity": "y"})), "-5"],
    [*values(good_row(92, Quantity="z")), "http://example.com/\n'quoted"],
]


def test_rejected_rows_of_a_workbook_come_as_texts_in_its_columns_and_load_when_corrected(line, tmp_path):
    parent = load(line, "may.xlsx", book_of(HOSTILE))
    assert (parent.state, parent.rows_inserted) == (State.PARTIALLY_LOADED, 20)
    assert "Correct them in rejected_rows.xlsx" in parent.reason
    folder = line.reports(parent.batch_id)
    page = (folder / "summary.html").read_text("utf-8")
    assert 'href="rejected_rows.xlsx"' in page
    assert "Row 23 of the sheet" in page
    title, header, found = sheet_of(folder / "rejected_rows.xlsx")
    assert (title, header) == ("May", (*OTHER, *OWN_COLUMNS))
    assert [row["_row_number"] for row in found] == ["21", "22", "23"]
    assert [row["Invoice Number"] for row in found] == ["0091", "1234567890123456", "INV-000092"]
    assert [row["Remark"] for row in found] == ["'=HYPERLINK(1)", "-5", "http://example.com/\n'quoted"]
    assert found[0]["_errors"].startswith("row 23 of the sheet 'May': ")
    with (folder / "rejected_rows.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [[cell or None for cell in row] for row in csv.reader(file)][1:] == [
            list(row.values()) for row in found
        ]
    # The clerk types numbers over the texts, moves a column, and leaves the last row.
    fixed = [found[0] | {"Quantity": 4}, found[1] | {"Quantity": "4"}]
    child = load(line, "fixed.xlsx", saved(as_workbook(fixed, list(reversed(header))), tmp_path / "x.xlsx"))
    assert (child.state, child.rows_read, child.parent_batch_id) == (State.LOADED, 2, parent.batch_id)
    assert [row for row in in_target(line) if row[4] == child.batch_id] == [
        ("0091", "KK-040", 1, 4, child.batch_id, 21),
        ("1234567890123456", "KK-041", 1, 4, child.batch_id, 22),
    ]
    query = f"SELECT extra->>'Remark' FROM {TARGET} WHERE upload_batch_id = :b ORDER BY row_number"
    assert rows(line, query, b=child.batch_id) == [("=HYPERLINK(1)",), ("-5",)]
    assert resolutions(line, parent.batch_id) == {21: child.batch_id, 22: child.batch_id, 23: None}
    _, _, left = sheet_of(folder / "rejected_rows.xlsx")
    assert left == [found[2]]
    load(line, "fixed.csv", csv_of([left[0] | {"Quantity": "4"}], header))
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert not (folder / "rejected_rows.xlsx").exists()
    assert count(line, TARGET) == 23


@pytest.mark.parametrize("kind", ["xls", "xlsb", "ods"])
def test_every_kind_of_spreadsheet_has_its_rejected_rows_as_a_sheet(line, kind):
    table = [HEADER, *(list(good_row(number).values()) for number in range(1, 6))]
    table[3][HEADER.index("Quantity")] = "x"
    parent = load(line, f"a.{kind}", getattr(writers, f"as_{kind}")(table))
    path = line.reports(parent.batch_id) / "rejected_rows.xlsx"
    (row,) = sheet_of(path)[2]
    assert (row["Quantity"], row["_row_number"]) == ("x", "3")
    content = path.read_bytes()
    # Dropped again as it is, it is a correction that corrects nothing.
    child = load(line, "same.xlsx", content)
    assert (child.parent_batch_id, child.state, child.rows_read) == (parent.batch_id, State.REJECTED, 1)


def test_a_csv_has_no_sheet_of_its_rejected_rows(line):
    parent = load(line, "a.csv", csv_of([*(good_row(n) for n in range(1, 6)), good_row(6, Quantity="x")]))
    assert not (line.reports(parent.batch_id) / "rejected_rows.xlsx").exists()


def test_a_correction_dropped_in_the_folder_of_a_sender_whose_sheet_has_a_name_is_taken(line):
    profile(line, 'title = "Acme"\nsheet = "May"\n[columns]\n' + COLUMNS)
    parent = dropped(line, "may.xlsx", book_of(HOSTILE[:1]))
    assert (parent.profile, parent.rows_rejected) == ("mine", 1)
    content = (line.reports(parent.batch_id) / "rejected_rows.xlsx").read_bytes()
    child = dropped(line, "rejected_rows.xlsx", content)
    assert child.parent_batch_id == parent.batch_id


def test_a_corrected_row_at_the_bottom_of_a_sheet_is_no_total_though_a_cell_says_so(line):
    header = [*HEADER, "Brand"]
    bad = good_row(90, Quantity="x", Brand="Total")
    parent = load(line, "parent.csv", csv_of([good_row(1), good_row(2), bad], header))
    (row,) = rejected(line, parent.batch_id)
    table = [list(row), list((row | {"Quantity": "4"}).values()), ["Total", *[""] * (len(row) - 2), "1"]]
    child = load(line, "fixed.xlsx", writers.xlsx_of({"rejected_rows": table}))
    assert (child.state, child.rows_inserted) == (State.LOADED, 1), child.reason
    assert "Left out at the bottom, as totals or notes: rejected_rows, row 3: Total | 1." in child.reason


def test_a_row_with_a_cell_beyond_the_header_can_be_corrected_in_its_one_cell(line, tmp_path):
    parent = load(line, "may.xlsx", book_of([[*values(good_row(90)), "", "beyond"]]))
    (row,) = sheet_of(line.reports(parent.batch_id) / "rejected_rows.xlsx")[2]
    text = row["Invoice Number"]
    assert text.endswith("\tbeyond")
    fixed = row | {"Invoice Number": text.removesuffix("\tbeyond")}
    child = load(line, "fixed.xlsx", saved(as_workbook([fixed]), tmp_path / "x.xlsx"))
    assert (child.state, child.rows_inserted) == (State.LOADED, 1)


def test_too_many_rejected_rows_for_a_person_have_no_sheet(line, monkeypatch):
    monkeypatch.setattr(report, "MOST_ROWS_OF_SHEET", 2)
    parent = load(line, "may.xlsx", book_of(HOSTILE))
    assert "Correct them in rejected_rows.csv" in parent.reason
    assert not (line.reports(parent.batch_id) / "rejected_rows.xlsx").exists()
    assert (line.reports(parent.batch_id) / "rejected_rows.csv").exists()


def test_a_row_that_no_sheet_can_hold_stands_in_the_csv_only(tmp_path):
    source = tmp_path / "rejected_rows.csv"
    names = ("A", "B", *OWN_COLUMNS)
    long = "x" * 200_000
    table = [dict.fromkeys(names, "1"), dict.fromkeys(names, "2") | {"B": long}, dict.fromkeys(names, long)]
    table.append(dict.fromkeys(names, "4") | {"_errors": long})
    source.write_text(csv_of(table, names), "utf-8-sig")
    rejected_sheet.write(source, tmp_path / "x.xlsx", {})
    found = sheet_of(tmp_path / "x.xlsx")[2]
    assert [(row["A"], row["_errors"]) for row in found] == [("1", "1"), ("4", "x" * 32_767)]


def test_findings_name_the_sheet_and_its_row_wherever_they_are_shown(line):
    jan = [list(HEADER), *(values(good_row(number)) for number in range(1, 9))]
    feb = [["February"], list(HEADER), values(good_row(9)), values(good_row(10, Quantity="x"))]
    batch_id = drop(line, "x.xlsx", writers.xlsx_of({"Jan": jan, "Feb's": feb}))
    stages.take(line, batch_id)
    (code,) = rejects.by_code(line.engine, batch_id)
    assert (code.example_row, code.where) == (10, "row 4 of the sheet 'Feb's'")
    (finding,) = rejects.first(line.engine, batch_id, 5)
    assert (finding["sheet"], finding["sheet_row"]) == ("Feb's", 4)
    folder = line.reports(batch_id)
    with (folder / "findings.csv").open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["row_number"], row["sheet"], row["sheet_row"]) == ("10", "Feb's", "4")
    assert "row 4 of the sheet" in report.in_words(receipt(line, batch_id), [code])
    (rejected,) = sheet_of(folder / "rejected_rows.xlsx")[2]
    assert rejected["_errors"].startswith("row 4 of the sheet 'Feb's': ")


def test_errors_writes_the_sheet_and_names_the_place_of_its_examples(
    line, database_url, monkeypatch, tmp_path
):
    parent = load(line, "may.xlsx", book_of(HOSTILE))
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(line.home.root))
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", database_url)
    result = CliRunner().invoke(main, ["errors", parent.batch_id, "--xlsx", str(tmp_path / "mine.xlsx")])
    assert result.exit_code == 0, result.output
    assert "row 23 of the sheet 'May': " in result.output
    assert (
        sheet_of(tmp_path / "mine.xlsx")[1:]
        == sheet_of(line.reports(parent.batch_id) / "rejected_rows.xlsx")[1:]
    )
