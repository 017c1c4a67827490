"""Runs that help with a huge file: when they are sent, what they do, and how they leave."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._daemon.types import DaemonHeartbeat

from bulk_upload_pipeline import ledger, part_ledger, sharing, terms
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import helping
from bulk_upload_pipeline.defs.helping import HELPS_TAG, config_of, help_with_parts, parts_sensor
from bulk_upload_pipeline.defs.session import Session
from bulk_upload_pipeline.judging import plan_of
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.recognising import dialects, encodings
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.test_splitting import PART, announce
from bulk_upload_pipeline_tests.upped import database_url as url_of
from bulk_upload_pipeline_tests.upped import upped, wait_until
from bulk_upload_pipeline_tests.world import QUIET, csv_of, drop, ephemeral, good_row, line_at, rows

ROWS = 2_000


@pytest.fixture
def line(tmp_path, database_url, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 1 << 13)
    monkeypatch.setattr(dialects, "TOP_BYTES", 1 << 12)
    with line_at(tmp_path / "home", database_url, chunk_rows=400, part_bytes=PART) as line:
        yield line


@pytest.fixture
def batch_id(line):
    return drop(line, "huge.csv", csv_of([good_row(n) for n in range(ROWS)]))


def tick(line, instance):
    """What the sensor asks for."""
    answer = parts_sensor(dg.build_sensor_context(instance=instance, resources={"line": line}))
    return answer.run_requests if isinstance(answer, dg.SensorResult) else answer.skip_message


def noted(instance, request, status):
    """A run as it would be in Dagster's storage."""
    run = dg.DagsterRun("help_with_parts", tags=request.tags, status=status)
    instance.add_run(run)
    return run


def test_a_huge_file_gets_one_helper_at_a_time_as_long_as_parts_wait(line, batch_id):
    with ephemeral() as instance:
        assert tick(line, instance) == "0 parts of 0 huge files wait for a worker."
        announce(line, batch_id)
        (first,) = tick(line, instance)
        assert (first.run_config, first.tags) == (config_of(batch_id), {HELPS_TAG: batch_id})
        noted(instance, first, dg.DagsterRunStatus.NOT_STARTED)
        assert "parts of 1 huge files wait" in tick(line, instance)
    with ephemeral() as instance:
        noted(instance, first, dg.DagsterRunStatus.STARTED)
        (second,) = tick(line, instance)
        assert second.run_key != first.run_key
        for _ in range(helping.MOST_FAILED):
            noted(instance, first, dg.DagsterRunStatus.FAILURE)
        assert "wait for a worker" in tick(line, instance)
    stages.take(line, batch_id)
    with ephemeral() as instance:
        assert tick(line, instance) == "0 parts of 0 huge files wait for a worker."


def test_parts_that_somebody_has_need_no_helper(line, batch_id):
    announce(line, batch_id)
    parts = part_ledger.rows(line.engine, batch_id)
    assert sharing.parts_without_worker(line) == {batch_id: len(parts)}
    with part_ledger.leases(line.engine) as leases, leases.one_of(batch_id, parts) as taken:
        assert taken == parts[0]
        assert sharing.parts_without_worker(line) == {batch_id: len(parts) - 1}
    assert sharing.parts_without_worker(line) == {batch_id: len(parts)}


def help_in_process(line, batch_id, instance):
    return defs.resolve_job_def(help_with_parts.name).execute_in_process(
        instance=instance,
        resources={"line": line},
        run_config=config_of(batch_id) | QUIET,
        raise_on_error=False,
    )


def test_a_helper_judges_what_waits_and_leaves_the_rest_to_who_took_the_file(line, batch_id, monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.helping.PATIENCE_S", 0.5)
    announce(line, batch_id)
    with ephemeral() as instance:
        assert help_in_process(line, batch_id, instance).success
    assert all(row.staged for row in part_ledger.rows(line.engine, batch_id))
    assert ledger.batch(line.engine, batch_id).state is State.RECEIVED
    receipt = stages.take(line, batch_id)
    assert (receipt.state, receipt.rows_inserted) == (State.LOADED, ROWS)


def test_a_helper_gives_up_its_place_when_another_run_waits_for_one(line, batch_id, monkeypatch):
    monkeypatch.setattr(helping, "WAITS_TOO_LONG", helping.timedelta(seconds=-60))
    announce(line, batch_id)
    with ephemeral() as instance:
        instance.add_run(dg.DagsterRun("load_batch", status=dg.DagsterRunStatus.STARTING))
        assert help_in_process(line, batch_id, instance).success
    assert not any(row.staged for row in part_ledger.rows(line.engine, batch_id))


def test_a_helper_with_other_settings_fails_in_one_sentence(line, batch_id, monkeypatch):
    announce(line, batch_id)
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 1 << 14)
    with ephemeral() as instance:
        failed = help_in_process(line, batch_id, instance).all_node_events
    (failure,) = (event for event in failed if event.is_step_failure)
    assert "Give all workers the same" in failure.step_failure_data.error.message


def beat(instance, seconds_ago):
    """Let the daemon of the sensors have written its heartbeat then."""
    at = datetime.now(UTC).timestamp() - seconds_ago
    instance.add_daemon_heartbeat(DaemonHeartbeat(at, "SENSOR", "some-daemon"))


def in_parts(line, batch_id):
    """Whether a batch was judged in parts."""
    batch, verdict = ledger.batch(line.engine, batch_id), ledger.verdict(line.engine, batch_id)
    return verdict.plan != plan_of(terms.judging_of(line, batch), batch.sha256)


@pytest.mark.parametrize(("seconds_ago", "parted"), [(None, False), (0, True), (3_600, False)])
def test_a_command_judges_a_huge_file_in_parts_only_while_a_daemon_lives_that_sends_help(
    line, batch_id, seconds_ago, parted
):
    stages.upload(line, batch_id)
    with ephemeral() as instance:
        if seconds_ago is not None:
            beat(instance, seconds_ago)
        receipt = Session(instance, line).run(batch_id, lambda _: None)
    assert (receipt.state, receipt.rows_inserted) == (State.LOADED, ROWS)
    assert in_parts(line, batch_id) is parted


@pytest.mark.parametrize("helped_first", [True, False])
def test_a_huge_file_that_is_taken_again_is_known_to_the_chunk_ledger_whoever_could_help_then(
    line, batch_id, helped_first
):
    first, second = (replace(line, is_helped=helped) for helped in (helped_first, not helped_first))
    stages.take(first, batch_id)
    chunks = rows(line, "SELECT * FROM bulk_upload.load_chunks ORDER BY chunk_index")
    again = stages.take(second, batch_id)
    assert in_parts(line, batch_id) is helped_first
    assert rows(line, "SELECT * FROM bulk_upload.load_chunks ORDER BY chunk_index") == chunks
    assert (again.state, again.rows_inserted) == (State.LOADED, ROWS)


def test_what_was_begun_in_parts_goes_on_so_when_nobody_can_help_any_more(line, batch_id):
    announce(line, batch_id)
    sharing.help_along(line, batch_id, iter([True, False]).__next__)
    staged = [row.staged for row in part_ledger.rows(line.engine, batch_id) if row.staged]
    stages.validate(replace(line, is_helped=False), batch_id)
    assert len(staged) == 1
    assert staged[0] in {row.staged for row in part_ledger.rows(line.engine, batch_id)}


_HELPERS = """
query { runsOrError(filter: {pipelineName: "help_with_parts"}) { ... on Runs { results { runId status } } } }
"""


@pytest.mark.scale
def test_a_dropped_huge_file_is_shared_by_two_processes(tmp_path):
    lines = 120_000
    write_sample(tmp_path / "huge.csv", rows=lines, dirty=0.01, seed=7)
    size = (tmp_path / "huge.csv").stat().st_size
    environment = {"BULK_UPLOAD_PART_MB": "1"}
    with upped(tmp_path / "home", environment=environment) as world:
        world.drop("huge.csv", (tmp_path / "huge.csv").read_bytes())
        found = "SELECT count(*), count(verdict) FROM bulk_upload.file_parts"
        parts, _ = wait_until(lambda: next((row for row in world.rows(found) if row[0]), None))
        wait_until(lambda: world.states().get("huge.csv"), 600)
        assert world.states() == {"huge.csv": "partially_loaded"}
        told = wait_until(
            lambda: (
                (runs := world.ask(_HELPERS)["runsOrError"]["results"])
                and all(run["status"] in ("SUCCESS", "FAILURE") for run in runs)
                and runs
            )
        )
        loaded = world.rows("SELECT count(*) FROM mangalam_invoices")
        dagster = make_engine(url_of(world.home).set(database="dagster"))
        with dagster.connect() as connection:
            events = "SELECT event FROM event_logs WHERE strpos(event, 'It worked on') > 0"
            words = list(connection.scalars(sa.text(events)))
        dagster.dispose()
    assert parts >= size >> 22
    assert {run["status"] for run in told} == {"SUCCESS"}
    assert words
    assert any("It worked on 0 parts" not in event for event in words)
    assert loaded == [(lines - lines // 100,)]
