"""What a worker does of a huge file that another one has taken."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from bulk_upload_pipeline import part_ledger
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.judging import give_memory_back_soon
from bulk_upload_pipeline.part_judging import judge_next, unjudged
from bulk_upload_pipeline.part_ledger import BETWEEN_LOOKS_S
from bulk_upload_pipeline.part_loading import LoadShare, unloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bulk_upload_pipeline.part_ledger import Leases, PartRow
    from bulk_upload_pipeline.profiles import OnConflict
    from bulk_upload_pipeline.splitting import Shared

PATIENCE_S = 60.0
"""So long a helper stays that finds nothing to do, such as while the verdict is composed."""


def help_along(shared: Shared, on_conflict: OnConflict, stays: Callable[[], bool]) -> int:
    """Work on the parts of a batch that another worker has taken, until there is nothing left to do.

    Args:
        shared: The batch.
        on_conflict: What becomes of a row whose identity stands in the target with other values.
        stays: Asked before each part; the helper leaves when it answers no.

    Returns:
        How many parts it judged, looked through or loaded.
    """
    from bulk_upload_pipeline.validate import prepare

    prepare()
    give_memory_back_soon()
    done = 0
    deadline = time.monotonic() + PATIENCE_S
    with part_ledger.leases(shared.engine) as leases:
        while not _is_over(shared.rows()) and time.monotonic() < deadline and stays():
            if _do_next(shared, leases, on_conflict):
                done += 1
                deadline = time.monotonic() + PATIENCE_S
            else:
                time.sleep(BETWEEN_LOOKS_S)
    return done


def open_parts(rows: Sequence[PartRow]) -> list[PartRow]:
    """Return the parts that can be worked on now; none while the verdict on the whole is awaited."""
    return unjudged(rows) or unloaded(rows)


def _is_over(rows: Sequence[PartRow]) -> bool:
    return all(row.loaded for row in rows)


def _do_next(shared: Shared, leases: Leases, on_conflict: OnConflict) -> bool:
    try:
        if unjudged(shared.rows()):
            return judge_next(shared, leases)
        return _load_next(shared, leases, on_conflict)
    except BatchBusyError:
        return False  # it may not be loaded any more
    except OSError:
        if shared.rows():
            raise
        return False  # the batch has ended, and its folder is gone


def _load_next(shared: Shared, leases: Leases, on_conflict: OnConflict) -> bool:
    from bulk_upload_pipeline.load import load_chunks

    share, took = LoadShare(shared, leases), False
    shared.bring("")
    staged = replace(shared.staged)  # which has just become complete
    for pending in share.next_turn():
        took = True
        load_chunks(shared.engine, shared.batch_id, staged, shared.plan, on_conflict, pending, share=share)
    return took
