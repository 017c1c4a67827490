"""What the watched folder gives, and that taking a file never loses it."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline import inbox
from bulk_upload_pipeline.exceptions import FileMissingError, FileStillChangingError

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
    taken = inbox.take(source, folder, keep_source=False)
    assert inbox.take(source, folder, keep_source=False) == taken == folder / "a.csv"
    assert taken.read_text() == "x"
    assert not source.exists()


def test_a_users_own_file_stays_where_it_is(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("x")
    taken = inbox.take(source, tmp_path / "archive" / "b1", keep_source=True)
    assert (source.read_text(), taken.read_text()) == ("x", "x")
    assert names_in(taken.parent) == ["a.csv"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_is_nowhere_is_named_in_the_error(tmp_path):
    with pytest.raises(FileMissingError, match=r"no file at .*gone\.csv"):
        inbox.take(tmp_path / "gone.csv", tmp_path / "archive" / "b1", keep_source=False)


def test_the_content_hash_is_that_of_the_bytes(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"abc" * 100_000)
    assert inbox.content_hash(file, 300_000) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_file_of_another_size_than_seen_is_still_changing(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"abc")
    with pytest.raises(FileStillChangingError, match="went back to the inbox"):
        inbox.content_hash(file, 2)


def test_a_file_that_goes_back_lies_where_it_lay(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("x")
    taken = inbox.take(source, tmp_path / "archive" / "b1", keep_source=False)
    inbox.put_back(taken, source)
    assert source.read_text() == "x"
    assert not taken.parent.exists()


def test_a_dropped_copy_gets_a_number_when_its_name_is_taken(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("x")
    folder = tmp_path / "inbox"
    assert inbox.drop(source, folder).name == "a.csv"
    assert inbox.drop(source, folder).name == "a (2).csv"
    assert source.exists()
    assert names_in(folder) == ["a (2).csv", "a.csv"]
