"""The parts of a text, read one by one from their places, are the text: record by record, line by line."""

import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.model import Layout
from bulk_upload_pipeline.reading import records
from bulk_upload_pipeline.reading.delimited import read_delimited, read_part
from bulk_upload_pipeline.reading.parts import may_be_parted, parts_of
from bulk_upload_pipeline.recognising import dialects, encodings

HEADER = ("a", "b", "c")


def layout_of(encoding="utf-8", delimiter=",", **stated):
    return Layout("csv", HEADER, {}, "generic", encoding=encoding, delimiter=delimiter, **stated)


def told(chunks, before=0):
    """What chunks hold: each record by its number, the damaged ones with their message and text."""
    found = {}
    for chunk in chunks:
        for number, cells in zip(chunk.row_numbers.to_pylist(), chunk.cells.to_pylist(), strict=True):
            found[before + number] = tuple(cells.values())
        for row in chunk.damaged:
            found[before + row.row_number] = (row.code, row.message, row.raw_text)
    return found


def in_parts(path, layout, part_bytes, chunk_rows=7):
    parts = parts_of(path, layout, part_bytes)
    found = {}
    for part in parts:
        found |= told(read_part(path, layout, part, chunk_rows), len(found))
    return parts, found


CELL = st.sampled_from(
    [
        "",
        "1",
        "x y",
        "é",
        "€uro",
        "\ufeff",
        "a" * 30,
        '"q"',
        '"two\nlines"',
        '"a\r\nb\rc"',
        '"say ""hi"""',
        '"x,y"',
    ]
)
LINE = st.one_of(
    st.lists(CELL, min_size=3, max_size=3).map(",".join),
    st.lists(CELL, min_size=3, max_size=3).map(",".join),
    st.lists(CELL, min_size=1, max_size=5).map(",".join),
    st.sampled_from(["", ",,", '1,"never closed,3', '"a"b,2,3', 'x,"5"" pipe', '"', "  "]),
)
TEXT = st.lists(st.tuples(LINE, st.sampled_from(["\n", "\n", "\r\n", "\r"])), min_size=1, max_size=120).map(
    lambda lines: "".join(line + end for line, end in lines)
)


@settings(max_examples=100)
@given(
    TEXT,
    st.sampled_from(["utf-8", "cp1252"]),
    st.booleans(),
    st.integers(7, 150),
    st.integers(1, 200),
    st.data(),
)
def test_whatever_is_in_a_text_its_parts_are_the_whole(text, encoding, marked, block, part_bytes, data):
    raw = ("a,b,c\n" + text).encode(encoding, "replace")
    if marked and encoding == "utf-8":
        raw = b"\xef\xbb\xbf" + raw
    damage = data.draw(st.sampled_from([None, None, None, b"\xff", b"\xe2\x82"]))
    if damage:
        at = data.draw(st.integers(6, len(raw)))
        raw = raw[:at] + damage + raw[at:]
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(encodings, "BLOCK_BYTES", block),
        patch.object(dialects, "TOP_BYTES", 16),
        patch.object(records, "LONGEST_QUOTED_RECORD", 90),
    ):
        path = Path(folder) / "file"
        path.write_bytes(raw)
        layout = layout_of(encoding)
        parts, found = in_parts(path, layout, part_bytes)
        if parts:
            assert found == told(read_delimited(path, layout, 7))
            assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
            assert parts[-1].end == len(raw)


def written(path, rows):
    path.write_text("a,b,c\n" + "".join(f'{row},"line\n{row}",é\n' for row in range(rows)), "utf-8")
    return path


def test_a_file_with_quoted_line_breaks_falls_into_hundreds_of_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 64)
    monkeypatch.setattr(dialects, "TOP_BYTES", 16)
    path = written(tmp_path / "file", 2_000)
    parts, found = in_parts(path, layout_of(), 100)
    assert len(parts) > 200
    assert found == {row + 1: (str(row), f"line\n{row}", "é") for row in range(2_000)}
    assert parts[1].line == 2 + 2 * len(told(read_part(path, layout_of(), parts[0], 7)))


def test_parts_are_as_large_as_asked_for_and_a_small_file_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 1_000)
    monkeypatch.setattr(dialects, "TOP_BYTES", 16)
    path = written(tmp_path / "file", 2_000)
    parts = parts_of(path, layout_of(), 5_000)
    assert len(parts) > 5
    assert all(5_000 <= part.end - part.start <= 7_000 for part in parts[:-1])
    assert parts_of(path, layout_of(), path.stat().st_size // 2) == ()


def test_bytes_that_are_no_text_keep_a_file_whole(tmp_path, monkeypatch):
    """They become longer when they are shown, so that no place behind them is known."""
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 64)
    monkeypatch.setattr(dialects, "TOP_BYTES", 16)
    path = written(tmp_path / "file", 100)
    assert parts_of(path, layout_of(), 100)
    path.write_bytes(path.read_bytes() + b"\xff,2,3\n")
    assert parts_of(path, layout_of(), 100) == ()


def test_a_line_that_is_no_record_ends_the_planning_as_it_ends_the_reading(tmp_path):
    path = tmp_path / "file"
    path.write_text("a,b,c\n1,2,3\n" + "x" * (14 << 20))
    with pytest.raises(UnreadableError, match="line 3"):
        parts_of(path, layout_of(), 1 << 20)


@pytest.mark.parametrize(
    ("layout", "may"),
    [
        (layout_of(), True),
        (layout_of("cp1252"), True),
        (layout_of("iso8859-1", ";"), True),
        (layout_of("utf-16-le"), False),
        (layout_of("gb18030"), False),
        (layout_of("shift_jis"), False),
        (layout_of("utf-7"), False),
        (layout_of(delimiter="¦"), False),
        (layout_of(compression="gzip"), False),
        (layout_of(written_as=layout_of()), False),
        (Layout("parquet", HEADER, {}, "generic"), False),
    ],
)
def test_only_a_text_of_which_each_byte_has_its_place_may_be_parted(layout, may):
    assert may_be_parted(layout) is may
