"""Rows that hold next to nothing: empty ones are passed over at once, and a file full of others is refused."""

from __future__ import annotations

import json
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.judging import Judging
from bulk_upload_pipeline.profile_files import shipped_profiles
from bulk_upload_pipeline.profiles import Profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.reading import fragments
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.recognising import dialects, encodings
from bulk_upload_pipeline.splitting import planned
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import HEADER, csv_of, good_row

FEW = 50
PROFILES = Profiles(shipped_profiles())


@pytest.fixture
def few(monkeypatch):
    """So many fragments are enough, and text comes in small blocks."""
    monkeypatch.setattr(fragments, "MOST_FRAGMENTS", FEW)
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(dialects, "TOP_BYTES", 1 << 10)


@pytest.fixture
def told(tmp_path):
    """Return a function that reads a file: its row numbers, and the damaged ones with their physical lines."""

    def told(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        layout = recognise(path, PROFILES)
        chunks = list(read_chunks(path, layout, 10_000))
        numbers = [number for chunk in chunks for number in chunk.row_numbers.to_pylist()]
        return numbers, {row.row_number: row.message for chunk in chunks for row in chunk.damaged}

    return told


def good(rows, first=1):
    return csv_of([good_row(n) for n in range(first, first + rows)])


def body(rows, first=1):
    return good(rows, first).partition("\n")[2]


@pytest.mark.parametrize("empty", ["\n", ",\n", " \t\n", ",,,,,,,\n", '"","","","","","","",""\n', "\r"])
def test_a_hundred_thousand_empty_rows_are_none_and_what_follows_keeps_its_place(told, empty):
    numbers, damaged = told("file.csv", good(2) + empty * 100_000 + body(1, 3) + "x,y\n")
    assert numbers == [1, 2, 3]
    assert list(damaged) == [4]
    assert "Line 100,005 of the file has 2 cells" in damaged[4]


@pytest.mark.parametrize("fragment", ["x\n", "1,,,,,,,\n", '""\n', '"\n', '"x\n', " ,,,,,,,\n"])
def test_a_text_of_fragments_is_refused_and_the_finding_says_how_many_there_are(few, told, fragment):
    with pytest.raises(UnreadableError) as refused:
        told("file.csv", good(2) + fragment * 2_000)
    finding = refused.value.finding
    assert finding.code == "MOSTLY_FRAGMENTS"
    assert "hold fewer than 8 characters on average" in finding.message


@pytest.mark.parametrize("fragment", ["{}", "[]", "1", '{"a":"x"}'])
@pytest.mark.parametrize("lines", [True, False])
def test_a_list_of_fragments_is_refused(few, told, fragment, lines):
    items = [json.dumps(good_row(1)), *[fragment] * 60]
    with pytest.raises(UnreadableError) as refused:
        told("file.json", "\n".join(items) if lines else f"[{','.join(items)}]")
    assert refused.value.finding.code == "MOSTLY_FRAGMENTS"


def test_a_sheet_whose_running_number_goes_down_to_the_last_row_is_refused(few, told):
    table = [list(HEADER), list(good_row(1).values()), *([str(n), *[""] * 7] for n in range(2_000))]
    with pytest.raises(UnreadableError) as refused:
        told("file.xlsx", writers.as_xlsx(table))
    assert refused.value.finding.code == "MOSTLY_FRAGMENTS"


def test_a_kilobyte_of_parquet_that_holds_a_million_fragments_is_refused(few, told, tmp_path):
    ones = pa.array([1] * 20_000, pa.int8())
    pq.write_table(pa.table(dict.fromkeys(HEADER, pa.nulls(20_000)) | {"SKU": ones}), tmp_path / "f")
    with pytest.raises(UnreadableError) as refused:
        told("file.parquet", (tmp_path / "f").read_bytes())
    assert refused.value.finding.code == "MOSTLY_FRAGMENTS"


def test_fragments_that_are_fewer_than_the_other_rows_are_damaged_rows_and_the_rest_is_read(few, told):
    blocks = [body(100, 100 * n) + "x\n" * 60 for n in range(10)]
    numbers, damaged = told("file.csv", good(200) + "".join(blocks))
    assert len(numbers) == 1_200
    assert len(damaged) == 600
    assert sorted([*numbers, *damaged]) == list(range(1, 1_801))


def test_short_lines_in_one_quoted_cell_are_no_rows(few, told):
    text = good(1) + ",".join(good_row(2, **{"Item Name": '"' + "x\n" * 400 + '"'}).values()) + "\n"
    assert told("file.csv", text + body(3, 3)) == ([1, 2, 3, 4, 5], {})


def test_a_text_that_several_workers_would_share_is_refused_before_they_do(few, tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(good(40) + "x\n" * 5_000)
    layout = recognise(path, PROFILES)
    judging = Judging(path, layout, PROFILES[layout.profile], 1_000, 0.5, lambda progress: None)
    with pytest.raises(UnreadableError) as refused:
        planned(judging, 2_000)
    assert refused.value.finding.code == "MOSTLY_FRAGMENTS"


def test_nobody_looks_whether_lines_as_long_as_invoices_are_fragments():
    with patch.object(fragments, "_held", side_effect=AssertionError):
        assert fragments.filled_records(body(500).encode(), 500, ",", len(HEADER)).stayed is None


LINE = st.sampled_from(
    [
        *(
            "\n",
            ",\n",
            " \n",
            ",,,,,,,\n",
            " ,,,,,,,\n",
            ",,,,,,,,,\n",
            ",,,,,,,,, \n",
            "x\n",
            "\r\n",
            "\r",
            ",\r",
        ),
        *('""\n', '"\n', '"",\n', '"","","","","","","",""\n', '" "\n', '"\n"\n', '""""\n', '"a"b\n', "\t\n"),
        *("x,y,z,1,2,3,4,5\n", 'a,"b\n\n\nc",1,2,3,4,5,6\n', "\x0b\n", "é,\n", ",,,,,,,x\n", '"unclosed,\n'),
    ]
)


@settings(max_examples=40)
@given(lines=st.lists(LINE, max_size=25))
def test_what_is_passed_over_at_once_is_what_a_look_at_each_row_would_leave_out(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("short") / "file.csv"
    path.write_text(good(1) + "".join(lines), newline="")
    layout = recognise(path, PROFILES)

    def read():
        chunks = read_chunks(path, layout, 7)
        return [(c.row_numbers.to_pylist(), c.cells.to_pylist(), c.damaged) for c in chunks]

    found = read()
    with patch.object(fragments, "_is_thin", return_value=False):
        assert read() == found
