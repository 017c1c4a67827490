"""Of two files that say something about one line, the later wins, in whichever order they are loaded."""

from __future__ import annotations

import os

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, receipt, rows, settled


def priced(price, *numbers):
    """A file that says a price of some lines."""
    changed = {"Item Price": str(price), "Item Total": str(4 * price)}
    return csv_of([good_row(number, **changed) for number in numbers])


def prices(line):
    found = rows(line, "SELECT invoice_number, item_price FROM mangalam_invoices ORDER BY 1")
    return {int(number.removeprefix("INV-")): int(price) for number, price in found}


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


def test_a_file_that_is_loaded_late_changes_no_line_that_a_later_one_says_just_as_it_stands(line):
    stages.take(line, drop(line, "first.csv", priced(10, 1, 2)))
    late = drop(line, "late.csv", priced(12, 1, 2))
    stages.fail(line, late, "The power went.")
    stages.take(line, drop(line, "later.csv", priced(10, 1, 3)))
    account = stages.take(line, late)
    assert prices(line) == {1: 10, 2: 12, 3: 10}
    assert (account.rows_updated, account.rows_unchanged) == (1, 1)


def test_a_line_that_a_later_file_says_too_stays_when_the_first_load_is_undone_and_is_then_the_later_files(
    line,
):
    first = drop(line, "first.csv", priced(10, 1, 2))
    stages.take(line, first)
    later = drop(line, "later.csv", priced(10, 3, 2))
    assert stages.take(line, later).rows_unchanged == 1
    undone = stages.revert(line, first)
    assert prices(line) == {2: 10, 3: 10}
    assert undone.reason == (
        "The load was undone: 1 rows are gone, and 0 have their former values again. 1 stay: they stand in later "
        f"files, too ({later}). The same file can be loaded anew."
    )
    account = receipt(line, later)
    assert (account.rows_inserted, account.rows_unchanged) == (2, 0)
    assert rows(line, "SELECT DISTINCT upload_batch_id, row_number FROM mangalam_invoices ORDER BY 2") == [
        (later, 1),
        (later, 2),
    ]
    stages.revert(line, later)
    assert prices(line) == {}


def test_undoing_the_later_file_then_brings_back_what_was_before_the_first(line):
    stages.take(line, drop(line, "oldest.csv", priced(8, 1)))
    changed = drop(line, "changed.csv", priced(10, 1))
    stages.take(line, changed)
    later = drop(line, "later.csv", priced(10, 1) + "\n")
    stages.take(line, later)
    stages.revert(line, changed)
    assert prices(line) == {1: 10}
    assert receipt(line, later).rows_updated == 1
    stages.revert(line, later)
    assert prices(line) == {1: 8}


def test_what_a_file_confirmed_is_forgotten_when_its_load_is_undone(line):
    first = drop(line, "first.csv", priced(10, 1))
    stages.take(line, first)
    later = drop(line, "later.csv", priced(10, 1) + "\n")
    stages.take(line, later)
    stages.revert(line, later)
    assert prices(line) == {1: 10}
    stages.revert(line, first)
    assert prices(line) == {}
    assert rows(line, "SELECT count(*) FROM bulk_upload.confirmed_rows") == [(0,)]
