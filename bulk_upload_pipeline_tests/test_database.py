"""The database room: addresses, migrations, and which errors pass by themselves."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql

from bulk_upload_pipeline import counting, database, family, holding, patience, revert, sales, stale, trace
from bulk_upload_pipeline.exceptions import (
    BatchBusyError,
    DatabaseEncodingError,
    DatabaseTooNewError,
    DatabaseTooOldError,
    DatabaseUnavailableError,
    LocksLostError,
    SettingInvalidError,
    UpgradeForbiddenError,
)
from bulk_upload_pipeline.loading import confirmed, former, yielded
from bulk_upload_pipeline.tables import CONSERVATION_LAW, metadata
from bulk_upload_pipeline.upgrading import schema
from bulk_upload_pipeline_tests.pooler import sessions_pooled, transactions_pooled


@pytest.fixture
def empty_database(postgres_url):
    url = postgres_url.set(database="empty 100% 'quoted'")
    database.create_database_if_absent(url)
    yield url
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as server:
        server.exec_driver_sql("""DROP DATABASE "empty 100%% 'quoted'" WITH (FORCE)""")


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h/d",
        "postgresql://u:p@h/d",
        "postgresql+psycopg2://u:p@h/d",
        "postgresql+psycopg://u:p@h/d",
    ],
)
def test_every_spelling_of_a_postgres_url_gets_the_one_driver(url):
    assert database.normalised_url(url).drivername == "postgresql+psycopg2"


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "secret", "postgresql://u:secret@h:port/d", ""])
def test_a_url_that_is_no_postgres_url_is_refused_without_its_password(url):
    with pytest.raises(SettingInvalidError) as caught:
        database.normalised_url(url)
    assert "BULK_UPLOAD_DATABASE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:secret@h/d?sslmod=require", "unknown option 'sslmod'"),
        ("postgresql://u:secret%00@h/d", ""),
        ("postgresql://u:pass@secret@h/d", "%40 stands for an @ of the password"),
    ],
)
def test_what_the_driver_cannot_be_told_is_named_by_the_variable_that_states_it(url, told):
    with pytest.raises(SettingInvalidError, match=f"BULK_UPLOAD_DAGSTER_DATABASE_URL is .*{told}") as caught:
        database.normalised_url(url, "BULK_UPLOAD_DAGSTER_DATABASE_URL")
    assert "secret" not in str(caught.value)
    known = "postgresql://h/d?sslmode=require&host=/run/pg&options=-c%20jit%3Doff&target_session_attrs=any"
    assert len(database.normalised_url(known).query) == 4


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://clerk:secret@db.example:5433/bulk", "db.example:5433/bulk"),
        ("postgresql://clerk:secret@/bulk?host=/run/pg", "/run/pg/bulk"),
        ("postgresql:///bulk", "localhost/bulk"),
    ],
)
def test_an_address_names_host_and_database_and_no_user(url, shown):
    assert database.address(url) == shown


def test_a_migrated_database_equals_the_tables(engine):
    elsewhere = (
        *(family.corrected_rows, former.former_rows, confirmed.confirmed_rows, yielded.yielded_rows),
        *(stale.stale_dates, sales.daily_sales, trace.reverted_invoices),
    )
    assert all(table.metadata is metadata for table in elsewhere)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_schemas": True,
                "version_table_schema": "bulk_upload",
            },
        )
        assert compare_metadata(context, metadata) == []


def test_the_identity_takes_absent_values_as_equal(engine):
    row = "INSERT INTO public.mangalam_invoices (invoice_number) VALUES ('INV-1')"
    with engine.begin() as connection:
        connection.exec_driver_sql(row)
    with (
        pytest.raises(sa.exc.IntegrityError, match="mangalam_invoices_identity"),
        engine.begin() as connection,
    ):
        connection.exec_driver_sql(row)


def test_the_conservation_law_of_the_migration_is_that_of_the_tables(engine):
    definition = sa.text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TEMP TABLE law AS SELECT * FROM bulk_upload.upload_batches WITH NO DATA"
        )
        connection.exec_driver_sql(f"ALTER TABLE law ADD CONSTRAINT stated CHECK ({CONSERVATION_LAW})")
        stated = connection.scalar(definition, {"name": "stated"})
        assert connection.scalar(definition, {"name": "conservation_law"}) == stated


def test_migrating_again_changes_nothing(engine, database_url):
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO public.mangalam_invoices (invoice_number) VALUES ('INV-1')")
    schema.migrate(database_url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM public.mangalam_invoices")) == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_processes_that_migrate_at_once_do_not_disturb_each_other(empty_database, administer, isolation):
    """Whichever isolation the database has by default: who waited has to see what the other did."""
    name = empty_database.database.replace("%", "%%")
    administer(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'")
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(schema.migrate, empty_database) for _ in range(4)]:
            done.result()
    engine = database.make_engine(empty_database)
    with engine.connect() as connection:
        assert sa.inspect(connection).has_table("load_chunks", schema="bulk_upload")
    engine.dispose()


def test_the_migration_can_be_taken_back(engine):
    from alembic import command

    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "base")
    with engine.begin() as connection:
        assert not sa.inspect(connection).has_table("mangalam_invoices")
        command.upgrade(schema.migration_config(connection), "head")


def test_a_receipt_that_counts_rows_twice_is_mended_and_no_other_can_be_written(engine):
    from alembic import command

    counts = "rows_read, rows_inserted, rows_rejected, rows_unprocessed"
    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0012")
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.upload_batches (batch_id, file_name, file_size, source_path, state, "
            f"{counts}) VALUES ('b', 'a.csv', 1, '/a.csv', 'failed', 20, 20, 15, -15)"
        )
        command.upgrade(schema.migration_config(connection), "head")
        found = connection.exec_driver_sql(f"SELECT {counts} FROM bulk_upload.upload_batches").one()
    assert tuple(found) == (20, 0, 15, 5)
    with pytest.raises(sa.exc.IntegrityError, match="conservation_law"), engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE bulk_upload.upload_batches SET rows_inserted = 20, rows_unprocessed = -15"
        )


@pytest.mark.parametrize(("before", "after"), [("0009", "0010"), ("0015", "0016")])
def test_people_read_the_invoices_while_a_migration_builds_an_index_on_them(engine, before, after):
    from alembic import command

    built = []

    def read(_connection, _cursor, statement, *_):
        if "CREATE INDEX mangalam_invoices" in statement:
            with engine.connect() as reader:
                reader.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                built.append(reader.exec_driver_sql("SELECT count(*) FROM public.mangalam_invoices").scalar())

    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), before)
        connection.exec_driver_sql("INSERT INTO public.mangalam_invoices (invoice_number) VALUES ('INV-1')")
    with engine.begin() as connection:
        sa.event.listen(connection, "after_cursor_execute", read)
        command.upgrade(schema.migration_config(connection), after)
    assert built == [1]


def test_people_read_and_load_while_the_invoices_of_old_findings_are_found(engine, database_url):
    """Of millions this takes minutes: no migration before it may keep what it has locked until then."""
    from alembic import command

    done = []
    found = "INSERT INTO bulk_upload.processing_errors (batch_id, error_code, severity, error_message) "

    def work(_connection, _cursor, statement, *_):
        if "UPDATE bulk_upload.processing_errors" in statement:
            with engine.begin() as other:
                other.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                other.exec_driver_sql(
                    "INSERT INTO public.mangalam_invoices (invoice_number) VALUES ('INV-1')"
                )
                other.exec_driver_sql(f"{found} VALUES ('b', 'INVALID_NUMBER', 'error', 'x')")
                done.append(other.scalar(sa.text("SELECT count(*) FROM bulk_upload.processing_errors")))

    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0015")
        connection.exec_driver_sql(
            f"{found} SELECT 'a', 'INVALID_NUMBER', 'error', 'x' FROM generate_series(1, 3)"
        )
    sa.event.listen(sa.Engine, "after_cursor_execute", work)
    try:
        schema.migrate(database_url)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", work)
    assert done == [4]
    with engine.connect() as connection:
        assert schema.revision(connection) == schema.head()


def test_who_finds_another_migrating_waits_for_as_long_as_that_takes(engine, database_url, monkeypatch):
    """Nobody holds a table that could be told to let go of it."""
    from alembic import command

    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    monkeypatch.setattr(patience, "LOCK_TIMEOUT", 0.01)
    waits = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND waitstart < clock_timestamp() - interval '0.1 s'"
    )
    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0019")
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as other:
            other.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('bulk_upload.migrate', 0))")
            migrating = pool.submit(schema.migrate, database_url)
            while not migrating.done() and not other.scalar(sa.text(waits)):
                pass
        migrating.result()
    with engine.connect() as connection:
        assert schema.revision(connection) == schema.head()


def test_tables_that_exist_before_the_first_migration_are_left_alone(empty_database):
    engine = database.make_engine(empty_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA bulk_upload")
        metadata.create_all(connection)
        connection.exec_driver_sql("INSERT INTO public.mangalam_invoices (invoice_number) VALUES ('INV-1')")
    schema.migrate(empty_database)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM public.mangalam_invoices")) == 1
    engine.dispose()


def test_a_schema_of_a_newer_version_is_not_touched(engine, database_url):
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE bulk_upload.alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNewError, match="9999"):
        schema.migrate(database_url)


LIMITS = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")


def test_limits_that_are_meant_for_questions_do_not_end_a_change_of_tables(engine, administer):
    for limit in LIMITS:
        administer(f"ALTER DATABASE {engine.url.database} SET {limit} = '5s'")
    shown = "SELECT " + ", ".join(f"current_setting('{limit}')" for limit in LIMITS)
    limited = sa.create_engine(engine.url)
    found = patience.patiently(limited, "", lambda connection: connection.exec_driver_sql(shown).one())
    assert tuple(found) == ("0", "0", "0")
    with limited.connect() as connection:
        assert tuple(connection.exec_driver_sql(shown).one()) == ("5s", "5s", "5s")
    limited.dispose()


@pytest.mark.parametrize("limit", [*LIMITS, "idle_session_timeout"])
def test_limits_that_are_meant_for_questions_end_no_work_and_no_lock(engine, administer, limit):
    """One for sessions would end that which holds the lock of a batch: such a file would never load."""
    administer(f"ALTER DATABASE {engine.url.database} SET {limit} = '1min'")
    limited = database.make_engine(engine.url)
    with limited.connect() as connection:
        assert connection.scalar(sa.text(f"SHOW {limit}")) == "0"
    with holding.connected(limited) as loading, loading.cursor() as cursor:
        cursor.execute(f"SHOW {limit}")
        assert cursor.fetchone() == ("0",)
    limited.dispose()


def test_the_server_is_told_to_look_whether_our_machine_is_still_there(engine):
    """It would hold the lock of a batch for two hours after a power cut. On a socket of files nothing is to be seen."""
    told = (
        "SELECT name FROM pg_settings WHERE name LIKE 'tcp_keepalives%' AND source = 'session' ORDER BY name"
    )
    with engine.connect() as connection:
        told_by = [f"tcp_keepalives_{how}" for how in ("count", "idle", "interval")]
        assert list(connection.scalars(sa.text(told))) == told_by


class OfPostgres13(psycopg2.extensions.connection):
    server_version = 130_000


def test_a_server_that_knows_no_limit_for_idle_sessions_is_not_asked_to_lift_it(
    engine, database_url, administer
):
    """It would refuse the connection, and nobody would be told that it is too old."""
    administer(f"ALTER DATABASE {engine.url.database} SET idle_session_timeout = '1min'")
    url = sa.make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg2.connect(url, connection_factory=OfPostgres13)
    database._set_up(connection, None)
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('idle_session_timeout'), current_setting('TimeZone')")
        assert cursor.fetchone() == ("1min", "UTC")
    connection.close()


def test_a_server_that_is_too_old_is_named_with_its_version(database_url, monkeypatch):
    monkeypatch.setattr(schema, "OLDEST_SERVER", 99)
    with pytest.raises(DatabaseTooOldError, match="is version 1"):
        schema.migrate(database_url)


def test_a_server_that_does_not_answer_is_named_without_the_password():
    with pytest.raises(DatabaseUnavailableError) as caught:
        schema.migrate("postgresql://clerk:secret@127.0.0.1:1/bulk")
    assert "127.0.0.1:1/bulk" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_pooler_that_gives_each_transaction_another_session_is_refused_by_all_who_lock(database_url):
    with transactions_pooled(database_url) as url:
        with pytest.raises(
            LocksLostError, match=r"A pooler at 127\.0\.0\.1:\d+/test_\d+ gives .* pool_mode = session"
        ):
            schema.migrate(url)
        engine = database.make_engine(url)
        for hold in (holding.holding, holding.alone, holding.queued):
            with pytest.raises(LocksLostError), hold(engine, "a batch"):
                pytest.fail("nobody holds it")
        left = (  # those of an earlier test may be about to end
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with engine.connect() as connection:
            assert connection.scalar(sa.text(left)) == 0
        engine.dispose()


def test_a_pooler_that_gives_each_client_its_session_is_as_good_as_the_server(database_url):
    with sessions_pooled(database_url) as url:
        schema.migrate(url)
        engine, other = database.make_engine(url), database.make_engine(url)
        with (
            holding.holding(engine, "a batch"),
            pytest.raises(BatchBusyError),
            holding.alone(other, "a batch", patience=0),
        ):
            pytest.fail("another holds it")
        engine.dispose()
        other.dispose()


def test_a_database_that_does_not_exist_is_reported_and_can_be_created(postgres_url):
    url = postgres_url.set(database="made")
    with pytest.raises(DatabaseUnavailableError, match="made"):
        schema.migrate(url)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(database.create_database_if_absent, url, owned=True) for _ in range(3)]:
            done.result()
    schema.migrate(url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_lacks_letters_is_refused_before_anything_is_loaded(
    postgres_url, administer, encoding
):
    url = postgres_url.set(database=f"in_{encoding.lower()}")
    administer(f"CREATE DATABASE {url.database} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with pytest.raises(DatabaseEncodingError, match=f"keeps text as {encoding}, and UTF8 is needed"):
        schema.migrate(url)


def test_text_comes_as_it_is_whatever_encoding_the_role_asks_for(engine, database_url, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    other = database.make_engine(database_url)
    with other.connect() as connection:
        assert connection.scalar(sa.text("SELECT chr(8377) || :name"), {"name": "मिठाई"}) == "₹मिठाई"
    other.dispose()


def test_a_server_that_takes_no_changes_says_so_unless_it_is_up_to_date(postgres_url, administer, engine):
    for url in (postgres_url.set(database="unchanging"), engine.url):
        if url.database == "unchanging":
            administer("CREATE DATABASE unchanging")
        administer(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
    schema.migrate(engine.url)
    with pytest.raises(UpgradeForbiddenError, match="read-only transaction"):
        schema.migrate(postgres_url.set(database="unchanging"))


def test_a_database_of_our_own_compares_by_code_point_and_knows_all_letters(postgres_url):
    url = postgres_url.set(database="ours")
    database.create_database_if_absent(url, owned=True)
    engine = database.make_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW server_encoding")) == "UTF8"
        assert connection.scalar(sa.text("SELECT 'b' > 'Z' AND lower('É') = 'é'")) is True
    engine.dispose()


def test_connections_carry_our_name(engine):
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW application_name")) == "bulk-upload"


def test_undoing_a_load_reads_the_rows_of_its_batch_and_no_others(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO mangalam_invoices (invoice_number, invoice_date, customer_name, item_name, quantity, "
            "item_price, item_total, upload_batch_id, row_number) SELECT 'n' || i, DATE '2024-12-31', 'c', 'i', 1, "
            "1, 1, 'batch-' || i / 200, i FROM generate_series(1, 100000) AS i"
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE mangalam_invoices")
        raw = connection.connection.cursor()
        raw.execute(f"EXPLAIN {revert._LOCK}", {"batch_id": "batch-3"})
        plan = "\n".join(line for (line,) in raw.fetchall())
    assert "Seq Scan on mangalam_invoices" not in plan, plan


def _error_of(connection, statement):
    with pytest.raises(sa.exc.DBAPIError) as caught:
        connection.exec_driver_sql(statement)
    return caught.value


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        ("08006", True),
        ("40001", True),
        ("40P01", True),
        ("53100", True),
        ("53300", True),
        ("55P03", True),
        ("57P01", True),
        ("57P02", True),
        ("57P03", True),
        ("58030", True),
        ("25006", True),
        ("57014", False),
        ("22003", False),
        ("23505", False),
        ("23514", False),
        ("42P01", False),
        ("42501", False),
        ("P0001", False),
        ("XX001", False),
    ],
)
def test_an_error_is_transient_by_its_sqlstate(engine, code, transient):
    with engine.connect() as connection:
        error = _error_of(connection, f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$")
    assert database.sqlstate(error) == code
    assert database.is_transient(error) is transient
    assert database.is_transient(error.orig) is transient


def test_a_lost_connection_is_transient(engine):
    with engine.connect() as lost, engine.connect() as other:
        pid = lost.scalar(sa.text("SELECT pg_backend_pid()"))
        other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert database.is_transient(_error_of(lost, "SELECT 1"))


def test_a_server_that_is_down_is_transient_and_an_unknown_database_is_not(postgres_url):
    down = sa.create_engine("postgresql+psycopg2://clerk@127.0.0.1:1/bulk", poolclass=sa.NullPool)
    with pytest.raises(sa.exc.OperationalError) as caught:
        down.connect()
    assert database.is_transient(caught.value)
    unknown = sa.create_engine(postgres_url.set(database="unknown"), poolclass=sa.NullPool)
    with pytest.raises(sa.exc.OperationalError) as caught:
        unknown.connect()
    assert not database.is_transient(caught.value)


def test_errors_that_are_not_of_the_database_speak_for_themselves():
    assert database.is_transient(BatchBusyError("b"))
    assert not database.is_transient(ValueError("x"))
    assert not database.is_transient(psycopg2.ProgrammingError("x"))


def test_questions_are_asked_outside_of_a_transaction_and_changes_within_one_again(engine):
    with database.asking(engine) as connection:
        first, second = (connection.scalar(sa.text("SELECT now()")) for _ in range(2))
        process = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        connection.execute(sa.text("CREATE TABLE kept ()"))
    assert first < second
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT pg_backend_pid()")) == process
        connection.execute(sa.text("DROP TABLE kept"))
        connection.rollback()
        assert connection.scalar(sa.text("SELECT count(*) FROM kept")) == 0


def test_a_connection_that_is_lost_while_it_asks_leaves_the_next_one_sound(engine):
    with pytest.raises(sa.exc.OperationalError), database.asking(engine) as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with database.asking(engine) as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_the_rows_of_a_batch_are_found_among_those_of_runs_that_load_at_the_same_time(engine):
    names = ", ".join(
        ["invoice_number", "invoice_date", "quantity", "item_price", "upload_batch_id", "row_number"]
    )
    rows = "'n' || i, DATE '2024-12-31', 1, 1, 'batch-' || CASE WHEN i % 2 = 0 THEN i / 5000 ELSE 99 - i / 5000 END, i"
    find = "EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM mangalam_invoices WHERE upload_batch_id = 'batch-3'"
    with engine.begin() as connection:
        required = "customer_name, item_total, item_name, line_occurrence"
        connection.exec_driver_sql(
            f"INSERT INTO mangalam_invoices ({names}, {required}) "
            f"SELECT {rows.replace('%', '%%')}, 'c', 1, 'i', 1 FROM generate_series(1, 200000) AS i"
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE mangalam_invoices")
        plan = json.dumps(connection.exec_driver_sql(find).scalar())
    removed = [int(n) for n in re.findall(r'"Rows Removed by (?:Index Recheck|Filter)": (\d+)', plan)]
    assert sum(removed) < 40_000, plan


def test_the_rows_of_a_batch_are_found_among_those_of_thousands_of_small_ones(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO mangalam_invoices (invoice_number, customer_name, quantity, upload_batch_id, row_number) "
            "SELECT 'n' || i, repeat('c', 200), 1, 'batch-' || i / 10, i FROM generate_series(1, 30000) AS i"
        )
    find = "EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM mangalam_invoices WHERE upload_batch_id = 'batch-3'"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE mangalam_invoices")
        plan = json.dumps(connection.exec_driver_sql(find).scalar())
    removed = [int(n) for n in re.findall(r'"Rows Removed by (?:Index Recheck|Filter)": (\d+)', plan)]
    assert sum(removed) < 3_000, plan


def test_what_later_batches_say_is_found_without_reading_what_all_have_ever_said(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.upload_batches (batch_id, file_name, file_size, source_path, state, reason, "
            "received_at) SELECT 'batch-' || i, 'a.csv', 1, '/a.csv', 'loaded', repeat('so ', 300), "
            "now() - make_interval(mins => i) FROM generate_series(1, 10000) AS i;"
            "INSERT INTO bulk_upload.load_chunks (batch_id, chunk_index, plan, path, rows, inserted, updated, "
            "unchanged) SELECT batch_id, 0, 'plan', 'merge', 1, 0, 0, 1 FROM bulk_upload.upload_batches;"
            "INSERT INTO bulk_upload.confirmed_rows (batch_id, chunk_index, target_ids, row_numbers) "
            "SELECT batch_id, 0, ARRAY[1, 2, 3], ARRAY[1, 2, 3] FROM bulk_upload.upload_batches"
        )
    later, held = confirmed.LATER % {"batch_id": "'batch-3'"}, confirmed.HELD
    find = f"WITH later AS MATERIALIZED ({later}), held AS MATERIALIZED ({held}) SELECT id FROM held"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {find}").scalars())
        found = connection.exec_driver_sql(find).all()
    assert len(found) == 6
    assert "Seq Scan" not in plan, plan


def test_that_no_finding_of_a_batch_is_resolved_is_known_without_reading_those_that_are_open(engine):
    findings = "SELECT 'batch', i, 'AMOUNT_INVALID', 'error', 'x' FROM generate_series(1, 20000) AS i"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO bulk_upload.processing_errors (batch_id, row_number, error_code, severity, error_message) "
            + findings
        )
    asked = counting._CORRECTED.params(of_batch="batch")
    query = asked.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE bulk_upload.processing_errors")
        plan = json.dumps(connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").scalar())
    removed = [int(n) for n in re.findall(r'"Rows Removed by (?:Index Recheck|Filter)": (\d+)', plan)]
    assert sum(removed) == 0, plan
