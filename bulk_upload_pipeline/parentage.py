"""Which batch a correction corrects: the one that its rows name, as long as the root of its family stands."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from bulk_upload_pipeline import as_written, family, ledger
from bulk_upload_pipeline.exceptions import BatchNotFoundError, UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import sqlalchemy as sa

    from bulk_upload_pipeline.model import Batch, Layout, TextChunk

CHUNK_ROWS = 50_000


def laid_over(engine: sa.Engine, path: Path, written: Layout) -> tuple[Layout, str]:
    """Return the layout of a correction and the batch that it corrects.

    Args:
        engine: Of the database.
        path: The correction.
        written: How it is written, as far as its content tells.

    Raises:
        UnreadableError: `CORRECTION_WITHOUT_BATCH`, `CORRECTED_BATCH_REVERTED`, `CORRECTION_COLUMNS`.
    """
    from bulk_upload_pipeline.read import read_chunks

    def read(layout: Layout) -> Iterator[TextChunk]:
        return read_chunks(path, layout, CHUNK_ROWS)

    batches = as_written.named(read(written), written).batches
    if not batches:
        raise _no_batch("no row of it names a batch")
    parent = next((p for p, _ in batches.most_common() if _is_known(engine, p)), None)
    if parent is None:
        raise _no_batch(f"there is no batch {batches.most_common(1)[0][0]}")
    root = root_that_stands(engine, parent)
    layout = ledger.batch(engine, parent).layout
    if layout is None or root.layout is None:
        raise _no_batch(f"no row of batch {parent} was rejected")
    if written.encoding is not None and written.encoding_confidence < 1:
        known = family.texts(engine, root.batch_id)
        written = as_written.in_its_encoding(written, read, known)
    return as_written.lay_over(written, layout), parent


def root_that_stands(engine: sa.Engine, batch_id: str) -> Batch:
    """Return the batch whose file came first in the family of a batch.

    Raises:
        UnreadableError: `CORRECTED_BATCH_REVERTED`, which leaves nothing to correct.
    """
    root = ledger.batch(engine, family.root_of(engine, batch_id))
    if root.state is State.REVERTED:
        raise UnreadableError(file_finding("CORRECTED_BATCH_REVERTED", root.batch_id))
    return root


def _is_known(engine: sa.Engine, batch_id: str) -> bool:
    try:
        ledger.batch(engine, batch_id)
    except BatchNotFoundError:
        return False
    return True


def _no_batch(why: str) -> UnreadableError:
    return UnreadableError(file_finding("CORRECTION_WITHOUT_BATCH", why))


def one_at_a_time(
    engine: sa.Engine, batch: Batch, *, is_corrected: bool = False
) -> AbstractContextManager[None]:
    """Let the corrections of one root be judged one after the other, and a root that they correct; nobody else waits.

    So each knows which rows the others are about to load.
    """
    if batch.parent_batch_id is None and not is_corrected:
        return nullcontext()
    return family.locked(engine, family.root_of(engine, batch.batch_id))
