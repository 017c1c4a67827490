"""What a home needs before anything runs: its PostgreSQL, named or embedded, and Dagster's own home."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import exc

from bulk_upload_pipeline import settings as variables
from bulk_upload_pipeline.database import create_database_if_absent, make_engine, normalised_url
from bulk_upload_pipeline.serving import embedded

if TYPE_CHECKING:
    from collections.abc import Generator

    from bulk_upload_pipeline.settings import Settings

INVOICES = "bulk_upload"
DAGSTER = "dagster"
DAGSTER_YAML = "dagster.yaml"


@dataclass(frozen=True, slots=True)
class Urls:
    """The two databases of a home, as full `postgresql+psycopg2://` URLs, passwords included."""

    invoices: str
    dagster: str


@contextmanager
def postgres(settings: Settings) -> Generator[Urls]:
    """Keep the databases of a home within reach for the length of the block.

    The embedded server is started when it does not run, and stopped when its last user leaves; a server that
    the settings name is only used. Database `dagster` is created there as well. The schema of the invoices
    is left to `schema.migrate`.

    Raises:
        DatabaseUnavailableError: The server does not answer, or does not let this user in.
        DatabaseNotMadeError: There is no database for Dagster, and this user may not create it.
        EmbeddedPostgresMissingError: No server is named and the extra `local` is not installed.
        EmbeddedPostgresError: The embedded server does not start.
        SettingInvalidError: A URL is none of PostgreSQL.
    """
    if settings.database_url:
        yield _named(normalised_url(settings.database_url), settings.dagster_database_url)
        return
    with embedded.in_use(settings.home.postgres) as server:
        invoices = server.set(database=INVOICES)
        create_database_if_absent(invoices, owned=True)
        yield _named(invoices, settings.dagster_database_url, owned=True)


def _named(invoices: sa.URL, dagster_url: str | None, *, owned: bool = False) -> Urls:
    dagster, named_by = invoices.set(database=DAGSTER), variables.DATABASE_URL
    if dagster_url:
        named_by = variables.DAGSTER_DATABASE_URL
        dagster = normalised_url(dagster_url, named_by)
    if not _answers(dagster):
        create_database_if_absent(dagster, owned=owned and not dagster_url, variable=named_by)
    return Urls(_text(invoices), _text(dagster))


def _answers(url: sa.URL) -> bool:
    """Ask the database itself first: a user with few rights may use it, but not look for it elsewhere."""
    engine = make_engine(url)
    try:
        engine.connect().close()
    except exc.OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def _text(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def dagster_environment(settings: Settings, urls: Urls) -> dict[str, str]:
    """Return the variables with which Dagster works for this home, in this process or in another.

    Its configuration is written to DAGSTER_HOME, unless it is there already.
    """
    home = settings.home.dagster
    home.mkdir(parents=True, exist_ok=True)
    write_if_changed(home / DAGSTER_YAML, dagster_yaml().read_text())
    return {
        variables.HOME: str(settings.home.root),
        variables.DATABASE_URL: urls.invoices,
        variables.DAGSTER_DATABASE_URL: urls.dagster,
        variables.MAX_ERROR_RATE: str(settings.max_error_rate),
        variables.CHUNK_ROWS: str(settings.chunk_rows),
        variables.PART_MB: str(max(settings.part_bytes >> 20, 1)),
        variables.UI_PASSWORD: settings.ui_password or "",
        variables.VIEWER_PASSWORD: settings.viewer_password or "",
        variables.UI_HOSTS: ",".join(settings.ui_hosts),
        variables.ALERT_URLS: " ".join(settings.alert_urls),
        **variables.stated(settings.keeping),
        "DAGSTER_HOME": str(home),
        # Runs of many small files write their events in batches: an eighth of the time.
        "DAGSTER_EVENT_BATCH_SIZE": "200",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def dagster_yaml() -> Path:
    """Return Dagster's configuration: in a wheel it lies in the package, in a checkout beside it."""
    package = Path(__file__).parent
    packaged = package / DAGSTER_YAML
    return packaged if packaged.exists() else package.parent / DAGSTER_YAML


def write_if_changed(path: Path, text: str) -> None:
    """Write a file at once, so that a process which reads it now sees the old or the new one whole."""
    if not path.exists() or path.read_text() != text:
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)
