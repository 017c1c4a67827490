"""Events that are written together: as Dagster's own storage would have written each by itself."""

from __future__ import annotations

import json

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import small_files, telling
from bulk_upload_pipeline_tests.world import QUIET, csv_of, drop, good_row, line_at, receipt

EVENTS = [
    event
    for batch in ("first", "second")
    for event in (
        dg.AssetMaterialization("upload", "arrived", {"bytes": 12}, batch),
        dg.AssetMaterialization("mangalam_invoices", None, {"rows": 3, "text": "€ 'quoted'"}, batch),
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("mangalam_invoices"),
            check_name="subtotals",
            passed=batch == "first",
            metadata={"invoices": 7},
            severity=dg.AssetCheckSeverity.WARN,
            description="They add up.",
            partition=batch,
        ),
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("upload_receipts"), check_name="nothing_lost", passed=True, partition=batch
        ),
        dg.AssetMaterialization("upload_receipts", "All rows are loaded.", {}, batch),
    )
]
TABLES = {
    "events": "SELECT event, dagster_event_type, step_key, asset_key, partition FROM event_logs "
    "WHERE run_id = :run AND asset_key IS NOT NULL ORDER BY asset_key, dagster_event_type, partition",
    "evaluations": "SELECT event, dagster_event_type, step_key, asset_key, partition FROM event_logs "
    "WHERE run_id = :run AND dagster_event_type = 'ASSET_CHECK_EVALUATION' ORDER BY event",
    "checks": "SELECT c.asset_key, check_name, c.partition, execution_status, evaluation_event, "
    "e.event = evaluation_event AS is_its_event, e.timestamp = evaluation_event_timestamp AS at_its_time, "
    "materialization_event_storage_id FROM asset_check_executions AS c "
    "LEFT JOIN event_logs AS e ON e.id = evaluation_event_storage_id WHERE c.run_id = :run "
    "ORDER BY check_name, c.partition",
    "assets": "SELECT asset_key, last_materialization, wipe_timestamp, asset_details, tags "
    "FROM asset_keys WHERE last_run_id = :run ORDER BY asset_key",
}
PASSING = {"timestamp", "pid", "run_id", "user_message", "storage_id", "last_run_id"}


@pytest.fixture
def instance(tmp_path, dagster_url):
    """Dagster on PostgreSQL, as `up` has it."""
    (tmp_path / "dagster.yaml").write_text(
        json.dumps({"storage": {"postgres": {"postgres_url": dagster_url}}, "telemetry": {"enabled": False}})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@dg.op
def one_by_one(context):
    for event in EVENTS:
        context.log_event(event)


@dg.op
def together(context):
    telling.write(context, EVENTS)


@dg.op
def together_twice(context):
    telling.write(context, EVENTS)
    telling.write(context, EVENTS)


def written(instance, url, op):
    """What the tables of the storage hold of a run of `op`."""

    @dg.job(name="telling")
    def job():
        op.alias("tell")()

    run = job.execute_in_process(instance=instance, run_config=QUIET)
    assert run.success
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {
            name: [
                {column: plain(value) for column, value in row._mapping.items()}
                for row in connection.execute(sa.text(query), {"run": run.run_id})
            ]
            for name, query in TABLES.items()
        }
    engine.dispose()
    return found


def plain(value):
    """A value without what differs from run to run."""
    if isinstance(value, str) and value.startswith("{"):
        return plain(json.loads(value))
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in PASSING}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_events_that_are_written_together_are_what_dagster_writes_one_by_one(instance, dagster_url):
    alone, shared = (written(instance, dagster_url, op) for op in (one_by_one, together))
    assert [len(alone[name]) for name in TABLES] == [6, 4, 4, 3]
    for name in TABLES:
        assert shared[name] == alone[name], name
    assert all(row["is_its_event"] and row["at_its_time"] for row in shared["checks"])


def test_a_check_that_is_told_twice_by_a_run_has_one_result(instance, dagster_url):
    found = written(instance, dagster_url, together_twice)
    assert len(found["evaluations"]) == 8
    assert len(found["checks"]) == 4


def test_the_ui_finds_the_latest_of_each_batch(instance, dagster_url):
    written(instance, dagster_url, together)
    receipts = dg.AssetKey("upload_receipts")
    assert {"first", "second"} <= instance.get_materialized_partitions(receipts)
    latest = instance.get_latest_materialization_event(receipts)
    assert latest.asset_materialization.partition == "second"
    checked = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(receipts, "nothing_lost")]
    )
    assert [record.status.value for record in checked.values()] == ["SUCCEEDED"]


def test_a_run_that_is_stopped_has_told_of_the_files_that_it_had_finished(
    tmp_path, database_url, monkeypatch
):
    """Nobody comes after a run that a person cancels."""
    from bulk_upload_pipeline import line as stages

    real, taken = stages.take, []

    def interrupted(line, batch_id, run_id):
        if taken:
            raise dg.DagsterExecutionInterruptedError
        taken.append(batch_id)
        return real(line, batch_id, run_id)

    monkeypatch.setattr(stages, "take", interrupted)
    with line_at(tmp_path / "home", database_url) as line, dg.DagsterInstance.ephemeral() as instance:
        batches = [drop(line, f"{n}.csv", csv_of([good_row(n)])) for n in range(3)]
        instance.add_dynamic_partitions("batches", batches)
        config = {**small_files.config_of(batches), **QUIET}
        job = defs.resolve_job_def("load_small_files")
        result = job.execute_in_process(
            instance=instance, resources={"line": line}, run_config=config, raise_on_error=False
        )
        assert not result.success
        told = instance.get_materialized_partitions(dg.AssetKey("mangalam_invoices"))
        assert told == {batches[0]}
        states = [str(receipt(line, batch_id).state) for batch_id in batches]
        assert states == ["loaded", "failed", "waiting"]
