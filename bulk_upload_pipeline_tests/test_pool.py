"""The pool of workers: runs go to them through Redis, each file loads once, and a killed worker is replaced."""

import signal

import pytest
import yaml

from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.composed import DOCKER, Deployment
from bulk_upload_pipeline_tests.world import csv_of, good_row

pytestmark = pytest.mark.services

FILES, ROWS = 60, 25
BIG_ROWS = 24_000
HUGE_ROWS = 800_000
OPEN = "SELECT count(*) FROM bulk_upload.upload_batches WHERE state NOT IN ('loaded', 'partially_loaded')"
HELD = "SELECT count(*) FROM runs WHERE status = 'STARTED'"


@pytest.fixture(scope="module")
def deployment():
    with Deployment(
        COMPOSE_PROFILES="workers",
        WORKER_PROCESSES="1",
        BULK_UPLOAD_CHUNK_ROWS="2000",
        BULK_UPLOAD_PART_MB="4",
    ) as running:
        running.start_pool("one", "two")
        yield running


def drop_files(deployment, wave):
    inbox = deployment.data / "inbox"
    inbox.mkdir(exist_ok=True)
    for number in range(FILES):
        rows = [good_row(wave * 100_000 + number * ROWS + row) for row in range(ROWS)]
        unfinished = inbox / f"{wave}-{number}.part"
        unfinished.write_text(csv_of(rows))
        unfinished.rename(inbox / f"{wave}-{number}.csv")


def test_files_are_shared_among_workers_and_each_loads_once(deployment):
    drop_files(deployment, 1)
    deployment.wait(
        lambda: (
            deployment.ask("SELECT count(*) FROM bulk_upload.upload_batches") == [(FILES,)]
            and deployment.ask(OPEN) == [(0,)]
        )
    )
    assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(FILES * ROWS,)]
    assert deployment.ask(
        "SELECT sum(rows_inserted), sum(rows_unchanged) FROM bulk_upload.upload_batches"
    ) == [(FILES * ROWS, 0)]
    for name in ("one", "two"):
        assert "received" in deployment.log(name), f"worker {name} had nothing to do"


def test_a_worker_that_is_killed_in_mid_load_is_replaced(deployment):
    write_sample(deployment.folder / "big.part", rows=BIG_ROWS, seed=3)
    before_rows = deployment.ask("SELECT count(*) FROM public.mangalam_invoices")[0][0]
    before = {name: deployment.log(name).count("received") for name in ("one", "two")}
    (deployment.folder / "big.part").rename(deployment.data / "inbox" / "big.csv")
    working = "SELECT 1 FROM bulk_upload.upload_batches WHERE file_name = 'big.csv' AND state <> 'waiting'"
    deployment.wait(lambda: deployment.ask(working))
    holder = next(name for name in before if deployment.log(name).count("received") > before[name])
    deployment.stop(holder)
    deployment.start("worker", as_name=holder)
    loaded = "SELECT rows_inserted FROM bulk_upload.upload_batches WHERE file_name = 'big.csv' AND state = 'loaded'"
    deployment.wait(lambda: deployment.ask(loaded) == [(BIG_ROWS,)])
    assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(before_rows + BIG_ROWS,)]
    deployment.wait(lambda: deployment.ask(HELD, "DAGSTER", "dagster") == [(0,)])


def test_a_huge_file_is_shared_by_the_workers(deployment):
    before = deployment.ask("SELECT count(*) FROM public.mangalam_invoices")[0][0]
    write_sample(deployment.folder / "huge.part", rows=HUGE_ROWS, seed=9)
    assert (deployment.folder / "huge.part").stat().st_size > 15 * (4 << 20)
    (deployment.folder / "huge.part").rename(deployment.data / "inbox" / "huge.csv")
    loaded = "SELECT rows_inserted FROM bulk_upload.upload_batches WHERE file_name = 'huge.csv' AND state = 'loaded'"
    deployment.wait(lambda: deployment.ask(loaded) == [(HUGE_ROWS,)])
    assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(before + HUGE_ROWS,)]
    helpers = "SELECT DISTINCT status FROM runs WHERE pipeline_name = 'help_with_parts'"
    deployment.wait(lambda: deployment.ask(helpers, "DAGSTER", "dagster") == [("SUCCESS",)])
    told = deployment.ask(
        "SELECT event FROM event_logs WHERE strpos(event, 'It worked on') > 0", "DAGSTER", "dagster"
    )
    assert told
    assert any("It worked on 0 parts" not in event for (event,) in told)
    assert deployment.ask("SELECT count(*) FROM bulk_upload.file_parts") == [(0,)]


def test_a_worker_that_is_told_to_stop_ends_its_run_first(deployment):
    failed = "SELECT count(*) FROM runs WHERE status IN ('FAILURE', 'CANCELED')"
    before = deployment.ask(failed, "DAGSTER", "dagster")
    batches = deployment.ask("SELECT count(*) FROM bulk_upload.upload_batches")[0][0]
    rows = deployment.ask("SELECT count(*) FROM public.mangalam_invoices")[0][0]
    received = deployment.log("two").count("received")
    drop_files(deployment, 2)
    deployment.wait(lambda: deployment.log("two").count("received") > received, "two")
    deployment.stop("two", signal.SIGTERM, 300)
    deployment.wait(
        lambda: (
            deployment.ask("SELECT count(*) FROM bulk_upload.upload_batches") == [(batches + FILES,)]
            and deployment.ask(OPEN) == [(0,)]
        )
    )
    assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(rows + FILES * ROWS,)]
    deployment.wait(lambda: deployment.ask(HELD, "DAGSTER", "dagster") == [(0,)])
    assert deployment.ask(failed, "DAGSTER", "dagster") == before


def test_a_run_is_acknowledged_when_it_starts():
    """Otherwise Celery starts the run of a killed worker again, and Dagster takes it for alive for ever."""
    text = (DOCKER.parent / "bulk_upload_pipeline" / "defs" / "pool.py").read_text()
    assert '"task_acks_late": False' in text
    launcher = yaml.safe_load((DOCKER / "dagster-celery.yaml").read_text())["run_launcher"]["config"]
    assert "task_acks_late" not in launcher["config_source"]
    assert launcher["backend"] == {"env": "BULK_UPLOAD_BROKER_URL"}
