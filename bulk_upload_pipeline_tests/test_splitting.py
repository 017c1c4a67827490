"""A huge file that several workers share ends as if one had taken it: rows, findings, receipt and report."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import helping, ledger, load, part_judging, part_ledger, sharing, splitting, terms
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.exceptions import BatchBusyError, UnreadableError, WorkersDifferError
from bulk_upload_pipeline.judging import Judging, stage
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.profile_files import load_profiles
from bulk_upload_pipeline.reading import records
from bulk_upload_pipeline.recognise import recognise
from bulk_upload_pipeline.recognising import dialects, encodings
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.splitting import Shared
from bulk_upload_pipeline.staged import StagedBatch
from bulk_upload_pipeline_tests.world import HEADER, count, csv_of, drop, good_row, line_at, receipt, rows

BLOCK, PART = 1 << 13, 1 << 15
TARGET = "mangalam_invoices"

WORKER = """
import sys
from pathlib import Path
from bulk_upload_pipeline import part_ledger, sharing
from bulk_upload_pipeline.recognising import dialects, encodings
from bulk_upload_pipeline_tests.world import line_at

root, url, batch_id, block, part = sys.argv[1:]
encodings.BLOCK_BYTES = int(block)
dialects.TOP_BYTES = 1 << 12
with line_at(Path(root), url, chunk_rows=200, part_bytes=int(part)) as line:
    print("ready", flush=True)
    sys.stdin.readline()
    print(sharing.help_along(line, batch_id), flush=True)
"""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(dialects, "TOP_BYTES", 1 << 12)


@pytest.fixture
def line(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url, chunk_rows=200, part_bytes=PART) as line:
        yield line


@contextmanager
def helper(line, batch_id):
    """A process that helps with a batch; it is ready, and begins when it reads a line."""
    root, url = str(line.home.root), line.settings.database_url
    arguments = [sys.executable, "-c", WORKER, root, url, batch_id, str(BLOCK), str(PART)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def begin(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stopped_with_a_part(process, line, batch_id, parts):
    """Stop a helper in its tracks; return whether it has a part, else it goes on."""
    process.send_signal(signal.SIGSTOP)
    if part_ledger.free(line.engine, batch_id, parts) < len(parts):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def parts_in(line, batch_id):
    return part_ledger.rows(line.engine, batch_id)


def announce(line, batch_id, part_bytes=PART):
    """Do what a run does that is killed when it has just planned the parts."""
    stages.upload(line, batch_id)
    batch = ledger.batch(line.engine, batch_id)
    judging = terms.judging_of(line, batch)
    parts = splitting.planned(judging, part_bytes)
    shared = sharing.shared(line, batch, judging, parts)
    part_ledger.announce(line.engine, batch_id, shared.plan, parts)
    shared.staged.folder.mkdir(parents=True, exist_ok=True)
    return shared


def whole(line):
    """A line on the same home and database that shares no file."""
    return dataclasses.replace(line, settings=dataclasses.replace(line.settings, part_bytes=1 << 40))


def account(line, batch_id):
    """All that a batch leaves behind, but for times, ids and its own name."""
    beyond = "'{id,created_at,updated_at,upload_batch_id}'::text[]"
    target = rows(line, f"SELECT to_jsonb(t) - {beyond} FROM {TARGET} t ORDER BY row_number")
    findings = rows(
        line,
        "SELECT row_number, line_occurrence, column_name, error_code, severity, error_message, raw_value, row_data "
        "FROM bulk_upload.processing_errors ORDER BY id",
    )
    receipt = dataclasses.asdict(ledger.receipt(line.engine, batch_id))
    own = {"batch_id", "received_at", "started_at", "finished_at", "run_id"}
    told = {name: value for name, value in receipt.items() if name not in own}
    reports = {
        path.name: path.read_text("utf-8").replace(batch_id, "BATCH")
        for path in line.reports(batch_id).iterdir()
        if path.suffix == ".csv"
    }
    sums = "sum(rows), sum(inserted), sum(refused), sum(quantity), sum(item_total)"
    return target, findings, told, reports, rows(line, f"SELECT {sums} FROM bulk_upload.load_chunks")


def empty(line):
    with line.engine.begin() as connection:
        for table in (TARGET, "bulk_upload.processing_errors", "bulk_upload.upload_batches"):
            connection.exec_driver_sql(f"TRUNCATE {table}")
        connection.exec_driver_sql("TRUNCATE bulk_upload.load_chunks, bulk_upload.stale_dates CASCADE")


@pytest.fixture
def dirty(tmp_path):
    """A file of some dozens of parts with every fault of the samples."""
    path = tmp_path / "dirty.csv"
    write_sample(path, rows=700, dirty=0.1, seed=5)
    assert path.stat().st_size > 4 * PART
    return path.read_bytes()


_known = {}


def by_one(line, name, content):
    """Load a file by one worker, and leave the database as it was before; return what it left behind."""
    if (name, content) not in _known:
        _known[name, content] = _by_one(line, name, content)
    return _known[name, content]


def _by_one(line, name, content):
    batch_id = drop(line, name, content)
    stages.take(whole(line), batch_id)
    assert part_ledger.rows(line.engine, batch_id) == []
    found = account(line, batch_id)
    empty(line)
    return found


def test_two_processes_leave_what_one_would_leave(line, dirty):
    expected = by_one(line, "dirty.csv", dirty)
    batch_id = drop(line, "dirty.csv", dirty)
    shared = announce(line, batch_id)
    with helper(line, batch_id) as process:
        begin(process)
        until(lambda: any(row.staged for row in parts_in(line, batch_id)))
        receipt = stages.take(line, batch_id)
        done, errors = process.communicate(timeout=60)
    assert (errors, process.returncode) == ("", 0)
    assert int(done) > 1
    assert receipt.state is State.PARTIALLY_LOADED
    assert account(line, batch_id) == expected
    plans = "SELECT DISTINCT plan FROM bulk_upload.load_chunks"
    assert rows(line, plans) == [(shared.plan,)]
    assert parts_in(line, batch_id) == []
    assert not any(line.home.staging.iterdir())


@pytest.mark.scale
def test_one_worker_alone_comes_to_the_same_end(line, dirty):
    expected = by_one(line, "dirty.csv", dirty)
    batch_id = drop(line, "dirty.csv", dirty)
    told = []
    stages.take(line.listening(told.append), batch_id)
    assert account(line, batch_id) == expected
    assert len({plan for (plan,) in rows(line, "SELECT plan FROM bulk_upload.load_chunks")}) == 1


def test_the_part_of_a_worker_that_is_killed_is_taken_by_another(line, dirty):
    expected = by_one(line, "dirty.csv", dirty)
    batch_id = drop(line, "dirty.csv", dirty)
    announce(line, batch_id)
    with helper(line, batch_id) as process:
        begin(process)
        everything = parts_in(line, batch_id)
        until(lambda: stopped_with_a_part(process, line, batch_id, everything))
        process.kill()
        process.wait(30)
    before = {row.number: row.staged for row in parts_in(line, batch_id) if row.staged}
    assert len(before) < len(everything)
    with patch.object(part_ledger, "forget"):
        stages.take(line, batch_id)
    after = {row.number: row.staged for row in parts_in(line, batch_id)}
    assert account(line, batch_id) == expected
    assert before.items() <= after.items()
    assert len(after) == len(everything)


def test_nobody_helps_to_load_before_the_ledger_of_an_earlier_plan_is_closed(line, dirty, monkeypatch):
    batch_id = drop(line, "dirty.csv", dirty)
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    opened = []

    def open_ledger(*arguments):
        opened.append([row.first_chunk for row in parts_in(line, batch_id)])
        return real(*arguments)

    real = load._open_ledger
    monkeypatch.setattr(load, "_open_ledger", open_ledger)
    stages.load(line, batch_id)
    assert opened == [[None] * len(line.staged(batch_id, parts_in(line, batch_id)[0].plan).parts)]
    assert all(row.loaded and row.first_chunk is not None for row in parts_in(line, batch_id))


@pytest.mark.scale
def test_a_helper_that_dies_while_it_loads_costs_nothing(line, dirty):
    expected = by_one(line, "dirty.csv", dirty)
    batch_id = drop(line, "dirty.csv", dirty)
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    verdict = ledger.verdict(line.engine, batch_id)
    ledger.loading(line.engine, batch_id)
    part_ledger.let_load(line.engine, batch_id, verdict.plan, line.staged(batch_id, verdict.plan).parts)
    with helper(line, batch_id) as process:
        begin(process)
        until(lambda: count(line, "bulk_upload.load_chunks") > 2)
        process.kill()
        process.wait(30)
    assert 0 < count(line, "bulk_upload.load_chunks") < verdict.chunks
    stages.load(line, batch_id)
    stages.close(line, batch_id)
    assert account(line, batch_id) == expected


def test_a_file_of_which_half_the_rows_are_wrong_is_rejected_as_a_whole(line):
    text = csv_of([good_row(n, Quantity="x" if n % 2 else "4") for n in range(2_000)])
    expected = by_one(line, "wrong.csv", text)
    batch_id = drop(line, "wrong.csv", text)
    assert stages.take(line, batch_id).state is State.REJECTED
    assert account(line, batch_id) == expected
    assert count(line, TARGET) == 0
    assert sharing.help_along(line, batch_id) == 0


def test_a_date_in_the_last_part_says_how_those_of_the_first_are_read(line):
    found = [good_row(n, **{"Invoice Date": "03/04/2024"}) for n in range(2_000)]
    found[-1]["Invoice Date"] = "25/04/2024"
    text = csv_of(found)
    expected = by_one(line, "days.csv", text)
    batch_id = drop(line, "days.csv", text)
    stages.take(line, batch_id)
    assert account(line, batch_id) == expected
    assert rows(line, f"SELECT DISTINCT invoice_date::text FROM {TARGET} ORDER BY 1") == [
        ("2024-04-03",),
        ("2024-04-25",),
    ]


@pytest.mark.scale
def test_dates_of_two_parts_that_contradict_each_other_leave_the_rest_ambiguous(line):
    found = [good_row(n, **{"Invoice Date": "03/04/2024"} if n % 3 == 0 else {}) for n in range(2_000)]
    found[1]["Invoice Date"], found[-1]["Invoice Date"] = "04/25/2024", "25/04/2024"
    expected = by_one(line, "days.csv", csv_of(found))
    batch_id = drop(line, "days.csv", csv_of(found))
    assert stages.take(line, batch_id).findings_by_code == {"AMBIGUOUS_DATE": 667}
    assert account(line, batch_id) == expected


def test_what_a_helper_could_judge_is_not_judged_again_by_who_takes_the_batch(line, dirty):
    batch_id = drop(line, "dirty.csv", dirty)
    announce(line, batch_id)
    with patch.object(helping, "PATIENCE_S", 0.5):
        assert sharing.help_along(line, batch_id) == len(parts_in(line, batch_id))
    with patch.object(part_judging, "_judge_part", side_effect=AssertionError):
        stages.validate(line, batch_id)
    verdict = ledger.verdict(line.engine, batch_id)
    assert verdict.rows_read == 700


@pytest.mark.scale
def test_a_part_whose_folder_is_gone_is_judged_again(line, dirty):
    expected = by_one(line, "dirty.csv", dirty)
    batch_id = drop(line, "dirty.csv", dirty)
    announce(line, batch_id)
    with patch.object(helping, "PATIENCE_S", 0.5):
        sharing.help_along(line, batch_id)
    lost = line.home.staging / batch_id / parts_in(line, batch_id)[3].staged
    lost.rename(line.home.root / "elsewhere")
    stages.take(line, batch_id)
    assert account(line, batch_id) == expected


def test_a_helper_leaves_when_it_is_not_to_stay(line, dirty):
    batch_id = drop(line, "dirty.csv", dirty)
    announce(line, batch_id)
    answers = iter([True, True, False])
    assert sharing.help_along(line, batch_id, lambda: next(answers)) == 2
    assert sum(row.staged is not None for row in parts_in(line, batch_id)) == 2


def test_a_helper_leaves_when_the_batch_is_cancelled(line, dirty):
    batch_id = drop(line, "dirty.csv", dirty)
    announce(line, batch_id)
    parts = parts_in(line, batch_id)

    def cancelled_behind_the_first_part():
        if any(row.staged for row in parts_in(line, batch_id)):
            stages.fail(line, batch_id, "A person cancelled it.")
        return True

    with patch.object(helping, "PATIENCE_S", 0.5):
        assert sharing.help_along(line, batch_id, cancelled_behind_the_first_part) == 2 < len(parts)
        assert sharing.help_along(line, batch_id) == 0
    assert receipt(line, batch_id).state is State.FAILED


def test_a_worker_with_other_settings_does_not_help(line, dirty):
    batch_id = drop(line, "dirty.csv", dirty)
    announce(line, batch_id)
    other = dataclasses.replace(line, settings=dataclasses.replace(line.settings, chunk_rows=99))
    with pytest.raises(WorkersDifferError, match="Give all workers the same"):
        sharing.help_along(other, batch_id)
    assert all(row.staged is None for row in parts_in(line, batch_id))


def test_no_chunk_is_loaded_after_the_leave_to_do_so_was_taken_back(line, dirty):
    batch_id = drop(line, "dirty.csv", dirty)
    stages.upload(line, batch_id)
    plan = stages.validate(line, batch_id).plan

    def may_load():
        with line.engine.connect() as connection:
            part_ledger.make_sure(connection.connection.cursor(), batch_id, plan, 0)

    with pytest.raises(BatchBusyError):  # the gate is not passed yet
        may_load()
    part_ledger.let_load(line.engine, batch_id, plan, line.staged(batch_id, plan).parts)
    may_load()
    stages.fail(line, batch_id, "It was stopped.")
    with pytest.raises(BatchBusyError):
        may_load()


def test_a_shared_batch_is_corrected_retried_and_reverted_like_any_other(line, dirty):
    batch_id = drop(line, "dirty.csv", dirty)
    first = stages.take(line, batch_id)
    loaded = count(line, TARGET)
    assert stages.take(line, batch_id).rows_inserted == first.rows_inserted  # a retry changes nothing
    assert count(line, TARGET) == loaded
    text = csv_of([good_row(n, Quantity="" if n == 1_500 else "4") for n in range(2_000)])
    parent = stages.take(line, drop(line, "one.csv", text))
    assert (parent.rows_rejected, parent.findings_by_code) == (1, {"MISSING_VALUE": 1})
    wrong = (line.reports(parent.batch_id) / "rejected_rows.csv").read_text("utf-8")
    child = stages.take(
        line, drop(line, "corrected.csv", wrong.replace("KK-000", "KK-000", 1).replace(",,", ",4,", 1))
    )
    assert (child.state, child.parent_batch_id) == (State.LOADED, parent.batch_id)
    assert ledger.receipt(line.engine, parent.batch_id).state is State.LOADED
    assert rows(
        line, f"SELECT count(*) FROM {TARGET} WHERE row_number = 1501 AND invoice_number = 'INV-001500'"
    ) == [(1,)]
    assert stages.revert(line, batch_id).state is State.REVERTED
    assert count(line, TARGET) == 2_000


@pytest.mark.scale
def test_rows_that_the_database_refuses_have_their_number_and_source_row(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {TARGET} ADD CONSTRAINT dear CHECK (quantity < 1000)")
    text = csv_of(
        [
            good_row(n, **({"Quantity": "2000", "Item Total": "25000"} if n % 999 == 7 else {}))
            for n in range(2_000)
        ]
    )
    expected = by_one(line, "dear.csv", text)
    batch_id = drop(line, "dear.csv", text)
    assert stages.take(line, batch_id).findings_by_code == {"REFUSED_BY_DATABASE": 2}
    found = account(line, batch_id)
    assert sorted(map(str, found[1])) == sorted(map(str, expected[1]))
    assert (found[0], found[2], found[3]) == (expected[0], expected[2], expected[3])


# Whatever is in the file


CELL = {
    "Invoice Number": st.sampled_from(["INV-1", "INV-2", "", "INV-é"]),
    "Invoice Date": st.sampled_from(["2024-12-31", "03/04/2024", "2024-12-31", "yesterday"]),
    "Customer Name": st.sampled_from(["Shop", '"two\nlines"', '"say ""hi"""', '"a\r\nb"', '"x, y"']),
    "SKU": st.sampled_from(["A", "B", ""]),
    "Item Name": st.sampled_from(["Kaju", "€"]),
    "Quantity": st.sampled_from(["4", "4", "-2", "0", "x"]),
    "Item Price": st.sampled_from(["12.50", "1"]),
    "Item Total": st.sampled_from(["", "", "50.00"]),
}
RECORD = st.tuples(*(CELL[name] for name in HEADER)).map(",".join)
LINE = st.one_of(
    RECORD,
    RECORD,
    RECORD,
    RECORD.map(lambda text: text + ",more"),
    st.sampled_from(["", ",,,,,,,", 'INV-1,"never closed,3', "one cell", "INV-9,25/12/2024,Shop,A,K,1,1,1"]),
)
TEXT = st.lists(st.tuples(LINE, st.sampled_from(["\n", "\r\n", "\r"])), min_size=4, max_size=30)


@pytest.fixture(scope="module")
def engine(postgres_url, template_database):
    with make_engine(postgres_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f'CREATE DATABASE parts TEMPLATE "{template_database}"')
        engine = make_engine(postgres_url.set(database="parts"))
        yield engine
        engine.dispose()
        connection.exec_driver_sql("DROP DATABASE parts")


@pytest.fixture(scope="module")
def profiles():
    return load_profiles(Path("/nowhere"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory, profiles):
    """The layout of all these files, whatever is in them."""
    path = tmp_path_factory.mktemp("layout") / "file.csv"
    path.write_text(csv_of([good_row(1)]))
    return recognise(path, profiles)


def judged(judge, staged):
    """The verdict, and all that is staged, however it is cut into chunks."""
    try:
        verdict = dataclasses.replace(judge(), plan="", chunks=0)
    except UnreadableError as error:
        return error.finding
    whole = [staged.chunk(index) for index in range(staged.chunks)]
    found = [batch.to_pylist() for batch in staged.finding_batches()]
    return (
        verdict,
        pa.concat_tables(whole).to_pylist() if whole else [],
        [row for batch in found for row in batch],
    )


@settings(max_examples=20)
@given(TEXT, st.integers(60, 400), st.integers(1, 300), st.integers(1, 9))
def test_whatever_is_in_a_file_its_parts_are_judged_as_the_whole(
    engine, profiles, layout, lines, block, part_bytes, chunk_rows
):
    text = ",".join(HEADER) + "\n" + "".join(line + end for line, end in lines)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(encodings, "BLOCK_BYTES", block),
        patch.object(dialects, "TOP_BYTES", 64),
        patch.object(records, "LONGEST_QUOTED_RECORD", 300),
    ):
        path = Path(folder) / "file.csv"
        path.write_text(text, "utf-8", newline="")
        judging = Judging(path, layout, profiles[layout.profile], chunk_rows, 0.5, lambda progress: None)
        parts = splitting.planned(judging, part_bytes)
        if not parts:
            return
        one, several = StagedBatch(Path(folder) / "one"), StagedBatch(Path(folder) / "several")
        shared = Shared(
            engine, "batch", judging, several, splitting.plan_in_parts(str(time.monotonic_ns()), parts)
        )
        assert judged(lambda: part_judging.judge(shared, parts), several) == judged(
            lambda: stage(judging, one, ""), one
        )
