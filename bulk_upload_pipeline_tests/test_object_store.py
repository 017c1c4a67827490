"""A home in an object store: every exit, races, and a worker that another machine replaces, against a real server."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from s3fs import S3FileSystem

from bulk_upload_pipeline import (
    again,
    alerts,
    helping,
    inbox,
    intake,
    ledger,
    metrics,
    objects,
    part_ledger,
    scratch,
    sharing,
    storage,
    sweeping,
    taking,
)
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import settings as variables
from bulk_upload_pipeline.defs import recovery
from bulk_upload_pipeline.exceptions import (
    FileMissingError,
    FileStillChangingError,
    SettingInvalidError,
    StorageUnavailableError,
)
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.places import Key, is_usable, lies_in, named, place_of
from bulk_upload_pipeline.recognising import dialects, encodings
from bulk_upload_pipeline.settings import Home, read_settings
from bulk_upload_pipeline.workplace import Line
from bulk_upload_pipeline_tests.buckets import BUCKET, object_store
from bulk_upload_pipeline_tests.test_splitting import announce
from bulk_upload_pipeline_tests.world import count, csv_of, good_row, line_at, receipt, rows

TARGET = "mangalam_invoices"
_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def store():
    with object_store() as found:
        yield found


@pytest.fixture
def root(store):
    return place_of(f"s3://{BUCKET}/of test {next(_prefixes)}")


@pytest.fixture
def line(root, database_url):
    with line_at(root, database_url, chunk_rows=7) as line:
        yield line


def put(key, content):
    with tempfile.NamedTemporaryFile() as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        objects.put(Path(file.name), key)


def text_of(key):
    with tempfile.TemporaryDirectory() as folder:
        objects.fetch(key, Path(folder) / "fetched")
        return (Path(folder) / "fetched").read_bytes().decode("utf-8-sig")


def requested(line):
    """What the sensor starts when it has seen the inbox twice."""
    first = intake.survey(line, {}, lambda batch_id: True)
    assert first.requests == ()
    return [request.batch_id for request in intake.survey(line, first.seen, lambda batch_id: True).requests]


def drop(line, name, content):
    put(line.home.inbox / name, content)
    (batch_id,) = requested(line)
    return batch_id


def test_a_good_file_is_loaded_archived_and_reported_in_the_bucket(line, root):
    content = csv_of(good_row(n) for n in range(20))
    batch_id = drop(line, "good.csv", content)
    account = stages.take(line, batch_id)
    assert (account.state, account.rows_inserted) == (State.LOADED, 20)
    assert count(line, TARGET) == 20
    assert storage.names(line.home.inbox) == set()
    assert text_of(root / "archive" / batch_id / "good.csv") == content
    assert storage.names(line.reports(batch_id)) == {"summary.html", "summary.json"}
    assert json.loads(text_of(line.reports(batch_id) / "summary.json"))["rows_inserted"] == 20
    assert storage.folders(root) == ["archive", "reports"]
    assert [path.name for path in line.home.scratch.rglob("*") if path.is_file()] == []


def test_the_other_exits_leave_what_they_leave_in_a_folder(line):
    bad = [good_row(n, Quantity="many") for n in range(4)]
    partial = stages.take(line, drop(line, "partial.csv", csv_of([*map(good_row, range(9)), bad[0]])))
    rejected = stages.take(line, drop(line, "rejected.csv", csv_of([good_row(50), *bad])))
    unreadable = stages.take(line, drop(line, "unreadable.csv", "nothing,of,this\n1,2,3\n"))
    assert [each.state for each in (partial, rejected, unreadable)] == [
        State.PARTIALLY_LOADED,
        State.REJECTED,
        State.UNREADABLE,
    ]
    assert count(line, TARGET) == 9
    all_four = {"summary.html", "summary.json", "findings.csv", "rejected_rows.csv"}
    assert storage.names(line.reports(partial.batch_id)) == all_four
    assert storage.names(line.reports(rejected.batch_id)) == all_four
    assert storage.names(line.reports(unreadable.batch_id)) == all_four - {"rejected_rows.csv"}
    assert storage.folders(line.home.staging) == []
    assert set(storage.folders(line.home.archive)) == {
        each.batch_id for each in (partial, rejected, unreadable)
    }


def test_a_report_in_the_bucket_is_known_to_be_whole_or_not(line):
    batch_id = drop(line, "wrong.csv", csv_of(good_row(n, Quantity="x") for n in range(3)))
    stages.take(line, batch_id)
    assert stages.is_published(line, batch_id)
    storage.remove(line.home, line.reports(batch_id) / "summary.json")
    assert not stages.is_published(line, batch_id)
    stages.publish(line, batch_id)
    assert stages.is_published(line, batch_id)
    assert not storage.mirrored(line.home, line.reports(batch_id)).exists()


def test_the_same_bytes_again_are_a_duplicate(line):
    content = csv_of([good_row(1)])
    first = stages.take(line, drop(line, "a.csv", content))
    again = stages.take(line, drop(line, "b.csv", content))
    assert (again.state, again.duplicate_of) == (State.DUPLICATE, first.batch_id)
    assert count(line, TARGET) == 1


def test_a_correction_settles_the_report_of_its_first_file(line):
    content = csv_of([*map(good_row, range(5)), good_row(5, Quantity="many")])
    first = stages.take(line, drop(line, "a.csv", content))
    header, row = csv.reader(io.StringIO(text_of(line.reports(first.batch_id) / "rejected_rows.csv")))
    row[header.index("Quantity")] = "4"
    text = io.StringIO()
    csv.writer(text).writerows([header, row])
    corrected = stages.take(line, drop(line, "rejected_rows.csv", text.getvalue()))
    assert (corrected.state, corrected.parent_batch_id) == (State.LOADED, first.batch_id)
    assert count(line, TARGET) == 6
    assert receipt(line, first.batch_id).state is State.LOADED
    assert storage.names(line.reports(first.batch_id)) == {"summary.html", "summary.json", "findings.csv"}


def test_a_load_that_failed_is_retried_and_one_that_went_well_is_undone(line):
    batch_id = drop(line, "a.csv", csv_of(good_row(n) for n in range(20)))
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    assert storage.folders(line.home.staging) == [batch_id]
    stages.fail(line, batch_id, "The machine was switched off.")
    assert json.loads(text_of(line.reports(batch_id) / "summary.json"))["state"] == "failed"
    assert stages.take(line, batch_id).state is State.LOADED
    assert stages.revert(line, batch_id).state is State.REVERTED
    assert count(line, TARGET) == 0
    assert json.loads(text_of(line.reports(batch_id) / "summary.json"))["state"] == "reverted"
    assert stages.take(line, batch_id).rows_inserted == 20


def test_an_object_whose_batch_fails_before_it_is_taken_is_archived_and_a_retry_loads_it(line, root):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    stages.fail(line, batch_id, "Its run was cancelled.")
    assert objects.listed(line.home.inbox) == []
    assert [entry.name for entry in objects.listed(root / "archive" / batch_id)] == ["a.csv"]
    assert stages.take(line, batch_id).state is State.LOADED
    assert count(line, TARGET) == 1


def test_the_files_of_a_zip_are_laid_into_the_bucket(line):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", csv_of([good_row(1)]))
        archive.writestr("b.csv", csv_of([good_row(2)]))
    assert stages.take(line, drop(line, "both.zip", packed.getvalue())).state is State.UNPACKED
    assert len(storage.names(line.home.inbox)) == 2
    requested(line)
    for batch_id in rows(line, "SELECT batch_id FROM bulk_upload.upload_batches WHERE state = 'waiting'"):
        stages.take(line, *batch_id)
    assert count(line, TARGET) == 2
    assert storage.names(line.home.inbox) == set()


def test_a_file_of_a_terminal_is_copied_into_the_archive(line, tmp_path):
    name = "caf\udce9?versionId=*.csv"  # what a disk may have, and a key may not
    (tmp_path / name).write_text(csv_of([good_row(1)]))
    batch_id = intake.announce(line, tmp_path / name)
    assert stages.take(line, batch_id).state is State.LOADED
    assert (tmp_path / name).exists()
    (archived,) = storage.names(line.home.archive / batch_id)
    assert is_usable(archived)


@pytest.mark.parametrize("name", ["a::b.csv", "a b#%41?[x]*.csv", "श्री {1}.csv", "x" * 180 + ".csv"])
def test_whatever_an_object_is_called_it_is_loaded_and_archived_under_that_name(line, name):
    batch_id = drop(line, name, csv_of([good_row(1)]))
    assert stages.take(line, batch_id).state is State.LOADED
    assert ledger.batch(line.engine, batch_id).file_name == name
    assert storage.names(line.home.archive / batch_id) == {name}


def test_what_is_no_file_for_us_stays_in_the_bucket(line):
    names = [".hidden", "~$open.xlsx", "half.part", "x" * 300, "no-profile/a.csv"]
    for name in (*names, "zoho/mine.csv"):
        put(line.home.inbox / name, csv_of([good_row(1)]))
    for name in ("", "a?versionId=1.csv"):  # the mark that consoles make for a folder; a name like a version
        key = f"{line.home.inbox}/{name}".removeprefix(f"s3://{BUCKET}/")
        S3FileSystem().call_s3("put_object", Bucket=BUCKET, Key=key, Body=b"x")
    (batch_id,) = requested(line)
    assert ledger.batch(line.engine, batch_id).folder == "zoho"
    words = intake.survey(line, {}, lambda batch_id: True).in_words
    assert "1 never taken (folders that are no profile)" in words
    assert "2 never taken (names that cannot be used)" in words
    assert "2 never taken (unfinished files)" in words
    assert "1 never taken (hidden files)" in words


def test_an_object_that_is_replaced_waits_anew_and_its_last_content_is_loaded(line):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    put(line.home.inbox / "a.csv", csv_of([good_row(1), good_row(2)]))
    with pytest.raises(FileStillChangingError):
        stages.take(line, batch_id)
    assert receipt(line, batch_id).state is State.WAITING
    assert storage.names(line.home.inbox) == {"a.csv"}
    assert requested(line) == [batch_id]
    assert stages.take(line, batch_id).rows_inserted == 2


def test_a_new_object_at_the_place_of_one_that_is_taken_is_never_deleted(line, root, monkeypatch):
    source, target = line.home.inbox / "a.csv", root / "archive" / "b" / "a.csv"
    put(source, "first")
    entry = objects.found(source)
    objects.move(source, target)
    put(source, "second")
    objects._delete(source, entry.etag)
    objects.finish_moving(source, target)
    assert (text_of(source), text_of(target)) == ("second", "first")


def test_a_move_that_was_cut_off_after_its_copy_is_finished(line, root):
    put(root / "archive" / "b" / "a.csv", "content")
    put(line.home.inbox / "a.csv", "content")
    taken = taking.take(line.home.inbox / "a.csv", root / "archive" / "b", keep_source=False)
    assert text_of(taken) == "content"
    assert objects.found(line.home.inbox / "a.csv") is None


def test_of_two_that_take_the_same_object_one_gets_it(line):
    """Two batches for one object, as two sensors would make them: PostgreSQL decides who takes it."""
    content = csv_of(good_row(n) for n in range(5))
    first = drop(line, "a.csv", content)
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.upload_batches (batch_id, file_name, file_size, source_path, state, "
            "received_at, started_at) SELECT 'second', file_name, file_size, source_path, state, received_at, "
            "started_at FROM bulk_upload.upload_batches"
        )

    def take(batch_id):
        try:
            return stages.take(line, batch_id).state
        except FileMissingError as error:
            return type(error)

    with ThreadPoolExecutor(2) as workers:
        ends = set(workers.map(take, (first, "second")))
    assert ends == {State.LOADED, FileMissingError}
    assert len(storage.folders(line.home.archive)) == 1
    assert count(line, TARGET) == 5


WORKER = """
import sys
from pathlib import Path
from bulk_upload_pipeline import line as stages, load, storage
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.settings import read_settings
from bulk_upload_pipeline.workplace import Line

settings = read_settings()
with storage.opened(settings) as opened:
    stages.take(Line(opened, make_engine(settings.database_url)), sys.argv[1])
"""


def test_a_worker_that_is_killed_in_mid_load_is_replaced_on_a_machine_that_shares_no_disk(
    line, database_url, tmp_path, monkeypatch
):
    wanted = 3_000
    batch_id = drop(line, "big.csv", csv_of(good_row(n) for n in range(wanted)))
    mine = {
        variables.HOME: str(line.home.root),
        variables.DATABASE_URL: database_url,
        variables.CHUNK_ROWS: "20",
        "TMPDIR": str(tmp_path),
    }
    worker = subprocess.Popen([sys.executable, "-c", WORKER, batch_id], env=os.environ | mine)
    deadline = time.monotonic() + 60
    while count(line, "bulk_upload.load_chunks") < 3:
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    worker.kill()
    worker.wait()
    done = count(line, "bulk_upload.load_chunks")
    assert done < wanted / 20
    (judged,) = rows(line, "SELECT validated_at FROM bulk_upload.upload_batches")

    result = stages.load(line, batch_id)  # what the dead one staged, fetched from the bucket
    assert result.inserted == wanted
    assert stages.close(line, batch_id).state is State.LOADED
    assert rows(line, "SELECT validated_at FROM bulk_upload.upload_batches") == [judged]
    assert rows(line, f"SELECT count(*), count(DISTINCT invoice_number) FROM {TARGET}") == [(wanted, wanted)]
    assert storage.folders(line.home.staging) == []

    left = [path for path in tmp_path.iterdir() if path.name.startswith(scratch.PREFIX)]
    assert len(left) == 2
    for path in left:
        os.utime(path, (0, 0))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with storage.opened(read_settings({variables.HOME: str(line.home.root)})):
        remaining = {path.name for path in tmp_path.iterdir()}
        assert not remaining & {path.name for path in left}
        assert len(remaining) == 2
    assert list(tmp_path.iterdir()) == []


def test_many_batches_are_looked_for_in_the_archive_with_few_requests(line, monkeypatch):
    there = stages.take(line, drop(line, "a.csv", "nothing,of,this\n1,2,3\n")).batch_id
    copies = """INSERT INTO bulk_upload.upload_batches
        SELECT (jsonb_populate_record(b, jsonb_build_object('batch_id', b.batch_id || '-' || n))).*
        FROM bulk_upload.upload_batches AS b, generate_series(1, 50) AS n"""
    with line.engine.begin() as connection:
        connection.exec_driver_sql(copies)
    put(line.home.archive / f"{there}-7" / "a.csv", "1,2,3")
    asked = []
    listed = objects.listed
    monkeypatch.setattr(objects, "listed", lambda key: asked.append(key) or listed(key))
    plan = again.since(line, date(2020, 1, 1))
    assert [each.batch_id for each in plan.taken] == [there, f"{there}-7"]
    assert (len(plan.gone), len(asked)) == (49, 1)


def test_rows_that_another_plan_staged_are_never_loaded_under_this_verdict(line):
    batch_id = drop(line, "a.csv", csv_of(good_row(n) for n in range(20)))
    stages.upload(line, batch_id)
    first = stages.validate(line, batch_id)
    elsewhere = Line(replace(line.settings, chunk_rows=3), line.engine)
    second = stages.validate(elsewhere, batch_id)
    assert first.plan != second.plan
    stages.load(line, batch_id)
    assert count(line, "bulk_upload.load_chunks") == second.chunks == 7
    assert count(line, TARGET) == 20


def test_what_ended_long_ago_is_thrown_away_in_the_bucket_too(line):
    from datetime import UTC, datetime, timedelta

    from bulk_upload_pipeline import retention

    ended = stages.take(line, drop(line, "a.csv", csv_of([good_row(1)]))).batch_id
    waiting = drop(line, "b.csv", csv_of([good_row(2)]))
    put(line.home.staging / ended / "left" / "valid.arrow", "left")
    put(line.home.archive / waiting / "b.csv", "kept")
    assert sweeping.sweep(line) == [ended]
    assert storage.folders(line.home.staging) == []
    later = datetime.now(UTC) + timedelta(days=1)
    assert retention.remove_folders(line.engine, line.home, line.home.archive, later) == 1
    assert storage.folders(line.home.archive) == [waiting]


def test_a_profile_in_the_bucket_is_known_on_every_machine(root, at_terminal, monkeypatch, tmp_path):
    monkeypatch.setenv(variables.HOME, str(root))
    (tmp_path / "new sender.csv").write_text(csv_of([good_row(1)]))
    written = at_terminal("profiles", "suggest", tmp_path / "new sender.csv", "--write", "--name", "fresh")
    assert written.exit_code == 0
    assert f"{root}/profiles/fresh.toml" in written.output
    assert "fresh" in at_terminal("profiles").output
    again = at_terminal("profiles", "suggest", tmp_path / "new sender.csv", "--write", "--name", "fresh")
    assert again.exit_code == 2


def test_a_file_is_loaded_from_a_terminal_into_a_bucket(root, at_terminal, monkeypatch, tmp_path):
    monkeypatch.setenv(variables.HOME, str(root))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(csv_of([good_row(1)]))
    loaded = at_terminal("load", tmp_path / "a.csv")
    assert loaded.exit_code == 0
    assert len(storage.folders(root / "archive")) == 1
    assert "s3://" in at_terminal("load", tmp_path / "a.csv").output


def test_a_file_is_dropped_under_a_name_that_nobody_has(line, tmp_path):
    (tmp_path / "a.csv").write_text("x")
    dropped = [inbox.drop(tmp_path / "a.csv", line.home.inbox / "") for _ in range(2)]
    assert [place.name for place in dropped] == ["a.csv", "a (2).csv"]


def test_what_waits_in_the_bucket_is_counted(line):
    put(line.home.inbox / "a.csv", "x")
    put(line.home.inbox / "zoho" / "b.csv", "x")
    collected = metrics.LedgerCollector(line.engine, line.home).collect()
    values = {metric.name: metric.samples[0].value for metric in collected if metric.samples}
    assert values["bulk_upload_inbox_files"] == 2
    assert values["bulk_upload_disk_free_bytes"] > 0
    from datetime import UTC, datetime

    assert alerts.notice_full_disk(line, datetime.now(UTC)) == []


def test_a_bucket_that_is_not_there_is_said_in_a_sentence(store):
    home = Home(place_of("s3://elsewhere/home"))
    with pytest.raises(
        StorageUnavailableError, match=r"s3://elsewhere/home/inbox: The specified bucket does not"
    ):
        inbox.look(home.inbox, bool, {})
    with pytest.raises(StorageUnavailableError, match="s3://elsewhere/home/inbox/"):
        inbox.drop(Path(__file__), home.inbox)


def test_a_bucket_that_is_away_has_lost_no_file_and_keeps_the_reaper_from_nothing(line):
    drop(line, "a.csv", csv_of([good_row(1)]))
    away = replace(line, settings=replace(line.settings, home=Home(place_of("s3://elsewhere/home"))))
    with line.engine.begin() as connection:
        moved = "UPDATE bulk_upload.upload_batches SET source_path = 's3://elsewhere/home/inbox/a.csv'"
        connection.execute(sa.text(f"{moved}, started_at = now() - interval '1 hour'"))
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"line": away})
        assert "0 runs are under way" in recovery.reaper(context).skip_message
        assert context.cursor == "{}"


@pytest.mark.parametrize("stated", ["gs://bucket/x", "s3://", "s3:///", "https://bucket/x"])
def test_a_home_is_a_folder_or_a_bucket(stated):
    with pytest.raises(SettingInvalidError, match="BULK_UPLOAD_HOME"):
        read_settings({variables.HOME: stated})


def test_places_know_where_they_lie():
    home = Home(place_of("s3://bucket/home/"))
    assert str(home.inbox) == "s3://bucket/home/inbox"
    assert lies_in(home.inbox / "a", home.inbox)
    assert not lies_in(home.inbox, home.inbox)
    assert not lies_in(Key("s3://bucket/home/inbox2/a"), home.inbox)
    assert not lies_in(Path("/inbox/a"), home.inbox)
    assert not lies_in(home.inbox / "a", Path("/"))
    assert named(Path("/x"), "a\n").name == "a\n"
    assert home.postgres == Path("data").absolute() / "postgres"


def test_a_huge_file_is_judged_and_loaded_by_machines_that_share_nothing_but_the_store(
    root, database_url, monkeypatch
):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(dialects, "TOP_BYTES", 1 << 10)
    monkeypatch.setattr(helping, "PATIENCE_S", 0.2)
    shape = {"chunk_rows": 100, "part_bytes": 1 << 14}
    text = csv_of([good_row(n, Quantity="x" if n == 700 else "4") for n in range(1_000)])
    with line_at(root, database_url, **shape) as one, line_at(root, database_url, **shape) as two:
        batch_id = drop(one, "huge.csv", text)
        plan = announce(one, batch_id, shape["part_bytes"]).plan
        parts = len(part_ledger.rows(one.engine, batch_id))
        assert parts > 3
        assert sharing.help_along(two, batch_id) == parts
        assert stages.validate(one, batch_id).rows_read == 1_000
        staged = one.staged(batch_id, plan)
        ledger.loading(one.engine, batch_id)
        part_ledger.let_load(one.engine, batch_id, plan, staged.parts)
        assert sharing.help_along(two, batch_id) == parts
        assert count(one, TARGET) == 999
        with line_at(root, database_url, **shape) as three:
            stages.load(three, batch_id)
            stages.close(three, batch_id)
        assert receipt(one, batch_id).state is State.PARTIALLY_LOADED
        assert receipt(one, batch_id).rows_inserted == 999
        assert rows(one, "SELECT row_number FROM bulk_upload.processing_errors") == [(701,)]
        assert objects.listed(one.home.staging) == []


def test_a_huge_file_whose_parts_nobody_knows_any_more_is_loaded_by_one(root, database_url, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(dialects, "TOP_BYTES", 1 << 10)
    shape = {"chunk_rows": 100, "part_bytes": 1 << 14}
    with line_at(root, database_url, **shape) as one:
        batch_id = drop(one, "huge.csv", csv_of([good_row(n) for n in range(1_000)]))
        stages.upload(one, batch_id)
        stages.validate(one, batch_id)
    with line_at(root, database_url, **shape) as two:
        part_ledger.forget(two.engine, batch_id)
        stages.load(two, batch_id)
        assert stages.close(two, batch_id).rows_inserted == 1_000
