"""A batch and its corrections: who follows whom, what a revert undoes, and what two of them do at once."""

from __future__ import annotations

import json
import threading

import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import closing, counting, holding, ledger, settling
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import BatchRejectedError, RevertRefusedError, UnreadableError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.correcting import (
    BAD,
    TARGET,
    as_csv,
    load,
    rejected,
    resolutions,
    take,
    with_bad,
)
from bulk_upload_pipeline_tests.taken_again import own_csv, own_profile, own_row
from bulk_upload_pipeline_tests.world import HEADER, count, csv_of, drop, good_row, line_at, receipt, rows

SETTINGS = {"chunk_rows": 7}


def test_few_corrected_rows_do_not_trip_the_breaker(line):
    parent = with_bad(line, *(good_row(90 + n, Quantity="x") for n in range(4)))
    one, *others = rejected(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([one | {"Quantity": "4"}, *others]))
    assert (child.state, child.rows_inserted, child.rows_rejected) == (State.PARTIALLY_LOADED, 1, 3)


def test_a_batch_that_the_breaker_stopped_follows_when_enough_of_its_rows_are_corrected(line):
    bad = [good_row(90 + n, Quantity="x") for n in range(10)]
    parent = load(line, "parent.csv", csv_of([*bad, *(good_row(n) for n in range(1, 11))]))
    assert parent.state is State.REJECTED
    found = rejected(line, parent.batch_id)
    # Of 20 rows 10 are wrong and the breaker trips at a half: one corrected row is enough.
    child = load(line, "fixed.csv", as_csv([found[0] | {"Quantity": "4"}]))
    assert child.state is State.LOADED
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_inserted) == (State.PARTIALLY_LOADED, 10)
    assert (after.rows_rejected, after.rows_corrected, after.rows_unprocessed) == (10, 1, 0)
    assert count(line, TARGET) == 11
    assert rejected(line, parent.batch_id) == found[1:]
    rest = load(line, "rest.csv", as_csv([row | {"Quantity": "4"} for row in found[1:]]))
    assert rest.rows_inserted == 9
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert count(line, TARGET) == 20


def test_a_batch_that_was_cut_off_while_it_followed_does_so_to_the_end(line, monkeypatch):
    parent = load(line, "a.csv", csv_of([good_row(1), BAD]))
    assert parent.state is State.REJECTED
    (row,) = rejected(line, parent.batch_id)
    child = drop(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    really = stages.load

    def cut_off_in_the_parent(line, batch_id):
        if batch_id != child:
            raise KeyboardInterrupt
        return really(line, batch_id)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "load", cut_off_in_the_parent)
        with pytest.raises(KeyboardInterrupt):
            stages.take(line, child)
    assert receipt(line, parent.batch_id).state is State.VALIDATED
    stages.take(line, child)
    assert receipt(line, child).state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED
    assert count(line, TARGET) == 2


def test_a_batch_that_the_breaker_stopped_waits_as_long_as_too_many_rows_are_open(line):
    bad = [good_row(90 + n, Quantity="x") for n in range(10)]
    parent = load(line, "parent.csv", csv_of([*bad, good_row(1), good_row(2)]))
    found = rejected(line, parent.batch_id)
    load(line, "fixed.csv", as_csv([found[0] | {"Quantity": "4"}]))
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected, after.rows_unprocessed) == (State.REJECTED, 1, 2)
    assert "9 of 12 rows (75%) have errors that are not corrected yet" in after.reason
    assert count(line, TARGET) == 1


def test_reverting_a_correction_opens_its_rows_again(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    with pytest.raises(RevertRefusedError, match=child.batch_id):
        stages.revert(line, parent.batch_id)
    stages.revert(line, child.batch_id)
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected) == (State.PARTIALLY_LOADED, 0)
    assert rejected(line, parent.batch_id) == [row]
    assert count(line, TARGET) == 20
    again = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    assert again.state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


@pytest.mark.parametrize(
    ("room", "step"), [(settling, "settle"), (closing, "write"), (stages, "_close_again")]
)
def test_a_revert_that_was_cut_off_is_brought_to_its_end_by_the_next_one(line, monkeypatch, room, step):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}])).batch_id

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, step, cut_off)
        with pytest.raises(KeyboardInterrupt):
            stages.revert(line, child)
    undone = stages.revert(line, child)
    assert (undone.state, undone.rows_unprocessed) == (State.REVERTED, 1)
    assert "1 row is gone, and 0 have" in undone.reason
    after = receipt(line, parent.batch_id)
    assert (after.state, after.rows_corrected) == (State.PARTIALLY_LOADED, 0)
    assert resolutions(line, parent.batch_id) == {21: None}
    assert rejected(line, parent.batch_id) == [row]
    assert json.loads((line.reports(child) / "summary.json").read_text())["state"] == "reverted"
    assert count(line, TARGET) == 20


def test_a_reverted_batch_takes_no_corrections(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    stages.revert(line, parent.batch_id)
    fixed = as_csv([row | {"Quantity": "4"}])
    child = load(line, "fixed.csv", fixed)
    assert child.state is State.UNREADABLE
    assert "was reverted" in child.reason
    assert "`bulk-upload retry`" in child.reason


def test_a_reverted_batch_that_is_taken_again_takes_its_correction_when_that_is_dropped_again(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    stages.revert(line, parent.batch_id)
    fixed = as_csv([row | {"Quantity": "4"}])
    load(line, "fixed.csv", fixed)
    assert take(line, parent.batch_id).state is State.PARTIALLY_LOADED
    assert load(line, "fixed.csv", fixed).state is State.LOADED
    assert (receipt(line, parent.batch_id).state, count(line, TARGET)) == (State.LOADED, 21)


def test_a_column_of_the_source_may_have_any_name_and_its_rows_come_back_whole(line):
    header = (*HEADER, "_raw")
    parent = load(line, "a.csv", csv_of([{**good_row(n), "_raw": "kept"} for n in range(9)] + [BAD], header))
    (row,) = rejected(line, parent.batch_id)
    assert {name: row[name] for name in header} == {**BAD, "_raw": ""}
    filled = row | {"Quantity": "4", "_raw": "as it came"}
    assert load(line, "fixed.csv", as_csv([filled])).state is State.LOADED
    brought = rows(line, f"SELECT invoice_number, extra FROM {TARGET} WHERE row_number = 10")
    assert brought == [("INV-000090", {"_raw": "as it came"})]


def cut_off_behind_its_load(line, name, content):
    """A correction whose worker is killed before it writes the receipt."""
    child = drop(line, name, content)
    stages.upload(line, child)
    stages.validate(line, child)
    stages.load(line, child)
    return child


def test_a_batch_is_not_reverted_below_a_correction_that_is_loaded_but_has_no_receipt_yet(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = cut_off_behind_its_load(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    for _ in ("loading", "failed"):
        with pytest.raises(RevertRefusedError, match=child):
            stages.revert(line, parent.batch_id)
        stages.fail(line, child, "The power went.")
    assert take(line, child).state is State.LOADED
    assert (receipt(line, parent.batch_id).state, count(line, TARGET)) == (State.LOADED, 21)
    stages.revert(line, child)
    assert stages.revert(line, parent.batch_id).state is State.REVERTED
    assert count(line, TARGET) == 0


def test_a_correction_that_was_judged_before_its_batch_was_reverted_loads_nothing(line):
    parent = with_bad(line, BAD)
    (row,) = rejected(line, parent.batch_id)
    child = drop(line, "fixed.csv", as_csv([row | {"Quantity": "4"}]))
    stages.upload(line, child)
    stages.validate(line, child)
    stages.revert(line, parent.batch_id)
    with pytest.raises(UnreadableError, match="was reverted"):
        stages.load(line, child)
    assert (receipt(line, child).state, count(line, TARGET)) == (State.UNREADABLE, 0)
    assert receipt(line, child).findings_by_code == {"CORRECTED_BATCH_REVERTED": 1}


def test_two_corrections_that_are_closed_at_once_leave_a_true_receipt_of_what_they_correct(line, monkeypatch):
    parent = with_bad(line, BAD, good_row(91, Quantity="x"))
    found = rejected(line, parent.batch_id)
    first, second = (
        cut_off_behind_its_load(line, f"{number}.csv", as_csv([row | {"Quantity": "4"}]))
        for number, row in enumerate(found)
    )
    counted, is_free, goes_on = counting.counted, holding._is_free, threading.Event()

    def close_second():
        stages.close(line, second)
        goes_on.set()

    other = threading.Thread(target=close_second)

    def counted_while_the_other_one_closes(engine, entry, *known):
        """The second one closes, as far as it gets, when the first has counted and not yet written."""
        count = counted(engine, entry, *known)
        if entry.batch.batch_id == parent.batch_id and other.ident is None:
            other.start()
            assert goes_on.wait(60)
        return count

    def is_free_now(cursor, name):
        free = is_free(cursor, name)
        if not free and threading.current_thread() is other:
            goes_on.set()
        return free

    monkeypatch.setattr(counting, "counted", counted_while_the_other_one_closes)
    monkeypatch.setattr(holding, "_is_free", is_free_now)
    stages.close(line, first)
    other.join()
    account = receipt(line, parent.batch_id)
    assert (account.state, account.rows_corrected, account.rows_open) == (State.LOADED, 2, 0)
    assert receipt(line, second).state is State.LOADED


def judged(line, name, content):
    batch_id = drop(line, name, content)
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    return batch_id


def where_row_21_stands(line):
    return rows(line, f"SELECT invoice_number, upload_batch_id FROM {TARGET} WHERE row_number = 21")


def test_of_two_corrections_at_once_only_one_loads_a_row_as_a_line_of_an_invoice(line):
    parent = with_bad(line, good_row(1, **{"Invoice Number": ""}), BAD)
    row, other = rejected(line, parent.batch_id)
    first = judged(line, "a.csv", as_csv([row | {"Invoice Number": "INV-8"}]))
    second = judged(line, "b.csv", as_csv([row | {"Invoice Number": "INV-9"}, other | {"Quantity": "4"}]))
    for batch_id in (second, first):
        stages.load(line, batch_id)
    for batch_id in (second, first):
        stages.close(line, batch_id)
    assert where_row_21_stands(line) == [("INV-8", first)]
    assert receipt(line, second).findings_by_code == {"ALREADY_CORRECTED": 1}
    assert resolutions(line, parent.batch_id) == {21: first, 22: second}


def test_a_row_that_is_wrong_in_a_correction_is_not_loaded_by_it_when_a_later_one_ends_before(line):
    parent = with_bad(line, good_row(1, **{"Invoice Number": ""}), BAD)
    row, other = rejected(line, parent.batch_id)
    wrong, right = row | {"Invoice Number": "INV-8", "Quantity": "x"}, row | {"Invoice Number": "INV-9"}
    first = judged(line, "a.csv", as_csv([wrong, other | {"Quantity": "4"}]))
    stages.load(line, first)
    second = load(line, "b.csv", as_csv([right])).batch_id
    stages.close(line, first)
    third = load(line, "c.csv", as_csv([wrong | {"Quantity": "4"}]))
    assert third.findings_by_code == {"ALREADY_CORRECTED": 1}
    assert where_row_21_stands(line) == [("INV-9", second)]


def test_a_correction_that_failed_leaves_its_row_to_the_one_that_loaded_it_since(line):
    parent = with_bad(line, good_row(1, **{"Invoice Number": ""}))
    (row,) = rejected(line, parent.batch_id)
    first = judged(line, "a.csv", as_csv([row | {"Invoice Number": "INV-8"}]))
    stages.fail(line, first, "The power went.")
    second = load(line, "b.csv", as_csv([row | {"Invoice Number": "INV-9"}]))
    assert second.state is State.LOADED
    # As a run does that is executed again from its failure.
    with pytest.raises(BatchRejectedError):
        stages.load(line, first)
    assert where_row_21_stands(line) == [("INV-9", second.batch_id)]
    assert receipt(line, first).state is State.REJECTED
    assert resolutions(line, first) == {21: second.batch_id}


@pytest.mark.parametrize("is_first", [True, False], ids=["correction judged first", "batch judged first"])
def test_a_row_that_is_right_by_now_and_was_corrected_meanwhile_loads_once(line, is_first):
    own_profile(line)
    parent = load(line, "a.csv", own_csv(*(own_row(n) for n in range(20)), own_row(90, "03/04/2024")))
    corrected = [row | {"Day": "2024-04-03", "No": "A77"} for row in rejected(line, parent.batch_id)]
    own_profile(line, 'date_order = "dmy"')
    stages.upload(line, parent.batch_id)
    if not is_first:
        stages.validate(line, parent.batch_id)
    correction = judged(line, "fixed.csv", as_csv(corrected))
    if is_first:
        stages.validate(line, parent.batch_id)
        stages.load(line, parent.batch_id)
        stages.close(line, parent.batch_id)
        assert receipt(line, parent.batch_id).findings_by_code == {"ALREADY_CORRECTED": 1}
        stages.load(line, correction)
        stages.close(line, correction)
        assert receipt(line, parent.batch_id).state is State.LOADED
        assert where_row_21_stands(line) == [("A77", correction)]
    else:
        assert ledger.verdict(line.engine, correction).breaker_tripped
        stages.load(line, parent.batch_id)
        stages.close(line, parent.batch_id)
        assert where_row_21_stands(line) == [("A90", parent.batch_id)]


def test_rows_that_the_database_refused_come_back_whole_and_can_be_corrected(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} ADD CONSTRAINT known CHECK (brand <> 'Fake')")
    header = (*HEADER, "Brand")
    bad = good_row(90, Brand="Fake")
    parent = with_bad(line, bad, header=header)
    assert parent.findings_by_code == {"REFUSED_BY_DATABASE": 1}
    (row,) = rejected(line, parent.batch_id)
    assert {name: row[name] for name in header} == bad
    child = load(line, "fixed.csv", as_csv([row | {"Brand": "Real"}]))
    assert child.state is State.LOADED
    assert receipt(line, parent.batch_id).state is State.LOADED


def test_a_correction_that_the_database_refuses_leaves_its_row_open(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE {TARGET} ADD CONSTRAINT known CHECK (customer_name <> 'Fake')"
        )
    parent = with_bad(line, BAD, good_row(91, Quantity="y"))
    one, two = (row | {"Quantity": "4"} for row in rejected(line, parent.batch_id))
    child = load(line, "fixed.csv", as_csv([one, two | {"Customer Name": "Fake"}]))
    assert (child.state, child.rows_rejected) == (State.PARTIALLY_LOADED, 1)
    assert resolutions(line, parent.batch_id) == {21: child.batch_id, 22: None}
    (again,) = rejected(line, child.batch_id)
    assert (again["Customer Name"], again["_row_number"]) == ("Fake", "22")


@pytest.mark.parametrize(("bad", "as_a_whole"), [(1_000, True), (2, False)])
def test_a_correction_of_many_rows_is_joined_with_what_it_corrects_as_a_whole(line, bad, as_a_whole):
    """Row by row 30,000 took minutes: PostgreSQL does not know yet how many there are."""
    with line_at(line.home.root, line.settings.database_url, max_error_rate=1.1) as line:
        wrong = (good_row(n, Quantity="x") for n in range(1, bad + 1))
        parent = load(line, "parent.csv", csv_of([good_row(0), *wrong]))
        text = (line.reports(parent.batch_id) / "rejected_rows.csv").read_text("utf-8-sig")
        asked = []
        sa.event.listen(line.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
        assert load(line, "fixed.csv", text.replace(",x,", ",4,")).rows_inserted == bad
        assert receipt(line, parent.batch_id).state is State.LOADED
    assert ("SET LOCAL enable_nestloop = off" in asked) is as_a_whole
