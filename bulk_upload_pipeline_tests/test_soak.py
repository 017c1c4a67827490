"""`bulk-upload up` under fire: any of its processes is killed at any moment, and nobody has to do anything.

`pytest -n0 -m soak bulk_upload_pipeline_tests/test_soak.py`; SOAK_ROUNDS, SOAK_SEED and SOAK_ROWS choose how often,
which and how much. The seed is printed, and stands in the name of the test.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from itertools import islice

import psutil
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.serving import cluster, processes
from bulk_upload_pipeline_tests.upped import COMMAND, ROOT, database_url, upped, wait_until
from bulk_upload_pipeline_tests.world import HEADER

pytestmark = pytest.mark.soak

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.randrange(1, 2**32)
ROWS = int(os.environ.get("SOAK_ROWS", "300000"))
PATIENCE = 900
SERVICES = {"code server": "api", "daemon": "dagster._daemon", "webserver": "dagster_webserver"}
VICTIMS = ("worker", *SERVICES, "PostgreSQL")
ENDED = "('SUCCESS', 'FAILURE', 'CANCELED')"


def write_file(inbox, number):
    """A file of `ROWS` clean rows that no other round has, which appears when it is complete."""
    unfinished = inbox / f"{name_of(number)}.part"
    with unfinished.open("w") as file:
        file.write(",".join(HEADER) + "\n")
        file.writelines(
            f"R{number:03}-{row // 5:06},2024-12-31,Sharma Sweets,S-{row:06},Kaju Katli,4,12.50,50.00\n"
            for row in range(ROWS)
        )
    unfinished.rename(inbox / name_of(number))


def name_of(number):
    return f"round-{number}.csv"


class UnderFire:
    """An `up`, and eyes on it that see through what happens to it."""

    def __init__(self, up):
        self.up, self.home = up, up.home
        self.invoices = up.engine
        self.dagster = make_engine(database_url(up.home).set(database="dagster"))

    def ask(self, query, engine=None, **values):
        """The rows of a query, as soon as PostgreSQL answers it."""

        def answer():
            try:
                with (engine or self.invoices).connect() as connection:
                    return ([tuple(row) for row in connection.execute(sa.text(query), values)],)
            except sa.exc.OperationalError:
                return None  # it is being started again

        return wait_until(answer, 120)[0]

    def living(self, victim):
        """The processes that are called so and live now."""
        if victim == "worker":
            return processes.runs_of(self.home.root)
        if victim == "PostgreSQL":
            server = cluster.postmaster_of(cluster.cluster_in(self.home.postgres))
            return [psutil.Process(server.pid)] if server else []
        return [p for p in processes.marked(self.home.root) if SERVICES[victim] in command_of(p)]

    def batch(self, number):
        """A round's batch as its receipt has it; None before the file is known."""
        found = self.ask(
            "SELECT batch_id, state, rows_read, rows_inserted, rows_unprocessed, reason "
            "FROM bulk_upload.upload_batches WHERE file_name = :name",
            name=name_of(number),
        )
        return found[0] if found else None

    def is_over(self, number):
        """Whether a round's batch is loaded, and no run is under way that could change anything."""
        running = f"SELECT count(*) FROM runs WHERE status NOT IN {ENDED}"
        return self.is_loaded(number) and self.ask(running, self.dagster) == [(0,)]

    def is_loaded(self, number):
        found = self.batch(number)
        return found is not None and found[1] in ("loaded", "partially_loaded")

    def connections(self):
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        return self.ask(query)[0][0]


def command_of(process):
    """The arguments of a service; nothing for one that ended, and for its children, which have others."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return []
    return command if "-c" in command else []


@pytest.fixture
def fire(tmp_path):
    with upped(tmp_path / "home") as up:
        fire = UnderFire(up)
        yield fire
        fire.dagster.dispose()
        assert up.stop() == 0
        assert not processes.marked(up.home.root)


def victims(chance):
    """Each kind of process as often as any other, in an order by chance."""
    while True:
        yield from chance.sample(VICTIMS, len(VICTIMS))


@pytest.mark.parametrize("seed", [SEED])
def test_whatever_is_killed_whenever_nothing_is_lost_or_doubled(fire, seed, capsys):
    chance = random.Random(seed)
    tell(capsys, f"SOAK_SEED={seed} SOAK_ROUNDS={ROUNDS} SOAK_ROWS={ROWS}")
    took = play(fire, 0)
    before = fire.connections()
    tell(capsys, f"undisturbed: {took:.0f} s, {before} connections")
    for number, victim in enumerate(islice(victims(chance), ROUNDS), start=1):
        moment = chance.uniform(0, took)
        lasted = play(fire, number, victim, moment)
        tell(capsys, f"{number}: {victim} killed after {moment:.1f} s; loaded after {lasted:.0f} s")
    nothing_is_left(fire, before)


CANCEL = """
mutation ($run: String!) { terminateRun(runId: $run) { __typename ... on PythonError { message } } }
"""


def test_a_run_that_is_cancelled_in_the_ui_leaves_a_consistent_batch_that_retry_finishes(fire):
    write_file(fire.home.inbox, 1)
    chunks = "SELECT run_id FROM bulk_upload.load_chunks JOIN bulk_upload.upload_batches USING (batch_id)"
    (run_id,) = wait_until(lambda: fire.ask(chunks), 300)[0]
    assert fire.up.ask(CANCEL, run=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    batch_id, _, read, inserted, unprocessed, reason = wait_until(lambda: failed(fire, 1), PATIENCE)
    assert f"`bulk-upload retry {batch_id}` finishes it" in reason or "can be retried" in reason
    assert (read, inserted + unprocessed) == (ROWS, ROWS)
    assert 0 < inserted < ROWS
    assert fire.ask("SELECT count(*) FROM mangalam_invoices") == [(inserted,)]
    wait_until(lambda: fire.up.run(run_id)[0] == "CANCELED", 60)
    environment = {**os.environ, "BULK_UPLOAD_HOME": str(fire.home.root)}
    retry = subprocess.run([*COMMAND, "retry", batch_id], env=environment, cwd=ROOT, timeout=300, check=False)
    assert retry.returncode == 0
    judge(fire, 1)


def failed(fire, number):
    found = fire.batch(number)
    return found if found and found[1] == "failed" else None


def tell(capsys, text):
    with capsys.disabled():
        sys.stdout.write(f"\n{text}")
        sys.stdout.flush()


def play(fire, number, victim=None, moment=0.0):
    """Let a file be loaded, kill the victim at a moment of it, and return how many seconds it took."""
    write_file(fire.home.inbox, number)
    wait_until(lambda: fire.batch(number), 300)
    begun = time.monotonic()
    if victim is not None:
        time.sleep(moment)
        # The worker may not be there yet, or not any more.
        wait_until(lambda: fire.living(victim) or fire.is_loaded(number), PATIENCE)
        for process in fire.living(victim):
            process.kill()
    wait_until(lambda: fire.is_over(number), PATIENCE)
    lasted = time.monotonic() - begun
    judge(fire, number)
    return lasted


def judge(fire, number):
    """The batch is as if nobody had been killed: each row once, each chunk once, one receipt."""
    batch_id, state, read, inserted, unprocessed, reason = fire.batch(number)
    assert (state, read, inserted, unprocessed) == ("loaded", ROWS, ROWS, 0), reason
    assert fire.ask(
        "SELECT count(*), count(DISTINCT row_number), sum(quantity), sum(item_total), min(row_number), "
        "max(row_number) FROM mangalam_invoices WHERE upload_batch_id = :batch",
        batch=batch_id,
    ) == [(ROWS, ROWS, 4 * ROWS, 50 * ROWS, 1, ROWS)]
    assert fire.ask(
        "SELECT sum(inserted) FROM bulk_upload.load_chunks WHERE batch_id = :batch", batch=batch_id
    ) == [(ROWS,)]
    assert (fire.home.archive / batch_id / name_of(number)).exists()
    reports = sorted(path.name for path in (fire.home.reports / batch_id).iterdir())
    assert reports == ["summary.html", "summary.json"]


def nothing_is_left(fire, before):
    """No staging, no file in the inbox, no lock, no open transaction, and no connection more than at first."""
    assert fire.ask("SELECT count(*) FROM mangalam_invoices") == [(ROWS * (ROUNDS + 1),)]
    assert fire.ask("SELECT count(*) FROM bulk_upload.upload_batches") == [(ROUNDS + 1,)]
    wait_until(lambda: not list(fire.home.staging.iterdir()), 180)
    assert not list(fire.home.inbox.iterdir())
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    wait_until(lambda: fire.ask(locks) == [(0,)], 60)
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    wait_until(lambda: fire.ask(idle) == [(0,)], 60)
    wait_until(lambda: fire.connections() <= before, 120)
