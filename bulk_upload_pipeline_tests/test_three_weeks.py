"""Three weeks of an office in fast motion: drops, faults, corrections, reverts, new rules, and every night."""

from __future__ import annotations

import csv
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import contract, ledger, sales
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs.nightly import nightly_backfill
from bulk_upload_pipeline.defs.sales import daily_sales_refresh
from bulk_upload_pipeline.exceptions import NothingToRevertError, RevertRefusedError
from bulk_upload_pipeline.line import Line
from bulk_upload_pipeline.model import LOADED_STATES, Receipt, State
from bulk_upload_pipeline_tests.test_again import newer_rules
from bulk_upload_pipeline_tests.test_sales import recount, table
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, line_at

DAYS = 21
MONDAY = datetime(2026, 3, 2, 8, tzinfo=UTC)
NEW_RULES_ON = 10


@dataclass
class Office:
    """Who drops files, what goes wrong, and what a clerk does about it; all drawn from one seed."""

    line: Line
    instance: dg.DagsterInstance
    draw: random.Random = field(default_factory=lambda: random.Random(6))
    now: datetime = MONDAY
    invoices: int = 0
    contents: list[str] = field(default_factory=list)
    to_correct: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    def drop(self, name: str, content: str) -> str:
        batch_id = drop(self.line, name, content)
        with self.line.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE bulk_upload.upload_batches SET received_at = :now WHERE batch_id = :batch"),
                {"now": self.now, "batch": batch_id},
            )
        return batch_id

    def take(self, batch_id: str) -> Receipt:
        found = stages.take(self.line, batch_id)
        self.happened[str(found.state)] += 1
        if found.rows_rejected and found.state is State.PARTIALLY_LOADED:
            self.to_correct.append(batch_id)
        return found

    def row(self) -> dict[str, str]:
        """A line of a new invoice or, changed, of one that was sent before; some are wrong."""
        again = self.invoices and self.draw.random() < 0.3
        number = self.draw.randrange(self.invoices) if again else self.invoices
        self.invoices += not again
        quantity = self.draw.choice([1, 2, 3, 4, -1])
        day = self.now - timedelta(days=self.draw.choice([0, 0, 0, 1, 2, 10_000]))
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
        for number in range(self.draw.randint(1, 2)):
            content = csv_of([self.row() for _ in range(self.draw.randint(5, 15))])
            if self.contents and self.draw.random() < 0.1:
                content = self.draw.choice(self.contents)
            self.contents.append(content)
            batch_id = self.drop(f"{self.now:%m-%d}-{number}.csv", content)
            if self.draw.random() < 0.2:
                self.power_goes(batch_id)
            else:
                self.take(batch_id)
        if self.draw.random() < 0.2:
            self.take(self.drop(f"{self.now:%m-%d}-wrong.csv", csv_of([good_row(1, Quantity="x")] * 3)))

    def power_goes(self, batch_id: str) -> None:
        """A run dies before or after the rows of its batch are committed."""
        uploaded = stages.upload(self.line, batch_id)
        if uploaded.receipt is None and not stages.validate(self.line, batch_id).breaker_tripped:
            if self.draw.random() < 0.5:
                stages.load(self.line, batch_id)
            stages.fail(self.line, batch_id, "The power went.")
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
        return ledger.receipts(self.line.engine, limit=10_000)

    def hour(self) -> None:
        """The hourly schedule: a run when something is stale."""
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=self.now, resources={"line": self.line}
        )
        if isinstance(daily_sales_refresh(context), dg.RunRequest):
            sales.refresh(self.line.engine, sales.stale(self.line.engine))
            self.happened["refreshed"] += 1

    def night(self) -> None:
        """The nightly schedule, whose runs take what it asks for."""
        context = dg.build_schedule_context(
            instance=self.instance, scheduled_execution_time=self.now, resources={"line": self.line}
        )
        asked = nightly_backfill(context)
        for request in asked if isinstance(asked, list) else []:
            self.take(request.partition_key)
            self.happened["taken again"] += 1


@pytest.fixture
def office(tmp_path, database_url):
    (tmp_path / "dagster").mkdir()
    with (
        line_at(tmp_path / "home", database_url, chunk_rows=7) as line,
        dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance,
    ):
        yield Office(line, instance)


def test_after_three_weeks_every_figure_of_every_day_equals_a_recount(office, monkeypatch):
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
        office.now += timedelta(hours=12)
        office.night()
        office.hour()
        assert table(engine) == recount(engine), f"after night {day}"
        assert sales.agreement(engine).passed
        assert not [r for r in office.receipts() if r.state is State.FAILED], "a night heals what failed"

    for found in office.receipts():
        loaded = found.rows_inserted + found.rows_updated + found.rows_unchanged
        assert found.rows_read == loaded + found.rows_rejected + found.rows_unprocessed
    wanted = {"loaded", "partially_loaded", "rejected", "duplicate", "power went", "corrected", "reverted"}
    assert wanted | {"taken again", "refreshed"} <= set(office.happened), (
        "three weeks without a fault prove little"
    )
    judged = {r.rules_version for r in office.receipts() if r.state is State.PARTIALLY_LOADED}
    assert judged <= {contract.RULES_VERSION, None}
