"""Rows of megabytes: few of them are held at once, and each comes out whole, in its place."""

from __future__ import annotations

import json
import random
import string

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.judging import Judging, stage
from bulk_upload_pipeline.profile_files import shipped_profiles
from bulk_upload_pipeline.profiles import Profiles
from bulk_upload_pipeline.reading import chunking
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.staged import StagedBatch
from bulk_upload_pipeline_tests.world import csv_of, good_row

PROFILES = Profiles(shipped_profiles())
LENGTH = 3_000_000
LONG = {2, 3, 4, 5, 6, 7, 8, 9}


@pytest.fixture(scope="module")
def table():
    """Eleven rows, eight of them with a text of megabytes that packs badly."""
    texts = random.Random(5)
    names = ["".join(texts.choices(string.ascii_letters, k=1_000)) for _ in range(3)]
    return [
        good_row(n, **({"Item Name": names[n % 3] * (LENGTH // 1_000)} if n in LONG else {}))
        for n in range(1, 12)
    ]


def as_parquet(table, path):
    columns = {name: [row[name] for row in table] for name in table[0]}
    pq.write_table(pa.table(columns), path, compression="none", dictionary_pagesize_limit=64 << 20)


WRITERS = {
    "csv": lambda table, path: path.write_text(csv_of(table)),
    "jsonl": lambda table, path: path.write_text("\n".join(map(json.dumps, table))),
    "json": lambda table, path: path.write_text(json.dumps(table)),
    "parquet": as_parquet,
}


def judging_of(path):
    layout = recognise(path, PROFILES)
    return Judging(path, layout, PROFILES[layout.profile], 10_000, 0.5, lambda progress: None)


@pytest.mark.parametrize("kind", WRITERS)
def test_chunks_end_early_where_rows_are_long_and_each_row_is_there_once(tmp_path, table, kind):
    path = tmp_path / f"file.{kind}"
    WRITERS[kind](table, path)
    judging = judging_of(path)
    chunks = list(judging.chunks())
    assert [n for chunk in chunks for n in chunk.row_numbers.to_pylist()] == list(range(1, 12))
    at = str(judging.layout.mapping["item_name"])
    names = [name for chunk in chunks for name in chunk.cells[at].to_pylist()]
    assert names == [row["Item Name"] for row in table]
    assert max(chunk.cells.nbytes for chunk in chunks) < 3 * chunking.MOST_TEXT


def test_findings_on_long_rows_are_read_back_some_at_a_time_with_their_whole_rows(tmp_path, table):
    path = tmp_path / "file.csv"
    WRITERS["csv"](table, path)
    staged = StagedBatch(tmp_path / "staged")
    assert stage(judging_of(path), staged, "plan").rows_rejected == len(LONG)
    batches = list(staged.finding_batches())
    assert max(batch.nbytes for batch in batches) < 2 * chunking.MOST_TEXT
    found = {n for batch in batches for n in batch["row_number"].to_pylist()}
    assert found == LONG
    sources = [json.loads(text) for batch in batches for text in batch["row_data"].to_pylist()]
    assert [row["Item Name"] for row in sources] == [table[n - 1]["Item Name"] for n in sorted(LONG)]


def test_a_row_of_parquet_is_as_long_as_a_line_may_be_and_no_longer(tmp_path):
    path = tmp_path / "file.parquet"
    as_parquet([good_row(1), good_row(2, **{"Item Name": "x" * (9 << 20)})], path)
    with pytest.raises(UnreadableError) as refused:
        list(judging_of(path).chunks())
    assert refused.value.finding.code == "LINE_TOO_LONG"
