"""A .zip of several files: each is a batch of its own, by the inbox and by the command."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from bulk_upload_pipeline import intake, ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests import writers
from bulk_upload_pipeline_tests.world import (
    count,
    csv_of,
    drop,
    good_row,
    receipt,
    rows,
    run,
    settled,
)

TARGET = "mangalam_invoices"


def a_file(number, **changed):
    return csv_of([good_row(number, **changed), good_row(number + 1)]).encode()


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


HOSTILE = [
    "may/day 1.csv",
    "'; DROP TABLE mangalam_invoices; --.csv",
    "$(rm -rf ~)`x`.csv",
    "line\nbreak\u202e.csv",
    "😀" * 50 + ".csv",
    "-rf",
    "~$hidden.tmp",
]


def test_each_file_of_a_zip_becomes_a_batch_that_loads_and_the_zip_names_them(line):
    members = {name: a_file(10 * at) for at, name in enumerate(HOSTILE)}
    members["book.xlsx"] = writers.as_xlsx([list(good_row(1)), list(good_row(900).values())])
    archive = drop(line, "all.zip", writers.zip_of(members))
    account = stages.take(line, archive)
    assert (account.state, account.rows_read) == (State.UNPACKED, 0)
    requests = settled(line)
    assert [request.batch_id for request in requests] == account.layout["members"]
    assert [request.file_name for request in requests]
    for request in requests:
        assert request.batch_id in account.reason
        assert stages.take(line, request.batch_id).state is State.LOADED
    assert count(line, TARGET) == 2 * len(HOSTILE) + 1
    names = [ledger.batch(line.engine, batch_id).file_name for batch_id in account.layout["members"]]
    assert names == [f"all.zip/{name}" for name in members]
    assert files_in(line.home.inbox) == []
    assert files_in(line.home.staging) == []


def test_the_run_of_a_zip_succeeds_with_a_receipt(line):
    archive = drop(line, "two.zip", writers.zip_of({"a.csv": a_file(1), "b.csv": a_file(5)}))
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(line, archive, instance).success
        assert instance.get_materialized_partitions(dg.AssetKey("upload_receipts")) == {archive}
    assert receipt(line, archive).state is State.UNPACKED


def test_a_bad_file_in_a_zip_fails_no_other(line):
    members = {
        "good.csv": a_file(1),
        "photo.csv": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "c.csv": a_file(5),
    }
    stages.take(line, drop(line, "all.zip", writers.zip_of(members)))
    ends = [stages.take(line, request.batch_id).state for request in settled(line)]
    assert ends == [State.LOADED, State.UNREADABLE, State.LOADED]


def test_a_zip_that_is_taken_again_releases_nothing_twice(line):
    content = writers.zip_of({"a.csv": a_file(1), "b.csv": a_file(5)})
    archive = drop(line, "two.zip", content)
    first = stages.take(line, archive).layout["members"]
    stages.take(line, first[0])
    assert stages.take(line, archive).layout["members"] == first
    assert len(files_in(line.home.inbox)) == 1
    assert rows(line, "SELECT count(*) FROM bulk_upload.upload_batches") == [(3,)]


def test_members_go_by_the_profile_of_the_folder_in_which_the_zip_was_dropped(line):
    folder = line.home.inbox / "zoho"
    folder.mkdir()
    (folder / "two.zip").write_bytes(writers.zip_of({"a.csv": a_file(1), "b.csv": a_file(5)}))
    seen = intake.survey(line, {}, lambda _: False).seen
    (request,) = intake.survey(line, seen, lambda _: False).requests
    stages.take(line, request.batch_id)
    for member in settled(line):
        assert stages.take(line, member.batch_id).profile == "zoho"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"a.csv": a_file(1), "b.zip": writers.zip_of({"c.csv": a_file(5)})}, "UNSAFE_ARCHIVE"),
        ({"a.csv": a_file(1), "../b.csv": a_file(5)}, "UNSAFE_ARCHIVE"),
        ({"a.csv": a_file(1), "b.csv": bytes(70_000_000)}, "TOO_LARGE_INSIDE"),
        ({f"{n}.csv": b"" for n in range(1_001)}, "TOO_LARGE_INSIDE"),
    ],
    ids=["an archive inside", "a path that leads out", "a bomb", "too many files"],
)
def test_of_a_zip_that_is_refused_nothing_is_released(line, members, code):
    archive = drop(line, "all.zip", writers.zip_of(members))
    account = stages.take(line, archive)
    assert (account.state, account.findings_by_code) == (State.UNREADABLE, {code: 1})
    assert files_in(line.home.inbox) == []
    assert files_in(line.home.staging) == []
    assert rows(line, "SELECT count(*) FROM bulk_upload.upload_batches") == [(1,)]


def test_load_takes_a_zip_and_its_files_and_its_exit_code_is_the_worst(tmp_path, monkeypatch, database_url):
    from click.testing import CliRunner

    from bulk_upload_pipeline.cli import main

    path = tmp_path / "two.zip"
    path.write_bytes(writers.zip_of({"a.csv": a_file(1), "b.csv": a_file(5, Quantity="x") + a_file(9)[90:]}))
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", database_url)
    monkeypatch.setenv("BULK_UPLOAD_DAGSTER_DATABASE_URL", database_url)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["load", "--json", str(path)])
    told = json.loads(result.stdout)
    assert [entry["state"] for entry in told] == ["unpacked", "loaded", "partially_loaded"]
    assert result.exit_code == 1
    assert path.exists()
