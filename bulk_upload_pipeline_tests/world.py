"""What many tests need: a line over a fresh database and home, files to load, and what became of them."""

from __future__ import annotations

import csv
import io
from contextlib import contextmanager

import dagster as dg
import sqlalchemy as sa

from bulk_upload_pipeline import intake, ledger, storage
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline.workplace import Line

HEADER = (
    "Invoice Number",
    "Invoice Date",
    "Customer Name",
    "SKU",
    "Item Name",
    "Quantity",
    "Item Price",
    "Item Total",
)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def good_row(number, **changed):
    """A clean row of `HEADER`; every number gives another invoice."""
    row = {
        "Invoice Number": f"INV-{number:06}",
        "Invoice Date": "2024-12-31",
        "Customer Name": "Sharma Sweets",
        "SKU": f"KK-{number % 50:03}",
        "Item Name": "Kaju Katli, 500 g",
        "Quantity": "4",
        "Item Price": "12.50",
        "Item Total": "50.00",
    }
    return row | changed


def csv_of(rows, header=HEADER):
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def line_at(root, database_url, **settings):
    """A line on a home of its own."""
    home = Home(root)
    home.make()
    engine = make_engine(database_url)
    try:
        with storage.opened(Settings(home, database_url, **settings)) as opened:
            yield Line(opened, engine)
    finally:
        engine.dispose()


def drop(line, name, content, overrides=None):
    """Put a file into the inbox and make it a batch, as the sensor does."""
    path = line.home.inbox / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return intake.announce(line, path, overrides)


def through(line, name, rows):
    """Drop a file and take it down the line stage by stage; every stage must let it pass."""
    batch_id = drop(line, name, csv_of(rows))
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    stages.load(line, batch_id)
    stages.close(line, batch_id)
    return batch_id


def settled(line):
    """Two looks, as the sensor's, and what is to be started after them."""
    first = intake.survey(line, {}, lambda _: False)
    return intake.survey(line, first.seen, lambda _: False).requests


def run(line, batch_id, instance):
    """Run `load_batch` for a batch and return Dagster's result."""
    instance.add_dynamic_partitions("batches", [batch_id])
    return defs.resolve_job_def("load_batch").execute_in_process(
        instance=instance,
        partition_key=batch_id,
        resources={"line": line},
        run_config=QUIET,
        raise_on_error=False,
    )


def receipt(line, batch_id):
    return ledger.receipt(line.engine, batch_id)


def rows(line, query, **parameters):
    """Rows of a query, as plain tuples."""
    with line.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), parameters)]


def count(line, table):
    return rows(line, f"SELECT count(*) FROM {table}")[0][0]


def ephemeral():
    return dg.DagsterInstance.ephemeral()
