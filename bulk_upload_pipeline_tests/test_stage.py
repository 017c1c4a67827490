"""Staging: what is written, and which line of a file is the how-manieth of its kind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline import contract, stage
from bulk_upload_pipeline.findings import SCHEMA, row_findings
from bulk_upload_pipeline.model import ChunkVerdict, TextChunk, Totals
from bulk_upload_pipeline.stage import Stage, repeated_lines
from bulk_upload_pipeline.staged import StagedBatch
from bulk_upload_pipeline.verbatim import source_rows


def verdict_of(row_numbers, *, rejected=(), identities=None):
    numbers = pa.array(row_numbers, pa.int64())
    good = [n for n in row_numbers if n not in rejected]
    columns = {f.name: pa.nulls(len(good), f.type) for f in contract.STAGED_SCHEMA}
    columns["row_number"] = pa.array(good, pa.int32())
    wrong = pa.array(sorted(rejected), pa.int64())
    return ChunkVerdict(
        valid=pa.table(columns, schema=contract.STAGED_SCHEMA),
        findings=row_findings("ZERO_QUANTITY", "Quantity", wrong) if rejected else SCHEMA.empty_table(),
        sources=source_rows(TextChunk(pa.table({"0": ["x"] * len(numbers)}), numbers), ["Quantity"], wrong),
        rows_read=len(row_numbers),
        rows_rejected=len(rejected),
        identities=np.array(row_numbers if identities is None else identities, np.uint64),
        identity_rows=numbers.to_numpy(),
        totals_read=Totals(),
        totals_valid=Totals(),
    )


def test_a_chunk_is_a_record_batch_and_the_verdict_counts_the_whole_file(tmp_path):
    with Stage(tmp_path / "b") as writing:
        writing.add(verdict_of([1, 2, 3]))
        writing.add(verdict_of([4, 5], rejected={5}))
        verdict = writing.seal("plan", 0.5)
    assert (verdict.rows_read, verdict.rows_valid, verdict.rows_rejected, verdict.chunks) == (5, 4, 1, 2)
    assert verdict.findings_by_code == {"ZERO_QUANTITY": 1}
    assert writing.staged.chunks == 2
    assert writing.staged.chunk(1)["row_number"].to_pylist() == [4]


def test_a_chunk_of_rejected_rows_only_is_no_record_batch(tmp_path):
    with Stage(tmp_path / "b") as writing:
        writing.add(verdict_of([1, 2], rejected={1, 2}))
        assert writing.seal("plan", 0.5).chunks == 0
    assert writing.staged.exists


def test_a_staging_that_was_cut_off_does_not_count_as_there(tmp_path):
    with Stage(tmp_path / "b") as writing:
        writing.add(verdict_of([1]))
    assert not writing.staged.exists


@pytest.mark.parametrize("cut_to", [0, -1])
def test_a_staging_counts_as_there_for_the_plan_that_it_was_sealed_by(tmp_path, cut_to):
    with Stage(tmp_path / "b") as writing:
        writing.add(verdict_of([1]))
        writing.seal("plan", 0.5)
    assert StagedBatch(tmp_path / "b", "plan").exists
    assert not StagedBatch(tmp_path / "b", "another plan").exists
    path = writing.staged.occurrences_path
    path.write_bytes(path.read_bytes()[:cut_to])
    assert not StagedBatch(tmp_path / "b", "plan").exists


def test_staging_again_forgets_what_was_staged_before(tmp_path):
    for rows in ([1, 2, 3], [1]):
        with Stage(tmp_path / "b") as writing:
            writing.add(verdict_of(rows))
            writing.seal("plan", 0.5)
    assert writing.staged.chunk(0)["row_number"].to_pylist() == [1]


def test_a_rejected_row_counts_as_an_occurrence(tmp_path):
    with Stage(tmp_path / "b") as writing:
        writing.add(verdict_of([1, 2], rejected={1}, identities=[7, 7]))
        writing.add(verdict_of([3], identities=[7]))
        writing.seal("plan", 1.0)
    assert writing.staged.chunk(0)["line_occurrence"].to_pylist() == [2]
    assert writing.staged.chunk(1)["line_occurrence"].to_pylist() == [3]


@pytest.mark.parametrize("at_once", [3, 1_000])
@given(identities=st.lists(st.integers(0, 6), max_size=40))
def test_occurrences_count_equal_identities_in_file_order(tmp_path_factory, at_once, identities):
    folder = tmp_path_factory.mktemp("occurrences")
    rows = list(range(10, 10 + len(identities)))
    np.array(identities, np.uint64).tofile(folder / "i")
    np.array(rows, np.int64).tofile(folder / "r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "IDENTITIES_AT_ONCE", at_once)
        found = repeated_lines([(folder / "i", folder / "r", 0)])
    seen: Counter[int] = Counter()
    expected = []
    for row, identity in zip(rows, identities, strict=True):
        seen[identity] += 1
        if seen[identity] > 1:
            expected.append((row, seen[identity]))
    assert list(zip(*found.to_pydict().values(), strict=True)) == expected
