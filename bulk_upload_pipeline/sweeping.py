"""What killed processes left lying is removed, and files that only the archive knows of are found."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from bulk_upload_pipeline import holding, inbox, part_ledger, storage, whereabouts
from bulk_upload_pipeline.exceptions import BatchBusyError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from bulk_upload_pipeline.settings import Home
    from bulk_upload_pipeline.workplace import Line

SWEPT_AFTER_S = 3600.0
"""An unfinished copy of ours that nobody has written to for so long was left by a killed process."""


_OF_A_BATCH = re.compile(r"\d{8}T\d{6}-")


def sweep(line: Line) -> list[str]:
    """Remove what killed processes left: staging of batches that have ended, and unfinished copies of ours.

    Returns:
        The batches whose staging was removed.
    """
    inbox.sweep(line.home.inbox, older_than=time.time() - SWEPT_AFTER_S)
    left = storage.folders(line.home.staging)
    ended = [batch_id for batch_id in whereabouts.ended(line.engine, left) if _unstage(line, batch_id)]
    return sorted(ended)


def strangers(engine: sa.Engine, home: Home) -> list[str]:
    """Return the folders of the archive that are of no batch, the oldest first.

    A batch is in the ledger before its file is taken: so the database was restored from before then, or another server
    took over that had not heard of it yet, and nobody else knows any more that these files were received.
    """
    there = [name for name in storage.folders(home.archive) if _OF_A_BATCH.match(name)]
    return whereabouts.unknown(engine, there)


def _unstage(line: Line, batch_id: str) -> bool:
    """Remove the staging folder of a batch that has ended, unless somebody works on it again."""
    try:
        with holding.alone(line.engine, batch_id, patience=0):
            if whereabouts.ended(line.engine, [batch_id]):
                storage.remove(line.home, line.home.staging / batch_id)
                part_ledger.forget(line.engine, batch_id)
                return True
    except BatchBusyError:
        pass
    return False
