"""What the watched folder gives, and that taking a file never loses it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline import inbox, metrics, taking
from bulk_upload_pipeline.exceptions import FileMissingError, FileStillChangingError, NeverTakenError

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def is_profile(name):
    return name == "zoho"


def look_twice(folder):
    first = inbox.look(folder, is_profile, {})
    seen = {inbox.name_in_inbox(f): f.fingerprint for f in (*first.settled, *first.restless)}
    return first, inbox.look(folder, is_profile, seen)


def names(files):
    return [file.path.name for file in files]


def test_an_empty_inbox_gives_nothing(tmp_path):
    assert inbox.look(tmp_path, is_profile, {}) == inbox.Look()


def test_a_file_is_settled_when_a_second_look_finds_it_unchanged(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    first, second = look_twice(tmp_path)
    assert (names(first.settled), names(first.restless)) == ([], ["a.csv"])
    assert (names(second.settled), names(second.restless)) == (["a.csv"], [])


def test_a_file_that_grew_between_two_looks_waits(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("x")
    first = inbox.look(tmp_path, is_profile, {})
    file.write_text("xy")
    seen = {inbox.name_in_inbox(f): f.fingerprint for f in first.restless}
    assert names(inbox.look(tmp_path, is_profile, seen).restless) == ["a.csv"]


def test_a_file_in_a_profiles_folder_takes_that_profile(tmp_path):
    (tmp_path / "zoho").mkdir()
    (tmp_path / "zoho" / "a.csv").write_text("x")
    _, second = look_twice(tmp_path)
    assert [(f.path.name, f.folder) for f in second.settled] == [("a.csv", "zoho")]


@pytest.mark.parametrize(
    "name", ["a.csv.part", "a.tmp", "a.CRDOWNLOAD", "~$a.xlsx", ".hidden", ".a.csv.swp", "a.filepart"]
)
def test_unfinished_and_hidden_files_are_never_taken(tmp_path, name):
    (tmp_path / name).write_text("x")
    first, second = look_twice(tmp_path)
    assert first.restless == second.settled == ()
    assert sum(second.left_out.values()) == 1


def test_links_folders_and_pipes_are_never_taken(tmp_path):
    (tmp_path / "real").write_text("x")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "b.csv").write_text("x")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe.csv")
    _, second = look_twice(tmp_path)
    assert names(second.settled) == ["real"]
    assert second.left_out == {"links": 1, "folders that are no profile": 1, "special files": 1}


def test_a_folder_that_we_may_not_read_does_not_hold_up_the_files_of_others(tmp_path, monkeypatch):
    (tmp_path / "zoho").mkdir()
    (tmp_path / "a.csv").write_text("a")
    listed = os.scandir

    def refusing(path):  # by hand, since root may read every folder
        if Path(path).name == "zoho":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    _, second = look_twice(tmp_path)
    assert names(second.settled) == ["a.csv"]
    assert second.left_out == {"folders that we may not read": 1}


REFUSALS = {
    errno.ENOTCONN: "folders that cannot be read",
    errno.EIO: "folders that cannot be read",
    errno.ENOENT: None,
}


@pytest.mark.parametrize("number", REFUSALS)
def test_a_folder_on_a_share_that_is_gone_does_not_hold_up_the_files_of_others(tmp_path, monkeypatch, number):
    (tmp_path / "zoho").mkdir()
    (tmp_path / "a.csv").write_text("a")
    listed = os.scandir

    def refusing(path):
        if Path(path).name == "zoho":
            raise OSError(number, os.strerror(number), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    _, second = look_twice(tmp_path)
    assert names(second.settled) == ["a.csv"]
    assert second.left_out == ({REFUSALS[number]: 1} if REFUSALS[number] else {})


@contextmanager
def as_nobody():
    """Root may look at everything; anybody else is refused by the mode of his own folder."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_a_folder_that_lists_its_files_and_hides_them_does_not_hold_up_the_files_of_others(
    tmp_path, monkeypatch
):
    (tmp_path / "zoho").mkdir()
    (tmp_path / "zoho" / "b.csv").write_text("b")
    (tmp_path / "a.csv").write_text("a")
    (tmp_path / "zoho").chmod(0o444)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # nobody may come by the folders above it
    try:
        with as_nobody():
            _, second = look_twice(Path())
            counted = list(metrics._waiting_since(Path()))
    finally:
        (tmp_path / "zoho").chmod(0o755)
    assert names(second.settled) == ["a.csv"]
    assert second.left_out == {"files that cannot be looked at": 1}
    assert len(counted) == 1


def test_the_oldest_file_comes_first(tmp_path):
    for age, name in enumerate(["new.csv", "middle.csv", "old.csv"]):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, ns=(0, 10**18 - age * 10**9))
    _, second = look_twice(tmp_path)
    assert names(second.settled) == ["old.csv", "middle.csv", "new.csv"]


def test_the_same_name_again_is_another_batch(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("x")
    before = inbox.batch_id_for(inbox.found_file(file), NOW)
    file.unlink()
    file.write_text("y")
    os.utime(file, ns=(1, 1))
    assert inbox.batch_id_for(inbox.found_file(file), NOW) != before


def test_a_file_that_is_named_twice_within_a_second_is_two_batches(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("x")
    found = inbox.found_file(file)
    later = NOW + timedelta(milliseconds=1)
    assert inbox.batch_id_for(found, NOW) != inbox.batch_id_for(found, later)


@given(stem=st.text(min_size=1, max_size=80).filter(lambda s: "/" not in s and "\0" not in s))
def test_a_batch_id_is_safe_whatever_the_file_is_called(tmp_path_factory, stem):
    file = inbox.FoundFile(tmp_path_factory.getbasetemp() / f"{stem}.csv", None, 1, 2, 3)
    batch_id = inbox.batch_id_for(file, NOW)
    assert re.fullmatch(r"20260304T050607-[a-z0-9-]{1,40}-[0-9a-f]{8}", batch_id)


def test_taking_moves_the_file_into_its_archive_folder_and_doing_it_twice_does_it_once(tmp_path):
    source = tmp_path / "inbox" / "a.csv"
    source.parent.mkdir()
    source.write_text("x")
    folder = tmp_path / "archive" / "b1"
    taken = taking.take(source, folder, keep_source=False)
    assert taking.take(source, folder, keep_source=False) == taken == folder / "a.csv"
    assert taken.read_text() == "x"
    assert not source.exists()


def test_a_users_own_file_stays_where_it_is(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("x")
    taken = taking.take(source, tmp_path / "archive" / "b1", keep_source=True)
    assert (source.read_text(), taken.read_text()) == ("x", "x")
    assert names_in(taken.parent) == ["a.csv"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_is_nowhere_is_named_in_the_error(tmp_path):
    with pytest.raises(FileMissingError, match=r"no file at .*gone\.csv"):
        taking.take(tmp_path / "gone.csv", tmp_path / "archive" / "b1", keep_source=False)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_link_that_was_laid_in_the_place_of_a_file_is_not_taken_nor_is_what_it_leads_to(
    tmp_path, other_disk, elsewhere
):
    (tmp_path / "secret.csv").write_text("salaries")
    (source := tmp_path / "a.csv").symlink_to(tmp_path / "secret.csv")
    folder = (other_disk if elsewhere else tmp_path) / "archive" / "b1"
    with pytest.raises(FileMissingError):
        taking.take(source, folder, keep_source=False)
    assert source.readlink() == tmp_path / "secret.csv"
    assert not folder.exists()
    mine = taking.take(source, tmp_path / "archive" / "b2", keep_source=True)
    assert (mine.read_text(), mine.is_symlink()) == ("salaries", False)


def test_a_link_that_a_killed_worker_had_taken_goes_back_and_overwrites_no_file(tmp_path):
    (tmp_path / "secret.csv").write_text("salaries")
    (folder := tmp_path / "archive" / "b1").mkdir(parents=True)
    (folder / "a.csv").symlink_to(tmp_path / "secret.csv")
    (source := tmp_path / "a.csv").write_text("dropped since")
    with pytest.raises(FileMissingError):
        taking.take(source, folder, keep_source=False)
    assert source.read_text() == "dropped since"
    assert not folder.exists()


def test_the_content_hash_is_that_of_the_bytes(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"abc" * 100_000)
    assert taking.content_hash(file, 300_000) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_file_of_another_size_than_seen_is_still_changing(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"abc")
    with pytest.raises(FileStillChangingError, match="went back to the inbox"):
        taking.content_hash(file, 2)


def test_a_file_that_goes_back_lies_where_it_lay(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("x")
    taken = taking.take(source, tmp_path / "archive" / "b1", keep_source=False)
    taking.put_back(taken.parent, source)
    assert source.read_text() == "x"
    assert not taken.parent.exists()


def test_a_file_that_goes_back_does_not_take_the_place_of_another(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("first")
    taken = taking.take(source, tmp_path / "archive" / "b1", keep_source=False)
    source.write_text("second")
    taking.put_back(taken.parent, source)
    assert (source.read_text(), (tmp_path / "a (2).csv").read_text()) == ("second", "first")


def test_a_file_that_goes_back_overwrites_none_that_is_dropped_at_that_moment(tmp_path, monkeypatch):
    source = tmp_path / "a.csv"
    source.write_text("first")
    taken = taking.take(source, tmp_path / "archive" / "b1", keep_source=False)

    def when_another_is_dropped(act):
        def acting(*paths):
            source.write_text("second")
            return act(*paths)

        return acting

    monkeypatch.setattr(os, "link", when_another_is_dropped(os.link))
    monkeypatch.setattr(Path, "rename", when_another_is_dropped(Path.rename))
    taking.put_back(taken.parent, source)
    assert (source.read_text(), (tmp_path / "a (2).csv").read_text()) == ("second", "first")
    assert not taken.parent.exists()


def test_a_file_whose_way_back_was_cut_off_half_way_lies_there_once(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("x")
    taken = taking.take(source, tmp_path / "archive" / "b1", keep_source=False)
    os.link(taken, source)  # and then the worker was killed
    taking.put_back(taken.parent, source)
    assert source.read_text() == "x"
    assert [path.name for path in tmp_path.glob("*.csv")] == ["a.csv"]
    assert not taken.parent.exists()


def test_a_file_that_changes_while_it_is_read_is_noticed_whatever_was_made_of_it(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("x")

    def read(size, written, *, fails=False):
        with taking.unchanging(file, size):
            file.write_text(written)
            if fails:
                raise ValueError("half a file makes no sense")

    with pytest.raises(FileStillChangingError):
        read(None, "xy")
    with pytest.raises(FileStillChangingError):
        read(2, "xyz", fails=True)
    with taking.unchanging(file, 3):
        assert file.read_text() == "xyz"


@pytest.fixture
def other_disk():
    """A folder on another file system than temporary files, of the kernel's memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("killed", [None, "in the middle of the copy", "between copy and unlink"])
def test_taking_onto_another_file_system_loses_nothing(tmp_path, other_disk, monkeypatch, killed):
    assert tmp_path.stat().st_dev != other_disk.stat().st_dev
    source, folder = tmp_path / "a.csv", other_disk / "b1"
    source.write_text("x" * 100_000)
    os.utime(source, ns=(1, 1))
    folder.mkdir()
    if killed == "in the middle of the copy":
        (folder / taking.UNFINISHED_COPY).write_text("x" * 10)
    if killed == "between copy and unlink":
        monkeypatch.setattr(Path, "unlink", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            taking.take(source, folder, keep_source=False)
        monkeypatch.undo()
        assert source.exists()
    taken = taking.take(source, folder, keep_source=False)
    assert (taken.read_text(), taken.stat().st_mtime_ns) == ("x" * 100_000, 1)
    assert not source.exists()
    assert names_in(folder) == ["a.csv"]
    taking.put_back(folder, source)
    assert source.read_text() == "x" * 100_000
    assert not folder.exists()


def test_a_new_file_of_the_same_name_is_not_taken_for_the_rest_of_a_move(tmp_path):
    source, folder = tmp_path / "a.csv", tmp_path / "archive" / "b1"
    source.write_text("first")
    taking.take(source, folder, keep_source=False)
    source.write_text("other")
    assert taking.take(source, folder, keep_source=False).read_text() == "first"
    assert source.read_text() == "other"


def test_a_file_that_changes_while_it_is_copied_stays_where_it_is(tmp_path, monkeypatch):
    source, really = tmp_path / "a.csv", shutil.copyfile
    source.write_text("x")

    def copied_while_somebody_writes(*places, **options):
        really(*places, **options)
        source.write_text("xy")

    monkeypatch.setattr(shutil, "copyfile", copied_while_somebody_writes)
    with pytest.raises(FileStillChangingError):
        taking.take(source, tmp_path / "archive" / "b1", keep_source=True)
    assert names_in(tmp_path / "archive" / "b1") == []
    assert source.read_text() == "xy"


def test_what_a_killed_drop_left_is_swept_and_what_others_write_is_not(tmp_path):
    (tmp_path / "zoho").mkdir()
    ours = [tmp_path / ".dropping-1.part", tmp_path / "zoho" / ".dropping-2.part"]
    others = [tmp_path / "a.csv.part", tmp_path / ".hidden", tmp_path / "b.csv"]
    for path in (*ours, *others):
        path.write_text("x")
    inbox.sweep(tmp_path, older_than=ours[0].stat().st_mtime - 1)
    assert all(path.exists() for path in (*ours, *others))
    inbox.sweep(tmp_path, older_than=others[-1].stat().st_mtime + 1)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("knows_links", [True, False])
def test_a_dropped_copy_gets_a_number_when_its_name_is_taken(tmp_path, monkeypatch, knows_links):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "as exFAT says")

    if not knows_links:
        monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "a.csv"
    source.write_text("x")
    folder = tmp_path / "inbox"
    assert inbox.drop(source, folder).name == "a.csv"
    assert inbox.drop(source, folder).name == "a (2).csv"
    assert source.exists()
    assert names_in(folder) == ["a (2).csv", "a.csv"]


@pytest.mark.parametrize("name", [".may.csv", "may.csv.part", "~$may.xlsx"])
def test_a_file_whose_name_nobody_takes_from_the_inbox_is_not_dropped_there(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(NeverTakenError, match="would never be taken"):
        inbox.drop(tmp_path / name, tmp_path / "inbox")
    assert not (tmp_path / "inbox").exists()


def test_a_drop_that_fails_leaves_nothing_in_the_inbox(tmp_path, monkeypatch):
    def half(_, target):
        Path(target).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    source = tmp_path / "a.csv"
    source.write_text("x")
    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space left"):
        inbox.drop(source, tmp_path / "inbox")
    assert names_in(tmp_path / "inbox") == []


def test_of_two_files_of_one_name_that_are_dropped_at_once_none_is_overwritten(tmp_path, monkeypatch):
    sources = [tmp_path / which / "a.csv" for which in ("one", "other")]
    for source in sources:
        source.parent.mkdir()
        source.write_text(source.parent.name)
    together = threading.Barrier(2)

    def at_the_same_time(act):
        def both(*paths):
            together.wait(60)
            return act(*paths)

        return both

    monkeypatch.setattr(shutil, "copyfile", at_the_same_time(shutil.copyfile))
    monkeypatch.setattr(Path, "rename", at_the_same_time(Path.rename))
    with ThreadPoolExecutor(2) as pool:
        dropped = list(pool.map(lambda source: inbox.drop(source, tmp_path / "inbox"), sources))
    assert [path.read_text() for path in dropped] == ["one", "other"]
    assert names_in(tmp_path / "inbox") == ["a (2).csv", "a.csv"]
