"""The drill: dump, destroy, restore with the commands of docker/README.md, and a half-loaded batch goes on."""

import re
import shlex
import shutil
import subprocess
import time

import psycopg2
import pytest

from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.composed import DOCKER, Deployment

pytestmark = pytest.mark.services

ROWS, CHUNK = 40_000, 1_000
INSIDE = "docker compose exec -T postgres "


def commands(program):
    """The lines of docker/README.md that run a program inside of the container of PostgreSQL."""
    found = re.findall(rf"^    {INSIDE}({program} .*)$", (DOCKER / "README.md").read_text(), re.MULTILINE)
    assert len(found) == 2, program
    return found


def run_inside(deployment, command):
    """Run a command as `docker compose exec` would: the redirection is the host's."""
    command, way, name = re.fullmatch(r"(.*) ([<>]) (\S+)", command).groups()
    host = {"PGHOST": "127.0.0.1", "PGPORT": str(deployment.ports["postgres"])}
    password = {"PGPASSWORD": deployment.variables["POSTGRES_PASSWORD"]}
    with (deployment.folder / name).open("rb" if way == "<" else "wb") as file:
        subprocess.run(
            shlex.split(command),
            env=deployment.environment("postgres") | host | password,
            check=True,
            **{"stdin" if way == "<" else "stdout": file},
        )


def kill_in_mid_load(deployment):
    """Kill the container of the runs when some chunks are committed; return how many."""
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=deployment.ports["postgres"],
        user="bulk_upload_reader",
        password=deployment.variables["READER_PASSWORD"],
        dbname="bulk_upload",
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        deadline = time.monotonic() + 300
        committed = 0
        while not committed:
            cursor.execute("SELECT count(*) FROM bulk_upload.load_chunks")
            (committed,) = cursor.fetchone()
            assert time.monotonic() < deadline
        deployment.stop("code")
        cursor.execute("SELECT count(*) FROM bulk_upload.load_chunks")
        (committed,) = cursor.fetchone()
    connection.close()
    return committed


def test_a_half_loaded_batch_goes_on_after_everything_was_destroyed_and_restored():
    with Deployment(BULK_UPLOAD_CHUNK_ROWS=str(CHUNK)) as deployment:
        for name in ("postgres", "init", "code", "daemon"):
            if name == "init":
                assert deployment.run("init").returncode == 0
                continue
            deployment.start(name)
            deployment.wait_healthy(name)
        (deployment.data / "inbox").mkdir(exist_ok=True)
        write_sample(deployment.folder / "file.part", rows=ROWS, seed=11)
        (deployment.folder / "file.part").rename(deployment.data / "inbox" / "file.csv")
        committed = kill_in_mid_load(deployment)
        assert 0 < committed < ROWS // CHUNK
        deployment.stop("daemon")
        for command in commands("pg_dump"):
            run_inside(deployment, command)
        dumped_at = deployment.ask("SELECT now()")[0][0]
        deployment.end_postgres()
        shutil.rmtree(deployment.folder / "postgres")

        deployment.start("postgres")
        deployment.wait_healthy("postgres")
        assert deployment.run("init").returncode == 0
        for command in commands("pg_restore"):
            run_inside(deployment, command)
        assert deployment.run("init").returncode == 0
        assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(committed * CHUNK,)]
        for name in ("code", "daemon"):
            deployment.start(name)
            deployment.wait_healthy(name)
        state = "SELECT state, rows_inserted FROM bulk_upload.upload_batches"
        deployment.wait(lambda: deployment.ask(state) == [("loaded", ROWS)], "code")
        assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(ROWS,)]
        kept = f"SELECT count(*) FROM bulk_upload.load_chunks WHERE committed_at < '{dumped_at.isoformat()}'"
        assert deployment.ask(kept) == [(committed,)]
