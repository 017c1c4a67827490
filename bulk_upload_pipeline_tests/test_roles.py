"""A server that is shared: every role can do its work, and nothing else."""

import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner
from dagster_postgres.run_storage import PostgresRunStorage

from bulk_upload_pipeline import contract, database, local, revert, roles, sales, upgrade
from bulk_upload_pipeline.cli import main
from bulk_upload_pipeline.exceptions import (
    DatabaseNotMadeError,
    DatabaseUnavailableError,
    ProvisionRefusedError,
    UpgradeForbiddenError,
)
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.serving import embedded
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline.upgrading import misfits, schema
from bulk_upload_pipeline_tests import old_system
from bulk_upload_pipeline_tests.world import csv_of, drop, ephemeral, good_row, line_at, receipt, run

PASSWORDS = roles.Passwords("owner's", "loader's", "reader's", "dagster's")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with embedded.in_use(tmp_path_factory.mktemp("server") / "postgres") as url:
        roles.provision(url, PASSWORDS)
        yield url


def as_role(server, role, name="bulk_upload"):
    return server.set(username=role, database=name)


def tell(url, statement):
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        return [tuple(row) for row in result] if result.returns_rows else None


def test_the_loader_loads_corrects_reverts_and_needs_nobody_else(server, tmp_path):
    url = as_role(server, roles.LOADER).render_as_string(hide_password=False)
    schema.migrate(url)
    with line_at(tmp_path, url) as line, ephemeral() as instance:
        rows = [good_row(number) for number in range(20)]
        first = drop(line, "first.csv", csv_of([*rows, good_row(20, Quantity="many")]))
        assert run(line, first, instance).success
        second = drop(line, "second.csv", csv_of([*rows[:10], good_row(11, **{"Item Name": "Barfi"})]))
        assert run(line, second, instance).success
        assert receipt(line, first).state is State.PARTIALLY_LOADED
        done = receipt(line, second)
        assert (done.state, done.rows_unchanged, done.rows_updated) == (State.LOADED, 10, 1)
        assert revert.revert(line.engine, second).restored == 1
        counted = sales.refresh(line.engine, sales.stale(line.engine))
        assert sum(day.lines for day in counted) == 20


def test_every_table_of_ours_in_public_is_one_that_the_loader_may_write(server):
    ours = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    assert tell(as_role(server, roles.OWNER), ours) == [(name,) for name in sorted(roles.LOADED)]


FORBIDDEN = [
    "DROP TABLE public.mangalam_invoices",
    "TRUNCATE public.mangalam_invoices",
    "ALTER TABLE public.mangalam_invoices ADD COLUMN mine text",
    "ALTER TABLE public.mangalam_invoices DISABLE TRIGGER ALL",
    "CREATE TABLE public.mine (a int)",
    "CREATE TABLE bulk_upload.mine (a int)",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "UPDATE bulk_upload.alembic_version SET version_num = '0001'",
    "COPY public.mangalam_invoices TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/passwd')",
    "SET ROLE bulk_upload_owner",
    "SET session_replication_role = replica",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
@pytest.mark.parametrize("role", [roles.LOADER, roles.READER])
def test_neither_loader_nor_reader_can_change_what_the_tables_are_or_leave_the_database(
    server, role, statement
):
    with pytest.raises(sa.exc.DBAPIError) as caught:
        tell(as_role(server, role), statement)
    assert database.sqlstate(caught.value) == "42501"


def test_the_reader_reads_everything_and_writes_nothing(server):
    url = as_role(server, roles.READER)
    tables = tell(
        url,
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
        "WHERE table_schema IN ('public', 'bulk_upload')",
    )
    assert len(tables) > 5
    for (table,) in tables:
        tell(url, f"SELECT count(*) FROM {table}")
        for statement in (f"DELETE FROM {table}", f"INSERT INTO {table} DEFAULT VALUES"):
            with pytest.raises(sa.exc.DBAPIError) as caught:
                tell(url, statement)
            assert database.sqlstate(caught.value) in ("42501", "55000")
    with pytest.raises(sa.exc.DBAPIError):
        tell(url, "CREATE TEMPORARY TABLE mine (a int)")


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (roles.LOADER, "dagster"),
        (roles.READER, "dagster"),
        (roles.OWNER, "dagster"),
        (roles.DAGSTER_ROLE, "bulk_upload"),
    ],
)
def test_nobody_enters_the_database_of_another(server, role, name):
    with pytest.raises(sa.exc.OperationalError, match="permission denied for database"):
        tell(as_role(server, role, name), "SELECT 1")


def test_dagster_keeps_its_storage_in_its_own_database(server):
    url = as_role(server, roles.DAGSTER_ROLE, "dagster").render_as_string(hide_password=False)
    assert PostgresRunStorage(url, should_autocreate_tables=True).get_runs_count() == 0


def test_passwords_are_kept_as_hashes_and_changed_by_provisioning_again(server, monkeypatch):
    query = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'bulk_upload_%' ORDER BY 1"
    before = dict(tell(server, query))
    monkeypatch.setenv("BULK_UPLOAD_ADMIN_DATABASE_URL", server.render_as_string(hide_password=False))
    for role in ("OWNER", "READER", "DAGSTER"):
        monkeypatch.setenv(f"BULK_UPLOAD_{role}_PASSWORD", f"{role}'s")
    result = CliRunner().invoke(main, ["db", "provision"])
    assert result.exit_code == 2
    assert "BULK_UPLOAD_LOADER_PASSWORD" in result.stderr
    monkeypatch.setenv("BULK_UPLOAD_LOADER_PASSWORD", "another")
    assert CliRunner().invoke(main, ["db", "provision"]).exit_code == 0
    after = dict(tell(server, query))
    assert all(hashed.startswith("SCRAM-SHA-256$") for hashed in after.values())
    assert after.keys() == before.keys() == set(PASSWORDS.by_role())
    assert after[roles.LOADER] != before[roles.LOADER]


def test_a_database_that_needs_an_upgrade_is_left_to_its_owner_with_a_sentence(server):
    tell(as_role(server, roles.OWNER), "UPDATE bulk_upload.alembic_version SET version_num = '0001'")
    with pytest.raises(UpgradeForbiddenError, match="as the owner of the tables"):
        schema.migrate(as_role(server, roles.LOADER))
    head = schema.head()
    tell(as_role(server, roles.OWNER), f"UPDATE bulk_upload.alembic_version SET version_num = '{head}'")


def test_what_an_upgrade_by_the_owner_makes_can_be_used_by_the_others_at_once(server, tmp_path):
    """The sentence that asks the owner for the upgrade asks for nothing else."""
    owner = as_role(server, roles.OWNER)
    engine = sa.create_engine(owner, poolclass=sa.NullPool)
    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0012")
    upgrade.upgrade(owner)
    url = as_role(server, roles.LOADER).render_as_string(hide_password=False)
    with line_at(tmp_path, url) as line, ephemeral() as instance:
        for name in ("third.csv", "fourth.csv"):
            batch_id = drop(line, name, csv_of([good_row(n, **{"Item Name": name}) for n in range(900, 910)]))
            assert run(line, batch_id, instance).success
            assert receipt(line, batch_id).state is State.LOADED
    counted = "SELECT count(*) FROM bulk_upload.yielded_rows"
    assert tell(as_role(server, roles.READER), counted) == [(0,)]
    granted = tell(server.set(database="bulk_upload"), _RIGHTS)
    roles.provision(server, PASSWORDS)
    assert tell(server.set(database="bulk_upload"), _RIGHTS) == granted


_RIGHTS = """
SELECT table_schema, table_name, grantee, privilege_type FROM information_schema.table_privileges
WHERE grantee LIKE 'bulk_upload%' ORDER BY 1, 2, 3, 4
"""


def test_a_role_that_may_create_roles_and_databases_is_enough_to_provision(tmp_path):
    with embedded.in_use(tmp_path / "postgres") as admin:
        tell(admin, "CREATE ROLE boss LOGIN CREATEROLE CREATEDB")
        for _ in range(2):
            roles.provision(admin.set(username="boss"), PASSWORDS)
        url = as_role(admin, roles.LOADER).render_as_string(hide_password=False)
        with line_at(tmp_path / "home", url) as line, ephemeral() as instance:
            batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
            assert run(line, batch_id, instance).success
        assert tell(as_role(admin, roles.READER), "SELECT count(*) FROM public.mangalam_invoices") == [(1,)]
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'bulk_upload')"
        assert tell(admin.set(database="bulk_upload"), owners) == [(roles.OWNER,)]


def test_a_role_that_may_not_provision_is_told_which_one_may(server):
    with pytest.raises(ProvisionRefusedError, match="a superuser, or one with CREATEROLE and CREATEDB"):
        roles.provision(as_role(server, roles.READER), PASSWORDS)


def test_a_loader_for_whom_nobody_has_made_a_database_of_dagster_is_not_told_that_the_server_is_down(
    server, tmp_path
):
    invoices, unmade = (
        as_role(server, roles.LOADER, name).render_as_string(hide_password=False)
        for name in ("bulk_upload", "unmade")
    )
    with pytest.raises(DatabaseNotMadeError, match=r"unmade .*permission denied.*DAGSTER_DATABASE_URL"):
        local.postgres(Settings(Home(tmp_path), invoices, unmade)).__enter__()


def test_a_server_of_dagster_that_is_down_is_named_by_the_variable_that_states_it(server, tmp_path):
    url = as_role(server, roles.LOADER).render_as_string(hide_password=False)
    down = "postgresql://nobody@127.0.0.1:1/dagster"
    with pytest.raises(
        DatabaseUnavailableError, match=r"127\.0\.0\.1:1/dagster .*BULK_UPLOAD_DAGSTER_DATABASE_URL"
    ):
        local.postgres(Settings(Home(tmp_path), url, down)).__enter__()
    with pytest.raises(
        DatabaseUnavailableError, match=r"127\.0\.0\.1:1/dagster .*correct BULK_UPLOAD_DATABASE_URL"
    ):
        local.postgres(Settings(Home(tmp_path), down)).__enter__()


def test_rows_that_the_loader_may_not_see_are_named_as_what_is_in_the_way(server):
    tell(server.set(database="bulk_upload"), f"ALTER TABLE {contract.TABLE} ENABLE ROW LEVEL SECURITY")
    try:
        (found,) = misfits.find(as_role(server, roles.LOADER))
        assert (found.code, misfits.find(as_role(server, roles.OWNER))) == ("IN_THE_WAY", [])
    finally:
        tell(server.set(database="bulk_upload"), f"ALTER TABLE {contract.TABLE} DISABLE ROW LEVEL SECURITY")
    assert f"`ALTER ROLE {roles.LOADER} BYPASSRLS`" in found.message


def test_a_server_that_goes_away_meanwhile_is_not_said_to_refuse_anything(server, caplog):
    with pytest.raises(DatabaseUnavailableError), roles._session(server) as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert caplog.text == ""


def test_a_restored_database_of_the_old_system_is_taken_over_and_its_view_still_works(tmp_path):
    with embedded.in_use(tmp_path / "postgres") as admin:
        database.create_database_if_absent(admin.set(database="bulk_upload"))
        tell(
            admin.set(database="bulk_upload"),
            "CREATE ROLE old_service LOGIN; GRANT ALL ON SCHEMA public TO old_service; "
            "GRANT ALL ON DATABASE bulk_upload TO old_service",
        )
        engine = sa.create_engine(as_role(admin, "old_service"), poolclass=sa.NullPool)
        with engine.begin() as connection:
            old_system.build(connection)
        roles.provision(admin, PASSWORDS)
        # What a trigger of others writes to is theirs to open.
        tell(admin.set(database="bulk_upload"), "GRANT INSERT ON public.audit TO bulk_upload_loader")
        url = as_role(admin, roles.LOADER).render_as_string(hide_password=False)
        with line_at(tmp_path / "home", url) as line, ephemeral() as instance:
            batch_id = drop(line, "a.csv", csv_of([good_row(1)]))
            assert run(line, batch_id, instance).success
        counted = "SELECT count(*), sum(items) FROM public.invoice_summary"
        ((_, lines),) = tell(as_role(admin, roles.READER), counted)
        assert lines == old_system.ROWS + 1
