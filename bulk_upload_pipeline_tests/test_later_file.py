"""Of two files that say something about one line, the later wins, in whichever order they are loaded."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from bulk_upload_pipeline import evidence
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import RevertForbiddenError
from bulk_upload_pipeline.inspection import control_totals
from bulk_upload_pipeline.model import Overrides
from bulk_upload_pipeline.trace import in_words, trace
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.upped import wait_until
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
        "The load was undone: 1 row is gone, and 0 have their former values again. 1 stays: it stands in a later "
        f"file, too ({later}). The same file can be loaded anew."
    )
    account = receipt(line, later)
    assert (account.rows_inserted, account.rows_unchanged) == (2, 0)
    assert rows(line, "SELECT DISTINCT upload_batch_id, row_number FROM mangalam_invoices ORDER BY 2") == [
        (later, 1),
        (later, 2),
    ]
    stages.revert(line, later)
    assert prices(line) == {}


def keep_rows_as_they_are(line):
    """Let a trigger of somebody's drop each change of a row without a word."""
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; "
            "CREATE TRIGGER keep BEFORE UPDATE ON public.mangalam_invoices FOR EACH ROW EXECUTE FUNCTION public.keep()"
        )


def test_a_line_that_is_left_to_a_later_file_is_not_lost_to_a_trigger_that_keeps_it_as_it_is(line):
    first = drop(line, "first.csv", priced(10, 1, 2))
    stages.take(line, first)
    stages.take(line, drop(line, "later.csv", priced(10, 3, 2)))
    keep_rows_as_they_are(line)
    with pytest.raises(RevertForbiddenError, match="leaves 1 row unchanged"):
        stages.revert(line, first)
    assert prices(line) == {1: 10, 2: 10, 3: 10}


def test_a_line_that_falls_to_an_earlier_file_is_not_lost_to_a_trigger_that_keeps_it_as_it_is(line):
    first = drop(line, "first.csv", priced(10, 1))
    stages.fail(line, first, "The power went.")
    later = drop(line, "later.csv", priced(12, 1, 2))
    stages.take(line, later)
    assert stages.take(line, first).rows_unchanged == 1
    keep_rows_as_they_are(line)
    with pytest.raises(RevertForbiddenError, match="leaves 1 row unchanged"):
        stages.revert(line, later)
    assert prices(line) == {1: 12, 2: 12}


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


@contextmanager
def loading_but_not_committed(line, batch_id):
    """A load of which the rows are settled; it waits to note its chunk until it is let, at the latest by the end."""
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    with ThreadPoolExecutor(1) as pool, line.engine.connect() as connection:
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.load_chunks (batch_id, chunk_index, plan, path, rows, inserted, updated, "
            "unchanged) VALUES (%s, 0, '', '', 0, 0, 0, 0)",
            (batch_id,),
        )
        mine = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        load = pool.submit(stages.load, line, batch_id)

        def let():
            connection.rollback()
            load.result(30)

        try:
            wait_until(lambda: load.done() or is_waited_for(line, mine), 30)
            assert not load.done()
            yield let
        finally:
            connection.rollback()
        let()
    stages.close(line, batch_id)


def is_waited_for(line, pid):
    query = "SELECT count(*) FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid))"
    return rows(line, query, pid=pid) != [(0,)]


@pytest.mark.parametrize("first", ["earlier", "later"])
def test_an_earlier_file_that_is_loaded_at_the_same_moment_changes_no_line_that_a_later_one_confirms(
    line, first
):
    stages.take(line, drop(line, "first.csv", priced(10, 1)))
    earlier = drop(line, "earlier.csv", priced(12, 1))
    later = drop(line, "later.csv", priced(10, 1) + "\n")
    with (
        loading_but_not_committed(line, later) as let_later,
        loading_but_not_committed(line, earlier) as let_earlier,
    ):
        (let_later if first == "later" else let_earlier)()
    assert prices(line) == {1: 10}
    assert receipt(line, earlier).rows_updated == receipt(line, later).rows_updated == (first == "earlier")


def test_a_file_that_arrives_while_an_earlier_one_is_settled_wins_nevertheless(line):
    stages.take(line, drop(line, "first.csv", priced(10, 1, 2)))
    earlier = drop(line, "earlier.csv", priced(12, 1, 2))
    stages.upload(line, earlier)
    stages.validate(line, earlier)
    with line.engine.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.exec_driver_sql(
            "SELECT FROM mangalam_invoices WHERE invoice_number = 'INV-000001' FOR UPDATE"
        )
        mine = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        load = pool.submit(stages.load, line, earlier)
        wait_until(lambda: is_waited_for(line, mine), 30)
        stages.take(line, drop(line, "later.csv", priced(14, 2)))
        connection.rollback()
        load.result()
    stages.close(line, earlier)
    assert prices(line) == {1: 12, 2: 14}
    assert receipt(line, earlier).rows_unchanged == 1


def test_a_line_whose_load_is_undone_at_the_moment_in_which_a_later_file_confirms_it_is_the_later_files(line):
    first = drop(line, "first.csv", priced(10, 1))
    stages.take(line, first)
    later = drop(line, "later.csv", priced(10, 1) + "\n")
    with loading_but_not_committed(line, later):
        stages.revert(line, first)
    assert prices(line) == {1: 10}
    assert receipt(line, later).rows_inserted == 1


def owners(line):
    found = rows(line, "SELECT invoice_number, upload_batch_id, row_number FROM mangalam_invoices ORDER BY 1")
    return {int(number.removeprefix("INV-")): (batch_id, row) for number, batch_id, row in found}


def counts(line, batch_id):
    account = receipt(line, batch_id)
    chunks = rows(
        line,
        "SELECT coalesce(sum(inserted), 0)::int, coalesce(sum(updated), 0)::int, "
        "coalesce(sum(unchanged), 0)::int FROM bulk_upload.load_chunks WHERE batch_id = :batch_id",
        batch_id=batch_id,
    )
    assert chunks == [(account.rows_inserted, account.rows_updated, account.rows_unchanged)]
    return chunks[0]


@pytest.mark.parametrize("price", [10, 12], ids=["just so", "otherwise"])
def test_a_line_is_the_earlier_files_that_came_late_when_the_later_load_is_undone(line, price):
    earlier = drop(line, "earlier.csv", priced(price, 2, 1))
    later = drop(line, "later.csv", priced(10, 1) + "\n")
    stages.take(line, later)
    stages.take(line, earlier)
    assert (prices(line), counts(line, earlier)) == ({1: 10, 2: price}, (1, 0, 1))
    assert stages.revert(line, later).reason == (
        "The load was undone: 0 rows are gone, and 0 have their former values again. 1 is now as an earlier file says "
        f"({earlier}). The same file can be loaded anew."
    )
    assert (prices(line), owners(line)) == ({1: price, 2: price}, {1: (earlier, 2), 2: (earlier, 1)})
    assert counts(line, earlier) == (2, 0, 0)
    stages.take(line, earlier)
    assert (prices(line), counts(line, earlier)) == ({1: price, 2: price}, (2, 0, 0))
    stages.take(line, later)
    assert prices(line) == {1: 10, 2: price}
    stages.revert(line, later)
    assert prices(line) == {1: price, 2: price}
    stages.revert(line, earlier)
    assert prices(line) == {}
    assert rows(line, "SELECT count(*) FROM bulk_upload.yielded_rows") == [(0,)]


def test_the_sums_of_a_file_that_came_late_are_those_of_its_lines_when_the_later_load_is_undone(line):
    earlier = drop(line, "earlier.csv", priced(12, 2, 1))
    later = drop(line, "later.csv", priced(10, 1))
    stages.take(line, later)
    stages.take(line, earlier)
    stages.revert(line, later)
    assert prices(line) == {1: 12, 2: 12}
    recount = control_totals(evidence.of(line.engine, earlier))
    assert recount.passed, recount.words


@pytest.mark.parametrize("price", [8, 10, 12], ids=["as the first", "as it stands", "otherwise"])
def test_of_three_files_the_middle_one_that_came_late_has_the_line_until_it_is_undone_itself(line, price):
    stages.take(line, drop(line, "first.csv", priced(8, 1)))
    middle = drop(line, "middle.csv", priced(price, 1) + "\n")
    last = drop(line, "last.csv", priced(10, 1) + "\n\n")
    stages.take(line, last)
    stages.take(line, middle)
    assert (prices(line), counts(line, middle)) == ({1: 10}, (0, 0, 1))
    stages.revert(line, last)
    assert (prices(line), owners(line)) == ({1: price}, {1: (middle, 1)})
    assert counts(line, middle) == (0, 1, 0)
    stages.revert(line, middle)
    assert prices(line) == {1: 8}


def test_a_line_that_a_later_file_only_confirms_is_the_middle_ones_when_that_file_is_undone(line):
    first = drop(line, "first.csv", priced(10, 1))
    middle = drop(line, "middle.csv", priced(12, 1))
    last = drop(line, "last.csv", priced(10, 1) + "\n")
    for batch_id in (first, last, middle):
        stages.take(line, batch_id)
    assert (prices(line), owners(line)) == ({1: 10}, {1: (first, 1)})
    stages.revert(line, last)
    assert (prices(line), counts(line, middle)) == ({1: 12}, (0, 1, 0))
    stages.revert(line, middle)
    assert (prices(line), counts(line, first)) == ({1: 10}, (1, 0, 0))


def test_a_file_that_came_late_and_was_undone_first_says_nothing_any_more(line):
    earlier = drop(line, "earlier.csv", priced(12, 1))
    later = drop(line, "later.csv", priced(10, 1))
    stages.take(line, later)
    stages.take(line, earlier)
    stages.revert(line, earlier)
    assert (prices(line), counts(line, later)) == ({1: 10}, (1, 0, 0))
    stages.revert(line, later)
    assert prices(line) == {}


def test_a_line_falls_to_the_latest_of_the_files_that_came_late_and_from_that_to_the_next(line):
    batches = [drop(line, f"{price}.csv", priced(price, 1)) for price in (8, 10, 12, 14)]
    for batch_id in reversed(batches):
        stages.take(line, batch_id)
    for price, batch_id in zip((10, 12), batches[1:3], strict=True):
        assert counts(line, batch_id) == (0, 0, 1), price
    for price, batch_id in zip((12, 10, 8), batches[3:0:-1], strict=True):
        stages.revert(line, batch_id)
        assert prices(line) == {1: price}
    assert [counts(line, batch_id) for batch_id in batches] == [(1, 0, 0), *[(0, 0, 0)] * 3]


def test_of_two_files_that_confirm_a_line_each_keeps_it_while_it_is_loaded(line):
    batches = [drop(line, f"{name}.csv", priced(10, 1) + "\n" * name) for name in range(3)]
    for batch_id in batches:
        stages.take(line, batch_id)
    for batch_id in (batches[0], batches[2]):
        stages.revert(line, batch_id)
        assert (prices(line), owners(line)) == ({1: 10}, {1: (batches[1], 1)})
    assert counts(line, batches[1]) == (1, 0, 0)


def test_the_story_of_an_invoice_tells_to_which_file_a_line_fell(line):
    earlier = drop(line, "earlier.csv", priced(12, 1))
    later = drop(line, "later.csv", priced(10, 1))
    stages.take(line, later)
    stages.take(line, earlier)
    stages.revert(line, later)
    told = trace(line.engine, "INV-000001")
    assert [(event.batch_id, event.what) for event in told.events] == [
        (earlier, "inserted"),
        (later, "reverted"),
    ]
    assert in_words(told).endswith(" 4 x 12 = 48, from row 1 of earlier.csv")


def test_a_receipt_counts_a_line_that_an_undone_load_leaves_while_it_is_written(line):
    first = drop(line, "first.csv", priced(10, 1))
    later = drop(line, "later.csv", priced(10, 1) + "\n")
    stages.take(line, first)
    for stage in (stages.upload, stages.validate, stages.load):
        stage(line, later)
    with line.engine.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.exec_driver_sql(
            "SELECT FROM bulk_upload.upload_batches WHERE batch_id = %s FOR UPDATE", (later,)
        )
        mine = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        end = pool.submit(stages.close, line, later)
        wait_until(lambda: is_waited_for(line, mine), 30)
        stages.revert(line, first)
        connection.rollback()
        end.result()
    assert counts(line, later) == (1, 0, 0)


def test_a_file_that_skips_what_exists_says_late_only_what_it_found_just_so(line):
    (line.home.profiles / "skips.toml").write_text('name = "skips"\non_conflict = "skip"\n')
    earlier = drop(line, "earlier.csv", priced(10, 1) + priced(12, 2).partition("\n")[2], Overrides("skips"))
    later = drop(line, "later.csv", priced(10, 1, 2))
    stages.take(line, later)
    stages.take(line, earlier)
    stages.revert(line, later)
    assert (prices(line), counts(line, earlier)) == ({1: 10}, (1, 0, 1))
