"""Delimited text that was cut anywhere, or got a sign too many: what is left of it comes out as `csv` tells.

`pytest -n0 -m soak bulk_upload_pipeline_tests/test_damaged_text.py` tries some thousand examples of each.
"""

from __future__ import annotations

import csv
import io
import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.model import Layout, State
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.reading.delimited import read_delimited
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.recognising import encodings
from bulk_upload_pipeline_tests.scripts import codec_of, encoded, writable
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, line_at, rows

COLUMNS = ("a", "b", "c")
PHYSICAL_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
UNCLOSED, RAGGED = "UNCLOSED_QUOTE", "WRONG_FIELD_COUNT"


class Damaged(NamedTuple):
    code: str
    line: int
    text: str


def told_by_csv(text, delimiter):
    """The rows and the damaged records below the first line, by their numbers, if `csv` alone looks at each of them.

    A record that it cannot close, or that has the wrong cells after having gone on over lines, costs one line. A last
    line of nothing but DOS's mark of the end of a file is none.
    """
    lines = PHYSICAL_LINE.findall(text)
    if re.fullmatch("\x1a[\x1a\0]*", lines[-1]):
        lines.pop()
    records, at = [], 1
    while at < len(lines):
        record, taken = first_record(lines[at:], delimiter, at + 1)
        if record is not None:
            records.append(record)
        at += taken
    numbered = dict(enumerate(records, start=1))
    return (
        {number: one for number, one in numbered.items() if not isinstance(one, Damaged)},
        {number: one for number, one in numbered.items() if isinstance(one, Damaged)},
    )


def first_record(lines, delimiter, number):
    """The first record of some lines, None where it is blank, and how many of the lines it takes."""
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    text = lines[0].rstrip("\r\n")
    try:
        cells = next(reader)
    except csv.Error:
        return Damaged(UNCLOSED, number, text), 1
    wanted, more = cells[: len(COLUMNS)], cells[len(COLUMNS) :]
    if len(wanted) == len(COLUMNS) and not any(more):
        return tuple(cell or None for cell in wanted) if any(wanted) else None, reader.line_num
    if reader.line_num > 1:
        return Damaged(UNCLOSED, number, text), 1
    return Damaged(RAGGED, number, text) if any(cell.strip(" \t\v\f") for cell in cells) else None, 1


def read(path, content, delimiter, codec, block, chunk_rows):
    """The rows and the damaged records that the reader finds, by their numbers."""
    path.write_bytes(content)
    layout = Layout("csv", COLUMNS, {}, "generic", encoding=codec, delimiter=delimiter)
    found, damaged = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BLOCK_BYTES", block)
        for chunk in read_delimited(path, layout, chunk_rows):
            cells = [tuple(row.values()) for row in chunk.cells.to_pylist()]
            found.update(zip(chunk.row_numbers.to_pylist(), cells, strict=True))
            damaged.update({one.row_number: as_told(one) for one in chunk.damaged})
    return found, damaged


def as_told(damaged):
    line = re.match(r"Line ([\d,]+) ", damaged.message)[1]
    return Damaged(damaged.code, int(line.replace(",", "")), damaged.raw_text)


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\x1f"), max_size=12) | st.sampled_from(
    ['"', '""', ",", "\n", "\r\n", "\r", ";", "x\ny", 'a "b" c', "Ü", "₹ 45", "🍬", "x\n\ny,z\n", ""]
)
TABLE = st.lists(st.tuples(CELL, CELL, CELL), max_size=10)
END = st.sampled_from(["\n", "\r\n", "\r"])
QUOTING = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
BLOCK = st.sampled_from([1, 2, 5, 17, 64, 1 << 20])
CHUNK_ROWS = st.sampled_from([1, 5, 1_000])
SHARE = st.floats(0, 1)


def written(table, delimiter, end, quoting):
    sink = io.StringIO(newline="")
    csv.writer(sink, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
    return sink.getvalue()


CUT = {
    "table": TABLE,
    "share": SHARE,
    "delimiter": st.sampled_from([",", ";", "\t", "|", "¦"]),
    "end": END,
    "quoting": QUOTING,
    "encoding": st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16-le with a mark", "utf-16-be", "cp1252", "gb18030"]
    ),
    "block": BLOCK,
    "chunk_rows": CHUNK_ROWS,
}


def a_cut_text(path, table, share, delimiter, end, quoting, encoding, block, chunk_rows):
    """Cut at a byte: in a cell, a character, a line end, a quoted line break, behind or before any of them."""
    codec = codec_of(encoding).removesuffix("-sig")
    table = [[writable(cell, codec) for cell in row] for row in table]
    head = encoded(written([COLUMNS], delimiter, end, quoting).encode(), encoding)
    body = written(table, delimiter, end, quoting).encode(codec)
    left = body[: round(share * len(body))]
    text = (head + left).decode(codec, "replace").removeprefix("\ufeff")
    found = read(path, head + left, delimiter, codec, block, chunk_rows)
    assert found == told_by_csv(text, delimiter)


CHANGED = {
    "table": TABLE,
    "share": SHARE,
    "gone": st.integers(0, 3),
    "put": st.sampled_from(
        ["", '"', '""', ",", "\n", "\r", "\0", "\ufeff", "\ufeff\n", '"\n', '\n"', ',"', '",']
    ),
    "end": END,
    "quoting": QUOTING,
    "block": BLOCK,
    "chunk_rows": CHUNK_ROWS,
}


def a_changed_text(path, table, share, gone, put, end, quoting, block, chunk_rows):
    """At any place below the header some characters go, and others come."""
    head, body = written([COLUMNS], ",", end, quoting), written(table, ",", end, quoting)
    at = round(share * len(body))
    text = head + body[:at] + put + body[at + gone :]
    assert read(path, text.encode(), ",", "utf-8", block, chunk_rows) == told_by_csv(text, ",")


RUBBISH = {
    "pieces": st.lists(
        st.sampled_from([*'",\n\raé \0\x1a\ufeff', "\r\n", '""', '"\n', '",', ',"', '"a",b,c\n', "a,b,c\n"])
    ),
    "block": st.sampled_from([1, 3, 50, 1 << 20]),
    "chunk_rows": CHUNK_ROWS,
}


def rubbish(path, pieces, block, chunk_rows):
    """What stands below the header is no table at all."""
    text = "".join(["a,b,c\n", *pieces])
    assert read(path, text.encode(), ",", "utf-8", block, chunk_rows) == told_by_csv(text, ",")


PROPERTIES = {
    a_cut_text: CUT,
    a_changed_text: CHANGED,
    rubbish: RUBBISH,
}


def holds(judged, strategies, path, how_many):
    settings(max_examples=how_many, deadline=None)(given(**strategies)(judged))(path)


@pytest.mark.parametrize(
    ("judged", "strategies"), PROPERTIES.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_of_a_damaged_text_all_comes_out_that_csv_finds(tmp_path, judged, strategies):
    holds(judged, strategies, tmp_path / "file", 60)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("judged", "strategies"), PROPERTIES.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_of_thousands_of_damaged_texts_all_comes_out_that_csv_finds(tmp_path, judged, strategies):
    holds(judged, strategies, tmp_path / "file", 5_000)


@pytest.mark.parametrize("text", ["\ufeff", "\ufeff\n1,2,3\n", "\ufeff1,2,3\n4,5\n", "1,2,3\n\ufeff"])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_a_mark_of_utf_8_behind_the_header_shifts_no_row(tmp_path, text, block):
    """As where files were put together."""
    text = "a,b,c\n" + text
    found = read(tmp_path / "file", text.encode(), ",", "utf-8", block, 10)
    assert found == told_by_csv(text, ",")


def test_a_quote_that_is_never_closed_costs_no_record_at_the_end_of_the_file(tmp_path):
    """Even if the next mark, with which it would go together, opens a cell that begins with a line break."""
    text = 'a,b,c\n",2,3\n4,5,6\n7,8,"\n9"\n'
    found = read(tmp_path / "file", text.encode(), ",", "utf-8", 1 << 20, 10)
    assert found == ({2: ("4", "5", "6"), 3: ("7", "8", "\n9")}, {1: Damaged(UNCLOSED, 2, '",2,3')})


NO_RECORDS = {"EMPTY_FILE", "NO_HEADER", "MISSING_COLUMN", "NO_DATA_ROWS", "NOT_A_TABLE"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le with a mark", "utf-16-be with a mark"])
def test_a_file_that_was_cut_in_its_header_is_unreadable(tmp_path, encoding):
    profiles = load_profiles()
    header = encoded(",".join(HEADER).encode(), encoding)
    for at in range(len(header) + 1):
        (tmp_path / "file").write_bytes(header[:at])
        with pytest.raises(UnreadableError) as refused:
            recognise(tmp_path / "file", profiles)
        assert refused.value.finding.code in NO_RECORDS


def four_records(first):
    some = [good_row(first + n, **{"Item Name": 'Café "Kaju",\n500 g'}) for n in range(4)]
    return csv_of(some).replace("\n", "\r\n").encode()


FOUR = four_records(0)
LAST = FOUR.rindex(b"INV-")
CUTS = {
    "behind a line end": (LAST, 3, []),
    "between CR and LF": (LAST - 1, 3, []),
    "before a line end": (len(FOUR) - 2, 4, []),
    "in the last cell": (FOUR.index(b"50.00", LAST) + 4, 4, []),
    "in a number behind a quoted line break": (
        FOUR.index(b"12.50", LAST) + 4,
        3,
        [(4, UNCLOSED), (5, RAGGED)],
    ),
    "in a quoted cell": (FOUR.index(b",\r\n500 g", LAST), 3, [(4, UNCLOSED)]),
    "in a quoted line break": (FOUR.index(b"\n500 g", LAST), 3, [(4, UNCLOSED)]),
    "in a character": (FOUR.index("é".encode(), LAST) + 1, 3, [(4, UNCLOSED)]),
    "in a plain cell": (FOUR.index(b"Sharma", LAST) + 3, 3, [(4, RAGGED)]),
}


def test_of_a_file_that_was_cut_the_whole_records_load_and_the_rest_comes_back(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url) as line:
        for file, (where, (at, loaded, rejected)) in enumerate(CUTS.items()):
            batch_id = drop(line, f"{where}.csv", four_records(10 * file)[:at])
            account = stages.take(line, batch_id)
            assert account.state is (State.PARTIALLY_LOADED if rejected else State.LOADED), where
            assert rows(
                line,
                "SELECT invoice_number, row_number FROM mangalam_invoices WHERE upload_batch_id = :batch ORDER BY 2",
                batch=batch_id,
            ) == [(f"INV-{10 * file + n:06}", n + 1) for n in range(loaded)]
            there = "SELECT invoice_number, row_number FROM mangalam_invoices WHERE upload_batch_id = :batch"
            assert rows(line, f"{there} ORDER BY 2", batch=batch_id) == [
                (f"INV-{10 * file + n:06}", n + 1) for n in range(loaded)
            ]
            found = "SELECT row_number, error_code FROM bulk_upload.processing_errors WHERE batch_id = :batch"
            assert rows(line, f"{found} ORDER BY 1", batch=batch_id) == rejected
