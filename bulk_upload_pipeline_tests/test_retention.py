"""What is thrown away and what stays: on Dagster's real storage in PostgreSQL."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import ledger, report, retention, sweeping, watch
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import retention as nightly
from bulk_upload_pipeline.exceptions import DiskFullError
from bulk_upload_pipeline.local import Urls, dagster_environment, postgres
from bulk_upload_pipeline.settings import Keeping
from bulk_upload_pipeline_tests.world import QUIET, csv_of, drop, good_row, line_at, run

ASSETS = ("upload", "validated_invoices", "processing_errors", "mangalam_invoices", "upload_receipts")
POLICY = Keeping(logs=30, failed_runs=90)


@pytest.fixture
def dagster_url(database_url):
    """A second database on the same server, for Dagster."""
    url = sa.make_url(database_url)
    name = f"{url.database}_dagster"
    administer(url, f'CREATE DATABASE "{name}"')
    yield url.set(database=name).render_as_string(hide_password=False)
    administer(url, f'DROP DATABASE "{name}" WITH (FORCE)')


def administer(url, statement):
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture
def line(tmp_path, database_url, dagster_url):
    with line_at(tmp_path / "home", database_url, dagster_database_url=dagster_url, keeping=POLICY) as line:
        yield line


@pytest.fixture
def instance(line, database_url, dagster_url, monkeypatch):
    with postgres(line.settings) as urls:
        for name, value in dagster_environment(line.settings, urls).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            yield instance


def ask(line, statement, **parameters):
    engine = sa.create_engine(line.settings.dagster_database_url)
    with engine.begin() as connection:
        found = connection.execute(sa.text(statement), parameters)
        rows = [tuple(row) for row in found] if found.returns_rows else []
    engine.dispose()
    return rows


def age(line, days):
    """Make everything that Dagster knows older."""
    for table, columns in {
        "event_logs": ["timestamp"],
        "runs": ["create_timestamp", "update_timestamp"],
    }.items():
        for column in columns:
            ask(line, f"UPDATE {table} SET {column} = {column} - make_interval(days => :days)", days=days)


def statuses(instance):
    return {asset: instance.get_materialized_partitions(dg.AssetKey(asset)) for asset in ASSETS}


def clean_up(line, instance):
    result = defs.resolve_job_def("retention").execute_in_process(
        instance=instance, resources={"line": line}, run_config=QUIET
    )
    (event,) = [e for e in result.all_node_events if e.is_successful_output]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def events(line):
    return ask(line, "SELECT count(*) FROM event_logs")[0][0]


MILLION = pytest.param(1_000_000, marks=pytest.mark.scale)


@pytest.mark.parametrize("old_events", [20_000, MILLION])
def test_old_events_go_and_every_materialization_status_stays(line, instance, old_events):
    good = drop(line, "good.csv", csv_of([good_row(1), good_row(2)]))
    run(line, good, instance)
    rejected = drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(3)))
    failed = run(line, rejected, instance)
    (of_good,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": good}))
    ask(
        line,
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp) "
        "SELECT :run, '{}', (ARRAY[NULL, 'STEP_OUTPUT', 'ENGINE_EVENT'])[1 + n % 3], now() AT TIME ZONE 'utc' "
        "FROM generate_series(1, :n) AS n",
        run=of_good.run_id,
        n=old_events,
    )
    age(line, 40)
    before, kinds = statuses(instance), kept_kinds(line)
    checks = check_results(instance)
    removed = clean_up(line, instance)
    assert removed["events"] >= old_events
    assert removed["failed_runs"] == 0
    assert statuses(instance) == before
    assert before["mangalam_invoices"] == {good}
    assert before["upload_receipts"] == {good, rejected}
    assert kept_kinds(line).items() >= kinds.items()
    assert check_results(instance) == checks
    assert events(line) < 200
    assert instance.get_run_by_id(failed.run_id).status is dg.DagsterRunStatus.FAILURE
    assert clean_up(line, instance)["events"] == 0


def kept_kinds(line):
    """How many there are of each kind of event that something is computed from."""
    kept = "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "PIPELINE_SUCCESS", "PIPELINE_FAILURE"
    return dict(
        ask(
            line,
            "SELECT dagster_event_type, count(*) FROM event_logs WHERE dagster_event_type = ANY (:kept) "
            "AND timestamp < now() - interval '1 day' GROUP BY 1",
            kept=list(kept),
        )
    )


def check_results(instance):
    key = dg.AssetCheckKey(dg.AssetKey("validated_invoices"), "error_rate")
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    return [(record.partition, record.status) for record in history]


def test_events_of_the_last_weeks_and_of_runs_under_way_stay(line, instance):
    batch_id = drop(line, "good.csv", csv_of([good_row(1)]))
    run(line, batch_id, instance)
    assert clean_up(line, instance)["events"] == 0
    ask(line, "UPDATE runs SET status = 'STARTED'")
    age(line, 40)
    assert clean_up(line, instance)["events"] == 0


def test_old_failed_runs_go_unless_something_was_materialized_by_them(line, instance):
    rejected = drop(line, "wrong.csv", csv_of([good_row(1, Quantity="x")]))
    holds = run(line, rejected, instance)
    job = dg.GraphDefinition(name="broken", node_defs=[breaks]).to_job()
    empty = job.execute_in_process(instance=instance, raise_on_error=False)
    age(line, 80)
    recent = job.execute_in_process(instance=instance, raise_on_error=False)
    age(line, 20)
    assert clean_up(line, instance)["failed_runs"] == 1
    left = {r.run_id for r in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))}
    assert left == {holds.run_id, recent.run_id}
    assert empty.run_id not in left
    assert statuses(instance)["upload_receipts"] == {rejected}


@dg.op
def breaks():
    raise ValueError("broken")


def test_staging_of_ended_batches_and_logs_of_old_runs_go(line, instance):
    batch_id = drop(line, "good.csv", csv_of([good_row(1)]))
    run(line, batch_id, instance)
    (line.home.staging / batch_id).mkdir()
    storage = Path(instance.storage_directory())
    for name, days in (("old", 40), ("new", 1)):
        (storage / name / "compute_logs").mkdir(parents=True)
        moment = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(storage / name, (moment, moment))
    removed = clean_up(line, instance)
    assert removed["staging_folders"] == 1
    assert removed["run_logs"] == 1
    assert not (line.home.staging / batch_id).exists()
    assert not (storage / "old").exists()
    assert (storage / "new").exists()


def test_reports_and_archive_are_kept_unless_the_policy_says_otherwise(line, instance):
    old, new = (drop(line, f"{n}.csv", csv_of([good_row(n)])) for n in (1, 2))
    for batch_id in (old, new):
        run(line, batch_id, instance)
    with line.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bulk_upload.upload_batches SET finished_at = now() - interval '400 days' "
                "WHERE batch_id = :old"
            ),
            {"old": old},
        )
    removed = clean_up(line, instance)
    assert (removed["reports"], removed["archived_files"]) == (0, 0)
    before = datetime.now(UTC) - timedelta(days=365)
    for folder in (line.home.reports, line.home.archive):
        assert retention.remove_folders(line.engine, line.home, folder, before) == 1
        assert [path.name for path in folder.iterdir()] == [new]
    assert ledger.receipt(line.engine, old).rows_inserted == 1


def test_a_file_of_the_archive_that_a_restored_database_does_not_know_is_told_at_night_and_by_up(
    line, instance, database_url, capsys
):
    line = replace(line, settings=replace(line.settings, alert_urls=("json://127.0.0.1:9/",)))
    known, lost = (drop(line, name, csv_of([good_row(1)])) for name in ("known.csv", "lost.csv"))
    for batch_id in (known, lost):
        stages.take(line, batch_id)
    assert clean_up(line, instance)["unknown_files"] == 0
    told = "SELECT title, body FROM bulk_upload.alerts"
    with line.engine.begin() as connection:
        connection.execute(
            sa.text("DELETE FROM bulk_upload.upload_batches WHERE batch_id = :lost"), {"lost": lost}
        )
        assert connection.execute(sa.text(told)).all() == []
    assert [clean_up(line, instance)["unknown_files"] for _ in range(2)] == [1, 1]
    with line.engine.connect() as connection:
        ((title, body),) = connection.execute(sa.text(told))
    assert title == "The database does not know 1 file of the archive"
    assert body.endswith(
        f"Drop the file from each of these folders in the inbox again, and remove the folder then: {lost}."
    )
    with watch._prepared(Urls(database_url, database_url), line.settings):
        said = capsys.readouterr()
    assert " ".join((said.out + said.err).split()) == body


def test_a_report_for_which_a_full_disk_had_no_room_is_written_at_night(line, instance):
    made = {name: drop(line, name, csv_of(rows)) for name, rows in REPORTED.items()}
    for batch_id in made.values():
        run(line, batch_id, instance)
    late, old, corrected = (line.reports(made[name]) for name in REPORTED)
    whole = {path.name: path.read_bytes() for path in late.iterdir()}
    for folder in (late, old):  # as a disk that became full leaves them
        for path in folder.iterdir():
            path.unlink()
    (corrected / "rejected_rows.csv").write_text("the clerk is at work here")
    with line.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bulk_upload.upload_batches SET finished_at = finished_at - interval '8 days' "
                "WHERE batch_id = :old"
            ),
            {"old": old.name},
        )
    assert clean_up(line, instance)["late_reports"] == 1
    assert {path.name: path.read_bytes() for path in late.iterdir()} == whole
    assert list(old.iterdir()) == []
    assert (corrected / "rejected_rows.csv").read_text() == "the clerk is at work here"
    assert clean_up(line, instance)["late_reports"] == 0


def test_a_report_that_still_tells_of_an_earlier_end_is_written_at_night(line, instance, monkeypatch):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    stages.upload(line, batch_id)
    stages.fail(line, batch_id, "The database went away.")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(report, "write", full)
        with pytest.raises(DiskFullError):
            stages.take(line, batch_id)
    summary = line.reports(batch_id) / report.SUMMARY
    assert (ledger.receipt(line.engine, batch_id).state, told(summary)) == ("loaded", "failed")
    assert clean_up(line, instance)["late_reports"] == 1
    assert told(summary) == "loaded"
    assert clean_up(line, instance)["late_reports"] == 0


def told(summary):
    """The exit of which a report tells."""
    return json.loads(summary.read_text())["state"]


REPORTED = {
    "late.csv": [good_row(1), good_row(2, Quantity="x"), good_row(3)],
    "old.csv": [good_row(4)],
    "corrected.csv": [good_row(5), good_row(6, Quantity="x"), good_row(7)],
}


def test_partitions_beyond_the_limit_leave_when_their_batches_have_ended(line, instance):
    waiting = drop(line, "waiting.csv", csv_of([good_row(0)]))
    instance.add_dynamic_partitions("batches", [waiting])
    ended = []
    for n in range(1, 4):
        ended.append(drop(line, f"{n}.csv", csv_of([good_row(n)])))
        run(line, ended[-1], instance)
    assert nightly._partitions(instance, line, most=Keeping().partitions) == 0
    assert Keeping().partitions == 20_000
    assert nightly._partitions(instance, line, most=2) == 1
    assert instance.get_dynamic_partitions("batches") == [waiting, *ended[1:]]
    assert ledger.receipt(line.engine, ended[0]).rows_inserted == 1
    assert clean_up(line, instance)["partitions"] == 0


def test_retention_runs_every_night_by_itself(line):
    (schedule,) = [s for s in defs.schedules if s.name == "nightly_retention"]
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "30 2 * * *"


def test_nothing_of_ours_ever_deletes_a_file_that_was_received(line, instance):
    """Every exit, a retry, a revert, the sweep and the nightly retention, as they are when nobody sets a limit."""
    good, bad, x = [good_row(n) for n in range(4)], good_row(90, Quantity="x"), {"Quantity": "x"}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("one.csv", csv_of([good_row(50)]))
        archive.writestr("two.csv", csv_of([good_row(51)]))
    received = {
        "loaded.csv": csv_of(good).encode(),
        "partially_loaded.csv": csv_of([*good, bad]).encode(),
        "rejected.csv": csv_of([good_row(1, **x)]).encode(),
        "unreadable.csv": b"\x00\x01\x02",
        "duplicate.csv": csv_of(good).encode(),
        "unpacked.zip": packed.getvalue(),
        "reverted.csv": csv_of([good_row(70)]).encode(),
        "failed.csv": csv_of([good_row(80)]).encode(),
    }
    batches = {name: drop(line, name, content) for name, content in received.items()}
    for name, batch_id in batches.items():
        if name == "failed.csv":
            stages.upload(line, batch_id)
            stages.fail(line, batch_id, "The machine failed.")
        else:
            stages.take(line, batch_id)
    assert {name: ledger.receipt(line.engine, each).state for name, each in batches.items()} == {
        name: "loaded" if name == "reverted.csv" else name.partition(".")[0] for name in received
    }
    stages.take(line, batches["partially_loaded.csv"])
    stages.revert(line, batches["reverted.csv"])
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE bulk_upload.upload_batches SET received_at = received_at - interval '30 years', "
            "finished_at = finished_at - interval '30 years'"
        )
    sweeping.sweep(line)
    assert clean_up(line, instance)["archived_files"] == 0
    kept = {name: (line.home.archive / each / name).read_bytes() for name, each in batches.items()}
    assert kept == received
