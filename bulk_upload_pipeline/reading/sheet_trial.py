"""A spreadsheet that nobody has opened yet is read in a process of its own first, and only then by the worker.

A damaged XLS, XLSB or ODS file can make its reader, which is no Python, ask for more memory than there is (an XLS that
was copied as if it were text does), or come upon what it holds for impossible; then it ends its process at once, and
nothing in that process can stop it. A worker would die of such a file, and the next one that takes it, too. So a
process dies that nobody needs, within limits of memory and time, and the file has a finding.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from bulk_upload_pipeline.recognising.unpack import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from bulk_upload_pipeline.exceptions import UnreadableError

MOST_ADDRESSES = 2 << 30
"""Bytes that the trial may ask for; a file of `whole_sheets.MOST_CELLS` asks for half."""

MOST_SECONDS = 300

_BEGUN, _READ = "begun", "read"
_READ_ALL = f"""
import resource, sys
import python_calamine as calamine
resource.setrlimit(resource.RLIMIT_AS, ({MOST_ADDRESSES}, {MOST_ADDRESSES}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print({_BEGUN!r}, flush=True)
try:
    book = calamine.CalamineWorkbook.from_path(sys.argv[1])
    for name in book.sheet_names:
        for row in book.get_sheet_by_name(name).iter_rows():
            pass
except (calamine.CalamineError, OSError):
    pass
print({_READ!r})
"""


def refuse_fatal(path: Path) -> None:
    """Read a spreadsheet to its end elsewhere. Whatever its reader says of it as an error is left to the worker.

    Raises:
        UnreadableError: `DAMAGED_FILE`: its reader does not survive it.
    """
    try:
        trial = subprocess.run(
            [sys.executable, "-P", "-c", _READ_ALL, str(path.resolve())],
            capture_output=True,
            text=True,
            check=False,
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _fatal(f"it was not read within {MOST_SECONDS} seconds") from None
    if trial.stdout.split() == [_BEGUN]:
        raise _fatal("what it says of its own inner structure cannot be")


def _fatal(why: str) -> UnreadableError:
    return damaged(f"the spreadsheet cannot be read ({why})")
