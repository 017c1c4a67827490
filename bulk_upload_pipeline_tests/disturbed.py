"""A file whose load is disturbed: by whom, and whether it is loaded whole in the end."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from bulk_upload_pipeline import evidence, inspection, liveness
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs.partitions import PARTITION_TAG
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.world import count, csv_of, drop, good_row, receipt

TARGET = "mangalam_invoices"

ROOT = Path(__file__).parent.parent


@pytest.fixture
def batch_id(line):
    return drop(line, "a.csv", csv_of(good_row(n) for n in range(20)))


def execute(line, *statements):
    with line.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def tries(result):
    return sum(event.event_type_value == "STEP_UP_FOR_RETRY" for event in result.all_events)


def is_loaded_whole(line, batch_id):
    account = receipt(line, batch_id)
    assert (account.state, account.rows_inserted, account.rows_unprocessed) == (State.LOADED, 20, 0)
    assert account.reason == "All 20 rows are loaded."
    assert count(line, TARGET) == 20
    assert inspection.control_totals(evidence.of(line.engine, batch_id)).passed
    assert not list(line.home.staging.iterdir())


WORKER = """
import sys
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.liveness import alive
with alive(make_engine(sys.argv[1]), sys.argv[2]):
    print("alive", flush=True)
    sys.stdin.read()
"""


@contextmanager
def worker_of(line, run_id):
    command = [sys.executable, "-c", WORKER, line.settings.database_url, run_id]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == "alive\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def settled(monkeypatch):
    """The server of the tests started just now, and is trusted all the same."""
    monkeypatch.setattr(liveness, "SERVER_SETTLED", 0.0)


def started_run(instance, batch_id, **tags):
    """A run that says of itself that it is under way."""
    instance.add_dynamic_partitions("batches", [batch_id])
    job = defs.resolve_job_def("load_batch")
    run = instance.create_run_for_job(job, tags={PARTITION_TAG: batch_id, **tags})
    instance.handle_new_event(event_of(run, "PIPELINE_START"))
    return run


def event_of(run, kind):
    from dagster._core.events import DagsterEvent
    from dagster._core.events.log import EventLogEntry

    event = DagsterEvent(kind, run.job_name, message=f"It is {kind}.")
    return EventLogEntry(None, 20, "", run.run_id, time.time(), None, run.job_name, event)


def receipts(instance):
    return instance.fetch_materializations(dg.AssetKey("upload_receipts"), limit=10).records
