"""A correction is what the clerk means, whatever the spreadsheet has made of it that saved it."""

from __future__ import annotations

import gzip
from datetime import date
from decimal import Decimal

import pytest

from bulk_upload_pipeline import intake
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline.resaved import text_meant
from bulk_upload_pipeline_tests.correcting import (
    BAD,
    ERRORS,
    TARGET,
    as_csv,
    as_sheet,
    found_codes,
    load,
    rejected,
    take,
    with_bad,
)
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, receipt, rows
from bulk_upload_pipeline_tests.writers import xlsx_of, zip_of

SETTINGS = {"chunk_rows": 7}


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


SENDER = (
    ("invoice_number", "No"),
    ("invoice_date", "Day"),
    ("customer_name", "Who"),
    ("quantity", "Qty"),
    ("item_price", "Price"),
    ("sku", "Art"),
)


def with_sender(line, name, stated):
    """Make a profile known, and the folder of its sender."""
    columns = "\n".join(f'{column} = ["{title}"]' for column, title in SENDER)
    (line.home.profiles / f"{name}.toml").write_text(f'name = "{name}"\n{stated}[columns]\n{columns}\n')
    (line.home.inbox / name).mkdir()


def from_folder(line, folder, name, content):
    """Take a file that was dropped in a sender's folder down the line, and return its receipt."""
    path = line.home.inbox / folder / name
    path.write_bytes(content)
    seen = intake.survey(line, {}, lambda _: True).seen
    (request,) = intake.survey(line, seen, lambda _: True).requests
    return take(line, request.batch_id)


@pytest.mark.parametrize(
    "saved",
    [
        lambda found: as_csv(found).encode("utf-8-sig"),
        lambda found: gzip.compress(as_csv(found).encode()),
        lambda found: zip_of({"rejected_rows.csv": as_csv(found).encode()}),
        as_sheet,
    ],
    ids=["csv", "gz", "zip", "xlsx"],
)
def test_a_correction_in_a_senders_folder_is_not_read_as_the_sender_writes(line, saved):
    with_sender(
        line, "semi", 'delimiter = ";"\nencoding = "cp1252"\nsheet = "Export"\ndecimal_comma = true\n'
    )
    text = (
        "No;Day;Who;Qty;Price;Art\nA;2024-12-31;S;1;1,5;X\nB;2024-12-31;S;1;1,5;X\nC;2024-12-31;Süß;x;1,5;X\n"
    )
    parent = from_folder(line, "semi", "a.csv", text.encode("cp1252"))
    assert (parent.profile, parent.rows_inserted) == ("semi", 2), parent.reason
    (row,) = rejected(line, parent.batch_id)
    child = from_folder(line, "semi", "fixed", saved([row | {"Qty": "2,5"}]))
    assert (child.state, child.profile) == (State.LOADED, "semi"), child.reason
    assert rows(
        line, f"SELECT customer_name, quantity, item_price FROM {TARGET} WHERE invoice_number = 'C'"
    ) == [("Süß", Decimal("2.5"), Decimal("1.5"))]


def test_a_senders_file_that_only_speaks_of_row_numbers_is_read_as_the_sender_writes(line):
    with_sender(line, "comma", "decimal_comma = true\n")
    with_sender(line, "another", "")
    text = "No,Day,Who,Qty,Price,Art,source_row_number\nA,2024-12-31,S,1.000,2.500,X,1\n"
    loaded = from_folder(line, "comma", "a.csv", text.encode())
    assert (loaded.state, loaded.profile) == (State.LOADED, "comma"), loaded.reason
    assert rows(line, f"SELECT quantity, item_price FROM {TARGET}") == [(1000, 2500)]


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


def test_a_day_that_a_spreadsheet_of_another_country_took_for_the_other_one_does_not_load(line):
    found = sent(line, *(dated(90 + at, "03/04/2024") for at in range(3)), order="dmy")
    taken = [date(2024, 3, 4), date(2024, 4, 3), date(2024, 3, 5)]
    fixed = [row | {"Quantity": "4", "Invoice Date": day} for row, day in zip(found, taken, strict=True)]
    child = load(line, "taken.xlsx", as_sheet(fixed))
    assert found_codes(line, child.batch_id) == [(6, "AMBIGUOUS_DATE")]
    # That it comes back untouched makes it no surer.
    (back,) = rejected(line, child.batch_id)
    assert back["Invoice Date"] == "2024-03-04"
    assert load(line, "back.csv", as_csv([back])).findings_by_code == {"AMBIGUOUS_DATE": 1}
    load(line, "named.csv", as_csv([back | {"Invoice Date": "4-Mar-2024"}]))
    assert days(line) == {"INV-000090": "2024-03-04", "INV-000091": "2024-04-03", "INV-000092": "2024-03-05"}


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


@pytest.mark.parametrize(("comma", "price"), [(True, "0,125"), (False, "0.125")])
def test_a_price_below_one_that_a_spreadsheet_of_another_country_took_for_a_whole_number_does_not_load(
    line, comma, price
):
    found = priced(line, price, comma=comma)
    child = load(line, "taken.xlsx", as_sheet(with_prices(found, 125)))
    assert child.findings_by_code == {"AMBIGUOUS_NUMBER": 1}
    (said,) = rows(line, f"SELECT error_message FROM {ERRORS} WHERE batch_id = :b", b=child.batch_id)
    assert f"125 and was {price}" in said[0]
    load(line, "typed.csv", as_csv(with_prices(rejected(line, child.batch_id), price)))
    assert prices(line) == [Decimal("0.125")]


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
    "8901234567890": "8.90123E+12",
    "890123456789": "8,90123E+11",
    "9876543210987654": "9876543210987650",
    "1234567890123456789": "1234567890123456800",
    "900058112345678904": "900058112345679000",
    "31415926535897932384": "31415926535897931776",
    "1E5": "100000",
    "+919812345678": "9.19812E+11",
    "3-4": "04-Mar",
    "10/2024": "Oct-24",
    "10-12": "10. Dez",
    "8/2024": "août-24",
    "2024-11": "01/11/2024",
    "1-2-24": "2024-02-01",
    "MAR7": "7-Mar",
}

"""Articles of figures, and what a spreadsheet makes of them."""


@pytest.mark.parametrize("written", [as_csv, as_sheet], ids=["csv", "sheet"])
def test_an_article_that_a_spreadsheet_took_for_a_number_is_still_the_article(line, written):
    parent = with_bad(line, *(good_row(90, Quantity="x", SKU=sku) for sku in ARTICLES))
    found = [row | {"SKU": ARTICLES[row["SKU"]]} for row in rejected(line, parent.batch_id)]
    wrong = load(line, "wrong", written([row | {"Quantity": "y"} for row in found]))
    child = load(line, "fixed", written([row | {"Quantity": "4"} for row in rejected(line, wrong.batch_id)]))
    assert (child.state, child.findings_by_code) == (State.LOADED, {"FIGURES_KEPT": len(ARTICLES)})
    query = f"SELECT sku FROM {TARGET} WHERE row_number > 20 ORDER BY row_number"
    assert [sku for (sku,) in rows(line, query)] == list(ARTICLES)
    # Of the lines that they are in the file that came first.
    assert load(line, "whole.csv", csv_of(good_row(90, SKU=sku) for sku in ARTICLES)).rows_unchanged == len(
        ARTICLES
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_name_in_letters_that_the_encoding_of_a_spreadsheet_lacks_is_as_it_was(line, encoding):
    names = {"SKU": "КК-1", "Item Name": "काजू कतली 😀", "Customer Name": "Łódź Café"}
    parent = with_bad(line, good_row(90, Quantity="x", **names), good_row(91, Quantity="x", SKU="Ж?"))
    first, other = (row | {"Quantity": "4"} for row in rejected(line, parent.batch_id))
    saved = as_csv([first, other | {"SKU": "What?"}]).replace("😀", "??").encode(encoding, "replace")
    child = load(line, "saved.csv", saved)
    assert (child.state, child.findings_by_code) == (State.LOADED, {"FIGURES_KEPT": 3})
    query = f"SELECT sku, item_name, customer_name FROM {TARGET} WHERE row_number > 20 ORDER BY row_number"
    assert rows(line, query) == [tuple(names.values()), ("What?", "Kaju Katli, 500 g", "Sharma Sweets")]


def test_a_name_of_many_signs_and_marks_is_compared_at_once():
    assert text_meant("?" * 90 + "x", ["😀" * 60], 500) == "?" * 90 + "x"
    assert text_meant("?" * 120, ["😀" * 60], 500) == text_meant("?" * 60, ["😀" * 60], 500) == "😀" * 60


def test_an_article_of_a_row_that_stood_twice_is_what_was_kept_of_it_before_a_spreadsheet_saved_it(line):
    parent = with_bad(line, good_row(90, SKU="x", Quantity="x"))
    (row,) = rejected(line, parent.batch_id)
    copies = [row | {"SKU": sku, "Quantity": "4"} for sku in ("00123", "00124")]
    twice = load(line, "twice.csv", as_csv(copies))
    _, kept = rejected(line, twice.batch_id)
    child = load(line, "kept.csv", as_csv([kept | {"SKU": "124"}]))
    assert (child.state, child.findings_by_code) == (State.LOADED, {"FIGURES_KEPT": 1})
    assert rows(line, f"SELECT sku FROM {TARGET} WHERE row_number = 21") == [("00124",)]


def test_an_article_that_was_meant_to_lose_its_zeros_is_one_line_when_done_as_the_finding_says(line):
    parent = with_bad(line, good_row(90, SKU="00123", Quantity="x"))
    (row,) = rejected(line, parent.batch_id)
    child = load(line, "child.csv", as_csv([row | {"SKU": "123", "Quantity": "4"}]))
    assert child.findings_by_code == {"FIGURES_KEPT": 1}
    assert "then revert the batch of the correction" in CATALOGUE["FIGURES_KEPT"].fix
    stages.revert(line, child.batch_id)
    assert with_bad(line, good_row(90, SKU="123")).rows_inserted == 1
    assert rows(line, f"SELECT sku FROM {TARGET} WHERE invoice_number = 'INV-000090'") == [("123",)]


def test_an_article_that_a_clerk_corrects_is_the_corrected_one(line):
    skus = {"00123": "0123", "123": "00123", "ab 7": "7", "1.50": "1.55"}
    skus |= {
        "3-4": "4-3",
        "5-6": "05-Jul",
        "1-2-24": "2-1-24",
        "10/2024": "Nov-24",
        "MAR7": "MAR8",
        "SET6": "SET-6",
    }
    parent = with_bad(line, *(good_row(90, Quantity="x", SKU=sku) for sku in skus))
    found = [row | {"Quantity": "4", "SKU": skus[row["SKU"]]} for row in rejected(line, parent.batch_id)]
    assert load(line, "fixed.csv", as_csv(found)).findings_by_code == {}
    query = f"SELECT sku FROM {TARGET} WHERE row_number > 20 ORDER BY row_number"
    assert [sku for (sku,) in rows(line, query)] == list(skus.values())
