"""Stages beside each other: in order, bounded, and with their errors."""

from __future__ import annotations

import threading

import pytest

from bulk_upload_pipeline import pace
from bulk_upload_pipeline.overlap import in_order
from bulk_upload_pipeline.pace import Pace, in_words


def test_results_come_in_the_order_of_the_items_whichever_is_done_first():
    second_done = threading.Event()

    def work(item):
        if item == 0:
            second_done.wait(10)
        if item == 1:
            second_done.set()
        return item

    assert list(in_order(work, range(20))) == list(range(20))


def test_never_more_items_are_held_than_workers_and_the_one_being_read():
    held, most, lock = 0, 0, threading.Lock()

    def items():
        nonlocal held, most
        for item in range(50):
            with lock:
                held += 1
                most = max(most, held)
            yield item

    for _ in in_order(lambda item: item, items(), workers=2):
        with lock:
            held -= 1
    assert most <= 4


@pytest.mark.parametrize("items", [[], ["only"]])
def test_what_has_nothing_beside_it_is_worked_on_where_it_is_asked_for(items):
    def work(item):
        return item, threading.current_thread()

    assert list(in_order(work, iter(items))) == [(item, threading.current_thread()) for item in items]


def test_an_error_of_the_work_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // (5 - item), range(10)))


def test_an_error_of_the_items_is_raised():
    def items():
        yield 1
        raise KeyError("gone")

    with pytest.raises(KeyError):
        list(in_order(lambda item: item, items()))


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
