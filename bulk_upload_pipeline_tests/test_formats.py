"""The same invoice lines load to the same table from every format, encoding and packing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline.parse import date_order_of, parse_chunk
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.recognising.formats import identify
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.validate import judge
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.real_files import DAYS
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, line_at, rows

PROFILES = load_profiles()
LINES = 5_000
PACKED_LINES = 500
"""All of them go through every packing in `test_same_lines`, which takes longer."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The header and 5,000 lines of an export, some with accents, line breaks and rupee signs."""
    path = tmp_path_factory.mktemp("lines") / "sample.csv"
    write_sample(path, rows=LINES, seed=7)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *lines = csv.reader(file)
    at = header.index("Item Desc")
    for number, special in enumerate(("Café crème", 'say "hi"; ok', "two\nlines", "semi;colon|pipe\ttab")):
        lines[number][at] = special
    return [header, *lines]


def judged(path, stated=None):
    """All rows that would load, and the layout that was recognised."""
    layout = recognise(path, PROFILES, overrides=stated)
    profile = PROFILES[layout.profile]
    valid, findings = [], []
    order = date_order_of(read_chunks(path, layout, 100_000), layout)
    for chunk in read_chunks(path, layout, 10_000):
        verdict = judge(parse_chunk(chunk, layout, profile, lambda: order), layout, profile, date(2026, 1, 1))
        valid.append(verdict.valid)
        findings += verdict.findings.to_pylist()
    return pa.concat_tables(valid).combine_chunks(), findings, layout


@pytest.fixture(scope="module")
def expected(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "plain.csv"
    path.write_bytes(writers.as_csv(table))
    valid, findings, _ = judged(path)
    assert (len(valid), findings) == (LINES, [])
    return valid


DOCUMENTS = {
    "csv": writers.as_csv,
    "semicolons": lambda table: writers.as_csv(table, delimiter=";"),
    "tabs": lambda table: writers.as_csv(table, delimiter="\t", end="\n"),
    "pipes": lambda table: writers.as_csv(table, delimiter="|", quoting=csv.QUOTE_ALL),
    "tildes": lambda table: writers.as_csv(table, delimiter="~", end="\r", quoting=csv.QUOTE_ALL),
    "utf-8 with a mark": lambda table: writers.as_csv(table, encoding="utf-8-sig"),
    "utf-16": lambda table: writers.as_csv(table, encoding="utf-16"),
    "utf-16-le": lambda table: writers.as_csv(table, encoding="utf-16-le"),
    "utf-16-be": lambda table: writers.as_csv(table, encoding="utf-16-be"),
    "json": writers.as_json,
    "jsonl": writers.as_json_lines,
    "parquet": writers.as_parquet,
    "xlsx": writers.as_xlsx,
    "xlsb": writers.as_xlsb,
    "xls": writers.as_xls,
    "ods": writers.as_ods,
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_same_lines_come_out_of_every_format_and_encoding(table, expected, tmp_path, kind):
    path = tmp_path / "a wrong name.pdf"
    path.write_bytes(DOCUMENTS[kind](table))
    valid, findings, _ = judged(path)
    assert findings == []
    assert valid.equals(expected)


@pytest.mark.parametrize("kind", ["cp1252", "iso8859-1"])
def test_the_same_lines_come_out_of_the_encodings_of_one_byte(table, tmp_path, kind):
    """They have no letters but Western ones, so the others go first."""
    western = [[cell.encode(kind, "ignore").decode(kind) for cell in row] for row in table]
    path = tmp_path / "plain.csv"
    path.write_bytes(writers.as_csv(western))
    expected, _, _ = judged(path)
    path.write_bytes(writers.as_csv(western, encoding=kind))
    valid, findings, _ = judged(path)
    assert findings == []
    assert valid.equals(expected)


@pytest.mark.parametrize("kind", ["csv", "utf-16", "json", "jsonl", "parquet", "xlsx", "xlsb", "xls", "ods"])
def test_the_same_lines_come_out_of_every_packing(table, expected, tmp_path, kind):
    for ending, content in writers.packed(DOCUMENTS[kind](table[: PACKED_LINES + 1])).items():
        path = tmp_path / f"a wrong name.pdf{ending}"
        path.write_bytes(content)
        valid, findings, layout = judged(path)
        assert layout.compression == {"": None, ".gz": "gzip", ".zip": "zip"}[ending]
        assert findings == []
        assert valid.equals(expected.slice(0, PACKED_LINES))


def test_lines_that_came_in_one_format_stay_unchanged_when_they_come_in_another(
    table, tmp_path, database_url
):
    with line_at(tmp_path / "home", database_url, chunk_rows=1_000) as line:
        for kind in ("csv", "xlsx", "jsonl", "parquet", "json", "ods", "xls", "xlsb"):
            batch_id = drop(line, f"lines.{kind}", DOCUMENTS[kind](table))
            account = stages.take(line, batch_id)
            assert (account.state, account.file_format) == (State.LOADED, kind)
            assert (account.rows_inserted, account.rows_unchanged) == (
                (LINES, 0) if kind == "csv" else (0, LINES)
            )
        assert rows(line, "SELECT count(*), count(DISTINCT upload_batch_id) FROM mangalam_invoices") == [
            (LINES, 1)
        ]


def test_what_was_decided_about_a_file_stands_on_its_receipt(table, tmp_path, database_url):
    with line_at(tmp_path / "home", database_url) as line:
        latin = [[cell.encode("cp1252", "ignore").decode("cp1252") for cell in row] for row in table[:50]]
        content = writers.as_csv([["Report of May"], *latin], delimiter=";", encoding="cp1252")
        layout = stages.take(line, drop(line, "x.csv", content)).layout
        assert (layout["delimiter"], layout["quote"], layout["skip_rows"]) == (";", '"', 1)
        assert layout["encoding"] == "cp1252"
        assert 0.5 < layout["encoding_confidence"] < 1
        book = writers.xlsx_of({"Notes": [["hello"]], "May": table[:50]})
        batch_id = drop(line, "x.xlsx", book)
        assert stages.take(line, batch_id).layout["sheets"] == [
            {"name": "May", "header_row": 1, "last_row": 50}
        ]
        assert ledger.batch(line.engine, batch_id).layout.sheets[0].name == "May"


@pytest.mark.parametrize("day", DAYS, ids=lambda path: path.stem)
def test_no_line_of_a_real_file_is_lost_or_doubled(day):
    with day.open(encoding="utf-8-sig", newline="") as file:
        records = list(csv.DictReader(file))
    layout = recognise(day, PROFILES)
    chunks = list(read_chunks(day, layout, 1_000))
    found = [list(row.values()) for chunk in chunks for row in chunk.cells.to_pylist()]
    assert found == [[cell or None for cell in record.values()] for record in records]
    assert not any(chunk.damaged for chunk in chunks)
    valid, findings, layout = judged(day)
    rejected = {f["row_number"] for f in findings if f["severity"] == "error"}
    assert layout.profile == "online_retail"
    assert len(valid) + len(rejected) == len(records)
    assert {*valid["row_number"].to_pylist(), *rejected} == set(range(1, len(records) + 1))


# What is no table, and what is packed wrongly


def refused(path):
    with pytest.raises(UnreadableError) as error:
        judged(path)
    return error.value.finding.code, error.value.finding.message


GOOD = csv_of([good_row(1), good_row(2)]).encode()

REFUSED = {
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4, "NOT_A_TABLE", "PNG"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 4, "NOT_A_TABLE", "PDF"),
    "noise": (bytes(range(256)) * 20, "NOT_A_TABLE", "no text"),
    "zeroes": (bytes(5_000), "NOT_A_TABLE", "no text"),
    "a web page": (b"<!DOCTYPE html><html><body><table>", "UNSUPPORTED_FORMAT", "web page"),
    "XML": (b'<?xml version="1.0"?><Workbook/>', "UNSUPPORTED_FORMAT", "XML"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(range(256)), "UNSUPPORTED_FORMAT", "7-Zip"),
    "a Word document": (writers.zip_of({"word/document.xml": b"<w/>"}), "UNSUPPORTED_FORMAT", "Word"),
    "an empty list": (b" [ ] ", "NO_DATA_ROWS", "list in the file is empty, so that it has no row"),
    "empty objects": (b"{}\n{}\n", "NO_DATA_ROWS", "objects in the file are empty"),
    "a list of lists": (b'[["Invoice Number"], ["J-1"]]', "NOT_A_TABLE", "an object with names"),
    "half a list": (b'[{"Invoice Number": "1"}, {"Inv', "DAMAGED_FILE", "line 1"),
    "an empty zip": (writers.zip_of({}), "EMPTY_FILE", "empty"),
    "a zip in a zip": (
        writers.zip_of({"a.zip": writers.zip_of({"a.csv": GOOD})}),
        "UNSAFE_ARCHIVE",
        "inside",
    ),
    "a gzip in a gzip": (gzip.compress(gzip.compress(GOOD)), "UNSAFE_ARCHIVE", "inside"),
    "a path that leads out": (writers.zip_of({"../../etc/cron.d/x": GOOD}), "UNSAFE_ARCHIVE", "leads out"),
    "an absolute path": (writers.zip_of({"/etc/x": GOOD}), "UNSAFE_ARCHIVE", "leads out"),
    "a drive": (writers.zip_of({"C:\\x.csv": GOOD}), "UNSAFE_ARCHIVE", "leads out"),
    "half a gzip": (gzip.compress(GOOD * 50)[:-30], "DAMAGED_FILE", "unpacked"),
    "a damaged gzip": (
        gzip.compress(GOOD)[:40] + b"\0" * 40 + gzip.compress(GOOD)[80:],
        "DAMAGED_FILE",
        "unpacked",
    ),
    "half a zip": (writers.zip_of({"a.csv": GOOD * 50})[:-40], "DAMAGED_FILE", "zip"),
    "half a spreadsheet": (writers.xlsx_of({"A": [["x"]]})[:-40], "DAMAGED_FILE", "zip"),
    "half a Parquet file": (writers.as_parquet([["a"], ["b"]])[:-9], "DAMAGED_FILE", "Parquet"),
    "a locked workbook": (writers._compound("EncryptedPackage", b"x"), "PASSWORD_PROTECTED", "password"),
    "an old document": (writers._compound("WordDocument", b"x"), "UNSUPPORTED_FORMAT", "no spreadsheet"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_is_refused_in_a_clear_sentence(tmp_path, kind):
    content, code, words = REFUSED[kind]
    path = tmp_path / "invoices.csv"
    path.write_bytes(content)
    found, message = refused(path)
    assert found == code
    assert words in message


def test_a_member_under_a_password_is_refused(tmp_path):
    content = bytearray(writers.zip_of({"a.csv": GOOD}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    assert refused(path)[0] == "PASSWORD_PROTECTED"


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("a.csv")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert refused(path)[0] == "UNSAFE_ARCHIVE"


def test_what_a_desktop_puts_beside_a_file_is_no_second_file(tmp_path):
    path = tmp_path / "a.zip"
    members = {"__MACOSX/._x.csv": b"x", "folder/x.csv": GOOD, "folder/.DS_Store": b"x", "Thumbs.db": b"x"}
    path.write_bytes(writers.zip_of(members))
    assert identify(path).member == "folder/x.csv"
    assert len(judged(path)[0]) == 2


# JSON


def test_numbers_in_json_keep_every_digit(tmp_path):
    path = tmp_path / "x.json"
    line = '{"Invoice Number": 12345678901234567890, "SKU": "007", "Quantity": 1.10, "Item Price": 0.1000, "z": 1e2}'
    path.write_text(f"[{line}]")
    (chunk,) = read_chunks(path, recognise_loosely(path), 10)
    assert list(chunk.cells.to_pylist()[0].values()) == [
        "12345678901234567890",
        "007",
        "1.10",
        "0.1000",
        "1e2",
    ]


def test_a_name_that_stands_twice_however_deep_costs_its_record(tmp_path):
    path = tmp_path / "x.jsonl"
    good, bad = json.dumps(good_row(1)), json.dumps(good_row(2))
    deep = bad.replace("{", '{"tags": [{"a": 1}, {"b": {"c": 1, "c": 2}}], ', 1)
    path.write_text("\n".join([good, deep, good.replace("{", '{"tags": {"a": 1, "b": 2}, ')]))
    valid, findings, _ = judged(path)
    assert valid["extra"].to_pylist() == [None, '{"tags": "{\\"a\\":1,\\"b\\":2}"}']
    ((number, code, message),) = [(f["row_number"], f["error_code"], f["error_message"]) for f in findings]
    assert (number, code) == (2, "DAMAGED_RECORD")
    assert "two values named 'c'" in message


def test_nan_in_json_is_no_value_in_any_column(tmp_path):
    path = tmp_path / "x.json"
    row = good_row(1, Brand=float("nan"), Zone=float("nan"), MRP=float("nan"), Kind="NaN")
    path.write_text(json.dumps([row]))
    valid, findings, _ = judged(path)
    (loaded,) = valid.to_pylist()
    assert (loaded["brand"], loaded["mrp"], loaded["extra"]) == (None, None, '{"Kind": "NaN"}')
    assert findings == []


def recognise_loosely(path):
    """The layout of a file whatever columns it lacks."""
    from bulk_upload_pipeline.drafting import _AnyHeader
    from bulk_upload_pipeline.recognise import recognise_by

    return recognise_by(_AnyHeader(PROFILES, None), path, Overrides())


def test_a_broken_line_of_json_costs_itself_only(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [
        '{"Invoice Number": "1"}',
        '{"Invoice Number": "2",',
        '{"Invoice Number": "3"}',
        "12",
        '{"Invoice Number": "5", "Invoice Number": "6"}',
        "",
        '{"Invoice Number": "7", "New": [1.50, {"a": null}]}',
        '{"Invoice Number": "8',
    ]
    path.write_text("\n".join(lines))
    layout = recognise_loosely(path)
    assert layout.header == ("Invoice Number", "New")
    (chunk,) = read_chunks(path, layout, 100)
    found = dict(zip(chunk.row_numbers.to_pylist(), chunk.cells.to_pylist(), strict=True))
    assert {number: row["0"] for number, row in found.items()} == {1: "1", 3: "3", 6: "7"}
    assert found[6]["1"] == '[1.50,{"a":null}]'
    assert [(row.row_number, row.raw_text) for row in chunk.damaged] == [
        (2, lines[1]),
        (4, "12"),
        (5, lines[4]),
        (7, lines[7]),
    ]
    assert {row.code for row in chunk.damaged} == {"DAMAGED_RECORD"}
    assert "Line 2 " in chunk.damaged[0].message
    assert "Line 5 " in chunk.damaged[2].message


def test_halves_of_characters_and_nul_in_json_do_no_harm(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(r'{"Invoice Number": "a\ud83dz", "b\u0000": "\u0000", "smile": "\ud83d\ude00"}')
    layout = recognise_loosely(path)
    (chunk,) = read_chunks(path, layout, 100)
    assert layout.header == ("Invoice Number", "b\ufffd", "smile")
    assert list(chunk.cells.to_pylist()[0].values()) == ["a\ufffdz", "\0", "😀"]


def test_nul_in_json_is_removed_with_a_warning_as_in_any_other_format(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(good_row(1) | {"Customer Name": "Sharma\0 Sweets", "Note": "a\0b"}))
    valid, findings, _ = judged(path)
    assert [finding["error_code"] for finding in findings] == ["CONTROL_CHARACTERS"]
    assert valid["customer_name"].to_pylist() == ["Sharma Sweets"]
    assert json.loads(valid["extra"][0].as_py()) == {"Note": "a\ufffdb"}


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": ' + "[" * 200_000)
    assert refused(path)[0] == "DAMAGED_FILE"


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "ü"]),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
            | st.integers()
            | st.booleans()
            | st.none()
            | st.decimals(allow_nan=False, allow_infinity=False).map(str),
            min_size=1,
        ),
        min_size=1,
        max_size=20,
    ),
    kind=st.sampled_from(["json", "pretty", "jsonl", "pretty lines", "utf-16"]),
    block=st.sampled_from([8, 100, 1 << 20]),
)
def test_json_is_read_as_the_standard_library_reads_it(tmp_path_factory, values, kind, block):
    from bulk_upload_pipeline.recognising import encodings

    path = tmp_path_factory.getbasetemp() / "values.json"
    if kind in ("json", "pretty", "utf-16"):
        text = json.dumps(values, indent=2 if kind == "pretty" else None, ensure_ascii=kind == "json")
    else:
        text = "\n".join(json.dumps(v, indent=1 if kind == "pretty lines" else None) for v in values)
    path.write_bytes(text.encode("utf-16" if kind == "utf-16" else "utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BLOCK_BYTES", block)
        layout = recognise_loosely(path)
        chunks = list(read_chunks(path, layout, 7))
    found = [row for chunk in chunks for row in chunk.cells.to_pylist()]
    wanted = [[shown(value.get(name)) for name in layout.header] for value in values]
    assert [list(row.values()) for row in found] == [row for row in wanted if any(row)]


def shown(value):
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value)


# Parquet


def test_typed_columns_of_parquet_become_the_text_that_a_person_would_write(tmp_path):
    import datetime as dt
    from decimal import Decimal

    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    at_night = dt.datetime(2024, 12, 31, 23, 30, tzinfo=dt.UTC)
    columns = {
        "Invoice Number": pa.array([17850.0, None]),
        "amount": pa.array([Decimal("1.50"), None]),
        "computed": pa.array([0.1 + 0.2, float("nan")]),
        "small": pa.array([0.1, None], pa.float32()),
        "day": pa.array([dt.date(2024, 12, 31), None]),
        "moment": pa.array([at_night, None], pa.timestamp("us", tz="America/New_York")),
        "midnight": pa.array([dt.datetime(2024, 12, 31), None]),  # noqa: DTZ001
        "bytes": pa.array([b"Caf\xe9", None]),
        "kind": pa.array(["x", None]).dictionary_encode(),
        "nested": pa.array([{"a": 1}, None]),
        "flag": pa.array([True, None]),
    }
    pq.write_table(pa.table(columns), path)
    (chunk,) = read_chunks(path, recognise_loosely(path), 10)
    assert list(chunk.cells.to_pylist()[0].values()) == [
        *("17850", "1.50", "0.3", "0.1", "2024-12-31", "2024-12-31 18:30:00", "2024-12-31", "Caf\ufffd", "x"),
        *('{"a": 1}', "true"),
    ]
    assert len(chunk.cells) == 1  # the second row holds nothing


def test_whole_floats_of_any_size_become_figures_without_a_point(tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    numbers = [2.0**53 - 1, 2.0**53, 9876543210987656.0, 9999999999999998.0, 1e16, -9876543210987656.0, 1e20]
    pq.write_table(pa.table({"Invoice Number": pa.array(numbers)}), path)
    (chunk,) = read_chunks(path, recognise_loosely(path), 10)
    assert chunk.cells["0"].to_pylist() == [str(int(number)) for number in numbers]


def test_columns_named_twice_in_parquet_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    sink = io.BytesIO()
    import pyarrow.parquet as pq

    table = pa.table([pa.array([f"{n}"]) for n in range(len(HEADER) + 1)], [*HEADER, "Quantity"])
    pq.write_table(table, sink)
    path.write_bytes(sink.getvalue())
    assert refused(path)[0] == "DUPLICATE_COLUMN"
