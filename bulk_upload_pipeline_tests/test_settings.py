"""What the environment may say, and what it is told when it says something else."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import pytest

from bulk_upload_pipeline.exceptions import SettingInvalidError
from bulk_upload_pipeline.settings import Keeping, read_provisioning, read_settings, unguarded


def test_an_empty_environment_means_the_defaults():
    settings = read_settings({})
    assert settings.home.root == Path("data").absolute()
    assert (settings.database_url, settings.max_error_rate, settings.chunk_rows) == (None, 0.5, 10_000)


def test_every_variable_is_read(tmp_path):
    settings = read_settings(
        {
            "BULK_UPLOAD_HOME": str(tmp_path),
            "BULK_UPLOAD_DATABASE_URL": "postgresql://h/d",
            "BULK_UPLOAD_DAGSTER_DATABASE_URL": "postgresql://h/e",
            "BULK_UPLOAD_MAX_ERROR_RATE": "0.2",
            "BULK_UPLOAD_CHUNK_ROWS": "1000",
            "BULK_UPLOAD_PART_MB": "16",
            "BULK_UPLOAD_FIRST_DAY": "1990-01-01",
            "BULK_UPLOAD_UI_PASSWORD": "secret 1",
            "BULK_UPLOAD_KEEP_LOGS_DAYS": "7",
            "BULK_UPLOAD_KEEP_FAILED_RUNS_DAYS": "forever",
            "BULK_UPLOAD_KEEP_REPORTS_DAYS": "365",
            "BULK_UPLOAD_KEEP_ARCHIVE_DAYS": "3650",
            "BULK_UPLOAD_ALERT_URLS": "json://hook.example mailto://me@shop.example",
            "BULK_UPLOAD_VIEWER_PASSWORD": "secret 2",
            "BULK_UPLOAD_UI_HOSTS": "ui.example, other.example",
        }
    )
    assert settings.home.inbox == tmp_path / "inbox"
    assert settings.part_bytes == 16 << 20
    assert settings.database_url == "postgresql://h/d"
    assert settings.dagster_database_url == "postgresql://h/e"
    assert (settings.max_error_rate, settings.chunk_rows) == (0.2, 1000)
    assert settings.first_day == date(1990, 1, 1)
    assert (settings.ui_password, settings.viewer_password) == ("secret 1", "secret 2")
    assert settings.ui_hosts == ("ui.example", "other.example")
    assert settings.alert_urls == ("json://hook.example", "mailto://me@shop.example")
    assert "secret" not in repr(settings)
    assert settings.keeping == Keeping(logs=7, failed_runs=None, reports=365, archive=3650)


def test_blanks_around_a_value_are_no_part_of_it_and_alone_they_state_nothing(tmp_path):
    around = {"BULK_UPLOAD_HOME": f" {tmp_path}\n", "BULK_UPLOAD_DATABASE_URL": "postgresql://h/d\n"}
    assert read_settings(around).home.root == tmp_path
    assert read_settings(around).database_url == "postgresql://h/d"
    names = ("HOME", "DATABASE_URL", "CHUNK_ROWS", "FIRST_DAY", "KEEP_LOGS_DAYS", "BROKER_URL")
    assert read_settings({f"BULK_UPLOAD_{name}": " \t" for name in names}) == read_settings({})


def test_a_password_loses_a_line_break_at_its_end_but_no_blanks():
    assert read_settings({"BULK_UPLOAD_UI_PASSWORD": " kaju katli \r\n"}).ui_password == " kaju katli "
    assert read_settings({"BULK_UPLOAD_VIEWER_PASSWORD": ""}).viewer_password is None


@pytest.mark.parametrize("stated", ["\n", "  ", "kaju\nkatli"])
def test_a_password_that_nobody_can_give_is_refused_and_not_shown(stated):
    with pytest.raises(SettingInvalidError, match=r"VIEWER_PASSWORD is '\.\.\.', but must be one line"):
        read_settings({"BULK_UPLOAD_VIEWER_PASSWORD": stated})


@pytest.mark.parametrize(
    ("passwords", "told"),
    [
        ({"VIEWER_PASSWORD": "looking"}, True),
        ({"VIEWER_PASSWORD": "looking", "UI_PASSWORD": "doing"}, False),
        ({"UI_PASSWORD": "doing"}, False),
        ({}, False),
    ],
)
def test_a_password_for_viewers_that_leaves_the_ui_open_is_said_to_do_so(passwords, told):
    warning = unguarded(read_settings({f"BULK_UPLOAD_{name}": value for name, value in passwords.items()}))
    assert bool(warning) is told
    assert not told or ("BULK_UPLOAD_UI_PASSWORD is not. Set it" in warning and "looking" not in warning)


def test_a_bucket_without_the_extra_for_it_is_refused_by_the_name_that_was_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingInvalidError, match="BULK_UPLOAD_HOME is 's3://b/x', but must be a folder as"):
        read_settings({"BULK_UPLOAD_HOME": "s3://b/x"})


def test_what_must_be_set_and_is_not_is_called_so():
    with pytest.raises(SettingInvalidError, match=r"ADMIN_DATABASE_URL is not set, but must be .* Set it\.$"):
        read_provisioning({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BULK_UPLOAD_MAX_ERROR_RATE", "half"),
        ("BULK_UPLOAD_MAX_ERROR_RATE", "0"),
        ("BULK_UPLOAD_MAX_ERROR_RATE", "1.5"),
        ("BULK_UPLOAD_MAX_ERROR_RATE", "nan"),
        ("BULK_UPLOAD_KEEP_LOGS_DAYS", "0"),
        ("BULK_UPLOAD_KEEP_ARCHIVE_DAYS", "a year"),
        ("BULK_UPLOAD_CHUNK_ROWS", "0"),
        ("BULK_UPLOAD_CHUNK_ROWS", "many"),
        ("BULK_UPLOAD_CHUNK_ROWS", "9" * 5_000),
        ("BULK_UPLOAD_CHUNK_ROWS", "-5"),
        ("BULK_UPLOAD_FIRST_DAY", "1989-12-31"),
        ("BULK_UPLOAD_FIRST_DAY", "2999-01-01"),
        ("BULK_UPLOAD_FIRST_DAY", "yesterday"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_may_stand_there(name, value):
    with pytest.raises(SettingInvalidError, match=name):
        read_settings({name: value})
