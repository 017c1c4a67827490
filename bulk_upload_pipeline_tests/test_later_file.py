"""Of two files that say something about one line, the later wins, in whichever order they are loaded."""

from __future__ import annotations

import os

import pytest

from bulk_upload_pipeline import intake
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, line_at, rows


@pytest.fixture
def line(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url) as line:
        yield line


def priced(price, *numbers):
    """A file that says a price of some lines."""
    changed = {"Item Price": str(price), "Item Total": str(4 * price)}
    return csv_of([good_row(number, **changed) for number in numbers])


def prices(line):
    found = rows(line, "SELECT invoice_number, item_price FROM mangalam_invoices ORDER BY 1")
    return {int(number.removeprefix("INV-")): int(price) for number, price in found}


def settled(line):
    """Two looks, as the sensor's, and what is to be started after them."""
    first = intake.survey(line, {}, lambda _: False)
    return intake.survey(line, first.seen, lambda _: False).requests


def test_of_two_files_that_one_look_sees_the_one_that_was_written_later_wins(line):
    for name, price, written_at in (("report.csv", 10, 1_700_000_000), ("amended.csv", 12, 1_700_003_600)):
        (line.home.inbox / name).write_text(priced(price, 1))
        os.utime(line.home.inbox / name, (written_at, written_at))
    for request in reversed(settled(line)):
        stages.take(line, request.batch_id)
    assert prices(line) == {1: 12}


def test_of_two_files_in_a_zip_the_one_behind_wins(line):
    packed = writers.zip_of({"report.csv": priced(10, 1).encode(), "amended.csv": priced(12, 1).encode()})
    stages.take(line, drop(line, "both.zip", packed))
    for request in reversed(settled(line)):
        stages.take(line, request.batch_id)
    assert prices(line) == {1: 12}
