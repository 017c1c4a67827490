"""Figures for Prometheus, counted from the ledger at each scrape: a restart forgets nothing."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
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
                found = [*_of_ledger(connection), *_waiting(connection)]
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
    else:
        yield from _came(inbox)


def _came(folder: Path, *, is_inbox: bool = True) -> Iterator[float]:
    """Yield when each file of a folder, and of the folders in an inbox, came."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with suppress(OSError):  # taken a moment ago, or in one sender's folder that cannot be read
                if entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_ctime
                elif is_inbox and entry.is_dir(follow_symlinks=False):
                    yield from _came(folder / entry.name, is_inbox=False)


_STAGES = {
    "waiting": ("received_at", "started_at"),
    "validating": ("started_at", "validated_at"),
    "loading": ("validated_at", "finished_at"),
}


def _of_ledger(connection: sa.Connection) -> list[Metric]:
    """Return what all batches come to, from one look at them."""
    columns = upload_batches.c
    rows = [sa.func.sum(columns[f"rows_{outcome}"]) for outcome in OUTCOMES]
    seconds = [
        told
        for begin, end in _STAGES.values()
        for spent in [sa.func.extract("epoch", columns[end] - columns[begin])]
        for took in [columns[end] >= columns[begin]]
        for told in (sa.func.count(spent).filter(took), sa.func.coalesce(sa.func.sum(spent).filter(took), 0))
    ]
    query = sa.select(columns.profile, columns.state, sa.func.count(), *rows, *seconds)
    found: list[Any] = list(connection.execute(query.group_by(columns.profile, columns.state)))
    ended = [each for each in found if each[1] in FINAL_STATES]
    return [_rows(ended), _batches(found), *_stages([each[-len(seconds) :] for each in ended])]


def _rows(ended: list[Any]) -> Metric:
    """Return a gauge, which may fall: a load that is undone, or goes on again, takes its rows out of the sum.

    Prometheus takes a counter that falls for one that began anew, and would count all rows of all time once more.
    """
    metric = GaugeMetricFamily(
        "bulk_upload_rows", "Rows of ended batches, by outcome.", labels=["profile", "outcome"]
    )
    sums: dict[tuple[str, str], int] = {}
    for profile, _, _, *counts in ended:
        for outcome, count in zip(OUTCOMES, counts[: len(OUTCOMES)], strict=True):
            key = (profile or "none", outcome)
            sums[key] = sums.get(key, 0) + int(count)
    for (profile, outcome), count in sums.items():
        metric.add_metric([profile, outcome], float(count))
    return metric


def _batches(found: list[Any]) -> Metric:
    metric = GaugeMetricFamily("bulk_upload_batches", "Batches, by state.", labels=["state"])
    for state in State:
        metric.add_metric([state], sum(count for _, each, count, *_ in found if each == state))
    return metric


def _stages(ended: list[Any]) -> list[Metric]:
    """Return how long ended batches waited, were judged and were loaded, all told; it may fall as their rows may."""
    told = {
        "count": "Ended batches that came through a stage.",
        "sum": "Seconds that they spent in it, all told.",
    }
    metrics: list[Metric] = []
    for which, (name, words) in enumerate(told.items()):
        metric = GaugeMetricFamily(f"bulk_upload_stage_seconds_{name}", words, labels=["stage"])
        for at, stage in enumerate(_STAGES):
            metric.add_metric([stage], float(sum(each[2 * at + which] for each in ended)))
        metrics.append(metric)
    return metrics


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
