"""The world of the tests: a real PostgreSQL for the session, a fresh migrated database for each test."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from hypothesis import settings

from bulk_upload_pipeline import settings as variables

_numbers = itertools.count(1)

MEMORY = Path("/dev/shm")
ROOM_IN_MEMORY = 8 << 30
"""Bytes that must be free there: several workers have a server each, and others use it, too."""

# How long an example takes says more of the machine than of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


LONGEST = (
    *("test_up", "test_local", "test_faults", "test_retention", "test_three_weeks"),
    *("test_cli", "test_hostile_files", "test_benchmarks", "test_formats"),
)
"""Rooms that take longest, since they wait for other processes: the last of several workers must not start with one."""


def pytest_configure():
    """Hear Ctrl-C, also where a script has started the tests in the background, for which its shell ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with the longest rooms; each is given to a worker as a whole (`--dist=loadfile`)."""
    order = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish():
    """What is imported by now lives as long as the session: to look for garbage in it takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _folder_of_servers():
    """Memory, where there is plenty: a database is some 400 files, which a disk takes long to make and to forget."""
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_IN_MEMORY
    return MEMORY if roomy else None


@pytest.fixture(scope="session", autouse=True)
def _dagsters_migrations_are_read_once():
    """Dagster notes in each storage, those in memory too, its newest migration: which needs reading them all."""
    read = ScriptDirectory.from_config
    known = {}

    def once(config):
        place = config.get_main_option("script_location")
        return known[place] if place in known else known.setdefault(place, read(config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", once)
        yield


@pytest.fixture(scope="session")
def postgres_url():
    """URL of database `postgres` on an embedded server of this session."""
    from bulk_upload_pipeline.serving import embedded

    with (
        tempfile.TemporaryDirectory(prefix="bulk-upload-tests-", dir=_folder_of_servers()) as folder,
        embedded.in_use(Path(folder) / "postgres") as url,
    ):
        yield url


@pytest.fixture(scope="session")
def administer(postgres_url):
    """Run a statement on the session's server: a connection for each would take as long as what it does."""
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        # Nothing here lives through a power cut, and most of a test's time would be waiting for the disk.
        connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
        # The WAL of a thousand databases need not be kept: it may stand in memory.
        connection.exec_driver_sql("ALTER SYSTEM SET max_wal_size = '512MB'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield connection.exec_driver_sql
    engine.dispose()


@pytest.fixture(scope="session")
def template_database(postgres_url, administer):
    """Name of a migrated database; copying it takes a tenth of the time of migrating."""
    from bulk_upload_pipeline.upgrading.schema import migrate

    name = f"template_{os.getpid()}"
    administer(f'CREATE DATABASE "{name}"')
    migrate(postgres_url.set(database=name).render_as_string(hide_password=False))
    return name


@pytest.fixture
def database_url(postgres_url, administer, template_database):
    """URL of a fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    administer(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    yield postgres_url.set(database=name).render_as_string(hide_password=False)
    administer(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def engine(database_url):
    """An engine of the package on that database."""
    from bulk_upload_pipeline.database import make_engine

    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def line(tmp_path, database_url, request):
    """A line on a home of its own, by the settings that a room states as `SETTINGS`."""
    from bulk_upload_pipeline_tests.world import line_at

    with line_at(tmp_path / "home", database_url, **getattr(request.module, "SETTINGS", {})) as line:
        yield line


@pytest.fixture
def instance():
    """A Dagster that is gone with the test."""
    from bulk_upload_pipeline_tests.world import ephemeral

    with ephemeral() as instance:
        yield instance


@pytest.fixture(scope="session")
def dagster_url(postgres_url, administer):
    """A storage of Dagster for the commands."""
    name = f"dagster_{os.getpid()}"
    administer(f'CREATE DATABASE "{name}"')
    return postgres_url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def home(tmp_path, database_url, dagster_url):
    """The home of a terminal; the commands change their own environment, which must not stay."""
    stated = {
        variables.HOME: str(tmp_path / "home"),
        variables.DATABASE_URL: database_url,
        variables.DAGSTER_DATABASE_URL: dagster_url,
    }
    before = dict(os.environ)
    os.environ.update(stated)
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def at_terminal(home):
    """Run a command in this process and return what it printed and its exit code."""
    from bulk_upload_pipeline.cli import main

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    return run
