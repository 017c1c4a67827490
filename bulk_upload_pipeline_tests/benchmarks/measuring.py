"""Wall time and peak memory of a command, and medians of both."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SAMPLED_EVERY_S = 0.05
COUNTED_EVERY_S = 1.0
"""Who belongs to a command is read from all processes of the machine, on a core that the command might use."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A command that ended.

    Attributes:
        seconds: From before its start to after its end, or to what was waited for.
        peak_mb: Most memory (resident, in MB of 10**6 bytes) that it and its children had at one time; a page
            that several of them share counts for each.
    """

    started_at: datetime
    ended_at: datetime
    seconds: float
    peak_mb: float
    exit_code: int
    output: str


def measured(
    command: Sequence[str], environment: Mapping[str, str] | None = None, standard_input: Path | None = None
) -> Measured:
    """Run a command to its end; its errors go to ours, so that a failure can be read."""
    with open(standard_input or os.devnull, "rb") as source:  # noqa: PTH123 - os.devnull is text
        started_at, started = datetime.now(UTC), time.perf_counter()
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, env=environment, text=True)
        watch = _Memory(process.pid)
        output, _ = process.communicate()
        seconds, ended_at = time.perf_counter() - started, datetime.now(UTC)
    return Measured(started_at, ended_at, seconds, watch.peak() / 1e6, process.returncode, output)


class _Memory:
    """Looks at the memory of a process and of all that it started, until it ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak(self) -> int:
        """Return the peak in bytes; the process has ended."""
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        try:
            root = psutil.Process(self._pid)
            children, counted = root.children(recursive=True), time.monotonic()
            while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() - counted >= COUNTED_EVERY_S:
                    children, counted = root.children(recursive=True), time.monotonic()
                self._peak = max(self._peak, sum(_resident([root, *children])))
                time.sleep(SAMPLED_EVERY_S)
        except psutil.NoSuchProcess:
            return


def _resident(processes: Iterable[psutil.Process]) -> list[int]:
    found: list[int] = []
    for process in processes:
        try:
            found.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return found


def median(values: Iterable[float]) -> float:
    """Return the middle one of some values."""
    return statistics.median(values)


def machine() -> dict[str, object]:
    """Return what a figure needs beside it to be understood."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }
