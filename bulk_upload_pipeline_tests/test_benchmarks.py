"""The benchmarks themselves, on a handful of rows, so that they do not rot between two measurements."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bulk_upload_pipeline_tests.benchmarks import __main__ as benchmarks
from bulk_upload_pipeline_tests.benchmarks import ceiling, peers
from bulk_upload_pipeline_tests.benchmarks.measures import SMOKE
from bulk_upload_pipeline_tests.benchmarks.outcome import Outcome


@pytest.mark.scale
def test_a_load_is_measured_beside_what_postgresql_does_by_hand():
    (outcome,) = benchmarks.run(SMOKE, ("S3",))
    assert len(outcome.details["ours"]) == len(outcome.details["reference"]) == SMOKE.repeat
    assert outcome.ratio == outcome.ours / outcome.reference > 0
    assert outcome.details["peak_mb"] > 50


@pytest.mark.scale
def test_files_that_are_dropped_at_once_share_runs_and_each_has_its_own_account():
    """A real `up` takes them; the measure itself refuses a batch without all of its events."""
    (outcome,) = benchmarks.run(SMOKE, ("S8",))
    assert outcome.ours > 0


def test_the_stages_of_a_file_are_timed_one_by_one():
    """In a process of its own, since it keeps to one core from then on."""
    command = [sys.executable, "-m", "bulk_upload_pipeline_tests.benchmarks.stages"]
    found = subprocess.run(
        [*command, "--rows", "300", "--repeat", "1", "--json"], capture_output=True, text=True, check=True
    )
    figures = json.loads(found.stdout)
    assert set(figures["seconds"]) == {"recognise", "read", "parse", "judge", "stage", "seal", "encode"}
    assert figures["all"]["rows_per_second"] > 0


@pytest.mark.scale
def test_other_tools_load_the_same_rows(tmp_path):
    figures = peers.compare(500, 1, (), tmp_path)
    assert [row["tool"] for row in figures][:2] == ["bulk-upload load", r"psql \copy"]
    assert "pandas" in {row["tool"] for row in figures if not row.get("failed")}


@pytest.mark.scale
def test_loads_at_once_are_measured_beside_one_and_a_bare_copy():
    result = CliRunner().invoke(ceiling.main, ["--rows", "500", "--at-once", "2", "--repeat", "1"])
    assert result.exit_code == 0, result.output
    assert re.search(r"bare COPY \d.* one load \d.* 2 at once \d", result.output)


@pytest.mark.scale
def test_all_measures_can_be_taken():
    assert {outcome.key for outcome in benchmarks.run(SMOKE)} == set(benchmarks.ALL)


def test_a_goal_is_met_by_the_ratio_where_there_is_a_reference_and_by_the_figure_itself_where_there_is_none():
    assert Outcome("S1", "", "s", 9, 1.0, reference=10).met
    assert not Outcome("S1", "", "s", 11, 1.0, reference=10).met
    assert Outcome("S5", "", "rows/s", 9, 0.8, reference=10, at_least=True).met
    assert not Outcome("S7", "", "s", 9, 8).met


def test_the_command_writes_a_table_and_every_figure_as_json(tmp_path, monkeypatch):
    taken = [Outcome("S1", "load", "s", 9.0, 1.0, 10.0, details={"ours": [9.0]})]
    monkeypatch.setattr(benchmarks, "run", lambda *_: taken)
    result = CliRunner().invoke(benchmarks.main, ["--only", "s1", "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    assert "0.90" in result.output
    (measure,) = json.loads((tmp_path / "figures.json").read_text())["measures"]
    assert (measure["key"], measure["ratio"], measure["met"], measure["details"]) == (
        "S1",
        0.9,
        True,
        {"ours": [9.0]},
    )
    assert CliRunner().invoke(benchmarks.main, ["--only", "S77"]).exit_code == 2
