"""Every exit of the line, run as Dagster runs it, against a real PostgreSQL: what the world holds afterwards."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import replace

import dagster as dg
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import archiving, intake, ledger
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs.assets import ASSETS, mangalam_invoices, upload_receipts
from bulk_upload_pipeline.defs.checks import CHECKS
from bulk_upload_pipeline.exceptions import (
    BatchRejectedError,
    NothingToJudgeError,
    NoVerdictError,
    RowsNotLoadedError,
)
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.settings import Home
from bulk_upload_pipeline_tests.world import (
    HEADER,
    QUIET,
    count,
    csv_of,
    drop,
    good_row,
    receipt,
    rows,
    run,
    through,
)
from bulk_upload_pipeline_tests.writers import as_xlsx, zip_of

SETTINGS = {"chunk_rows": 7}

TARGET = "mangalam_invoices"
ERRORS = "bulk_upload.processing_errors"


def materialized(instance, asset):
    return instance.get_materialized_partitions(dg.AssetKey(asset))


def evaluations(result):
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def files_of(line, batch_id):
    return sorted(path.name for path in line.reports(batch_id).iterdir())


def rejected_rows(line, batch_id):
    with (line.reports(batch_id) / "rejected_rows.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_good_file_is_loaded_whole(line, instance):
    batch_id = drop(line, "good.csv", csv_of(good_row(n) for n in range(20)))
    result = run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert result.success
    assert (account.state, account.rows_read, account.rows_inserted) == (State.LOADED, 20, 20)
    assert rows(line, f"SELECT count(*), sum(quantity), sum(item_total) FROM {TARGET}") == [(20, 80, 1000)]
    assert account.control_totals["read"] == account.control_totals["loaded"]
    assert {name: e.passed for name, e in evaluations(result).items()} == {
        "shape": True,
        "usual_counts": True,
        "error_rate": True,
        "control_totals": True,
        "keys_unique": True,
        "subtotals": True,
        "nothing_lost": True,
    }
    for asset in ("upload", "validated_invoices", "processing_errors", TARGET, "upload_receipts"):
        assert materialized(instance, asset) == {batch_id}
    assert files_of(line, batch_id) == ["summary.html", "summary.json"]


def test_what_is_wrong_with_a_row_stands_in_the_order_of_its_cells(line):
    bad = {"Invoice Date": "31-Feb-2024", "Customer Name": "", "Quantity": "x", "Item Price": "y"}
    batch_id = through(line, "bad.csv", [good_row(1), good_row(2), good_row(3, **bad)])
    (row,) = rejected_rows(line, batch_id)
    assert row["_errors"] == (
        "Invoice Date is 31-Feb-2024, which is not a date. | Customer Name is empty, but required. | "
        "Quantity is x, which is not a number. | Item Price is y, which is not a number."
    )


def lineage(instance, asset, batch_id):
    """The columns of an asset and batch, with what each came from, as the UI shows it."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[batch_id])
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    shown = record.asset_materialization.metadata["dagster/column_lineage"].value
    return {
        column: [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
        for column, deps in shown.deps_by_column.items()
    }


def test_the_columns_are_traced_from_the_header_of_the_file_to_the_table(line, instance):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    run(line, batch_id, instance)
    read = lineage(instance, "validated_invoices", batch_id)
    assert read["customer_name"] == [("upload", "Customer Name")]
    assert len(read) == len(HEADER)
    assert lineage(instance, TARGET, batch_id)["item_total"] == [("validated_invoices", "item_total")]


def test_what_was_recognised_is_shown_in_the_order_of_the_file_and_only_where_it_applies(line, instance):
    content = csv_of([good_row(1)])
    sheet = as_xlsx([*csv.reader(content.splitlines())])
    shown = {}
    for name, file in (("a.csv", content), ("b.xlsx", sheet)):
        batch_id = drop(line, name, file)
        run(line, batch_id, instance)
        wanted = dg.AssetRecordsFilter(dg.AssetKey("upload"), asset_partitions=[batch_id])
        (record,) = instance.fetch_materializations(wanted, limit=1).records
        shown[name] = {label: value.value for label, value in record.asset_materialization.metadata.items()}
        table = shown[name]["header"].splitlines()[2:]
        assert [row.split(" | ")[0].removeprefix("| ") for row in table] == list(HEADER)
    assert (shown["a.csv"]["encoding"], shown["a.csv"]["delimiter"]) == ("utf-8 (100% sure)", "','")
    assert not {"encoding", "delimiter"} & set(shown["b.xlsx"])


def test_the_receipt_does_not_wait_for_what_is_only_inspected(line, instance):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    result = run(line, batch_id, instance)
    started = [event.step_key for event in result.all_events if event.is_step_start]
    assert started.index("upload_receipts") < started.index("checks_of_mangalam_invoices")


def test_each_row_carries_its_batch_its_row_number_and_what_no_column_is_for(line, instance):
    header = (*HEADER, "Month")
    batch_id = drop(line, "a.csv", csv_of([good_row(1, Month="Dec"), good_row(2)], header))
    run(line, batch_id, instance)
    found = rows(line, f"SELECT row_number, upload_batch_id, extra, line_occurrence FROM {TARGET} ORDER BY 1")
    assert found == [(1, batch_id, {"Month": "Dec"}, 1), (2, batch_id, None, 1)]


def test_a_file_with_some_bad_rows_is_loaded_in_part(line, instance):
    wrong = [
        good_row(90, Quantity="12abc"),
        good_row(91, **{"Item Total": "51.00"}),
        good_row(92, Quantity="0"),
    ]
    batch_id = drop(line, "some.csv", csv_of([*(good_row(n) for n in range(20)), *wrong]))
    result = run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert result.success
    assert (account.state, account.rows_inserted, account.rows_rejected) == (State.PARTIALLY_LOADED, 20, 3)
    assert count(line, TARGET) == 20
    found = rows(line, f"SELECT row_number, column_name, error_code, raw_value FROM {ERRORS} ORDER BY 1")
    assert found == [
        (21, "Quantity", "INVALID_NUMBER", "12abc"),
        (22, "Item Total", "TOTAL_MISMATCH", "51.00"),
        (23, "Quantity", "ZERO_QUANTITY", "0"),
    ]
    gate = evaluations(result)["error_rate"]
    assert (gate.passed, gate.severity, gate.partition) == (False, dg.AssetCheckSeverity.WARN, batch_id)


def test_a_rejected_row_comes_back_in_the_columns_of_its_source(line, instance):
    wrong = good_row(90, Quantity="12abc", **{"Item Name": "=SUM(A1)"})
    batch_id = drop(line, "some.csv", csv_of([good_row(1), good_row(2), wrong]))
    run(line, batch_id, instance)
    (row,) = rejected_rows(line, batch_id)
    assert list(row) == [*HEADER, "_batch_id", "_row_number", "_line_occurrence", "_errors"]
    assert {name: row[name] for name in HEADER} == wrong | {"Item Name": "'=SUM(A1)"}
    assert (row["_batch_id"], row["_row_number"], row["_line_occurrence"]) == (batch_id, "3", "1")
    assert "12abc" in row["_errors"]
    assert rows(line, f"SELECT row_data FROM {ERRORS}") == [(wrong,)]


def test_a_warning_lets_its_row_load(line, instance):
    batch_id = drop(line, "credit.csv", csv_of([good_row(1, Quantity="-4", **{"Item Total": "-50"})]))
    run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert (account.state, account.warnings, count(line, TARGET)) == (State.LOADED, 1, 1)
    assert rows(line, f"SELECT error_code, severity FROM {ERRORS}") == [("CREDIT_LINE", "warning")]


def test_half_of_the_rows_bad_means_nothing_is_loaded_and_the_run_fails_at_the_gate(line, instance):
    bad = [good_row(n, Quantity="x") for n in range(10)]
    batch_id = drop(line, "wrong.csv", csv_of([*bad, *(good_row(n) for n in range(20, 30))]))
    result = run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert not result.success
    assert (account.state, account.rows_rejected, account.rows_unprocessed) == (State.REJECTED, 10, 10)
    assert count(line, TARGET) == 0
    gate = evaluations(result)["error_rate"]
    assert (gate.passed, gate.severity) == (False, dg.AssetCheckSeverity.ERROR)
    failed = {event.step_key for event in result.all_node_events if event.is_step_failure}
    assert failed == {"checks_of_validated_invoices"}
    assert materialized(instance, TARGET) == set()
    assert materialized(instance, "upload_receipts") == {batch_id}
    text = (line.reports(batch_id) / "summary.html").read_text()
    assert "10 of 20 rows (50%) have errors" in text
    assert "Not a number" in text
    assert len(rejected_rows(line, batch_id)) == 10


def test_one_bad_row_less_than_the_limit_still_loads(line, instance):
    bad = [good_row(n, Quantity="x") for n in range(9)]
    batch_id = drop(line, "nearly.csv", csv_of([*bad, *(good_row(n) for n in range(20, 30))]))
    assert run(line, batch_id, instance).success
    assert count(line, TARGET) == 10


def test_the_loader_refuses_a_rejected_batch_even_when_nobody_asks_the_gate(line, instance):
    batch_id = drop(line, "wrong.csv", csv_of([good_row(n, Quantity="x") for n in range(10)]))
    run(line, batch_id, instance)
    with pytest.raises(BatchRejectedError, match="nothing of a file is loaded"):
        stages.load(line, batch_id)
    result = dg.materialize(
        [mangalam_invoices],
        instance=instance,
        partition_key=batch_id,
        resources={"line": line},
        run_config=QUIET,
        raise_on_error=False,
    )
    assert not result.success
    assert count(line, TARGET) == 0
    assert receipt(line, batch_id).state is State.REJECTED


def cut_off_after(line, batch_id, chunks):
    """A load that came to so many chunks."""
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    if chunks:
        stages.load(line, batch_id)
        with line.engine.begin() as connection:
            gone = {"chunks": chunks, "rows": 7 * chunks}
            connection.execute(
                sa.text("DELETE FROM bulk_upload.load_chunks WHERE chunk_index >= :chunks"), gone
            )
            connection.execute(sa.text(f"DELETE FROM {TARGET} WHERE row_number > :rows"), gone)


@pytest.mark.parametrize(("chunks", "missing"), [(0, 20), (2, 6)])
def test_a_receipt_alone_says_of_no_row_that_it_is_loaded_when_it_is_not(line, instance, chunks, missing):
    content = csv_of(good_row(n) for n in range(20))
    batch_id = drop(line, "good.csv", content)
    cut_off_after(line, batch_id, chunks)
    instance.add_dynamic_partitions("batches", [batch_id])
    result = dg.materialize(
        [upload_receipts],
        instance=instance,
        partition_key=batch_id,
        resources={"line": line},
        raise_on_error=False,
    )
    assert not result.success
    account = receipt(line, batch_id)
    assert (account.state, account.rows_unprocessed) == (State.FAILED, missing)
    assert str(RowsNotLoadedError(batch_id, missing, 20)) in account.reason
    again = drop(line, "again.csv", content)
    assert run(line, again, instance).success
    assert receipt(line, again).state is State.LOADED
    assert run(line, batch_id, instance).success
    assert count(line, TARGET) == 20


@pytest.mark.parametrize("several", [False, True])
def test_a_run_that_is_launched_for_no_batch_or_for_several_says_what_to_choose(line, instance, several):
    batches = [drop(line, f"{name}.csv", csv_of([good_row(1)])) for name in "ab"]
    instance.add_dynamic_partitions("batches", batches)
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    result = defs.resolve_job_def("load_batch").execute_in_process(
        instance=instance,
        resources={"line": line},
        run_config=QUIET,
        tags=dict(zip(ends, batches, strict=True)) if several else {},
        raise_on_error=False,
    )
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    assert "choose `Multiple runs" in failure.user_failure_data.description
    assert [receipt(line, batch_id).state for batch_id in batches] == [State.WAITING] * 2


def test_nothing_loads_without_a_verdict(line):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    stages.upload(line, batch_id)
    with pytest.raises(NoVerdictError):
        stages.load(line, batch_id)


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        ("waiting", "Materialize `upload` for it first"),
        ("unreadable", "is unreadable, and has no rows to be judged. No line of the file names the columns"),
        ("duplicate", "is duplicate, and has no rows to be judged. The same content was loaded on"),
        ("unpacked", "is unpacked, and has no rows to be judged. The archive holds 2 files"),
    ],
)
def test_what_has_no_rows_is_not_judged_and_why_is_said(line, instance, ending, says):
    good, other = (csv_of([good_row(n)]).encode() for n in range(2))
    content = {"unreadable": b"\x89PNG" + bytes(500), "unpacked": zip_of({"a.csv": good, "b.csv": other})}
    stages.take(line, drop(line, "first.csv", good))
    batch_id = drop(line, "it", content.get(ending, good))
    if ending != "waiting":
        stages.take(line, batch_id)
    assert receipt(line, batch_id).state == ending
    with pytest.raises(NothingToJudgeError, match=re.escape(says)):
        stages.validate(line, batch_id)
    first = "has no verdict" if ending == "waiting" else f"is {ending}: no row of it was judged"
    with pytest.raises(NoVerdictError, match=first):
        stages.load(line, batch_id)
    assert (first if ending == "unpacked" else says) in why_checks_alone_fail(line, instance, batch_id)
    assert receipt(line, batch_id).state == ending


def why_checks_alone_fail(line, instance, batch_id):
    """Return what a person reads who launches the checks of a batch without its assets."""
    result = dg.materialize(
        [*ASSETS, *CHECKS],
        instance=instance,
        tags={} if batch_id is None else {"dagster/partition": batch_id},
        resources={"line": line},
        selection=dg.AssetSelection.checks_for_assets("validated_invoices"),
        raise_on_error=False,
    )
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    return failure.user_failure_data.description


def test_checks_that_are_launched_for_no_batch_say_what_to_choose(line, instance):
    assert "Launch it with a partition" in why_checks_alone_fail(line, instance, None)


UNREADABLE = {
    "empty": (b"", "EMPTY_FILE"),
    "header only": (",".join(HEADER).encode() + b"\n", "NO_DATA_ROWS"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 40, "NOT_A_TABLE"),
    "required column missing": (csv_of([{"SKU": "1"}], ("SKU", "Item Name")).encode(), "MISSING_COLUMN"),
    "column twice": (csv_of([good_row(1)], (*HEADER, "quantity")).encode(), "DUPLICATE_COLUMN"),
    "2,000 columns": (
        csv_of([good_row(1)], (*HEADER, *(f"c{n}" for n in range(2_000)))).encode(),
        "TOO_MANY_COLUMNS",
    ),
    "one line of 50 MB": (b"x" * 50_000_000, "LINE_TOO_LONG"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_file_ends_in_one_clear_sentence_and_the_next_file_loads(line, instance, kind):
    content, code = UNREADABLE[kind]
    batch_id = drop(line, "bad.csv", content)
    result = run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert not result.success
    assert (account.state, account.findings_by_code, account.rows_read) == (State.UNREADABLE, {code: 1}, 0)
    ((row_number, found, message),) = rows(
        line, f"SELECT row_number, error_code, error_message FROM {ERRORS}"
    )
    assert (row_number, found) == (None, code)
    assert account.reason.startswith(message)
    assert len(message) < 300
    assert message.count("\n") == 0
    assert materialized(instance, "upload") == set()
    assert materialized(instance, "upload_receipts") == {batch_id}
    after = drop(line, "next.csv", csv_of([good_row(1)]))
    assert run(line, after, instance).success
    assert count(line, TARGET) == 1


SWAPPED = (*HEADER[:5], "Item Price", "Quantity", "Item Total")


@pytest.mark.parametrize("above", [3, 60], ids=["at the top", "further down"])
def test_a_second_table_with_other_columns_is_refused_and_never_read_under_the_first_header(
    line, instance, above
):
    two = csv_of(map(good_row, range(above))) + csv_of(map(good_row, range(100, 130)), SWAPPED)
    batch_id = drop(line, "two.csv", two)
    assert not run(line, batch_id, instance).success
    account = receipt(line, batch_id)
    assert (account.state, account.findings_by_code) == (State.UNREADABLE, {"SECOND_HEADER": 1})
    assert ", Item Price, Quantity, " in account.reason
    assert count(line, TARGET) == 0


def test_a_second_table_with_a_column_more_does_not_hide_the_first(line, instance):
    wider = [good_row(n, Brand="Haldi") for n in range(100, 105)]
    two = csv_of(map(good_row, range(20))) + csv_of(wider, (*HEADER, "Brand"))
    batch_id = drop(line, "two.csv", two)
    run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert (account.state, account.rows_inserted, account.rows_rejected) == (State.PARTIALLY_LOADED, 20, 6)
    assert account.findings_by_code == {"WRONG_FIELD_COUNT": 6}


def test_a_record_is_no_header_whatever_its_texts_are(line, instance):
    names = {"Customer Name": "Balance", "Item Name": "Brand", "SKU": "SKU", "Quantity": "Total"}
    batch_id = drop(line, "names.csv", csv_of([*map(good_row, range(5)), good_row(5, **names)]))
    run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert (account.rows_inserted, account.findings_by_code) == (5, {"INVALID_NUMBER": 1})


def test_a_header_that_comes_again_on_each_page_is_a_rejected_row(line, instance):
    pages = csv_of(map(good_row, range(20))) + csv_of(map(good_row, range(20, 40)))
    batch_id = drop(line, "pages.csv", pages)
    run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert (account.state, account.rows_inserted, account.rows_rejected) == (State.PARTIALLY_LOADED, 40, 1)


def test_the_same_bytes_again_change_nothing_and_name_the_first_batch(line, instance):
    content = csv_of(good_row(n) for n in range(20))
    first = drop(line, "a.csv", content)
    run(line, first, instance)
    second = drop(line, "another name.csv", content)
    result = run(line, second, instance)
    account = receipt(line, second)
    assert result.success
    assert (account.state, account.duplicate_of, account.rows_read) == (State.DUPLICATE, first, 0)
    assert first in account.reason
    assert count(line, TARGET) == 20
    assert rows(line, f"SELECT DISTINCT upload_batch_id FROM {TARGET}") == [(first,)]
    assert materialized(instance, "upload_receipts") == {first, second}
    assert materialized(instance, "validated_invoices") == {first}


def test_a_rejected_file_dropped_again_is_judged_again(line, instance):
    content = csv_of([good_row(1, Quantity="x")])
    run(line, drop(line, "a.csv", content), instance)
    again = drop(line, "b.csv", content)
    run(line, again, instance)
    assert receipt(line, again).state is State.REJECTED


def test_a_changed_file_of_the_same_name_updates_what_differs(line, instance):
    run(line, drop(line, "a.csv", csv_of(good_row(n) for n in range(10))), instance)
    changed = [good_row(n, **({"Customer Name": "Gupta Sweets"} if n < 3 else {})) for n in range(12)]
    batch_id = drop(line, "a.csv", csv_of(changed))
    run(line, batch_id, instance)
    account = receipt(line, batch_id)
    assert (account.rows_inserted, account.rows_updated, account.rows_unchanged) == (2, 3, 7)
    assert count(line, TARGET) == 12


def test_a_database_that_fails_leaves_a_failed_receipt_and_a_second_run_goes_on(line, instance):
    content = csv_of(good_row(n) for n in range(20))
    batch_id = drop(line, "a.csv", content)
    with line.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bulk_upload.load_chunks RENAME COLUMN inserted TO hidden"))
    result = run(line, batch_id, instance)
    assert not result.success
    with line.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE bulk_upload.load_chunks RENAME COLUMN hidden TO inserted"))
    stages.fail(line, batch_id, "The database failed.")
    assert receipt(line, batch_id).state is State.FAILED
    assert receipt(line, batch_id).rows_unprocessed == 20
    assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.LOADED
    assert count(line, TARGET) == 20


@pytest.mark.parametrize(
    ("changed", "back", "said"),
    [
        (
            "DROP VIEW invoice_summary; ALTER TABLE mangalam_invoices ALTER item_price TYPE numeric(15,1)",
            "ALTER TABLE mangalam_invoices ALTER item_price TYPE numeric(15,4)",
            "item_price is numeric(15,1), which does not hold exactly what files say",
        ),
        (
            "ALTER TABLE mangalam_invoices RENAME TO moved; CREATE VIEW mangalam_invoices AS SELECT * FROM moved",
            "DROP VIEW mangalam_invoices; ALTER TABLE moved RENAME TO mangalam_invoices",
            "public.mangalam_invoices is a view",
        ),
    ],
)
def test_a_table_that_would_hold_other_than_the_file_says_gets_nothing_until_it_is_as_it_was(
    line, instance, changed, back, said
):
    batch_id = drop(line, "a.csv", csv_of([good_row(1, **{"Item Price": "12.3456", "Item Total": "49.38"})]))
    with line.engine.begin() as connection:
        connection.execute(sa.text(changed))
    assert not run(line, batch_id, instance).success
    assert (receipt(line, batch_id).state, count(line, TARGET)) == (State.FAILED, 0)
    assert said in receipt(line, batch_id).reason
    with line.engine.begin() as connection:
        connection.execute(sa.text(back))
    assert run(line, batch_id, instance).success
    assert str(rows(line, f"SELECT item_price FROM {TARGET}")[0][0]) == "12.3456"


def test_rows_load_whatever_somebody_has_made_of_a_table_beside_theirs(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE daily_sales RENAME TO of_days")
        connection.exec_driver_sql("CREATE VIEW daily_sales AS SELECT * FROM of_days")
    assert stages.take(line, drop(line, "a.csv", csv_of([good_row(1)]))).state is State.LOADED


def test_running_a_loaded_batch_again_changes_nothing(line, instance):
    batch_id = drop(line, "a.csv", csv_of(good_row(n) for n in range(20)))
    run(line, batch_id, instance)
    before = rows(line, f"SELECT * FROM {TARGET} ORDER BY id")
    assert run(line, batch_id, instance).success
    account = receipt(line, batch_id)
    assert (account.state, account.rows_inserted) == (State.LOADED, 20)
    assert rows(line, f"SELECT * FROM {TARGET} ORDER BY id") == before


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_a_file_that_still_grows_goes_back_to_the_inbox_and_loads_when_it_is_complete(
    line, instance, monkeypatch, long
):
    if long:
        monkeypatch.setattr(archiving, "WORTH_A_THREAD", 0)
    path = line.home.inbox / "growing.csv"
    path.write_text(csv_of(good_row(n) for n in range(5)))
    batch_id = intake.announce(line, path)
    whole = csv_of(good_row(n) for n in range(9))
    path.write_text(whole)
    assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).state is State.WAITING
    assert path.read_text() == whole
    first = intake.survey(line, {}, lambda _: True)
    (request,) = intake.survey(line, first.seen, lambda _: True).requests
    assert (request.batch_id, request.attempt) == (batch_id, 2)
    assert run(line, batch_id, instance).success
    account = receipt(line, batch_id)
    assert (account.rows_inserted, account.sha256) == (9, hashlib.sha256(whole.encode()).hexdigest())


@pytest.mark.parametrize("name", ["a.csv", "zoho/a.csv"])
def test_a_file_that_waits_while_its_home_is_moved_stays_one_batch_and_loads(line, tmp_path, name):
    (line.home.inbox / name).parent.mkdir(exist_ok=True)
    batch_id = drop(line, name, csv_of(good_row(n) for n in range(20)))
    named_elsewhere = tmp_path / "gone.csv"
    named_elsewhere.write_text("x")
    left = intake.announce(line, named_elsewhere)
    named_elsewhere.unlink()
    now = replace(line, settings=replace(line.settings, home=Home(line.home.root.rename(tmp_path / "moved"))))
    intake.follow(now.engine, now.home.inbox)
    seen = intake.survey(now, {}, lambda _: True).seen
    assert intake.survey(now, seen, lambda _: True).requests == ()
    assert stages.take(now, batch_id).state is State.LOADED
    assert not [path for path in now.home.inbox.rglob("*") if path.is_file()]
    assert ledger.batch(now.engine, left).source == named_elsewhere


def test_the_conservation_law_is_kept_by_the_database_itself(line):
    batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
    with pytest.raises(sa.exc.IntegrityError, match="conservation_law"), line.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bulk_upload.upload_batches SET state = 'loaded', rows_read = 5 WHERE batch_id = :b"
            ),
            {"b": batch_id},
        )


def test_the_receipt_for_programs_says_what_the_database_says(line, instance):
    batch_id = drop(line, "a.csv", csv_of([good_row(1), good_row(2), good_row(3, Quantity="x")]))
    run(line, batch_id, instance)
    stated = json.loads((line.reports(batch_id) / "summary.json").read_text())
    account = receipt(line, batch_id)
    assert (stated["state"], stated["rows_inserted"], stated["sha256"]) == (
        "partially_loaded",
        2,
        account.sha256,
    )
    assert stated["findings_by_code"] == {"INVALID_NUMBER": 1}


def test_a_hostile_file_name_is_only_ever_shown(line, instance):
    name = "'; DROP TABLE mangalam_invoices; -- $(rm) <b>\n\t\U0001f36c.csv"
    batch_id = drop(line, name, csv_of([good_row(1)]))
    assert run(line, batch_id, instance).success
    assert receipt(line, batch_id).file_name == name
    assert (line.home.archive / batch_id / name).exists()
    assert ledger.batch(line.engine, batch_id).state is State.LOADED
