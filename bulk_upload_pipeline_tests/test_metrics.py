"""The figures for Prometheus, read as Prometheus reads them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import metrics
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.exceptions import PortTakenError
from bulk_upload_pipeline_tests.upped import COMMAND, ROOT, free_port, wait_until
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row


def scraped(port):
    """Every sample, by its name and the values of its labels in the order of the labels' names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def scrape(line):
    port = free_port()
    with metrics.served(line.engine, line.home, port):
        return scraped(port)


def take(line, batch_id):
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    stages.load(line, batch_id)
    stages.close(line, batch_id)


def test_rows_are_counted_by_profile_and_outcome_and_batches_by_state(line):
    take(line, drop(line, "a.csv", csv_of([good_row(1), good_row(2), good_row(3, Quantity="x")])))
    take(line, drop(line, "b.csv", csv_of([good_row(2), good_row(4)])))
    found = scrape(line)
    rows = {key[1]: value for key, value in found.items() if key[0] == "bulk_upload_rows"}
    assert {key[2] for key in found if key[0] == "bulk_upload_rows"} == {"zoho"}
    assert rows == {"inserted": 3, "updated": 0, "unchanged": 1, "rejected": 1, "unprocessed": 0}
    assert found["bulk_upload_batches", "loaded"] == 1
    assert found["bulk_upload_batches", "partially_loaded"] == 1
    assert found["bulk_upload_batches", "failed"] == 0
    assert found["bulk_upload_database_up",] == 1


def test_rows_of_a_load_that_is_undone_go_from_a_figure_that_may_fall(line):
    take(line, drop(line, "a.csv", csv_of([good_row(1), good_row(2)])))
    undone = drop(line, "b.csv", csv_of([good_row(3)]))
    take(line, undone)
    stages.revert(line, undone)
    assert scrape(line)["bulk_upload_rows", "inserted", "zoho"] == 2
    families = {
        family.name: family.type for family in metrics.LedgerCollector(line.engine, line.home).collect()
    }
    of_batches = ("rows", "batches", "stage_seconds_sum", "stage_seconds_count")
    assert {families[f"bulk_upload_{name}"] for name in of_batches} == {"gauge"}


def test_all_batches_are_looked_at_once_a_scrape(line):
    asked = []
    sa.event.listen(line.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    list(metrics.LedgerCollector(line.engine, line.home).collect())
    of_some = "WHERE bulk_upload.upload_batches.state = "
    of_all = [each for each in asked if "bulk_upload.upload_batches" in each and of_some not in each]
    assert len(of_all) == 1


def test_the_seconds_of_each_stage_add_up_to_the_time_of_the_batch(line):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    take(line, batch_id)
    account = stages.ledger.receipt(line.engine, batch_id)
    found = scrape(line)
    spent = [found["bulk_upload_stage_seconds_sum", stage] for stage in ("waiting", "validating", "loading")]
    assert sum(spent) == pytest.approx((account.finished_at - account.received_at).total_seconds(), abs=0.01)
    assert all(found["bulk_upload_stage_seconds_count", stage] == 1 for stage in ("validating", "loading"))


def test_what_waits_is_counted_and_the_oldest_file_has_its_age(line):
    assert scrape(line)["bulk_upload_oldest_waiting_file_seconds",] == 0
    (line.home.inbox / "zoho").mkdir()
    (line.home.inbox / "zoho" / "b.csv").write_text("x")
    (line.home.inbox / ".hidden").write_text("x")
    drop(line, "a.csv", csv_of([good_row(1)]))
    found = wait_until(lambda: (s := scrape(line))["bulk_upload_oldest_waiting_file_seconds",] > 0 and s)
    assert found["bulk_upload_inbox_files",] == 2
    assert found["bulk_upload_queue_depth",] == 1
    assert found["bulk_upload_disk_free_bytes",] > 0


def test_a_database_that_is_away_is_a_figure_and_no_error(line):
    port = free_port()
    away = make_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    with metrics.served(away, line.home, port):
        assert scraped(port)["bulk_upload_database_up",] == 0


def test_a_database_without_its_tables_and_an_inbox_that_cannot_be_listed_spoil_no_other_figure(line):
    line.home.inbox.rmdir()
    line.home.inbox.write_text("no folder")
    found = scrape(line)
    assert ("bulk_upload_inbox_files",) not in found
    assert found["bulk_upload_database_up",] == 1
    with line.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE bulk_upload.alerts RENAME TO other")
    assert scrape(line) == {("bulk_upload_database_up",): 0}


def test_an_alert_that_was_given_up_waits_no_longer(line):
    queue = """INSERT INTO bulk_upload.alerts (subject, channel, title, body, created_at)
        SELECT n::text, 'hook', 'title', 'body', now() - n * interval '1 day' FROM unnest(ARRAY[1, 6, 8, 30]) AS n"""
    with line.engine.begin() as connection:
        connection.exec_driver_sql(queue)
    assert scrape(line)["bulk_upload_alerts_waiting",] == 2


def test_the_metrics_listen_here_only_and_a_taken_port_is_said_so(line):
    port = free_port()
    with metrics.served(line.engine, line.home, port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 5)
        assert scraped(port)
        with pytest.raises(PortTakenError, match=r"is taken by another program\. Stop it"):
            metrics.served(line.engine, line.home, port).__enter__()
    with pytest.raises(urllib.error.URLError):
        scraped(port)
    assert socket.gethostbyname("localhost") == metrics.ADDRESS


def test_an_address_that_is_not_this_machines_is_said_so_and_no_taken_port(line):
    with pytest.raises(
        PortTakenError, match=r"on 192\.0\.2\.1 cannot be listened on \(.+\)\. Name another"
    ) as raised:
        metrics.served(line.engine, line.home, free_port(), "192.0.2.1").__enter__()
    assert "by another program" not in str(raised.value)


def test_metrics_are_off_unless_asked_for_and_a_command_serves_them_until_it_is_ended(tmp_path):
    port = free_port()
    environment = os.environ | {"BULK_UPLOAD_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*COMMAND, "metrics", "--port", str(port)], env=environment, cwd=ROOT) as process:
        try:
            found = wait_until(lambda: process.poll() is None and quietly(scraped, port))
            assert found["bulk_upload_batches", "waiting"] == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def quietly(ask, port):
    try:
        return ask(port)
    except OSError:
        return None
