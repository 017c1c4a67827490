"""A run lives as long as its worker, and whoever looks can tell."""

from __future__ import annotations

import os
import signal

import dagster as dg
import pytest

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import liveness, local, watch
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.defs import recovery
from bulk_upload_pipeline.defs.resources import line_resource
from bulk_upload_pipeline.defs.session import Session
from bulk_upload_pipeline.exceptions import DatabaseInUseError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline_tests.disturbed import batch_id, execute, settled, worker_of
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import rows

__all__ = ["batch_id", "settled"]

SETTINGS = {"chunk_rows": 7}


def test_a_tick_leaves_no_connection_open(line, instance, database_url, monkeypatch):
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(line.home.root))
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", database_url)
    with dg.build_resources({"line": line_resource}, instance=instance) as resources:
        ticking = resources.line
        assert recovery.reaper(dg.build_sensor_context(instance=instance, resources={"line": ticking}))
    ours = "application_name = 'bulk-upload' AND datname = current_database() AND pid <> pg_backend_pid()"
    wait_until(lambda: rows(line, f"SELECT count(*) FROM pg_stat_activity WHERE {ours}") == [(0,)], 30)
    ticking.engine.dispose()


def test_a_run_lives_as_long_as_its_worker_and_not_longer(line, settled):
    with worker_of(line, "run-1") as worker:
        assert liveness.without_worker(line.engine, ["run-1", "run-2"]) == {"run-2"}
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: liveness.without_worker(line.engine, ["run-1"]))


def test_a_worker_whose_connection_is_cut_takes_its_lock_again(line, settled, monkeypatch):
    monkeypatch.setattr(liveness, "BETWEEN_LOOKS", 0.05)
    with liveness.alive(line.engine, "run-1"):
        holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = "
        holder += "(SELECT oid FROM pg_database WHERE datname = current_database())"
        ((pid,),) = rows(line, holder)
        rows(line, f"SELECT pg_terminate_backend({pid})")
        wait_until(lambda: rows(line, holder) not in ([], [(pid,)]))
        assert liveness.without_worker(line.engine, ["run-1"]) == set()
    # The server lets go of the lock when it has noticed that the connection is closed.
    wait_until(lambda: liveness.without_worker(line.engine, ["run-1"]) == {"run-1"})


def test_a_second_up_is_refused_a_database_until_the_first_one_has_ended(
    line, database_url, tmp_path, settled
):
    urls = local.Urls(database_url, database_url)
    other = Settings(Home(tmp_path / "other"), database_url)
    other.home.make()
    with watch._prepared(urls, line.settings):
        with (
            pytest.raises(DatabaseInUseError, match="BULK_UPLOAD_DATABASE_URL"),
            watch._prepared(urls, other),
        ):
            pytest.fail("it would take the files of the first")
        with watch._prepared(urls, Settings(other.home)):
            pass  # the embedded server is its home's alone
    wait_until(lambda: liveness.without_worker(line.engine, [liveness.UP]))
    with watch._prepared(urls, other):
        assert liveness.without_worker(line.engine, [liveness.UP]) == set()


def test_an_up_begins_though_the_clock_was_set_back_since_the_server_started(line, database_url, administer):
    execute(
        line,
        "CREATE SCHEMA later",
        "CREATE FUNCTION later.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql "
        "RETURN now() + interval '2 hours'",
    )
    administer(f"ALTER DATABASE {line.engine.url.database} SET search_path = later, pg_catalog, public")
    engine = make_engine(database_url)
    assert liveness.without_worker(engine, ["run-1"]) == set()
    with liveness.only_up(engine):
        assert liveness.without_worker(engine, [liveness.UP], settled=0) == set()
    engine.dispose()


def test_nobody_is_taken_for_dead_right_after_a_restart_of_the_server(line, monkeypatch):
    monkeypatch.setattr(liveness, "SERVER_SETTLED", 1e9)
    assert liveness.without_worker(line.engine, ["run-1"]) == set()


def test_a_run_of_the_command_line_proves_that_it_lives_as_those_of_the_services_do(
    line, instance, batch_id, settled, monkeypatch
):
    seen = []
    really = stages.load

    def load(line, batch):
        run_ids = [record.run_id for record in instance.get_runs()]
        seen.extend((run_ids, liveness.without_worker(line.engine, run_ids)))
        return really(line, batch)

    monkeypatch.setattr(stages, "load", load)
    instance.add_dynamic_partitions("batches", [batch_id])
    assert Session(instance, line).run(batch_id, lambda _: None).state is State.LOADED
    (run_ids, dead) = seen
    assert (len(run_ids), dead) == (1, set())
    assert liveness.without_worker(line.engine, run_ids) == set(run_ids)
