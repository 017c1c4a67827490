"""The same content twice: at once, later, under another name, or by force."""

from __future__ import annotations

import threading

from bulk_upload_pipeline import intake
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline_tests.correcting import as_csv, rejected
from bulk_upload_pipeline_tests.taken_again import judged, load
from bulk_upload_pipeline_tests.world import count, csv_of, good_row, receipt, rows

SETTINGS = {"chunk_rows": 7}

TARGET = "mangalam_invoices"


def test_force_loads_anew_and_changes_nothing_that_is_equal(line):
    text = csv_of(good_row(n) for n in range(10))
    load(line, "a.csv", text)
    before = rows(line, f"SELECT * FROM {TARGET} ORDER BY id")
    path = line.home.inbox / "b.csv"
    path.write_text(text)
    forced = stages.take(line, intake.announce(line, path, Overrides(force=True)))
    assert (forced.state, forced.rows_unchanged, forced.rows_read) == (State.LOADED, 10, 10)
    assert rows(line, f"SELECT * FROM {TARGET} ORDER BY id") == before


def test_content_is_known_for_ever_and_a_name_is_not(line):
    first = load(line, "a.csv", csv_of([good_row(1)]))
    changed = load(line, "a.csv", csv_of([good_row(2)]))
    again = load(line, "z.csv", csv_of([good_row(1)]))
    assert (changed.state, changed.rows_inserted) == (State.LOADED, 1)
    assert (again.state, again.duplicate_of) == (State.DUPLICATE, first.batch_id)
    stages.revert(line, first.batch_id)
    once_more = load(line, "y.csv", csv_of([good_row(1)]))
    assert once_more.state is State.LOADED


def test_a_duplicate_tells_how_many_rows_of_the_first_file_are_still_rejected(line):
    text = csv_of([*(good_row(n) for n in range(10)), good_row(10, Quantity="x"), good_row(11, Quantity="x")])
    first = load(line, "a.csv", text)
    ending = "so nothing was changed. 2 of its rows are still rejected: see the report of that batch."
    assert load(line, "b.csv", text).reason.endswith(ending)
    load(line, "fixed.csv", as_csv([row | {"Quantity": "4"} for row in rejected(line, first.batch_id)]))
    assert load(line, "c.csv", text).reason.endswith("so nothing was changed.")


def test_of_two_equal_files_at_the_same_time_one_loads_and_the_other_is_a_duplicate(line):
    text = csv_of([*(good_row(n) for n in range(30)), good_row(90, Quantity="x")])
    twins = [judged(line, name, text) for name in ("a.csv", "b.csv")]
    together = threading.Barrier(2)

    def finish(batch_id):
        together.wait()
        stages.load(line, batch_id)
        stages.close(line, batch_id)

    workers = [threading.Thread(target=finish, args=(twin,)) for twin in twins]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ended = {receipt(line, twin).state: twin for twin in twins}
    assert set(ended) == {State.PARTIALLY_LOADED, State.DUPLICATE}
    copy = receipt(line, ended[State.DUPLICATE])
    assert (copy.duplicate_of, copy.rows_read) == (ended[State.PARTIALLY_LOADED], 0)
    assert copy.findings_by_code == {}
    assert count(line, TARGET) == 30
    assert not any(line.home.staging.iterdir())


def test_a_file_whose_rows_are_all_in_the_table_is_loaded_though_its_receipt_is_still_to_come(line):
    text = csv_of(good_row(n) for n in range(10))
    first, second = (judged(line, name, text) for name in ("a.csv", "b.csv"))
    stages.load(line, first)
    stages.load(line, second)
    stages.close(line, second)
    stages.close(line, first)
    assert receipt(line, second).duplicate_of == first
    assert receipt(line, first).rows_inserted == 10
