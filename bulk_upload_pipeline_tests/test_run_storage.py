"""Dagster's storage by connections that are held: whatever ends them, nobody who asks it notices."""

import gc
import itertools
import os
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import click
import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy.exc import DBAPIError, OperationalError

from bulk_upload_pipeline.commands.frame import Commands
from bulk_upload_pipeline.defs import run_storage
from bulk_upload_pipeline.defs.resources import living
from bulk_upload_pipeline.defs.run_storage import HELD, TABLES, VANISHED_AFTER_MS, HeldStorage
from bulk_upload_pipeline.local import dagster_yaml
from bulk_upload_pipeline.serving import cluster, embedded
from bulk_upload_pipeline_tests.upped import free_port, wait_until
from bulk_upload_pipeline_tests.world import QUIET

_numbers = itertools.count(1)
AT_ONCE = 3 * HELD


@pytest.fixture
def empty(postgres_url, administer):
    """URL of a database of which Dagster knows nothing."""
    name = f"held_{next(_numbers)}"
    administer(f"CREATE DATABASE {name}")
    yield postgres_url.set(database=name).render_as_string(hide_password=False)
    administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def filled(postgres_url, administer):
    """URL of a database that has Dagster's tables."""
    administer("CREATE DATABASE held")
    url = postgres_url.set(database="held").render_as_string(hide_password=False)
    HeldStorage(url)
    yield url
    administer("DROP DATABASE held WITH (FORCE)")


@pytest.fixture
def servers(administer):
    """The server processes that Dagster has on a database, and whether they shall end."""

    def found(url, *, end=False):
        what = "pg_terminate_backend(pid, 5000)" if end else "true"
        query = (
            f"SELECT pid, {what} FROM pg_stat_activity "
            f"WHERE datname = '{sa.make_url(url).database}' AND backend_type = 'client backend'"
        )
        return {pid for pid, _ in administer(query)}

    return found


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """URL of a database on a server of this room's own, which is asked over TCP, and its cluster."""
    folder, port = tmp_path_factory.mktemp("own") / "postgres", free_port()
    with embedded.in_use(folder) as first:
        ours = cluster.cluster_in(folder.resolve())
        with (folder / "postgresql.conf").open("a") as configuration:
            configuration.write(f"listen_addresses = '127.0.0.1'\nport = {port}\n")
        cluster.stop(ours)
        cluster.started(ours)
        url = first.set(host="127.0.0.1", port=port, query={})
        yield url.render_as_string(hide_password=False), ours


def ask(storage):
    """Ask each part of a storage."""
    return (
        storage.run_storage.get_run_records(limit=1),
        storage.event_log_storage.all_asset_keys(),
        storage.schedule_storage.all_instigator_state(),
    )


def for_a_run(url):
    storage = HeldStorage(url)
    for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
        part.optimize_for_webserver(statement_timeout=60_000, pool_recycle=600, max_overflow=4)
    return storage


def instance_at(folder, url, monkeypatch):
    """Dagster by the configuration of this house."""
    (folder / "dagster.yaml").write_text(dagster_yaml().read_text())
    monkeypatch.setenv("BULK_UPLOAD_DAGSTER_DATABASE_URL", url)
    return dg.DagsterInstance.from_config(str(folder))


def tables_of(url):
    engine = sa.create_engine(url)
    names = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_all_instances_of_a_process_ask_by_the_same_server_processes(empty, servers, tmp_path, monkeypatch):
    asked_by = []
    for _ in range(3):
        with instance_at(tmp_path, empty, monkeypatch) as instance:
            assert type(instance.run_storage).__module__ == run_storage.__name__
            ask(instance)
            asked_by.append(servers(empty))
            # As each run of a worker of the pool does.
            instance.optimize_for_webserver(60_000, 600, 4)
            ask(instance)
            asked_by.append(servers(empty))
    first, with_a_run, *later = asked_by
    assert (len(first), len(with_a_run)) == (1, 2)
    assert later == [with_a_run] * 4


def test_a_url_needs_no_driver_and_may_have_options(filled, servers):
    plain = sa.make_url(filled).set(drivername="postgresql")
    stated = plain.update_query_dict({"options": "-c work_mem=5555kB"}).render_as_string(hide_password=False)
    storage = HeldStorage(stated)
    with storage.run_storage.connect() as connection:
        assert connection.exec_driver_sql("SHOW work_mem").scalar() == "5555kB"
    limited = for_a_run(stated)
    with limited.run_storage.connect() as connection:
        assert connection.exec_driver_sql("SHOW work_mem").scalar() == "5555kB"


@pytest.mark.parametrize("storage_of", [HeldStorage, for_a_run])
def test_a_connection_that_the_server_ended_is_replaced_and_nothing_fails(filled, servers, storage_of):
    storage = storage_of(filled)
    ask(storage)
    for _ in range(3):
        ended = servers(filled, end=True)
        ask(storage)
        assert ended
        assert not ended & servers(filled)


def test_a_run_goes_on_when_its_connections_to_dagsters_database_end(
    filled, servers, line, tmp_path, monkeypatch
):
    @dg.op(required_resource_keys={"line"})
    def log(context):
        for name in ("first", "second", "third"):
            assert servers(filled, end=True)
            context.log_event(dg.AssetMaterialization("receipts", partition=name))

    @dg.job(resource_defs={"line": living(line)})
    def logging():
        log()

    with instance_at(tmp_path, filled, monkeypatch) as instance:
        assert logging.execute_in_process(instance=instance, run_config=QUIET).success
        kept = instance.get_materialized_partitions(dg.AssetKey("receipts"))
    assert kept == {"first", "second", "third"}


def test_a_server_that_restarts_is_waited_for_and_found_again(own_server):
    url, server = own_server
    storages = HeldStorage(url), for_a_run(url)
    for storage in storages:
        ask(storage)
    cluster.stop(server)
    with ThreadPoolExecutor(1) as other:
        # One that starts while it is away, such as a run.
        starting = other.submit(HeldStorage, f"{url}?application_name=other")
        cluster.started(server)
        ask(starting.result())
    for storage in storages:
        ask(storage)


def test_a_server_whose_machine_vanished_is_given_up_even_when_something_was_sent_to_it(own_server):
    with (
        HeldStorage(own_server[0]).run_storage.connect() as connection,
        socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as ours,
    ):
        patience = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        keeps_asking = ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert (patience, keeps_asking) == (VANISHED_AFTER_MS, 1)


def test_a_fork_connects_for_itself_and_its_parent_goes_on(filled, servers):
    storages = HeldStorage(filled), for_a_run(filled)
    for storage in storages:
        ask(storage)
    before = servers(filled)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # other rooms have left threads, which it does not need
        child = os.fork()
    if child == 0:
        try:
            gc.collect()
            for storage in storages:
                ask(storage)
            os.write(writing, ",".join(map(str, servers_of(storages))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        childs = {int(pid) for pid in told.read().split(",")}
    assert os.waitpid(child, 0)[1] == 0
    assert len(childs) == 2
    assert not childs & before
    for storage in storages:
        ask(storage)
    wait_until(lambda: servers(filled) == before)


def servers_of(storages):
    for storage in storages:
        with storage.run_storage.connect() as connection:
            yield connection.connection.driver_connection.info.backend_pid


def test_more_threads_than_connections_that_are_held_are_served_and_the_rest_is_closed(filled, servers):
    storage, all_of_them = HeldStorage(filled), threading.Barrier(AT_ONCE)

    def connected():
        with storage.event_log_storage.index_connection() as connection:
            all_of_them.wait(30)
            return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = {each.result() for each in [threads.submit(connected) for _ in range(AT_ONCE)]}
    assert len(found) == AT_ONCE
    wait_until(lambda: len(servers(filled) & found) <= HELD)


def test_the_patience_of_a_webserver_is_not_that_of_others(filled):
    storage, other = HeldStorage(filled), HeldStorage(filled)
    storage.run_storage.optimize_for_webserver(statement_timeout=50, pool_recycle=3_600, max_overflow=20)
    with storage.run_storage.connect() as connection, pytest.raises(DBAPIError, match="statement timeout"):
        connection.exec_driver_sql("SELECT pg_sleep(60)")
    with other.run_storage.connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "0"


def test_an_empty_database_gets_dagsters_tables_and_again_when_it_is_made_anew(empty, administer):
    name = sa.make_url(empty).database
    for _ in range(2):
        ask(HeldStorage(empty))
        made = tables_of(empty)
        assert made >= TABLES
        administer(f"DROP DATABASE {name} WITH (FORCE)")
        administer(f"CREATE DATABASE {name}")
    DagsterPostgresStorage(empty)
    assert made == tables_of(empty)


def test_of_all_that_find_an_empty_database_one_makes_the_tables_and_all_find_them(empty, administer):
    database = sa.make_url(empty).database
    waits = (
        f"SELECT wait_event FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = '{database}'"
    )

    def waiting():
        return sorted(event for (event,) in administer(waits))

    slow = sa.create_engine(empty)
    with ThreadPoolExecutor(3) as threads, slow.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (id int)")  # not committed, so that the first one waits
        makers = [threads.submit(HeldStorage, empty) for _ in range(3)]
        wait_until(lambda: len(waiting()) == 3, 30)
        found = waiting()
        connection.rollback()
        for maker in makers:
            ask(maker.result())
    slow.dispose()
    assert found == ["advisory", "advisory", "transactionid"]
    revision, newest = HeldStorage(empty).run_storage.alembic_version()
    assert revision == newest


def test_a_database_that_cannot_be_had_is_not_waited_for(postgres_url, monkeypatch):
    monkeypatch.setattr(run_storage, "RESTART_PATIENCE_S", float("inf"))
    with pytest.raises(OperationalError, match='database "of_nobody" does not exist'):
        HeldStorage(postgres_url.set(database="of_nobody").render_as_string(hide_password=False))


def test_a_command_whose_database_of_dagster_went_away_ends_with_one_sentence(empty, administer, monkeypatch):
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **_: 0.0)  # between its five tries
    storage = HeldStorage(empty)

    @click.group(cls=Commands)
    def commands(): ...

    @commands.command()
    def command():
        ask(storage)

    administer(f"DROP DATABASE {sa.make_url(empty).database} WITH (FORCE)")
    ended = CliRunner().invoke(commands, ["command"])
    administer(f"CREATE DATABASE {sa.make_url(empty).database}")
    assert ended.exit_code == 3
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("PostgreSQL did not do it: ")
    assert "does not exist" in sentence


def test_dagsters_own_storage_reads_what_the_held_one_writes_and_the_other_way_round(
    empty, tmp_path, monkeypatch
):
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{empty}'}}}}")
    key = dg.AssetKey("receipts")
    with (
        instance_at(tmp_path, empty, monkeypatch) as ours,
        dg.DagsterInstance.from_config(str(stock)) as theirs,
    ):
        for n, writer in enumerate((ours, theirs, ours)):
            writer.add_dynamic_partitions("batches", [f"batch-{n}"])
            writer.report_runless_asset_event(dg.AssetMaterialization(key, partition=f"batch-{n}"))
        for reader in (ours, theirs):
            assert reader.get_dynamic_partitions("batches") == ["batch-0", "batch-1", "batch-2"]
            assert reader.get_materialized_partitions(key) == {"batch-0", "batch-1", "batch-2"}
            found, newest = reader.run_storage.alembic_version()
            assert found == newest
