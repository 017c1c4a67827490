"""A disk that is full, a file that changes while it is read, and what is left of both."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulk_upload_pipeline import archiving, judging, pace, rejects, report, scratch, storage, sweeping, watch
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.commands import streams
from bulk_upload_pipeline.exceptions import DiskFullError, FileStillChangingError, ScratchFullError
from bulk_upload_pipeline.holding import holding
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.disturbed import batch_id, is_loaded_whole, tries
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, receipt, rows, run

__all__ = ["batch_id"]

FULL = Path("/dev/full")

SETTINGS = {"chunk_rows": 7}


@contextmanager
def small_disk(size):
    """No file may grow beyond `size` bytes: the kernel's own refusal, which needs no disk of that size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_with_one_sentence_and_a_retry_goes_on(line, batch_id):
    stages.upload(line, batch_id)
    with small_disk(2_000), pytest.raises(DiskFullError, match="no space left") as error:
        stages.validate(line, batch_id)
    assert f"bulk-upload retry {batch_id}" in str(error.value)
    stages.validate(line, batch_id)
    stages.load(line, batch_id)
    with small_disk(100), pytest.raises(DiskFullError):
        stages.close(line, batch_id)
    stages.close(line, batch_id)
    is_loaded_whole(line, batch_id)
    assert sorted(path.name for path in line.reports(batch_id).iterdir()) == ["summary.html", "summary.json"]


def test_a_full_disk_ends_a_run_with_a_receipt_even_when_its_files_cannot_be_written(
    line, instance, batch_id, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rejects, "keep", full)
    monkeypatch.setattr(report, "write", full)
    result = run(line, batch_id, instance)
    assert (result.success, tries(result)) == (False, 0)
    account = receipt(line, batch_id)
    assert account.state is State.FAILED
    assert "There is no space left on the disk of" in account.reason
    monkeypatch.undo()
    assert run(line, batch_id, instance).success
    is_loaded_whole(line, batch_id)


def test_a_file_that_changes_while_it_is_judged_goes_back_to_waiting(line, batch_id, monkeypatch):
    whole = csv_of(good_row(n) for n in range(30))
    stages.upload(line, batch_id)
    archived = archiving.archived_file(line, stages.ledger.batch(line.engine, batch_id))
    really = judging.ahead

    def judged_while_somebody_writes(*arguments):
        archived.write_text(whole)
        return really(*arguments)

    monkeypatch.setattr(judging, "ahead", judged_while_somebody_writes)
    with pytest.raises(FileStillChangingError):
        stages.validate(line, batch_id)
    assert receipt(line, batch_id).state is State.WAITING
    assert (line.home.inbox / "a.csv").read_text() == whole
    assert not archived.parent.exists()


def test_what_a_worker_left_that_was_killed_after_its_receipt_is_swept(line, instance, batch_id):
    run(line, batch_id, instance)
    other = drop(line, "b.csv", csv_of(good_row(n) for n in range(30, 40)))
    stages.upload(line, other)
    stages.validate(line, other)
    (line.home.staging / batch_id).mkdir()
    with holding(line.engine, batch_id):
        assert sweeping.sweep(line) == []
    assert sweeping.sweep(line) == [batch_id]
    assert [folder.name for folder in line.home.staging.iterdir()] == [other]


def test_a_report_holds_only_what_its_last_receipt_says(line, instance, batch_id):
    folder = line.reports(batch_id)
    folder.mkdir()
    for name in ("findings.csv", "rejected_rows.csv", ".summary.html", "a note of the clerk.txt"):
        (folder / name).write_text("old")
    run(line, batch_id, instance)
    assert sorted(path.name for path in folder.iterdir()) == [
        "a note of the clerk.txt",
        "summary.html",
        "summary.json",
    ]


def a_full(folder):
    """What the system says of a disk that has no room: a folder on a disk of that size is for root alone to make."""
    return os.statvfs_result((4096, 4096, 100, 0, 0, 100, 50, 50, 0, 255))


def write_more_than_fits(line, place=None):
    """Write into a place of the home, or into the temporary folder beside which that is done."""
    with (
        storage.naming_a_full_disk(line.home, "batch"),
        scratch.folder("test") as folder,
        small_disk(2_000),
    ):
        ((place or folder) / "long").write_bytes(bytes(3_000))


def test_a_full_temporary_folder_is_named_and_not_the_home(line, monkeypatch):
    with pytest.raises(DiskFullError, match=re.escape(str(line.home.root))):
        write_more_than_fits(line, line.home.staging)
    monkeypatch.setattr(os, "statvfs", a_full)
    with pytest.raises(ScratchFullError, match="let TMPDIR name a folder on a larger disk") as of_scratch:
        write_more_than_fits(line)
    assert tempfile.gettempdir() in str(of_scratch.value)


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_check_for_which_there_is_no_room_says_so_in_a_sentence(
    at_terminal, tmp_path, monkeypatch, is_seen
):
    path = tmp_path / "a.csv"
    path.write_text(csv_of(good_row(n) for n in range(300)))
    if is_seen:
        monkeypatch.setattr(os, "statvfs", a_full)
    with small_disk(2_000):
        result = at_terminal("check", path)
    assert result.exit_code == 3
    assert result.stderr.startswith("There is no space left on the disk of ")
    assert ("TMPDIR" in result.stderr) == is_seen


COMMANDS = {
    "words": ["explain", "TOTAL_MISMATCH"],
    "json": ["explain", "--json"],
    "help": ["load", "--help"],
    "version": ["--version"],
    "a file beside it": ["template", "new.csv"],
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_whose_output_nobody_takes_says_so_in_one_sentence(tmp_path, kind):
    with FULL.open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "bulk_upload_pipeline.cli", *COMMANDS[kind]],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert "Standard output does not take" in result.stderr
    assert "No space left on device" in result.stderr


@contextmanager
def full_disk_as(monkeypatch, name):
    """Standard output or error of this process, as a shell lays it on a full disk."""
    with FULL.open("w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, name, full)
        yield


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_load_whose_lines_nobody_takes_is_whole(home, line, tmp_path, monkeypatch, name):
    path = tmp_path / "a.csv"
    path.write_text(csv_of(good_row(n) for n in range(30)))
    monkeypatch.setattr(pace, "SECONDS_APART", 0.0)
    monkeypatch.setattr(pace, "PERCENT_APART", 0.0)
    with full_disk_as(monkeypatch, name), pytest.raises(SystemExit) as ended:
        main(["load", str(path)])
    assert ended.value.code == (3 if name == "stdout" else 0)
    ((state, loaded),) = rows(line, "SELECT state, rows_inserted FROM bulk_upload.upload_batches")
    assert (state, loaded) == ("loaded", 30)


def test_what_runs_goes_on_when_nobody_takes_its_lines(line, monkeypatch):
    (line.home.profiles / "broken.toml").write_text("no TOML")

    def stop(*_):
        raise watch.Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with full_disk_as(monkeypatch, "stdout"), streams.guarded(), pytest.raises(watch.Stopped):
            watch._tell_until_stopped(line.engine, line.home)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
