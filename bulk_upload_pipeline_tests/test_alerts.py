"""Who is told what: real mail over SMTP and a real web hook, each exit, each once."""

from __future__ import annotations

import json
import os
import re
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from click.testing import CliRunner
from dagster import DagsterRunStatus, RunsFilter

from bulk_upload_pipeline import alerts, holding, ledger, retention
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.alerting import messages
from bulk_upload_pipeline.alerting.channels import channels_of
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import alerts as sensors
from bulk_upload_pipeline.defs.sales import daily_sales
from bulk_upload_pipeline.defs.small_files import config_of
from bulk_upload_pipeline.exceptions import DataFaultError, FileStillChangingError, SettingInvalidError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.upped import free_port
from bulk_upload_pipeline_tests.world import (
    QUIET,
    csv_of,
    drop,
    good_row,
    line_at,
    receipt,
    rows,
    run,
    settled,
)

LATER = timedelta(minutes=11)
TOLD = re.compile(rf"^(.+\.csv): ({'|'.join(messages.STATES.values())})$", re.MULTILINE)
"""The line of a message that says what became of a file."""


class Hook:
    """A web hook that keeps what it is sent; `status` is what it answers."""

    def __init__(self):
        self.told, self.status = [], 200
        self.refused = []
        """The titles that it never takes."""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message = json.loads(body)
                status = 400 if message["title"] in hook.refused else hook.status
                if status == 200:
                    hook.told.append(message)
                self.answer(status)

            def do_GET(self):
                self.answer(200)

            def answer(self, status):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if status in (301, 302, 307):
                    self.send_header("Location", "/login")
                self.end_headers()

            def log_message(self, *_):
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/hook"

    @property
    def titles(self):
        return [message["title"] for message in self.told]


@contextmanager
def hooked():
    """A web hook that listens."""
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hook
    finally:
        hook.server.shutdown()
        hook.server.server_close()
        thread.join()


@pytest.fixture
def hook():
    with hooked() as hook:
        yield hook


class Post:
    """A mail server that keeps what it is sent."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, _session, envelope):
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@contextmanager
def posted():
    """A mail server that listens."""
    post = Post()
    controller = Controller(post, hostname="127.0.0.1", port=free_port())
    controller.start()
    post.url = (
        f"mailto://127.0.0.1:{controller.port}?from=line@shop.example&to=clerk@shop.example&mode=insecure"
    )
    try:
        yield post
    finally:
        controller.stop()


@pytest.fixture
def post():
    with posted() as post:
        yield post


@contextmanager
def telling(tmp_path, database_url, *urls):
    with line_at(tmp_path / "home", database_url, alert_urls=urls, chunk_rows=10) as line:
        yield line


@pytest.fixture
def line(tmp_path, database_url, hook):
    with telling(tmp_path, database_url, hook.url) as line:
        yield line


def notice(line, after=timedelta(0), under_way=()):
    """Put into words what is to be told `after` so long."""
    channels = channels_of(line.settings.alert_urls)
    return alerts.notice_receipts(line, channels, datetime.now(UTC) + after, under_way)


def deliver(line, after=timedelta(0)):
    now = datetime.now(UTC) + after
    channels = channels_of(line.settings.alert_urls)
    return alerts.deliver(line.engine, channels, lambda: now, now + timedelta(minutes=1))


def take(line, batch_id):
    """Take a file down the line, whatever its exit."""
    with suppress(DataFaultError):
        if stages.upload(line, batch_id).receipt is None:
            stages.validate(line, batch_id)
            stages.load(line, batch_id)
            stages.close(line, batch_id)


def wrong(first=0):
    return csv_of(good_row(n, Quantity="12abc") for n in range(first, first + 3))


def partly(first=0):
    return csv_of([good_row(first, Quantity="12abc"), good_row(first + 1), good_row(first + 2)])


def test_a_rejected_file_is_told_at_once_with_what_how_many_why_and_what_to_do(line, hook):
    batch_id = drop(line, "wrong.csv", wrong())
    take(line, batch_id)
    assert notice(line) == 1
    assert deliver(line) == (1, [])
    (told,) = hook.told
    assert told["title"] == "wrong.csv: rejected"
    for words in (
        "3 of 3 rows (100%) have errors",
        "Not a number, 3 times. For example row 1: ",
        "12abc",
        "Type the number with digits",
        str(line.reports(batch_id) / "summary.html"),
    ):
        assert words in told["message"]


def test_nothing_is_told_twice_and_good_files_are_not_told_of(line, hook):
    take(line, drop(line, "wrong.csv", wrong()))
    take(line, drop(line, "good.csv", csv_of([good_row(1)])))
    take(line, drop(line, "same.csv", csv_of([good_row(1)])))
    for _ in range(3):
        notice(line, LATER)
        deliver(line, LATER)
    assert hook.titles == ["wrong.csv: rejected"]


def test_an_unreadable_file_is_told(line, hook):
    take(line, drop(line, "empty.csv", b""))
    notice(line)
    deliver(line)
    assert hook.titles == ["empty.csv: unreadable"]
    assert "The file is empty." in hook.told[0]["message"]


def test_files_loaded_in_part_wait_for_one_another_and_come_as_one_message(line, hook):
    for n in range(12):
        take(line, drop(line, f"part{n}.csv", partly(10 * n)))
    assert notice(line) == 0
    assert notice(line, LATER) == 12
    deliver(line)
    (told,) = hook.told
    assert told["title"] == "12 files: 12 loaded in part"
    assert told["message"].count("rows are loaded") == messages.MOST_FILES
    assert "And 2 more" in told["message"]


def test_what_has_to_be_told_at_once_takes_the_rest_along_and_comes_first(line, hook):
    take(line, drop(line, "part.csv", partly()))
    take(line, drop(line, "wrong.csv", wrong(50)))
    assert notice(line) == 2
    deliver(line)
    assert hook.titles == ["2 files: 1 rejected, 1 loaded in part"]
    assert hook.told[0]["message"].startswith("wrong.csv: rejected")


def test_a_failed_batch_is_told_only_when_nothing_goes_on_with_it(line, hook):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    stages.fail(line, batch_id, "The disk was full.")
    soon, late = timedelta(seconds=30), timedelta(seconds=90)
    assert notice(line, soon) == 0
    assert notice(line, late, under_way={batch_id}) == 0
    assert notice(line, late) == 1
    deliver(line)
    assert hook.titles == ["a.csv: failed"]
    assert f"bulk-upload retry {batch_id}" in hook.told[0]["message"]
    assert notice(line, late) == 0


def test_a_batch_that_a_retry_loads_is_never_told_as_failed(line, hook):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    stages.fail(line, batch_id, "The database went away.")
    take(line, batch_id)
    assert notice(line, LATER) == 0


def test_a_batch_that_ends_badly_again_is_told_again(line, hook):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    for _ in range(2):
        stages.fail(line, batch_id, "The disk was full.")
        assert notice(line, LATER) == 1
    deliver(line)
    assert hook.titles == ["a.csv: failed"] * 2


def test_a_mail_arrives_over_smtp_whatever_the_file_is_called(tmp_path, database_url, post):
    with telling(tmp_path, database_url, post.url) as line:
        name = "x\r\nBcc: all@shop.example\r\n<b>\u202e.csv"
        take(line, drop(line, name, wrong()))
        notice(line)
        assert deliver(line) == (1, [])
    (mail,) = post.mails
    assert (mail["To"], mail["Bcc"]) == ("clerk@shop.example", None)
    assert "x Bcc: all@shop.example <b>\\u202e.csv: rejected" in mail["Subject"]
    html = mail.get_body(("html",)).get_content()
    assert "<b>" not in html
    assert "12abc" in html


def test_a_channel_that_fails_is_said_so_tried_again_later_and_the_other_is_not_told_twice(
    tmp_path, database_url, hook, post
):
    hook.status = 503
    with telling(tmp_path, database_url, hook.url, post.url) as line:
        take(line, drop(line, "wrong.csv", wrong()))
        notice(line)
        sent, refused = deliver(line)
        assert sent == 1
        assert len(refused) == 1
        assert "503" in refused[0]
        assert deliver(line) == (0, [])
        assert len(deliver(line, timedelta(seconds=31))[1]) == 1
        hook.status = 200
        assert deliver(line, timedelta(seconds=62)) == (0, [])  # the pause grows
        assert deliver(line, timedelta(seconds=100)) == (1, [])
        assert deliver(line, timedelta(days=1)) == (0, [])
    assert hook.titles == ["wrong.csv: rejected"]
    assert len(post.mails) == 1


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_channel_that_sends_elsewhere_has_not_taken_it_and_is_told_when_it_does(line, hook, status):
    hook.status = status
    put(line, "moved")
    sent, (refused,) = deliver(line)
    assert (sent, hook.titles) == (0, [])
    assert str(status) in refused
    hook.status = 200
    assert deliver(line, timedelta(seconds=31)) == (1, [])
    assert hook.titles == ["moved"]


def put(line, *titles):
    """Put messages into the outbox."""
    told = [messages.Alert(title, title, "What happened.") for title in titles]
    with line.engine.begin() as connection:
        alerts.queue(connection, told, channels_of(line.settings.alert_urls))


def test_messages_that_a_channel_never_takes_hold_up_no_other(line, hook):
    hook.refused = ["poison", "more of it"]
    put(line, "poison", "one", "more of it")
    taken, refused = deliver(line)
    assert (taken, len(refused), hook.titles) == (1, 2, ["one"])
    put(line, "two", "three")
    assert deliver(line, timedelta(seconds=1)) == (2, [])
    for hours in range(1, 24):
        put(line, f"at {hours}")
        assert deliver(line, timedelta(hours=hours))[0] == 1
    assert len(hook.titles) == 26
    assert alerts.waiting(line.engine, channels_of(line.settings.alert_urls)) == (2, 0)


def test_many_messages_in_front_that_a_channel_never_takes_hold_up_the_others_for_minutes(line, hook):
    hook.refused = [f"poison {n}" for n in range(4)]
    put(line, *hook.refused, "one", "two")
    for seconds in range(0, 300, 10):
        deliver(line, timedelta(seconds=seconds))
    assert hook.titles == ["one", "two"]


def test_a_channel_that_takes_nothing_is_asked_less_and_less_and_then_gets_all_of_it_in_order(line, hook):
    hook.status = 503
    titles = [f"message {n}" for n in range(6)]
    put(line, *titles)
    asked = [len(deliver(line, timedelta(seconds=10 * tick))[1]) for tick in range(720)]
    assert asked[0] == 2
    assert (sum(asked[:360]) < 40, sum(asked[360:]) < 20) == (True, True), "two hours of ticks"
    hook.status = 200
    for hours in (3, 4):
        deliver(line, timedelta(hours=hours))
    assert hook.titles == titles


def test_a_message_that_is_no_news_any_more_is_given_up_and_the_tick_says_so(line, hook, instance):
    put(line, "old", "new")
    with line.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bulk_upload.alerts SET created_at = now() - interval '8 days' WHERE title = 'old'"
            )
        )
    skipped, _ = tick(sensors.alert_delivery, line, instance)
    assert skipped.skip_message == "1 alert sent, 0 wait. 1 was never taken, and given up."
    assert hook.titles == ["new"]
    assert retention.forget_alerts(line.engine, datetime.now(UTC) - timedelta(days=7)) == 1
    assert rows(line, "SELECT title FROM bulk_upload.alerts") == [("new",)]


def test_a_sender_that_dies_before_it_could_note_it_tells_again_rather_than_never(line, hook, monkeypatch):
    take(line, drop(line, "wrong.csv", wrong()))
    notice(line)
    with monkeypatch.context() as patch:
        patch.setattr(alerts, "_note", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            deliver(line)
    assert deliver(line) == (1, [])
    assert hook.titles == ["wrong.csv: rejected"] * 2


def test_two_senders_at_once_tell_it_once(line, hook):
    take(line, drop(line, "wrong.csv", wrong()))
    threads = [threading.Thread(target=lambda: (notice(line), deliver(line))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deliver(line)
    assert hook.titles == ["wrong.csv: rejected"]


def test_no_secret_of_a_channel_is_stored_or_said(tmp_path, database_url):
    url = f"json://me:topsecret@127.0.0.1:{free_port()}/token-abc"
    with telling(tmp_path, database_url, url) as line:
        take(line, drop(line, "wrong.csv", wrong()))
        notice(line)
        _, (refused,) = deliver(line)
        stored = str(rows(line, "SELECT * FROM bulk_upload.alerts"))
        for secret in ("topsecret", "token-abc"):
            assert secret not in refused + stored + repr(line.settings)


def test_a_url_that_no_channel_has_is_said_so():
    with pytest.raises(SettingInvalidError, match="BULK_UPLOAD_ALERT_URLS"):
        channels_of(["nonsense"])


def test_a_silent_sender_is_told_once_for_each_silence(line, hook):
    (line.home.profiles / "depot.toml").write_text(
        'name = "depot"\ntitle = "Depot"\nexpected_every_hours = 24\n[columns]\n'
        'invoice_number = ["No"]\ninvoice_date = ["Day"]\ncustomer_name = ["Shop"]\n'
        'quantity = ["Qty"]\nitem_price = ["Price"]\nsku = ["Code"]\n'
    )
    channels, now = channels_of(line.settings.alert_urls), datetime.now(UTC)
    assert alerts.notice_silence(line, now) == []
    (line.home.inbox / "depot").mkdir()
    drop_from(line, "depot")
    assert alerts.notice_silence(line, now + timedelta(hours=23)) == []
    for hours in (25, 30):
        silent = alerts.notice_silence(line, now + timedelta(hours=hours))
        with line.engine.begin() as connection:
            alerts.queue(connection, silent, channels)
    deliver(line)
    assert hook.titles == ["No file from depot for 25 hours"]


def drop_from(line, folder):
    batch_id = drop(line, f"{folder}.csv", csv_of([good_row(1)]))
    with line.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE bulk_upload.upload_batches SET folder = :f WHERE batch_id = :b"),
            {"f": folder, "b": batch_id},
        )


def test_a_file_that_can_be_brought_nowhere_says_why_it_waits_and_is_told_until_it_loads(
    line, hook, instance
):
    batch_ids = [drop(line, f"{n}.csv", csv_of([good_row(n)])) for n in range(3)]
    instance.add_dynamic_partitions("batches", batch_ids)
    line.home.archive.rmdir()
    line.home.archive.write_text("no folder")
    assert not run(line, batch_ids[0], instance).success
    shared = defs.resolve_job_def("load_small_files").execute_in_process(
        instance=instance,
        resources={"line": line},
        run_config=config_of(batch_ids[1:]) | QUIET,
        raise_on_error=False,
    )
    assert not shared.success
    account = receipt(line, batch_ids[0])
    assert account.state is State.WAITING
    assert account.reason.startswith("It waits, since it cannot be taken: ")
    assert str(line.home.archive) in account.reason
    assert untaken(line, datetime.now(UTC)) == 0
    assert untaken(line) == 3
    deliver(line)
    (told,) = hook.told
    assert told["title"] == "3 files wait and cannot be taken"
    assert account.reason in told["message"]
    line.home.archive.unlink()
    line.home.archive.mkdir()
    for batch_id in batch_ids:
        assert run(line, batch_id, instance).success
    assert untaken(line) == 0


def test_of_files_that_cannot_be_taken_each_is_told_once_and_so_are_those_that_come_later(line, hook):
    batch_ids = [drop(line, f"{n}.csv", csv_of([good_row(n)])) for n in range(4)]
    soon = datetime.now(UTC) + timedelta(minutes=6)
    later = soon + timedelta(hours=1)
    for batch_id in batch_ids[:3]:
        ledger.could_not_be_taken(line.engine, batch_id, "It waits, since the disk is full.")
    assert untaken(line, soon) == 3
    take(line, batch_ids[0])  # the oldest; the others are no news because of it
    assert untaken(line, later) == 0
    ledger.could_not_be_taken(line.engine, batch_ids[3], "It waits, since its folder is not ours.")
    assert untaken(line, soon) == 0  # an hour has one message
    assert untaken(line, later) == 3
    deliver(line, timedelta(hours=2))
    assert hook.titles == ["3 files wait and cannot be taken"] * 2
    assert hook.told[1]["message"].startswith("3.csv: It waits, since its folder is not ours.")
    stages.fail(line, batch_ids[3], "Somebody gave it up.")
    assert notice(line, LATER) == 1


def untaken(line, now=None):
    """Of how many files that wait and cannot be taken somebody is told, six minutes from now or at another time."""
    channels = channels_of(line.settings.alert_urls)
    return alerts.notice_untaken(line, channels, now or datetime.now(UTC) + timedelta(minutes=6))


def test_a_file_that_was_put_back_since_it_changed_is_not_told_as_one_that_cannot_be_taken(line, hook):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    with (line.home.inbox / "a.csv").open("a") as file:
        file.write("more\n")
    with pytest.raises(FileStillChangingError):
        stages.upload(line, batch_id)
    (asked,) = settled(line)
    assert asked.batch_id == batch_id
    assert untaken(line) == 0


def test_files_that_nobody_comes_for_are_told_and_what_waits_for_another_reason_is_not(line, hook):
    now = began = datetime.now(UTC)
    names = ("left.csv", "zoho/as well.csv", "half.csv.part", "no profile/it.csv")
    for name in names:
        path = line.home.inbox / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(csv_of([good_row(1)]))
        os.utime(path, (0, 0))  # an old file that was moved here
    full = drop(line, "full.csv", csv_of([good_row(2)]))
    ledger.could_not_be_taken(line.engine, full, "It waits, since the disk is full.")
    assert alerts.notice_overlooked(line, now + timedelta(minutes=59), began) == []
    # An `up` that begins after a weekend has an hour for what came meanwhile.
    assert alerts.notice_overlooked(line, now + timedelta(days=2), now + timedelta(days=2)) == []
    (told,) = alerts.notice_overlooked(line, now + timedelta(minutes=61), began)
    assert told.title == "2 files lie in the inbox, and nobody comes for them"
    assert told.body.startswith("left.csv, as well.csv: since ")
    assert "`inbox_sensor` is switched on" in told.body
    (again,) = alerts.notice_overlooked(line, now + timedelta(minutes=62), began)
    (tomorrow,) = alerts.notice_overlooked(line, now + timedelta(minutes=61, days=1), began)
    assert again.subject == told.subject != tomorrow.subject
    for request in settled(line):
        stages.take(line, request.batch_id)
    assert alerts.notice_overlooked(line, now + timedelta(minutes=61), began) == []


def test_files_whose_runs_wait_while_others_are_worked_on_have_their_turn(line, hook):
    worked_on, _ = (
        drop(line, name, csv_of([good_row(n)])) for n, name in enumerate(("huge.csv", "next.csv"))
    )
    later = datetime.now(UTC) + timedelta(minutes=61)
    stages.upload(line, worked_on)
    with holding.alone(line.engine, worked_on):
        assert alerts.notice_overlooked(line, later, later - timedelta(hours=2)) == []
    assert len(alerts.notice_overlooked(line, later, later - timedelta(hours=2))) == 1
    stages.take(line, worked_on)
    ended = datetime.now(UTC) + timedelta(minutes=61)
    with line.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE bulk_upload.upload_batches SET finished_at = :ended WHERE state = 'loaded'"),
            {"ended": ended},
        )
    assert alerts.notice_overlooked(line, ended, later - timedelta(hours=2)) == []
    (line.home.inbox / "no batch.csv").write_text("x")
    (told,) = alerts.notice_overlooked(line, ended + timedelta(minutes=1), later - timedelta(hours=2))
    assert told.body.startswith("no batch.csv: ")


def test_a_profile_that_holds_up_all_files_is_told_and_keeps_no_other_alert_back(line, hook, instance):
    (line.home.profiles / "shop.toml").write_text("name = ")
    (line.home.inbox / "shop").mkdir()
    (line.home.inbox / "shop" / "a.csv").write_text(csv_of([good_row(1)]))
    assert tick(sensors.alert_sensor, line, instance)[1]
    now = datetime.now(UTC)
    (told,) = alerts.notice_overlooked(line, now + timedelta(minutes=6), now)
    assert told.title == "1 file lies in the inbox, and nobody comes for it"
    assert "shop.toml" in told.body
    assert "No file of any sender is taken until then." in told.body


def test_a_disk_that_fills_is_told_once_a_day(line, monkeypatch):
    now = datetime.now(UTC)
    assert alerts.notice_full_disk(line, now) == []
    monkeypatch.setattr(alerts, "LEAST_FREE", 10**18)
    monkeypatch.setattr(alerts, "LEAST_FREE_SHARE", 1.1)
    (today,), (tomorrow,) = (alerts.notice_full_disk(line, now + timedelta(days=d)) for d in (0, 1))
    assert today.title.startswith("The disk is nearly full: ")
    assert today.subject != tomorrow.subject


def test_a_disk_that_takes_few_more_files_is_told_once_a_day(line, monkeypatch):
    now = datetime.now(UTC)
    room = os.statvfs(line.home.root)
    few = [
        room.f_bsize,
        room.f_frsize,
        room.f_blocks,
        room.f_bfree,
        room.f_bavail,
        1_000_000,
        900,
        900,
        0,
        255,
    ]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(few))
    (today,), (tomorrow,) = (alerts.notice_full_disk(line, now + timedelta(days=d)) for d in (0, 1))
    assert today.title == "The disk takes only 900 more files"
    assert str(line.home.root) in today.body
    assert today.subject != tomorrow.subject
    few[5:8] = 0, 0, 0
    assert alerts.notice_full_disk(line, now) == []


def tick(sensor, line, instance, cursor=None):
    context = dg.build_sensor_context(
        instance=instance, definitions=defs, cursor=cursor, resources={"line": line}
    )
    return sensor(context), context.cursor


def test_a_lost_worker_and_a_failed_job_are_told_and_what_is_retried_is_not(
    line, hook, instance, monkeypatch
):
    monkeypatch.setattr(sensors, "SETTLED", timedelta(0))
    batch_id = drop(line, "big.csv", csv_of([good_row(1)]))
    _, cursor = tick(sensors.alert_sensor, line, instance)
    lost = instance.create_run_for_job(
        defs.resolve_job_def("load_small_files"),
        run_config=config_of([batch_id]),
        status=DagsterRunStatus.STARTED,
    )
    instance.report_run_failed(lost, "Its worker is gone.")
    job = dg.GraphDefinition(name="nightly", node_defs=[breaks]).to_job()
    job.execute_in_process(instance=instance, raise_on_error=False)
    again = job.execute_in_process(instance=instance, raise_on_error=False)
    instance.add_run_tags(again.run_id, {"dagster/will_retry": "true"})
    assert len(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))) == 3
    tick(sensors.alert_sensor, line, instance, cursor)
    tick(sensors.alert_sensor, line, instance, cursor)
    tick(sensors.alert_delivery, line, instance)
    assert sorted(hook.titles) == ["A run lost its worker", "nightly failed"]
    (told,) = (told["message"] for told in hook.told if "big.csv" in told["message"])
    assert "What it has not finished is taken up again by itself" in told


@pytest.mark.parametrize("cursor", ["garbage", "2026-13-01", "2026-11-29T08:00:00"])
def test_what_is_no_cursor_does_not_keep_alerts_back(line, hook, instance, cursor):
    stages.take(line, drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(9))))
    _, cursor = tick(sensors.alert_sensor, line, instance, cursor)
    assert datetime.fromisoformat(cursor).tzinfo is not None
    tick(sensors.alert_delivery, line, instance)
    assert len(hook.told) == 1


@pytest.mark.parametrize(
    ("job", "config", "tags"),
    [
        ("load_small_files", config_of([{"env": "HOME"}, "a\0b"]), {}),
        ("load_batch", {}, {"night": "zzz", "night_asked": "many"}),
        ("load_batch", {}, {"night": f"{datetime.now(UTC):%Y-%m-%d}", "night_asked": "many"}),
    ],
)
def test_a_run_that_was_launched_with_strange_words_keeps_no_alert_back(
    line, hook, instance, monkeypatch, job, config, tags
):
    monkeypatch.setattr(sensors, "SETTLED", timedelta(0))
    stages.take(line, drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(9))))
    strange = instance.create_run_for_job(
        defs.resolve_job_def(job), run_config=config, tags=tags, status=DagsterRunStatus.STARTED
    )
    tick(sensors.alert_sensor, line, instance, (datetime.now(UTC) - timedelta(minutes=1)).isoformat())
    instance.report_run_failed(strange, "It has no batch.")
    tick(sensors.alert_sensor, line, instance, (datetime.now(UTC) - timedelta(minutes=1)).isoformat())
    tick(sensors.alert_delivery, line, instance)
    assert any("wrong.csv" in told["message"] for told in hook.told)


def test_a_run_of_a_day_that_lost_its_worker_or_failed_is_told_of_and_no_file_is_looked_for(
    line, hook, instance, monkeypatch
):
    monkeypatch.setattr(sensors, "SETTLED", timedelta(0))
    _, cursor = tick(sensors.alert_sensor, line, instance)
    day = "2024-12-31"
    lost = instance.create_run_for_job(
        defs.resolve_job_def("refresh_daily_sales"),
        tags={"dagster/partition": day},
        status=DagsterRunStatus.STARTED,
    )
    instance.report_run_failed(lost, "Its worker is gone.")
    with line.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE public.daily_sales"))
    failed = dg.materialize(
        [daily_sales], instance=instance, partition_key=day, resources={"line": line}, raise_on_error=False
    )
    assert not failed.success
    _, cursor = tick(sensors.alert_sensor, line, instance, cursor)
    tick(sensors.alert_sensor, line, instance, cursor)
    tick(sensors.alert_delivery, line, instance)
    job = instance.get_run_by_id(failed.run_id).job_name
    assert sorted(hook.titles) == sorted(["A run lost its worker", f"{job} failed"])
    assert any("not started again by itself: launch it again" in told["message"] for told in hook.told)


@dg.op
def breaks():
    raise ValueError("broken")


def test_a_channel_that_fails_makes_the_tick_fail_and_without_channels_the_tick_says_so(
    tmp_path, database_url, hook, line, instance
):
    take(line, drop(line, "wrong.csv", wrong()))
    tick(sensors.alert_sensor, line, instance)
    hook.status = 500
    with pytest.raises(Exception, match="500"):
        tick(sensors.alert_delivery, line, instance)
    with telling(tmp_path, database_url) as silent:
        assert "BULK_UPLOAD_ALERT_URLS" in tick(sensors.alert_sensor, silent, instance)[0].skip_message
        assert "BULK_UPLOAD_ALERT_URLS" in tick(sensors.alert_delivery, silent, instance)[0].skip_message


def test_alerts_test_reaches_every_channel_and_says_which_it_does_not(hook, monkeypatch, tmp_path):
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(tmp_path))
    monkeypatch.setenv("BULK_UPLOAD_ALERT_URLS", hook.url)
    good = CliRunner().invoke(main, ["alerts", "test"])
    assert (good.exit_code, hook.titles) == (0, [messages.TEST.title])
    monkeypatch.setenv("BULK_UPLOAD_ALERT_URLS", f"{hook.url} json://127.0.0.1:{free_port()}")
    bad = CliRunner().invoke(main, ["alerts", "test", "--json"])
    assert bad.exit_code == 3
    assert [channel["taken"] for channel in json.loads(bad.stdout)] == [True, False]
    monkeypatch.setenv("BULK_UPLOAD_ALERT_URLS", "")
    none = CliRunner().invoke(main, ["alerts", "test"])
    assert none.exit_code == 2
    assert "BULK_UPLOAD_ALERT_URLS" in none.output
