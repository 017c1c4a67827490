"""Profiles at the terminal: listed, checked, drafted from a file; and the template that a profile gives."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from bulk_upload_pipeline import checking, contract
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.profile_files import load_profiles, read_profile, shipped_profiles
from bulk_upload_pipeline.profiles import Profile, lay_over
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline.template import header_of, write_template
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import csv_of, good_row

SHIPPED = [profile.name for profile in shipped_profiles()]
FOREIGN = (
    "Bill No;Invoce Date;Party Name;Qty;Item Price;Item Naem;Zone\n"
    "B1;25.12.2024;Café Rao;1;1.234,50;Kaju;North\n"
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(tmp_path / "home"))
    home = Home(tmp_path / "home")
    home.make()
    return home


@pytest.fixture
def run(home):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def test_the_list_shows_own_profiles_over_the_shipped_ones_and_what_they_state(run, home):
    (home.profiles / "zoho.toml").write_text('name = "zoho"\ntitle = "Ours"\ndate_order = "mdy"\n')
    listed = {p["name"]: p for p in json.loads(run("profiles", "list", "--json").stdout)}
    assert set(listed) == set(SHIPPED)
    assert (listed["zoho"]["title"], listed["zoho"]["states"]) == ("Ours", {"date_order": "mdy"})
    words = run("profiles").stdout
    assert 'date_order = "mdy"' in words
    assert str(home.profiles / "zoho.toml") in words


def test_check_says_a_sentence_on_each_broken_profile_and_exits_with_2(run, home):
    (home.profiles / "right.toml").write_text('name = "right"\n')
    (home.profiles / "torn.toml").write_text("name = ")
    (home.profiles / "wrong.toml").write_text('name = "wrong"\ndate_order = "ydm"\n')
    result = run("profiles", "check")
    assert result.exit_code == 2
    assert result.stdout == "right.toml: the profile right can be used.\n"
    complaints = result.stderr.splitlines()
    assert len(complaints) == 2
    assert "torn.toml" in complaints[0]
    assert "dmy, mdy, ymd" in complaints[1]
    problems = {p["file"]: p["problem"] for p in json.loads(run("profiles", "check", "--json").stdout)}
    assert [bool(problem) for problem in problems.values()] == [False, True, True]
    (home.profiles / "torn.toml").unlink()
    (home.profiles / "wrong.toml").unlink()
    assert run("profiles", "check").exit_code == 0


def test_a_draft_states_what_the_file_shows_and_leaves_what_only_looks_so_to_a_person(run, tmp_path):
    path = tmp_path / "Rao & Söhne.csv"
    path.write_bytes(FOREIGN.encode("cp1252"))
    result = run("profiles", "suggest", path)
    assert result.exit_code == 0
    profile = read_profile(result.stdout, "draft")
    assert (profile.name, profile.delimiter, profile.date_order) == ("rao_s_hne", ";", "dmy")
    assert profile.decimal_comma
    assert "caf\u00e9".encode(profile.encoding) == "caf\u00e9".encode("cp1252")
    assert profile.columns == {"item_price": ("Item Price",)}
    assert '# invoice_date = ["Invoce Date"]' in result.stdout
    assert '# quantity = ["Qty"]' in result.stdout
    assert '"Zone"' in result.stdout.splitlines()[-1]


def test_a_draft_whose_suggestions_are_taken_loads_the_file_it_was_drafted_from(run, home, tmp_path):
    path = tmp_path / "rao.csv"
    path.write_text(FOREIGN, "utf-8")
    settings = Settings(home)
    assert run("check", path).exit_code == 2
    assert run("profiles", "suggest", path, "--write").exit_code == 0
    draft = home.profiles / "rao.toml"
    taken = draft.read_text("utf-8").replace("# invoice", "invoice").replace("# customer", "customer")
    draft.write_text(taken.replace("# quantity", "quantity").replace("# item_name", "item_name"), "utf-8")
    assert run("profiles", "check").exit_code == 0
    checked = checking.check(settings, path)
    assert (checked.layout.profile, checked.verdict.rows_valid, checked.findings) == ("rao", 1, [])
    again = run("profiles", "suggest", path, "--write")
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert draft.read_text("utf-8").count("\nquantity") == 1


def test_a_draft_is_made_also_when_the_shell_has_begun_its_file_among_the_profiles(run, home, tmp_path):
    path = tmp_path / "rao.csv"
    path.write_text(FOREIGN, "utf-8")
    (home.profiles / "rao.toml").touch()
    result = run("profiles", "suggest", path)
    assert (result.exit_code, result.stderr) == (0, "")
    (home.profiles / "rao.toml").write_text(result.stdout, "utf-8")
    assert run("profiles", "check").exit_code == 0


def test_a_draft_names_two_columns_of_which_only_one_can_count(run, tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("Invoice No,Rate,Item Price,Customer ID\nB1,1,1,17850.0\n")
    result = run("profiles", "suggest", path)
    assert '"Rate" and "Item Price" mean the same' in result.stdout
    assert read_profile(result.stdout, "draft").float_identifiers == ("customer_id",)
    facts = json.loads(run("profiles", "suggest", path, "--json").stdout)
    assert facts["twice"] == {"item_price": ["Rate", "Item Price"]}


@pytest.mark.parametrize("name", ['a"b\\.csv', "tab\tline\n.csv", "a\x7fb.csv", "# [columns].csv", "म.csv"])
def test_whatever_file_and_header_are_called_the_draft_is_a_profile(run, tmp_path, name):
    path = tmp_path / name
    path.write_text('"Quantity""s\x7f",]x=[,#\n1,2,3\n')
    result = run("profiles", "suggest", path)
    assert result.exit_code == 0
    assert read_profile(result.stdout, "draft").title == name


def test_a_file_that_is_no_table_has_no_draft(run, tmp_path):
    (tmp_path / "empty.csv").touch()
    for path in (tmp_path / "empty.csv", tmp_path / "nowhere.csv"):
        result = run("profiles", "suggest", path)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_of_a_zip_of_several_files_there_is_no_draft_but_a_sentence_that_names_them(run, tmp_path):
    path = tmp_path / "all.zip"
    path.write_bytes(writers.zip_of({"a.csv": FOREIGN.encode(), "b.csv": FOREIGN.encode()}))
    result = run("profiles", "suggest", path)
    assert result.exit_code == 2
    assert "holds 2 files ('a.csv', 'b.csv')" in " ".join(result.stderr.split())


def test_check_judges_each_file_of_a_zip(run, tmp_path):
    path = tmp_path / "all.zip"
    bad = csv_of([good_row(1, Quantity="x"), *(good_row(n) for n in range(2, 9))])
    members = {"a.csv": csv_of([good_row(1)]).encode(), "b.csv": bad.encode()}
    path.write_bytes(writers.zip_of(members))
    result = run("check", path, "--json")
    assert (result.exit_code, [(f["file"], f["state"]) for f in json.loads(result.stdout)]) == (
        1,
        [("all.zip/a.csv", "loaded"), ("all.zip/b.csv", "partially_loaded")],
    )
    path.write_bytes(writers.zip_of(members | {"c.csv": b"%PDF-1.7"}))
    result = run("check", path)
    assert result.exit_code == 2
    assert "all.zip/b.csv would be partially_loaded" in " ".join(result.stdout.split())
    assert "all.zip/c.csv unreadable" in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_a_template_is_recognised_as_its_profile(tmp_path, name, ending):
    profiles = load_profiles()
    path = tmp_path / f"empty{ending}"
    write_template(path, profiles[name])
    if ending == ".csv":
        (header,) = csv.reader(path.read_text("utf-8-sig").splitlines())
    else:
        from python_calamine import CalamineWorkbook

        (header,) = CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python()
    match = lay_over(header, profiles[name])
    assert match.fits
    assert set(match.mapping) == set(profiles[name].columns)


def test_a_filled_in_template_loads_as_it_was_typed(run, home, tmp_path):
    path = tmp_path / "typed.csv"
    assert run("template", path, "--profile", "distributor").exit_code == 0
    typed = {"invoice_number": "007", "invoice_date": "03/04/2024", "customer_name": "Café Rao"}
    typed |= {"quantity": "2", "item_price": "10", "item_name": "Kaju"}
    with path.open("a", encoding="utf-8", newline="") as file:
        names = header_of(load_profiles()["distributor"])
        csv.DictWriter(file, names, restval="").writerow(typed)
    checked = checking.check(Settings(home), path)
    assert (checked.layout.profile, checked.verdict.rows_valid) == ("distributor", 1)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfInvoice No,")


def test_a_template_keeps_the_senders_delimiter_encoding_and_sheet(tmp_path):
    from python_calamine import CalamineWorkbook

    sender = Profile(name="s", columns={"sku": ("Größe",)}, delimiter=";", encoding="cp1252", sheet="Zeilen")
    write_template(tmp_path / "a.csv", sender)
    assert (tmp_path / "a.csv").read_bytes() == "Größe\r\n".encode("cp1252")
    write_template(tmp_path / "a.xlsx", sender)
    assert CalamineWorkbook.from_path(str(tmp_path / "a.xlsx")).sheet_names == ["Zeilen"]


def test_a_profile_without_names_has_a_template_of_all_columns():
    assert list(header_of(Profile(name="bare"))) == list(contract.NAMES)


@pytest.mark.parametrize(
    ("file", "profile", "said"),
    [
        ("a.pdf", "zoho", ".csv or .xlsx"),
        ("a.csv", "zohoo", "no profile named"),
        ("no/a.csv", "zoho", "No such"),
    ],
)
def test_a_template_that_cannot_be_written_says_why(run, tmp_path, file, profile, said):
    result = run("template", tmp_path / file, "--profile", profile)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_template_never_overwrites_a_file(run, tmp_path):
    path = tmp_path / "mine.xlsx"
    path.write_bytes(b"mine")
    assert run("template", path).exit_code == 2
    assert path.read_bytes() == b"mine"
