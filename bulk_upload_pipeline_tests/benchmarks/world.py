"""The world of a benchmark: an embedded PostgreSQL with the product's own settings, and its databases."""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from bulk_upload_pipeline import contract, local, settings
from bulk_upload_pipeline.database import create_database_if_absent
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline.upgrading.schema import migrate
from bulk_upload_pipeline_tests.benchmarks.reference import write_clean_copy

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class World:
    """A server that nobody else uses, and a folder for everything."""

    folder: Path
    urls: local.Urls
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextmanager
    def database(self, like: sa.URL | None = None) -> Iterator[sa.URL]:
        """Yield a fresh database with the empty table, its key and indexes; it is dropped at the end.

        Args:
            like: A database that nobody is connected to: the fresh one has its rows.
        """
        url = sa.make_url(self.urls.invoices).set(database=f"bench_{next(self._numbers)}")
        if like is None:
            create_database_if_absent(url, owned=True)
            migrate(url)
        else:
            self._administer(
                f'CREATE DATABASE "{url.database}" TEMPLATE "{like.database}" STRATEGY FILE_COPY'
            )
        # What was written before must not be flushed at the cost of what is measured next.
        self._administer("CHECKPOINT")
        try:
            yield url
        finally:
            self._administer(f'DROP DATABASE "{url.database}" WITH (FORCE)')

    def sample(self, rows: int, *, seed: int = 1, dirty: float = 0.0) -> Path:
        """Return a zoho file of these rows; the same one each time that it is asked for."""
        path = self.folder / f"zoho-{rows}-{seed}-{dirty}.csv"
        if not path.exists():
            write_sample(path, rows=rows, seed=seed, dirty=dirty)
        return path

    def clean(self, sample: Path) -> Path:
        """Return the rows of a clean sample as COPY likes them best."""
        path = sample.with_suffix(".copy")
        if not path.exists():
            write_clean_copy(sample, path)
        return path

    def environment(self, database: sa.URL) -> dict[str, str]:
        """Return the variables with which a command works on `database`, in a home of its own."""
        home = Path(tempfile.mkdtemp(prefix="home-", dir=self.folder))
        return os.environ | {
            settings.HOME: str(home),
            settings.DATABASE_URL: database.render_as_string(hide_password=False),
            settings.DAGSTER_DATABASE_URL: self.urls.dagster,
        }

    def _administer(self, statement: str) -> None:
        engine = sa.create_engine(self.urls.invoices, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def world(folder: Path | None = None) -> Iterator[World]:
    """Yield a world in a temporary folder below `folder`; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bulk-upload-bench-", dir=folder) as name:
        home = Home(Path(name) / "server")
        with local.postgres(Settings(home)) as urls:
            yield World(Path(name), urls)


def fingerprint(database: sa.URL) -> dict[str, object]:
    """Return counts and sums of the target, by which two loads of the same rows are held together."""
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        row = connection.execute(
            sa.text(
                "SELECT count(*) AS rows, sum(quantity) AS quantity, sum(item_total) AS item_total, "
                "sum(mrp) AS mrp, sum(total) AS total, sum(line_occurrence) AS occurrences, "
                "count(DISTINCT invoice_number) AS invoices, min(invoice_date) AS first_day, "
                "sum(hashtextextended(concat_ws('|', row_number, invoice_number, item_name, item_desc, "
                f"customer_name, due_date, last_payment_date, balance), 0)) AS texts FROM {contract.TARGET}"
            )
        ).one()
    engine.dispose()
    return {name: str(value) for name, value in row._mapping.items()}
