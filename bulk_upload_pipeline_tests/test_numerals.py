"""Numbers in every spelling, against Python's own decimals: what is right is exact, what is wrong a finding."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulk_upload_pipeline.parsing.decimals import even_decimals
from bulk_upload_pipeline.parsing.numerals import INVALID, TOO_LARGE, TOO_PRECISE, Notation, read_number

DIGITS = {
    "ascii": "0123456789",
    "full width": "０１２３４５６７８９",
    "devanagari": "०१२३४५६७८९",
    "bengali": "০১২৩৪৫৬৭৮৯",
    "arabic": "٠١٢٣٤٥٦٧٨٩",
}
CURRENCIES = ["₹", "Rs.", "rs", "RS. ", "INR", "inr ", "$", "US$", "USD", "€", "EUR ", "£", "GBP"]
BLANKS = ["", " ", "  ", "\t", "\u00a0", "\u3000", "\u200b"]

values = st.decimals(0, Decimal("99999999999.9999"), places=4, allow_nan=False)


def western(whole):
    """`1234567` as `1,234,567`."""
    return f"{int(whole):,}"


def indian(whole):
    """`1234567` as `12,34,567`: three digits, then pairs."""
    whole = str(int(whole))
    head, tail = whole[:-3], whole[-3:]
    pairs = []
    while head:
        pairs.insert(0, head[-2:])
        head = head[:-2]
    return ",".join([*pairs, tail])


@st.composite
def figures(draw, value, mark="."):
    """An unsigned number as people write it: grouped or not, in the digits of some script."""
    whole, _, decimals = f"{value:.4f}".partition(".")
    grouping = draw(st.sampled_from([str, western, indian]))
    whole = grouping(whole) if grouping is not str else draw(st.sampled_from(["", "0", "00"])) + whole
    other = {".": ",", ",": "."}[mark]
    whole = whole.replace(",", draw(st.sampled_from([other, "\u00a0", "\u2009", "\u202f"])))
    shortest = decimals.rstrip("0")
    decimals = draw(st.sampled_from([shortest, decimals, decimals + "000"]))
    if value < 1 and decimals.strip("0") and draw(st.booleans()):
        whole = ""
    text = whole + (mark if decimals or draw(st.booleans()) else "") + decimals
    text = draw(st.sampled_from([text, text.replace(".", "．").replace(",", "，")]))
    digits = DIGITS[draw(st.sampled_from(sorted(DIGITS)))]
    return text.translate(str.maketrans(DIGITS["ascii"], digits))


@st.composite
def spellings(draw, mark="."):
    """A number, and a text that means it."""
    value = draw(values)
    text = draw(figures(value, mark))
    blank = st.sampled_from(BLANKS[:5])
    money = draw(st.sampled_from(["", *CURRENCIES]))
    if text[0] in ".．" and money.strip().isalpha():
        money = ""  # `Rs.5` means five rupees
    how = draw(st.sampled_from(["plain", "minus", "plus", "behind", "brackets", "money brackets"]))
    if money and draw(st.booleans()) and how not in ("behind", "money brackets"):
        text, money = f"{text}{draw(blank)}{money.strip()}", ""
    money += draw(blank)
    minus, plus = draw(st.sampled_from("-−－")), draw(st.sampled_from("+＋"))
    opening, closing = draw(st.sampled_from(["()", "（）"]))
    text = {
        "plain": f"{money}{text}",
        "minus": draw(st.sampled_from([f"{minus}{money}{text}", f"{money}{minus}{text}"])),
        "plus": f"{plus}{money}{text}",
        "behind": f"{money}{text}{minus}",
        "brackets": f"{opening}{money}{text}{closing}",
        "money brackets": f"{money}{opening}{text}{closing}",
    }[how]
    negative = how in ("minus", "behind", "brackets", "money brackets")
    around = draw(st.sampled_from(BLANKS)), draw(st.sampled_from(BLANKS))
    return (-value if negative and value else value), around[0] + text + around[1]


@given(spellings())
@example((Decimal("123456.50"), "1,23,456.50"))
@example((Decimal("1234.5"), "1,234.5"))
@example((Decimal(45), "₹ 45.00"))
@example((Decimal(45), "Rs. 45/-"))
@example((Decimal("1.5"), "$1.5"))
@example((Decimal(-12), "(12.00)"))
@example((Decimal(-1234), " $ (1,234.00)"))
@example((Decimal(-12), "12.00-"))
@example((Decimal(1500), "1.5E+3"))
@example((Decimal("99999999999.9999"), "9,999,99,99,999.9999".replace(",", "")))
def test_a_number_in_any_spelling_is_read_exactly(spelled):
    value, text = spelled
    number = read_number(text)
    assert number == value, text
    assert not isinstance(number, float)
    assert -number.as_tuple().exponent <= 4


@given(spellings(mark=","))
@example((Decimal("1234.56"), "1.234,56"))
@example((Decimal("0.5"), "0,5"))
@example((Decimal(1234), "1.234"))
def test_a_sender_with_a_decimal_comma_is_read_exactly(spelled):
    value, text = spelled
    assert read_number(text, Notation.COMMA) == value, text


@given(values, st.sampled_from([",", "."]), st.booleans())
def test_where_both_marks_may_stand_a_number_is_read_as_written_or_refused(value, mark, grouped):
    """Grouped with decimals behind, each notation shows which it is; `1.234` alone could be either."""
    whole, _, decimals = f"{value:.4f}".partition(".")
    other = {".": ",", ",": "."}[mark]
    spelled = western(whole).replace(",", other) if grouped else whole
    decimals = decimals.rstrip("0")
    text = spelled + (mark + decimals if decimals else "")
    read = read_number(text, Notation.EITHER)
    could_be_either = {
        ".": (len(decimals) == 3 and 0 < int(whole) < 1000) or (grouped and int(whole) >= 1000),
        ",": grouped and not decimals and 1000 <= int(whole) < 1_000_000,
    }
    if could_be_either[mark]:
        assert read == INVALID, text
    else:
        assert read == value, text


def oracle(text):
    """The contract for figures, signs and brackets, in the plainest words."""
    body, negative = text, False
    if body.startswith("(") and body.endswith(")") and len(body) > 2 and not set(body) & set("+-"):
        body, negative = body[1:-1], True
    elif body[:1] in ("+", "-"):
        body, negative = body[1:], body[0] == "-"
    elif body[-1:] in ("+", "-"):
        body, negative = body[:-1], body[-1] == "-"
    whole, _, decimals = body.partition(".")
    digits = whole.replace(",", "")
    if not (digits + decimals).isdecimal():
        return INVALID
    if "," in whole and whole not in (western(digits or "0"), indian(digits or "0")):
        return INVALID
    value = Decimal(f"{digits or 0}.{decimals or 0}")
    if value >= 10**11:
        return TOO_LARGE
    if decimals.rstrip("0")[4:]:
        return TOO_PRECISE
    return -value if negative and value else value


@given(st.text("0123456789.,-+()", min_size=1, max_size=16).filter(lambda text: text != "-"))
@example("0,125")
@example("01,234")
@example("1,23")
@example("12,34")
@example("1,2345")
@example("1,234,56")
@example("12,34,567")
@example("123,456,78")
@example(".")
@example("()")
@example("-(5)")
@example("(-5)")
@example("-5-")
@example("100000000000")
@example("0.00001")
def test_figures_are_read_or_refused_as_the_oracle_says(text):
    assert read_number(text) == oracle(text)


WRONG = {
    "letters": ("12abc", "1O.50", "TRUE", "五", "١٢٣x", "0x1F", "Ⅴ", "1e", "e5", "Rs.", "₹", "5 Rs Rs"),
    "no figures": ("inf", "-inf", "Infinity", "snan", "½", "5²", "1e999", "1e5.5", "2024-12-31"),
    "marks": ("3..5", "1.2.3", "0,5", "1_000", "1'234", "1/2", "=1+1", "12%", "5٪", "1\x002"),
    "groups": ("1,23", "1,,234", ",123", "12,", "4 5", "1 000", "1,234 567", "1\n2"),
    "signs": ("--5", "+-5", "5--", "- - 5", "5-5", "5+5", "-5-", "+5-"),
    "brackets": ("(5", "5)", "((5))", "(5)-", "(-5)", "()", "₹ (5", "$(5"),
    "currencies": ("$5$", "$ 5 $", "₹₹5", "5 €€", "₹(₹5)", "₹(5)₹"),
    "a point of the abbreviation, or of the figures": ("Rs .50", "INR .50", "-rs  .5", "Inr\u00a0.5"),
}


@pytest.mark.parametrize("text", [text for texts in WRONG.values() for text in texts])
def test_what_is_no_number_is_a_finding(text):
    assert read_number(text) == INVALID


@given(values, st.integers(0, 20), st.sampled_from("abcOlIxyz#*_'\"/:;=\0"))
def test_a_number_with_anything_else_within_is_a_finding(value, at, intruder):
    text = f"{value:f}"
    at = min(at, len(text) - 1)
    assert read_number(text[:at] + intruder + text[at:]) == INVALID


@given(st.integers(12, 40), st.sampled_from(["", "-", "₹"]))
def test_more_digits_than_an_amount_holds_are_a_finding_never_a_rounding(digits, sign):
    assert read_number(sign + "9" * digits) == TOO_LARGE
    assert read_number(f"{sign}1.{'0' * (digits - 1)}1") == TOO_PRECISE
    assert read_number(f"{sign}1.{'0' * digits}") == Decimal(f"{sign.replace('₹', '')}1")


@given(st.decimals("-99999999999", "99999999999", places=4), st.integers(-20, 20))
def test_an_exponent_moves_the_point_exactly(value, exponent):
    scaled = value.scaleb(-exponent)
    assert read_number(f"{scaled:f}E{exponent:+}") == value


@pytest.mark.parametrize("text", ["", " ", "NULL", "n/a", "NA", "NaN", "none", "-", "\u00a0-\u00a0"])
def test_what_says_that_there_is_no_number_is_absent(text):
    assert read_number(text) is None


def test_a_percentage_is_read_only_where_one_may_stand():
    assert read_number("12.5%", percent=True) == Decimal("12.5")
    assert read_number("１２％", percent=True) == Decimal(12)
    assert read_number("12 %", percent=True) == Decimal(12)
    assert read_number("%", percent=True) == INVALID


@pytest.mark.parametrize(
    ("text", "code"),
    [("#N/A", "SPREADSHEET_ERROR"), ("#NV", "SPREADSHEET_ERROR"), ("1\ufffd2", "UNDECODABLE_TEXT")],
)
def test_a_spoilt_cell_says_what_spoilt_it(text, code):
    assert read_number(text) == code


FIGURES = st.from_regex(r"\A-?[0-9]{1,12}\.[0-9]{1,5}\Z")
ANY_SIGNS = st.text("0123456789.-", max_size=8)


@given(st.lists(FIGURES, min_size=1, max_size=20), st.integers(1, 5))
def test_a_column_with_as_many_decimals_everywhere_is_read_exactly_or_left_to_the_slow_way(texts, decimals):
    cells = [f"{text.partition('.')[0]}.{text.partition('.')[2][:decimals]:0>{decimals}}" for text in texts]
    amounts = even_decimals(pa.array(cells))
    within = decimals <= 4 and all(abs(Decimal(cell)) < 10**11 for cell in cells)
    assert (amounts is not None) == within
    assert amounts is None or amounts.to_pylist() == [Decimal(cell) for cell in cells]


@given(st.lists(FIGURES | ANY_SIGNS, max_size=4))
def test_a_column_of_figures_points_and_hyphens_is_read_as_its_cells_are_or_not_at_all(cells):
    amounts = even_decimals(pa.array(cells, pa.string()))
    if amounts is not None:
        assert amounts.to_pylist() == [Decimal(cell) for cell in cells]
        amounts.validate(full=True)


def test_some_cells_of_a_longer_column_are_read_alone():
    column = pa.array(["1.25", "-2.50", "3.75"])
    amounts = even_decimals(column.slice(1, 1))
    assert amounts is not None
    assert amounts.to_pylist() == [Decimal("-2.50")]
