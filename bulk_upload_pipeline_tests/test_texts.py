"""Texts and identifiers, cell by cell against the contract in plain Python; nothing is cut and nothing glued."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulk_upload_pipeline.parsing.cells import SPREADSHEET_ERRORS
from bulk_upload_pipeline.parsing.texts import looks_encoded_twice, read_texts

KEPT = "\t\n\r"
EDGES = ["", " ", "\t", "\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u2028", "\x1f", "\0", "\x85"]
ODD = ["\0", "\b", "\x1b", "\x7f", "\x90", "\ufffd", "\u200d", "é", "क्ष", "😀", "\r\n", "#", " "]
WORDS = [
    *"abc",
    "Kaju Katli",
    "NA",
    "NULL",
    "-",
    "007",
    "#N/A",
    "#ref!",
    "#1",
    "Café",
    "CafÃ©",
    "ÃƒÂ©",
    "naïve",
]

cells = st.one_of(
    st.none(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.tuples(
        st.sampled_from(EDGES), st.sampled_from([*ODD, *WORDS]), st.sampled_from(ODD), st.sampled_from(EDGES)
    ).map("".join),
)


def is_control(c):
    return unicodedata.category(c) == "Cc" and c not in KEPT


def trimmed(text):
    """White space of any width and marks of no width at the edges are nothing; separators are control characters."""
    while text and (text[0] in "\u200b\ufeff" or (text[0].isspace() and text[0] not in "\x1c\x1d\x1e\x1f")):
        text = text[1:]
    while text and (
        text[-1] in "\u200b\ufeff" or (text[-1].isspace() and text[-1] not in "\x1c\x1d\x1e\x1f")
    ):
        text = text[:-1]
    return text


def oracle(cell):
    """What a cell loads as, and the codes that it earns."""
    if cell is None:
        return None, set()
    text = trimmed(cell)
    if "\ufffd" in text:
        return None, {"UNDECODABLE_TEXT"}
    if text.lower() in SPREADSHEET_ERRORS:
        return None, {"SPREADSHEET_ERROR"}
    found = {"DOUBLE_ENCODED_TEXT"} if looks_encoded_twice(text) else set()
    if any(map(is_control, text)):
        found.add("CONTROL_CHARACTERS")
        text = trimmed("".join(c for c in text if not is_control(c)))
    return text or None, found


def read(*texts, **how):
    """What a column of cells loads as, and the codes of each cell."""
    column = read_texts(pa.array(texts, pa.string()), **how)
    found = [set() for _ in texts]
    for finding in column.findings:
        for at, hit in enumerate(finding.where.to_pylist()):
            if hit:
                found[at].add(finding.code)
    return column.values.to_pylist(), found


@given(st.lists(cells, max_size=6))
@example([None])
@example([""])
@example(["\0"])
@example([" \x00 a"])
@example(["a", "#N/A "])
def test_a_column_of_text_loads_as_the_oracle_says(texts):
    values, found = read(*texts)
    expected = [oracle(text) for text in texts]
    assert values == [value for value, _ in expected]
    assert found == [codes for _, codes in expected]


@given(
    st.lists(
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=6), min_size=1
    )
)
def test_a_column_reads_the_same_whole_or_in_slices(texts):
    whole = read_texts(pa.array([*texts, None, "é"]))
    for at in range(len(texts)):
        sliced = read_texts(pa.array([*texts, None, "é"]).slice(at, 2))
        assert sliced.values.to_pylist() == whole.values.to_pylist()[at : at + 2]


@pytest.mark.parametrize("name", ["NA", "Null", "none", "N/A", "-", "nan"])
def test_a_name_that_looks_like_no_value_stays_in_a_column_of_text(name):
    assert read(name) == ([name], [set()])


def test_line_breaks_inside_a_text_stay():
    assert read("Kaju\r\nKatli\n500 g ") == (["Kaju\r\nKatli\n500 g"], [set()])


def test_joiners_that_indian_scripts_need_stay():
    assert read("क्\u200dष", "നന്\u200d") == (["क्\u200dष", "നന്\u200d"], [set(), set()])


@given(st.integers(0, 10**16 - 1), st.integers(1, 20))
def test_an_identifier_keeps_leading_zeros_and_all_its_digits(number, width):
    text = f"{number:0{width}}"
    assert read(text, text + "\u00a0")[0] == [text, text]
    assert read(text, float_identifier=True)[0] == [text]


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("17850.0", "17850"),
        ("0017850.0", "0017850"),
        ("1234567890123456.0", "1234567890123456"),
        (" 7.0 ", "7"),
        ("17850.5", "17850.5"),
        ("17850.00", "17850.00"),
        ("A1.0", "A1.0"),
        ("1.0.0", "1.0.0"),
        (".0", ".0"),
    ],
)
def test_an_identifier_that_came_as_a_float_loses_its_point_only_where_the_sender_is_known_for_it(
    text, identifier
):
    assert read(text, float_identifier=True)[0] == [identifier]
    assert read(text)[0] == [text.strip()]


SCRIPTS = (
    (0xA0, 0x17F),
    (0x380, 0x3FF),
    (0x400, 0x47F),
    (0x900, 0xDFF),
    (0x2010, 0x20BF),
    (0x1F300, 0x1F6FF),
)


def read_as_windows_1252(text):
    """What a program makes of UTF-8 that it takes for Windows-1252; bytes without a character stay as they are."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())


@given(st.lists(st.one_of([st.characters(min_codepoint=a, max_codepoint=b) for a, b in SCRIPTS]), min_size=1))
def test_what_was_encoded_twice_is_remarked_on_and_loads(letters):
    damaged = read_as_windows_1252(f"x {''.join(letters)} y")
    values, (found,) = read(damaged)
    assert "DOUBLE_ENCODED_TEXT" in found
    assert values == ["".join(c for c in damaged if not is_control(c))]


@given(st.text(st.characters(min_codepoint=0xC0, max_codepoint=0xFF) | st.sampled_from("abc -"), max_size=8))
def test_ordinary_letters_are_not_taken_for_damage(text):
    assert read(f"x{text}y")[1] == [set()]
