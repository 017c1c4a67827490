"""What a worker that is cut off, killed or cancelled leaves behind, and who picks it up."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg
import psycopg2
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import intake, liveness, rejects
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import recovery, small_files
from bulk_upload_pipeline.defs.session import Session
from bulk_upload_pipeline.holding import holding
from bulk_upload_pipeline.model import ON_THE_WAY, State
from bulk_upload_pipeline.reporting import finding_files
from bulk_upload_pipeline_tests.disturbed import (
    TARGET,
    batch_id,
    event_of,
    execute,
    is_loaded_whole,
    receipts,
    settled,
    started_run,
    worker_of,
)
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import QUIET, count, csv_of, drop, good_row, receipt, rows, run

__all__ = ["batch_id", "settled"]

SETTINGS = {"chunk_rows": 7}


def reap(instance, line, cursor=None):
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"line": line})
    recovery.reaper(context)
    return context.cursor


def test_a_run_without_worker_is_reported_failed_at_the_second_look(
    line, instance, batch_id, settled, monkeypatch
):
    monkeypatch.setattr(recovery, "LOST_AFTER_S", 0.3)
    lost = started_run(instance, batch_id)
    living_run = started_run(instance, batch_id)
    with worker_of(line, lost.run_id) as worker, worker_of(line, living_run.run_id):
        cursor = reap(instance, line)
        assert cursor == "{}"
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: liveness.without_worker(line.engine, [lost.run_id]))
        cursor = reap(instance, line, cursor)
        assert instance.get_run_by_id(lost.run_id).status is dg.DagsterRunStatus.STARTED
        time.sleep(0.4)
        reap(instance, line, cursor)
        assert instance.get_run_by_id(lost.run_id).status is dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(living_run.run_id).status is dg.DagsterRunStatus.STARTED


def test_a_run_that_lost_its_worker_before_the_clock_was_set_back_does_not_wait_for_it_to_come_round(
    line, instance, batch_id, settled, monkeypatch
):
    monkeypatch.setattr(recovery, "LOST_AFTER_S", 0.0)
    lost = started_run(instance, batch_id)
    reap(instance, line, json.dumps({lost.run_id: time.time() + 19_800}))
    assert instance.get_run_by_id(lost.run_id).status is dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("cursor", ["garbage", "[]", '{"a run": "yesterday"}'])
def test_what_is_no_cursor_does_not_keep_the_reaper_from_its_work(line, instance, batch_id, settled, cursor):
    lost = started_run(instance, batch_id)
    assert list(json.loads(reap(instance, line, cursor))) == [lost.run_id]


def test_a_file_that_was_seen_before_the_clock_was_set_back_does_not_wait_for_it_to_come_round(
    line, monkeypatch
):
    monkeypatch.setattr(intake, "SETTLED_S", 0.0)
    (line.home.inbox / "invoices.csv").write_text(csv_of([good_row(1)]))
    seen = intake.survey(line, {}, lambda _: True).seen
    sighted = {name: (fingerprint, time.time() + 19_800) for name, fingerprint in seen.items()}
    found, _ = intake.watch(line, sighted, lambda _: True)
    assert [request.file_name for request in found.requests] == ["invoices.csv"]


@pytest.fixture
def at_once(monkeypatch):
    """Nobody is given time to start the next run of a batch."""
    monkeypatch.setattr(recovery, "LEFT_AFTER_S", 0.0)


def left_loading(line, batch_id):
    """A batch that a worker left when it had begun to load it."""
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    stages.ledger.loading(line.engine, batch_id)


def followed(instance, line, cursor=None):
    """What the reaper starts, or says."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"line": line})
    answer = recovery.reaper(context)
    if isinstance(answer, dg.SkipReason):
        return answer.skip_message
    return [(request.run_key, request.partition_key, request.tags["file"]) for request in answer.run_requests]


def test_a_batch_whose_failed_run_was_overlooked_is_started_again_and_loads(
    line, instance, batch_id, at_once
):
    left_loading(line, batch_id)
    dead = started_run(instance, batch_id, **{recovery.WILL_RETRY_TAG: "true"})  # as that of a killed command
    with worker_of(line, dead.run_id):
        assert followed(instance, line) == "1 run is under way, 0 had lost their worker."
    instance.report_run_failed(dead)
    assert followed(instance, line) == [(f"{batch_id}#left-1", batch_id, "a.csv")]
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)
    assert followed(instance, line) == "0 runs are under way, 0 had lost their worker."


def test_a_batch_without_run_is_given_time_and_one_that_is_held_is_not_touched(
    line, instance, batch_id, at_once, monkeypatch
):
    left_loading(line, batch_id)
    with holding(line.engine, batch_id):
        assert "0 runs" in followed(instance, line)
    monkeypatch.setattr(recovery, "LEFT_AFTER_S", 100.0)
    assert reap(instance, line) == "{}"
    execute(line, "UPDATE bulk_upload.upload_batches SET started_at = now() - interval '1 hour'")
    cursor = reap(instance, line)
    assert list(json.loads(cursor)) == [batch_id]
    assert "0 runs" in followed(instance, line, cursor)
    earlier = json.dumps({batch_id: json.loads(cursor)[batch_id] - 101})
    assert followed(instance, line, earlier) == [(f"{batch_id}#left-0", batch_id, "a.csv")]


def test_a_batch_for_which_a_shared_run_waits_is_not_taken_for_left(line, instance, batch_id, at_once):
    left_loading(line, batch_id)
    job = defs.resolve_job_def("load_small_files")
    shared = {**small_files.config_of([batch_id]), **QUIET}
    instance.create_run_for_job(job, run_config=shared, status=dg.DagsterRunStatus.NOT_STARTED)
    assert "0 runs" in followed(instance, line)


def test_a_batch_that_was_to_be_taken_a_part_of_its_way_stays_there(line, instance, batch_id, at_once):
    left_loading(line, batch_id)
    instance.handle_new_event(event_of(started_run(instance, batch_id), "PIPELINE_SUCCESS"))
    assert followed(instance, line) == f"Batch {batch_id} was to be taken so far and no further."
    assert receipt(line, batch_id).state is State.LOADING


def test_a_batch_that_is_judged_anew_after_it_was_reverted_is_not_loaded_by_itself(
    line, instance, batch_id, at_once
):
    assert run(line, batch_id, instance).success
    stages.revert(line, batch_id)
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    instance.handle_new_event(event_of(started_run(instance, batch_id), "PIPELINE_SUCCESS"))
    assert followed(instance, line) == f"Batch {batch_id} was to be taken so far and no further."


@pytest.mark.parametrize("stage", [stages.upload, stages.validate, stages.load])
def test_a_batch_that_had_ended_before_a_part_of_its_way_was_taken_again_is_brought_to_its_end(
    line, instance, batch_id, at_once, stage
):
    stages.take(line, batch_id)
    stage(line, batch_id)
    alone = started_run(instance, batch_id)
    instance.handle_new_event(event_of(alone, "PIPELINE_SUCCESS"))
    assert receipt(line, batch_id).state in ON_THE_WAY
    assert followed(instance, line) == [(f"{batch_id}#left-1", batch_id, "a.csv")]
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


@contextmanager
def restored_afterwards(line):
    """The ledger is as it was before, which is all that a dump of that moment holds of a batch without rows."""
    execute(line, "CREATE TABLE dumped AS TABLE bulk_upload.upload_batches")
    yield
    execute(
        line,
        "DELETE FROM bulk_upload.load_chunks",
        f"DELETE FROM {TARGET}",
        "DELETE FROM bulk_upload.upload_batches",
        "INSERT INTO bulk_upload.upload_batches SELECT * FROM dumped",
    )


@pytest.mark.parametrize("stage", [stages.upload, stages.validate, left_loading])
def test_a_batch_that_has_ended_for_dagster_but_not_in_a_restored_database_is_brought_to_its_end(
    line, instance, batch_id, at_once, stage
):
    if stage is stages.validate:
        stages.upload(line, batch_id)
    stage(line, batch_id)
    with restored_afterwards(line):
        assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).state in ON_THE_WAY
    assert followed(instance, line) == [(f"{batch_id}#left-1", batch_id, "a.csv")]
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


@pytest.mark.parametrize("had_run", [True, False])
def test_a_batch_that_waits_in_a_restored_database_loads_from_the_archive(
    line, instance, batch_id, at_once, had_run
):
    assert "0 runs" in followed(instance, line)  # it is in the inbox, where it is seen
    with restored_afterwards(line), dg.DagsterInstance.ephemeral() as other:
        assert run(line, batch_id, instance if had_run else other).success
    assert receipt(line, batch_id).state is State.WAITING
    assert followed(instance, line) == [(f"{batch_id}#left-{int(had_run)}", batch_id, "a.csv")]
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


def test_a_batch_that_waits_for_a_file_that_nobody_has_is_told_to_have_failed(
    line, instance, batch_id, at_once
):
    (line.home.inbox / "a.csv").rename(line.home.root / "a.csv")
    line.home.inbox.rename(line.home.root / "share")
    assert "0 runs" in followed(instance, line)  # a share that is away has lost no file
    (line.home.root / "share").rename(line.home.inbox)
    assert followed(instance, line) == [(f"{batch_id}#left-0", batch_id, "a.csv")]
    assert not run(line, batch_id, instance).success
    assert "There is no file at" in receipt(line, batch_id).reason


def test_of_many_batches_that_wait_for_files_that_are_gone_the_oldest_are_started_and_the_others_follow(
    line, instance, at_once, monkeypatch
):
    monkeypatch.setattr(recovery, "MOST_GONE", 2)
    made = [drop(line, f"{name}.csv", csv_of([good_row(n)])) for n, name in enumerate("cab")]
    for path in line.home.inbox.iterdir():
        path.unlink()
    assert [asked for _, asked, _ in followed(instance, line)] == made[:2]
    for oldest in made[:2]:
        run(line, oldest, instance)
    assert [asked for _, asked, _ in followed(instance, line)] == made[2:]


def test_a_left_batch_of_which_a_person_deleted_a_run_is_started_again_all_the_same(
    line, instance, batch_id, at_once
):
    left_loading(line, batch_id)
    first = started_run(instance, batch_id)
    instance.report_run_failed(first)
    ((key, _, _),) = followed(instance, line)
    instance.report_run_failed(started_run(instance, batch_id, **{"dagster/run_key": key}))
    instance.delete_run(first.run_id)
    ((other, _, _),) = followed(instance, line)
    assert other != key  # of which Dagster would start none


def test_a_batch_that_failed_before_its_verdict_goes_on_when_only_its_upload_was_done_again(
    line, instance, batch_id, at_once
):
    stages.upload(line, batch_id)
    stages.fail(line, batch_id, "The power went.")
    stages.upload(line, batch_id)
    instance.handle_new_event(event_of(started_run(instance, batch_id), "PIPELINE_SUCCESS"))
    assert followed(instance, line) == [(f"{batch_id}#left-1", batch_id, "a.csv")]


@pytest.mark.parametrize("shared", [False, True])
def test_a_left_batch_whose_run_was_cancelled_gets_its_receipt(line, instance, batch_id, at_once, shared):
    left_loading(line, batch_id)
    cancelled = started_run(instance, batch_id)
    if shared:
        instance.report_run_failed(cancelled)
        job = defs.resolve_job_def("load_small_files")
        cancelled = instance.create_run_for_job(job, run_config=small_files.config_of([batch_id]))
        stages.upload(line, batch_id, cancelled.run_id)
    instance.report_run_canceled(cancelled)
    followed(instance, line)
    account = receipt(line, batch_id)
    assert account.state is State.FAILED
    assert account.reason == f"Its run was cancelled. `bulk-upload retry {batch_id}` finishes it."


def test_a_left_batch_that_had_too_many_runs_gets_its_receipt(line, instance, batch_id, at_once):
    left_loading(line, batch_id)
    for _ in range(recovery.MOST_RUNS):
        instance.report_run_failed(started_run(instance, batch_id))
    followed(instance, line)
    account = receipt(line, batch_id)
    assert (account.state, account.rows_unprocessed) == (State.FAILED, 20)


def after_failure(instance, line, run):
    event = event_of(run, "PIPELINE_FAILURE").dagster_event
    instance.handle_new_event(event_of(run, "PIPELINE_FAILURE"))
    context = dg.build_run_status_sensor_context(
        sensor_name="batch_failed",
        dagster_instance=instance,
        dagster_run=instance.get_run_by_id(run.run_id),
        dagster_event=event,
        resources={"line": line},
    )
    answer = recovery.batch_failed(context.for_run_failure())
    return answer.run_requests[0] if isinstance(answer, dg.SensorResult) else answer


def test_a_batch_that_was_cut_off_gets_another_run_and_its_receipt_when_there_were_too_many(
    line, instance, batch_id
):
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    for number in range(1, recovery.MOST_RUNS):
        run = started_run(instance, batch_id, file="a.csv")
        request = after_failure(instance, line, run)
        assert (request.partition_key, request.tags["file"]) == (batch_id, "a.csv"), number
        assert receipt(line, batch_id).state is State.VALIDATED
    after_failure(instance, line, started_run(instance, batch_id))
    account = receipt(line, batch_id)
    assert (account.state, account.rows_unprocessed) == (State.FAILED, 20)
    assert "can be retried" in account.reason


def test_a_batch_whose_partition_was_deleted_while_its_run_waited_has_one_again(line, instance, batch_id):
    stages.upload(line, batch_id)
    run = started_run(instance, batch_id)
    instance.delete_dynamic_partition("batches", batch_id)
    assert after_failure(instance, line, run).partition_key == batch_id
    # What is asked for without a partition fails its tick, and all that come after it.
    assert instance.has_dynamic_partition("batches", batch_id)


def test_a_run_that_dagster_starts_again_or_that_has_a_successor_is_left_alone(line, instance, batch_id):
    stages.upload(line, batch_id)
    run = started_run(instance, batch_id, **{recovery.WILL_RETRY_TAG: "true"})
    assert isinstance(after_failure(instance, line, run), dg.SkipReason)
    first, _ = started_run(instance, batch_id), started_run(instance, batch_id)
    assert "Another run" in after_failure(instance, line, first).skip_message
    assert receipt(line, batch_id).state is State.RECEIVED


def test_a_batch_that_ended_in_its_exit_is_not_run_again(line, instance):
    batch_id = drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(9)))
    assert not run(line, batch_id, instance).success
    assert "has its receipt" in after_failure(instance, line, started_run(instance, batch_id)).skip_message
    assert receipt(line, batch_id).state is State.REJECTED


@pytest.mark.parametrize("kind", [dg.DagsterExecutionInterruptedError, OSError(errno.ENOSPC, "No space")])
def test_a_rejected_file_whose_run_was_cut_off_before_its_report_gets_another_run_that_writes_it(
    line, instance, monkeypatch, kind
):
    def cut_off(*_):
        raise kind

    batch_id = drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(9)))
    monkeypatch.setattr(finding_files, "write_rejected", cut_off)
    assert not run(line, batch_id, instance).success
    monkeypatch.undo()
    assert receipt(line, batch_id).state is State.REJECTED
    assert not (line.reports(batch_id) / "rejected_rows.csv").exists()
    assert after_failure(instance, line, started_run(instance, batch_id)).partition_key == batch_id
    assert not run(line, batch_id, instance).success
    assert (line.reports(batch_id) / "rejected_rows.csv").read_text("utf-8-sig").count("\n") == 10
    assert "has its receipt" in after_failure(instance, line, started_run(instance, batch_id)).skip_message


def test_a_run_that_fails_for_a_reverted_batch_does_not_load_it_again(line, instance, batch_id):
    assert run(line, batch_id, instance).success
    stages.revert(line, batch_id)
    (line.reports(batch_id) / "summary.json").unlink()
    assert "has its receipt" in after_failure(instance, line, started_run(instance, batch_id)).skip_message


def after_cancelling(instance, line, run):
    instance.report_run_canceled(run)
    context = dg.build_run_status_sensor_context(
        sensor_name="batch_cancelled",
        dagster_instance=instance,
        dagster_run=instance.get_run_by_id(run.run_id),
        dagster_event=event_of(run, "PIPELINE_CANCELED").dagster_event,
        resources={"line": line},
    )
    recovery.batch_cancelled(context)


def test_a_cancelled_run_leaves_a_batch_that_says_so_and_a_second_run_finishes(line, instance, batch_id):
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    after_cancelling(instance, line, started_run(instance, batch_id))
    account = receipt(line, batch_id)
    assert (account.state, account.rows_read, account.rows_unprocessed) == (State.FAILED, 20, 20)
    assert account.reason == f"Its run was cancelled. `bulk-upload retry {batch_id}` finishes it."
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


def partly_wrong(line):
    return drop(line, "parts.csv", csv_of(good_row(n, Quantity="4" if n % 3 else "x") for n in range(9)))


def has_whole_report(line, batch_id, rejected=3):
    text = (line.reports(batch_id) / "rejected_rows.csv").read_text("utf-8-sig")
    assert text.count("\n") == 1 + rejected
    assert stages.is_published(line, batch_id)


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_that_is_cancelled_while_it_writes_a_report_ends_with_the_report(
    line, instance, monkeypatch, shared
):
    def interrupted(*_):
        monkeypatch.undo()
        raise dg.DagsterExecutionInterruptedError

    batch_id = partly_wrong(line)
    monkeypatch.setattr(finding_files, "write_rejected", interrupted)
    if shared:
        job = defs.resolve_job_def("load_small_files")
        config = {**small_files.config_of([batch_id]), **QUIET}
        job.execute_in_process(config, instance, resources={"line": line}, raise_on_error=False)
        ended = instance.create_run_for_job(job, run_config=config)
    else:
        assert not run(line, batch_id, instance).success
        ended = started_run(instance, batch_id)
    after_cancelling(instance, line, ended)
    assert receipt(line, batch_id).state is State.PARTIALLY_LOADED
    has_whole_report(line, batch_id)
    assert len(receipts(instance)) == 1
    assert count(line, TARGET) == 6


def test_a_batch_whose_worker_was_killed_in_its_report_when_its_run_was_cancelled_is_reported_and_told(
    line, instance
):
    batch_id = partly_wrong(line)
    stages.take(line, batch_id)
    (line.reports(batch_id) / "rejected_rows.csv").unlink()
    (line.reports(batch_id) / "summary.json").unlink()
    after_cancelling(instance, line, started_run(instance, batch_id))
    has_whole_report(line, batch_id)
    assert [record.partition_key for record in receipts(instance)] == [batch_id]


def test_a_batch_whose_run_was_cancelled_between_its_report_and_its_last_events_is_told(
    line, instance, batch_id
):
    stages.take(line, batch_id)
    for _ in range(2):
        after_cancelling(instance, line, started_run(instance, batch_id))
    assert [record.partition_key for record in receipts(instance)] == [batch_id]
    is_loaded_whole(line, batch_id)


def test_small_files_that_a_cancelled_run_had_ended_but_not_told_are_told(line, instance):
    loaded, untaken = partly_wrong(line), drop(line, "b.csv", csv_of([good_row(50)]))
    stages.take(line, loaded)
    job = defs.resolve_job_def("load_small_files")
    shared = instance.create_run_for_job(job, run_config=small_files.config_of([loaded, untaken]))
    after_cancelling(instance, line, shared)
    for asset in ("upload", "validated_invoices", "mangalam_invoices", "upload_receipts"):
        assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {loaded}
    assert receipt(line, untaken).state is State.WAITING


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_small_file_that_its_killed_worker_had_archived_but_not_noted_is_not_left_there(
    line, instance, batch_id, cancelled
):
    other = drop(line, "b.csv", csv_of([good_row(50)]))
    archived = line.home.archive / batch_id
    archived.mkdir()
    (line.home.inbox / "a.csv").rename(archived / "a.csv")
    job = defs.resolve_job_def("load_small_files")
    shared = instance.create_run_for_job(job, run_config=small_files.config_of([batch_id, other]))
    if cancelled:
        after_cancelling(instance, line, shared)
        assert receipt(line, batch_id).state is State.FAILED
    else:
        assert after_failure(instance, line, shared).partition_key == batch_id
    assert receipt(line, other).state is State.WAITING
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_small_file_that_another_shared_run_has_by_now_is_left_to_it(line, instance, batch_id, cancelled):
    stages.upload(line, batch_id)
    job, config = defs.resolve_job_def("load_small_files"), small_files.config_of([batch_id])
    former = instance.create_run_for_job(job, run_config=config)
    instance.create_run_for_job(job, run_config=config, status=dg.DagsterRunStatus.STARTED)
    if cancelled:
        after_cancelling(instance, line, former)
    else:
        assert "Another run" in after_failure(instance, line, former).skip_message
    assert receipt(line, batch_id).state is State.RECEIVED


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("job", ["load_batch", "load_small_files"])
def test_a_batch_that_had_failed_when_its_run_was_cancelled_keeps_the_receipt_that_says_why(
    line, instance, batch_id, job, is_told
):
    stages.upload(line, batch_id)
    before = stages.fail(line, batch_id, "The disk was full.")
    if is_told:
        instance.report_runless_asset_event(dg.AssetMaterialization("upload_receipts", partition=batch_id))
    cancelled = started_run(instance, batch_id)
    if job == "load_small_files":
        instance.report_run_failed(cancelled)
        config = small_files.config_of([batch_id])
        cancelled = instance.create_run_for_job(defs.resolve_job_def(job), run_config=config)
    after_cancelling(instance, line, cancelled)
    assert receipt(line, batch_id) == before
    assert len(receipts(instance)) == 1


def test_many_runs_that_are_cancelled_at_once_are_looked_after_at_once(line, instance):
    """A file whose cancelled run is not heard of for two minutes gets another one, and loads."""
    names = [drop(line, f"{n}.csv", csv_of([good_row(n)])) for n in range(4)]
    for name in names:
        waiting = started_run(instance, name)
        instance.handle_new_event(event_of(waiting, "PIPELINE_CANCELED"))
    cursor = json.dumps({"__class__": "RunStatusSensorCursor", "record_id": 0, "update_timestamp": None})
    recovery.batch_cancelled.evaluate_tick(
        dg.build_sensor_context(instance=instance, cursor=cursor, resources={"line": line})
    )
    assert {receipt(line, name).state for name in names} == {State.FAILED}
    assert instance.get_materialized_partitions(dg.AssetKey("upload_receipts")) == set(names)
    assert not list(line.home.inbox.iterdir())


def test_a_file_whose_run_was_cancelled_before_it_was_taken_does_not_load_and_a_retry_loads_it(
    line, instance, batch_id
):
    seen = intake.survey(line, {}, lambda _: True).seen
    after_cancelling(instance, line, started_run(instance, batch_id))
    assert receipt(line, batch_id).state is State.FAILED
    assert not list(line.home.inbox.iterdir())
    assert intake.survey(line, seen, lambda _: False).requests == ()
    instance.add_dynamic_partitions("batches", [batch_id])
    assert Session(instance, line).retry(batch_id, lambda _: None).state is State.LOADED
    is_loaded_whole(line, batch_id)


def test_a_file_outside_the_inbox_stays_there_when_its_run_is_cancelled(line, instance, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(csv_of(good_row(n) for n in range(20)))
    batch_id = intake.announce(line, path)
    after_cancelling(instance, line, started_run(instance, batch_id))
    assert (receipt(line, batch_id).state, path.exists()) == (State.FAILED, True)
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


def test_a_file_outside_the_inbox_whose_command_was_killed_before_it_had_a_run_gets_its_receipt(
    line, instance, batch_id, tmp_path, at_once
):
    path = tmp_path / "mine.csv"
    path.write_text(csv_of(good_row(n) for n in range(20)))
    named = intake.announce(line, path)
    reason = f"Its command ended before it had taken the file. `bulk-upload retry {named}` loads it."
    assert followed(instance, line) == reason
    account = receipt(line, named)
    assert (account.state, account.reason, path.exists()) == (State.FAILED, reason, True)
    assert receipt(line, batch_id).state is State.WAITING  # in the inbox, which is looked at
    assert Session(instance, line).retry(named, lambda _: None).state is State.LOADED


def test_a_batch_fails_whose_waiting_file_is_gone(line, instance, batch_id):
    (line.home.inbox / "a.csv").unlink()
    assert not run(line, batch_id, instance).success
    account = receipt(line, batch_id)
    assert account.state is State.FAILED
    assert "There is no file at" in account.reason


def test_a_batch_fails_whose_waiting_file_was_replaced_by_a_link_to_one_that_its_sender_may_not_read(
    line, instance, batch_id, tmp_path
):
    waiting = line.home.inbox / "a.csv"
    waiting.rename(tmp_path / "secret.csv")
    waiting.symlink_to(tmp_path / "secret.csv")
    assert not run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.FAILED
    assert count(line, "mangalam_invoices") == 0


def test_a_run_that_is_interrupted_writes_its_receipt_itself(line, instance, batch_id, monkeypatch):
    def interrupted(*_args, **_named):
        raise dg.DagsterExecutionInterruptedError

    monkeypatch.setattr(stages, "load", interrupted)
    assert not run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.FAILED
    assert receipt(line, batch_id).reason.startswith("It was stopped before it was finished")
    monkeypatch.undo()
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


@pytest.mark.parametrize("kind", [dg.DagsterExecutionInterruptedError, ValueError])
def test_a_run_that_ends_behind_the_receipt_leaves_it_as_it_is(line, instance, batch_id, monkeypatch, kind):
    def ended(*_args, **_named):
        monkeypatch.undo()
        raise kind

    monkeypatch.setattr("bulk_upload_pipeline.defs.account.of_receipt", ended)
    assert not run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)
    assert len(receipts(instance)) == 1


def test_a_loaded_batch_that_is_taken_again_and_cut_off_in_the_middle_has_failed(line, instance, batch_id):
    assert run(line, batch_id, instance).success
    stages.upload(line, batch_id)
    assert stages.fail(line, batch_id, "The power went.").state is State.FAILED
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


@contextmanager
def cut_off(line, when):
    """Let the database refuse something, as if whoever asks for it were killed right before."""
    execute(
        line,
        "CREATE OR REPLACE FUNCTION cut_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'cut off' USING ERRCODE = 'P0001'; END $$",
        f"CREATE TRIGGER cut_off {when} EXECUTE FUNCTION cut_off()",
    )
    with pytest.raises((sa.exc.DBAPIError, psycopg2.Error), match="cut off"):
        yield
    execute(line, "DROP FUNCTION cut_off CASCADE")


def test_a_batch_of_many_faulty_rows_that_has_just_failed_is_judged_again_without_holding_each_against_each(
    line, batch_id
):
    """PostgreSQL has looked at the findings before those of this batch came, and takes them for one."""
    other = drop(line, "other.csv", csv_of([good_row(90)]))
    found = (
        "INSERT INTO bulk_upload.processing_errors (batch_id, row_number, error_code, severity, error_message, "
        "is_resolved) SELECT '{}', n, 'NOT_A_NUMBER', 'error', 'It is none.', {} FROM generate_series(1, {}) AS n"
    )
    execute(line, found.format(other, "false", 1_000), "ANALYZE bulk_upload.processing_errors")
    execute(line, found.format(batch_id, "true", 20_001), found.format(batch_id, "false", 20_000))
    with line.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '4s'")
        rejects.forget_repeated(connection, batch_id)
    left = rows(
        line,
        "SELECT is_resolved, count(*), max(row_number) FROM bulk_upload.processing_errors WHERE batch_id = :batch_id "
        "GROUP BY is_resolved ORDER BY is_resolved",
        batch_id=batch_id,
    )
    assert left == [(False, 20_000, 20_000), (True, 1, 20_001)]


def test_rows_that_were_staged_by_another_plan_do_not_load_under_the_verdict_of_before(line, batch_id):
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    chunks, batches = "bulk_upload.load_chunks", "bulk_upload.upload_batches"
    with cut_off(line, f"BEFORE INSERT ON {chunks} FOR EACH ROW WHEN (NEW.chunk_index > 0)"):
        stages.load(line, batch_id)
    other = replace(line, settings=replace(line.settings, chunk_rows=10))
    with cut_off(line, f"BEFORE UPDATE ON {batches} FOR EACH ROW WHEN (NEW.state = 'validated')"):
        stages.validate(other, batch_id)
    stages.load(other, batch_id)
    stages.close(other, batch_id)
    is_loaded_whole(line, batch_id)
