"""A process that gets a part of a core only, by a control group of Linux: what is slow by nature can be made so."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROOT = Path("/sys/fs/cgroup")
_MEMBERS = "cgroup.procs"
_PERIOD_US = 100_000


@contextmanager
def cores_at_most(pid: int, cores: float) -> Iterator[None]:
    """Let a process and all that it starts have `cores` of processor time a second together, for the block.

    Raises:
        SystemExit: Control groups cannot be made here.
    """
    # The first version has a folder for processors, the second one for everything.
    first = (_ROOT / "cpu").is_dir()
    group = (_ROOT / "cpu" if first else _ROOT) / f"bulk-upload-bench-{os.getpid()}"
    quota = str(int(cores * _PERIOD_US))
    try:
        group.mkdir()
        (group / ("cpu.cfs_quota_us" if first else "cpu.max")).write_text(
            quota if first else f"{quota} {_PERIOD_US}"
        )
        _move([pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))], group)
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        raise SystemExit(f"A limit needs control groups of processors, and root: {error}") from error
    try:
        yield
    finally:
        # What is started meanwhile is born into the group; the first one leaves it first, and then nothing is.
        _move([pid], group.parent)
        while left := (group / _MEMBERS).read_text().split():
            _move(map(int, left), group.parent)
        group.rmdir()


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended
            (group / _MEMBERS).write_text(str(pid))
