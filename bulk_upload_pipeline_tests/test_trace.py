"""What made an invoice what it is, told from the rows, the ledger and what reverts leave behind."""

import json
from decimal import Decimal

import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline import trace as tracing
from bulk_upload_pipeline.exceptions import InvoiceNotFoundError
from bulk_upload_pipeline.revert import revert
from bulk_upload_pipeline.trace import in_words, trace
from bulk_upload_pipeline.upgrading import schema
from bulk_upload_pipeline_tests.correcting import as_csv, rejected
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, through
from bulk_upload_pipeline_tests.writers import xlsx_of


def bill(sku, **changed):
    return good_row(1, **({"SKU": sku, "Item Name": f"Item {sku}"} | changed))


def happened(found):
    return [(event.what, event.batch_id, event.row_number) for event in found.events]


def test_each_line_is_traced_to_its_file_and_row(line):
    first = through(line, "a.csv", [good_row(7), bill("A"), bill("B")])
    second = through(line, "b.csv", [bill("C")])
    found = trace(line.engine, "INV-000001")
    assert happened(found) == [("inserted", first, 2), ("inserted", first, 3), ("inserted", second, 1)]
    assert [source.file_name for source in found.sources.values()] == ["a.csv", "b.csv"]
    assert [(row["sku"], row["upload_batch_id"], row["row_number"]) for row in found.lines] == [
        ("A", first, 2),
        ("B", first, 3),
        ("C", second, 1),
    ]
    assert found.lines[0]["item_total"] == Decimal("50.0000")


def test_a_change_names_the_values_before_and_after_it(line):
    first = through(line, "a.csv", [bill("A")])
    second = through(line, "b.csv", [good_row(9), bill("A", Quantity="5", **{"Item Total": "62.50"})])
    third = through(line, "c.csv", [good_row(8), bill("A", Quantity="5", **{"Item Total": "62.50"})])
    fourth = through(line, "d.csv", [bill("A", **{"Customer Name": "Gupta"})])
    found = trace(line.engine, "INV-000001")
    assert happened(found) == [("inserted", first, 1), ("changed", second, 2), ("changed", fourth, 1)]
    assert [event.words for event in found.events] == [
        "4 x 12.5 = 50",
        "quantity 4 -> 5, item_total 50 -> 62.5",
        "quantity 5 -> 4, item_total 62.5 -> 50, customer_name Sharma Sweets -> Gupta",
    ]
    assert third not in found.sources


def test_rejected_rows_and_who_corrected_them_belong_to_the_story(line):
    first = through(line, "a.csv", [bill("A"), bill("B", Quantity="12abc"), good_row(9), good_row(10)])
    second = through(line, "corrected.csv", [bill("B")])
    with line.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE bulk_upload.processing_errors SET is_resolved = true, resolved_by_batch = :by;"
                "UPDATE bulk_upload.upload_batches SET parent_batch_id = :parent WHERE batch_id = :by"
            ),
            {"by": second, "parent": first},
        )
    found = trace(line.engine, "INV-000001")
    assert sorted(happened(found)) == sorted(
        [("inserted", first, 1), ("rejected", first, 2), ("inserted", second, 1)]
    )
    (rejected,) = (event for event in found.events if event.what == "rejected")
    assert (rejected.resolved_by, rejected.words.startswith("INVALID_NUMBER: ")) == (second, True)
    assert found.sources[second].corrects == first


def test_a_rejected_row_belongs_to_its_invoice_however_its_number_is_written(line):
    row = bill("A", Quantity="12abc", **{"Invoice Number": "\u00a0INV-\u0007000001\t"})
    content = csv_of([row, good_row(7), good_row(8)])
    batch_id = drop(line, "a.csv", content)
    stages.take(line, batch_id)
    found = trace(line.engine, "INV-000001")
    assert ("rejected", batch_id, 1) in happened(found)


def test_a_row_that_the_database_refuses_belongs_to_its_invoice(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE public.mangalam_invoices ADD CHECK (sku <> 'A')")
    batch_id = through(line, "a.csv", [bill("A"), bill("B"), good_row(9)])
    found = trace(line.engine, "INV-000001")
    assert sorted(happened(found)) == [("inserted", batch_id, 2), ("rejected", batch_id, 1)]


def test_what_was_rejected_before_findings_named_their_invoice_is_in_its_story(line):
    from alembic import command

    batch_id = through(line, "a.csv", [bill("A", Quantity="12abc"), good_row(9), good_row(10)])
    with line.engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0016")
    with line.engine.begin() as connection:
        command.upgrade(schema.migration_config(connection), "head")
    assert happened(trace(line.engine, "INV-000001")) == [("rejected", batch_id, 1)]


def test_the_story_of_an_invoice_is_found_without_reading_those_of_others(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.processing_errors (batch_id, row_number, error_code, severity, error_message, "
            "invoice_number) SELECT 'batch', i, 'INVALID_NUMBER', 'error', repeat('so ', 300), 'INV-' || i "
            "FROM generate_series(1, 20000) AS i;"
            "INSERT INTO public.mangalam_invoices (invoice_number) "
            "SELECT 'INV-' || i FROM generate_series(1, 20000) AS i;"
            "INSERT INTO bulk_upload.former_rows (batch_id, target_id, former) "
            "SELECT 'batch-' || mod(id, 7000), id, '{}' FROM public.mangalam_invoices"
        )
    with line.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        for query in (tracing._FINDINGS, tracing._LINES, tracing._FORMER):
            explained = sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
            plan = json.dumps(connection.scalar(explained, {"number": "INV-7"}))
            assert "Seq Scan" not in plan, plan


def test_an_invoice_of_which_every_line_was_rejected_has_a_story_without_lines(line):
    bad = bill("A", Quantity="0")
    batch_id = through(line, "a.csv", [bad, *(good_row(n) for n in range(5, 9))])
    found = trace(line.engine, "INV-000001")
    assert (happened(found), found.lines) == ([("rejected", batch_id, 1)], ())
    assert in_words(found).endswith("Now: nothing.")


def test_a_revert_is_remembered_with_what_it_took_back(line):
    first = through(line, "a.csv", [bill("A")])
    second = through(line, "b.csv", [bill("A", Quantity="5", **{"Item Total": "62.50"}), bill("B")])
    revert(line.engine, second)
    found = trace(line.engine, "INV-000001")
    assert happened(found) == [("inserted", first, 1), ("reverted", second, None)]
    assert found.events[1].words == "1 line taken back, 1 restored to their former values"
    revert(line.engine, first)
    found = trace(line.engine, "INV-000001")
    assert happened(found) == [("reverted", second, None), ("reverted", first, None)]


def test_lines_of_no_batch_are_named_so(line):
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO public.mangalam_invoices (invoice_number, sku, quantity, item_price, item_total) "
            "VALUES ('INV-000001', 'A', 4, 12.5, 49)"
        )
    second = through(line, "b.csv", [bill("A")])
    found = trace(line.engine, "INV-000001")
    assert happened(found) == [("inserted", None, None), ("changed", second, 1)]
    assert "before there were batches" in in_words(found)


def test_the_story_reads_as_text(line):
    first = through(line, "a.csv", [bill("A"), bill("B", Quantity="12abc"), good_row(9), good_row(10)])
    text = in_words(trace(line.engine, "INV-000001")).splitlines()
    assert text[0] == "Invoice INV-000001: 1 line stands in mangalam_invoices."
    assert text[2].endswith(f"  a.csv (batch {first}, partially_loaded)")
    assert text[3].startswith("  row 2 rejected: INVALID_NUMBER: ")
    assert text[4] == "  row 1 inserted Item A: 4 x 12.5 = 50"
    assert text[-1] == "  Item A: 4 x 12.5 = 50, from row 1 of a.csv"


def test_a_corrected_line_is_traced_to_its_row_in_the_file_that_was_corrected(line):
    good = [good_row(n) for n in range(20, 30)]
    first = stages.take(line, drop(line, "s1.csv", csv_of([*good, good_row(1, Quantity="12abc")])))
    still_bad = [row | {"Quantity": "13abc"} for row in rejected(line, first.batch_id)]
    second = stages.take(line, drop(line, "first try.csv", as_csv([*still_bad])))
    mended = [row | {"Quantity": "4"} for row in rejected(line, second.batch_id)]
    third = stages.take(line, drop(line, "second try.csv", as_csv(mended)))
    found = trace(line.engine, "INV-000001")
    assert list(found.sources) == [first.batch_id, second.batch_id, third.batch_id]
    text = in_words(found)
    assert text.endswith("50, from row 11 of s1.csv, corrected in second try.csv")
    assert "\n  row 11 of s1.csv inserted Kaju Katli, 500 g: 4 x 12.5 = 50\n" in text


def test_a_row_of_a_correction_that_corrects_none_is_traced_to_that_file_itself(line):
    good = [good_row(n) for n in range(20, 30)]
    first = stages.take(line, drop(line, "s1.csv", csv_of([*good, good_row(1, Quantity="12abc")])))
    (row,) = rejected(line, first.batch_id)
    stray = row | {"Quantity": "4", "_row_number": "3"}
    stages.take(line, drop(line, "copied.csv", as_csv([stray, row | {"Quantity": "4"}, row])))
    text = in_words(trace(line.engine, "INV-000001"))
    assert "\n  row 11 rejected: INVALID_NUMBER" in text
    assert "\n  row 1 of copied.csv rejected: NO_ORIGIN" in text
    assert "\n  row 2 of copied.csv rejected: CORRECTED_TWICE" in text
    assert "\n  row 3 of copied.csv rejected: INVALID_NUMBER" in text


def test_a_line_of_a_workbook_is_traced_to_its_sheet_and_the_row_there(line):
    january = [list(HEADER), *(list(good_row(n).values()) for n in range(20, 30))]
    february = [list(HEADER), list(bill("A").values()), list(bill("B", Quantity="x").values())]
    first = stages.take(line, drop(line, "y.xlsx", xlsx_of({"Jan": january, "Feb": february})))
    (row,) = rejected(line, first.batch_id)
    stages.take(line, drop(line, "fixed.csv", as_csv([row | {"Quantity": "4"}])))
    text = in_words(trace(line.engine, "INV-000001"))
    assert "\n  row 2 of the sheet 'Feb' inserted Item A: " in text
    assert "\n  row 3 of the sheet 'Feb' rejected: INVALID_NUMBER" in text
    assert "\n  row 3 of the sheet 'Feb' of y.xlsx inserted Item B: " in text
    assert text.endswith("from row 3 of the sheet 'Feb' of y.xlsx, corrected in fixed.csv")


def test_an_invoice_that_nobody_knows_is_named_in_a_sentence(line):
    through(line, "a.csv", [bill("A")])
    with pytest.raises(InvoiceNotFoundError, match="No line of an invoice 'inv-1' was ever"):
        trace(line.engine, "inv-1")


def test_the_command_prints_the_story_as_json(line, monkeypatch):
    from click.testing import CliRunner

    from bulk_upload_pipeline.cli import main

    batch_id = through(line, "a.csv", [bill("A")])
    url = line.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", url)
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(line.home.root))
    done = CliRunner().invoke(main, ["trace", "INV-000001", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["events"][0]["batch_id"] == batch_id
    assert told["lines"][0]["item_total"] == "50.0000"
    unknown = CliRunner().invoke(main, ["trace", "nothing"])
    assert (unknown.exit_code, len(unknown.stderr.splitlines())) == (2, 1)
