"""A worker that takes files through the line, one after the other, and says what became of each and what it took.

python -m bulk_upload_pipeline_tests.hostile_worker HOME DATABASE_URL FILE...
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from bulk_upload_pipeline import intake
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline_tests.world import line_at

MOST_ADDRESSES = 6 << 30
"""Beyond it an allocation fails, and with it the test, before the machine suffers."""


def main(home: str, database_url: str, *files: str) -> None:
    """Print a JSON line for each file: its name, state, codes, peak of memory in MB, and seconds."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    with line_at(Path(home), database_url) as line:
        for file in map(Path, files):
            # The kernel forgets the peak so far.
            Path("/proc/self/clear_refs").write_text("5")
            before, started = peak(), time.monotonic()
            receipt = stages.take(line, intake.announce(line, file))
            told = {
                "file": file.name,
                "state": receipt.state,
                "codes": list(receipt.findings_by_code),
                "peak_mb": round(peak() - before),
                "seconds": round(time.monotonic() - started, 1),
            }
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


def peak() -> float:
    """Return the peak of resident memory in MB."""
    found = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(found.split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
