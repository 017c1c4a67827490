"""What is made ahead comes in order, bounded and with its errors; and progress is told."""

from __future__ import annotations

import threading

import pytest

from bulk_upload_pipeline import pace
from bulk_upload_pipeline.overlap import ahead
from bulk_upload_pipeline.pace import Pace, in_words


def test_the_next_item_is_made_while_the_caller_has_one():
    made = [threading.Event() for _ in range(20)]

    def items():
        for item, done in enumerate(made):
            done.set()
            yield item

    for expected, item in enumerate(ahead(items())):
        assert item == expected
        assert all(done.wait(10) for done in made[: item + 2])


def test_never_more_than_one_item_waits_for_the_caller():
    made = 0

    def items():
        nonlocal made
        for item in range(50):
            made += 1
            yield item

    assert all(made <= taken + 1 for taken, _ in enumerate(ahead(items()), start=1))


@pytest.mark.parametrize("count", [0, 1])
def test_what_has_nothing_beside_it_is_made_where_it_is_asked_for(count):
    makers = ahead(threading.current_thread() for _ in range(count))
    assert list(makers) == [threading.current_thread()] * count


def test_an_error_of_the_items_is_raised_behind_those_before_it():
    def items():
        yield from range(3)
        raise KeyError("gone")

    coming = ahead(items())
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(coming)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_told_at_most_every_two_seconds_and_two_percent(clock):
    told = []
    stage = Pace("loading", told.append, rows_total=100_000)
    for _ in range(1_000):
        clock[0] += 0.1
        stage.advance(100)
    assert 45 <= len(told) <= 50
    assert (told[0].rows_done, told[0].percent) == (2_000, 2.0)
    assert told[0].rows_per_second == pytest.approx(1_000)
    assert told[0].eta_seconds == pytest.approx(98)


def test_progress_reads_as_a_line(clock):
    told = []
    stage = Pace("loading", told.append, rows_total=200_000)
    clock[0] = 10.0
    stage.advance(50_000)
    assert in_words(told[0]) == "loading 25 %, 50,000 of 200,000 rows, 5,000 rows/s, 30 s left"


def test_progress_without_a_known_end_says_no_percentage(clock):
    told = []
    stage = Pace("validating", told.append)
    clock[0] = 10.0
    stage.advance(50_000)
    assert in_words(told[0]) == "validating 50,000 rows, 5,000 rows/s"
