"""Three weeks of an office in fast motion: drops, faults, corrections, reverts, new rules, and every night."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import alerts, contract, ledger, retention, sales, whereabouts
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.alerting import messages
from bulk_upload_pipeline.alerting.channels import channels_of
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs import alerts as alert_sensors
from bulk_upload_pipeline.defs import retention as nightly
from bulk_upload_pipeline.defs.nightly import nightly_backfill
from bulk_upload_pipeline.defs.sales import daily_sales_refresh
from bulk_upload_pipeline.defs.small_files import config_of
from bulk_upload_pipeline.exceptions import NothingToRevertError, RevertRefusedError
from bulk_upload_pipeline.model import LOADED_STATES, Receipt, State
from bulk_upload_pipeline.settings import Keeping
from bulk_upload_pipeline.workplace import Line
from bulk_upload_pipeline_tests.test_again import newer_rules
from bulk_upload_pipeline_tests.test_alerts import TOLD, Hook, hook
from bulk_upload_pipeline_tests.test_retention import ask, dagster_url, instance
from bulk_upload_pipeline_tests.test_sales import recount, table
from bulk_upload_pipeline_tests.world import QUIET, csv_of, drop, good_row, line_at

__all__ = ["dagster_url", "hook", "instance"]

DAYS = 21
BEGAN = datetime.now(UTC)
MONDAY = (BEGAN + timedelta(days=2)).replace(hour=8, minute=0)
"""The weeks lie ahead: what the database dates by its own clock is moved to them."""
INVOICED_BEFORE = timedelta(days=60)
NEW_RULES_ON = 10
POLICY = Keeping(logs=3, failed_runs=5, reports=7, partitions=15)


class Clock(datetime):
    """What the night's clean-up takes for the present."""

    present = MONDAY

    @classmethod
    def now(cls, tz=None):
        return cls.present.astimezone(tz)


@dataclass
class Office:
    """Who drops files, what goes wrong, and what a clerk does about it; all drawn from one seed."""

    line: Line
    instance: dg.DagsterInstance
    hook: Hook
    draw: random.Random = field(default_factory=lambda: random.Random(6))
    now: datetime = MONDAY
    invoices: int = 0
    contents: list[str] = field(default_factory=list)
    to_correct: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    touched: set[str] = field(default_factory=set)
    to_tell: Counter[tuple[str, str]] = field(default_factory=Counter)
    nights: int = 0

    def drop(self, name: str, content: str) -> str:
        batch_id = drop(self.line, name, content)
        with self.line.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE bulk_upload.upload_batches SET received_at = :now WHERE batch_id = :batch"),
                {"now": self.now, "batch": batch_id},
            )
        return batch_id

    def take(self, batch_id: str) -> Receipt:
        stages.take(self.line, batch_id)
        return self.taken(batch_id)

    def taken(self, batch_id: str) -> Receipt:
        found = ledger.receipt(self.line.engine, batch_id)
        self.touched.add(batch_id)
        self.happened[str(found.state)] += 1
        if found.rows_rejected and found.state is State.PARTIALLY_LOADED:
            self.to_correct.append(batch_id)
        return found

    def run(self, batch_ids: list[str]) -> None:
        """A run of Dagster takes them all."""
        self.instance.add_dynamic_partitions("batches", batch_ids)
        defs.resolve_job_def("load_small_files").execute_in_process(
            instance=self.instance,
            resources={"line": self.line},
            run_config=config_of(batch_ids) | QUIET,
            raise_on_error=False,
        )
        for batch_id in batch_ids:
            self.taken(batch_id)

    def move_time(self) -> None:
        """Move to the present of these weeks what was dated by the clock of the machine."""
        moved = {"by": self.now - BEGAN, "real": MONDAY - timedelta(hours=12)}
        batches = [("upload_batches", column) for column in ("started_at", "validated_at", "finished_at")]
        with self.line.engine.begin() as connection:
            for table, column in (*batches, ("alerts", "created_at")):
                connection.execute(
                    sa.text(
                        f"UPDATE bulk_upload.{table} SET {column} = {column} + :by WHERE {column} < :real"
                    ),
                    moved,
                )
        naive = moved | {"real": moved["real"].replace(tzinfo=None)}
        for name, column in (("event_logs", "timestamp"), ("runs", "update_timestamp")):
            ask(self.line, f"UPDATE {name} SET {column} = {column} + :by WHERE {column} < :real", **naive)
        for folder in Path(self.instance.storage_directory()).glob("*"):
            if folder.stat().st_mtime < moved["real"].timestamp():
                os.utime(folder, (self.now.timestamp(), self.now.timestamp()))

    def row(self) -> dict[str, str]:
        """A line of a new invoice or, changed, of one that was sent before; some are wrong."""
        again = self.invoices and self.draw.random() < 0.3
        number = self.draw.randrange(self.invoices) if again else self.invoices
        self.invoices += not again
        quantity = self.draw.choice([1, 2, 3, 4, -1])
        day = self.now - INVOICED_BEFORE - timedelta(days=self.draw.choice([0, 0, 0, 1, 2, 10_000]))
        fault = self.draw.random()
        return good_row(
            number,
            **{
                "Invoice Date": f"{day:%Y-%m-%d}",
                "Quantity": "twelve" if fault < 0.05 else str(quantity),
                "Item Total": f"{12.5 * quantity + (7 if 0.05 <= fault < 0.1 else 0):.2f}",
            },
        )

    def morning(self) -> None:
        together = []
        for number in range(self.draw.randint(1, 2)):
            content = csv_of([self.row() for _ in range(self.draw.randint(5, 15))])
            if self.contents and self.draw.random() < 0.1:
                content = self.draw.choice(self.contents)
            self.contents.append(content)
            batch_id = self.drop(f"{self.now:%m-%d}-{number}.csv", content)
            if self.draw.random() < 0.2:
                self.power_goes(batch_id)
            else:
                together.append(batch_id)
        if self.draw.random() < 0.2:
            together.append(self.drop(f"{self.now:%m-%d}-wrong.csv", csv_of([good_row(1, Quantity="x")] * 3)))
        if together:
            self.run(together)

    def power_goes(self, batch_id: str) -> None:
        """A run dies before or after the rows of its batch are committed."""
        uploaded = stages.upload(self.line, batch_id)
        if uploaded.receipt is None and not stages.validate(self.line, batch_id).breaker_tripped:
            if self.draw.random() < 0.5:
                stages.load(self.line, batch_id)
            stages.fail(self.line, batch_id, "The power went.")
            lost = self.instance.create_run_for_job(
                defs.resolve_job_def("load_batch"),
                status=dg.DagsterRunStatus.STARTED,
                tags={"dagster/partition": batch_id},
            )
            self.instance.report_run_failed(lost)
            self.touched.add(batch_id)
            self.happened["power went"] += 1

    def afternoon(self) -> None:
        if self.to_correct and self.draw.random() < 0.6:
            self.correct(self.to_correct.pop(0))
        if self.draw.random() < 0.3:
            self.revert()

    def correct(self, batch_id: str) -> None:
        path = self.line.reports(batch_id) / "rejected_rows.csv"
        if not path.exists():
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(csv.DictReader(file))
        for row in found:
            row |= {"Quantity": "4", "Item Total": "50.00"}
        self.happened["corrected"] += self.take(
            self.drop(f"corrected-{batch_id}.csv", csv_of(found, list(found[0])))
        ).rows_read

    def revert(self) -> None:
        latest = [r.batch_id for r in self.receipts() if r.state in LOADED_STATES][:3]
        try:
            stages.revert(self.line, self.draw.choice(latest))
            self.happened["reverted"] += 1
        except (RevertRefusedError, NothingToRevertError, IndexError):
            self.happened["revert refused"] += 1

    def receipts(self) -> list[Receipt]:
        return whereabouts.receipts(self.line.engine, limit=10_000)

    def hour(self) -> None:
        """The hourly schedule, a run when something is stale, and the sensors of the alerts."""
        self.move_time()
        self.now += timedelta(hours=1)
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=self.now, resources={"line": self.line}
        )
        if isinstance(daily_sales_refresh(context), dg.RunRequest):
            sales.refresh(self.line.engine, sales.stale(self.line.engine))
            self.happened["refreshed"] += 1
        self.tell()

    def tell(self) -> None:
        """Note what somebody has to hear of; then let it be told, through a hook that is sometimes down."""
        for batch_id in self.touched:
            found = ledger.receipt(self.line.engine, batch_id)
            if found.state in messages.STATES:
                self.to_tell[found.file_name, messages.STATES[found.state]] += 1
        self.touched.clear()
        channels = channels_of([self.hook.url])
        self.hook.status = self.draw.choice([200, 200, 503])
        for _ in range(2):
            untold = alert_sensors._untold_nights(self.instance, self.line, self.now)
            held = alerts.notice_nights(self.line, channels, self.now, (), untold)
            alerts.notice_receipts(self.line, channels, self.now, (), held)
            self.move_time()
            _, refused = alerts.deliver(
                self.line.engine, channels, lambda: self.now, self.now + timedelta(seconds=1)
            )
            self.happened["channel down"] += bool(refused)

    def night(self) -> None:
        """The nightly schedules: batches again, and what is not kept goes."""
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=self.now, resources={"line": self.line}
        )
        asked = nightly_backfill(context)
        requests = asked if isinstance(asked, list) else []
        for request in requests:
            self.take(request.partition_key)
            self.instance.create_run_for_job(
                defs.resolve_job_def("load_batch"),
                status=dg.DagsterRunStatus.SUCCESS,
                tags={**request.tags, "dagster/partition": request.partition_key},
            )
            self.happened["taken again"] += 1
        self.nights += bool(requests)
        self.move_time()
        Clock.present = self.now
        context = dg.build_op_context(instance=self.instance, resources={"line": self.line})
        nightly.clean_up(context)
        self.happened.update({f"removed {n}": of for n, of in context.get_output_metadata("result").items()})

    def assert_that_nothing_is_kept_for_too_long(self) -> None:
        old = {days: (self.now - timedelta(days=days)).replace(tzinfo=None) for days in (3, 5)}
        noise = ask(
            self.line,
            "SELECT count(*) FROM event_logs WHERE timestamp < :old "
            "AND (dagster_event_type IS NULL OR dagster_event_type = ANY (:noise))",
            old=old[3],
            noise=list(retention.NOISE),
        )
        assert noise == [(0,)]
        failed = ask(
            self.line,
            "SELECT count(*) FROM runs WHERE status = 'FAILURE' AND update_timestamp < :old AND NOT EXISTS "
            "(SELECT FROM event_logs WHERE event_logs.run_id = runs.run_id AND dagster_event_type = ANY (:assets))",
            old=old[5],
            assets=["ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"],
        )
        assert failed == [(0,)]
        assert len(self.instance.get_dynamic_partitions("batches")) <= POLICY.partitions
        assert not list(self.line.home.staging.iterdir())
        logs = Path(self.instance.storage_directory()).glob("*")
        assert not [path for path in logs if path.stat().st_mtime < self.now.timestamp() - 3 * 86_400]
        reports = {path.name for path in self.line.home.reports.iterdir()}
        kept = {r.batch_id for r in self.receipts() if self.now - r.finished_at < timedelta(days=7)}
        assert reports <= kept | {r.batch_id for r in self.receipts() if r.state is State.FAILED}


@pytest.fixture
def line(tmp_path, database_url, dagster_url):
    with line_at(
        tmp_path / "home",
        database_url,
        chunk_rows=7,
        dagster_database_url=dagster_url,
        keeping=POLICY,
    ) as line:
        yield line


@pytest.fixture
def office(line, instance, hook, monkeypatch):
    monkeypatch.setattr(nightly, "datetime", Clock)
    return Office(line, instance, hook)


def test_after_three_weeks_every_figure_is_right_every_alert_was_told_once_and_nothing_was_kept_too_long(
    office, monkeypatch
):
    engine = office.line.engine
    for day in range(DAYS):
        office.now = MONDAY + timedelta(days=day)
        if day == NEW_RULES_ON:
            newer_rules(monkeypatch, office.line)
        office.morning()
        office.hour()
        office.now += timedelta(hours=6)
        office.afternoon()
        office.hour()
        assert table(engine) == recount(engine), f"on the evening of day {day}"
        office.now += timedelta(hours=10)
        office.night()
        office.assert_that_nothing_is_kept_for_too_long()
        office.hour()
        assert table(engine) == recount(engine), f"after night {day}"
        assert sales.agreement(engine).passed
        assert not [r for r in office.receipts() if r.state is State.FAILED], "a night heals what failed"

    for found in office.receipts():
        loaded = found.rows_inserted + found.rows_updated + found.rows_unchanged
        assert found.rows_read == loaded + found.rows_rejected + found.rows_unprocessed
    office.now += timedelta(hours=2)
    office.hook.status = 200
    deliver_the_rest(office)
    assert (
        Counter(found for told in office.hook.told for found in TOLD.findall(told["message"]))
        == office.to_tell
    )
    assert sum(title.startswith("Taken again in the night") for title in office.hook.titles) == office.nights
    wanted = {"loaded", "partially_loaded", "rejected", "duplicate", "power went", "corrected", "reverted"}
    wanted |= {"taken again", "refreshed", "channel down", "removed events", "removed failed_runs"}
    wanted |= {"removed reports", "removed partitions"}
    assert wanted <= {what for what, times in office.happened.items() if times}, (
        "three weeks without a fault prove little"
    )
    judged = {r.rules_version for r in office.receipts() if r.state is State.PARTIALLY_LOADED}
    assert judged <= {contract.RULES_VERSION, None}


def deliver_the_rest(office):
    channels = channels_of([office.hook.url])
    until = office.now + timedelta(minutes=1)
    _, refused = alerts.deliver(office.line.engine, channels, lambda: office.now, until)
    assert (refused, alerts.waiting(office.line.engine, channels)) == ([], (0, 0))
