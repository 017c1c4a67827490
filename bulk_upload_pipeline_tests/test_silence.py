"""What goes stale when nothing happens: senders that send nothing, and days that nobody counts."""

import json
import re
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import silence
from bulk_upload_pipeline.defs.freshness import files_arrive, freshness_sensor
from bulk_upload_pipeline.model import Overrides
from bulk_upload_pipeline.profiles import Profile
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, run


def came(line, name, profile, hours_ago):
    """Make a file known that came from a sender some hours ago."""
    batch_id = drop(line, name, csv_of([good_row(1)]), Overrides(profile=profile))
    with line.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bulk_upload.upload_batches SET profile = :profile, received_at = :at "
                "WHERE batch_id = :batch"
            ),
            {"profile": profile, "at": datetime.now(UTC) - timedelta(hours=hours_ago), "batch": batch_id},
        )


def expecting(**hours):
    return [Profile(name=name, expected_every_hours=every) for name, every in hours.items()]


def test_a_sender_is_silent_when_its_last_file_is_older_than_its_profile_expects(line):
    came(line, "1.csv", "north", hours_ago=50)
    came(line, "2.csv", "north", hours_ago=25)
    came(line, "3.csv", "south", hours_ago=23)
    came(line, "4.csv", "west", hours_ago=500)
    profiles = [*expecting(north=24, south=24), Profile(name="west")]
    (north,) = silence.silent(line.engine, profiles)
    assert (north.profile, north.ever) == ("north", True)
    assert north.in_words.startswith("A file of north is expected every 24 hours, and its last came 20")
    later = datetime.now(UTC) + timedelta(hours=2)
    assert [sender.profile for sender in silence.silent(line.engine, profiles, later)] == ["north", "south"]


def test_a_sender_that_never_sent_anything_is_waited_for_since_the_first_file_of_all(line):
    profiles = expecting(north=24)
    assert silence.silent(line.engine, profiles) == []
    came(line, "1.csv", "south", hours_ago=23)
    assert silence.silent(line.engine, profiles) == []
    came(line, "2.csv", "south", hours_ago=25)
    (north,) = silence.silent(line.engine, profiles)
    assert north.in_words == "A file of north is expected every 24 hours, and none ever came."


def test_the_last_files_of_senders_are_found_without_reading_all_that_came(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.upload_batches (batch_id, file_name, file_size, source_path, state, profile, "
            "received_at) SELECT 'b' || i, 'f', 1, '/f' || i, 'waiting', 'north', now() - i * interval '1 minute' "
            "FROM generate_series(1, 20000) AS i"
        )
    with line.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE bulk_upload.upload_batches")
        explain = sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {silence._LATEST.text}")
        plan = json.dumps(connection.execute(explain, {"names": ["north", "south"]}).scalar())
    assert max(float(number) for number in re.findall(r'"Actual Rows": ([0-9.]+)', plan)) < 10, plan


def test_a_time_is_told_in_utc_wherever_the_server_stands(line):
    came(line, "1.csv", "north", hours_ago=48)
    name = line.engine.url.database
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET timezone = 'Asia/Kolkata'")
    line.engine.dispose()
    (north,) = silence.silent(line.engine, expecting(north=24))
    assert f"{datetime.now(UTC) - timedelta(hours=48):%Y-%m-%d %H:}" in north.in_words


def test_a_file_that_waits_in_a_senders_folder_has_come(line):
    came(line, "1.csv", "north", hours_ago=48)
    (line.home.inbox / "north").mkdir()
    drop(line, "north/2.csv", csv_of([good_row(2)]))
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE bulk_upload.upload_batches SET folder = 'north' WHERE file_name = '2.csv'"
        )
    assert silence.silent(line.engine, expecting(north=24)) == []


# How Dagster shows it


def expect_zoho_every(line, hours):
    from importlib.resources import files

    shipped = (files("bulk_upload_pipeline") / "profiles" / "zoho.toml").read_text("utf-8")
    (line.home.profiles / "zoho.toml").write_text(f"expected_every_hours = {hours}\n{shipped}")


def tick(line, instance, cursor=None):
    return freshness_sensor(
        dg.build_sensor_context(instance=instance, cursor=cursor, resources={"line": line})
    )


def lights(result):
    return {f"{e.asset_key.to_user_string()}.{e.check_name}": e.passed for e in result.asset_events}


@pytest.mark.parametrize("cursor", ["garbage", "[]", '{"lights": {}}', '{"lights": {}, "told": "today"}'])
def test_what_is_no_cursor_counts_as_no_light_lit(line, instance, cursor):
    assert len(lights(tick(line, instance, cursor))) == 2


def test_the_sensor_lights_what_has_changed_and_is_quiet_otherwise(line, instance):
    expect_zoho_every(line, 24)
    came(line, "1.csv", "zoho", hours_ago=1)
    first = tick(line, instance)
    assert lights(first) == {"daily_sales.refreshed": True, "upload.files_arrive": True}
    again = tick(line, instance, first.cursor)
    assert first.skip_reason.skip_message == again.skip_message
    assert again.skip_message == "Every day is up to date. The files of 1 sender came in time."

    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE bulk_upload.upload_batches SET received_at = received_at - interval '1 day'"
        )
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.stale_dates (invoice_date, touched_at) "
            "VALUES ('2024-01-01', now() - interval '3 hours')"
        )
    changed = tick(line, instance, first.cursor)
    assert lights(changed) == {"daily_sales.refreshed": False, "upload.files_arrive": False}
    (arrive,) = (event for event in changed.asset_events if event.check_name == "files_arrive")
    assert arrive.metadata["senders_silent"].value == ["zoho"]


@pytest.mark.parametrize("ago", [3601, -19_800], ids=["an hour ago", "before the clock was set back"])
def test_a_light_that_stays_as_it_is_is_lit_again_every_hour(line, instance, ago):
    first = tick(line, instance)
    told = json.loads(first.cursor)
    cursor = json.dumps(told | {"told": told["told"] - ago})
    assert lights(tick(line, instance, cursor)) == lights(first)


def test_a_person_can_look_at_once_and_a_batch_does_not(line, instance):
    expect_zoho_every(line, 24)
    came(line, "1.csv", "zoho", hours_ago=30)
    found = files_arrive(line)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    batch_id = drop(line, "2.csv", csv_of([good_row(2)]))
    looked = {e.check_name for e in run(line, batch_id, instance).get_asset_check_evaluations()}
    assert "error_rate" in looked
    assert "files_arrive" not in looked
