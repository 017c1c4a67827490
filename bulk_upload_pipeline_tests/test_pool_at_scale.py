"""Three hundred small files on two and on four workers that share no disk: their home is a bucket."""

from __future__ import annotations

import pytest

from bulk_upload_pipeline import objects
from bulk_upload_pipeline.places import place_of
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.buckets import BUCKET, object_store
from bulk_upload_pipeline_tests.composed import DOCKER, Deployment
from bulk_upload_pipeline_tests.world import csv_of, good_row

pytestmark = pytest.mark.services

FILES, ROWS = 300, 25
BIG_ROWS = 24_000
ROOT = f"s3://{BUCKET}/home"
OPEN = "SELECT count(*) FROM bulk_upload.upload_batches WHERE state <> 'loaded'"
BATCHES = "SELECT count(*) FROM bulk_upload.upload_batches"
LOADED = "SELECT count(*), count(DISTINCT invoice_number) FROM public.mangalam_invoices"
HELD = "SELECT count(*) FROM runs WHERE status = 'STARTED'"


@pytest.fixture(scope="module")
def deployment():
    with (
        object_store() as store,
        Deployment(
            overlays=("bucket.yaml",),
            COMPOSE_PROFILES="workers",
            WORKER_PROCESSES="1",
            BULK_UPLOAD_CHUNK_ROWS="2000",
            BULK_UPLOAD_BUCKET=ROOT,
        ) as running,
    ):
        (running.folder / "secrets" / "bucket").write_text(
            f"[default]\nregion = {store['AWS_DEFAULT_REGION']}\nendpoint_url = {store['AWS_ENDPOINT_URL']}\n"
            f"aws_access_key_id = {store['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {store['AWS_SECRET_ACCESS_KEY']}\n"
        )
        running.start_pool("one", "two")
        yield running


def drop_files(deployment, wave):
    for number in range(FILES):
        path = deployment.folder / "dropped.csv"
        path.write_text(csv_of([good_row(wave * 100_000 + number * ROWS + row) for row in range(ROWS)]))
        objects.put(path, place_of(f"{ROOT}/inbox/{wave}-{number}.csv"))


def shares(deployment, names, before):
    return {name: deployment.log(name).count("received") - before.get(name, 0) for name in names}


def wait_until_loaded(deployment, batches):
    deployment.wait(lambda: deployment.ask(BATCHES) == [(batches,)] and deployment.ask(OPEN) == [(0,)])


def test_two_workers_load_300_files_once_each(deployment):
    drop_files(deployment, 1)
    wait_until_loaded(deployment, FILES)
    assert deployment.ask(LOADED) == [(FILES * ROWS, FILES * ROWS)]
    assert all(shares(deployment, ("one", "two"), {}).values())
    assert objects.listed(place_of(f"{ROOT}/inbox")) == []
    assert objects.listed(place_of(f"{ROOT}/staging")) == []
    assert len(objects.listed(place_of(f"{ROOT}/archive"))) == FILES
    assert len(objects.listed(place_of(f"{ROOT}/reports"))) == FILES
    for name in ("one", "two"):
        assert list(deployment.disk(name).rglob("*.csv")) == []


def test_four_workers_load_300_more_once_each(deployment):
    workers = ("one", "two", "three", "four")
    before = shares(deployment, workers, {})
    deployment.start_workers("three", "four")
    drop_files(deployment, 2)
    wait_until_loaded(deployment, 2 * FILES)
    assert deployment.ask(LOADED) == [(2 * FILES * ROWS, 2 * FILES * ROWS)]
    assert all(shares(deployment, workers, before).values())


def test_a_worker_that_is_killed_in_mid_load_is_replaced_by_one_with_another_disk(deployment):
    before = shares(deployment, ("one", "two", "three", "four"), {})
    write_sample(deployment.folder / "big.csv", rows=BIG_ROWS, seed=3)
    objects.put(deployment.folder / "big.csv", place_of(f"{ROOT}/inbox/big.csv"))
    chunks = (
        "SELECT count(*) FROM bulk_upload.load_chunks AS c JOIN bulk_upload.upload_batches AS b USING (batch_id) "
        "WHERE b.file_name = 'big.csv' HAVING count(*) > 0"
    )
    deployment.wait(lambda: deployment.ask(chunks))
    holder = next(name for name, count in shares(deployment, before, before).items() if count)
    deployment.stop(holder)
    wait_until_loaded(deployment, 2 * FILES + 1)
    expected = 2 * FILES * ROWS + BIG_ROWS
    assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(expected,)]
    deployment.wait(lambda: deployment.ask(HELD, "DAGSTER", "dagster") == [(0,)])


def test_the_overlay_gives_the_bucket_to_those_who_touch_files():
    import yaml

    overlay = yaml.safe_load((DOCKER / "bucket.yaml").read_text())
    assert set(overlay["services"]) == {"code", "worker"}
