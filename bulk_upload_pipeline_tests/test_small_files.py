"""The lane of the small files: many of them in one run, each with its own outcome."""

from __future__ import annotations

import errno
import json

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import holding, inspection, intake, report
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import exits, recovery, small_files
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.serving import processes
from bulk_upload_pipeline_tests.benchmarks import flood
from bulk_upload_pipeline_tests.upped import upped, wait_until
from bulk_upload_pipeline_tests.world import QUIET, count, csv_of, drop, good_row, receipt, run

SETTINGS = {"chunk_rows": 7}

ASSETS = ("upload", "validated_invoices", "processing_errors", "mangalam_invoices", "upload_receipts")

GOOD = csv_of(good_row(n) for n in range(20))

SOME_BAD = csv_of([*(good_row(n) for n in range(30, 40)), good_row(90, Quantity="12abc")])

WRONG = csv_of([*(good_row(n, Quantity="x") for n in range(5)), *(good_row(n) for n in range(50, 55))])

UNREADABLE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 40

OTHER = csv_of(good_row(n) for n in range(60, 70))


def take(line, batch_ids, instance):
    instance.add_dynamic_partitions("batches", batch_ids)
    return defs.resolve_job_def("load_small_files").execute_in_process(
        instance=instance,
        resources={"line": line},
        run_config={**small_files.config_of(batch_ids), **QUIET},
        raise_on_error=False,
    )


def drop_six(line):
    """One file for each exit that a file can take by itself."""
    contents = {
        "good.csv": GOOD,
        "some.csv": SOME_BAD,
        "wrong.csv": WRONG,
        "picture.csv": UNREADABLE,
        "again.csv": GOOD,
        "other.csv": OTHER,
    }
    return {name: drop(line, name, content) for name, content in contents.items()}


def states(line, batches):
    return {name: str(receipt(line, batch_id).state) for name, batch_id in batches.items()}


def materializations(instance, asset, batch_id):
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[batch_id]), limit=10
    ).records
    return [record.asset_materialization for record in records]


def told(instance, batch_id):
    """What Dagster shows of a batch: the latest metadata of each asset, and the answer of each check."""
    facts = {}
    for asset in ASSETS:
        for event in materializations(instance, asset, batch_id)[:1]:
            facts[asset] = {name: repr(value.value) for name, value in event.metadata.items()}
    return facts, evaluations(instance, batch_id)


def evaluations(instance, batch_id):
    answers = {}
    for run_of in instance.get_runs():
        events = instance.all_logs(run_of.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        for entry in reversed(events):
            found = entry.dagster_event.event_specific_data
            if found.partition == batch_id:
                metadata = {name: value.value for name, value in found.metadata.items()}
                answers[found.check_name] = (found.passed, str(found.severity), found.description, metadata)
    return answers


def test_every_file_of_a_run_has_its_own_exit_and_none_hinders_its_neighbours(line, instance):
    batches = drop_six(line)
    result = take(line, list(batches.values()), instance)
    assert states(line, batches) == {
        "good.csv": "loaded",
        "some.csv": "partially_loaded",
        "wrong.csv": "rejected",
        "picture.csv": "unreadable",
        "again.csv": "duplicate",
        "other.csv": "loaded",
    }
    assert count(line, "mangalam_invoices") == 40
    assert receipt(line, batches["again.csv"]).duplicate_of == batches["good.csv"]
    for batch_id in batches.values():
        assert (line.reports(batch_id) / report.PAGE).exists()
    assert not result.success
    (failure,) = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.description.startswith("2 of 6 files are not loaded; all others are. The first: wrong.csv")


def test_a_run_whose_files_all_load_succeeds(line, instance):
    batches = [drop(line, "good.csv", GOOD), drop(line, "some.csv", SOME_BAD)]
    assert take(line, batches, instance).success


def test_dagster_hears_of_a_file_what_it_hears_of_one_with_a_run_of_its_own(line, instance):
    batches = drop_six(line)
    take(line, list(batches.values()), instance)
    shared = {name: anonymous(told(instance, batch_id), batches) for name, batch_id in batches.items()}
    with line.engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE bulk_upload.upload_batches, bulk_upload.processing_errors"))
        connection.execute(sa.text("TRUNCATE mangalam_invoices, bulk_upload.load_chunks CASCADE"))
    with dg.DagsterInstance.ephemeral() as other:
        alone = drop_six(line)
        for name, batch_id in alone.items():
            run(line, batch_id, other)
            assert_alike(shared[name], anonymous(told(other, batch_id), alone))


def anonymous(said, batches):
    """The same with the names of files for the ids of their batches, which are others each time."""
    text = json.dumps(said)
    for name, batch_id in batches.items():
        text = text.replace(batch_id, name)
    return json.loads(text)


def assert_alike(shared, alone):
    passing = {"seconds", "receipt", "findings", "rejected_rows"}
    assert shared[1] == alone[1]
    assert list(shared[0]) == list(alone[0])
    for asset, facts in alone[0].items():
        assert {k: v for k, v in shared[0][asset].items() if k not in passing} == {
            k: v for k, v in facts.items() if k not in passing
        }, asset
        assert set(shared[0][asset]) == set(facts)


def test_a_small_file_asks_the_database_little(line):
    stages.take(line, drop(line, "first.csv", csv_of(good_row(n) for n in range(20))))
    asked = []
    sa.event.listen(line.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    account = stages.take(line, drop(line, "second.csv", csv_of(good_row(n) for n in range(20, 40))))
    assert (account.state, account.rows_inserted) == (State.LOADED, 20)
    asking, changing = (
        [statement for statement in asked if statement.startswith(word)] for word in ("SELECT", "UPDATE")
    )
    # A file of a few rows takes as long as these do.
    assert (len(asking), len(changing)) <= (9, 5)


def test_nobody_else_comes_between_the_stages_of_a_small_file(line, monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.holding.BUSY_AFTER_S", 0.1)
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    really, refused = stages.load, []

    def load_while_another_comes(taken, batch_id):
        with pytest.raises(BatchBusyError):
            stages.validate(line, batch_id)
        refused.append(batch_id)
        return really(taken, batch_id)

    monkeypatch.setattr(stages, "load", load_while_another_comes)
    assert stages.take(line, batch_id).state is State.LOADED
    assert refused == [batch_id]


def test_a_duplicate_has_its_receipt_and_nothing_else(line, instance):
    batches = drop_six(line)
    take(line, list(batches.values()), instance)
    facts, checks = told(instance, batches["again.csv"])
    assert (list(facts), checks) == (["upload_receipts"], {})
    assert facts["upload_receipts"]["state"] == repr("duplicate")


def test_a_run_that_starts_again_takes_only_what_is_not_finished(line, instance):
    batches = drop_six(line)
    first = [batches["good.csv"], batches["wrong.csv"]]
    take(line, first, instance)
    before = {batch_id: receipt(line, batch_id).finished_at for batch_id in first}
    take(line, list(batches.values()), instance)
    assert {batch_id: receipt(line, batch_id).finished_at for batch_id in first} == before
    assert [len(materializations(instance, "upload_receipts", batch_id)) for batch_id in first] == [1, 1]
    assert count(line, "mangalam_invoices") == 40


def failure_of(result):
    """What a failed run says."""
    (failure,) = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    return failure.description


def test_a_run_that_starts_again_fails_for_what_an_earlier_attempt_could_not_load(line, instance):
    batches = drop_six(line)
    take(line, [batches["wrong.csv"]], instance)  # a worker that was killed then
    again = take(line, [batches["wrong.csv"], batches["good.csv"]], instance)
    assert failure_of(again).startswith("1 of 2 files is not loaded; all others are. The first: wrong.csv")
    assert count(line, "mangalam_invoices") == 20


def test_a_run_that_was_launched_for_a_batch_that_does_not_exist_says_so(line, instance):
    batches = drop_six(line)
    result = take(line, ["nonsense", batches["good.csv"]], instance)
    assert "There is no batch 'nonsense'" in failure_of(result)
    assert receipt(line, batches["good.csv"]).state is State.LOADED


def test_a_file_that_was_finished_but_not_told_of_is_told_of_by_the_next_attempt(line, instance):
    batch_id = drop(line, "good.csv", GOOD)
    stages.take(line, batch_id)
    finished_at = receipt(line, batch_id).finished_at
    assert take(line, [batch_id], instance).success
    facts, checks = told(instance, batch_id)
    assert set(facts) == set(ASSETS)
    assert {name: answer[0] for name, answer in checks.items()} == dict.fromkeys(
        (inspected.name for inspected in inspection.INSPECTIONS), True
    )
    assert receipt(line, batch_id).finished_at == finished_at


def killed_before_its_report(line, batch_id, monkeypatch):
    """The receipt of a batch is committed, and its worker gone before it has written the report."""

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(report, "write", killed)
        with pytest.raises(SystemExit):
            stages.take(line, batch_id)
    assert not line.reports(batch_id).exists()


def test_the_report_of_a_file_whose_worker_was_killed_behind_its_receipt_is_written_by_the_next_attempt(
    line, instance, monkeypatch
):
    batch_id = drop(line, "some.csv", SOME_BAD)
    killed_before_its_report(line, batch_id, monkeypatch)
    before = receipt(line, batch_id)
    assert take(line, [batch_id], instance).success
    assert receipt(line, batch_id) == before
    assert "12abc" in (line.reports(batch_id) / report.REJECTED_ROWS).read_text("utf-8-sig")
    assert not list(line.home.staging.iterdir())
    assert set(told(instance, batch_id)[0]) == set(ASSETS)


def test_a_report_that_cannot_be_written_fails_the_run_and_not_the_neighbours(line, instance, monkeypatch):
    batch_id, other = drop(line, "some.csv", SOME_BAD), drop(line, "other.csv", OTHER)
    killed_before_its_report(line, batch_id, monkeypatch)
    line.reports(batch_id).write_text("in the way")
    assert not take(line, [batch_id, other], instance).success
    assert states(line, {"some": batch_id, "other": other}) == {"some": "partially_loaded", "other": "loaded"}
    (shared,) = instance.get_runs()
    assert recovery._cut_off(instance, line, shared) == [batch_id]
    line.reports(batch_id).unlink()
    assert run(line, batch_id, instance).success
    assert (line.reports(batch_id) / report.REJECTED_ROWS).exists()


def test_a_defect_with_one_file_leaves_it_failed_and_the_others_loaded(line, instance):
    batches = {"good.csv": drop(line, "good.csv", GOOD), "other.csv": drop(line, "other.csv", OTHER)}
    (line.home.staging / batches["good.csv"]).write_text("in the way")
    result = take(line, list(batches.values()), instance)
    assert not result.success
    assert states(line, batches) == {"good.csv": "failed", "other.csv": "loaded"}
    (line.home.staging / batches["good.csv"]).unlink()
    assert take(line, list(batches.values()), instance).success
    assert states(line, batches) == {"good.csv": "loaded", "other.csv": "loaded"}
    assert (
        materializations(instance, "upload_receipts", batches["good.csv"])[0].metadata["state"].value
        == "loaded"
    )


def test_a_database_fault_is_tried_again_and_the_files_before_it_are_not_repeated(
    line, instance, monkeypatch
):
    monkeypatch.setattr(exits, "SECONDS_BEFORE_FIRST", 0)
    batches = [drop(line, "good.csv", GOOD), drop(line, "other.csv", OTHER)]
    taken = []
    real = stages.take

    def fail_once(line, batch_id, run_id):
        taken.append(batch_id)
        if taken == batches:
            with line.engine.begin() as connection:
                connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return real(line, batch_id, run_id)

    monkeypatch.setattr(stages, "take", fail_once)
    assert take(line, batches, instance).success
    assert taken == [*batches, batches[1]]
    assert [receipt(line, batch_id).state for batch_id in batches] == [State.LOADED] * 2


def test_a_file_that_still_grows_goes_back_to_the_inbox_and_the_others_load(line, instance):
    path = line.home.inbox / "growing.csv"
    path.write_text("half")
    growing = intake.announce(line, path)
    path.write_text(OTHER)
    good = drop(line, "good.csv", GOOD)
    assert take(line, [growing, good], instance).success
    assert receipt(line, growing).state is State.WAITING
    assert path.read_text() == OTHER
    assert receipt(line, good).state is State.LOADED


def test_a_run_fails_when_a_file_could_not_be_ended_and_that_file_gets_a_run_of_its_own(
    line, instance, monkeypatch
):
    monkeypatch.setattr(exits, "SECONDS_BEFORE_FIRST", 0)
    monkeypatch.setattr(holding, "BUSY_AFTER_S", 0.1)
    held, other = drop(line, "good.csv", GOOD), drop(line, "other.csv", OTHER)
    stages.upload(line, held)
    with holding.holding(line.engine, held):  # by a worker that was taken for dead
        result = take(line, [held, other], instance)
    assert not result.success
    assert states(line, {"held": held, "other": other}) == {"held": "received", "other": "loaded"}
    (failure,) = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.description.startswith(
        f"1 of 2 files is not loaded; all others are. The first: batch {held}"
    )
    (shared,) = instance.get_runs()
    assert recovery._cut_off(instance, line, shared) == [held]


def test_a_full_disk_that_takes_no_report_fails_the_run_and_not_the_neighbours(line, instance, monkeypatch):
    batches = {"good.csv": drop(line, "good.csv", GOOD), "other.csv": drop(line, "other.csv", OTHER)}
    really = report.write

    def full(folder, account, codes):
        if account.file_name == "good.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        really(folder, account, codes)

    monkeypatch.setattr(report, "write", full)
    assert not take(line, list(batches.values()), instance).success
    assert states(line, batches) == {"good.csv": "loaded", "other.csv": "loaded"}
    (shared,) = instance.get_runs()
    assert recovery._cut_off(instance, line, shared) == [batches["good.csv"]]
    monkeypatch.undo()
    assert run(line, batches["good.csv"], instance).success
    assert (line.home.reports / batches["good.csv"] / "summary.html").exists()


def test_a_file_at_which_a_run_is_stopped_between_its_receipt_and_its_report_gets_a_run_that_writes_it(
    line, instance, monkeypatch
):
    batch_id = drop(line, "good.csv", GOOD)

    def stopped(*_):
        raise dg.DagsterExecutionInterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(report, "write", stopped)
        assert not take(line, [batch_id], instance).success
    assert receipt(line, batch_id).state is State.LOADED
    (shared,) = instance.get_runs()
    assert recovery._cut_off(instance, line, shared) == [batch_id]
    assert run(line, batch_id, instance).success
    assert (line.reports(batch_id) / "summary.html").exists()
    assert not list(line.home.staging.iterdir())


def test_a_file_at_which_a_run_is_stopped_before_it_is_taken_is_no_second_batch_and_a_retry_loads_it(
    line, instance, monkeypatch
):
    batch_id = drop(line, "good.csv", GOOD)
    seen = intake.survey(line, {}, lambda _: True).seen

    def stopped(*_):
        raise dg.DagsterExecutionInterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(stages, "take", stopped)
        assert not take(line, [batch_id], instance).success
    assert receipt(line, batch_id).state is State.FAILED
    assert intake.survey(line, seen, lambda _: False).requests == ()
    assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.LOADED


# The real thing


@pytest.mark.soak
def test_a_worker_that_is_killed_among_its_files_is_followed_by_one_that_goes_on(tmp_path):
    """Killed with -9 twice, at whatever it does then: every file ends loaded, once, and Dagster knows of each."""
    files = 60
    with upped(tmp_path / "home") as up:
        for number in range(files):
            rows_of_file = (good_row(1_000 * number + n) for n in range(100))
            (tmp_path / f"{number:03}.csv").write_text(csv_of(rows_of_file))
        dropped = flood.drop(up, sorted(tmp_path.glob("*.csv")))
        for done in (5, 30):
            wait_until(lambda done=done: len(up.states()) >= done)
            workers = processes.runs_of(up.home.root)
            for worker in workers:
                worker.kill()
            assert workers
        dropped.last_receipt()
        assert set(up.states().values()) == {"loaded"}
        assert up.rows("SELECT count(*) FROM mangalam_invoices") == [(files * 100,)]
        dropped.refuse_what_is_missing()
