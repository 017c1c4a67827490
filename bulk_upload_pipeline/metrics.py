"""Figures for Prometheus, counted from the ledger at each scrape: a restart forgets nothing."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError

from bulk_upload_pipeline import objects, storage
from bulk_upload_pipeline.alerts import OLDEST
from bulk_upload_pipeline.exceptions import PortTakenError, StorageUnavailableError
from bulk_upload_pipeline.model import FINAL_STATES, State
from bulk_upload_pipeline.places import Key
from bulk_upload_pipeline.tables import alerts, upload_batches

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.settings import Home

ADDRESS = "127.0.0.1"
OUTCOMES = ("inserted", "updated", "unchanged", "rejected", "unprocessed")


class LedgerCollector(Collector):
    """What the ledger and the folders of a home say, as metrics."""

    def __init__(self, engine: sa.Engine, home: Home) -> None:
        self._engine, self._home = engine, home

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask the database, which may not be there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Count. A database that does not answer is a metric, too; of an inbox that cannot be listed there is none."""
        with suppress(OSError, StorageUnavailableError):
            yield from self._of_folders()
        try:
            with self._engine.connect() as connection:
                found = [_rows(connection), _batches(connection), _stages(connection), *_waiting(connection)]
        except DBAPIError:
            found = []
        yield _gauge("bulk_upload_database_up", "Whether PostgreSQL answers.", float(bool(found)))
        yield from found

    def _of_folders(self) -> Iterator[Metric]:
        waiting = list(_waiting_since(self._home.inbox))
        oldest = max(time.time() - min(waiting), 0.0) if waiting else 0.0
        yield _gauge("bulk_upload_inbox_files", "Files that lie in the inbox.", len(waiting))
        yield _gauge(
            "bulk_upload_oldest_waiting_file_seconds", "Since when the oldest file lies in the inbox.", oldest
        )
        free = shutil.disk_usage(storage.disk_of(self._home)).free
        yield _gauge("bulk_upload_disk_free_bytes", "Room on the disk of the home.", free)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _waiting_since(inbox: Place) -> Iterator[float]:
    """Yield when each file came: a rename changes the inode's time and not the file's, which may be old."""
    if isinstance(inbox, Key):
        listed = objects.listed(inbox)
        inner = [each for entry in listed if entry.is_folder for each in objects.listed(inbox / entry.name)]
        for entry in (*listed, *inner):
            if not entry.is_folder and not entry.name.startswith("."):
                yield entry.modified_ns / 1e9
        return
    folders = [inbox, *(path for path in _entries(inbox) if path.is_dir())]
    for path in (path for folder in folders for path in _entries(folder)):
        try:
            if path.is_file() and not path.is_symlink():
                yield path.stat().st_ctime
        except FileNotFoundError:
            continue  # it was taken a moment ago


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []


def _rows(connection: sa.Connection) -> Metric:
    metric = CounterMetricFamily(
        "bulk_upload_rows", "Rows of ended batches, by outcome.", labels=["profile", "outcome"]
    )
    columns = upload_batches.c
    sums = [sa.func.sum(columns[f"rows_{outcome}"]) for outcome in OUTCOMES]
    query = sa.select(columns.profile, *sums).where(columns.state.in_(FINAL_STATES)).group_by(columns.profile)
    found: list[Any] = list(connection.execute(query))
    for profile, *counts in found:
        for outcome, count in zip(OUTCOMES, counts, strict=True):
            metric.add_metric([profile or "none", outcome], float(count))
    return metric


def _batches(connection: sa.Connection) -> Metric:
    metric = GaugeMetricFamily("bulk_upload_batches", "Batches, by state.", labels=["state"])
    state = upload_batches.c.state
    query = sa.select(state, sa.func.count()).group_by(state)
    counts = {row[0]: row[1] for row in connection.execute(query)}
    for each in State:
        metric.add_metric([each], counts.get(each, 0))
    return metric


def _stages(connection: sa.Connection) -> Metric:
    """Return how long ended batches waited, were judged and were loaded, all told."""
    metric = SummaryMetricFamily(
        "bulk_upload_stage_seconds", "Seconds that ended batches spent in a stage.", labels=["stage"]
    )
    columns = upload_batches.c
    stages = {
        "waiting": (columns.received_at, columns.started_at),
        "validating": (columns.started_at, columns.validated_at),
        "loading": (columns.validated_at, columns.finished_at),
    }
    for stage, (begin, end) in stages.items():
        seconds = sa.func.extract("epoch", end - begin)
        query = sa.select(sa.func.count(seconds), sa.func.coalesce(sa.func.sum(seconds), 0)).where(
            columns.state.in_(FINAL_STATES), end >= begin
        )
        count, total = connection.execute(query).one()
        metric.add_metric([stage], count_value=count, sum_value=float(total))
    return metric


def _waiting(connection: sa.Connection) -> list[Metric]:
    queued = sa.select(sa.func.count()).where(upload_batches.c.state == State.WAITING)
    is_news = alerts.c.created_at > sa.func.now() - OLDEST  # what is older is given up
    unsent = sa.select(sa.func.count()).where(alerts.c.sent_at.is_(None), is_news)
    return [
        _gauge("bulk_upload_queue_depth", "Batches whose run has not begun.", connection.scalar(queued) or 0),
        _gauge("bulk_upload_alerts_waiting", "Alerts not yet sent.", connection.scalar(unsent) or 0),
    ]


@contextmanager
def served(engine: sa.Engine, home: Home, port: int, address: str = ADDRESS) -> Generator[None]:
    """Serve the metrics at `http://127.0.0.1:<port>/metrics` for the length of the block.

    Raises:
        PortTakenError: Another program listens on the port, or nobody may.
    """
    registry = CollectorRegistry()
    registry.register(LedgerCollector(engine, home))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise PortTakenError(port, error, address) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
