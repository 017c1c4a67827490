"""A load that is cut off, hindered or hurried by others: all of it is there in the end, once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline.database import is_transient
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.holding import lock_name
from bulk_upload_pipeline_tests.staged_rows import (
    counts,
    execute,
    line,
    lines,
    load,
    query,
    recounted,
    stage,
    table,
    trigger,
)
from bulk_upload_pipeline_tests.upped import wait_until

__all__ = ["stage"]

# Autovacuum is nobody's connection.
OTHERS = (
    "FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def test_a_batch_that_another_worker_holds_is_busy(engine, stage, monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.holding.BUSY_AFTER_S", 0.1)
    with engine.connect() as other:
        other.execute(
            sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), {"name": lock_name("b1")}
        )
        with pytest.raises(BatchBusyError, match="b1"):
            load(engine, stage(lines(1)))
        assert counts(load(engine, stage(lines(1)), batch_id="b2")) == (1, 0, 0, 0)
        other.invalidate()


def cut(engine, which="application_name = 'bulk-upload'"):
    """Cut connections of the load, as a restart of the server or a kill of the worker does; they are gone then."""
    execute(
        engine,
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {which} "
        "AND pid <> pg_backend_pid() AND datname = current_database()",
    )


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_load_that_is_cut_off_is_finished_by_the_next(engine, database_url, stage, after, merge):
    if merge:
        load(engine, stage(lines(3)), batch_id="b0")
    staged = stage(lines(60), size=10)
    heard = []

    def cut_later(rows):
        heard.append(rows)
        if len(heard) == after:
            admin = sa.create_engine(database_url, poolclass=sa.NullPool)
            cut(admin)

    # Whether the connection that held the lock was missed tells whether the load ended with an error.
    faults = []
    try:
        load(engine, staged, on_rows=cut_later)
    except (psycopg2.Error, sa.exc.DBAPIError) as error:
        faults.append(error)
    assert all(is_transient(fault) for fault in faults)
    heard.clear()
    result = load(engine, staged, on_rows=heard.append)
    assert counts(result) == ((57, 0, 3, 0) if merge else (60, 0, 0, 0))
    assert sum(heard) == 60
    assert len(table(engine)) == 60
    assert result.totals == recounted(engine)


def test_a_callback_that_fails_ends_the_load_and_the_next_goes_on(engine, stage):
    staged = stage(lines(60), size=10)

    def interrupt(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(engine, staged, on_rows=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load-")]
    assert counts(load(engine, staged)) == (60, 0, 0, 0)
    assert len(table(engine)) == 60


def test_a_statement_that_hangs_is_cancelled_when_another_connection_fails(engine, stage):
    """One worker waits for a lock that is never released, the other one fails: nothing hangs."""
    execute(
        engine,
        *trigger(
            "IF NEW.invoice_number = 'INV-1' THEN PERFORM pg_advisory_xact_lock(42); END IF; "
            "IF NEW.invoice_number = 'INV-11' THEN RAISE EXCEPTION USING ERRCODE = '57P01'; END IF;"
        ),
    )
    with engine.connect() as other:
        other.execute(sa.text("SELECT pg_advisory_lock(42)"))
        with pytest.raises(psycopg2.Error) as caught:
            load(engine, stage(lines(20), size=10))
        other.invalidate()
    assert caught.value.pgcode == "57P01"
    assert table(engine) == {}


@pytest.mark.parametrize("code", ["40P01", "40001", "55P03"])
def test_a_chunk_that_collides_with_others_is_tried_again(engine, stage, code):
    execute(
        engine,
        "CREATE SEQUENCE public.tries",
        *trigger(
            "IF NEW.invoice_number = 'INV-5' AND nextval('public.tries') < 4 THEN "
            f"RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;"
        ),
    )
    assert counts(load(engine, stage(lines(10)))) == (10, 0, 0, 0)


def test_a_load_leaves_its_connections_to_the_next_and_no_lock_or_temporary_table(engine, stage):
    load(engine, stage(lines(5)))
    after_one = set(query(engine, f"SELECT pid {OTHERS}"))
    for number in range(2, 5):
        load(engine, stage(lines(5)), batch_id=f"b{number}")
    assert set(query(engine, f"SELECT pid {OTHERS}")) == after_one
    assert query(engine, f"SELECT count(*) {OTHERS} AND state <> 'idle'") == [(0,)]
    assert query(engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    assert query(engine, "SELECT count(*) FROM pg_class WHERE relname = 'bulk_upload_staged'") == [(0,)]
    assert engine.pool.checkedout() == 0
    engine.dispose()
    wait_until(lambda: query(engine, f"SELECT count(*) {OTHERS}") == [(0,)])


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(engine, stage):
    load(engine, stage(lines(5)))
    cut(engine)
    wait_until(lambda: query(engine, f"SELECT count(*) {OTHERS}") == [(0,)])
    assert counts(load(engine, stage(lines(5)), batch_id="b2")) == (0, 0, 5, 0)


def test_batches_with_the_same_invoices_at_once_load_as_if_one_after_the_other(engine, stage):
    forward = [line(f"INV-{n}", quantity="3") for n in range(1, 301)]
    backward = [line(f"INV-{n}", quantity="4") for n in range(300, 0, -1)]
    for round_ in range(3):
        execute(engine, "TRUNCATE public.mangalam_invoices, bulk_upload.load_chunks CASCADE")
        jobs = [(f"b{i}-{round_}", stage(rows, size=100)) for i, rows in enumerate([forward, backward] * 2)]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda job: load(engine, job[1], batch_id=job[0]), jobs))
        assert [result.rows for result in results] == [300] * 4
        assert sum(result.inserted for result in results) == 300
        found = table(engine)
        assert len(found) == 300
        for row in found.values():
            assert row["quantity"] == (3 if row["upload_batch_id"][1] in "02" else 4)
