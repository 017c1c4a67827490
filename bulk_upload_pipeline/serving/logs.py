"""Logs of processes that run for months: how they are kept from filling the disk."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 10_000_000
"""Bytes; as many again are kept beside it."""


def keep_short(log: Path) -> None:
    """Put what a large log holds aside, as `<name>.1`; whoever writes it, by appending, goes on with an empty one."""
    with suppress(OSError):  # not there yet, or no room: nobody shall fail for it
        if log.stat().st_size > LARGEST:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
