"""Batches that go down the line again: which ones, how the night does it, and what becomes of them."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import again, alerts, contract
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.alerting.channels import Channel
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import alerts as alert_sensors
from bulk_upload_pipeline.defs.nightly import nightly_backfill
from bulk_upload_pipeline.defs.session import Session
from bulk_upload_pipeline.exceptions import FileThrownAwayError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline_tests.world import (
    QUIET,
    count,
    csv_of,
    drop,
    good_row,
    receipt,
    run,
    through,
)

OF_TODAY = contract.RULES_VERSION
NIGHT = datetime(2026, 11, 25, 2, tzinfo=UTC)
LENIENT = 'total_mismatch = "warning"\n'


@pytest.fixture
def instance(tmp_path):
    """One with a place of its own: the context of a schedule finds no other."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def rows(first, bad=0):
    return [good_row(first + n, **({"Item Total": "51.00"} if n < bad else {})) for n in range(5)]


def failing(line, name, rows):
    """A batch whose run died after its verdict."""
    batch_id = drop(line, name, csv_of(rows))
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    stages.fail(line, batch_id, "The power went.")
    return batch_id


def rejected(line, name):
    """A batch that the breaker stopped."""
    return stages.take(line, drop(line, name, csv_of(rows(0, bad=5)))).batch_id


def execute(line, statement, **named):
    with line.engine.begin() as connection:
        connection.execute(sa.text(statement), named)


def received(line, batch_id, days_ago):
    execute(
        line,
        "UPDATE bulk_upload.upload_batches SET received_at = :at WHERE batch_id = :batch",
        at=datetime.now(UTC) - timedelta(days=days_ago),
        batch=batch_id,
    )


def newer_rules(monkeypatch, line):
    """Rules by which a total that does not agree is no fault any more."""
    from importlib.resources import files

    monkeypatch.setattr(contract, "RULES_VERSION", contract.RULES_VERSION + 1)
    shipped = (files("bulk_upload_pipeline") / "profiles" / "zoho.toml").read_text("utf-8")
    (line.home.profiles / "zoho.toml").write_text(LENIENT + shipped)


def due(line):
    plan = again.due(line)
    return [each.batch_id for each in plan.taken], [each.batch_id for each in plan.gone]


# Which batches


def test_a_batch_that_failed_is_due_for_two_weeks(line):
    old, older = failing(line, "1.csv", rows(0)), failing(line, "2.csv", rows(10))
    through(line, "3.csv", rows(20))
    received(line, old, 13)
    received(line, older, 15)
    assert due(line) == ([old], [])


def test_a_batch_with_unresolved_errors_is_due_when_the_rules_are_newer(line, monkeypatch):
    batch_id = through(line, "bad.csv", rows(0, bad=2))
    through(line, "clean.csv", rows(10))
    through(line, "warned.csv", [good_row(30, Quantity="-4", **{"Item Total": "-50.00"}), *rows(31)])
    assert due(line) == ([], [])
    newer_rules(monkeypatch, line)
    assert due(line) == ([batch_id], [])
    assert again.due(line).taken[0].why == f"judged by rules {OF_TODAY}, and today's are {OF_TODAY + 1}"
    execute(line, "UPDATE bulk_upload.processing_errors SET is_resolved = true")
    assert due(line) == ([], [])


def test_what_was_tried_longest_ago_comes_first_and_a_night_has_its_bounds(line, monkeypatch):
    batches = [failing(line, f"{n}.csv", rows(10 * n)) for n in range(3)]
    gone = failing(line, "gone.csv", rows(40))
    remove_file(line, gone)
    execute(
        line, "UPDATE bulk_upload.upload_batches SET finished_at = '2026-01-01' WHERE batch_id = :b", b=gone
    )
    stages.fail(line, batches[0], "The power went again.")
    monkeypatch.setattr(again, "MOST_A_NIGHT", 2)
    assert due(line) == ([batches[1], batches[2]], [gone])
    plan = again.due(line)
    assert plan.left == 1
    assert plan.not_taken == (
        "Left for the next night: 1, since a night takes at most 2. Not taken, since the file is not in the archive "
        f"any more: 1 ({gone})."
    )


def remove_file(line, batch_id):
    next((line.home.archive / batch_id).iterdir()).unlink()


def test_a_batch_whose_file_is_gone_is_named_instead_of_failing_every_night(line):
    batch_id = failing(line, "1.csv", rows(0))
    remove_file(line, batch_id)
    assert due(line) == ([], [batch_id])
    assert again.due(line).in_words == (
        "0 batches are taken again. Not taken, since the file is not in the archive any more: "
        f"1 ({batch_id})."
    )


def test_batches_since_a_day_are_all_that_ended_but_for_duplicates(line):
    content = rows(0)
    old, new = through(line, "1.csv", content), failing(line, "2.csv", rows(10))
    duplicate = drop(line, "3.csv", csv_of(content))
    stages.upload(line, duplicate)
    assert receipt(line, duplicate).state is State.DUPLICATE
    received(line, old, 3)
    today = datetime.now(UTC).date()
    assert [each.batch_id for each in again.since(line, today).taken] == [new]
    assert [each.batch_id for each in again.since(line, today - timedelta(days=3)).taken] == [old, new]
    assert [each.batch_id for each in again.since(line, date(2020, 1, 1), "zoho").taken] == [old, new]
    assert again.since(line, date(2020, 1, 1), "distributor").taken == ()
    remove_file(line, old)
    plan = again.since(line, date(2020, 1, 1))
    assert [[each.batch_id for each in some] for some in (plan.taken, plan.gone)] == [[new], [old]]


@pytest.mark.parametrize("exit", [State.LOADED, State.REVERTED, State.REJECTED])
def test_a_batch_that_has_ended_stays_as_it_is_when_its_file_is_gone(line, instance, exit):
    batch_id = through(line, "1.csv", rows(0)) if exit is not State.REJECTED else rejected(line, "1.csv")
    if exit is State.REVERTED:
        stages.revert(line, batch_id)
    before, held = receipt(line, batch_id), prices(line)
    remove_file(line, batch_id)
    (line.home.inbox / "1.csv").write_text(csv_of(rows(20)))
    with dg.DagsterInstance.ephemeral() as quick:
        with pytest.raises(FileThrownAwayError, match="Drop the file again"):
            Session(quick, line).retry(batch_id, lambda _: None)
        assert not run(line, batch_id, quick).success
    assert before.state is exit
    assert (receipt(line, batch_id), prices(line)) == (before, held)
    assert (line.home.inbox / "1.csv").exists()


def test_a_failed_batch_whose_file_is_gone_takes_no_other_file_of_that_name_for_it(line):
    failed = failing(line, "1.csv", rows(0))
    before = receipt(line, failed)
    remove_file(line, failed)
    waits = drop(line, "1.csv", csv_of(rows(20)))
    with dg.DagsterInstance.ephemeral() as quick:
        with pytest.raises(FileThrownAwayError, match="Drop the file again"):
            Session(quick, line).retry(failed, lambda _: None)
        assert not run(line, failed, quick).success
    assert "is not in the archive any more" in receipt(line, failed).reason
    assert receipt(line, failed).sha256 == before.sha256
    assert stages.take(line, waits).state is State.LOADED
    assert set(prices(line)) == {f"INV-{n:06}" for n in range(20, 25)}


# What being taken again does to later batches


def prices(line):
    with line.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT invoice_number, item_price FROM mangalam_invoices"))
        return {number: float(price) for number, price in found}


def priced(price, *numbers):
    return [good_row(n, **{"Item Price": str(price), "Item Total": str(4 * price)}) for n in numbers]


def test_a_batch_that_is_taken_again_leaves_alone_what_a_later_one_has_changed(line):
    first = failing(line, "1.csv", priced(10, 1, 2, 3))
    received(line, first, 1)
    second = through(line, "2.csv", priced(20, 2))
    account = stages.take(line, first)
    assert prices(line) == {"INV-000001": 10, "INV-000002": 20, "INV-000003": 10}
    assert (account.state, account.rows_inserted, account.rows_unchanged) == (State.LOADED, 2, 1)

    third = through(line, "3.csv", priced(30, 1))
    execute(line, "UPDATE bulk_upload.upload_batches SET rules_version = 0, verdict = NULL")
    stages.take(line, second)
    stages.take(line, first)
    assert prices(line) == {"INV-000001": 30, "INV-000002": 20, "INV-000003": 10}
    stages.revert(line, third)
    assert prices(line)["INV-000001"] == 10


def test_rows_of_no_batch_are_changed_by_every_batch(line):
    execute(
        line,
        "INSERT INTO mangalam_invoices (invoice_number, sku, item_price) VALUES ('INV-000001', 'KK-001', 1)",
    )
    through(line, "1.csv", priced(10, 1))
    assert prices(line) == {"INV-000001": 10}


# The night


def tick(line, instance, at=NIGHT):
    return nightly_backfill(
        dg.build_schedule_context(instance=instance, scheduled_execution_time=at, resources={"line": line})
    )


def test_a_run_that_a_person_launched_with_tags_that_are_no_night_does_not_end_the_nights(line, instance):
    for tags in ({"night": "2026-11-24 or so"}, {"night": "2026-11-24", "night_asked": "all"}):
        instance.create_run_for_job(defs.resolve_job_def("load_batch"), tags=tags)
    batch_id = failing(line, "a.csv", rows(0))
    (request,) = tick(line, instance)
    assert request.partition_key == batch_id


def test_a_night_takes_what_is_due_and_every_batch_ends_well(line, instance, monkeypatch):
    failed, rejected = failing(line, "1.csv", rows(0)), through(line, "2.csv", rows(10, bad=2))
    through(line, "3.csv", rows(20))
    newer_rules(monkeypatch, line)
    requests = tick(line, instance)
    assert [(r.partition_key, r.run_key) for r in requests] == [
        (failed, f"{failed}@2026-11-25"),
        (rejected, f"{rejected}@2026-11-25"),
    ]
    assert instance.has_dynamic_partition("batches", failed)
    with dg.DagsterInstance.ephemeral() as quick:
        for request in requests:
            assert run(line, request.partition_key, quick).success
    assert [receipt(line, batch_id).state for batch_id in (failed, rejected)] == [State.LOADED, State.LOADED]
    assert count(line, "mangalam_invoices") == 15
    assert tick(line, instance).skip_message == "No batch has failed, and none waits for newer rules."


def test_a_night_begins_at_two():
    assert nightly_backfill.cron_schedule == "0 2 * * *"
    assert again.MOST_A_NIGHT == 100


def test_the_next_tick_tells_what_became_of_a_night_and_what_it_left(line, instance, monkeypatch):
    monkeypatch.setattr(again, "MOST_A_NIGHT", 2)
    closed, broken, left = (failing(line, f"{n}.csv", rows(10 * n)) for n in range(3))
    gone = failing(line, "gone.csv", rows(40))
    remove_file(line, gone)
    of_closed, of_broken = tick(line, instance)
    assert [of_closed.partition_key, of_broken.partition_key] == [closed, broken]
    assert stages_run(line, instance, closed, of_closed).success
    with monkeypatch.context() as patch:
        patch.setattr(stages, "load", lambda *_: 1 / 0)
        assert not stages_run(line, instance, broken, of_broken).success
    monkeypatch.setattr(again, "MOST_A_NIGHT", 0)
    told = tick(line, instance, NIGHT + timedelta(days=1)).skip_message
    assert told.startswith(
        f"Of the 2 batches that the night of 2026-11-25 took again: 1 closed, 1 still failed ({broken}). "
        "Left for the next night: 1, since a night takes at most 2. Not taken, since the file is not in the archive "
        f"any more: 1 ({gone})."
    )
    assert receipt(line, left).state is State.FAILED


def stages_run(line, instance, batch_id, request):
    """Run a request as the daemon does, with its tags."""
    return defs.resolve_job_def("load_batch").execute_in_process(
        instance=instance,
        partition_key=batch_id,
        tags=request.tags,
        resources={"line": line},
        run_config=QUIET,
        raise_on_error=False,
    )


def test_a_batch_that_is_under_way_already_is_left_alone(line, instance):
    batch_id = failing(line, "1.csv", rows(0))
    instance.add_dynamic_partitions("batches", [batch_id])
    instance.create_run_for_job(
        defs.resolve_job_def("load_batch"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": batch_id},
    )
    assert tick(line, instance).skip_message == "No batch has failed, and none waits for newer rules."


def test_what_the_database_refused_is_tried_anew_however_a_batch_is_taken_again(line):
    execute(line, "ALTER TABLE mangalam_invoices ADD CONSTRAINT picky CHECK (invoice_number <> 'INV-000001')")
    batch_id = through(line, "1.csv", rows(0))
    assert receipt(line, batch_id).rows_rejected == 1
    execute(line, "ALTER TABLE mangalam_invoices DROP CONSTRAINT picky")
    with dg.DagsterInstance.ephemeral() as quick:
        assert run(line, batch_id, quick).success
    assert (receipt(line, batch_id).state, count(line, "mangalam_invoices")) == (State.LOADED, 5)


# The night's alert


@pytest.fixture
def channel():
    return Channel("kept", "a channel that keeps what it is sent", None)


def told(line):
    """The messages in the outbox: title and body."""
    with line.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT title, body FROM bulk_upload.alerts ORDER BY id"))
        return [tuple(row) for row in found]


def next_night(now):
    return now.replace(hour=2, minute=0) + timedelta(days=1)


def notice(line, channel, instance, now, under_way=()):
    """What the sensor of the alerts does at a time."""
    untold = alert_sensors._untold_nights(instance, line, now)
    held = alerts.notice_nights(line, [channel], now, under_way, untold)
    return alerts.notice_receipts(line, [channel], now, under_way, held)


def test_a_night_is_told_in_one_message_when_it_is_over_and_its_files_are_not_told_of_again(
    line, instance, channel, monkeypatch
):
    closed, broken, faulty = (failing(line, f"{n}.csv", rows(10 * n, bad=n == 2)) for n in range(3))
    now = datetime.now(UTC)
    assert notice(line, channel, instance, now + timedelta(minutes=2)) == 3
    night = next_night(now)
    requests = {request.partition_key: request for request in tick(line, instance, night)}
    stages_run(line, instance, closed, requests[closed])
    late = timedelta(minutes=11)
    assert notice(line, channel, instance, now + late) == 0, "two of its runs are not there yet"
    stages_run(line, instance, faulty, requests[faulty])
    with monkeypatch.context() as patch:
        patch.setattr(stages, "load", lambda *_: 1 / 0)
        stages_run(line, instance, broken, requests[broken])
    assert notice(line, channel, instance, datetime.now(UTC)) == 0, "a batch that failed may be started again"
    assert notice(line, channel, instance, now + late, {broken}) == 0
    assert len(told(line)) == 1
    for _ in range(2):
        assert notice(line, channel, instance, now + late) == 0
    _, (title, body) = told(line)
    day = f"{night:%Y-%m-%d}"
    assert title == f"Taken again in the night of {day}: 1 failed, 1 loaded in part"
    assert body.startswith(
        f"Of the 3 batches that the night of {day} took again: 1 closed, 1 still failed, 1 still with errors "
        f"({broken}, {faulty}).\n\n1.csv: failed"
    )
    assert "Total" in body
    assert "2.csv: loaded in part" in body
    assert "0.csv" not in body


def test_a_night_that_does_not_end_is_told_before_the_next_one_and_what_ends_later_is_told_as_a_file(
    line, instance, channel
):
    ended, stuck = failing(line, "1.csv", rows(0)), failing(line, "2.csv", rows(10))
    now = datetime.now(UTC)
    notice(line, channel, instance, now + timedelta(minutes=2))
    night = next_night(now)
    requests = {request.partition_key: request for request in tick(line, instance, night)}
    stages_run(line, instance, ended, requests[ended])
    assert notice(line, channel, instance, night.replace(hour=21), {stuck}) == 0
    assert len(told(line)) == 1
    assert notice(line, channel, instance, night.replace(hour=22), {stuck}) == 0
    title, body = told(line)[-1]
    assert title.startswith("Taken again in the night of ")
    assert body.startswith("Of the 2 batches that the night of ")
    stages.fail(line, stuck, "It was too much.")
    assert notice(line, channel, instance, night + timedelta(days=1)) == 1
    assert told(line)[-1][0] == "2.csv: failed"
