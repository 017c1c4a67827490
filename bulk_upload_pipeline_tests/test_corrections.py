"""The correction loop: rejected rows come back corrected and load as the lines that they always were."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
from decimal import Decimal

import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import closing, counting, holding, intake, settling
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import RevertRefusedError, UnreadableError
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline_tests.world import HEADER, count, csv_of, drop, good_row, line_at, receipt, rows
from bulk_upload_pipeline_tests.writers import xlsx_of

SETTINGS = {"chunk_rows": 7}

TARGET = "mangalam_invoices"
ERRORS = "bulk_upload.processing_errors"
OWN = ("_batch_id", "_row_number", "_line_occurrence", "_errors")


def take(line, batch_id):
    """Take a batch down the line and return its receipt."""
    try:
        uploaded = stages.upload(line, batch_id)
        if uploaded.receipt is None and not stages.validate(line, batch_id).breaker_tripped:
            stages.load(line, batch_id)
            stages.close(line, batch_id)
    except UnreadableError:
        pass
    return receipt(line, batch_id)


def load(line, name, content):
    return take(line, drop(line, name, content))


def rejected(line, batch_id):
    path = line.reports(batch_id) / "rejected_rows.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def as_csv(found, header=None, delimiter=","):
    text = io.StringIO()
    names = header or list(found[0])
    writer = csv.DictWriter(text, names, lineterminator="\n", delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def found_codes(line, batch_id):
    query = (
        f"SELECT row_number, error_code FROM {ERRORS} WHERE batch_id = :b AND NOT is_resolved ORDER BY 1, 2"
    )
    return rows(line, query, b=batch_id)


def resolutions(line, batch_id):
    query = f"SELECT row_number, resolved_by_batch FROM {ERRORS} WHERE batch_id = :b ORDER BY 1"
    return dict(rows(line, query, b=batch_id))


def in_target(line):
    query = (
        "SELECT invoice_number, sku, line_occurrence, quantity, upload_batch_id, row_number "
        f"FROM {TARGET} ORDER BY invoice_number, sku, line_occurrence"
    )
    return [(*row[:3], int(row[3]), *row[4:]) for row in rows(line, query)]


def with_bad(line, *bad, good=20, header=HEADER):
    """Load a file of good rows with some bad ones behind them."""
    return load(line, "parent.csv", csv_of([*(good_row(n) for n in range(1, good + 1)), *bad], header))


BAD = good_row(90, Quantity="x")


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


def utf16(text):
    return text.replace(",", "\t").encode("utf-16")


RESAVED = {
    "as it came": lambda found: as_csv(found).encode("utf-8-sig"),
    "by a spreadsheet with semicolons": lambda found: as_csv(found, delimiter=";").encode("cp1252"),
    "as Unicode text": lambda found: as_csv(found, delimiter="\t").encode("utf-16"),
    "with CRLF and everything quoted": lambda found: as_csv(found).replace("\n", "\r\n").encode(),
    "with its columns in another order": lambda found: as_csv(found, list(reversed(found[0]))).encode(),
    "with its rows in another order": lambda found: as_csv(list(reversed(found))).encode(),
    "without the reasons": lambda found: as_csv(found, list(found[0])[:-1]).encode(),
    "with row numbers as amounts": lambda found: as_csv(
        [row | {"_row_number": row["_row_number"] + ".00"} for row in found]
    ).encode(),
    "with blank lines below": lambda found: (as_csv(found) + "," * (len(found[0]) - 1) + "\n").encode(),
}


@pytest.mark.parametrize("how", RESAVED)
def test_a_correction_is_known_again_however_it_was_saved(line, how):
    parent = with_bad(line, BAD | {"Item Name": "Crème brûlée"}, good_row(91, Quantity="y"))
    found = [row | {"Quantity": "4"} for row in rejected(line, parent.batch_id)]
    child = load(line, "fixed.csv", RESAVED[how](found))
    assert (child.state, child.rows_inserted) == (State.LOADED, 2), child.reason
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert rows(line, f"SELECT item_name FROM {TARGET} WHERE row_number = 21") == [("Crème brûlée",)]


def test_a_correction_in_a_senders_folder_is_not_read_as_the_sender_writes(line):
    (line.home.profiles / "semi.toml").write_text(
        'name = "semi"\ndelimiter = ";"\nencoding = "utf-16"\ndecimal_comma = true\n[columns]\n'
        + "\n".join(
            f'{name} = ["{title}"]'
            for name, title in (
                ("invoice_number", "No"),
                ("invoice_date", "Day"),
                ("customer_name", "Who"),
                ("quantity", "Qty"),
                ("item_price", "Price"),
                ("sku", "Art"),
            )
        )
    )
    (line.home.inbox / "semi").mkdir()
    text = (
        "No;Day;Who;Qty;Price;Art\nA;2024-12-31;S;1;1,5;X\nB;2024-12-31;S;1;1,5;X\nC;2024-12-31;S;x;1,5;X\n"
    )

    def from_folder(name, content):
        path = line.home.inbox / "semi" / name
        path.write_bytes(content)
        seen = intake.survey(line, {}, lambda _: True).seen
        (request,) = intake.survey(line, seen, lambda _: True).requests
        return take(line, request.batch_id)

    parent = from_folder("a.csv", text.encode("utf-16"))
    assert (parent.profile, parent.rows_inserted) == ("semi", 2), parent.reason
    (row,) = rejected(line, parent.batch_id)
    child = from_folder("fixed.csv", as_csv([row | {"Qty": "2,5"}]).encode("utf-8-sig"))
    assert (child.state, child.profile) == (State.LOADED, "semi")
    assert rows(line, f"SELECT quantity, item_price FROM {TARGET} WHERE invoice_number = 'C'") == [
        (Decimal("2.5"), Decimal("1.5"))
    ]


def test_a_column_that_somebody_added_is_kept(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    load(line, "fixed.csv", as_csv([row | {"Quantity": "4", "Remark": "asked Mr. Sharma"}]))
    assert rows(line, f"SELECT extra FROM {TARGET} WHERE row_number = 21") == [
        ({"Remark": "asked Mr. Sharma"},)
    ]


def test_profile_and_date_order_are_those_of_the_batch_that_is_corrected(line):
    unambiguous = [good_row(n, **{"Invoice Date": "31/12/2024"}) for n in range(1, 6)]
    bad = good_row(90, Quantity="x", **{"Invoice Date": "03/04/2024"})
    parent = load(line, "parent.csv", csv_of([*unambiguous, bad]))
    (row,) = rejected(line, parent.batch_id)
    load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    query = f"SELECT invoice_date::text FROM {TARGET} WHERE invoice_number = 'INV-000090'"
    assert rows(line, query) == [("2024-04-03",)]


def sent(line, *bad, order=None, comma=False):
    """Load a file of a sender whose days and amounts stand in a way of his own; return the rejected rows."""
    columns = "\n".join(f'{name.lower().replace(" ", "_")} = ["{name}"]' for name in HEADER)
    stated = f'date_order = "{order}"\n' if order else ""
    stated += "decimal_comma = true\n" if comma else ""
    (line.home.profiles / "own.toml").write_text(f'name = "own"\n{stated}[columns]\n{columns}')
    text = csv_of([*(good_row(n, **{"Item Price": "12", "Item Total": ""}) for n in range(1, 6)), *bad])
    parent = take(line, drop(line, "parent.csv", text, Overrides(profile="own")))
    assert (parent.profile, parent.rows_inserted) == ("own", 5), parent.reason
    return rejected(line, parent.batch_id)


def dated(number, day, **changed):
    return good_row(number, **{"Invoice Date": day, "Quantity": "x"} | changed)


def days(line):
    query = f"SELECT invoice_number, invoice_date::text FROM {TARGET} WHERE invoice_number >= 'INV-000090'"
    return dict(rows(line, query))


def corrected_by(line, found, *changes):
    pairs = zip(found, changes, strict=True)
    return load(line, "fixed.csv", as_csv([row | {"Quantity": "4"} | change for row, change in pairs]))


def test_a_day_that_a_spreadsheet_wrote_in_another_order_is_not_taken_for_another_day(line):
    found = sent(line, dated(90, "2024-05-06"), dated(91, "2024-05-13"), dated(92, "03/04/2024"), order="dmy")
    american = [{"Invoice Date": "5/6/2024"}, {"Invoice Date": "5/13/2024"}, {}]
    child = corrected_by(line, found, *american)
    assert found_codes(line, child.batch_id) == [(6, "AMBIGUOUS_DATE")]
    # What nobody touched keeps the sender's order.
    assert days(line) == {"INV-000091": "2024-05-13", "INV-000092": "2024-04-03"}
    (row,) = rejected(line, child.batch_id)
    assert row["Invoice Date"] == "5/6/2024"
    load(line, "named.csv", as_csv([row | {"Invoice Date": "6-May-24"}]))
    assert days(line)["INV-000090"] == "2024-05-06"


def test_days_that_a_clerk_typed_beside_such_as_are_in_another_order_are_not_guessed(line):
    found = sent(line, dated(90, "2024-13-06"), dated(91, "2024-05-13"), order="dmy")
    child = corrected_by(line, found, {"Invoice Date": "5/6/2024"}, {"Invoice Date": "5/13/2024"})
    assert found_codes(line, child.batch_id) == [(6, "AMBIGUOUS_DATE")]


def test_one_day_alone_in_another_order_is_known_by_what_it_was(line):
    found = sent(line, dated(90, "2024-05-06"), order="dmy")
    child = corrected_by(line, found, {"Invoice Date": "5/6/2024"})
    assert found_codes(line, child.batch_id) == [(6, "AMBIGUOUS_DATE")]


def test_a_day_that_was_corrected_in_the_order_of_its_sender_is_read_so(line):
    found = sent(line, dated(90, "31/02/2024"), dated(91, "30/04/2024"), order="dmy")
    corrected_by(line, found, {"Invoice Date": "03/02/2024"}, {"Invoice Date": "04/05/2024"})
    assert days(line) == {"INV-000090": "2024-02-03", "INV-000091": "2024-05-04"}


def test_amounts_that_a_spreadsheet_holds_as_numbers_are_no_thousands(line):
    lots = {"Item Price": "1.000", "Item Total": ""}
    bad = [good_row(n, **{"Quantity": "x", "Item Total": "", "Item Price": "1,5"}) for n in (90, 91)]
    found = sent(line, *bad, good_row(92, Quantity="x", **lots), comma=True)
    found[0] |= {"Quantity": 2, "Item Price": 1.5}
    found[1] |= {"Quantity": 2, "Item Price": 1.234}
    found[2] |= {"Quantity": 2}  # with a price that is text still
    header = list(found[0])
    child = load(line, "fixed.xlsx", xlsx_of({"Sheet1": [header, *(list(row.values()) for row in found)]}))
    query = f"SELECT invoice_number, item_price FROM {TARGET} WHERE invoice_number >= 'INV-000090' ORDER BY 1"
    assert rows(line, query) == [("INV-000090", Decimal("1.5")), ("INV-000092", Decimal(1000))]
    assert found_codes(line, child.batch_id) == [(7, "INVALID_NUMBER")]


def as_sheet(found):
    return xlsx_of({"Sheet1": [list(found[0]), *(list(row.values()) for row in found)]})


def priced(line, *prices, comma):
    """Rejected rows with these prices, of a sender with a decimal comma or point."""
    bad = [
        good_row(90 + at, Quantity="x", **{"Item Price": p, "Item Total": ""}) for at, p in enumerate(prices)
    ]
    return sent(line, *bad, comma=comma)


def with_prices(found, *prices, **changed):
    pairs = zip(found, prices, strict=True)
    return [row | {"Quantity": "4", "Item Price": price} | changed for row, price in pairs]


def prices(line):
    query = f"SELECT item_price FROM {TARGET} WHERE invoice_number >= 'INV-000090' ORDER BY invoice_number"
    return [price for (price,) in rows(line, query)]


@pytest.mark.parametrize(
    ("comma", "as_taken", "written", "explicit"),
    [
        (True, (1.5, 1250), as_sheet, ("1.500,00", "1,25")),
        (True, ("1.500", "1250"), as_csv, ("1500,00", "1,250")),
        (False, (1500, 1.25), as_sheet, ("1.500", "1250.00")),
        (False, ("1500", "1.25"), as_csv, ("1.50", "1,250")),
    ],
    ids=["comma-sheet", "comma-csv", "point-sheet", "point-csv"],
)
def test_a_price_that_a_spreadsheet_of_another_country_took_for_a_thousandth_or_thousandfold_does_not_load(
    line, comma, as_taken, written, explicit
):
    found = priced(line, "1.500", "1,250", comma=comma)
    child = load(line, "taken", written(with_prices(found, *as_taken)))
    in_doubt = len([n for n in as_taken if n != "1.500"])
    assert child.findings_by_code == {"AMBIGUOUS_NUMBER": in_doubt}
    # That it comes back untouched makes it no surer.
    back = rejected(line, child.batch_id)
    assert load(line, "back.csv", as_csv(back)).findings_by_code == {"AMBIGUOUS_NUMBER": in_doubt}
    load(line, "explicit.csv", as_csv(with_prices(back, *explicit[-in_doubt:])))
    assert prices(line) == ([Decimal(1500), Decimal("1.25")] if comma else [Decimal("1.5"), Decimal(1250)])
    (said,) = rows(line, f"SELECT error_message FROM {ERRORS} WHERE batch_id = :b LIMIT 1", b=child.batch_id)
    assert " and was 1" in said[0]


def test_a_number_that_was_in_doubt_in_a_sheet_is_not_taken_for_thousands_in_a_csv(line):
    found = priced(line, "1,5", comma=True)
    child = load(line, "sheet.xlsx", as_sheet(with_prices(found, 1.234)))
    assert child.findings_by_code == {"INVALID_NUMBER": 1}
    back = rejected(line, child.batch_id)
    assert load(line, "back.csv", as_csv(back)).findings_by_code == {"AMBIGUOUS_NUMBER": 1}
    load(line, "typed.csv", as_csv(with_prices(back, "1,234")))
    assert prices(line) == [Decimal("1.234")]


def test_a_price_that_a_clerk_corrects_is_taken_as_he_writes_it(line):
    found = priced(line, "1,5", "1.000", "x", comma=True)
    load(line, "typed.csv", as_csv(with_prices(found, "2.000", "1.100", "3.000")))
    assert prices(line) == [Decimal(2000), Decimal(1100), Decimal(3000)]


ARTICLES = {
    "00123": "123",
    "1234567890123456": "1.23457E+15",
    "9876543210987654": "9876543210987650",
    "1E5": "100000",
}
"""Articles of figures, and what a spreadsheet makes of them."""


@pytest.mark.parametrize("written", [as_csv, as_sheet], ids=["csv", "sheet"])
def test_an_article_that_a_spreadsheet_took_for_a_number_is_still_the_article(line, written):
    parent = with_bad(line, *(good_row(90, Quantity="x", SKU=sku) for sku in ARTICLES))
    found = [row | {"SKU": ARTICLES[row["SKU"]]} for row in rejected(line, parent.batch_id)]
    wrong = load(line, "wrong", written([row | {"Quantity": "y"} for row in found]))
    child = load(line, "fixed", written([row | {"Quantity": "4"} for row in rejected(line, wrong.batch_id)]))
    assert (child.state, child.findings_by_code) == (State.LOADED, {"FIGURES_KEPT": len(ARTICLES)})
    assert [sku for (sku,) in rows(line, f"SELECT sku FROM {TARGET} WHERE row_number > 20")] == list(ARTICLES)
    # Of the lines that they are in the file that came first.
    assert load(line, "whole.csv", csv_of(good_row(90, SKU=sku) for sku in ARTICLES)).rows_unchanged == 4


def test_an_article_that_a_clerk_corrects_is_the_corrected_one(line):
    skus = {"00123": "0123", "123": "00123", "ab 7": "7", "1.50": "1.55"}
    parent = with_bad(line, *(good_row(90, Quantity="x", SKU=sku) for sku in skus))
    found = [row | {"Quantity": "4", "SKU": skus[row["SKU"]]} for row in rejected(line, parent.batch_id)]
    assert load(line, "fixed.csv", as_csv(found)).findings_by_code == {}
    query = f"SELECT sku FROM {TARGET} WHERE row_number > 20 ORDER BY row_number"
    assert [sku for (sku,) in rows(line, query)] == list(skus.values())


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
        "`Customer Name`",
    ),
    "the row number removed": (
        lambda row: {n: c for n, c in row.items() if n != "_row_number"},
        "`_row_number`",
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


def test_few_corrected_rows_do_not_trip_the_breaker(line):
    parent = with_bad(line, *(good_row(90 + n, Quantity="x") for n in range(4)))
    one, *others = rejected(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([one | {"Quantity": "4"}, *others]))
    assert (child.state, child.rows_inserted, child.rows_rejected) == (State.PARTIALLY_LOADED, 1, 3)


def test_a_batch_that_the_breaker_stopped_follows_when_enough_of_its_rows_are_corrected(line):
    bad = [good_row(90 + n, Quantity="x") for n in range(10)]
    parent = load(line, "parent.csv", csv_of([*bad, *(good_row(n) for n in range(1, 11))]))
    assert parent.state is State.REJECTED
    found = rejected(line, parent.batch_id)
    # Of 20 rows 10 are wrong and the breaker trips at a half: one corrected row is enough.
    child = load(line, "fixed.csv", as_csv([found[0] | {"Quantity": "4"}]))
    assert child.state is State.LOADED
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_inserted) == (State.PARTIALLY_LOADED, 10)
    assert (after.rows_rejected, after.rows_corrected, after.rows_unprocessed) == (10, 1, 0)
    assert count(line, TARGET) == 11
    assert rejected(line, parent.batch_id) == found[1:]
    rest = load(line, "rest.csv", as_csv([row | {"Quantity": "4"} for row in found[1:]]))
    assert rest.rows_inserted == 9
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert count(line, TARGET) == 20


def test_a_batch_that_was_cut_off_while_it_followed_does_so_to_the_end(line, monkeypatch):
    parent = load(line, "a.csv", csv_of([good_row(1), BAD]))
    assert parent.state is State.REJECTED
    (row,) = rejected(line, parent.batch_id)
    child = drop(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    really = stages.load

    def cut_off_in_the_parent(line, batch_id):
        if batch_id != child:
            raise KeyboardInterrupt
        return really(line, batch_id)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "load", cut_off_in_the_parent)
        with pytest.raises(KeyboardInterrupt):
            stages.take(line, child)
    assert receipt(line, parent.batch_id).state is State.VALIDATED
    stages.take(line, child)
    assert receipt(line, child).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert count(line, TARGET) == 2


def test_a_batch_that_the_breaker_stopped_waits_as_long_as_too_many_rows_are_open(line):
    bad = [good_row(90 + n, Quantity="x") for n in range(10)]
    parent = load(line, "parent.csv", csv_of([*bad, good_row(1), good_row(2)]))
    found = rejected(line, parent.batch_id)
    load(line, "fixed.csv", as_csv([found[0] | {"Quantity": "4"}]))
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected, after.rows_unprocessed) == (State.REJECTED, 1, 2)
    assert "9 of 12 rows (75%) have errors that are not corrected yet" in after.reason
    assert count(line, TARGET) == 1


def test_reverting_a_correction_opens_its_rows_again(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    with pytest.raises(RevertRefusedError, match=child.batch_id):
        stages.revert(line, parent.batch_id)
    stages.revert(line, child.batch_id)
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected) == (State.PARTIALLY_LOADED, 0)
    assert rejected(line, parent.batch_id) == [row]
    assert count(line, TARGET) == 20
    again = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    assert again.state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


@pytest.mark.parametrize(
    ("room", "step"), [(settling, "settle"), (closing, "write"), (stages, "_close_again")]
)
def test_a_revert_that_was_cut_off_is_brought_to_its_end_by_the_next_one(line, monkeypatch, room, step):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}])).batch_id

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, step, cut_off)
        with pytest.raises(KeyboardInterrupt):
            stages.revert(line, child)
    undone = stages.revert(line, child)
    assert (undone.state, undone.rows_unprocessed) == (State.REVERTED, 1)
    assert "1 row is gone, and 0 have" in undone.reason
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected) == (State.PARTIALLY_LOADED, 0)
    assert resolutions(line, parent.batch_id) == {21: None}
    assert rejected(line, parent.batch_id) == [row]
    assert json.loads((line.reports(child) / "summary.json").read_text())["state"] == "reverted"
    assert count(line, TARGET) == 20


def test_a_reverted_batch_takes_no_corrections(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    stages.revert(line, parent.batch_id)
    fixed = as_csv([row | {"Quantity": "4"}])
    child = load(line, "fixed.csv", fixed)
    assert child.state is State.UNREADABLE
    assert "was reverted" in child.reason
    assert "`bulk-upload retry`" in child.reason


def test_a_reverted_batch_that_is_taken_again_takes_its_correction_when_that_is_dropped_again(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    stages.revert(line, parent.batch_id)
    fixed = as_csv([row | {"Quantity": "4"}])
    load(line, "fixed.csv", fixed)
    assert take(line, parent.batch_id).state is State.PARTIALLY_LOADED
    assert load(line, "fixed.csv", fixed).state is State.LOADED
    assert (receipt(line, parent.batch_id).state, count(line, TARGET)) == (State.LOADED, 21)


def test_a_column_of_the_source_may_have_any_name_and_its_rows_come_back_whole(line):
    header = (*HEADER, "_raw")
    parent = load(line, "a.csv", csv_of([{**good_row(n), "_raw": "kept"} for n in range(9)] + [BAD], header))
    (row,) = rejected(line, parent.batch_id)
    assert {name: row[name] for name in header} == {**BAD, "_raw": ""}
    filled = row | {"Quantity": "4", "_raw": "as it came"}
    assert load(line, "fixed.csv", as_csv([filled])).state is State.LOADED
    brought = rows(line, f"SELECT invoice_number, extra FROM {TARGET} WHERE row_number = 10")
    assert brought == [("INV-000090", {"_raw": "as it came"})]


def cut_off_behind_its_load(line, name, content):
    """A correction whose worker is killed before it writes the receipt."""
    child = drop(line, name, content)
    stages.upload(line, child)
    stages.validate(line, child)
    stages.load(line, child)
    return child


def test_a_batch_is_not_reverted_below_a_correction_that_is_loaded_but_has_no_receipt_yet(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = cut_off_behind_its_load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    for _ in ("loading", "failed"):
        with pytest.raises(RevertRefusedError, match=child):
            stages.revert(line, parent.batch_id)
        stages.fail(line, child, "The power went.")
    assert take(line, child).state is State.LOADED
    assert (receipt(line, parent.batch_id).state, count(line, TARGET)) == (State.LOADED, 21)
    stages.revert(line, child)
    assert stages.revert(line, parent.batch_id).state is State.REVERTED
    assert count(line, TARGET) == 0


def test_a_correction_that_was_judged_before_its_batch_was_reverted_loads_nothing(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = drop(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    stages.upload(line, child)
    stages.validate(line, child)
    stages.revert(line, parent.batch_id)
    with pytest.raises(UnreadableError, match="was reverted"):
        stages.load(line, child)
    assert (receipt(line, child).state, count(line, TARGET)) == (State.UNREADABLE, 0)
    assert receipt(line, child).findings_by_code == {"CORRECTED_BATCH_REVERTED": 1}


def test_two_corrections_that_are_closed_at_once_leave_a_true_receipt_of_what_they_correct(line, monkeypatch):
    parent = with_bad(line, BAD, good_row(91, Quantity="x"))
    found = rejected(line, parent.batch_id)
    first, second = (
        cut_off_behind_its_load(line, f"{number}.csv", as_csv([row | {"Quantity": "4"}]))
        for number, row in enumerate(found)
    )
    counted, is_free, goes_on = counting.counted, holding._is_free, threading.Event()

    def close_second():
        stages.close(line, second)
        goes_on.set()

    other = threading.Thread(target=close_second)

    def counted_while_the_other_one_closes(engine, entry, *known):
        """The second one closes, as far as it gets, when the first has counted and not yet written."""
        count = counted(engine, entry, *known)
        if entry.batch.batch_id == parent.batch_id and other.ident is None:
            other.start()
            assert goes_on.wait(60)
        return count

    def is_free_now(cursor, name):
        free = is_free(cursor, name)
        if not free and threading.current_thread() is other:
            goes_on.set()
        return free

    monkeypatch.setattr(counting, "counted", counted_while_the_other_one_closes)
    monkeypatch.setattr(holding, "_is_free", is_free_now)
    stages.close(line, first)
    other.join()
    account = receipt(line, parent.batch_id)
    assert (account.state, account.rows_corrected, account.rows_open) == (State.LOADED, 2, 0)
    assert receipt(line, second).state is State.LOADED


def test_rows_that_the_database_refused_come_back_whole_and_can_be_corrected(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} ADD CONSTRAINT known CHECK (brand <> 'Fake')")
    header = (*HEADER, "Brand")
    bad = good_row(90, Brand="Fake")
    parent = with_bad(line, bad, header=header)
    assert parent.findings_by_code == {"REFUSED_BY_DATABASE": 1}
    (row,) = rejected(line, parent.batch_id)
    assert {name: row[name] for name in header} == bad
    child = load(line, "fixed.csv", as_csv([row | {"Brand": "Real"}]))
    assert child.state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


def test_a_correction_that_the_database_refuses_leaves_its_row_open(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE {TARGET} ADD CONSTRAINT known CHECK (customer_name <> 'Fake')"
        )
    parent = with_bad(line, BAD, good_row(91, Quantity="y"))
    one, two = (row | {"Quantity": "4"} for row in rejected(line, parent.batch_id))
    child = load(line, "fixed.csv", as_csv([one, two | {"Customer Name": "Fake"}]))
    assert (child.state, child.rows_rejected) == (State.PARTIALLY_LOADED, 1)
    assert resolutions(line, parent.batch_id) == {21: child.batch_id, 22: None}
    (again,) = rejected(line, child.batch_id)
    assert (again["Customer Name"], again["_row_number"]) == ("Fake", "22")


@pytest.mark.parametrize(("bad", "as_a_whole"), [(1_000, True), (2, False)])
def test_a_correction_of_many_rows_is_joined_with_what_it_corrects_as_a_whole(line, bad, as_a_whole):
    """Row by row 30,000 took minutes: PostgreSQL does not know yet how many there are."""
    with line_at(line.home.root, line.settings.database_url, max_error_rate=1.1) as line:
        wrong = (good_row(n, Quantity="x") for n in range(1, bad + 1))
        parent = load(line, "parent.csv", csv_of([good_row(0), *wrong]))
        text = (line.reports(parent.batch_id) / "rejected_rows.csv").read_text("utf-8-sig")
        asked = []
        sa.event.listen(line.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
        assert load(line, "fixed.csv", text.replace(",x,", ",4,")).rows_inserted == bad
        assert receipt(line, parent.batch_id).state is State.LOADED
    assert ("SET LOCAL enable_nestloop = off" in asked) is as_a_whole
