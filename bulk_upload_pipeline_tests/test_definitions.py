"""What Dagster loads, spelled out by hand: whoever changes it sees it here."""

import runpy

import dagster as dg
import pytest

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import partitions
from bulk_upload_pipeline.defs.partitions import batches, days

SALES = dg.AssetKey("daily_sales")


def asset_node(key):
    return defs.resolve_asset_graph().get(dg.AssetKey(key))


def test_the_assets_are_those_of_the_line_and_depend_on_each_other_so():
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        "upload": set(),
        "validated_invoices": {"upload"},
        "processing_errors": {"upload"},
        "mangalam_invoices": {"validated_invoices"},
        "upload_receipts": {"mangalam_invoices", "processing_errors"},
        "daily_sales": {"mangalam_invoices"},
    }


def test_every_asset_is_described_grouped_owned_and_of_a_kind():
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.group_name == ("sales" if key == SALES else "invoices")
        assert node.owners == ["team:back-office"]
        assert [tag for tag in node.tags if tag.startswith("dagster/kind/")], key
        assert node.partitions_def == (days if key == SALES else batches)


def test_the_checks_are_these_and_only_the_gate_blocks():
    graph = defs.resolve_asset_graph()
    blocking = {
        f"{key.asset_key.to_user_string()}.{key.name}": graph.get_check_spec(key).blocking
        for key in graph.asset_check_keys
    }
    assert blocking == {
        "validated_invoices.shape": False,
        "validated_invoices.usual_counts": False,
        "validated_invoices.error_rate": True,
        "mangalam_invoices.control_totals": False,
        "mangalam_invoices.keys_unique": False,
        "mangalam_invoices.subtotals": False,
        "upload_receipts.nothing_lost": False,
        "daily_sales.sums_agree": False,
        "daily_sales.refreshed": False,
        "upload.files_arrive": False,
    }


def test_jobs_schedules_and_sensors_have_the_names_of_the_design():
    assert {job.name for job in defs.jobs} == {
        "load_batch",
        "load_small_files",
        "help_with_parts",
        "drop_file",
        "refresh_daily_sales",
        "retention",
    }
    schedules = {schedule.name: schedule.default_status for schedule in defs.schedules}
    assert schedules == dict.fromkeys(
        ["daily_sales_refresh", "nightly_backfill", "nightly_retention"], dg.DefaultScheduleStatus.RUNNING
    )
    sensors = {sensor.name: sensor.default_status for sensor in defs.sensors}
    assert sensors == dict.fromkeys(
        [
            "inbox_sensor",
            "parts_sensor",
            "reaper",
            "batch_failed",
            "batch_cancelled",
            "freshness_sensor",
            "alert_sensor",
            "alert_delivery",
        ],
        dg.DefaultSensorStatus.RUNNING,
    )


@pytest.mark.parametrize("job", ["load_batch", "drop_file", "refresh_daily_sales", "__ASSET_JOB"])
def test_every_run_holds_the_line_by_which_the_reaper_knows_that_it_lives(job):
    steps = defs.resolve_job_def(job).graph.nodes
    assert steps
    assert any("line" in step.definition.required_resource_keys for step in steps)


def test_any_range_of_days_is_one_run():
    assert asset_node("daily_sales").backfill_policy == dg.BackfillPolicy.single_run()
    assert defs.resolve_schedule_def("daily_sales_refresh").cron_schedule == "0 * * * *"


def test_the_first_day_is_the_one_that_is_set(monkeypatch):
    monkeypatch.setenv("BULK_UPLOAD_FIRST_DAY", "2024-02-28")
    of_that_home = runpy.run_path(partitions.__file__)["days"]
    assert of_that_home.get_partition_keys()[:2] == ["2024-02-28", "2024-02-29"]


def test_the_job_of_a_batch_takes_it_down_the_whole_line():
    job = defs.resolve_job_def("load_batch")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        "upload",
        "validated_invoices",
        "processing_errors",
        "mangalam_invoices",
        "upload_receipts",
    }
    assert job.executor_def is dg.in_process_executor


def test_loaders_are_limited_by_a_pool():
    assert asset_node("mangalam_invoices").pools == {"mangalam_invoices"}


def test_the_columns_that_the_interface_shows_are_those_of_the_contract():
    schema = asset_node("mangalam_invoices").metadata["dagster/column_schema"]
    shown = schema.value if hasattr(schema, "value") else schema
    assert [column.name for column in shown.columns] == list(contract.NAMES)
    figures = asset_node("daily_sales").metadata["dagster/column_schema"]
    assert all(column.description for column in (*shown.columns, *figures.columns))
