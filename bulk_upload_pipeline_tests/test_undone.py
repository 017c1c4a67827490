"""A load undone: its rows go, its file may load again, and what others corrected stands."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from bulk_upload_pipeline import holding, settling
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs.session import Session
from bulk_upload_pipeline.exceptions import (
    BatchBusyError,
    NothingToRevertError,
    RevertedMeanwhileError,
    RevertRefusedError,
)
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.correcting import BAD, as_csv, found_codes, rejected, resolutions, with_bad
from bulk_upload_pipeline_tests.taken_again import (
    again,
    load,
    own_csv,
    own_profile,
    own_row,
    state_shown,
    told,
)
from bulk_upload_pipeline_tests.test_cli import a_file
from bulk_upload_pipeline_tests.world import count, csv_of, good_row, receipt, rows

SETTINGS = {"chunk_rows": 7}

TARGET = "mangalam_invoices"


def test_a_row_is_not_called_corrected_any_longer_when_its_correction_is_undone(line):
    own_profile(line)
    first = load(line, "a.csv", own_csv(*(own_row(n) for n in range(4)), own_row(4, Qty="x")))
    (row,) = rejected(line, first.batch_id)
    child = load(line, "fixed.csv", as_csv([row | {"Qty": "7"}]))
    again(line, first.batch_id)
    stages.revert(line, child.batch_id)
    account = receipt(line, first.batch_id)
    assert (account.rows_open, account.findings_by_code) == (1, {"INVALID_NUMBER": 1})
    assert found_codes(line, first.batch_id) == [(5, "INVALID_NUMBER")]
    assert rejected(line, first.batch_id) == [row]


def test_a_reverted_batch_says_so_and_its_file_loads_again(line):
    text = csv_of([*(good_row(n) for n in range(5)), good_row(90, Quantity="x")])
    earlier = load(line, "before.csv", csv_of([good_row(0, **{"Customer Name": "Old"})]))
    first = load(line, "a.csv", text)
    undone = stages.revert(line, first.batch_id)
    assert (undone.state, undone.rows_read, undone.rows_rejected, undone.rows_unprocessed) == (
        State.REVERTED,
        6,
        1,
        5,
    )
    assert "4 rows are gone, and 1 has its former values" in undone.reason
    stated = json.loads((line.reports(first.batch_id) / "summary.json").read_text())
    assert stated["state"] == "reverted"
    assert rows(line, f"SELECT customer_name, upload_batch_id FROM {TARGET}") == [("Old", earlier.batch_id)]
    page = line.reports(first.batch_id) / "summary.html"
    page.unlink()  # as if the disk had been full when it was to be written
    with pytest.raises(NothingToRevertError, match="is reverted"):
        stages.revert(line, first.batch_id)
    assert page.exists()
    assert receipt(line, first.batch_id).finished_at == undone.finished_at
    second = load(line, "again.csv", text)
    assert (second.state, second.rows_inserted, second.rows_updated) == (State.PARTIALLY_LOADED, 4, 1)


def test_a_batch_without_rows_in_the_table_cannot_be_reverted(line):
    first = load(line, "a.csv", csv_of([good_row(1)]))
    second = load(line, "b.csv", csv_of([good_row(1)]))
    assert second.state is State.DUPLICATE
    with pytest.raises(NothingToRevertError, match="is duplicate"):
        stages.revert(line, second.batch_id)
    assert receipt(line, first.batch_id).state is State.LOADED


def test_a_refused_revert_names_the_later_batch_and_changes_nothing(line):
    first = load(line, "a.csv", csv_of([good_row(1)]))
    second = load(line, "b.csv", csv_of([good_row(1, **{"Customer Name": "New"})]))
    with pytest.raises(RevertRefusedError, match=second.batch_id):
        stages.revert(line, first.batch_id)
    assert receipt(line, first.batch_id).state is State.LOADED
    assert count(line, TARGET) == 1


@pytest.mark.parametrize("stage", [stages.validate, stages.load, stages.close])
def test_a_step_that_is_repeated_after_a_revert_loads_nothing_again(line, stage):
    batch_id = load(line, "a.csv", csv_of(good_row(n) for n in range(9))).batch_id
    stages.revert(line, batch_id)
    with pytest.raises(RevertedMeanwhileError, match=f"bulk-upload retry {batch_id}"):
        stage(line, batch_id)
    assert receipt(line, batch_id).state is State.REVERTED
    assert count(line, TARGET) == 0
    assert again(line, batch_id).rows_inserted == 9


def test_nobody_takes_a_batch_between_its_revert_and_the_receipt_of_it(line, monkeypatch):
    batch_id = load(line, "a.csv", csv_of(good_row(n) for n in range(9))).batch_id
    settle, busy = settling.settle, []

    def meanwhile(*args, **named):
        monkeypatch.setattr(settling, "settle", settle)
        with pytest.raises(BatchBusyError) as error:
            again(line, batch_id)
        busy.append(error)
        return settle(*args, **named)

    monkeypatch.setattr(settling, "settle", meanwhile)
    monkeypatch.setattr(holding, "BUSY_AFTER_S", 0)
    assert stages.revert(line, batch_id).state is State.REVERTED
    assert (len(busy), count(line, TARGET)) == (1, 0)


def test_a_batch_of_which_a_run_waits_is_not_reverted(line):
    batch_id = load(line, "a.csv", csv_of([good_row(1)])).batch_id
    with dg.DagsterInstance.ephemeral() as instance:
        instance.create_run_for_job(
            defs.resolve_job_def("load_batch"),
            status=dg.DagsterRunStatus.NOT_STARTED,
            tags={"dagster/partition": batch_id},
        )
        with pytest.raises(BatchBusyError):
            Session(instance, line).revert(batch_id)
    assert (receipt(line, batch_id).state, count(line, TARGET)) == (State.LOADED, 1)


def test_revert_undoes_a_load_and_dagster_shows_it(at_terminal, home, tmp_path):
    path = a_file(tmp_path, [good_row(n) for n in range(10)])
    (first,) = told(at_terminal("load", "--json", path))
    (changed,) = told(
        at_terminal("load", "--json", a_file(tmp_path, [good_row(1, **{"Customer Name": "New"})], "b.csv"))
    )
    refused = at_terminal("revert", first["batch_id"])
    assert refused.exit_code == 2
    assert changed["batch_id"] in refused.stderr
    undone = at_terminal("revert", changed["batch_id"])
    assert (undone.exit_code, "rows/s" in undone.stdout) == (0, False)
    result = at_terminal("revert", "--json", first["batch_id"])
    assert (result.exit_code, told(result)["state"]) == (0, "reverted")
    assert state_shown(first["batch_id"]) == "reverted"
    (again,) = told(at_terminal("load", "--json", path))
    assert again["rows_inserted"] == 10


def test_a_table_that_somebody_has_renamed_is_named_with_the_command_that_lists_what_does_not_fit(
    at_terminal, home, tmp_path, engine
):
    (loaded,) = told(at_terminal("load", "--json", a_file(tmp_path, [good_row(1)])))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} RENAME TO lines")
    for command in (("revert", loaded["batch_id"]), ("trace", "INV-000001")):
        result = at_terminal(*command)
        assert result.exit_code == 3
        assert "mangalam_invoices" in result.stderr
        assert "`bulk-upload db check` lists" in result.stderr
    assert "is not there" in at_terminal("db", "check").stdout


def test_a_retry_of_a_correction_of_a_reverted_batch_says_so(line):
    first = load(line, "a.csv", csv_of([*(good_row(n) for n in range(9)), good_row(90, Quantity="x")]))
    (row,) = rejected(line, first.batch_id)
    wrong = load(line, "wrong.csv", as_csv([row | {"Quantity": "y"}]))
    stages.revert(line, first.batch_id)
    account = again(line, wrong.batch_id)
    assert account.state is State.UNREADABLE
    assert f"batch {first.batch_id}, which was reverted" in account.reason


def test_reverting_a_correction_leaves_rows_corrected_that_another_one_brought(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE {TARGET} ADD CONSTRAINT known CHECK (customer_name <> 'Fake')"
        )
    bad = [good_row(90, Quantity="x"), good_row(91, Quantity="x")]
    earlier = load(line, "earlier.csv", csv_of([good_row(91)]))
    first = load(line, "a.csv", csv_of([*(good_row(n) for n in range(9)), *bad]))
    one, two = (row | {"Quantity": "4"} for row in rejected(line, first.batch_id))
    half = load(line, "half.csv", as_csv([one, two | {"Customer Name": "Fake"}]))
    (left,) = rejected(line, half.batch_id)
    load(line, "rest.csv", as_csv([left | {"Customer Name": "Sharma Sweets"}]))
    assert receipt(line, first.batch_id).state is State.LOADED
    stages.revert(line, half.batch_id)
    assert receipt(line, first.batch_id).rows_open == 1
    assert rows(line, f"SELECT upload_batch_id FROM {TARGET} WHERE invoice_number = 'INV-000091'") == [
        (earlier.batch_id,)
    ]


def test_a_row_stays_corrected_behind_a_later_file_when_another_correction_of_it_is_undone(line):
    parent = with_bad(line, BAD)
    found = [row | {"Quantity": "4"} for row in rejected(line, parent.batch_id)]
    first = load(line, "first.csv", as_csv(found))
    second = load(line, "second.csv", as_csv(found, delimiter=";"))
    load(line, "later.csv", csv_of([good_row(90, Quantity="6", **{"Item Total": "75.00"})]))
    stages.revert(line, second.batch_id)
    assert resolutions(line, parent.batch_id) == {21: first.batch_id}
    assert receipt(line, parent.batch_id).state is State.LOADED
    with pytest.raises(RevertRefusedError, match=first.batch_id):
        stages.revert(line, parent.batch_id)


def test_of_corrections_that_say_the_same_each_keeps_a_row_corrected_while_it_is_loaded(line):
    parent = with_bad(line, BAD)
    found = [row | {"Quantity": "4"} for row in rejected(line, parent.batch_id)]
    first, second, third = (load(line, "fixed.csv", as_csv(found, delimiter=mark)).batch_id for mark in ",;|")
    for undone in (first, second):
        stages.revert(line, undone)
        assert resolutions(line, parent.batch_id) == {21: third}
    stages.revert(line, third)
    assert resolutions(line, parent.batch_id) == {21: None}
    assert count(line, TARGET) == 20


def test_a_correction_that_is_taken_again_loads_the_row_that_another_one_had_until_that_was_undone(line):
    parent = with_bad(line, good_row(1, **{"Invoice Number": ""}), BAD)
    row, other = rejected(line, parent.batch_id)
    first = load(line, "first.csv", as_csv([row | {"Invoice Number": "INV-8"}]))
    both = as_csv([row | {"Invoice Number": "INV-9"}, other | {"Quantity": "4"}])
    second = load(line, "second.csv", both).batch_id
    assert found_codes(line, second) == [(21, "ALREADY_CORRECTED")]
    stages.revert(line, first.batch_id)
    account = again(line, second)
    assert (account.state, account.rows_inserted) == (State.LOADED, 2)
    assert resolutions(line, parent.batch_id) == {21: second, 22: second}
    assert rows(line, f"SELECT invoice_number FROM {TARGET} WHERE row_number = 21") == [("INV-9",)]


def test_the_report_of_an_undone_correction_follows_what_becomes_of_its_rows(line):
    parent = with_bad(line, BAD, good_row(91, Quantity="x"))
    one, two = rejected(line, parent.batch_id)
    half = load(line, "half.csv", as_csv([one | {"Quantity": "4"}, two]))
    stages.revert(line, half.batch_id)
    assert [row["_row_number"] for row in rejected(line, half.batch_id)] == ["22"]
    rest = load(line, "rest.csv", as_csv([two | {"Quantity": "4"}]))
    undone = receipt(line, half.batch_id)
    assert (undone.state, undone.rows_open, rejected(line, half.batch_id)) == (State.REVERTED, 0, [])
    stages.revert(line, rest.batch_id)
    assert receipt(line, half.batch_id).rows_open == 1
    assert [row["_row_number"] for row in rejected(line, half.batch_id)] == ["22"]
