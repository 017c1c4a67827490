"""`bulk-upload up`: everything of a home in one place, and a line for whatever happens to a file."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from bulk_upload_pipeline import intake, liveness, scratch, storage, sweeping, terminal, whereabouts
from bulk_upload_pipeline.alerting import messages
from bulk_upload_pipeline.database import address, first_line, make_engine
from bulk_upload_pipeline.exceptions import DatabaseUnavailableError
from bulk_upload_pipeline.inbox import drop, strangers
from bulk_upload_pipeline.model import FINAL_STATES, State
from bulk_upload_pipeline.profile_files import home_profiles, usable_profiles
from bulk_upload_pipeline.serving import services
from bulk_upload_pipeline.settings import unguarded
from bulk_upload_pipeline.upgrading.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    import sqlalchemy as sa

    from bulk_upload_pipeline.local import Urls
    from bulk_upload_pipeline.model import Receipt
    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.settings import Home, Settings

SECONDS_BETWEEN_LOOKS = 1.0
MOST_WATCHED = 1_000
"""So many of the latest batches are looked at each time; of what has not changed no receipt is read."""


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal: leave every block in order, so that nothing of ours keeps running."""


def up(
    settings: Settings,
    port: int,
    *,
    with_sample: bool,
    viewer_port: int | None = None,
    metrics_port: int | None = None,
) -> None:
    """Start everything, tell what happens to files, and stop everything on Ctrl-C, SIGTERM or a closed terminal.

    Raises:
        HomeInUseError: It runs on this home already.
        DatabaseInUseError: It runs on another home with the same database.
        PortTakenError: Something else listens on one of the ports.
    """
    settings.home.make()
    try:
        with (
            _stopping_on_signals(),
            ExitStack() as held,
            services.up(
                settings,
                port,
                prepare=lambda urls: held.enter_context(_prepared(urls, settings)),
                on_event=terminal.mention,
                viewer_port=viewer_port,
            ) as running,
            _measured(running, settings.home, metrics_port),
        ):
            if with_sample:
                drop_samples(settings.home.inbox)
            _greet(settings, running)
            if metrics_port:
                terminal.mention(f"{'Metrics':<10} http://127.0.0.1:{metrics_port}/metrics")
            engine = make_engine(running.urls.invoices)
            _tell_until_stopped(engine, settings.home, is_named=settings.database_url is not None)
    except Stopped:
        with suppress(OSError):  # the terminal may be what went away
            terminal.mention("Stopped.")


@contextmanager
def _prepared(urls: Urls, settings: Settings) -> Generator[None]:
    """Bring the schema up to date, and the ledger to where the home is now: no run of a waiting file has begun yet.

    A server of somebody else is kept from the `up` of any other home until all of this one has ended.

    Raises:
        DatabaseInUseError: Another home's works with it already.
    """
    migrate(urls.invoices)
    engine = make_engine(urls.invoices)
    try:
        with liveness.only_up(engine) if settings.database_url else nullcontext():
            intake.follow(engine, settings.home.inbox)
            _tell_strangers(engine, settings.home)
            yield
    finally:
        engine.dispose()


def _tell_strangers(engine: sa.Engine, home: Home) -> None:
    """Tell of files that the database does not know; those of a bucket are told at night, to list it takes long."""
    if isinstance(home.archive, Path) and (unknown := sweeping.strangers(engine, home)):
        terminal.mention(messages.of_strangers(unknown, home.archive).body)


@contextmanager
def _stopping_on_signals() -> Generator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Who says `nohup` wants it to outlive its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # once is enough: the second must not cut the stopping off
        raise Stopped

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _measured(running: services.Services, home: Home, port: int | None) -> Generator[None]:
    """Serve metrics for the length of the block, if somebody wants them."""
    if port is None:
        yield
        return
    from bulk_upload_pipeline import metrics

    engine = make_engine(running.urls.invoices)
    try:
        with metrics.served(engine, home, port):
            yield
    finally:
        engine.dispose()


def _greet(settings: Settings, running: services.Services) -> None:
    home, database_url = settings.home, running.urls.invoices
    for what, where in (
        ("UI", running.url),
        *([("Viewers", running.viewer_url)] if running.viewer_url else []),
        ("Inbox", home.inbox),
        ("Reports", home.reports),
        ("Database", f"{address(database_url)} (`bulk-upload db url` prints the URL)"),
    ):
        terminal.mention(f"{what:<10} {where}")
    if warning := unguarded(settings):
        terminal.mention(warning)
    terminal.mention("Drop files in the inbox. Ctrl-C stops everything.")


def _tell_until_stopped(engine: sa.Engine, home: Home, *, is_named: bool = False) -> None:
    """Tell what happens; that a server is away only of one that is named: of our own its supervisor tells."""
    unusable: set[str] = set()
    told = whereabouts.latest(engine, MOST_WATCHED)
    is_away = False
    while True:
        now = time.strftime("%H:%M:%S")
        for fault in new_faults(home, unusable):
            terminal.mention(f"{now} {fault}")
        lines, is_away = look(engine, told, now, was_away=is_away)
        for line in lines if is_named or not is_away else ():
            terminal.mention(line)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def look(engine: sa.Engine, told: dict[str, State], now: str, *, was_away: bool) -> tuple[list[str], bool]:
    """Return what there is to tell since the look before, and whether PostgreSQL is away, which is told once."""
    try:
        return news(engine, told, now), False
    except OperationalError as error:
        engine.dispose()
        away = DatabaseUnavailableError(address(engine.url), first_line(error))
        return [] if was_away else [f"{now} {away} Files wait until it does."], True


def new_faults(home: Home, told: set[str]) -> list[str]:
    """Return why files in the inbox of a home in a folder are not taken, as far as it is not told."""
    found = _unusable(home) or _strangers(home)
    untold = sorted(found - told)
    told.clear()
    told.update(found)
    return untold


def _unusable(home: Home) -> set[str]:
    """Return why profiles cannot be used: that stops the inbox."""
    problems = [file.problem for file in home_profiles(home.profiles) if file.problem is not None]
    return {f"{problem} No file of any sender is taken until then." for problem in problems}


def _strangers(home: Home) -> set[str]:
    """Return which folders of the inbox are no profile: a file in one would wait without a word."""
    if not isinstance(home.inbox, Path):
        return set()
    profiles = usable_profiles(home.profiles)
    with suppress(OSError):  # a share that is away; the sensor says so
        if folders := strangers(home.inbox, profiles.__contains__):
            said = intake.of_strangers(folders, [profile.name for profile in profiles])
            return {f"{said.strip()} No file in the inbox is taken from there."}
    return set()


def news(engine: sa.Engine, told: dict[str, State], now: str) -> list[str]:
    """Return what has happened to files since the look before, a line each, with the time of this look.

    No receipt keeps the times of all its states; and looks are so near to each other that one clock says enough.
    """
    return [f"{now} {in_a_line(receipt)}" for receipt in _changes(engine, told)]


def _changes(engine: sa.Engine, told: dict[str, State]) -> list[Receipt]:
    """Return the batches whose state changed since they were told, the oldest first."""
    latest = whereabouts.latest(engine, MOST_WATCHED)
    changed = [batch_id for batch_id in reversed(latest) if told.get(batch_id) is not latest[batch_id]]
    if not changed:
        return []
    by_name = {receipt.batch_id: receipt for receipt in whereabouts.receipts_of(engine, changed)}
    told.update({batch_id: receipt.state for batch_id, receipt in by_name.items()})
    return [by_name[batch_id] for batch_id in changed]


def in_a_line(receipt: Receipt) -> str:
    """Return what happens to a file as one line."""
    words = receipt.reason if receipt.state in FINAL_STATES else _UNDER_WAY[receipt.state]
    return f"{receipt.file_name}  {receipt.state}  {words}"


_UNDER_WAY = {
    State.WAITING: "its run is requested",
    State.RECEIVED: "archived, being read",
    State.VALIDATED: "judged, waiting to be loaded",
    State.LOADING: "being loaded",
}


def drop_samples(folder: Place) -> None:
    """Drop three sample files: a clean one, one with some faults, and one with so many that it is refused."""
    from bulk_upload_pipeline.sample import write_sample

    there = storage.names(folder)
    samples = (
        ("zoho-clean.csv", "zoho", 2_000, 0.0),
        ("distributor-some-faults.csv", "distributor", 1_000, 0.03),
        ("zoho-wrong-file.csv", "zoho", 500, 0.6),
    )
    for number, (name, profile, rows, dirty) in enumerate(samples, start=1):
        if name not in there:
            with scratch.folder("sample") as made:
                sample = made / name
                write_sample(sample, rows=rows, profile=profile, dirty=dirty, seed=number)
                drop(sample, folder)
