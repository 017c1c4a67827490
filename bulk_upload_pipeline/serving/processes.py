"""Child processes of `bulk-upload up`: started apart from the terminal, found again, ended without fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from bulk_upload_pipeline.serving import logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# All that `up` starts for a home carries this variable, and hands it on to whatever it starts itself. So
# even the run of a code server that was killed is found, and a pid that was used again is never mistaken.
MARK = "BULK_UPLOAD_SUPERVISED_HOME"
LONGEST_BACKOFF = 30.0
# Seconds after which a process counts as well, so that its next end is its first again.
SETTLED = 60.0

# Dagster ends well on SIGTERM only where SIGINT is not ignored, which a background shell makes it be. To look for
# garbage at every 700 objects, of which imports make a quarter of a million that stay, is a sixth of its start.
_LAUNCHER = (
    "import gc, runpy, signal, sys;"
    "gc.set_threshold(50_000);"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    "signal.signal(signal.SIGTERM, signal.SIG_DFL);"
    "del sys.argv[0];"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
# Python would look for modules in the folder first in which `up` was started: there may be anything, such as files
# that others drop. Whatever a child starts inherits it.
_OWN_MODULES = {"PYTHONSAFEPATH": "1"}


@dataclass(slots=True)
class Child:
    """A Python module that is kept running.

    Attributes:
        name: What people call it.
        arguments: The module's name and its arguments.
        log: Where its output goes.
    """

    name: str
    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    ends: int = 0
    started_at: float = 0.0
    due_at: float = 0.0

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it, in a session of its own: Ctrl-C at the terminal is for its supervisor alone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        logs.keep_short(self.log)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, **_OWN_MODULES},
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    @property
    def ended(self) -> int | None:
        """Its exit code (negative: the signal that ended it); None while it runs."""
        return self.process.poll() if self.process else None

    def postpone(self) -> float:
        """Note that it ended, and return after how many seconds it is to start again: longer each time."""
        well = time.monotonic() - self.started_at > SETTLED
        self.ends = 1 if well else self.ends + 1
        delay = min(0.25 * 2**self.ends, LONGEST_BACKOFF)
        self.process, self.due_at = None, time.monotonic() + delay
        return delay

    def end(self, patience: float) -> None:
        """End it: by SIGTERM, and when that does not help for `patience` seconds, by SIGKILL."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")


def marked(home: Path) -> list[psutil.Process]:
    """Return all living processes that `up` started for a home, at first or second hand."""
    wanted = str(home.resolve())
    return [process for process in psutil.process_iter() if _mark_of(process) == wanted]


def runs_of(home: Path) -> list[psutil.Process]:
    """Return the workers of Dagster runs: they outlive the code server and the process that forked them."""
    everything = marked(home)
    forks = [
        process for process in everything if "multiprocessing.forkserver" in " ".join(_command_of(process))
    ]
    # The process that forks them is a child of the code server, and looks like them otherwise.
    others = {process.pid for process in everything} - {process.pid for process in forks}
    return [process for process in forks if _parent_of(process) not in others]


def end_all(processes: Iterable[psutil.Process], patience: float) -> None:
    """End processes by SIGTERM, and after `patience` seconds by SIGKILL those that remain."""
    remaining = list(processes)
    for process in remaining:
        _signal(process, kill=False)
    _, remaining = psutil.wait_procs(remaining, timeout=patience)
    for process in remaining:
        _signal(process, kill=True)
    psutil.wait_procs(remaining, timeout=patience)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass  # it was faster


def _mark_of(process: psutil.Process) -> str | None:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None  # it ended, or is somebody else's


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
