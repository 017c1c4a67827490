"""Every day from 1990 to 2030, in all spellings and orders; what can be read two ways, or in none, is a finding."""

from __future__ import annotations

import calendar
from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline.model import Layout, TextChunk
from bulk_upload_pipeline.parse import date_order_of
from bulk_upload_pipeline.parsing.dates import AMBIGUOUS, INVALID, order_shown_by, read_date

FIRST, LAST = date(1990, 1, 1), date(2030, 12, 31)
DAYS = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
ORDERS = (None, "dmy", "mdy", "ymd")
DAY_FIRST = ("%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y")
MONTH_FIRST = ("%m/%d/%Y", "%m-%d-%Y", "%m.%d.%Y")
PLAIN = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d-%b-%Y",
    "%d %B %Y",
    "%B %d, %Y",
    "%b-%d-%Y",
    "%Y-%b-%d",
    "%d%b%Y",
)
TIMES = (
    "00:00",
    "23:59:59",
    "T00:00:00Z",
    "T23:59:59.999999+14:00",
    "T00:30-0800",
    "12:00:00 AM",
    "11:59 pm",
)
days = st.dates(FIRST, LAST)


def sloppy(text):
    """`03/04/2024` as `3/4/2024`."""
    return "/".join(part.lstrip("0") for part in text.split("/"))


@pytest.mark.parametrize("spelling", PLAIN)
def test_every_day_is_read_from_a_spelling_that_says_which_figure_is_which(spelling):
    for day in DAYS:
        assert read_date(day.strftime(spelling), None) == day
        assert read_date(day.strftime(spelling).upper(), "mdy") == day


@pytest.mark.parametrize(
    ("order", "spelling"), [*(("dmy", s) for s in DAY_FIRST), *(("mdy", s) for s in MONTH_FIRST)]
)
def test_every_day_in_figures_is_read_in_the_order_that_is_known(order, spelling):
    for day in DAYS:
        assert read_date(day.strftime(spelling), order) == day
        assert read_date(sloppy(day.strftime(spelling)), order) == day


@pytest.mark.parametrize(("spelling", "shown"), [(DAY_FIRST[0], "dmy"), (MONTH_FIRST[1], "mdy")])
def test_every_day_in_figures_is_read_without_an_order_exactly_when_it_can_be_read_one_way(spelling, shown):
    for day in DAYS:
        text = day.strftime(spelling)
        one_way = day.day > 12 or day.day == day.month
        assert read_date(text, None) == (day if one_way else AMBIGUOUS)
        assert order_shown_by(text) == (shown if day.day > 12 else None)


def test_a_day_that_can_be_read_one_way_is_read_so_whatever_order_is_known():
    for day in DAYS:
        if day.day > 12:
            assert read_date(day.strftime("%m/%d/%Y"), "dmy") == day
            assert read_date(day.strftime("%d/%m/%Y"), "mdy") == day


@pytest.mark.parametrize(
    ("order", "spelling"), [("dmy", "%d/%m/%y"), ("mdy", "%m-%d-%y"), ("ymd", "%y.%m.%d")]
)
def test_two_figures_of_a_year_are_read_only_where_the_order_is_known(order, spelling):
    for day in DAYS:
        if day.year >= 2000:
            assert read_date(day.strftime(spelling), order) == day
            assert read_date(day.strftime(spelling), None) == AMBIGUOUS
            assert order_shown_by(day.strftime(spelling)) is None


@pytest.mark.parametrize("order", ORDERS)
def test_every_day_that_never_was_is_a_finding(order):
    for year in range(1990, 2031):
        for month in range(1, 13):
            for day in range(calendar.monthrange(year, month)[1] + 1, 32):
                name = calendar.month_abbr[month]
                texts = [f"{year}-{month:02}-{day:02}", f"{day}/{month}/{year}", f"{month}-{day}-{year}"]
                for text in [*texts, f"{day}-{name}-{year}", f"{name} {day}, {year}"]:
                    assert read_date(text, order) == INVALID, text


@given(days, st.sampled_from(TIMES), st.sampled_from(["%Y-%m-%d", "%d-%b-%Y", "%Y/%m/%d"]))
def test_no_time_and_no_zone_shifts_a_day(day, time, spelling):
    text = day.strftime(spelling) + (time if time.startswith("T") else f" {time}")
    assert read_date(text, None) == day


@given(st.datetimes(), st.sampled_from(["T", " "]))
def test_python_and_this_room_read_the_same_iso_times(moment, between):
    moment = moment.replace(year=1990 + moment.year % 41, day=min(moment.day, 28))
    assert read_date(moment.isoformat(between), None) == moment.date()


@given(days, st.sampled_from(["", " ", "\u00a0", "\t", "\u3000", "\ufeff"]))
def test_blanks_around_and_digits_of_other_scripts_do_not_matter(day, blank):
    text = day.isoformat().translate(str.maketrans("0123456789", "０１２３４５６７８９"))
    assert read_date(f"{blank}{text}{blank}", None) == day
    assert read_date(day.isoformat().translate(str.maketrans("0123456789", "०१२३४५६७८९")), None) == day


@given(st.integers(10_000, 109_000), st.sampled_from(["", ".0", ".5", ".99999"]))
def test_a_serial_of_excel_is_its_day_and_in_text_a_finding(serial, fraction):
    assert read_date(f"{serial}{fraction}", None, excel_serials=True) == date(1899, 12, 30) + timedelta(
        serial
    )
    assert read_date(f"{serial}{fraction}", None) == INVALID


@given(st.integers(0, 9_999), st.sampled_from(["", ".0", ".5"]))
def test_a_year_or_another_small_number_in_a_sheet_is_no_day(number, fraction):
    assert read_date(f"{number}{fraction}", None, excel_serials=True) == INVALID


@given(st.integers(0, 99_999))
def test_figures_that_begin_with_a_zero_are_no_serial(number):
    assert read_date(f"{number:06}", None, excel_serials=True) == INVALID


WRONG = {
    "no such day": (
        "31-Feb-2024",
        "2023-02-29",
        "32/01/2024",
        "13/13/2024",
        "2024-31-12",
        "00/00/0000",
        "0000-00-00",
    ),
    "words": ("yesterday", "today", "now", "infinity", "epoch", "31 Foo 2024", "31-Deck-2024", "1 Mayo 2024"),
    "parts": (
        "31-Feb",
        "31 Dec",
        "Dec 2024",
        "1/2",
        "2024",
        "2024-12",
        "12/2024",
        "12:00",
        "T12:00",
        "2024-W01-1",
    ),
    "figures": ("241231", "20241231", "45658", "0", "-1", "2024-366", "1/1/20245", "3¹/12/2024"),
    "marks": ("31/12-2024", "2024/12-31", "2024--12-31", "-2024-12-31", "31/12/2024/5", "2024-12-31T"),
    "times": (
        "2024-12-31 25:00",
        "2024-12-31 12:60",
        "2024-12-31 13:00 PM",
        "2024-12-31 24:00",
        "2024-12-31 noon",
    ),
    "more": ("2024-12-31x", "x2024-12-31", "2024-12-31; 2025-01-01", "1899-12-31", "2201-01-01"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", [text for texts in WRONG.values() for text in texts])
def test_what_is_no_day_is_a_finding(text, order):
    assert read_date(text, order) == INVALID


@pytest.mark.parametrize("text", ["", "  ", "NULL", "n/a", "na", "NaN", "None", "-", "\u00a0"])
def test_what_says_that_there_is_no_day_is_absent(text):
    assert read_date(text, None) is None


@given(st.text(st.sampled_from("0123456789/-. :TZadeFbn"), max_size=14), st.sampled_from(ORDERS))
def test_whatever_stands_there_is_a_day_of_sense_absent_or_a_finding(text, order):
    read = read_date(text, order)
    assert read is None or read in (INVALID, AMBIGUOUS) or 1900 <= read.year <= 2200


def chunk_of(texts):
    return TextChunk(pa.table({"0": pa.array(texts, pa.string())}), pa.array(range(len(texts)), pa.int64()))


@given(
    st.lists(
        st.tuples(days, st.sampled_from([*DAY_FIRST, *MONTH_FIRST, "%Y-%m-%d", "%d/%m/%y"])), max_size=12
    ),
    st.integers(1, 4),
)
def test_a_file_agrees_on_an_order_when_all_days_that_show_one_show_the_same(spelled, rows):
    texts = [day.strftime(spelling) for day, spelling in spelled]
    shown = {
        "dmy" if spelling in DAY_FIRST else "mdy"
        for day, spelling in spelled
        if day.day > 12 and spelling in (*DAY_FIRST, *MONTH_FIRST)
    }
    chunks = [chunk_of(texts[at : at + rows]) for at in range(0, len(texts), rows)]
    layout = Layout("csv", ("Invoice Date",), {"invoice_date": 0}, "zoho")
    assert date_order_of(chunks, layout) == (shown.pop() if len(shown) == 1 else None)
