"""Delimited text comes out record by record as the standard library's `csv` reads it, or is reported."""

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.model import Layout
from bulk_upload_pipeline.reading import records
from bulk_upload_pipeline.reading.delimited import read_delimited
from bulk_upload_pipeline.recognising import encodings

HEADER = ("a", "b", "c")


@pytest.fixture
def read(tmp_path):
    """Return a function that reads bytes, and gives its rows by number and its damaged records."""

    def read(content, *, delimiter=",", encoding="utf-8", header=HEADER, chunk_rows=1_000, skip_rows=0):
        path = tmp_path / "file"
        path.write_bytes(content)
        layout = Layout(
            "csv", header, {}, "generic", encoding=encoding, delimiter=delimiter, skip_rows=skip_rows
        )
        chunks = list(read_delimited(path, layout, chunk_rows))
        rows = {}
        for chunk in chunks:
            for number, cells in zip(chunk.row_numbers.to_pylist(), chunk.cells.to_pylist(), strict=True):
                rows[number] = tuple(cells.values())
        damaged = {row.row_number: row for chunk in chunks for row in chunk.damaged}
        assert not rows.keys() & damaged.keys()
        assert sorted(rows.keys() | damaged.keys()) == list(range(1, len(rows) + len(damaged) + 1))
        return rows, damaged

    return read


def test_records_come_with_their_numbers_and_empty_cells_are_absent(read):
    assert read(b'a,b,c\n1,2,3\n4,,"6"\n') == ({1: ("1", "2", "3"), 2: ("4", None, "6")}, {})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_kind_of_line_end_ends_a_record_also_at_the_end_of_the_file(read, end):
    text = end.join(["a,b,c", "1,2,3", "4,5,6"]).encode()
    expected = {1: ("1", "2", "3"), 2: ("4", "5", "6")}
    assert read(text) == (expected, {})
    assert read(text + end.encode()) == (expected, {})


def test_line_ends_may_be_mixed(read):
    rows, _ = read(b"a,b,c\r\n1,2,3\n4,5,6\r7,8,9\r\n")
    assert [row[0] for row in rows.values()] == ["1", "4", "7"]


def test_blank_lines_and_rows_of_empty_cells_are_no_records(read):
    rows, damaged = read(b"a,b,c\n\n1,2,3\n\r\n,,\n   \n4,5,6\n\n")
    assert rows == {1: ("1", "2", "3"), 2: ("4", "5", "6")}
    assert damaged == {}


def test_quoted_cells_hold_delimiters_line_breaks_and_doubled_quotes(read):
    rows, _ = read(b'a,b,c\n"x,y","1\n2","say ""hi"""\n1,2,3\n')
    assert rows == {1: ("x,y", "1\n2", 'say "hi"'), 2: ("1", "2", "3")}


def test_quotes_inside_unquoted_cells_are_part_of_the_text(read):
    rows, damaged = read(b'a,b,c\n5" pipe,2,3\n"4",x "y" z,6\n')
    assert rows == {1: ('5" pipe', "2", "3"), 2: ("4", 'x "y" z', "6")}
    assert damaged == {}


def test_a_ragged_record_is_reported_with_its_physical_line_and_its_text(read):
    rows, damaged = read(b'a,b,c\n"1\n1",2,3\n\n4,5\n7,8,9\n1,2,3,4\n')
    assert rows == {1: ("1\n1", "2", "3"), 3: ("7", "8", "9")}
    assert [(number, row.code, row.raw_text) for number, row in damaged.items()] == [
        (2, "WRONG_FIELD_COUNT", "4,5"),
        (4, "WRONG_FIELD_COUNT", "1,2,3,4"),
    ]
    assert damaged[2].message == "Line 5 of the file has 2 cells, but the header has 3."
    assert damaged[4].message.startswith("Line 7 ")


def test_delimiters_behind_the_last_cell_do_no_harm(read):
    rows, damaged = read(b"a,b,c,\n" + b"1,2,3,\n" * 5 + b"1,2,3\n1,2,3,4\n")
    assert len(rows) == 6
    assert set(rows.values()) == {("1", "2", "3")}
    assert {number: row.code for number, row in damaged.items()} == {7: "WRONG_FIELD_COUNT"}


@pytest.mark.parametrize("where", [0, 3, 9])
def test_a_quote_that_is_never_closed_costs_its_own_line_only(read, where):
    lines = [f'{n},"x, {n}",z' for n in range(10)]
    lines[where] = f'{where},"x,z'
    rows, damaged = read(("a,b,c\n" + "\n".join(lines) + "\n").encode())
    assert sorted(rows) == [n + 1 for n in range(10) if n != where]
    assert {number: (row.code, row.raw_text) for number, row in damaged.items()} == {
        where + 1: ("UNCLOSED_QUOTE", lines[where])
    }
    assert f"Line {where + 2} " in damaged[where + 1].message


def test_a_quote_that_is_never_closed_in_a_large_file_costs_its_own_line_only(read):
    good = b"INV-1,2024-12-31,3\n" * 700_000
    rows, damaged = read(b"a,b,c\n" + good + b'9,"8,7\n' + good)
    assert len(rows) == 1_400_000
    assert list(damaged) == [700_001]
    assert "Line 700,002 " in damaged[700_001].message


def test_text_behind_a_closing_quote_is_not_guessed_at(read):
    rows, damaged = read(b'a,b,c\n1,"x"y,3\n4,5,6\n')
    assert rows == {2: ("4", "5", "6")}
    assert damaged[1].code == "UNCLOSED_QUOTE"


def test_a_nul_stays_in_its_cell_and_glues_no_rows(read):
    rows, _ = read(b"a,b,c\n1\x00,2,3\n\x00,5,6\n")
    assert rows == {1: ("1\x00", "2", "3"), 2: ("\x00", "5", "6")}


def test_bytes_that_are_no_text_are_marked_in_their_cell(read):
    rows, _ = read(b"a,b,c\n1,Caf\xe9,3\n4,Caf\xc3\xa9,6\n")
    assert rows == {1: ("1", "Caf\ufffd", "3"), 2: ("4", "Café", "6")}


def test_lines_above_the_header_are_passed_over(read):
    rows, damaged = read(b'Sales report\n\na,b,"c\nd"\n1,2,3\n4,5\n', skip_rows=2)
    assert rows == {1: ("1", "2", "3")}
    assert "Line 6 " in damaged[2].message


def test_a_line_longer_than_any_record_is_refused(read):
    with pytest.raises(UnreadableError) as refused:
        read(b"a,b,c\n1,2,3\n" + b"x" * (12 << 20))
    assert refused.value.finding.code == "LINE_TOO_LONG"
    assert "line 3" in refused.value.finding.message


def test_chunks_hold_the_stated_number_of_records_damaged_ones_included(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a,b,c\n" + b"".join(b"1,2\n" if n % 7 == 0 else b"1,2,3\n" for n in range(1000)))
    layout = Layout("csv", HEADER, {}, "generic", encoding="utf-8", delimiter=",")
    chunks = list(read_delimited(path, layout, 300))
    assert [len(chunk.row_numbers) + len(chunk.damaged) for chunk in chunks] == [300, 300, 300, 100]
    assert chunks[-1].bytes_done == path.stat().st_size - len("a,b,c\n")


def test_a_delimiter_beyond_ascii_parts_cells(read):
    rows, damaged = read("a¦b¦c\n1¦2¦3\n4¦5\n".encode("cp1252"), delimiter="¦", encoding="cp1252")
    assert rows == {1: ("1", "2", "3")}
    assert damaged[2].raw_text == "4¦5"


# Against the standard library

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12) | st.sampled_from(
    ['"', '""', ",", "\n", ";", "x\ny", 'a "b" c', "Ü", "₹ 45", "\x1f", "'"]
)
FILES = st.lists(st.tuples(CELL, CELL, CELL), max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("csv")


@settings(max_examples=300, deadline=None)
@given(
    table=FILES,
    delimiter=st.sampled_from([",", ";", "\t", "|", "¦", "~"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-8-sig"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block=st.sampled_from([5, 17, 64, 1 << 20]),
)
def test_what_csv_writes_is_read_as_csv_reads_it(folder, table, delimiter, end, encoding, quoting, block):
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([HEADER, *table])
    path = folder / "file"
    path.write_bytes(sink.getvalue().encode(encoding))
    layout = Layout("csv", HEADER, {}, "generic", encoding=encoding.removesuffix("-sig"), delimiter=delimiter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BLOCK_BYTES", block)
        patch.setattr(records, "LONGEST_QUOTED_RECORD", 1_000)
        chunks = list(read_delimited(path, layout, 7))
    rows = pa.concat_tables([c.cells for c in chunks]).to_pylist() if chunks else []
    # Where lines end with CR only, `csv` writes an LF in a cell unquoted: what it reads then is the measure.
    read_back = list(csv.reader(io.StringIO(sink.getvalue(), newline=""), delimiter=delimiter))[1:]
    read_back = [row for row in read_back if (any(row) if len(row) == 3 else "".join(row).strip(" \t\v\f"))]
    expected = [tuple(cell or None for cell in row) for row in read_back if len(row) == 3]
    if not delimiter.isascii():
        expected = [tuple(cell and cell.replace("\x1f", "\ufffd") for cell in row) for row in expected]
    assert [tuple(row.values()) for row in rows] == expected
    assert sum(len(chunk.damaged) for chunk in chunks) == len(read_back) - len(expected)


@settings(max_examples=300, deadline=None)
@given(
    content=st.lists(st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b"\r\n", b"1", b'""', b"\xe9"])),
    block=st.sampled_from([3, 50]),
)
def test_no_byte_of_rubbish_is_lost_in_silence(folder, content, block):
    """Every character but marks and line ends that went in comes out, in a row or in a damaged record."""
    text = b"".join(content)
    path = folder / "file"
    path.write_bytes(b"a,b,c\n" + text)
    layout = Layout("csv", HEADER, {}, "generic", encoding="cp1252", delimiter=",")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BLOCK_BYTES", block)
        patch.setattr(records, "LONGEST_QUOTED_RECORD", 30)
        chunks = list(read_delimited(path, layout, 3))
    letters = "".join(
        cell or "" for chunk in chunks for row in chunk.cells.to_pylist() for cell in row.values()
    ) + "".join(row.raw_text for chunk in chunks for row in chunk.damaged)
    for letter in "a1é":
        assert letters.count(letter) == text.decode("cp1252").count(letter)
    numbers = [n for c in chunks for n in [*c.row_numbers.to_pylist(), *(d.row_number for d in c.damaged)]]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


# The cases that torture sets for CSV readers have

UNCLOSED, RAGGED = "UNCLOSED_QUOTE", "WRONG_FIELD_COUNT"
TORTURE = {
    "an empty quoted cell": ('"",x,""', [(None, "x", None)]),
    "a cell of one doubled quote": ('"""",x,y', [('"', "x", "y")]),
    "a cell of doubled quotes only": ('"""""","""",z', [('""', '"', "z")]),
    "blanks around cells stay": (" a , b ,c ", [(" a ", " b ", "c ")]),
    "blanks before a quote make it part of the text": ('a, "b",c', [("a", ' "b"', "c")]),
    "a line break as CR LF in a quoted cell": ('a,"x\r\ny",c', [("a", "x\r\ny", "c")]),
    "a line break as CR in a quoted cell": ('a,"x\ry",c', [("a", "x\ry", "c")]),
    "a blank line in a quoted cell": ('a,"x\n\n\ny",c', [("a", "x\n\n\ny", "c")]),
    "delimiters of other kinds": ("a;b|c\td,e,f", [("a;b|c\td", "e", "f")]),
    "a quoted record of delimiters": ('",,,",",",c', [(",,,", ",", "c")]),
    "a backslash escapes nothing": ('a\\,b,"c\\"', [("a\\", "b", "c\\")]),
    "a backslash before a quote closes it": ('"a\\",b,c', [("a\\", "b", "c")]),
    "single quotation marks are text": ("'a,b',c", [("'a", "b'", "c")]),
    "a hash begins no comment": ("#a,b,c", [("#a", "b", "c")]),
    "a lone quote in the middle": ('a,b"c,d', [("a", 'b"c', "d")]),
    "a quote at the end of an unquoted cell": ('a,5",c', [("a", '5"', "c")]),
    "a mark of UTF-8 in the middle": ("a,\ufeffb,c", [("a", "\ufeffb", "c")]),
    "scripts and pictures": ("काजू,ગુજરાતી,😀", [("काजू", "ગુજરાતી", "😀")]),
    "combining characters": ("e\u0301,x\u200dy,z", [("e\u0301", "x\u200dy", "z")]),
    "other line separators are no ends of lines": (
        "a\u2028b,c\u0085d,e\vf\fg",
        [("a\u2028b", "c\u0085d", "e\vf\fg")],
    ),
    "a control Z": ("a,b,c\x1a", [("a", "b", "c\x1a")]),
    "numbers stay text": ("007,1e5,+1", [("007", "1e5", "+1")]),
    "words for nothing stay text": ("NULL,NaN,NA", [("NULL", "NaN", "NA")]),
    "a formula stays text": ("=1+1,@x,-y", [("=1+1", "@x", "-y")]),
    "no line end at the end of the file": ("a,b,c\nd,e,f", [("a", "b", "c"), ("d", "e", "f")]),
    "many line ends at the end of the file": ("a,b,c\n\n\r\n\n", [("a", "b", "c")]),
    "one column less": ("a,b\nd,e,f", [RAGGED, ("d", "e", "f")]),
    "one column more": ("a,b,c,d\nd,e,f", [RAGGED, ("d", "e", "f")]),
    "empty columns more": ("a,b,c,,\nd,e,f", [("a", "b", "c"), ("d", "e", "f")]),
    "text behind a quoted cell": ('"a"x,b,c\nd,e,f', [UNCLOSED, ("d", "e", "f")]),
    "blanks behind a quoted cell": ('a,b,"c" \nd,e,f', [UNCLOSED, ("d", "e", "f")]),
    "a quote that closes nowhere": ('a,"b,c\nd,e,f', [UNCLOSED, ("d", "e", "f")]),
    "a quote that closes nowhere in the last cell": ('a,b,"c\nd,e,f', [UNCLOSED, ("d", "e", "f")]),
    "the header once more": ("a,b,c\na,b,c", [("a", "b", "c"), ("a", "b", "c")]),
    "a cell of 60,000 characters": ('a,"' + "x" * 60_000 + '",c', [("a", "x" * 60_000, "c")]),
    "a thousand line breaks in a cell": ('a,"' + "x\n" * 1_000 + '",c', [("a", "x\n" * 1_000, "c")]),
}


@pytest.mark.parametrize("case", TORTURE)
def test_a_case_of_the_torture_set_comes_out_as_it_should(read, case):
    text, expected = TORTURE[case]
    rows, damaged = read(f"h1,h2,h3\n{text}".encode(), header=("h1", "h2", "h3"))
    found = dict(sorted(rows.items() | {n: row.code for n, row in damaged.items()}.items()))
    assert list(found.values()) == expected
