"""A batch in its family: which findings it settles there, and whether it follows its corrections."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from bulk_upload_pipeline import archiving, counting, family, ledger, rejects, resolving, storage

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import Receipt, Verdict
    from bulk_upload_pipeline.workplace import Line


def settle(line: Line, entry: Entry, **what: str) -> tuple[str, ...]:
    """Resolve or reopen the findings that corrections settle; return the other batches that have such."""
    batch_id = entry.batch.batch_id
    if entry.has_findings:
        with line.engine.begin() as connection:
            rejects.forget_repeated(connection, batch_id)
    is_corrected = entry.has_corrections and family.living(line.engine, batch_id)
    if entry.batch.parent_batch_id is None and not is_corrected:
        return ()
    root = family.root_of(line.engine, batch_id)
    with family.locked(line.engine, root):
        changed = resolving.settle(line.engine, root, **what)
    return tuple(relative for relative in changed if relative != batch_id)


def family_of(line: Line, entry: Entry) -> AbstractContextManager[None]:
    """Let nobody settle findings of the family while a receipt counts them; most batches have no family."""
    if not has_family(entry):
        return nullcontext()
    return family.locked(line.engine, family.root_of(line.engine, entry.batch.batch_id))


def has_family(entry: Entry) -> bool:
    """Return whether a batch corrects another one, or others have corrected it."""
    return entry.batch.parent_batch_id is not None or entry.has_corrections


def relatives(line: Line, receipt: Receipt) -> tuple[Receipt, ...]:
    """Return the receipts of the other batches in the family of a correction; none for any other batch."""
    batch_id = receipt.batch_id
    if receipt.parent_batch_id is None:
        return ()
    members = family.members(line.engine, family.root_of(line.engine, batch_id))
    return tuple(ledger.receipt(line.engine, member) for member in members if member != batch_id)


def corrections_above(line: Line, root: str) -> tuple[str, ...]:
    """Return the corrections that would lose what they correct, each once, the latest last."""
    found = (*family.living(line.engine, root), *family.loading(line.engine, root))
    return tuple(dict.fromkeys(found))


def follows(line: Line, entry: Entry) -> bool:
    """Return whether so many rows of a rejected batch are corrected that the breaker would not stop it any more.

    One whose file was thrown away since cannot follow.
    """
    batch = entry.batch
    if batch.parent_batch_id is not None or now(line, batch.batch_id, entry.verdict).breaker_tripped:
        return False
    return storage.exists(archiving.archived(line, batch))


def now(line: Line, batch_id: str, verdict: Verdict | None) -> Verdict:
    """Return the verdict on a batch that is judged, with what corrections have loaded since."""
    assert verdict is not None
    return replace(verdict, rows_corrected=counting.corrected(line.engine, batch_id))
