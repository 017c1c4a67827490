"""A month's export with faults, through the whole line: every faulty row rejected for its fault, all else loaded."""

from __future__ import annotations

import csv

import dagster as dg

from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.world import count, drop, receipt, rows, run

ROWS = 14_518


def load(line, dirty):
    """Load a sample and return its batch, what it was told to hold, and Dagster's result."""
    path = line.home.root / "sample.csv"
    manifest = write_sample(path, rows=ROWS, profile="zoho", dirty=dirty, seed=11)
    batch_id = drop(line, "december.csv", path.read_bytes())
    with dg.DagsterInstance.ephemeral() as instance:
        return batch_id, manifest, run(line, batch_id, instance)


def test_with_three_percent_of_faults_each_is_found_with_its_code_and_row_and_all_other_rows_load(line):
    batch_id, manifest, result = load(line, 0.03)
    account = receipt(line, batch_id)
    assert result.success
    assert account.state is State.PARTIALLY_LOADED
    assert (account.rows_read, account.rows_rejected) == (ROWS, 436)
    found = rows(
        line, "SELECT row_number, error_code FROM bulk_upload.processing_errors WHERE severity = 'error'"
    )
    assert dict(found) == {number: code for number, (code, _) in manifest.faults.items()}
    assert len(found) == len(manifest.faults)
    loaded = {number for (number,) in rows(line, "SELECT row_number FROM mangalam_invoices")}
    assert loaded == set(range(1, ROWS + 1)) - manifest.faults.keys()
    with (line.reports(batch_id) / "rejected_rows.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [int(row["_row_number"]) for row in csv.DictReader(file)] == sorted(manifest.faults)


def test_with_sixty_percent_of_faults_nothing_loads_and_the_clerk_is_told_why(line):
    batch_id, manifest, result = load(line, 0.6)
    account = receipt(line, batch_id)
    assert not result.success
    assert (account.state, account.rows_rejected) == (State.REJECTED, len(manifest.faults))
    assert account.rows_unprocessed == ROWS - len(manifest.faults)
    assert count(line, "mangalam_invoices") == 0
    failed = {event.step_key for event in result.all_node_events if event.is_step_failure}
    assert failed == {"checks_of_validated_invoices"}
    told = (line.reports(batch_id) / "summary.html").read_text()
    assert f"{len(manifest.faults):,} of {ROWS:,} rows (60%) have errors" in told
    assert "Is it the right file?" in told
