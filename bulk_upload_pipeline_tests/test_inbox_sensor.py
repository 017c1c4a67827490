"""Which waiting files become which runs, and what the sensor of the inbox does about them."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import intake, whereabouts
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import recovery, sensors, small_files
from bulk_upload_pipeline.lanes import MOST_BYTES, MOST_FILES, SMALL_BYTES, share
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.test_small_files import take
from bulk_upload_pipeline_tests.world import QUIET, count, csv_of, drop, good_row, receipt, rows, run

SETTINGS = {"chunk_rows": 7}

GOOD = csv_of(good_row(n) for n in range(20))


# Which files share a run


class File:
    def __init__(self, size):
        self.size = size


def test_big_files_and_a_small_one_that_waits_alone_have_runs_of_their_own():
    big, small = File(SMALL_BYTES + 1), File(SMALL_BYTES)
    assert share([big, small]) == ([big, small], [])
    alone, together = share([big, small, small])
    assert (alone, together) == ([big], [[small, small]])


@pytest.mark.parametrize(("files", "size"), [(39, 10), (300, 700_000), (10_000, 100), (100, SMALL_BYTES)])
def test_small_files_are_shared_out_evenly_within_bounds_and_each_once(files, size):
    items = [File(size) for _ in range(files)]
    _, groups = share(items)
    assert [item for group in groups for item in group] == items
    assert all(len(group) <= MOST_FILES and sum(f.size for f in group) <= MOST_BYTES for group in groups)
    *full, last = map(len, groups)
    assert set(full) <= {len(groups[0])}
    assert last <= len(groups[0])
    assert len(groups) >= (2 if files >= 40 else 1)


def test_a_pool_shares_small_files_among_as_many_runs_as_it_takes_at_once():
    items = [File(10) for _ in range(300)]
    _, groups = share(items, at_once=8)
    assert [len(group) for group in groups] == [38, 38, 38, 38, 38, 38, 38, 34]
    assert [len(group) for group in share(items[:45], at_once=8)[1]] == [23, 22]


# The sensor


def tick(line, instance, cursor=None):
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
    return sensors.inbox_sensor(context, line=line)


NO_CURSORS = ["garbage", "[]", "5", '{"a.csv": 5}', '{"a.csv": ["0", "now"]}']
"""What a person may have put in the place of a sensor's cursor, in the UI."""


@pytest.mark.parametrize("cursor", NO_CURSORS)
def test_what_is_no_cursor_counts_as_none(line, instance, monkeypatch, cursor):
    monkeypatch.setattr(intake, "LOOKING_S", 0.0)
    (line.home.inbox / "a.csv").write_text(csv_of([good_row(1)]))
    assert "1 still being written or just arrived" in tick(line, instance, cursor).skip_message


def seen_long_ago(line):
    """The cursor of a sensor that has known for a minute what lies in the inbox."""
    seen = intake.survey(line, {}, lambda _: True).seen
    return json.dumps({name: (fingerprint, time.time() - 60) for name, fingerprint in seen.items()})


def test_waiting_small_files_become_one_run_and_a_big_one_its_own(line, instance):
    for number in range(5):
        (line.home.inbox / f"{number}.csv").write_text(f"file {number}")
    with (line.home.inbox / "big.csv").open("wb") as file:
        os.ftruncate(file.fileno(), SMALL_BYTES + 1)
    result = tick(line, instance, seen_long_ago(line))
    jobs = {request.job_name: request for request in result.run_requests}
    assert set(jobs) == {"load_batch", "load_small_files"}
    batch_ids = small_files.batch_ids_in(jobs["load_small_files"].run_config)
    assert len(batch_ids) == 5
    assert jobs["load_batch"].partition_key not in batch_ids
    assert jobs["load_batch"].tags["bulk_upload/lane"] == "big"
    assert sorted(instance.get_dynamic_partitions("batches")) == sorted(
        [*batch_ids, jobs["load_batch"].partition_key]
    )


def test_the_run_of_a_file_whose_name_is_no_text_is_taken_by_dagsters_own_database(
    line, tmp_path, dagster_url
):
    (line.home.inbox / os.fsdecode(b"caf\xe9.csv")).write_text(GOOD)
    (tmp_path / "dagster.yaml").write_text(
        json.dumps({"storage": {"postgres": {"postgres_url": dagster_url}}, "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (request,) = tick(line, instance, seen_long_ago(line)).run_requests
        job = defs.resolve_job_def(request.job_name)
        run_id = instance.create_run_for_job(job, tags=request.tags).run_id
        assert instance.get_run_by_id(run_id).tags["file"] == "caf\\xe9.csv"
    batch_id = request.partition_key
    assert receipt(line, batch_id).file_name == "caf\\xe9.csv"
    assert stages.take(line, batch_id).state is State.LOADED


def test_a_file_that_a_run_takes_while_the_inbox_is_looked_at_is_no_second_batch(line, monkeypatch):
    """With several workers it happened every minute: the second batch failed, since its file was gone."""
    path = line.home.inbox / "taken.csv"
    path.write_text(GOOD)
    seen = intake.survey(line, {}, lambda _: True).seen
    look_up = whereabouts.waiting

    def taken_meanwhile(engine, sources):
        path.unlink()
        return look_up(engine, sources)

    monkeypatch.setattr(whereabouts, "waiting", taken_meanwhile)
    assert intake.survey(line, seen, lambda _: True).requests == ()
    assert count(line, "bulk_upload.upload_batches") == 0


def test_a_file_is_taken_when_it_has_not_changed_for_a_while_within_one_tick(line, instance, monkeypatch):
    clock = [1_000.0]
    path = line.home.inbox / "growing.csv"
    path.write_text("0")

    def pass_time(seconds):
        clock[0] += seconds
        if clock[0] < 1_001:
            path.write_text("0" * int(clock[0]))

    monkeypatch.setattr(intake.time, "sleep", pass_time)
    monkeypatch.setattr(intake.time, "time", lambda: clock[0])
    monkeypatch.setattr(intake.time, "monotonic", lambda: clock[0])
    result = tick(line, instance)
    assert len(result.run_requests) == 1
    assert clock[0] == pytest.approx(1_000.5 + intake.SETTLED_S)


def test_a_tick_ends_in_time_and_says_what_waits_and_why(line, instance, monkeypatch):
    monkeypatch.setattr(intake, "LOOKING_S", 0)
    (line.home.inbox / "a.csv").write_text("x")
    (line.home.inbox / "b.csv.part").write_text("x")
    skipped = tick(line, instance)
    assert skipped.skip_message == (
        "Files in the inbox: 1 still being written or just arrived; 1 never taken (unfinished files)."
    )


def test_a_waiting_file_is_asked_for_again_only_when_no_run_has_it(line, instance):
    batch_ids = [drop(line, f"{n}.csv", f"file {n}") for n in range(3)]
    shared = {**small_files.config_of(batch_ids[:2]), **QUIET}
    instance.create_run_for_job(
        defs.resolve_job_def("load_small_files"), run_config=shared, status=dg.DagsterRunStatus.STARTED
    )
    first = intake.survey(line, {}, lambda _: True)
    with line.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE bulk_upload.upload_batches SET started_at = now() - interval '1 hour'")
        )
    again = intake.survey(line, first.seen, sensors._Runs(instance).has_one_of)
    assert [request.batch_id for request in again.requests] == [batch_ids[2]]


def asked_again(line, instance, seen):
    """The batches for which the inbox asks for a run, long after it did so before."""
    with line.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE bulk_upload.upload_batches SET started_at = now() - interval '9 hours'")
        )
    again = intake.survey(line, seen, sensors._Runs(instance).has_one_of)
    return [request.batch_id for request in again.requests]


def test_a_file_that_was_put_back_is_asked_for_again_when_its_second_run_is_lost(line, instance):
    path = line.home.inbox / "a.csv"
    path.write_text("half")
    batch_id = intake.announce(line, path)
    path.write_text(GOOD)
    assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.WAITING
    seen = intake.survey(line, {}, lambda _: True).seen
    (request,) = intake.survey(line, seen, lambda _: True).requests  # of a run that never came to be
    assert request.attempt == 2
    assert asked_again(line, instance, seen) == [batch_id]
    assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.LOADED


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE])
def test_a_waiting_file_is_not_asked_for_while_its_run_goes_on_or_has_only_just_failed(
    line, instance, status, monkeypatch
):
    batch_id = drop(line, "a.csv", GOOD)
    seen = intake.survey(line, {}, lambda _: True).seen
    job = defs.resolve_job_def("load_batch")
    instance.create_run_for_job(job, tags={"dagster/partition": batch_id}, status=status)
    assert asked_again(line, instance, seen) == []
    monkeypatch.setattr(sensors, "OVERDUE", timedelta(0))
    is_over = status is dg.DagsterRunStatus.FAILURE
    assert asked_again(line, instance, seen) == ([batch_id] if is_over else [])


def test_ten_thousand_files_are_looked_at_within_seconds_and_bounded(line, instance):
    for number in range(10_000):
        (line.home.inbox / f"{number:05}.csv").write_text("x")
    cursor, began = seen_long_ago(line), time.monotonic()
    result = tick(line, instance, cursor)
    assert time.monotonic() - began < 30, "Dagster gives a tick 60 s"
    asked = [len(small_files.batch_ids_in(request.run_config)) for request in result.run_requests]
    assert sum(asked) == intake.MOST_SEEN
    assert max(asked) <= MOST_FILES
    assert len(result.cursor) < 100_000
    assert count(line, "bulk_upload.upload_batches") == intake.MOST_SEEN
    seen = {name: sighting[0] for name, sighting in json.loads(result.cursor).items()}
    waiting = intake.survey(line, seen, sensors._Runs(instance).has_one_of)
    assert "1,500 waiting for their run; 8,500 still being written or just arrived" in waiting.in_words


def test_a_batch_that_a_dead_run_left_in_the_middle_goes_on_and_those_it_had_not_come_to_wait(line, instance):
    batch_ids = [drop(line, f"{n}.csv", csv_of([good_row(n)])) for n in range(3)]
    take(line, batch_ids[:1], instance)
    stages.upload(line, batch_ids[1])
    job = defs.resolve_job_def("load_small_files")
    dead = instance.create_run_for_job(
        job, run_config=small_files.config_of(batch_ids), status=dg.DagsterRunStatus.FAILURE
    )
    assert recovery._cut_off(instance, line, dead) == [batch_ids[1]]
    assert whereabouts.states(line.engine, batch_ids)[batch_ids[2]] is State.WAITING
    assert rows(line, "SELECT count(*) FROM mangalam_invoices") == [(1,)]
