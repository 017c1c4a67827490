"""What is tried again by itself, and that one worker at a time has a batch."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import rejects, report
from bulk_upload_pipeline.defs import exits
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.holding import holding
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.disturbed import TARGET, batch_id, execute, is_loaded_whole, receipts, tries
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, receipt, rows, run

__all__ = ["batch_id"]

SETTINGS = {"chunk_rows": 7}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(exits, "SECONDS_BEFORE_FIRST", 0.01)


def first_times(line, times, action, *, at="BEFORE INSERT", deferred=""):
    """Let the database do `action` the first `times` that it takes a row: a sequence is never rolled back."""
    kind = "CONSTRAINT TRIGGER" if deferred else "TRIGGER"
    execute(
        line,
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('tries') <= {times} THEN {action}; END IF; RETURN NEW; END $$",
        f"CREATE {kind} fault {at} ON {TARGET} {deferred} FOR EACH ROW EXECUTE FUNCTION fault()",
    )


# Retries


@pytest.mark.parametrize(
    "action",
    [
        "RAISE EXCEPTION 'a restart' USING ERRCODE = '57P01'",
        "RAISE EXCEPTION 'no memory' USING ERRCODE = '53200'",
        "PERFORM pg_terminate_backend(pg_backend_pid())",
    ],
)
def test_a_fault_of_the_database_is_retried_and_its_receipt_is_that_of_an_undisturbed_load(
    line, instance, batch_id, impatient, action
):
    first_times(line, 3, action)
    result = run(line, batch_id, instance)
    assert result.success
    assert tries(result) >= 1
    is_loaded_whole(line, batch_id)
    assert len(receipts(instance)) == 1


def test_a_connection_that_is_lost_at_commit_is_retried(line, instance, batch_id, impatient):
    first_times(
        line,
        1,
        "PERFORM pg_terminate_backend(pg_backend_pid())",
        at="AFTER INSERT",
        deferred="DEFERRABLE INITIALLY DEFERRED",
    )
    # The loader makes constraints speak at once; only a trigger on the ledger still speaks at COMMIT.
    execute(
        line,
        f"DROP TRIGGER fault ON {TARGET}",
        "CREATE CONSTRAINT TRIGGER fault AFTER INSERT ON bulk_upload.load_chunks DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION fault()",
    )
    result = run(line, batch_id, instance)
    assert (result.success, tries(result)) == (True, 1)
    is_loaded_whole(line, batch_id)


def test_a_batch_that_is_being_retried_has_no_receipt_yet_and_one_when_no_retry_helped(
    line, instance, batch_id, impatient
):
    first_times(line, 1_000_000, "RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'")
    result = run(line, batch_id, instance)
    assert (result.success, tries(result)) == (False, exits.RETRIES)
    account = receipt(line, batch_id)
    assert (account.state, account.rows_read, account.rows_unprocessed) == (State.FAILED, 20, 20)
    assert account.reason == "It failed and can be retried: the disk is full"
    assert len(receipts(instance)) == 1
    execute(line, f"DROP TRIGGER fault ON {TARGET}")
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


def test_a_defect_is_not_retried(line, instance, batch_id, monkeypatch):
    monkeypatch.setattr(report, "why_loaded", lambda *_: 1 / 0)
    result = run(line, batch_id, instance)
    assert (result.success, tries(result)) == (False, 0)
    assert receipt(line, batch_id).reason == "It failed and can be retried: division by zero"
    monkeypatch.undo()
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


def test_bad_rows_are_never_retried(line, instance):
    batch_id = drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(9)))
    result = run(line, batch_id, instance)
    assert (result.success, tries(result)) == (False, 0)


def test_a_step_waits_for_a_database_that_restarts(line, monkeypatch):
    from bulk_upload_pipeline.database import make_engine, wait_until_it_answers

    gone = make_engine("postgresql://nobody@127.0.0.1:1/none")
    assert not wait_until_it_answers(gone, 0.1)
    assert wait_until_it_answers(line.engine, 0.1)


# One worker a batch


@pytest.mark.parametrize("stage", [stages.upload, stages.validate, stages.load, stages.close])
def test_a_batch_that_another_worker_holds_is_left_alone(line, batch_id, monkeypatch, stage):
    monkeypatch.setattr("bulk_upload_pipeline.holding.BUSY_AFTER_S", 0.2)
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    with holding(line.engine, batch_id), pytest.raises(BatchBusyError, match=batch_id):
        stage(line, batch_id)
    stages.load(line, batch_id)
    stages.close(line, batch_id)
    is_loaded_whole(line, batch_id)


HELD_LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def no_lock_stays(line):
    """A connection that was closed holds its locks for the moment in which the server ends it."""
    wait_until(lambda: rows(line, HELD_LOCKS) == [(0,)], 30)


def test_a_stage_that_ends_leaves_no_lock(line, batch_id, monkeypatch):
    stages.upload(line, batch_id)
    monkeypatch.setattr(rejects, "keep", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stages.validate(line, batch_id)
    monkeypatch.undo()
    stages.validate(line, batch_id)
    no_lock_stays(line)


def test_a_stage_that_is_cut_off_at_its_unlock_leaves_no_lock(line, batch_id, monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.holding._UNLOCK", sa.text("SELECT 1 / 0, :name"))
    with pytest.raises(sa.exc.DBAPIError):
        stages.upload(line, batch_id)
    monkeypatch.undo()
    no_lock_stays(line)
