"""Which profile a header belongs to, and what a profile's file may say."""

from __future__ import annotations

import pytest

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.exceptions import ProfileInvalidError
from bulk_upload_pipeline.profile_files import home_profiles, load_profiles, read_profile
from bulk_upload_pipeline.profiles import GENERIC, lay_over, normalised

ZOHO = ["Invoice Number", "Invoice Date", "Customer Name", "Quantity", "Item Price", "Item Name"]
DISTRIBUTOR = ["Invoice No", "Invoice Date", "Store Name", "Item Name", "Quantity", "Rate", "Amount", "Month"]
RETAIL = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
]


@pytest.mark.parametrize(
    ("header", "profile"), [(ZOHO, "zoho"), (DISTRIBUTOR, "distributor"), (RETAIL, "online_retail")]
)
def test_a_header_finds_its_profile(header, profile):
    match = load_profiles().match(header)
    assert (match.profile.name, match.missing, match.twice) == (profile, (), {})


def test_case_spaces_dots_underscores_and_accents_do_not_matter():
    assert {normalised(n) for n in ["Invoice No.", "INVOICE_NO", " invoice  nó ", "InvoiceNo"]} == {
        "invoiceno"
    }


def test_a_header_of_mixed_names_is_read_by_all_aliases_together():
    match = load_profiles().match(["InvoiceNo", "Invoice Date", "Store Name", "Quantity", "Rate", "SKU"])
    assert match.profile.name == GENERIC
    assert match.fits


def test_what_a_header_lacks_is_named():
    match = load_profiles().match(["Invoice Number", "Quantity"])
    assert not match.fits
    assert {"invoice_date", "item_price", "customer_name"} <= set(match.missing)


def test_what_a_sender_never_sends_is_not_told_as_missing_beside_what_he_has_renamed():
    header = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "Price each", "Country"]
    assert load_profiles().match(header).missing == ("item_price",)
    assert load_profiles().match(["Invoice Number", *header[1:]]).missing == ("customer_name", "item_price")


def test_two_cells_that_mean_the_same_are_named():
    match = load_profiles().match([*ZOHO, "item_price"])
    assert match.twice == {"item_price": ("Item Price", "item_price")}


def test_a_column_that_no_alias_knows_is_mapped_to_nothing():
    match = lay_over(DISTRIBUTOR, load_profiles()["distributor"])
    assert DISTRIBUTOR.index("Month") not in match.mapping.values()


def test_every_alias_of_a_shipped_profile_names_a_column_of_the_contract():
    for profile in load_profiles():
        assert set(profile.columns) <= set(contract.NAMES)
        assert lay_over([aliases[0] for aliases in profile.columns.values()], profile).fits


def test_a_profile_of_the_home_wins_over_a_shipped_one(tmp_path):
    (tmp_path / "zoho.toml").write_text('name = "zoho"\ntitle = "Ours"\n[columns]\nquantity = ["Qty"]\n')
    assert load_profiles(tmp_path)["zoho"].title == "Ours"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = ", "not TOML"),
        ("title = 'x'", "no `name`"),
        ("name = 'x'\ncolour = 'red'", "unknown key `colour`"),
        ("name = 'x'\n[columns]\nqty = ['Qty']", "`qty` is no column"),
        ("name = 'x'\n[columns]\nquantity = 'Qty'", "list of names"),
        ("name = 'x'\ndate_order = 'ydm'", "`date_order` must be one of dmy, mdy, ymd"),
        ("name = 'x'\ndelimiter = ';;'", "single character"),
        ("name = 'x'\nmax_error_rate = 2", "above 0 and at most 1"),
        ("name = 'x'\ndecimal_comma = 'yes'", "`decimal_comma` must be true or false"),
        ("name = 'x'\ntotal_mismatch = 'fatal'", "error, warning"),
        ("name = 'generic'", "stands for all profiles together"),
        ("name = '../x'", "must be a folder's name"),
        ("name = 'x'\nencoding = 'utf-9'", "no encoding"),
        ("name = 'x'\nencoding = 'base64'", "no encoding"),
        ("name = 'x'\nexpected_every_hours = 0", "above 0"),
        ("name = 'x'\nexpected_every_hours = true", "must be a number"),
        ("name = 'x'\nfloat_identifiers = ['quantity']", "which is no text"),
        ("name = 'x'\n[columns]\nsku = ['Code']\nproduct_id = ['CODE.']", "both `sku` and `product_id`"),
        ("name = 'x'\n[columns]\nsku = ['#']", "neither letter nor digit"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(text, problem):
    with pytest.raises(ProfileInvalidError) as error:
        read_profile(text, "mine.toml")
    assert problem in str(error.value)
    assert "mine.toml" in str(error.value)


def test_a_profile_may_say_everything_that_differs_by_sender():
    profile = read_profile(
        "name = 'x'\nrequired = ['quantity']\ndate_order = 'mdy'\ndecimal_comma = true\nencoding = 'cp1252'\n"
        "delimiter = ';'\nsheet = 'Lines'\nmax_error_rate = 0.1\non_conflict = 'reject'\n"
        "total_mismatch = 'warning'\nexpected_every_hours = 24\nfloat_identifiers = ['sku']\n",
        "x",
    )
    assert (profile.required, profile.on_conflict, profile.max_error_rate) == (("quantity",), "reject", 0.1)


def test_a_home_profile_that_is_no_text_or_shares_a_name_is_named_beside_those_that_are_right(tmp_path):
    (tmp_path / "a.toml").write_text('name = "a"\n', "utf-8-sig")
    (tmp_path / "b.toml").write_bytes(b'name = "b"\ntitle = "Caf\xe9"\n')
    (tmp_path / "c.toml").write_text('name = "a"\n')
    (tmp_path / "d.toml").mkdir()
    found = home_profiles(tmp_path)
    assert [file.path.stem for file in found if file.profile] == ["a"]
    told = {file.path.stem: str(file.problem) for file in found if file.problem}
    assert "no UTF-8" in told["b"]
    assert "a.toml has the name `a`, too" in told["c"]
    assert "cannot be read" in told["d"]
    with pytest.raises(ProfileInvalidError, match="b\\.toml"):
        load_profiles(tmp_path)


def test_vowel_signs_of_indian_scripts_are_no_accents():
    assert normalised("मूल") != normalised("मल")
    assert normalised("Číslo Faktury") == normalised("cislo faktury")


def test_a_column_that_a_profile_does_not_name_is_found_under_the_contracts_own_name():
    match = load_profiles().match([*DISTRIBUTOR, "Purchase Order", "SKU", "Item Price"])
    assert match.profile.name == "distributor"
    assert (match.mapping["purchase_order"], match.mapping["sku"]) == (8, 9)
    assert match.mapping["item_price"] == DISTRIBUTOR.index("Rate")
    assert match.twice == {}


def test_a_file_with_customers_is_not_read_by_the_profile_of_a_sender_without(tmp_path):
    assert load_profiles().match([*RETAIL, "Store Name"]).profile.name == GENERIC
    assert load_profiles().match([*RETAIL, "Customer Name"]).mapping["customer_name"] == len(RETAIL)
