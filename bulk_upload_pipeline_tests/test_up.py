"""The product as a person meets it: `bulk-upload up` in a process of its own, files dropped, Dagster asked."""

from __future__ import annotations

import html
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline.defs import helping
from bulk_upload_pipeline.local import dagster_environment, postgres
from bulk_upload_pipeline.serving import cluster, processes
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline.watch import look, new_faults, news
from bulk_upload_pipeline_tests import real_files
from bulk_upload_pipeline_tests.test_alerts import TOLD, hooked, posted
from bulk_upload_pipeline_tests.test_metrics import scraped
from bulk_upload_pipeline_tests.upped import COMMAND, ROOT, Upped, free_port, upped, wait_until
from bulk_upload_pipeline_tests.world import csv_of, drop, ephemeral, good_row, line_at, run

ASSETS = ("upload", "validated_invoices", "processing_errors", "mangalam_invoices", "upload_receipts")
CHECKS = {
    "validated_invoices": "error_rate",
    "mangalam_invoices": "control_totals",
    "upload_receipts": "nothing_lost",
}
SAMPLES = {
    "zoho-clean.csv": "loaded",
    "distributor-some-faults.csv": "partially_loaded",
    "zoho-wrong-file.csv": "rejected",
}
UNREADABLE = "picture renamed.csv"


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """One `up --sample` for the tests of this module, with a file of each exit dropped in, and who is told of it.

    The web hook takes nothing at first.
    """
    viewers, metrics = free_port(), free_port()
    with (
        hooked() as hook,
        posted() as post,
        upped(
            tmp_path_factory.mktemp("up") / "home",
            "--sample",
            f"--viewer-port={viewers}",
            f"--metrics-port={metrics}",
            environment={"BULK_UPLOAD_ALERT_URLS": f"{hook.url} {post.url}"},
        ) as up,
    ):
        up.hook, up.post, hook.status = hook, post, 503
        up.viewers, up.metrics = viewers, metrics
        up.drop(UNREADABLE, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 40)
        up.drop("half-written.csv.part", csv_of([good_row(1)]))
        expected = SAMPLES | {UNREADABLE: "unreadable"}
        wait_until(lambda: len(up.states()) >= len(expected))
        yield up


def other_command(up, *arguments):
    environment = {**os.environ, "BULK_UPLOAD_HOME": str(up.home.root), "COLUMNS": "200"}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


TICKS = """
query ($sensor: String!) {
  sensorOrError(sensorSelector: {
    repositoryName: "__repository__", repositoryLocationName: "bulk_upload_pipeline", sensorName: $sensor
  }) { ... on Sensor { sensorState { ticks(limit: 50) { status error { causes { message } } } } } }
}
"""


def test_a_channel_that_fails_is_seen_in_the_ui_and_the_other_is_told(up):
    def faults():
        ticks = up.ask(TICKS, sensor="alert_delivery")["sensorOrError"]["sensorState"]["ticks"]
        return [tick["error"]["causes"][0]["message"] for tick in ticks if tick["status"] == "FAILURE"]

    (fault, *_) = wait_until(faults)
    assert "JSON at 127.0.0.1 did not take it" in fault
    assert "503" in fault
    bad = ("zoho-wrong-file.csv: rejected", f"{UNREADABLE}: unreadable")
    wait_until(lambda: all(words in mailed(up) for words in bad))
    assert up.hook.told == []
    up.hook.status = 200


def mailed(up):
    bodies = "".join(mail.get_body(("html",)).get_content() for mail in up.post.mails)
    return html.unescape(bodies).replace("\xa0", " ")


def test_each_dropped_file_ends_in_its_exit_and_is_told_in_a_line(up):
    expected = SAMPLES | {UNREADABLE: "unreadable"}
    assert up.states() == expected
    for name, state in expected.items():
        wait_until(lambda: any(f"{name}  {state}  " in line for line in up.told))  # noqa: B023
    assert not list(up.home.inbox.glob("*.csv"))
    assert [path.name for path in up.home.inbox.iterdir()] == ["half-written.csv.part"]


def test_each_line_has_the_time_at_which_it_became_known(database_url, tmp_path):
    told = {}
    with line_at(tmp_path, database_url) as line:
        first = drop(line, "a.csv", csv_of([good_row(1)]))
        assert news(line.engine, told, "09:00:00") == ["09:00:00 a.csv  waiting  its run is requested"]
        assert news(line.engine, told, "09:00:01") == []
        run(line, first, ephemeral())
        drop(line, "b.csv", csv_of([good_row(2)]))
        assert news(line.engine, told, "09:00:02") == [
            "09:00:02 a.csv  loaded  Its row is loaded.",
            "09:00:02 b.csv  waiting  its run is requested",
        ]


def test_a_server_that_is_away_is_told_once_and_what_has_happened_when_it_is_back(
    database_url, tmp_path, administer
):
    told = {}
    name = sa.make_url(database_url).database
    with line_at(tmp_path, database_url) as line:
        drop(line, "a.csv", csv_of([good_row(1)]))
        line.engine.dispose()
        administer(f'ALTER DATABASE "{name}" RENAME TO "{name}_away"')
        (away,), is_away = look(line.engine, told, "09:00:00", was_away=False)
        assert is_away
        assert away.startswith("09:00:00 PostgreSQL at ")
        assert (
            f'database "{name}" does not exist). Start it, or correct BULK_UPLOAD_DATABASE_URL. Files wait'
            in away
        )
        assert look(line.engine, told, "09:00:01", was_away=True) == ([], True)
        administer(f'ALTER DATABASE "{name}_away" RENAME TO "{name}"')
        back = ["09:00:02 a.csv  waiting  its run is requested"]
        assert look(line.engine, told, "09:00:02", was_away=True) == (back, False)


def test_a_look_reads_the_receipts_of_what_has_changed_and_of_nothing_else(database_url, tmp_path):
    told, read = {}, []
    with line_at(tmp_path, database_url) as line:
        for number in range(3):
            drop(line, f"{number}.csv", csv_of([good_row(number)]))
        assert len(news(line.engine, told, "09:00:00")) == 3
        sa.event.listen(line.engine, "after_cursor_execute", lambda *asked: read.append(asked[2]))
        assert news(line.engine, told, "09:00:01") == []
        assert not [asked for asked in read if "layout" in asked]
        drop(line, "new.csv", csv_of([good_row(9)]))
        (line_of_new,) = news(line.engine, told, "09:00:02")
        assert line_of_new.startswith("09:00:02 new.csv")


def test_a_profile_that_cannot_be_used_is_told_once_and_again_when_it_comes_back(tmp_path):
    home, told = Home(tmp_path), set()
    home.make()
    bad = home.profiles / "north.toml"
    bad.write_text('name = "north"\ndate_order = "dym"')
    (fault,) = new_faults(home, told)
    assert "north.toml" in fault
    assert "`date_order` must be one of dmy, mdy, ymd" in fault
    assert fault.endswith("No file of any sender is taken until then.")
    assert new_faults(home, told) == []
    bad.write_text('name = "north"')
    assert new_faults(home, told) == []
    bad.write_text('name = "north"\ndate_order = "dym"')
    assert new_faults(home, told) == [fault]


def test_a_folder_that_is_no_profile_is_told_once_and_what_is_dropped_in_it_is_not_taken(tmp_path):
    home, told = Home(tmp_path), set()
    home.make()
    (home.inbox / "zoho").mkdir()
    assert new_faults(home, told) == []
    (home.inbox / "May").mkdir()
    assert new_faults(home, told) == [
        "No profile is named as the folder 'May'. Known are distributor, online_retail, zoho. "
        "No file in the inbox is taken from there."
    ]
    assert new_faults(home, told) == []


def test_the_ui_shows_of_each_batch_what_its_exit_says(up):
    """The table of exits: which assets are materialized for the batch, and what the checks say."""
    loaded = dict.fromkeys(ASSETS, True)
    expected = {
        "zoho-clean.csv": (loaded, (True, "WARN")),
        "distributor-some-faults.csv": (loaded, (False, "WARN")),
        "zoho-wrong-file.csv": (loaded | {"mangalam_invoices": False}, (False, "ERROR")),
        UNREADABLE: ({asset: asset == "upload_receipts" for asset in ASSETS}, None),
    }
    for name, (materialized, gate) in expected.items():
        batch_id = up.batch(name)
        wait_until(lambda: up.materialized("upload_receipts", batch_id))  # noqa: B023
        found = {asset: up.materialized(asset, batch_id) is not None for asset in ASSETS}
        assert found == materialized, name
        assert up.checked("validated_invoices", "error_rate", batch_id) == gate, name
    clean = up.batch("zoho-clean.csv")
    for asset, check in CHECKS.items():
        passed, _ = wait_until(lambda: up.checked(asset, check, clean))  # noqa: B023
        assert passed, check


def test_the_receipt_in_the_ui_says_what_the_database_says(up):
    batch_id = up.batch("distributor-some-faults.csv")
    shown = up.materialized("upload_receipts", batch_id)
    columns = ("state", "rows_read", "rows_inserted", "rows_updated", "rows_unchanged", "rows_rejected")
    (found,) = up.rows(
        f"SELECT {', '.join(columns)} FROM bulk_upload.upload_batches WHERE batch_id = :batch", batch=batch_id
    )
    assert tuple(shown[column] for column in columns) == found
    assert (found[1], found[2], found[5]) == (1_000, 970, 30)
    assert up.rows(
        "SELECT count(DISTINCT row_number) FROM bulk_upload.processing_errors "
        "WHERE batch_id = :batch AND severity = 'error'",
        batch=batch_id,
    ) == [(30,)]


def test_every_real_daily_file_is_loaded_once_and_none_of_its_lines_is_lost(up):
    for path in real_files.DAYS:
        up.drop(path.name, path.read_bytes())
    names = {path.name for path in real_files.DAYS}
    wait_until(lambda: names <= up.states().keys(), 240)
    assert {up.states()[name] for name in names} == {"loaded"}
    query = f"{real_files.IN_THE_TABLE} JOIN bulk_upload.upload_batches ON batch_id = upload_batch_id"
    found = Counter(up.rows(f"{query} WHERE upload_batches.profile = 'online_retail'"))
    assert found == real_files.lines()
    for path in real_files.DAYS:
        up.drop(f"again {path.name}", path.read_bytes())
    again = {f"again {name}" for name in names}
    wait_until(lambda: again <= up.states().keys(), 240)
    assert {up.states()[name] for name in again} == {"duplicate"}
    assert Counter(up.rows(f"{query} WHERE upload_batches.profile = 'online_retail'")) == found


def test_the_other_commands_work_beside_it(up):
    listed = other_command(up, "status")
    assert listed.returncode == 0, listed.stderr
    assert up.batch("zoho-clean.csv") in listed.stdout
    second = other_command(up, "up", "--port", str(free_port()))
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert "already runs" in second.stderr


def test_a_command_beside_it_may_count_on_help_with_a_huge_file(up, monkeypatch):
    settings = Settings(up.home)
    with postgres(settings) as urls:
        for name, value in dagster_environment(settings, urls).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            assert helping.may_come(instance)
            monkeypatch.setattr(helping, "LATE_HEARTBEAT_S", 0)
            assert not helping.may_come(instance)


LAUNCH = """
mutation ($job: String!) {
  launchRun(executionParams: {
    selector: {repositoryName: "__repository__", repositoryLocationName: "bulk_upload_pipeline", jobName: $job}
    runConfigData: {}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
BACKFILL = """
mutation ($days: [String!]!) {
  launchPartitionBackfill(backfillParams: {assetSelection: [{path: ["daily_sales"]}], partitionNames: $days}) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""
OF_BACKFILL = """
query ($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags}) { ... on Runs { results { status } } }
}
"""
NET = "SELECT count(*), sum(quantity), sum(item_total) FROM public.mangalam_invoices"
COUNTED = "SELECT sum(lines), sum(quantity), sum(sales + credits) FROM public.daily_sales"


def test_the_hourly_job_counts_what_was_loaded_and_a_person_back_fills_a_range_as_one_run(up):
    launched = up.ask(LAUNCH, job="refresh_daily_sales")["launchRun"]
    run_id = launched["run"]["runId"]
    wait_until(lambda: up.run(run_id)[0] in ("SUCCESS", "FAILURE"))
    assert up.run(run_id) == ("SUCCESS", "refresh_daily_sales")
    assert up.rows(NET) == up.rows(COUNTED)
    days = [str(day) for (day,) in up.rows("SELECT invoice_date FROM public.daily_sales ORDER BY 1")]
    # At the full hour the schedule's own run of the job may have come first.
    counted_by = up.materialized("daily_sales", days[0])["run"]
    assert up.run(counted_by) == ("SUCCESS", "refresh_daily_sales")

    recent = [date.fromisoformat(day) for day in days if day <= f"{datetime.now(UTC):%Y-%m-%d}"][-10:]
    first, last = recent[0], recent[-1]
    whole = [(first + timedelta(n)).isoformat() for n in range((last - first).days + 1)]
    counted = up.rows(COUNTED)
    with up.engine.begin() as connection:
        connection.execute(
            sa.text("DELETE FROM daily_sales WHERE invoice_date BETWEEN :first AND :last"),
            {"first": first, "last": last},
        )
    back_fill = up.ask(BACKFILL, days=whole)["launchPartitionBackfill"]["backfillId"]
    tags = [{"key": "dagster/backfill", "value": back_fill}]

    def statuses():
        return [run["status"] for run in up.ask(OF_BACKFILL, tags=tags)["runsOrError"]["results"]]

    wait_until(lambda: statuses() and set(statuses()) <= ENDED)
    assert statuses() == ["SUCCESS"]
    assert up.rows(COUNTED) == counted


ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
TICK = """
mutation ($schedule: String!, $timestamp: Float!) {
  scheduleDryRun(selectorData: {
    repositoryName: "__repository__", repositoryLocationName: "bulk_upload_pipeline", scheduleName: $schedule
  }, timestamp: $timestamp) {
    __typename
    ... on DryRunInstigationTick {
      evaluationResult {
        skipReason error { message }
        runRequests { runKey tags { key value } }
      }
    }
    ... on PythonError { message }
  }
}
"""
BACKFILL_BATCH = """
mutation ($batches: [String!]!, $tags: [ExecutionTag!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: "load_batch_partition_set"
      repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "bulk_upload_pipeline"}
    }
    partitionNames: $batches
    tags: $tags
  }) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}
"""


def test_the_nightly_tick_asks_for_what_failed_or_older_rules_judged_and_a_back_fill_does_the_same(up):
    failed, outdated = up.batch("zoho-clean.csv"), up.batch("distributor-some-faults.csv")
    before = up.rows(NET)
    with up.engine.begin() as connection:
        for what, batch_id in (("state = 'failed'", failed), ("rules_version = 0", outdated)):
            connection.execute(
                sa.text(f"UPDATE bulk_upload.upload_batches SET {what} WHERE batch_id = :batch"),
                {"batch": batch_id},
            )

    def tick():
        now = time.time()
        return up.ask(TICK, schedule="nightly_backfill", timestamp=now)["scheduleDryRun"]["evaluationResult"]

    # What is previewed is the night that comes next, which begins at two.
    coming = (datetime.now(UTC) + timedelta(hours=22)).date()
    requests = {request["runKey"].partition("@")[0]: request for request in tick()["runRequests"]}
    assert requests.keys() == {failed, outdated}
    assert {"key": "dagster/partition", "value": failed} in requests[failed]["tags"]
    tags = [tag for tag in requests[failed]["tags"] if tag["key"].startswith("night")]
    launched = up.ask(BACKFILL_BATCH, batches=[failed, outdated], tags=tags)["launchPartitionBackfill"]
    assert "backfillId" in launched, launched
    wait_until(
        lambda: (
            up.states().get("zoho-clean.csv") == "loaded"
            and up.states().get("distributor-some-faults.csv") == "partially_loaded"
            and not up.rows("SELECT 1 FROM bulk_upload.upload_batches WHERE rules_version = 0")
        )
    )
    assert up.rows(NET) == before
    night = next(tag["value"] for tag in tags if tag["key"] == "night")
    assert tick()["skipReason"].endswith("No batch has failed, and none waits for newer rules.")
    assert night == coming.isoformat()


def test_what_the_channel_did_not_take_was_sent_again_and_everything_is_told_once(up):
    def nights():
        titles = [title for title in up.hook.titles if title.startswith("Taken again in the night of")]
        return [up.hook.told[up.hook.titles.index(title)]["message"] for title in titles]

    wait_until(nights)
    told = Counter(found for message in up.hook.told for found in TOLD.findall(message["message"]))
    assert told["zoho-wrong-file.csv", "rejected"] == 1
    (night,) = nights()
    assert ": 1 closed, 1 still with errors" in night
    assert TOLD.findall(night) == [("distributor-some-faults.csv", "loaded in part")]
    # A file that is loaded in part waits ten minutes for others, unless something worse takes it along.
    assert told["distributor-some-faults.csv", "loaded in part"] <= 2


@pytest.mark.parametrize("attack", ["/graphql?query={__typename}", "/report_asset_materialization/upload"])
def test_the_ui_of_the_product_refuses_what_no_person_asks(up, attack):
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        request = urllib.request.Request(
            f"http://127.0.0.1:{up.port}{attack}", b"{}", {"Content-Type": "application/json", **headers}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code in (403, 405, 421)
        refused.value.close()


def test_viewers_have_a_port_of_their_own_on_which_nothing_can_be_changed(up):
    assert any(f"http://127.0.0.1:{up.viewers}" in line for line in up.told)
    viewer = Upped(up.home, up.viewers, up.process)
    assert viewer.materialized("upload_receipts", up.batch("zoho-clean.csv"))
    assert viewer.ask(LAUNCH, job="refresh_daily_sales")["launchRun"]["__typename"] == "UnauthorizedError"


def test_metrics_are_served_beside_everything_else(up):
    assert any(f"http://127.0.0.1:{up.metrics}/metrics" in line for line in up.told)
    found = scraped(up.metrics)
    assert found["bulk_upload_database_up",] == 1
    assert found["bulk_upload_batches", "rejected"] == 1


def test_ctrl_c_stops_all_of_it(up):
    # The last test of this module, since it stops what the others use.
    mine = processes.marked(up.home.root)
    assert mine
    assert up.stop(2) == 0
    assert not processes.marked(up.home.root)
    assert cluster.postmaster_of(cluster.cluster_in(up.home.postgres)) is None
    assert up.told[-1] == "Stopped.\n"


def test_a_terminal_that_is_closed_stops_all_of_it_also_while_it_starts(tmp_path):
    home = Home(tmp_path / "home")
    environment = {**os.environ, "BULK_UPLOAD_HOME": str(home.root)}
    command = [*COMMAND, "up", f"--port={free_port()}"]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True
    ) as starting:
        wait_until(
            lambda: home.postgres.exists() and cluster.postmaster_of(cluster.cluster_in(home.postgres))
        )
        starting.send_signal(signal.SIGHUP)
        assert starting.stdout.read() == "Stopped.\n"
        assert starting.wait(60) == 0
    assert not processes.marked(home.root)
    assert cluster.postmaster_of(cluster.cluster_in(home.postgres)) is None
