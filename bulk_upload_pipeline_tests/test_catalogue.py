"""The catalogue of findings and its references: complete, and true to what the code does."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from string import Formatter

import pytest
from click.testing import CliRunner

import bulk_upload_pipeline
from bulk_upload_pipeline import contract, markdown
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import Severity
from bulk_upload_pipeline.parsing.dates import read_date
from bulk_upload_pipeline.parsing.numerals import read_number
from bulk_upload_pipeline.parsing.texts import looks_encoded_twice
from bulk_upload_pipeline.profile_files import read_profile, shipped_profiles
from bulk_upload_pipeline.profiles import Profile

ROOT = Path(bulk_upload_pipeline.__file__).parent


def explain(*arguments):
    return CliRunner().invoke(main, ["explain", *arguments], env={"BULK_UPLOAD_HOME": "/nowhere"})


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.code)
def test_an_entry_says_what_it_means_and_what_to_do(entry):
    assert entry.code == entry.code.upper()
    assert all((entry.title, entry.explanation, entry.example, entry.fix))
    for sentence in (entry.message, entry.explanation, entry.fix):
        assert sentence.endswith((".", "?"))
    fields = {name for _, name, _, _ in Formatter().parse(entry.message) if name}
    assert fields <= ({"value"} if entry.whole_file else {"value", "column"})
    told = explain(entry.code.lower()).stdout
    assert all(text in told for text in (entry.title, entry.explanation, entry.example, entry.fix))


def codes_in(path):
    """Every string of a room that is written as a code is: `LIKE_THIS`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_code_of_the_catalogue_is_given_by_some_room():
    rooms = [path for path in ROOT.rglob("*.py") if not path.name.startswith(("findings", "sample"))]
    given = {code for path in rooms for code in codes_in(path)}
    assert set(CATALOGUE) - given == set()


def test_every_code_that_a_room_gives_stands_in_the_catalogue():
    makers = {"file_finding", "row_findings", "DamagedRow", "_finding"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in makers:
                strings = [a.value for a in node.args if isinstance(a, ast.Constant)]
                codes = [s for s in strings if isinstance(s, str) and s.isupper() and "_" in s]
                assert set(codes) <= set(CATALOGUE), path.name


@pytest.mark.parametrize("code", ["INVALID_NUMBER", "NUMBER_TOO_PRECISE", "NUMBER_TOO_LARGE", "INVALID_DATE"])
def test_the_examples_of_an_entry_earn_its_code(code):
    read = (lambda text: read_date(text, None)) if code == "INVALID_DATE" else read_number
    for example in CATALOGUE[code].example.split(", "):
        assert read(example) == code, example


def test_the_examples_of_other_entries_are_what_they_say():
    assert all(
        read_number(text) == "SPREADSHEET_ERROR"
        for text in CATALOGUE["SPREADSHEET_ERROR"].example.split(", ")
    )
    assert read_date(CATALOGUE["AMBIGUOUS_DATE"].example.split()[0], None) == "AMBIGUOUS_DATE"
    assert looks_encoded_twice(CATALOGUE["DOUBLE_ENCODED_TEXT"].example.split()[0])


COMMON = "Invoice Date,Customer Name,Item Name"
FILES = {
    "NO_DATA_ROWS": (f"Invoice Number,{COMMON},Quantity,Item Price\n", "only the line of headings"),
    "NO_HEADER": ("INV-1,2024-12-31,Sharma Sweets,4,120.00\n", "INV-1,2024-12-31,Sharma Sweets,4,120.00"),
    "MISSING_COLUMN": (f"Invoice Number,{COMMON},Item Price\nA,2024-12-31,S,K,1\n", "without `Quantity`"),
    "DUPLICATE_COLUMN": (
        f"Invoice Number,{COMMON},Quantity,Item Price,ITEM_PRICE\nA\n",
        "beside `ITEM_PRICE`",
    ),
    "UNKNOWN_ENCODING": (f"Invoice Number,{COMMON},Quantity,Item Price\nA\n", "--encoding utf9"),
    "UNKNOWN_PROFILE": (f"Invoice Number,{COMMON},Quantity,Item Price\nA\n", "--profile zohoo"),
}


@pytest.mark.parametrize("code", FILES)
def test_the_file_that_an_entry_has_for_an_example_earns_its_code(tmp_path, code):
    content, told = FILES[code]
    example = CATALOGUE[code].example
    assert told in example
    (tmp_path / "file.csv").write_text(content)
    stated = example.split() if example.startswith("--") else []
    environment = {"BULK_UPLOAD_HOME": str(tmp_path / "home")}
    result = CliRunner().invoke(
        main, ["check", "--json", *stated, str(tmp_path / "file.csv")], env=environment
    )
    (facts,) = json.loads(result.stdout)
    assert facts["finding"]["code"] == code


REFERENCES = {
    "explain --markdown": "findings.md",
    "explain --columns --markdown": "columns.md",
    "explain --profiles --markdown": "profiles.md",
}


@pytest.mark.parametrize("command", REFERENCES)
def test_the_references_in_the_package_are_what_the_code_says(command):
    file = ROOT / "reference" / REFERENCES[command]
    now = explain(*command.split()[1:]).stdout
    assert file.read_text("utf-8") == now, f"Write it anew: bulk-upload {command} > {file}"


def test_the_references_name_every_code_every_column_and_every_header_name():
    findings, columns = markdown.findings_reference(), markdown.columns_reference(shipped_profiles())
    assert all(f"### {code}\n" in findings for code in CATALOGUE)
    rows = {row.split("`")[1]: row for row in columns.splitlines() if row.startswith("| `")}
    assert tuple(rows) == contract.NAMES
    for profile in shipped_profiles():
        for column, aliases in profile.columns.items():
            assert all(f"`{alias}`" in rows[column] for alias in aliases)
    assert [name for name, row in rows.items() if "| yes |" in row] == list(contract.REQUIRED)


def test_every_key_of_a_profile_is_explained_with_what_may_stand_there():
    keys = {said["key"]: said for said in json.loads(explain("--profiles", "--json").stdout)}
    assert list(keys) == list(Profile.__dataclass_fields__)
    assert all(said["wanted"] and said["meaning"].endswith(".") for said in keys.values())
    assert (keys["on_conflict"]["wanted"], keys["on_conflict"]["usual"]) == (
        '"update", "skip", "reject"',
        '"update"',
    )
    assert all(key in explain("--profiles").stdout for key in keys)
    example = markdown.profiles_reference().partition("```toml\n")[2].partition("```")[0]
    assert read_profile(example, "example").name == "north"


@pytest.mark.parametrize("name", ["item_price", "Item Price", "RATE", "unit price"])
def test_explain_knows_a_column_by_all_its_names(name):
    facts = json.loads(explain(name, "--json").stdout)
    assert (facts["name"], facts["type"], facts["required"]) == ("item_price", "numeric(15,4)", True)


def test_explain_lists_codes_and_columns_and_names_what_is_near_to_a_wrong_word():
    assert len(json.loads(explain("--json").stdout)) == len(CATALOGUE)
    assert len(json.loads(explain("--columns", "--json").stdout)) == len(contract.COLUMNS)
    assert "NO_DATA_ROWS" in explain().stdout
    assert "not required" in explain("brand").stdout
    assert "Did you mean INVALID_NUMBER?" in explain("invald number").stderr
    assert "Did you mean quantity?" in explain("quantitty").stderr
    assert explain("nonsense").exit_code == 2


def test_a_finding_about_a_whole_file_is_never_a_warning():
    assert all(e.severity is Severity.ERROR for e in CATALOGUE.values() if e.whole_file)
