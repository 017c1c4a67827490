"""What is looked at in every batch: each inspection where it finds something, and where it does not."""

import dagster as dg
import sqlalchemy as sa

from bulk_upload_pipeline import evidence, history, inspection, ledger, whereabouts
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs import checks
from bulk_upload_pipeline.history import Past, usual
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline_tests.world import HEADER, csv_of, drop, good_row, run

ZOHO = Overrides(profile="zoho")


def through(line, name, rows, header=HEADER, until="closed"):
    """Take a file down the line without Dagster, and return its batch."""
    batch_id = drop(line, name, csv_of(rows, header), ZOHO)
    stages.upload(line, batch_id)
    if stages.validate(line, batch_id).breaker_tripped or until == "validated":
        return batch_id
    stages.load(line, batch_id)
    stages.close(line, batch_id)
    return batch_id


def inspected(judge, line, batch_id):
    return judge(evidence.of(line.engine, batch_id))


def rows_from(first, count, bad=0):
    return [
        good_row(first + n, **({"Quantity": "twelve", "Item Total": ""} if n < bad else {}))
        for n in range(count)
    ]


def execute(line, *statements):
    with line.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def test_the_gate_is_an_error_only_when_the_breaker_trips(line):
    clean = inspected(inspection.error_rate, line, through(line, "clean.csv", rows_from(0, 4)))
    some = inspected(inspection.error_rate, line, through(line, "some.csv", rows_from(100, 4, bad=1)))
    wrong = inspected(inspection.error_rate, line, through(line, "wrong.csv", rows_from(200, 4, bad=2)))
    assert [(found.passed, found.severe) for found in (clean, some, wrong)] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    assert wrong.words == "2 of 4 rows are rejected (50.0%; the breaker trips at 50%)."


def test_a_file_with_the_columns_of_the_last_one_has_the_usual_shape(line):
    first = through(line, "1.csv", rows_from(0, 2))
    second = through(line, "2.csv", rows_from(10, 2), header=HEADER[::-1])
    assert inspected(inspection.shape, line, first).words == "It is the first file of zoho."
    found = inspected(inspection.shape, line, second)
    assert found.passed
    assert found.numbers["compared_with"] == first


def test_columns_that_are_new_or_gone_are_named(line):
    through(line, "1.csv", rows_from(0, 2), header=(*HEADER, "Brand"))
    second = through(line, "2.csv", rows_from(10, 2), header=(*HEADER, "Shelf"))
    found = inspected(inspection.shape, line, second)
    assert not found.passed
    assert "columns are new: Shelf; gone: Brand." in found.words
    assert (found.numbers["columns_unknown"], found.numbers["columns_mapped"]) == (["Shelf"], len(HEADER))


def test_a_file_is_compared_with_files_that_came_before_it_only(line):
    first = through(line, "1.csv", rows_from(0, 2))
    through(line, "2.csv", rows_from(10, 2), header=(*HEADER, "Shelf"))
    assert inspected(inspection.shape, line, first).words == "It is the first file of zoho."


def a_sender_with(line, files):
    for number in range(files):
        through(line, f"{number}.csv", rows_from(1000 * number, 10 + number))


def test_nothing_is_unusual_before_there_is_a_history(line):
    a_sender_with(line, 4)
    found = inspected(inspection.usual_counts, line, through(line, "much.csv", rows_from(9000, 200)))
    assert (found.passed, found.numbers) == (True, {})


def test_a_file_much_larger_or_much_smaller_than_its_senders_others_stands_out(line):
    a_sender_with(line, 5)
    usual_one = inspected(inspection.usual_counts, line, through(line, "usual.csv", rows_from(9000, 20)))
    large = inspected(inspection.usual_counts, line, through(line, "large.csv", rows_from(10000, 60)))
    small = inspected(inspection.usual_counts, line, through(line, "small.csv", rows_from(20000, 2)))
    assert [found.passed for found in (usual_one, large, small)] == [True, False, False]
    assert "it has 60 rows, where 12 are usual" in large.words
    assert not large.severe


def test_the_past_of_files_that_are_asked_about_together_is_that_of_each_by_itself(line):
    a_sender_with(line, 4)
    batches = [batch.batch_id for batch in whereabouts.receipts(line.engine)]
    together = history.before(line.engine, batches)
    assert together == {batch: history.before(line.engine, [batch])[batch] for batch in batches}
    latest, *_, first = batches
    assert [past.batch_id for past in together[latest]] == batches[1:]
    assert (together[latest][0].header, together[latest][0].rows_read) == (HEADER, 12)
    assert together[first] == []


def test_more_rejected_rows_than_usual_stand_out_even_when_the_file_is_not_loaded(line):
    a_sender_with(line, 5)
    found = inspected(inspection.usual_counts, line, through(line, "bad.csv", rows_from(9000, 12, bad=8)))
    assert not found.passed
    assert found.words.endswith("66.7% of its rows are rejected, where 0.0% are usual.")


def test_a_sender_whose_files_differ_much_is_not_suspected_for_it():
    past = [Past("b", rows, 0, ()) for rows in (10, 100, 1_000, 40, 4_000, 400)]
    assert usual(past).oddities(5_000, 0.01) == []
    assert usual(past[:4]) is None


def test_what_was_loaded_is_what_a_recount_finds(line):
    batch_id = through(line, "1.csv", rows_from(0, 5))
    assert inspected(inspection.control_totals, line, batch_id).passed
    execute(line, "DELETE FROM public.mangalam_invoices WHERE row_number = 3")
    found = inspected(inspection.control_totals, line, batch_id)
    assert (found.passed, found.numbers) == (False, {"rows_in_table": 4, "rows_in_ledger": 5})


def test_rows_that_a_later_file_has_changed_do_not_make_the_recount_of_the_first_disagree(line):
    first = through(line, "1.csv", rows_from(0, 5))
    later = through(line, "2.csv", [row | {"Customer Name": "Gupta"} for row in rows_from(3, 4)])
    for _ in range(2):
        found = inspected(inspection.control_totals, line, first)
        numbers = {"rows_in_table": 3, "rows_in_ledger": 5, "rows_changed_since": 2}
        assert (found.passed, found.numbers) == (True, numbers)
        assert found.words == (
            "mangalam_invoices has 3 rows of this batch and 2 rows that others have changed since, and the ledger "
            "says 5; they agree."
        )
        assert inspected(inspection.control_totals, line, later).passed
        stages.take(line, first)
    execute(line, f"DELETE FROM public.mangalam_invoices WHERE upload_batch_id = '{later}'")
    assert not inspected(inspection.control_totals, line, first).passed


def test_doubles_are_found_when_somebody_took_the_unique_constraint_away(line):
    batch_id = through(line, "1.csv", rows_from(0, 5))
    other = through(line, "2.csv", rows_from(10, 5))
    assert inspected(inspection.keys_unique, line, batch_id).passed
    execute(
        line,
        "ALTER TABLE public.mangalam_invoices DROP CONSTRAINT mangalam_invoices_identity",
        "INSERT INTO public.mangalam_invoices (invoice_number, sku) SELECT invoice_number, sku FROM "
        "public.mangalam_invoices WHERE row_number = 3 AND invoice_number = 'INV-000002'",
    )
    found = inspected(inspection.keys_unique, line, batch_id)
    assert (found.passed, found.severe, found.numbers) == (False, True, {"identities_held_twice": 1})
    assert inspected(inspection.keys_unique, line, other).passed


def billed(number, *lines, subtotal):
    return [
        good_row(
            number,
            **{
                "SKU": f"S-{n}",
                "Quantity": "1",
                "Item Price": total,
                "Item Total": total,
                "SubTotal": subtotal,
            },
        )
        for n, total in enumerate(lines)
    ]


def test_lines_that_do_not_add_up_to_the_invoices_subtotal_are_a_warning(line):
    rows = [
        *billed(1, "10.00", "20.50", subtotal="30.50"),
        *billed(2, "10.00", "20.50", subtotal="31.50"),
        *billed(3, "3.33", "3.33", "3.33", subtotal="10.00"),
    ]
    found = inspected(inspection.subtotals, line, through(line, "1.csv", rows, (*HEADER, "SubTotal")))
    assert (found.passed, found.severe) == (False, False)
    assert found.numbers == {"invoices": 3, "invoices_that_disagree": 1}
    assert "INV-000002: lines 30.50, subtotal 31.50" in found.words


def test_an_invoice_that_comes_in_two_files_adds_up_when_both_are_there(line):
    first, second = ([row] for row in billed(1, "10.00", "20.50", subtotal="30.50"))
    header = (*HEADER, "SubTotal")
    assert not inspected(inspection.subtotals, line, through(line, "1.csv", first, header)).passed
    assert inspected(inspection.subtotals, line, through(line, "2.csv", second, header)).passed
    assert (
        inspected(inspection.subtotals, line, through(line, "3.csv", rows_from(9, 1))).words
        == "The file gives no subtotals."
    )


def test_rows_that_were_not_processed_are_an_error(line):
    batch_id = through(line, "1.csv", rows_from(0, 5), until="validated")
    stages.fail(line, batch_id, "The power went.")
    found = inspected(inspection.nothing_lost, line, batch_id)
    assert (found.passed, found.severe) == (False, True)
    assert ledger.receipt(line.engine, batch_id).state is State.FAILED
    assert inspected(inspection.nothing_lost, line, through(line, "2.csv", rows_from(10, 5))).passed


def test_a_run_shows_for_its_batch_what_the_inspections_say_and_so_does_the_event_of_a_lane(line):
    batch_id = drop(line, "some.csv", csv_of(rows_from(0, 4, bad=1)))
    with dg.DagsterInstance.ephemeral() as instance:
        shown = {e.check_name: e for e in run(line, batch_id, instance).get_asset_check_evaluations()}
    assert set(shown) == {each.name for each in inspection.INSPECTIONS}
    for each in inspection.INSPECTIONS:
        event = checks.evaluation(each, evidence.of(line.engine, batch_id))
        found = shown[each.name]
        assert (event.asset_key, event.partition, event.passed, event.severity, event.description) == (
            found.asset_key,
            found.partition,
            found.passed,
            found.severity,
            found.description,
        )
