"""How a delimited text is written is found in its first lines: delimiter, line ends, what stands above the header."""

from __future__ import annotations

import csv

import pytest

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import HEADER, good_row

PROFILES = load_profiles()
TWO = [list(good_row(1).values()), list(good_row(2, **{"Item Name": 'say "hi"', "SKU": ""}).values())]
TABLE = [list(HEADER), *TWO]


def text(table=TABLE, delimiter=",", end="\n", quoting=csv.QUOTE_MINIMAL):
    return writers.as_csv(table, delimiter=delimiter, end=end, quoting=quoting).decode()


def named(**names):
    """The header with other names."""
    return [names.get(name.replace(" ", "_"), name) for name in HEADER]


def changed(**cells):
    """The table with other cells in its first record."""
    return [
        list(HEADER),
        list(good_row(1, **{name.replace("_", " "): cell for name, cell in cells.items()}).values()),
    ]


def read(path, content):
    """The layout of a text, and its records, an absent cell as empty text."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    layout = recognise(path, PROFILES)
    chunks = list(read_chunks(path, layout, 100))
    assert not any(chunk.damaged for chunk in chunks)
    return layout, [
        [cell or "" for cell in row.values()] for chunk in chunks for row in chunk.cells.to_pylist()
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "~", "^", "¦", "#", ":", "\x01", "§"])
def test_a_delimiter_is_found_under_each_line_end(tmp_path, delimiter, end, quoting):
    layout, found = read(tmp_path / "file", text(delimiter=delimiter, end=end, quoting=quoting))
    assert (layout.delimiter, layout.header, found) == (delimiter, HEADER, TWO)


FULL = "a, b, c, d; e; f\tg|h ~ 1,5; 2,5; 3,5"
SAME = {
    "a line of Excel that names the delimiter": "sep=;\n" + text(delimiter=";"),
    "such a line in quotes": '"sep=|"\r\n' + text(delimiter="|", end="\r\n"),
    "such a line behind a mark": "\ufeffsep=\t\r" + text(delimiter="\t", end="\r"),
    "such a line that names an uncommon one": "sep=!\n" + text(delimiter="!"),
    "such a line in UTF-16": ("\ufeffsep=;\r\n" + text(delimiter=";", end="\r\n")).encode("utf-16-le"),
    "a mark before a quoted name": "\ufeff" + text(quoting=csv.QUOTE_ALL),
    "blank lines above the header": "\n\r\n  \n" + text(),
    "blank lines of CR above the header": "\r\r" + text(end="\r"),
    "empty cells above the header": ",,,,,,,\n;;\n" + text(),
    "a title of more delimiters than the header": "Sales, of, May, 2024, as, of, today,,,,,\n"
    + text(delimiter=";"),
    "a quoted title over several lines": '"Sales\nof May, 2024"\n\n' + text(),
    "a title with a quotation mark that is never closed": '5" pipes and "more\n' + text(),
    "an empty column behind the header": text([[*HEADER, ""], *([*row, ""] for row in TWO)]),
    "a delimiter behind the header only": text([[*HEADER, ""], *TWO]).replace("Item Total,", "Item Total"),
    "a delimiter behind the records only": text([list(HEADER), *([*row, ""] for row in TWO)]),
    "mixed line ends": text([TABLE[0]], end="\r\n") + text(TWO[:1], end="\r") + text(TWO[1:], end="\n"),
    "no line end at the end": text().rstrip("\n"),
    "the mark of DOS behind the last line": text() + "\x1a",
    "such marks up to the end of a block": text() + "\x1a" * 90 + "\0" * 30,
    "blank lines at the end": text() + "\n\r\n \n,,,,,,,\n",
}


@pytest.mark.parametrize("case", SAME)
def test_what_stands_around_a_table_changes_nothing_of_it(tmp_path, case):
    layout, found = read(tmp_path / "file", SAME[case])
    assert [name for name in layout.header if name] == list(HEADER)
    assert [row[: len(HEADER)] for row in found] == TWO


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_of_other_kinds_in_the_cells_do_not_mislead(tmp_path, delimiter):
    table = changed(Item_Name=FULL, Customer_Name=FULL, Item_Price="12,50", Quantity="1;2")
    layout, found = read(tmp_path / "file", text(table, delimiter))
    assert layout.delimiter == delimiter
    assert found == table[1:]


NAMES = {
    "a delimiter": "Remarks, if any",
    "a line break": "Remarks\nif any",
    "a line break of two characters": "Remarks\r\nif any",
    "a quotation mark": 'Remarks "if any"',
    "the delimiter of other files": "Remarks; if any",
    "another script": "टिप्पणी",
}


@pytest.mark.parametrize("what", NAMES)
def test_a_name_in_the_header_may_hold_anything(tmp_path, what):
    layout, found = read(tmp_path / "file", text([[*HEADER, NAMES[what]], *([*row, "x"] for row in TWO)]))
    assert layout.header == (*HEADER, NAMES[what])
    assert found == [[*row, "x"] for row in TWO]


def test_very_many_columns_are_read(tmp_path):
    more = [f"c{n}" for n in range(490)]
    layout, found = read(tmp_path / "file", text([[*HEADER, *more], *([*row, *more] for row in TWO)]))
    assert layout.header == (*HEADER, *more)
    assert found == [[*row, *more] for row in TWO]


def test_zeroes_behind_the_last_line_are_reported(tmp_path):
    """A disk that failed left them where there was text."""
    (tmp_path / "file").write_bytes(text().encode() + bytes(512))
    (chunk,) = read_chunks(tmp_path / "file", recognise(tmp_path / "file", PROFILES), 100)
    assert chunk.row_numbers.to_pylist() == [1, 2]
    assert [(one.row_number, one.code) for one in chunk.damaged] == [(3, "WRONG_FIELD_COUNT")]


NOTHING = {
    "a header only": text(TABLE[:1]),
    "a header without a line end": text(TABLE[:1]).rstrip("\n"),
    "a header and blank lines": text(TABLE[:1]) + "\n\r\n\n",
    "a header and empty cells": text(TABLE[:1]) + ",,,,,,,\n" * 3,
    "a header below a line of Excel": "sep=;\r\n" + text(TABLE[:1], ";"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_header_without_a_record_is_refused_as_such(tmp_path, case):
    with pytest.raises(UnreadableError) as refused:
        read(tmp_path / "file", NOTHING[case])
    assert refused.value.finding.code == "NO_DATA_ROWS"


@pytest.mark.parametrize(
    "content", ["Invoice Number\n1\n2\n", "x\n", "\n\n", "sep=;\n", '"', ",,,\n", "\ufeff\n"]
)
def test_what_has_no_header_of_invoice_lines_is_refused(tmp_path, content):
    with pytest.raises(UnreadableError) as refused:
        read(tmp_path / "file", content)
    assert refused.value.finding.code in {"NO_HEADER", "MISSING_COLUMN", "EMPTY_FILE", "NO_DATA_ROWS"}
