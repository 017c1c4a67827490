"""Sample files: what they look like, that their figures agree, and that exactly the stated rows are wrong."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from itertools import groupby

import pytest

from bulk_upload_pipeline import contract, findings, sample
from bulk_upload_pipeline.parse import parse_chunk
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.sampling import goods
from bulk_upload_pipeline.validate import judge

LAYOUTS = ("zoho", "distributor")
ROWS = 5_000
CENT = Decimal("0.01")
ITEMS = {"zoho": ("Item Name", "SKU", "Product ID"), "distributor": ("Item Name", "Batch No")}
NAMES = {
    "zoho": {"number": "Invoice Number", "price": "Item Price", "total": "Item Total"},
    "distributor": {"number": "Invoice No", "price": "Rate", "total": "Amount"},
}


def records(path):
    """Every record as the csv module of the standard library reads it: the header, then the rows."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def rows_of(path):
    header, *rows = records(path)
    return [dict(zip(header, row, strict=True)) for row in rows]


def amount(text):
    """What an amount in a clean file means."""
    return Decimal(re.sub(r"^(₹|Rs\.) ", "", text).replace(",", ""))


@pytest.fixture(scope="module", params=LAYOUTS)
def clean(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clean") / "clean.csv"
    manifest = write_sample(path, rows=ROWS, profile=request.param)
    return request.param, path, manifest


@pytest.fixture(scope="module", params=LAYOUTS)
def dirty(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("dirty") / "dirty.csv"
    manifest = write_sample(path, rows=ROWS, profile=request.param, dirty=0.1, seed=5)
    return request.param, path, manifest


def test_the_header_is_the_one_of_its_profile(clean):
    profile, path, _ = clean
    header = records(path)[0]
    match = load_profiles().match(header)
    assert (match.profile.name, match.fits) == (profile, True)
    assert len(header) == {"zoho": 37, "distributor": 18}[profile]
    assert len(match.mapping) == {"zoho": 37, "distributor": 15}[profile]


def test_a_file_has_exactly_the_rows_asked_for(clean):
    _, path, manifest = clean
    assert len(records(path)) == 1 + ROWS
    assert manifest.rows == ROWS
    assert manifest.faults == {}


@pytest.mark.parametrize("rows", range(40))
def test_short_files_have_their_rows_too_and_no_invoice_of_one_line(tmp_path, rows):
    write_sample(tmp_path / "short.csv", rows=rows, seed=rows)
    written = rows_of(tmp_path / "short.csv")
    assert len(written) == rows
    sizes = Counter(row["Invoice Number"] for row in written)
    assert all(2 <= size <= 8 for size in sizes.values()) or rows == 1


def test_invoices_have_two_to_eight_lines_that_stand_together(clean):
    profile, path, _ = clean
    runs = [
        (number, len(list(lines)))
        for number, lines in groupby(rows_of(path), lambda r: r[NAMES[profile]["number"]])
    ]
    assert len(runs) == len({number for number, _ in runs})
    assert {size for _, size in runs} == set(range(2, 9))


def test_line_totals_are_quantity_times_price_less_the_discount_to_the_paisa(clean):
    profile, path, _ = clean
    discount = {"zoho": "Discount Amount", "distributor": "Discount"}[profile]
    discounted = 0
    for row in rows_of(path):
        gross = amount(row["Quantity"]) * amount(row[NAMES[profile]["price"]])
        discounted += amount(row[discount]) > 0
        assert abs(gross - amount(row[discount]) - amount(row[NAMES[profile]["total"]])) <= CENT / 2
        assert amount(row["Quantity"]) > 0
        assert 0 < amount(row[NAMES[profile]["price"]]) <= amount(row["MRP"])
    assert 0.1 * ROWS < discounted < 0.2 * ROWS


def test_invoice_figures_agree_with_the_lines(tmp_path):
    write_sample(tmp_path / "zoho.csv", rows=ROWS)
    taxes = {item.code: item.tax for item in goods.items()}
    for _, group in groupby(rows_of(tmp_path / "zoho.csv"), lambda row: row["Invoice Number"]):
        lines = list(group)
        subtotal = sum(amount(line["Item Total"]) for line in lines)
        tax = sum(amount(line["Item Total"]) * taxes[line["Product ID"]] / 100 for line in lines)
        assert {amount(line["SubTotal"]) for line in lines} == {subtotal}
        assert abs(amount(lines[0]["Total"]) - subtotal - tax) <= CENT / 2
        assert 0 <= amount(lines[0]["Balance"]) <= amount(lines[0]["Total"])
        if lines[0]["Invoice Status"] == "Closed":
            assert amount(lines[0]["Balance"]) == 0


def test_what_stands_on_an_invoice_is_the_same_on_each_of_its_lines(tmp_path):
    write_sample(tmp_path / "zoho.csv", rows=ROWS)
    of_the_line = {
        *("Product ID", "Item Name", "SKU", "Brand", "Category Name", "Item Desc", "Quantity", "Usage unit"),
        *("Item Price", "MRP", "Discount", "Discount Amount", "Item Total"),
    }
    seen = defaultdict(set)
    for row in rows_of(tmp_path / "zoho.csv"):
        on_invoice = tuple(value for name, value in row.items() if name not in of_the_line)
        seen[row["Invoice Number"]].add(on_invoice)
    assert all(len(values) == 1 for values in seen.values())


def test_zoho_dates_are_iso_cover_a_year_and_follow_each_other(tmp_path):
    write_sample(tmp_path / "zoho.csv", rows=ROWS)
    rows = rows_of(tmp_path / "zoho.csv")
    days = [date.fromisoformat(row["Invoice Date"]) for row in rows]
    assert days == sorted(days)
    assert (days[0], days[-1].replace(day=1)) == (date(2024, 4, 1), date(2025, 3, 1))
    for row, day in zip(rows, days, strict=True):
        assert date.fromisoformat(row["Due Date"]) >= day
        assert (row["Last Payment Date"] != "") == (row["Invoice Status"] in ("Closed", "PartiallyPaid"))


def test_distributor_dates_agree_with_month_and_year_in_both_ways_of_writing(tmp_path):
    write_sample(tmp_path / "sales.csv", rows=ROWS, profile="distributor")
    forms = Counter()
    for row in rows_of(tmp_path / "sales.csv"):
        form = "%d/%m/%Y" if "/" in row["Invoice Date"] else "%d-%b-%Y"
        day, expiry = (
            datetime.strptime(row[name], form).replace(tzinfo=UTC) for name in ("Invoice Date", "Expiry Date")
        )
        assert (row["Month"], row["Year"]) == (day.strftime("%B"), day.strftime("%Y"))
        assert expiry > day
        forms[form] += 1
    assert len(forms) == 2


def test_the_same_item_stands_twice_on_an_invoice_now_and_then(clean):
    profile, path, _ = clean
    number = NAMES[profile]["number"]
    lines = Counter((row[number], row[ITEMS[profile][1]]) for row in rows_of(path))
    repeated = [count for count in lines.values() if count > 1]
    assert 0 < len(repeated) < ROWS / 200
    assert set(repeated) == {2}


def test_a_clean_file_has_the_harmless_oddities_of_real_ones(tmp_path):
    write_sample(tmp_path / "zoho.csv", rows=40_000)
    rows = rows_of(tmp_path / "zoho.csv")
    grouped = sum("," in row["Total"] for row in rows)
    signs = sum(row["MRP"].startswith(("₹ ", "Rs. ")) for row in rows)
    assert 0.002 < grouped / len(rows) < 0.01
    assert 0.0005 < signs / len(rows) < 0.005
    assert all(
        re.fullmatch(r"(\d{1,2},)?(\d{2},)*\d{3}\.\d\d", r["Total"]) for r in rows if "," in r["Total"]
    )
    assert any("," in row["Item Name"] for row in rows)
    assert any('"' in row["Item Desc"] for row in rows)


def test_there_are_hundreds_of_shops_and_items_with_codes_of_their_own():
    assert len({shop.name for shop in goods.shops()}) == len({shop.code for shop in goods.shops()}) >= 300
    assert len({item.sku for item in goods.items()}) == len({item.name for item in goods.items()}) >= 150


@pytest.mark.parametrize("profile", LAYOUTS)
def test_the_same_arguments_give_the_same_bytes_in_whatever_pieces(tmp_path, monkeypatch, profile):
    digests = set()
    for pieces in (6_000, 6_000, 77, 1):
        monkeypatch.setattr(sample, "INVOICES_AT_ONCE", pieces)
        manifest = write_sample(tmp_path / "s.csv", rows=1_000, profile=profile, dirty=0.2, seed=9)
        content = hashlib.sha256((tmp_path / "s.csv").read_bytes()).hexdigest()
        digests.add((content, tuple(manifest.faults.items())))
    assert len(digests) == 1


def test_files_of_different_seeds_share_no_invoice(tmp_path):
    write_sample(tmp_path / "a.csv", rows=500, seed=1)
    write_sample(tmp_path / "b.csv", rows=500, seed=2)
    numbers = [{row["Invoice Number"] for row in rows_of(tmp_path / name)} for name in ("a.csv", "b.csv")]
    assert numbers[0].isdisjoint(numbers[1])


@pytest.mark.parametrize(
    ("rows", "share"), [(14_518, 0.03), (999, 0.6), (10, 1.0), (7, 0.5), (1, 1.0), (100, 0.001)]
)
def test_exactly_the_stated_share_of_rows_is_faulty(tmp_path, rows, share):
    manifest = write_sample(tmp_path / "s.csv", rows=rows, dirty=share)
    assert len(manifest.faults) == round(rows * share) == sum(manifest.faults_by_code.values())
    assert all(1 <= row <= rows for row in manifest.faults)


@pytest.mark.parametrize("profile", LAYOUTS)
def test_faults_leave_every_other_row_as_it_was(tmp_path, profile):
    write_sample(tmp_path / "clean.csv", rows=2_000, profile=profile, seed=3)
    manifest = write_sample(tmp_path / "dirty.csv", rows=2_000, profile=profile, dirty=0.3, seed=3)
    clean, dirty = records(tmp_path / "clean.csv"), records(tmp_path / "dirty.csv")
    assert {n for n, (a, b) in enumerate(zip(clean, dirty, strict=True)) if a != b} == set(manifest.faults)


def test_every_code_is_in_the_catalogue_and_every_kind_of_fault_comes_up(dirty):
    _, _, manifest = dirty
    assert {code for code, _ in manifest.faults.values()} <= set(findings.CATALOGUE)
    assert set(manifest.faults.values()) == set(manifest.catalogue)
    assert len(manifest.faults_by_code) == 11


def is_amount(text):
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


def is_day(text):
    for form in ("%Y-%m-%d", "%d-%b-%Y", "%d/%m/%Y"):
        try:
            return bool(datetime.strptime(text, form).replace(tzinfo=UTC))
        except ValueError:
            continue
    return False


def is_total_wrong(profile, row):
    quantity, gross = amount(row["Quantity"]), amount(row["Quantity"]) * amount(row[NAMES[profile]["price"]])
    discounts = [Decimal(0), gross * amount(row["Discount"]) / 100]
    discounts += [amount(row[name]) for name in ("Discount", "Discount Amount") if name in row]
    tolerance = CENT + Decimal("0.005") * quantity
    return all(abs(gross - less - amount(row[NAMES[profile]["total"]])) > tolerance for less in discounts)


def limit_of(profile, column):
    (name,) = [n for n, aliases in load_profiles()[profile].columns.items() if column in aliases]
    return contract.BY_NAME[name].limit


def is_faulty(profile, row, code, column):
    cell = row[column] if column else ""
    return {
        "INVALID_NUMBER": lambda: not is_amount(cell) and cell.strip() != "",
        "NUMBER_TOO_PRECISE": lambda: -Decimal(cell).as_tuple().exponent > 4,
        "NUMBER_TOO_LARGE": lambda: Decimal(cell) >= 10**11,
        "MISSING_VALUE": lambda: cell.strip().casefold() in ("", "n/a", "-", "null"),
        "INVALID_DATE": lambda: not is_day(cell) and cell != "",
        "DATE_TOO_EARLY": lambda: date.fromisoformat(cell) < date(1990, 1, 1),
        "TEXT_TOO_LONG": lambda: len(cell) > limit_of(profile, column),
        "ZERO_QUANTITY": lambda: Decimal(cell) == 0 and not is_total_wrong(profile, row),
        "TOTAL_MISMATCH": lambda: is_total_wrong(profile, row),
        "MISSING_ITEM": lambda: not any(row[name] for name in ITEMS[profile]),
    }[code]()


def test_every_faulty_row_has_the_fault_that_is_stated(dirty):
    profile, path, manifest = dirty
    header, *rows = records(path)
    for number, (code, column) in manifest.faults.items():
        cells = rows[number - 1]
        if code == "WRONG_FIELD_COUNT":
            assert abs(len(cells) - len(header)) == 1
        else:
            assert is_faulty(profile, dict(zip(header, cells, strict=True)), code, column), (
                number,
                code,
                column,
            )


def found_in(path):
    """Code and column of every finding that the line has, by row number."""
    profiles = load_profiles()
    layout = recognise(path, profiles)
    profile = profiles[layout.profile]
    found = defaultdict(list)
    for chunk in read_chunks(path, layout, 1_000):
        typed = parse_chunk(chunk, layout, profile, lambda: None)
        for finding in judge(typed, layout, profile, date(2025, 6, 1)).findings.to_pylist():
            found[finding["row_number"]].append((finding["error_code"], finding["column_name"]))
    return found


def test_the_line_finds_nothing_in_a_clean_file(clean):
    _, path, _ = clean
    assert found_in(path) == {}


def test_the_line_finds_in_each_faulty_row_the_stated_fault_and_nothing_else(dirty):
    _, path, manifest = dirty
    assert found_in(path) == {row: [fault] for row, fault in manifest.faults.items()}


def test_rows_are_told_as_they_are_written_and_nothing_else_is_left_behind(tmp_path):
    told = []
    write_sample(tmp_path / "s.csv", rows=70_000, on_rows=told.append)
    assert sum(told) == 70_000
    assert len(told) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]


def test_an_interrupted_file_never_appears_under_its_name(tmp_path):
    def stop(_rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "s.csv", rows=10, on_rows=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"rows": -1}, {"rows": 1, "dirty": 1.5}, {"rows": 1, "seed": -1}, {"rows": 1, "profile": "../x"}],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="must"):
        write_sample(tmp_path / "s.csv", **wrong)
