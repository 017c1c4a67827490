"""The correction loop: rejected rows come back corrected and load as the lines that they always were."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import rejects
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.correcting import (
    BAD,
    ERRORS,
    TARGET,
    as_csv,
    as_sheet,
    found_codes,
    in_target,
    load,
    rejected,
    resolutions,
    with_bad,
)
from bulk_upload_pipeline_tests.world import HEADER, count, csv_of, drop, good_row, line_at, receipt, rows

SETTINGS = {"chunk_rows": 7}


def test_corrected_rows_load_as_the_lines_that_they_were_and_resolve_their_findings(line):
    parent = with_bad(line, BAD, good_row(91, Quantity="y"), good_row(92, Quantity="z"))
    assert parent.state is State.PARTIALLY_LOADED
    first, second, third = rejected(line, parent.batch_id)
    fixed = [first | {"Quantity": "4"}, second | {"Quantity": "4"}]
    child = load(line, "fixed.csv", as_csv(fixed))
    assert (child.state, child.rows_read, child.rows_inserted) == (State.LOADED, 2, 2)
    assert child.parent_batch_id == parent.batch_id
    brought = [row for row in in_target(line) if row[4] == child.batch_id]
    assert brought == [
        ("INV-000090", "KK-040", 1, 4, child.batch_id, 21),
        ("INV-000091", "KK-041", 1, 4, child.batch_id, 22),
    ]
    assert resolutions(line, parent.batch_id) == {21: child.batch_id, 22: child.batch_id, 23: None}
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_rejected, after.rows_corrected) == (State.PARTIALLY_LOADED, 3, 2)
    assert "22 of 23 rows are loaded, 2 of them as corrected, 1 is rejected" in after.reason
    assert after.finished_at == parent.finished_at
    assert rejected(line, parent.batch_id) == [third]
    last = load(line, "fixed again.csv", as_csv([third | {"Quantity": "4"}]))
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected, after.findings_by_code) == (State.LOADED, 3, {})
    assert not (line.reports(parent.batch_id) / "rejected_rows.csv").exists()
    assert resolutions(line, parent.batch_id)[23] == last.batch_id
    assert count(line, TARGET) == 23


def test_the_receipt_of_the_first_batch_follows_even_when_its_correction_was_cut_off_before(
    line, monkeypatch
):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = drop(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_close_loaded", cut_off)
        with pytest.raises(KeyboardInterrupt):
            stages.take(line, child)
    assert resolutions(line, parent.batch_id) == {21: child}
    stages.take(line, child)
    assert receipt(line, child).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


def test_rows_that_are_still_wrong_come_back_and_a_third_round_resolves_all_the_way_up(line):
    parent = with_bad(line, BAD, good_row(91, Quantity="y"))
    one, two = rejected(line, parent.batch_id)
    child = load(line, "round 1.csv", as_csv([one | {"Quantity": "4"}, two | {"Quantity": "0"}]))
    assert (child.state, child.rows_inserted, child.rows_rejected) == (State.PARTIALLY_LOADED, 1, 1)
    assert found_codes(line, child.batch_id) == [(22, "ZERO_QUANTITY")]
    assert found_codes(line, parent.batch_id) == [(22, "INVALID_NUMBER")]
    (again,) = rejected(line, child.batch_id)
    assert (again["_batch_id"], again["_row_number"]) == (child.batch_id, "22")
    grandchild = load(line, "round 2.csv", as_csv([again | {"Quantity": "five"}]))
    assert grandchild.state is State.REJECTED
    (again,) = rejected(line, grandchild.batch_id)
    last = load(line, "round 3.csv", as_csv([again | {"Quantity": "4"}]))
    assert last.state is State.LOADED
    for batch_id in (parent.batch_id, child.batch_id, grandchild.batch_id):
        assert found_codes(line, batch_id) == []
        assert resolutions(line, batch_id)[22] == last.batch_id
        assert rejected(line, batch_id) == []
    assert receipt(line, child.batch_id).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert in_target(line)[-1] == ("INV-000091", "KK-041", 1, 4, last.batch_id, 22)


def test_a_correction_that_comes_back_as_it_was_is_told_so_and_not_taken_for_a_wrong_file(line):
    parent = with_bad(line, BAD, good_row(91, Quantity="y"))
    child = load(line, "unchanged.csv", as_csv(rejected(line, parent.batch_id)))
    assert child.state is State.REJECTED
    assert child.reason == (
        'None of its 2 rows is right yet, most often for "Not a number" (2). The column `_errors` says why. '
        "Correct them in rejected_rows.csv and drop that file in the inbox."
    )


def test_a_clerk_may_drop_the_same_file_again_with_more_rows_corrected(line):
    parent = with_bad(line, BAD, good_row(91, Quantity="y"))
    one, two = rejected(line, parent.batch_id)
    one["Quantity"] = "4"
    load(line, "half.csv", as_csv([one, two]))
    child = load(line, "whole.csv", as_csv([one, two | {"Quantity": "4"}]))
    assert (child.state, child.rows_inserted, child.rows_unchanged) == (State.LOADED, 1, 1)
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert count(line, TARGET) == 22


def test_an_invoice_number_without_its_last_digits_takes_no_other_lines_place(line):
    rounded = {"Invoice Number": "4.00638E+12"}
    parents = [with_bad(line, good_row(at, **rounded)) for at in (90, 91)]
    assert [parent.findings_by_code for parent in parents] == [{"ROUNDED_IDENTIFIER": 1}] * 2
    for parent, number in zip(parents, ("4006381333931", "4006381333948"), strict=True):
        (row,) = rejected(line, parent.batch_id)
        assert load(line, "saved again.csv", as_csv([row])).state is State.REJECTED
        assert load(line, "typed.csv", as_csv([row | {"Invoice Number": number}])).state is State.LOADED
    standing = rows(line, f"SELECT invoice_number FROM {TARGET} WHERE invoice_number LIKE '4%' ORDER BY 1")
    assert standing == [("4006381333931",), ("4006381333948",)]


def test_formulas_come_back_as_they_were(line):
    hostile = {"Item Name": "=SUM(A1)", "Customer Name": "'quoted", "SKU": "-x"}
    header = (*HEADER, "=Note", "Memo")
    bad = good_row(90, Quantity="x", **hostile, **{"=Note": "@a", "Memo": "\ttab"})
    parent = with_bad(line, bad, header=header)
    (row,) = rejected(line, parent.batch_id)
    assert (row["Item Name"], row["Customer Name"], row["SKU"]) == ("'=SUM(A1)", "''quoted", "'-x")
    assert (row["'=Note"], row["Memo"]) == ("'@a", "'\ttab")
    load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    query = f"SELECT item_name, customer_name, sku, extra FROM {TARGET} WHERE invoice_number = 'INV-000090'"
    expected = ("=SUM(A1)", "'quoted", "-x", {"=Note": "@a", "Memo": "\ttab"})
    assert rows(line, query) == [expected]


def test_no_cell_of_a_report_is_run_as_a_formula_by_a_spreadsheet(line):
    header = ["=Quantity", *(name for name in HEADER if name != "Quantity")]
    bad = good_row(90) | {
        "=Quantity": '=HYPERLINK("http://evil","x")',
        "Item Price": "-x",
        "Invoice Date": "@a",
    }
    good = [good_row(number) for number in range(1, 20)]
    table = [{"=Quantity": row["Quantity"]} | row for row in good] + [bad]
    batch = load(line, "hostile.csv", as_csv([{name: row[name] for name in header} for row in table]))
    with (line.reports(batch.batch_id) / "findings.csv").open(encoding="utf-8-sig", newline="") as file:
        found = {row["column"]: row for row in csv.DictReader(file)}
    assert found["'=Quantity"]["value"] == """'=HYPERLINK("http://evil","x")"""
    assert found["'=Quantity"]["message"].startswith("'=Quantity is =HYPERLINK")
    assert (found["Item Price"]["value"], found["Invoice Date"]["value"]) == ("'-x", "'@a")
    (row,) = rejected(line, batch.batch_id)
    assert row["_errors"].startswith("'=Quantity is ")


def test_equal_lines_keep_their_places(line):
    same = good_row(1)
    parent = load(line, "parent.csv", csv_of([same, same | {"Quantity": "x"}, same, good_row(2)]))
    (row,) = rejected(line, parent.batch_id)
    assert row["_line_occurrence"] == "2"
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    assert [row[2:5] for row in in_target(line) if row[0] == "INV-000001"] == [
        (1, 4, parent.batch_id),
        (2, 4, child.batch_id),
        (3, 4, parent.batch_id),
    ]


def test_a_row_whose_invoice_number_was_missing_overwrites_no_line_of_that_invoice(line):
    header = ["Invoice Number", *HEADER[1:]]
    lost = [good_row(1, **{"Invoice Number": ""}), good_row(1, **{"Invoice Number": ""})]
    parent = load(line, "parent.csv", csv_of([good_row(1), *lost, good_row(2), good_row(3)], header))
    one, two = rejected(line, parent.batch_id)
    named = {"Invoice Number": "INV-000001", "Item Name": "The lost one"}
    first = load(line, "fixed.csv", as_csv([one | named]))
    second = load(line, "fixed too.csv", as_csv([two | named]))
    assert [row[2:] for row in in_target(line) if row[0] == "INV-000001"] == [
        (1, 4, parent.batch_id, 1),
        (2, 4, first.batch_id, 2),
        (3, 4, second.batch_id, 3),
    ]
    again = load(line, "both.csv", as_csv([two | named, one | named]))
    assert (again.rows_unchanged, again.rows_read) == (2, 2)


def test_a_loaded_row_is_not_loaded_a_second_time_as_a_line_of_another_invoice(line):
    parent = with_bad(line, good_row(1, **{"Invoice Number": ""}))
    (row,) = rejected(line, parent.batch_id)
    first = load(line, "fixed.csv", as_csv([row | {"Invoice Number": "INV-8"}]))
    second = load(line, "other.csv", as_csv([row | {"Invoice Number": "INV-9"}]))
    assert second.state is State.REJECTED
    assert found_codes(line, second.batch_id) == [(21, "ALREADY_CORRECTED")]
    assert first.batch_id in rejected(line, second.batch_id)[0]["_errors"]
    stages.revert(line, first.batch_id)
    third = load(line, "other again.csv", as_csv([row | {"Invoice Number": "INV-9"}]))
    assert third.state is State.LOADED
    assert [row[0] for row in in_target(line) if row[5] == 21] == ["INV-9"]


def test_a_damaged_record_is_corrected_in_its_one_cell_or_over_all_columns(line):
    text = csv_of(good_row(n) for n in range(1, 11))
    text += "INV-A,2024-12-31,Sharma Sweets,S-1,Kaju, Katli,4,12.50,50.00\n"
    text += 'INV-B,2024-12-31,Sharma Sweets,S-1,"Kaju Katli,4,12.50,50.00\n'
    parent = load(line, "parent.csv", text)
    one, two = rejected(line, parent.batch_id)
    assert one["Invoice Number"].startswith("INV-A,2024")
    one["Invoice Number"] = 'INV-A,2024-12-31,Sharma Sweets,S-1,"Kaju, Katli",4,12.50,50.00'
    spread = dict(
        zip(
            HEADER,
            ["INV-B", "2024-12-31", "Sharma Sweets", "S-1", "Kaju Katli", "4", "12.50", "50.00"],
            strict=True,
        )
    )
    child = load(line, "fixed.csv", as_csv([one, two | spread]))
    assert (child.state, child.rows_inserted) == (State.LOADED, 2), found_codes(line, child.batch_id)
    names = rows(line, f"SELECT item_name, row_number FROM {TARGET} WHERE row_number > 10 ORDER BY 2")
    assert names == [("Kaju, Katli", 11), ("Kaju Katli", 12)]
    untouched = load(
        line, "untouched.csv", as_csv([rejected(line, parent.batch_id) or one | {"Invoice Number": "a,b"}])
    )
    assert found_codes(line, untouched.batch_id) == [(11, "WRONG_FIELD_COUNT")]


def test_a_damaged_record_that_is_spread_and_left_in_its_cell_as_well_is_no_invoice_number(line):
    parent = load(line, "parent.csv", csv_of(good_row(n) for n in range(1, 11)) + "INV-A,S-1,Kaju, Katli,4\n")
    (row,) = rejected(line, parent.batch_id)
    spread = {name: cell for name, cell in good_row(11).items() if name != "Invoice Number"}
    child = load(line, "spread.csv", as_csv([row | spread]))
    assert (child.rows_inserted, child.findings_by_code) == (0, {"WRONG_FIELD_COUNT": 1})
    (back,) = rejected(line, child.batch_id)
    assert (back["Invoice Number"], back["SKU"]) == (row["Invoice Number"], "KK-011")
    assert load(line, "whole.csv", as_csv([back | {"Invoice Number": "INV-A"}])).state is State.LOADED


def test_a_damaged_record_of_a_json_file_is_asked_for_as_cells(line):
    records = [json.dumps(good_row(n)) for n in range(1, 6)]
    parent = load(line, "parent.jsonl", "\n".join([*records, '{"Invoice Number": "A", "Quantity": }']))
    (row,) = rejected(line, parent.batch_id)
    untouched = load(line, "untouched.csv", as_csv([row]))
    assert untouched.findings_by_code == {"DAMAGED_RECORD": 1}
    (back,) = rejected(line, untouched.batch_id)
    assert back["Invoice Number"] == row["Invoice Number"]
    assert load(line, "spread.csv", as_csv([back | good_row(6)])).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


def test_names_of_json_that_begin_or_end_with_a_blank_are_found_in_its_correction(line):
    bad = [good_row(6, Quantity="x"), good_row(7, Quantity="x")]
    records = [
        {f"{name} ": cell for name, cell in row.items()} | {" Note": "n"} for row in (good_row(1), *bad)
    ]
    parent = load(line, "parent.json", json.dumps([*records, *records[:1] * 3]))
    found = rejected(line, parent.batch_id)
    wrong = load(line, "wrong.csv", as_csv([row | {"Quantity ": "y"} for row in found]))
    child = load(
        line, "fixed.csv", as_csv([row | {"Quantity ": "4"} for row in rejected(line, wrong.batch_id)])
    )
    assert (child.state, child.rows_inserted) == (State.LOADED, 2), child.reason
    assert rows(line, f"SELECT DISTINCT extra, quantity FROM {TARGET}") == [({" Note": "n"}, 4)]


def test_rows_of_two_batches_in_one_correction_do_not_count_as_one_row_twice(line):
    first, second = (
        load(line, f"{n}.csv", csv_of([good_row(n), good_row(n + 1), good_row(n + 2, Quantity="x")]))
        for n in (1, 11)
    )
    both = [*rejected(line, first.batch_id), *rejected(line, second.batch_id)]
    child = load(line, "both.csv", as_csv([row | {"Quantity": "4"} for row in both]))
    assert (child.rows_inserted, child.findings_by_code) == (1, {"NO_ORIGIN": 1})
    assert {receipt(line, each.batch_id).state for each in (first, second)} == {
        State.LOADED,
        State.PARTIALLY_LOADED,
    }


def test_rows_that_cannot_be_laid_over_rejected_ones_are_findings(line):
    other = load(line, "other.csv", csv_of([good_row(500), good_row(501), good_row(502, Quantity="x")]))
    (foreign,) = rejected(line, other.batch_id)
    parent = with_bad(line, BAD, good_row(91, Quantity="y"), good_row(92, Quantity="z"))
    one, two, three = (row | {"Quantity": "4"} for row in rejected(line, parent.batch_id))
    child = load(
        line,
        "edited.csv",
        as_csv(
            [
                one,
                two,
                two,
                three | {"_line_occurrence": "7"},
                one | {"_row_number": "5"},
                one | {"_row_number": "999999"},
                one | {"_row_number": "first"},
                one | {"_batch_id": "", "_row_number": ""},
                foreign | {"Quantity": "4"},
            ]
        ),
    )
    assert (child.rows_read, child.rows_inserted, child.rows_rejected) == (9, 1, 8)
    messages = rows(
        line,
        f"SELECT error_code, error_message FROM {ERRORS} WHERE batch_id = :b ORDER BY row_number",
        b=child.batch_id,
    )
    assert sorted({code for code, _ in messages}) == ["CORRECTED_TWICE", "NO_ORIGIN"]
    said = "\n".join(message for _, message in messages)
    for words in (
        "was 1 and is 7 now",
        f"row 5 of batch {parent.batch_id} was not rejected",
        "row 999999 of",
        "row first of",
        "`_batch_id` is empty",
        f"belongs to batch {other.batch_id}",
    ):
        assert words in said
    assert resolutions(line, parent.batch_id) == {21: child.batch_id, 22: None, 23: None}
    assert len(rejected(line, child.batch_id)) == 8
    assert receipt(line, other.batch_id).rows_corrected == 0


@pytest.mark.parametrize("is_sheet", [False, True])
def test_a_row_that_corrects_none_is_told_by_its_place_in_the_correction(line, is_sheet):
    content = [*(good_row(n) for n in range(20)), good_row(90, Quantity="x")]
    name = "parent.xlsx" if is_sheet else "parent.csv"
    parent = load(line, name, as_sheet(content) if is_sheet else csv_of(content))
    (row,) = rejected(line, parent.batch_id)
    stray = {**row, "_batch_id": "", "_row_number": "", "Quantity": "4"}
    child = load(line, "edited.csv", as_csv([row, stray]))
    where = {code.code: code.where for code in rejects.by_code(line.engine, child.batch_id)}
    there = "row 22 of the sheet 'rejected_rows'" if is_sheet else "row 21"
    assert where == {"INVALID_NUMBER": there, "NO_ORIGIN": "row 2 of this file"}


@pytest.mark.parametrize("is_sheet", [False, True])
def test_of_rows_that_correct_the_same_row_the_one_that_is_kept_comes_back_as_that_row(line, is_sheet):
    rows_of_file = [*(good_row(n) for n in range(20)), good_row(90, Quantity="x"), good_row(91, Quantity="y")]
    content = as_sheet(rows_of_file) if is_sheet else csv_of(rows_of_file)
    parent = load(line, f"parent.{'xlsx' if is_sheet else 'csv'}", content)
    one, two = (row | {"Quantity": "4"} for row in rejected(line, parent.batch_id))
    child = load(line, "twice.csv", as_csv([one | {"Item Name": "Kaju"}, one, two]))
    assert child.findings_by_code == {"CORRECTED_TWICE": 2}
    wrong, right = rejected(line, child.batch_id)
    assert (wrong["Item Name"], right["Item Name"]) == ("Kaju", "Kaju Katli, 500 g")
    assert load(line, "both.csv", as_csv([wrong, right])).findings_by_code == {"CORRECTED_TWICE": 2}
    assert load(line, "kept.csv", as_csv([right])).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert rows(line, f"SELECT item_name FROM {TARGET} WHERE row_number = 21") == [("Kaju Katli, 500 g",)]


def test_a_row_whose_other_correction_was_wrong_is_dropped_again_when_that_is_reverted(line):
    parent = with_bad(line, good_row(90, **{"Invoice Number": ""}), good_row(91, Quantity="x"))
    one, two = rejected(line, parent.batch_id)
    wrong = load(line, "wrong.csv", as_csv([one | {"Invoice Number": "A-1"}]))
    both = [one | {"Invoice Number": "A-2"}, two | {"Quantity": "4"}]
    child = load(line, "right.csv", as_csv(both))
    assert (child.state, child.findings_by_code) == (State.PARTIALLY_LOADED, {"ALREADY_CORRECTED": 1})
    stages.revert(line, wrong.batch_id)
    assert load(line, "again.csv", as_csv(rejected(line, child.batch_id))).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


def test_of_the_copies_of_a_row_that_come_back_the_one_that_is_kept_counts(line):
    parent = with_bad(line, BAD, good_row(91, Quantity="y"))
    one, two = rejected(line, parent.batch_id)
    first, second = (one | {"Quantity": "4", "Customer Name": name} for name in ("First", "Second"))
    twice = load(line, "twice.csv", as_csv([first, second, two]))
    assert (twice.state, twice.rows_rejected) == (State.REJECTED, 3)
    copies = rejected(line, twice.batch_id)
    still = load(line, "still.csv", as_csv([row for row in copies if row["Quantity"] == "4"]))
    assert still.findings_by_code == {"CORRECTED_TWICE": 2}
    kept = [row | {"Quantity": "4"} for row in copies if row["Customer Name"] != "First"]
    child = load(line, "kept.csv", as_csv(kept))
    assert (child.state, child.rows_inserted) == (State.LOADED, 2), child.reason
    query = f"SELECT row_number, customer_name FROM {TARGET} WHERE upload_batch_id = :b ORDER BY 1"
    assert rows(line, query, b=child.batch_id) == [(21, "Second"), (22, "Sharma Sweets")]
    for corrected in (parent, twice, still):
        after = receipt(line, corrected.batch_id)
        assert after.rows_corrected == after.rows_rejected == corrected.rows_rejected
        assert rejected(line, corrected.batch_id) == []
    stages.revert(line, child.batch_id)
    assert [len(rejected(line, batch.batch_id)) for batch in (parent, twice, still)] == [2, 3, 2]


NUMBERS_AS_SHOWN = {
    "2": 2,
    "2.0": 2,
    "2,00": 2,
    "2,000": 2000,
    "2.000": 2000,
    "2\u00a0000": 2000,
    "2 000,00": 2000,
    "1,500.00": 1500,
    "1,00,000": None,
    "1.5": None,
    "1,50": None,
    "2,0000": None,
    "15,00,0": None,
}

"""What a spreadsheet may make of a row number, and which row of 2,000 is then corrected."""


def test_a_row_number_is_read_as_the_spreadsheet_shows_it_and_corrects_no_other_row(line):
    wrong = {2, 1500, 2000}
    every = (good_row(n, **({"Quantity": "x"} if n in wrong else {})) for n in range(1, 2001))
    with line_at(line.home.root, line.settings.database_url) as line:
        parent = load(line, "parent.csv", csv_of(every))
        found = {int(row["_row_number"]): row for row in rejected(line, parent.batch_id)}
        for at, (shown, meant) in enumerate(NUMBERS_AS_SHOWN.items(), start=1):
            named = {"_row_number": shown, "Quantity": "4", "Customer Name": f"As shown {at}"}
            child = load(line, f"{at}.csv", as_csv([found[meant or 2] | named]))
            changed = rows(line, f"SELECT row_number FROM {TARGET} WHERE customer_name = 'As shown {at}'")
            assert changed == ([(meant,)] if meant else []), (shown, child.reason)
        (said,) = rows(line, f"SELECT error_message FROM {ERRORS} WHERE batch_id = :b", b=child.batch_id)
    assert "there is no row 15,00,0 of" in said[0]


UNPLACEABLE = {
    "an unknown batch": (
        lambda row: row | {"_batch_id": "20200101T000000-x-00000000"},
        "there is no batch 2020",
    ),
    "no batch": (lambda row: row | {"_batch_id": ""}, "no row of it names a batch"),
    "a column removed": (
        lambda row: {n: c for n, c in row.items() if n != "Customer Name"},
        "lacks the column `Customer Name`.",
    ),
    "two columns removed": (
        lambda row: {n: c for n, c in row.items() if n not in ("Customer Name", "SKU")},
        "lacks the columns `Customer Name`, `SKU`.",
    ),
    "the row number removed": (
        lambda row: {n: c for n, c in row.items() if n != "_row_number"},
        "lacks the column `_row_number`.",
    ),
}


@pytest.mark.parametrize("kind", UNPLACEABLE)
def test_a_file_that_corrects_no_batch_that_we_know_is_unreadable_and_says_why(line, kind):
    parent = with_bad(line, BAD)
    change, words = UNPLACEABLE[kind]
    child = load(line, "fixed.csv", as_csv([change(row) for row in rejected(line, parent.batch_id)]))
    assert child.state is State.UNREADABLE
    assert words in child.reason
    assert count(line, TARGET) == 20
    assert receipt(line, parent.batch_id).rows_corrected == 0


def throw_away(line, batch_id):
    """Remove a file from the archive, as the policy of a home may say."""
    shutil.rmtree(line.home.archive / batch_id)


@pytest.mark.parametrize(
    ("wrong", "right"), [("Invoice Number", "INV-7777"), ("Invoice Date", "03/04/2024")], ids=["key", "date"]
)
def test_a_correction_that_needs_a_file_which_was_thrown_away_says_so(line, wrong, right):
    parent = with_bad(line, good_row(90, **{wrong: ""}), good_row(91, Quantity="x"))
    one, two = rejected(line, parent.batch_id)
    throw_away(line, parent.batch_id)
    child = load(line, "1.csv", as_csv([one | {wrong: right}]))
    assert child.findings_by_code == {"CORRECTED_FILE_GONE": 1}
    assert child.state is State.UNREADABLE
    assert f"needs the file of batch {parent.batch_id}, which is not in the archive" in child.reason
    other = load(line, "2.csv", as_csv([two | {"Quantity": "4"}]))
    assert (other.state, receipt(line, parent.batch_id).rows_open) == (State.LOADED, 1)


def test_a_rejected_batch_whose_file_was_thrown_away_does_not_follow_its_corrections(line):
    parent = load(line, "a.csv", csv_of([good_row(1), good_row(2, Quantity="x"), good_row(3, Quantity="x")]))
    found = rejected(line, parent.batch_id)
    throw_away(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"} for row in found]))
    after = receipt(line, parent.batch_id)
    assert (child.state, after.state, after.rows_corrected) == (State.LOADED, State.REJECTED, 2)
    assert (
        "the other 1 row may load, but its file is not in the archive any more. Drop it again with"
        in after.reason
    )
    assert count(line, TARGET) == 2
