"""Rows that are staged for a load, and what the target, the chunk ledger and the findings hold after it."""

from collections import Counter
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.found import FoundWriter
from bulk_upload_pipeline.load import load_staged
from bulk_upload_pipeline.model import Totals
from bulk_upload_pipeline.staged import OCCURRENCES_SCHEMA, StagedBatch, valid_writer

UPDATE, SKIP, REJECT = "update", "skip", "reject"
POSITIVE = "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT positive CHECK (quantity > 0)"


@pytest.fixture
def stage(tmp_path):
    """Stage rows (dicts of the contract's columns) in chunks of `size`."""
    numbers = iter(range(1_000_000))

    def stage(rows, size=50_000):
        return write_staged(tmp_path / f"staged-{next(numbers)}", rows, size)

    return stage


def write_staged(folder, rows, size):
    folder.mkdir()
    repeats, seen = [], Counter()
    for number, row in enumerate(rows, start=1):
        key = tuple(row.get(name) for name in contract.IDENTITY[:3])
        seen[key] += 1
        if seen[key] > 1:
            repeats.append({"row_number": number, "line_occurrence": seen[key]})
    table = pa.Table.from_pylist(
        [{"row_number": number, **row} for number, row in enumerate(rows, start=1)],
        schema=contract.STAGED_SCHEMA,
    )
    write_table(folder, table, pa.Table.from_pylist(repeats, schema=OCCURRENCES_SCHEMA), size)
    return StagedBatch(folder)


def write_table(folder, table, occurrences, size):
    with pa.OSFile(str(folder / "valid.arrow"), "wb") as file, valid_writer(file) as writer:
        for start in range(0, table.num_rows, size):
            writer.write_table(table.slice(start, size).combine_chunks())
    FoundWriter(folder).close()
    pq.write_table(occurrences, folder / "occurrences.parquet")


def line(number, sku="S-1", *, quantity="2", price="10.50", **values):
    quantity, price = Decimal(quantity), Decimal(price)
    return {
        "invoice_number": number,
        "invoice_date": date(2024, 12, 31),
        "customer_name": "Sharma Sweets",
        "quantity": quantity,
        "item_price": price,
        "item_total": quantity * price,
        "sku": sku,
        **values,
    }


def lines(count, **values):
    return [line(f"INV-{number}", **values) for number in range(1, count + 1)]


def load(engine, staged, batch_id="b1", policy=UPDATE, plan="plan", **options):
    return load_staged(engine, batch_id, staged, plan, policy, **options)


def counts(result):
    return (result.inserted, result.updated, result.unchanged, result.refused)


def query(engine, statement, **values):
    with engine.connect() as connection:
        return connection.execute(sa.text(statement), values).all()


def execute(engine, *statements):
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def table(engine):
    """The target without what PostgreSQL sets itself, by identity."""
    names = (*contract.NAMES, "extra", "line_occurrence", "upload_batch_id", "row_number")
    rows = query(engine, f"SELECT {', '.join(names)} FROM public.mangalam_invoices")
    found = {tuple(row._mapping[name] for name in contract.IDENTITY): dict(row._mapping) for row in rows}
    assert len(found) == len(rows)
    return found


def recounted(engine):
    return Totals(
        *query(
            engine,
            "SELECT coalesce(sum(quantity), 0), coalesce(sum(item_total), 0) FROM public.mangalam_invoices",
        )[0]
    )


def ledger(engine):
    return query(engine, "SELECT chunk_index, path, rows FROM bulk_upload.load_chunks ORDER BY 1")


def errors(engine):
    return query(
        engine,
        "SELECT row_number, error_code, severity, error_message, line_occurrence "
        "FROM bulk_upload.processing_errors ORDER BY row_number",
    )


def trigger(body):
    return (
        "CREATE FUNCTION public.guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body} RETURN NEW; END $$",
        "CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON public.mangalam_invoices "
        "FOR EACH ROW EXECUTE FUNCTION public.guard()",
    )
