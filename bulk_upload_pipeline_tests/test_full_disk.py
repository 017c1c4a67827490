"""A disk that is full, a file that changes while it is read, and what is left of both."""

from __future__ import annotations

import errno
import resource
from contextlib import contextmanager

import pytest

from bulk_upload_pipeline import archiving, judging, rejects, report, sweeping
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.exceptions import DiskFullError, FileStillChangingError
from bulk_upload_pipeline.holding import holding
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.disturbed import batch_id, is_loaded_whole, tries
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, receipt, run

__all__ = ["batch_id"]

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
