"""The old system's database moves over: every row, whatever others put on it, while people read."""

import io
import itertools
import json
import re
import threading
import time
from functools import partial

import psycopg2
import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner

from bulk_upload_pipeline import contract, patience, upgrade
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.exceptions import (
    AdoptionRefusedError,
    BulkUploadError,
    DatabaseBusyError,
    DatabaseTooNewError,
    InTheWayError,
    OldDatabaseError,
    UpgradeForbiddenError,
)
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.upgrading import adoption, misfits, schema
from bulk_upload_pipeline_tests import old_system
from bulk_upload_pipeline_tests.world import csv_of, drop, ephemeral, good_row, line_at, receipt, run

JOB = "6f1e0d3c-0000-4000-8000-000000000001"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def old_template(postgres_url, administer):
    administer("CREATE DATABASE old_template")
    engine = sa.create_engine(postgres_url.set(database="old_template"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        old_system.build(connection)
    return "old_template"


@pytest.fixture
def old_url(postgres_url, old_template, administer):
    name = f"old_{next(_numbers)}"
    administer(f"CREATE DATABASE {name} TEMPLATE {old_template}")
    yield postgres_url.set(database=name).render_as_string(hide_password=False)
    administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def old(old_url):
    engine = sa.create_engine(old_url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


def ask(engine, query):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def tell(engine, statement):
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


OLD_COLUMNS = ", ".join(["id", *contract.NAMES, "upload_batch_id", "row_number", "created_at", "updated_at"])
LINES = (
    "SELECT md5(string_agg(line::text, '' ORDER BY id)) "
    f"FROM (SELECT {OLD_COLUMNS} FROM public.mangalam_invoices) AS line"
)
SUMMARY = "SELECT md5(string_agg(s::text, '' ORDER BY s::text)) FROM public.invoice_summary AS s"
TRIGGERS = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
SCHEMA = """
SELECT 'column', table_name, column_name, data_type || coalesce(character_maximum_length::text, ''),
    is_nullable || coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema IN ('public', 'bulk_upload')
UNION ALL SELECT 'index', tablename, indexname, indexdef, ''
FROM pg_indexes WHERE schemaname IN ('public', 'bulk_upload')
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), ''
FROM pg_constraint WHERE connamespace IN ('public'::regnamespace, 'bulk_upload'::regnamespace)
UNION ALL SELECT 'trigger', '', tgname, tgenabled::text, '' FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2, 3, 4
"""
REVISION = "SELECT version_num FROM bulk_upload.alembic_version"


def test_every_row_is_kept_with_its_values_and_rows_that_share_a_key_are_numbered_by_id(old, old_url):
    before = ask(old, LINES), ask(old, SUMMARY)
    upgrade.upgrade(old_url)
    assert (ask(old, LINES), ask(old, SUMMARY)) == before
    assert ask(old, "SELECT count(*) FROM public.mangalam_invoices") == [(old_system.ROWS,)]
    wrong = (
        "SELECT count(*) FROM (SELECT line_occurrence, row_number() OVER (PARTITION BY invoice_number, "
        "product_id, sku ORDER BY id) AS n FROM public.mangalam_invoices) AS t WHERE line_occurrence <> n"
    )
    assert ask(old, wrong) == [(0,)]
    seconds = old_system.TWICE_UPLOADED + old_system.TWICE_IN_A_FILE
    assert ask(old, "SELECT count(*) FROM public.mangalam_invoices WHERE line_occurrence = 2") == [(seconds,)]


def test_what_others_put_on_the_table_survives_and_sees_nothing_of_the_upgrade(old, old_url):
    before = ask(old, TRIGGERS)
    upgrade.upgrade(old_url)
    assert ask(old, TRIGGERS) == before
    assert ask(old, "SELECT * FROM public.audit") == []
    assert ask(old, 'SELECT count("note of the warehouse") FROM public.mangalam_invoices') == [(0,)]
    tell(old, "UPDATE public.mangalam_invoices SET brand = 'x' WHERE id = 1")
    assert ask(old, "SELECT noted FROM public.audit") == [("UPDATE",)]
    assert ask(old, "SELECT updated_at > '2026-01-01' FROM public.mangalam_invoices WHERE id = 1") == [
        (True,)
    ]


def test_old_findings_are_kept_under_their_job_and_new_ones_can_be_written(old, old_url):
    upgrade.upgrade(old_url)
    kept = "SELECT batch_id, upload_job_id::text, row_number, severity, error_code, detected_at = occurred_at"
    assert ask(old, f"{kept} FROM bulk_upload.processing_errors ORDER BY row_number") == [
        (JOB, JOB, number, "critical", "DB_ERROR", True) for number in (1, 2, 3)
    ]
    long = "x" * 300
    tell(
        old,
        "INSERT INTO bulk_upload.processing_errors (batch_id, column_name, error_code, severity, "
        f"error_message) VALUES ('b', '{long}', 'UNREADABLE', 'warning', 'm')",
    )
    assert ask(old, "SELECT is_resolved FROM bulk_upload.processing_errors WHERE batch_id = 'b'") == [
        (False,)
    ]


def test_after_it_the_loader_finds_the_rows_of_an_old_export(old, old_url, tmp_path):
    upgrade.upgrade(old_url)
    with old.connect() as connection:
        text = io.StringIO()
        connection.connection.cursor().copy_expert(old_system.EXPORT, text)
    with line_at(tmp_path, old_url) as line, ephemeral() as instance:
        batch_id = drop(line, "march.csv", text.getvalue())
        assert run(line, batch_id, instance).success
        done = receipt(line, batch_id)
    lines = old_system.ROWS - old_system.TWICE_UPLOADED
    changed = sum(1 for number in range(1, lines + 1) if number % 4 in (0, 1))
    assert (done.state, done.rows_inserted, done.rows_rejected) == (State.LOADED, 0, 0)
    assert (done.rows_updated, done.rows_unchanged) == (changed, lines - changed)
    assert ask(old, "SELECT count(*), count(usage_unit), count(subtotal) FROM public.mangalam_invoices") == [
        (old_system.ROWS, lines // 4, changed - lines // 4)
    ]
    assert ask(old, "SELECT count(*) FROM public.audit") == [(changed,)]


def test_rows_that_the_old_key_dropped_are_loaded_and_rejected_ones_are_explained(old, old_url, tmp_path):
    """Two lines of one product in an invoice were one in the old system."""
    upgrade.upgrade(old_url)
    first = "INV-000000,P-1,S-1,2024-01-01,Sharma Sweets,4,12.50,50,Kaju Katli"
    header = (
        "Invoice Number,Product ID,SKU,Invoice Date,Customer Name,Quantity,Item Price,Item Total,Item Name"
    )
    bad = first.replace(",4,", ",four,")
    with line_at(tmp_path, old_url, max_error_rate=1.0) as line, ephemeral() as instance:
        batch_id = drop(line, "april.csv", "\n".join([header, first, first, bad]))
        assert run(line, batch_id, instance).success
        done = receipt(line, batch_id)
    assert (done.rows_unchanged, done.rows_inserted, done.rows_rejected) == (1, 1, 1)
    assert ask(old, f"SELECT count(*) FROM bulk_upload.processing_errors WHERE batch_id = '{batch_id}'")


def test_an_upgraded_database_is_up_to_date_and_upgrading_it_again_does_nothing(old, old_url):
    upgrade.upgrade(old_url)
    upgraded = ask(old, SCHEMA)
    again = []
    upgrade.upgrade(old_url, on_step=again.append)
    assert again == []
    assert ask(old, SCHEMA) == upgraded
    assert "up to date" in upgrade.script(old_url)
    schema.migrate(old_url)


def test_no_index_is_built_twice(old, old_url):
    upgrade.upgrade(old_url)
    columns = (
        "SELECT substring(indexdef FROM 'USING.*') FROM pg_indexes WHERE tablename = 'mangalam_invoices'"
    )
    found = [definition for (definition,) in ask(old, columns)]
    assert len(found) == len(set(found))


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def test_an_upgrade_that_is_killed_before_any_of_its_steps_goes_on_there(
    old, old_url, postgres_url, administer
):
    with old.connect() as connection:
        steps = [step.why for step in adoption.plan(connection)]
    assert len(steps) == 5

    def kill_before(step, why):
        if why == step:
            raise Killed

    for step in steps:
        with pytest.raises(Killed):
            upgrade.upgrade(old_url, on_step=partial(kill_before, step))
    upgrade.upgrade(old_url)
    killed = ask(old, SCHEMA), ask(old, LINES)
    name = f"old_{next(_numbers)}"
    administer(f"CREATE DATABASE {name} TEMPLATE old_template")
    undisturbed = sa.create_engine(postgres_url.set(database=name), poolclass=sa.NullPool)
    upgrade.upgrade(undisturbed.url)
    assert killed == (ask(undisturbed, SCHEMA), ask(undisturbed, LINES))


def test_a_step_whose_connection_is_cut_leaves_nothing_behind_and_is_done_the_next_time(old, old_url):
    before = ask(old, SCHEMA)
    with old.connect() as holder:
        holder.exec_driver_sql("LOCK TABLE public.mangalam_invoices IN ACCESS SHARE MODE")
        failures = []
        thread = threading.Thread(target=lambda: failures.append(_failure_of(old_url)))
        thread.start()
        _until(lambda: ask(old, f"SELECT pg_terminate_backend(pid) {WAITING}"))
        thread.join(30)
    assert failures[0] is not None
    assert ask(old, SCHEMA) == before
    upgrade.upgrade(old_url)


WAITING = "FROM pg_locks WHERE NOT granted AND relation = 'public.mangalam_invoices'::regclass"


def _failure_of(url):
    try:
        upgrade.upgrade(url)
    except BulkUploadError as error:
        return error
    return None


def _until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_people_read_on_while_it_runs(old, old_url):
    stop, waits = threading.Event(), []

    def read():
        with old.connect().execution_options(isolation_level="AUTOCOMMIT") as reader:
            while not stop.is_set():
                began = time.monotonic()
                reader.exec_driver_sql(
                    "SELECT total FROM public.invoice_summary WHERE invoice_number = 'INV-000001'"
                ).all()
                waits.append(time.monotonic() - began)

    readers = [threading.Thread(target=read) for _ in range(2)]
    with old.connect() as analyst:
        # Somebody's transaction stays open over the start of the upgrade.
        analyst.exec_driver_sql("SELECT count(*) FROM public.invoice_summary").all()
        for thread in readers:
            thread.start()
        upgrading = threading.Thread(target=upgrade.upgrade, args=(old_url,))
        upgrading.start()
        _until(lambda: ask(old, f"SELECT pid {WAITING}"))
    upgrading.join(60)
    stop.set()
    for thread in readers:
        thread.join(10)
    assert not upgrading.is_alive()
    with old.connect() as connection:
        assert schema.revision(connection) == schema.head()
    assert len(waits) > 20
    assert max(waits) < patience.LOCK_TIMEOUT + 2


def test_a_table_that_somebody_holds_for_long_is_named_as_the_reason_and_others_read_on(
    old, old_url, monkeypatch
):
    monkeypatch.setattr(patience, "PATIENCE", 0.2)
    monkeypatch.setattr(patience, "LOCK_TIMEOUT", 0.1)
    with old.connect() as analyst:
        analyst.exec_driver_sql("SELECT count(*) FROM public.invoice_summary").all()
        with pytest.raises(DatabaseBusyError, match="somebody holds one of the tables"):
            upgrade.upgrade(old_url)
        assert ask(old, "SELECT count(*) FROM public.mangalam_invoices") == [(old_system.ROWS,)]
    upgrade.upgrade(old_url)


def test_an_upgrade_waits_for_another_whatever_the_limit_of_waiting(old, old_url, administer):
    name = sa.make_url(old_url).database
    administer(f"ALTER DATABASE {name} SET lock_timeout = '1ms'")
    failures = []
    threads = [threading.Thread(target=lambda: failures.append(_failure_of(old_url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [None, None, None]


def test_two_upgrades_at_once_do_not_disturb_each_other(old, old_url):
    failures = []
    threads = [threading.Thread(target=lambda: failures.append(_failure_of(old_url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == [None, None, None]


def test_the_rehearsal_prints_sql_that_does_the_same_and_changes_nothing_itself(
    old, old_url, postgres_url, administer
):
    before = ask(old, SCHEMA), ask(old, LINES)
    script = upgrade.script(old_url)
    assert (ask(old, SCHEMA), ask(old, LINES)) == before
    name = f"old_{next(_numbers)}"
    administer(f"CREATE DATABASE {name} TEMPLATE old_template")
    by_hand = sa.create_engine(
        postgres_url.set(database=name), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    with by_hand.connect() as connection:
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})
    upgrade.upgrade(old_url)
    assert ask(by_hand, SCHEMA) == ask(old, SCHEMA)
    assert ask(by_hand, REVISION) == ask(old, REVISION)
    assert ask(by_hand, LINES) == ask(old, LINES)


def as_psql_does(engine, script):
    """Run a script statement by statement, and go on when one fails; return what failed."""
    failed = []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        cursor = connection.connection.cursor()
        for statement in re.findall(r"(?:[^;$]|\$\$.*?\$\$)+;", re.sub("--.*", "", script), re.DOTALL):
            try:
                cursor.execute(statement)
            except psycopg2.Error as error:
                failed.append(str(error))
    return failed


@pytest.mark.parametrize(
    "failing", ["ADD COLUMN extra", "RENAME TO", "NULLS NOT DISTINCT;", "DROP CONSTRAINT"]
)
def test_of_a_rehearsed_script_nothing_is_done_behind_a_step_that_has_failed(old, old_url, failing):
    """Where psql is not told to stop at an error it goes on, and the version must not be noted for half of it."""
    script = upgrade.script(old_url)
    assert failing in script
    failed = as_psql_does(old, script.replace(failing, f"at fault {failing}", 1))
    assert any("A step before this one has failed" in said for said in failed)
    assert ask(old, "SELECT to_regclass('bulk_upload.alembic_version') IS NULL") == [(True,)]
    assert as_psql_does(old, upgrade.script(old_url)) == []
    assert ask(old, REVISION) == [(schema.head(),)]
    assert "up to date" in upgrade.script(old_url)


def test_a_rehearsed_script_lets_go_of_each_table_before_it_works_on_the_next(engine, database_url):
    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0012")
    script = upgrade.script(database_url)
    assert script.count("COMMIT;") == int(schema.head()) - 12
    assert as_psql_does(engine, script) == []
    assert ask(engine, REVISION) == [(schema.head(),)]
    assert "up to date" in upgrade.script(database_url)


def test_what_stands_in_the_way_is_named_and_the_upgrade_goes_on_when_it_is_gone(old, old_url):
    tell(old, "CREATE VIEW public.by_severity AS SELECT severity FROM bulk_upload.processing_errors")
    with pytest.raises(AdoptionRefusedError, match="view by_severity"):
        upgrade.upgrade(old_url)
    tell(old, "DROP VIEW public.by_severity")
    upgrade.upgrade(old_url)
    assert ask(old, "SELECT count(*) FROM bulk_upload.processing_errors") == [(3,)]


def test_a_database_without_an_error_table_moves_over_too(old, old_url):
    tell(old, "DROP SCHEMA bulk_upload CASCADE")
    upgrade.upgrade(old_url)
    assert ask(old, "SELECT count(*) FROM bulk_upload.processing_errors") == [(0,)]


OF_INVOICES = "ALTER TABLE public.mangalam_invoices"
WITHOUT_VIEW = f"DROP VIEW public.invoice_summary; {OF_INVOICES}"
IN_THE_WAY = {
    "an amount as text": (f"{WITHOUT_VIEW} ALTER quantity TYPE text", "quantity"),
    "an amount that rounds": (f"{OF_INVOICES} ALTER mrp TYPE numeric(12,2)", "mrp"),
    "money": (f"{WITHOUT_VIEW} ALTER item_total TYPE money USING item_total::money", "item_total"),
    "a float": (f"{OF_INVOICES} ALTER balance TYPE double precision", "balance"),
    "a date as text": (f"{WITHOUT_VIEW} ALTER invoice_date TYPE text", "invoice_date"),
    "a moment": (f"{OF_INVOICES} ALTER due_date TYPE timestamptz", "due_date"),
    "a number as name": (f"{OF_INVOICES} ALTER sku TYPE bigint USING NULL", "sku"),
    "other batches": (f"{OF_INVOICES} ALTER upload_batch_id TYPE uuid USING NULL", "upload_batch_id"),
    "another name": (f'{OF_INVOICES} RENAME invoice_number TO "Invoice Number"', "invoice_number"),
    "computed": (
        f"{OF_INVOICES} DROP COLUMN total, ADD total numeric(15,4) GENERATED ALWAYS AS (mrp * 2) STORED",
        "total",
    ),
    "a rule": ("CREATE RULE noted AS ON UPDATE TO public.mangalam_invoices DO ALSO SELECT 1", None),
    "a view": (
        f"{OF_INVOICES} RENAME TO lines; CREATE VIEW public.mangalam_invoices AS SELECT * FROM public.lines",
        None,
    ),
    "a view beside": ("CREATE VIEW public.daily_sales AS SELECT 1", None),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_nothing_could_be_loaded_into_is_named_before_anything_is_changed(old, old_url, what):
    statement, column = IN_THE_WAY[what]
    tell(old, statement)
    before = ask(old, SCHEMA)
    found = [misfit.column for misfit in misfits.find(old_url) if misfit.code == "IN_THE_WAY"]
    assert found == [column]
    for act in (upgrade.upgrade, upgrade.script):
        with pytest.raises(InTheWayError, match="nothing of it was changed") as caught:
            act(old_url)
        assert str(column or "public.") in str(caught.value)
    with pytest.raises(OldDatabaseError):
        schema.migrate(old_url)
    assert ask(old, SCHEMA) == before


WITHOUT_NUMBERS = {
    "copied without its key": "CREATE TABLE public.lines AS TABLE public.mangalam_invoices; "
    "DROP TABLE public.mangalam_invoices CASCADE; ALTER TABLE public.lines RENAME TO mangalam_invoices",
    "restored without its count": "SELECT setval('public.mangalam_invoices_id_seq', 1)",
    "numbered by somebody": f"{OF_INVOICES} ALTER id DROP DEFAULT",
    "dated by somebody": f"{OF_INVOICES} ALTER created_at DROP DEFAULT, ALTER created_at SET NOT NULL",
}


@pytest.mark.parametrize("what", WITHOUT_NUMBERS)
def test_new_rows_get_ids_and_times_of_their_own_in_a_table_that_gave_none(old, old_url, tmp_path, what):
    tell(old, WITHOUT_NUMBERS[what])
    upgrade.upgrade(old_url)
    with line_at(tmp_path, old_url) as line, ephemeral() as instance:
        batch_id = drop(line, "new.csv", csv_of([good_row(n) for n in range(900_000, 900_020)]))
        assert run(line, batch_id, instance).success
        assert receipt(line, batch_id).rows_inserted == 20
    whole = "SELECT count(*), count(DISTINCT id), count(created_at) FROM public.mangalam_invoices"
    assert ask(old, whole) == [(old_system.ROWS + 20,) * 3]
    with pytest.raises(sa.exc.IntegrityError):
        tell(old, "INSERT INTO public.mangalam_invoices (id) VALUES (1)")


def test_a_migration_that_is_refused_is_told_in_a_sentence(old, old_url):
    tell(old, "CREATE TABLE bulk_upload.upload_batches (id int)")
    with pytest.raises(AdoptionRefusedError, match="refuses a step of the upgrade \\(its migrations\\)"):
        upgrade.upgrade(old_url)


def test_a_server_that_takes_no_changes_is_not_said_to_hold_something_to_remove(old_url, administer):
    administer(f"ALTER DATABASE {sa.make_url(old_url).database} SET default_transaction_read_only = on")
    with pytest.raises(UpgradeForbiddenError, match="read-only"):
        upgrade.upgrade(old_url)


def test_the_rehearsal_of_a_newer_schema_says_that_it_is_newer(database_url, engine):
    tell(engine, "UPDATE bulk_upload.alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNewError):
        upgrade.script(database_url)


def test_nothing_but_the_upgrade_touches_an_old_database(old, old_url, tmp_path, monkeypatch):
    before = ask(old, SCHEMA)
    with pytest.raises(OldDatabaseError):
        schema.migrate(old_url)
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(tmp_path))
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", old_url)
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "bulk-upload db upgrade --dry-run" in result.stderr
    assert ask(old, SCHEMA) == before


def test_the_check_lists_the_rows_that_do_not_fit_before_and_after(old, old_url, tmp_path, monkeypatch):
    tell(old, "ALTER TABLE public.mangalam_invoices ALTER COLUMN sku TYPE text")
    tell(old, "UPDATE public.mangalam_invoices SET invoice_date = NULL, sku = repeat('9', 101) WHERE id = 7")
    tell(old, "UPDATE public.mangalam_invoices SET item_total = 1.00 WHERE id = 8")
    tell(old, "UPDATE public.mangalam_invoices SET customer_id = '4.6E+18' WHERE id = 9")
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(tmp_path))
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", old_url)
    before = CliRunner().invoke(main, ["db", "check", "--json"])
    upgrade.upgrade(old_url)
    after = CliRunner().invoke(main, ["db", "check", "--json"])
    assert (before.exit_code, after.exit_code) == (1, 1)
    found = {(entry["code"], entry["column"]): entry for entry in json.loads(before.stdout)}
    shared = 2 * (old_system.TWICE_UPLOADED + old_system.TWICE_IN_A_FILE)
    assert found["SHARED_KEY", None]["rows"] == shared
    assert "NOSKU-20001: ids 20001, 21053" in found["SHARED_KEY", None]["examples"]
    for place in (("MISSING_VALUE", "invoice_date"), ("TEXT_TOO_LONG", "sku")):
        assert found[place]["rows"] == 1
        assert found[place]["examples"] == ["id 7"]
    assert found["TOTAL_MISMATCH", "item_total"]["examples"] == ["id 8"]
    assert found["ROUNDED_IDENTIFIER", "customer_id"]["examples"] == ["id 9"]
    assert found["OTHER_TYPE", "sku"]["rows"] == 0
    assert ("OLD_TABLE", None) in found
    assert [e for e in json.loads(after.stdout) if e["code"] != "OTHER_TYPE"] == [
        e for e in json.loads(before.stdout) if e["code"] not in ("OLD_TABLE", "OTHER_TYPE")
    ]


def test_a_new_database_fits(database_url):
    assert misfits.find(database_url) == []


def test_a_key_whose_index_holds_more_columns_than_it_keeps_unique_fits(engine, database_url):
    tell(engine, f"{OF_INVOICES} DROP CONSTRAINT mangalam_invoices_identity")
    key = ", ".join(contract.IDENTITY)
    tell(engine, f"{OF_INVOICES} ADD UNIQUE NULLS NOT DISTINCT ({key}) INCLUDE (quantity)")
    assert misfits.find(database_url) == []


TAKEN_AWAY = {
    "the table": (f"{OF_INVOICES} RENAME TO lines", "public.mangalam_invoices is not there"),
    "a column": (f"{OF_INVOICES} RENAME brand TO make", "public.mangalam_invoices has no column brand"),
    "a column of the key": (
        f"{OF_INVOICES} RENAME sku TO article",
        "public.mangalam_invoices has no column sku",
    ),
    "one of the loader": (f"{OF_INVOICES} DROP extra", "public.mangalam_invoices has no column extra"),
    "a table of ours": ("DROP TABLE bulk_upload.former_rows", "bulk_upload.former_rows is not there"),
    "days": ("DROP TABLE public.daily_sales", "public.daily_sales is not there"),
    "the key": (
        f"{OF_INVOICES} DROP CONSTRAINT mangalam_invoices_identity",
        "a line that is loaded again is doubled",
    ),
}


@pytest.mark.parametrize("what", TAKEN_AWAY)
def test_what_somebody_has_taken_away_since_the_migrations_is_named(engine, database_url, what):
    statement, told = TAKEN_AWAY[what]
    tell(engine, statement)
    (found,) = misfits.find(database_url)
    assert told in found.message
    assert found.rows == 0


def test_the_commands_upgrade_and_rehearse(old, old_url, tmp_path, monkeypatch):
    monkeypatch.setenv("BULK_UPLOAD_HOME", str(tmp_path))
    monkeypatch.setenv("BULK_UPLOAD_DATABASE_URL", old_url)
    rehearsed = CliRunner().invoke(main, ["db", "upgrade", "--dry-run"])
    assert rehearsed.exit_code == 0
    assert "ADD CONSTRAINT mangalam_invoices_identity" in rehearsed.stdout
    assert ask(old, "SELECT to_regclass('bulk_upload.load_chunks') IS NULL") == [(True,)]
    done = CliRunner().invoke(main, ["db", "upgrade"])
    assert done.exit_code == 0
    assert done.stdout.endswith("is up to date.\n")
    assert ask(old, "SELECT to_regclass('bulk_upload.load_chunks') IS NULL") == [(False,)]
