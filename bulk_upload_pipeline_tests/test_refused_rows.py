"""Rows that the database refuses by a rule of somebody else: they are isolated, and the rest loads."""

from decimal import Decimal

import psycopg2
import pytest

from bulk_upload_pipeline.model import Totals
from bulk_upload_pipeline_tests.staged_rows import (
    POSITIVE,
    counts,
    errors,
    execute,
    ledger,
    line,
    lines,
    load,
    query,
    recounted,
    stage,
    table,
    trigger,
)

__all__ = ["stage"]


NARROW = "ALTER TABLE public.mangalam_invoices ALTER COLUMN brand TYPE varchar(3)"

FOREIGN = (
    "CREATE TABLE public.brands (brand varchar(200) PRIMARY KEY)",
    "INSERT INTO public.brands VALUES ('ok')",
    "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT known_brand "
    "FOREIGN KEY (brand) REFERENCES public.brands",
)

DEFERRED = (*FOREIGN[:2], FOREIGN[2] + " DEFERRABLE INITIALLY DEFERRED")

UNIQUE = "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT one_order UNIQUE (purchase_order)"


RAISING = trigger("IF NEW.quantity < 0 THEN RAISE EXCEPTION 'no credits in %%', NEW.invoice_number; END IF;")

SKIPPING = trigger("IF NEW.quantity < 0 THEN RETURN NULL; END IF;")


@pytest.mark.parametrize(
    ("rule", "bad", "reason"),
    [
        ([POSITIVE], {"quantity": "-1"}, '"positive"'),
        (RAISING, {"quantity": "-1"}, "no credits in BAD-"),
        (SKIPPING, {"quantity": "-1"}, "trigger"),
        (FOREIGN, {"brand": "unknown"}, '"known_brand"'),
        (DEFERRED, {"brand": "unknown"}, '"known_brand"'),
        ([NARROW], {"brand": "Haldiram"}, "too long"),
        ([UNIQUE], {"purchase_order": "PO-1"}, '"one_order"'),
    ],
)
def test_rows_that_the_database_refuses_are_isolated_and_the_rest_loads(engine, stage, rule, bad, reason):
    execute(
        engine, "INSERT INTO public.mangalam_invoices (invoice_number, purchase_order) VALUES ('x', 'PO-1')"
    )
    execute(engine, *rule)
    rows = lines(40)
    for at in (3, 4, 27, 39):
        rows[at] = line(f"BAD-{at}", **bad)
    result = load(engine, stage(rows, size=25))
    assert counts(result) == (36, 0, 0, 4)
    assert result.totals == Totals(Decimal(72), Decimal(756))
    assert len(table(engine)) == 37
    assert [row[:3] for row in errors(engine)] == [
        (n, "REFUSED_BY_DATABASE", "error") for n in (4, 5, 28, 40)
    ]
    assert all(
        row[3].startswith("The database refused the row: ") and reason in row[3] for row in errors(engine)
    )
    assert query(engine, "SELECT sum(rows), sum(refused) FROM bulk_upload.load_chunks") == [(40, 4)]


def test_an_update_that_the_database_refuses_leaves_the_row_as_it_was(engine, stage):
    load(engine, stage(lines(10)))
    execute(engine, POSITIVE)
    rows = [line(f"INV-{n}", quantity="-1" if n == 7 else "5") for n in range(1, 11)]
    assert counts(load(engine, stage(rows), batch_id="b2")) == (0, 9, 0, 1)
    assert table(engine)["INV-7", None, "S-1", 1]["quantity"] == 2


def test_a_trigger_that_changes_rows_does_not_make_them_updates(engine, stage):
    load(engine, stage(lines(1)))
    execute(engine, *trigger("NEW.brand := 'Mangalam'; NEW.quantity := 7;"))
    result = load(engine, stage(lines(10)), batch_id="b2")
    assert counts(result) == (9, 0, 1, 0)
    assert result.totals.quantity == recounted(engine).quantity == 65


def test_a_database_without_the_target_is_an_error_and_no_refusal(engine, stage):
    execute(engine, "ALTER TABLE public.mangalam_invoices RENAME TO elsewhere")
    with pytest.raises(psycopg2.errors.UndefinedTable):
        load(engine, stage(lines(30), size=10))
    assert errors(engine) == ledger(engine) == []
