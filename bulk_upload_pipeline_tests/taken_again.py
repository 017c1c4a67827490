"""Batches that are taken again, of a sender whose profile may change meanwhile."""

from __future__ import annotations

import json

import dagster as dg

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline_tests.correcting import as_csv
from bulk_upload_pipeline_tests.world import drop

OWN = {
    "invoice_number": "No",
    "invoice_date": "Day",
    "customer_name": "Who",
    "quantity": "Qty",
    "item_price": "Price",
    "sku": "Art",
}


def load(line, name, content):
    return stages.take(line, drop(line, name, content))


def again(line, batch_id):
    """What `bulk-upload retry` does, without Dagster."""
    return stages.take(line, batch_id)


def judged(line, name, text):
    batch_id = drop(line, name, text)
    stages.upload(line, batch_id)
    stages.validate(line, batch_id)
    return batch_id


def own_profile(line, *more, **columns):
    names = "\n".join(f'{name} = ["{title}"]' for name, title in (OWN | columns).items())
    text = "\n".join(('name = "own"', *more, "[columns]", names))
    (line.home.profiles / "own.toml").write_text(text)


def own_row(number, day="2024-12-31", **changed):
    return {"No": f"A{number}", "Day": day, "Who": "S", "Qty": "2", "Price": "5", "Art": "X"} | changed


def own_csv(*found):
    return as_csv(list(found))


def told(result):
    return json.loads(result.stdout)


def state_shown(batch_id):
    """The state on the latest receipt that Dagster shows of a batch."""
    of_batch = dg.AssetRecordsFilter(dg.AssetKey("upload_receipts"), asset_partitions=[batch_id])
    with dg.DagsterInstance.get() as instance:
        shown = instance.fetch_materializations(of_batch, limit=1).records[0]
    return shown.asset_materialization.metadata["state"].value
