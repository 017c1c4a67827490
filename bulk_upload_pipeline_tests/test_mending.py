"""A batch again: what the table, the findings and the receipts hold afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import dagster as dg
import pytest

from bulk_upload_pipeline import evidence, holding
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import session
from bulk_upload_pipeline.defs.session import Session
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.inspection import control_totals
from bulk_upload_pipeline.liveness import alive
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline.workplace import silent
from bulk_upload_pipeline_tests.correcting import as_csv, in_target, rejected, resolutions
from bulk_upload_pipeline_tests.taken_again import (
    again,
    judged,
    load,
    own_csv,
    own_profile,
    own_row,
    state_shown,
    told,
)
from bulk_upload_pipeline_tests.test_cli import a_file
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import count, csv_of, drop, good_row, line_at, receipt, rows

SETTINGS = {"chunk_rows": 7}

TARGET = "mangalam_invoices"

ERRORS = "bulk_upload.processing_errors"


def test_a_retry_after_a_profile_has_changed_loads_what_is_good_now_and_resolves_its_findings(line):
    own_profile(line)
    good = [own_row(n) for n in range(20)]
    first = load(line, "a.csv", own_csv(*good, own_row(90, "03/04/2024"), own_row(91, Qty="x")))
    assert first.findings_by_code == {"AMBIGUOUS_DATE": 1, "INVALID_NUMBER": 1}
    own_profile(line, 'date_order = "dmy"')
    second = again(line, first.batch_id)
    assert (second.state, second.rows_inserted, second.rows_unchanged) == (State.PARTIALLY_LOADED, 21, 0)
    assert second.findings_by_code == {"INVALID_NUMBER": 1}
    assert resolutions(line, first.batch_id) == {21: first.batch_id, 22: None}
    assert rows(line, f"SELECT invoice_date::text FROM {TARGET} WHERE row_number = 21") == [("2024-04-03",)]
    assert count(line, TARGET) == 21
    assert [row["No"] for row in rejected(line, first.batch_id)] == ["A91"]


def test_a_retry_of_a_file_that_could_not_be_read_reads_it_by_the_profile_of_today(line):
    own_profile(line)
    text = own_csv(own_row(1), own_row(2)).replace("Qty", "Pieces")
    first = load(line, "a.csv", text)
    assert first.state is State.UNREADABLE
    own_profile(line, quantity="Pieces")
    second = again(line, first.batch_id)
    assert (second.state, second.rows_inserted, second.findings_by_code) == (State.LOADED, 2, {})


DATED = "03/04/2024"

"""A date that is good only where the profile says in which order its figures are."""

DMY = 'date_order = "dmy"'


def the_table_agrees(line, batch_id):
    return control_totals(evidence.of(line.engine, batch_id)).passed


def all_of_the_table(line):
    return rows(line, f"SELECT * FROM {TARGET} ORDER BY id")


def test_rows_that_are_loaded_stay_so_when_a_retry_finds_every_one_of_them_wrong(line):
    own_profile(line, DMY)
    text = own_csv(*(own_row(n, DATED) for n in range(3)))
    first, before = load(line, "a.csv", text), all_of_the_table(line)
    own_profile(line)
    for _ in range(2):
        second = again(line, first.batch_id)
        assert (second.state, second.rows_read, second.rows_rejected) == (State.PARTIALLY_LOADED, 3, 3)
        assert all_of_the_table(line) == before
        assert second.control_totals["standing"] == {"rows": 3, "quantity": "6.0000", "item_total": "30.0000"}
        assert "3 of those were loaded before" in second.reason
        assert the_table_agrees(line, first.batch_id)
        assert len(rejected(line, first.batch_id)) == 3
    assert load(line, "b.csv", text).duplicate_of == first.batch_id
    own_profile(line, DMY)
    third = again(line, first.batch_id)
    assert (third.state, third.rows_inserted, third.rows_rejected) == (State.LOADED, 3, 0)
    assert "standing" not in third.control_totals
    own_profile(line)
    again(line, first.batch_id)
    undone = stages.revert(line, first.batch_id)
    assert "3 rows are gone" in undone.reason
    assert "standing" not in undone.control_totals
    assert count(line, TARGET) == 0
    assert again(line, first.batch_id).state is State.REJECTED


def test_a_retry_that_fails_between_its_verdict_and_its_load_counts_no_row_twice(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(own_row(0), *(own_row(n, DATED) for n in (1, 2, 3))))
    before = all_of_the_table(line)
    own_profile(line)
    stages.upload(line, first.batch_id)
    stages.validate(line, first.batch_id)
    failed = stages.fail(line, first.batch_id, "The power went.")
    assert (failed.rows_inserted, failed.rows_rejected, failed.rows_unprocessed) == (0, 3, 1)
    assert failed.control_totals["standing"]["rows"] == 3
    second = again(line, first.batch_id)
    assert (second.rows_inserted, second.rows_rejected, second.rows_unprocessed) == (1, 3, 0)
    assert all_of_the_table(line) == before


def test_a_loaded_row_that_a_retry_finds_wrong_gets_another_number_when_done_as_the_report_says(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, DATED)))
    own_profile(line)
    assert "to correct an invoice or item number, revert first." in again(line, first.batch_id).reason
    found = [row | {"Day": "2024-04-05", "No": "B4"} for row in rejected(line, first.batch_id)]
    correction = load(line, "c.csv", as_csv(found))
    assert correction.findings_by_code == {"ALREADY_CORRECTED": 1}
    stages.revert(line, first.batch_id)
    again(line, first.batch_id)
    assert again(line, correction.batch_id).rows_inserted == 1
    numbers = rows(line, f"SELECT invoice_number FROM {TARGET} ORDER BY row_number")
    assert numbers == [("A0",), ("A1",), ("A2",), ("A3",), ("B4",)]


def test_a_row_of_a_correction_that_a_retry_reads_as_another_line_is_not_loaded_twice(line):
    own_profile(line)
    first = load(line, "a.csv", own_csv(own_row(1), *(own_row(n, Qty="x") for n in (90, 91))))
    row, other = rejected(line, first.batch_id)
    child = load(line, "c.csv", as_csv([row | {"No": "90.0", "Qty": "4"}, other]))
    numbers = f"SELECT invoice_number FROM {TARGET} ORDER BY row_number"
    own_profile(line, 'float_identifiers = ["invoice_number"]')
    for _ in range(2):
        assert again(line, child.batch_id).findings_by_code == {"ALREADY_CORRECTED": 1, "INVALID_NUMBER": 1}
        assert rows(line, numbers) == [("A1",), ("90.0",)]
        assert the_table_agrees(line, child.batch_id)
    back = load(line, "back.csv", as_csv(rejected(line, child.batch_id)))
    assert back.findings_by_code == {"ALREADY_CORRECTED": 1, "INVALID_NUMBER": 1}
    stages.revert(line, child.batch_id)
    again(line, child.batch_id)
    assert rows(line, numbers) == [("A1",), ("90",)]
    assert the_table_agrees(line, child.batch_id)


def test_a_loaded_row_that_a_retry_finds_wrong_stands_until_it_is_corrected(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, DATED)))
    own_profile(line)
    second = again(line, first.batch_id)
    assert (second.rows_inserted, second.rows_rejected, count(line, TARGET)) == (4, 1, 5)
    assert second.control_totals["standing"]["rows"] == 1
    assert the_table_agrees(line, first.batch_id)
    found = [row | {"Day": "2024-04-05"} for row in rejected(line, first.batch_id)]
    correction = load(line, "c.csv", as_csv(found))
    assert (correction.state, correction.rows_updated) == (State.LOADED, 1)
    account = receipt(line, first.batch_id)
    assert (account.state, account.rows_corrected) == (State.LOADED, 1)
    assert "standing" not in account.control_totals
    assert count(line, TARGET) == 5
    # The correction is an account of its own, and stands as well.
    own_profile(line, DMY)
    stages.revert(line, correction.batch_id)
    assert again(line, first.batch_id).rows_inserted == 5
    assert rows(line, f"SELECT DISTINCT upload_batch_id FROM {TARGET}") == [(first.batch_id,)]


def test_a_loaded_row_that_a_retry_finds_wrong_is_not_loaded_again_as_a_line_of_another_invoice(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, DATED)))
    own_profile(line)
    again(line, first.batch_id)
    (row,) = rejected(line, first.batch_id)
    moved = load(line, "c.csv", as_csv([row | {"Day": "2024-04-05", "No": "A77"}]))
    assert moved.findings_by_code == {"ALREADY_CORRECTED": 1}
    assert first.batch_id in rejected(line, moved.batch_id)[0]["_errors"]
    assert receipt(line, first.batch_id).rows_open == 1
    # What the finding says to do.
    stages.revert(line, first.batch_id)
    again(line, first.batch_id)
    assert load(line, "d.csv", as_csv(rejected(line, moved.batch_id))).state is State.LOADED
    assert rows(line, f"SELECT invoice_number FROM {TARGET} WHERE row_number = 5") == [("A77",)]


def test_a_row_whose_correction_is_found_wrong_by_now_is_not_loaded_again_as_a_line_of_another_invoice(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, DATED, Qty="x")))
    (row,) = rejected(line, first.batch_id)
    correction = load(line, "c.csv", as_csv([row | {"Qty": "3", "No": "A77"}]))
    own_profile(line)
    again(line, correction.batch_id)
    assert receipt(line, correction.batch_id).findings_by_code == {"AMBIGUOUS_DATE": 1}
    moved = load(line, "d.csv", as_csv([row | {"Qty": "3", "Day": "2024-04-05", "No": "A78"}]))
    assert moved.findings_by_code == {"ALREADY_CORRECTED": 1}
    assert correction.batch_id in rejected(line, moved.batch_id)[0]["_errors"]
    assert rows(line, f"SELECT invoice_number FROM {TARGET} WHERE row_number = 5") == [("A77",)]


def test_rows_that_a_retry_finds_wrong_and_others_have_changed_are_none_that_the_recount_misses(line):
    own_profile(line, DMY)
    first = load(
        line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, DATED), own_row(5, DATED))
    )
    load(line, "b.csv", own_csv(own_row(3, Qty="7"), own_row(5, Qty="7")))
    assert the_table_agrees(line, first.batch_id)
    own_profile(line)
    again(line, first.batch_id)
    assert the_table_agrees(line, first.batch_id)
    found = {row["No"]: row for row in rejected(line, first.batch_id)}
    assert load(line, "c.csv", as_csv([found["A4"] | {"Day": "2024-04-05"}])).rows_updated == 1
    assert the_table_agrees(line, first.batch_id)
    own_profile(line, DMY)
    again(line, first.batch_id)
    assert the_table_agrees(line, first.batch_id)


def test_a_row_that_a_retry_finds_wrong_and_that_is_corrected_to_what_it_was_is_in_the_recount(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, DATED)))
    own_profile(line)
    again(line, first.batch_id)
    found = [row | {"Day": "2024-04-03"} for row in rejected(line, first.batch_id)]
    correction = load(line, "c.csv", as_csv(found))
    assert (correction.state, correction.rows_unchanged) == (State.LOADED, 1)
    for batch_id in (first.batch_id, correction.batch_id):
        assert the_table_agrees(line, batch_id)
    assert "standing" not in receipt(line, first.batch_id).control_totals


def test_a_loaded_correction_of_which_every_row_is_found_wrong_stands(line):
    own_profile(line, DMY)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, Qty="x")))
    found = [row | {"Qty": "3", "Day": DATED} for row in rejected(line, first.batch_id)]
    correction, before = load(line, "c.csv", as_csv(found)), all_of_the_table(line)
    own_profile(line)
    second = again(line, correction.batch_id)
    assert (second.state, second.rows_rejected) == (State.PARTIALLY_LOADED, 1)
    assert "1 of those was loaded before" in second.reason
    assert the_table_agrees(line, correction.batch_id)
    assert all_of_the_table(line) == before
    assert receipt(line, first.batch_id).rows_open == 1


def test_rows_that_are_loaded_stay_so_when_a_retry_cannot_read_the_file(line):
    own_profile(line)
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} ADD CONSTRAINT few CHECK (quantity < 100)")
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, Qty="400")))
    before = all_of_the_table(line)
    own_profile(line, quantity="Pieces")
    second = again(line, first.batch_id)
    assert second.state is State.PARTIALLY_LOADED
    assert (second.rows_inserted, second.rows_rejected, second.rows_unprocessed) == (4, 1, 0)
    assert "could not, so that nothing was changed" in second.reason
    assert second.findings_by_code == {"REFUSED_BY_DATABASE": 1}
    assert all_of_the_table(line) == before
    own_profile(line)
    third = again(line, first.batch_id)
    assert (third.reason, third.rows_inserted) == (first.reason, 4)


def test_a_retry_tries_rows_anew_that_the_database_refused(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} ADD CONSTRAINT few CHECK (quantity < 100)")
    many = {"Quantity": "400", "Item Total": "5000.00"}
    found = [*(good_row(n) for n in range(1, 21)), good_row(90, **many), good_row(91, **many)]
    first = load(line, "a.csv", csv_of(found))
    assert first.findings_by_code == {"REFUSED_BY_DATABASE": 2}
    still = again(line, first.batch_id)
    assert (still.rows_inserted, still.rows_rejected, still.findings_by_code) == (
        20,
        2,
        {"REFUSED_BY_DATABASE": 2},
    )
    assert count(line, ERRORS) == 2
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} DROP CONSTRAINT few")
    healed = again(line, first.batch_id)
    assert (healed.state, healed.rows_inserted, healed.rows_rejected) == (State.LOADED, 22, 0)
    assert resolutions(line, first.batch_id) == {21: first.batch_id, 22: first.batch_id}


def test_findings_of_the_database_survive_a_retry_that_goes_on_after_a_failure(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} ADD CONSTRAINT known CHECK (brand <> 'Fake')")
    batch_id = drop(line, "a.csv", csv_of([good_row(1, Brand="Fake"), good_row(2)], ("Brand", *good_row(1))))
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    stages.load(line, batch_id)
    stages.fail(line, batch_id, "The power went off.")
    account = stages.take(line, batch_id)
    assert (account.rows_inserted, account.rows_rejected) == (1, 1)
    assert account.findings_by_code == {"REFUSED_BY_DATABASE": 1}


def test_a_retry_leaves_rows_alone_that_were_corrected_since(line):
    own_profile(line)
    good = [own_row(n) for n in range(20)]
    first = load(line, "a.csv", own_csv(*good, own_row(90, "03/04/2024"), own_row(91, "04/05/2024")))
    one, _ = rejected(line, first.batch_id)
    child = load(line, "fixed.csv", as_csv([one | {"Day": "2024-03-04", "Qty": "7"}]))
    own_profile(line, 'date_order = "dmy"')
    second = again(line, first.batch_id)
    assert (second.state, second.rows_inserted, second.rows_rejected, second.rows_corrected) == (
        State.LOADED,
        21,
        1,
        1,
    )
    assert [row for row in in_target(line) if row[0] == "A90"] == [("A90", "X", 1, 7, child.batch_id, 21)]
    assert count(line, TARGET) == 22


def test_a_retry_of_a_batch_that_has_ended_well_changes_nothing(line):
    first = load(line, "a.csv", csv_of(good_row(n) for n in range(20)))
    before = rows(line, f"SELECT * FROM {TARGET} ORDER BY id")
    second = again(line, first.batch_id)
    assert (second.state, second.rows_inserted) == (State.LOADED, 20)
    assert rows(line, f"SELECT * FROM {TARGET} ORDER BY id") == before


@pytest.mark.parametrize("is_alive", [False, True])
def test_where_no_daemon_runs_a_retry_ends_the_run_of_a_killed_command_and_no_other(
    line, monkeypatch, is_alive
):
    monkeypatch.setattr(session, "BETWEEN_LOOKS_S", 0)
    batch_id = judged(line, "a.csv", csv_of([good_row(1)]))
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(
            defs.resolve_job_def("load_batch"),
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": batch_id},
        )
        worker = alive(line.engine, run.run_id) if is_alive else nullcontext()
        with worker, pytest.raises(BatchBusyError) if is_alive else nullcontext():
            Session(instance, line).retry(batch_id, silent)
        ended = instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    assert ended is not is_alive
    assert count(line, TARGET) == (0 if is_alive else 1)


def test_retry_takes_a_failed_batch_to_its_end(at_terminal, home, database_url, tmp_path):
    with line_at(home, database_url) as line:
        batch_id = drop(line, "a.csv", csv_of(good_row(n) for n in range(10)))
        stages.upload(line, batch_id)
        stages.fail(line, batch_id, "The power went off.")
    (account,) = told(at_terminal("retry", "--all-failed", "--json"))
    assert (account["batch_id"], account["state"], account["rows_inserted"]) == (batch_id, "loaded", 10)
    nothing = at_terminal("retry", "--all-failed")
    assert (nothing.exit_code, nothing.stdout) == (0, "No batch has failed.\n")
    assert at_terminal("retry", batch_id).exit_code == 0
    for wrong in (("retry",), ("retry", batch_id, "--all-failed"), ("retry", "none"), ("revert", "none")):
        refused = at_terminal(*wrong)
        assert refused.exit_code == 2
        assert "bulk-upload status" in refused.stderr


def test_a_correction_shows_its_parent_in_dagster(at_terminal, home, tmp_path):
    path = a_file(tmp_path, [*(good_row(n) for n in range(9)), good_row(90, Quantity="x")])
    (first,) = told(at_terminal("load", "--json", path))
    at_terminal("errors", first["batch_id"], "--csv", tmp_path / "fix.csv")
    text = (tmp_path / "fix.csv").read_text("utf-8-sig").replace(",x,", ",4,")
    (tmp_path / "fix.csv").write_text(text)
    (child,) = told(at_terminal("load", "--json", tmp_path / "fix.csv"))
    assert (child["state"], child["parent_batch_id"]) == ("loaded", first["batch_id"])
    assert state_shown(first["batch_id"]) == "loaded"
    assert told(at_terminal("status", "--json", first["batch_id"]))["rows_corrected"] == 1


def test_a_batch_that_is_taken_again_undoes_nothing_that_came_later(line):
    own_profile(line)
    found = [own_row(n) for n in range(20)]
    first = load(line, "a.csv", own_csv(*found, own_row(90, "03/04/2024")))
    later = load(line, "b.csv", own_csv(own_row(1, Qty="7")))
    own_profile(line, 'date_order = "dmy"')
    second = again(line, first.batch_id)
    assert (second.state, second.rows_inserted, second.rows_updated) == (State.LOADED, 21, 0)
    assert rows(line, f"SELECT quantity, upload_batch_id FROM {TARGET} WHERE invoice_number = 'A1'") == [
        (7, later.batch_id)
    ]


def test_a_batch_that_is_judged_anew_has_its_own_sums_whoever_has_changed_its_rows_since(line):
    own_profile(line)
    first = load(line, "a.csv", own_csv(own_row(1), own_row(2)))
    later = load(line, "b.csv", own_csv(own_row(1, Qty="7")))
    own_profile(line, DMY)
    second = again(line, first.batch_id)
    assert second.control_totals == first.control_totals
    stages.revert(line, later.batch_id)
    assert the_table_agrees(line, first.batch_id)


def test_a_batch_that_comes_late_to_its_load_undoes_nothing_that_came_later(line):
    first = judged(line, "a.csv", csv_of([good_row(1, **{"Customer Name": "Old"}), good_row(2)]))
    second = load(line, "b.csv", csv_of([good_row(1, **{"Customer Name": "New"})]))
    stages.load(line, first)
    account = stages.close(line, first)
    assert (account.rows_inserted, account.rows_updated, account.rows_unchanged) == (1, 0, 1)
    owners = rows(
        line, f"SELECT customer_name, upload_batch_id FROM {TARGET} WHERE invoice_number = 'INV-000001'"
    )
    assert owners == [("New", second.batch_id)]


def test_a_retry_of_what_is_loaded_is_not_stopped_at_the_gate_that_it_passed(line):
    """A correction let the batch follow; without it there are too many bad rows, but the good ones are loaded."""
    first = load(line, "a.csv", csv_of([good_row(1), good_row(2, Quantity="x"), good_row(3, Quantity="x")]))
    assert first.state is State.REJECTED
    found = rejected(line, first.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Quantity": "4"} for row in found]))
    assert receipt(line, first.batch_id).state is State.LOADED
    stages.revert(line, child.batch_id)
    second = again(line, first.batch_id)
    assert (second.state, second.rows_inserted, second.rows_open) == (State.PARTIALLY_LOADED, 1, 2)
    assert count(line, TARGET) == 1


def test_a_wholly_wrong_correction_stays_rejected_when_others_have_corrected_its_rows(line):
    first = load(line, "a.csv", csv_of([*(good_row(n) for n in range(9)), good_row(90, Quantity="x")]))
    (row,) = rejected(line, first.batch_id)
    wrong = load(line, "wrong.csv", as_csv([row | {"Quantity": "y"}]))
    right = load(line, "right.csv", as_csv([row | {"Quantity": "4"}]))
    assert (wrong.state, right.state) == (State.REJECTED, State.LOADED)
    for account in (receipt(line, wrong.batch_id), again(line, wrong.batch_id)):
        assert (account.state, account.rows_open) == (State.REJECTED, 0)
        assert "Other files have corrected them since" in account.reason
    assert receipt(line, first.batch_id).state is State.LOADED


def test_a_lock_ends_with_whoever_is_stopped_while_giving_it_back(line, monkeypatch):
    def stopped(_connection):
        raise KeyboardInterrupt

    monkeypatch.setattr(holding, "_empty", stopped)
    with pytest.raises(KeyboardInterrupt) as kept, holding.queued(line.engine, "anything"):
        pass
    assert kept.tb is not None  # it may be looked at for long, with all that it refers to
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    locks += "(SELECT oid FROM pg_database WHERE datname = current_database())"
    wait_until(lambda: rows(line, locks) == [(0,)], 30)


def test_a_correction_that_was_refused_leaves_its_row_to_the_later_one_that_loaded_it(line):
    own_profile(line, 'on_conflict = "reject"')
    (line.home.profiles / "other.toml").write_text(
        (line.home.profiles / "own.toml").read_text().replace("reject", "update").replace("own", "other")
    )
    other = Overrides(profile="other", force=True)
    first = drop(line, "standing.csv", own_csv(own_row(1, Qty="1")), other)
    stages.take(line, first)
    root = drop(line, "a.csv", own_csv(own_row(1), own_row(2)), Overrides(profile="own"))
    assert stages.take(line, root).rows_rejected == 1
    (row,) = rejected(line, root)
    refused = load(line, "refused.csv", as_csv([row | {"Qty": "3"}]))
    loaded = load(line, "loaded.csv", as_csv([row | {"Qty": "1"}]))
    assert (refused.rows_rejected, loaded.rows_unchanged) == (1, 1)
    assert receipt(line, root).rows_open == 0
    # The line has changed hands since, to a later file, so that nothing would refuse the first correction now.
    stages.take(line, drop(line, "later.csv", own_csv(own_row(1, Qty="9")), other))
    account = again(line, refused.batch_id)
    assert (account.state, account.rows_rejected, account.rows_corrected) == (State.LOADED, 1, 1)
    for batch_id in (root, refused.batch_id):
        assert resolutions(line, batch_id) == {1: loaded.batch_id}
        assert receipt(line, batch_id).rows_open == 0
