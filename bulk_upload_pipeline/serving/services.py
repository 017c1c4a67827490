"""The local services of `bulk-upload up`: code server, daemon and webserver of Dagster, kept running.

The order of things, which `up` follows: claim the home, end what a killed predecessor left, start PostgreSQL,
start the services; and all of it backwards at the end.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from bulk_upload_pipeline import settings as variables
from bulk_upload_pipeline.exceptions import (
    BulkUploadError,
    HomeInUseError,
    PortTakenError,
    ServiceFailedError,
    SettingInvalidError,
)
from bulk_upload_pipeline.local import Urls, dagster_environment, postgres, write_if_changed
from bulk_upload_pipeline.serving import clock, embedded, logs, processes
from bulk_upload_pipeline.serving.cluster import LOG
from bulk_upload_pipeline.serving.processes import MARK, Child
from bulk_upload_pipeline.serving.readiness import LOCATION, unready

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bulk_upload_pipeline.settings import Home, Settings

ADDRESS = "127.0.0.1"
DEFINITIONS = "bulk_upload_pipeline.definitions"
CODE_SERVER = "bulk_upload_pipeline.defs.code_server"
UI = "bulk_upload_pipeline.defs.ui"
SOCKETS = "bulk-upload-"
WORKSPACE = "workspace.yaml"
# Seconds.
POLL = 0.1
LOOK_AFTER = 0.5
START_PATIENCE = 180.0
SERVICE_PATIENCE = 15.0
# A run stops at the next thing it does in Python, so at the latest when PostgreSQL has taken its chunk.
RUN_PATIENCE = 30.0
REVIVAL_PAUSE = 15.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the UI listens, on 127.0.0.1: for people who change things and, if wanted, for viewers."""

    ui: int
    viewers: int | None = None

    @property
    def options(self) -> list[str]:
        """Return them as the UI's options."""
        return ["--port", str(self.ui), *(["--viewer-port", str(self.viewers)] if self.viewers else [])]


@contextmanager
def up(
    settings: Settings,
    port: int = 3000,
    *,
    prepare: Callable[[Urls], object],
    on_event: Callable[[str], object],
    definitions: str = DEFINITIONS,
    viewer_port: int | None = None,
) -> Generator[Services]:
    """Run all that a home needs for the length of the block: PostgreSQL and Dagster's services.

    Args:
        settings: Of this home.
        port: Where Dagster's UI is served, on 127.0.0.1.
        prepare: Called with the databases before the services start: the place for migrations.
        on_event: Told, in a sentence for people and from another thread, what happens to a service.
        definitions: What Dagster loads: a module, or a file that ends in `.py`.
        viewer_port: Where a UI is served that changes nothing; None for nowhere.

    Raises:
        HomeInUseError: Another `up` runs on this home.
        PortTakenError: Another program listens on a port.
        ServiceFailedError: A service does not come up.
        BulkUploadError: PostgreSQL cannot be used; see `local.postgres`.
    """
    ports = Ports(port, viewer_port)
    with claimed(settings.home, ports), postgres(settings) as urls:
        prepare(urls)
        with services(settings, urls, ports, on_event=on_event, definitions=definitions) as running:
            yield running


@contextmanager
def claimed(home: Home, ports: Ports) -> Generator[None]:
    """Keep a home and its ports for oneself, with nothing left of an `up` that was killed.

    Raises:
        HomeInUseError: Another `up` runs on this home.
        PortTakenError: Another program listens on the port.
        SettingInvalidError: Nothing can be written in the home.
    """
    with _lock_file(home) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip()
            raise HomeInUseError(home.machine, int(pid) if pid.isdecimal() else None) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        processes.end_all(processes.marked(home.machine), SERVICE_PATIENCE)
        for port in filter(None, (ports.ui, ports.viewers)):
            _require_free(port)
        yield


def _lock_file(home: Home) -> IO[str]:
    try:
        home.machine.mkdir(parents=True, exist_ok=True)
        return (home.machine / "up.lock").open("a+")
    except OSError as error:
        wanted = f"a folder in which files can be written ({error.strerror})"
        raise SettingInvalidError(variables.HOME, str(home.machine), wanted) from error


@contextmanager
def services(
    settings: Settings,
    urls: Urls,
    ports: Ports,
    *,
    on_event: Callable[[str], object],
    definitions: str = DEFINITIONS,
) -> Generator[Services]:
    """Run Dagster's services for the length of the block; the caller has `claimed` the home.

    When the block begins they are ready, and when it ends nothing of them runs, runs of Dagster included.
    See `up` for the arguments and errors.
    """
    # gRPC has no passwords and runs what it is told: a socket in a private folder lets only us in. The
    # folder is a temporary one, because the path of a home may be too long for a socket.
    _remove_sockets(settings.home)
    sockets = Path(tempfile.mkdtemp(prefix=SOCKETS))
    running = Services(settings, urls, ports, sockets / "code", definitions, on_event)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(sockets, ignore_errors=True)


def _remove_sockets(home: Home) -> None:
    """Remove the folder of sockets of an `up` that was killed, which its workspace names."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        left = json.loads((home.dagster / WORKSPACE).read_text())
        folder = Path(left["load_from"][0]["grpc_server"]["socket"]).parent
        if folder.name.startswith(SOCKETS):
            shutil.rmtree(folder, ignore_errors=True)


class Services:
    """The services of one `up`. A thread of its own starts again whatever ends unasked.

    Attributes:
        url: Of Dagster's UI.
        viewer_url: Of the UI that changes nothing.
        logs: The folder of the services' logs.
    """

    def __init__(
        self,
        settings: Settings,
        urls: Urls,
        ports: Ports,
        code_socket: Path,
        definitions: str,
        on_event: Callable[[str], object],
    ) -> None:
        home = settings.home
        self.urls = urls
        self.url = f"http://{ADDRESS}:{ports.ui}"
        self.viewer_url = f"http://{ADDRESS}:{ports.viewers}" if ports.viewers else None
        self.logs = home.machine / "logs"
        self._home, self._ports, self._socket, self._on_event = home, ports, code_socket, on_event
        self._password = settings.ui_password
        self._postgres = None if settings.database_url else home.postgres
        self._environment = {**dagster_environment(settings, urls), MARK: str(home.machine.resolve())}
        self._code_server, self._daemon, self._webserver = self._children(definitions)
        self._clock = clock.Clock()
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def _children(self, definitions: str) -> tuple[Child, Child, Child]:
        workspace = str(self._home.dagster / WORKSPACE)
        loads = ["-f" if definitions.endswith(".py") else "-m", definitions]
        code = [CODE_SERVER, "api", "grpc", "-s", str(self._socket), *loads, "--location-name", LOCATION]
        web = [UI, "--host", ADDRESS, *self._ports.options, "--workspace", workspace]
        return (
            Child("code server", code, self.logs / "code-server.log"),
            Child("daemon", ["dagster._daemon", "run", "-w", workspace], self.logs / "daemon.log"),
            Child("webserver", web, self.logs / "webserver.log"),
        )

    def start(self) -> None:
        """Start the services, wait until they are ready, and look after them from then on.

        Raises:
            ServiceFailedError: One ends, or is not ready after `START_PATIENCE` seconds.
        """
        began = time.time()
        self._write_workspace()
        # The others would take a code server that is not there yet for a broken one, and ask again late.
        self._code_server.start(self._environment)
        self._wait(lambda: None if _accepts(self._socket) else (self._code_server, "it does not answer"))
        clock.forget_the_future(self.urls.dagster)
        self._daemon.start(self._environment)
        self._webserver.start(self._environment)
        self._wait(lambda: self._what_is_missing(began))
        self._supervisor.start()

    def stop(self) -> None:
        """End the services and the runs that they started, all of them; safe to repeat."""
        self._stopping.set()
        if self._supervisor.is_alive():
            # It may wait for PostgreSQL's recovery, which leaving must not wait for.
            self._supervisor.join(SERVICE_PATIENCE)
        try:
            # Nobody asks for new runs, none is started, those under way end, and their end is noted.
            self._webserver.end(SERVICE_PATIENCE)
            self._daemon.end(SERVICE_PATIENCE)
            processes.end_all(processes.runs_of(self._home.machine), RUN_PATIENCE)
            self._code_server.end(SERVICE_PATIENCE)
        finally:
            processes.end_all(processes.marked(self._home.machine), 2.0)

    def _write_workspace(self) -> None:
        # JSON is YAML, and quotes any path.
        server = {"socket": str(self._socket), "location_name": LOCATION}
        text = json.dumps({"load_from": [{"grpc_server": server}]})
        write_if_changed(self._home.dagster / WORKSPACE, text)

    def _wait(self, missing: Callable[[], tuple[Child, str] | None]) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while lacks := missing():
            child, cause = lacks
            for other in (self._code_server, self._daemon, self._webserver):
                if other.ended is not None:
                    raise ServiceFailedError(other.name, other.last_words(), other.log)
            if time.monotonic() > deadline:
                raise ServiceFailedError(child.name, cause, child.log)
            time.sleep(POLL)

    def _what_is_missing(self, since: float) -> tuple[Child, str] | None:
        by_name = {child.name: child for child in (self._code_server, self._daemon, self._webserver)}
        lacks = unready(ADDRESS, self._ports.ui, since, self._password)
        return (by_name[lacks.service], lacks.cause) if lacks else None

    def _supervise(self) -> None:
        while not self._stopping.wait(LOOK_AFTER):
            self._look_after_postgres()
            self._look_after_logs()
            self._look_after_clock()
            for child in (self._code_server, self._daemon, self._webserver):
                if not self._stopping.is_set():
                    self._look_after(child)

    def _look_after(self, child: Child) -> None:
        if (code := child.ended) is not None:
            delay = child.postpone()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._tell(f"The {child.name} ended ({how}); it starts again in {delay:g} s. Log: {child.log}")
        elif child.process is None and time.monotonic() >= child.due_at:
            try:
                child.start(self._environment)
            except OSError as error:
                self._tell(
                    f"The {child.name} cannot be started ({error}); next try in {child.postpone():g} s."
                )

    def _look_after_logs(self) -> None:
        for child in (self._code_server, self._daemon, self._webserver):
            logs.keep_short(child.log)
        if self._postgres:
            logs.keep_short(self._postgres / LOG)

    def _look_after_clock(self) -> None:
        """Start the daemon again when the clock was set back: it waits for a time that it has seen already."""
        if back := self._clock.set_back():
            self._tell(f"The clock was set back by {back:,.0f} s, so the daemon starts again.")
            self._daemon.end(SERVICE_PATIENCE)
            with suppress(DBAPIError):  # PostgreSQL is away: the next start does it
                clock.forget_the_future(self.urls.dagster)

    def _look_after_postgres(self) -> None:
        try:
            if self._postgres and embedded.revive(self._postgres):
                self._tell("PostgreSQL had ended and was started again; all committed rows are there.")
        except BulkUploadError as error:
            self._tell(str(error))
            self._stopping.wait(REVIVAL_PAUSE)

    def _tell(self, event: str) -> None:
        # A terminal that went away is no reason to stop looking after the services, nor is a pipe that nobody reads
        # any more: there, who prints is told to exit, which would end this thread and nothing else.
        with suppress(OSError, ValueError, SystemExit):
            self._on_event(event)


def _accepts(path: Path) -> bool:
    """Tell whether somebody serves a socket: a code server does so when it has loaded its code."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        # A port whose connections have ended but a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise PortTakenError(port, error) from error
