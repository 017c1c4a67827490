"""What is looked at in every batch: a judgement in words, with the numbers behind it.

Plain functions of what is known of a batch, so that a run of its own and the lane of small files log the same. To
add one, write it here and name it in `INSPECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline import contract, history
from bulk_upload_pipeline.evidence import Known
from bulk_upload_pipeline.exceptions import NothingToJudgeError
from bulk_upload_pipeline.model import Judgement, counted, share_in_words
from bulk_upload_pipeline.profiles import GENERIC

if TYPE_CHECKING:
    from bulk_upload_pipeline.history import Past
    from bulk_upload_pipeline.model import Layout


@dataclass(frozen=True, slots=True)
class Inspection:
    """Something that is looked at in every batch, once an asset of it is there.

    Attributes:
        blocking: Whether a severe failure keeps the batch from going on.
    """

    name: str
    asset: str
    judge: Callable[[Known], Judgement]
    blocking: bool = False

    @property
    def description(self) -> str:
        """Return what is looked at, in a sentence."""
        return (self.judge.__doc__ or "").partition("\n")[0]


def error_rate(known: Known) -> Judgement:
    """The gate: so many rejected rows mean the wrong file, and nothing of it is loaded."""
    verdict = known.entry.judged()
    return Judgement(
        passed=verdict.rows_rejected == 0,
        severe=verdict.breaker_tripped,
        words=(
            f"{share_in_words(verdict.rows_rejected, verdict.rows_read, 'is', 'are')} rejected "
            f"({verdict.error_rate:.1%}; the breaker trips at {verdict.max_error_rate:.0%})."
        ),
        numbers={
            "rows_read": verdict.rows_read,
            "rows_rejected": verdict.rows_rejected,
            "error_rate": round(verdict.error_rate, 4),
            "max_error_rate": verdict.max_error_rate,
        },
    )


def shape(known: Known) -> Judgement:
    """The file has the columns of its sender's last file: none is new, none is gone."""
    batch = known.entry.batch
    layout = batch.layout
    if layout is None:
        raise NothingToJudgeError(batch.batch_id, batch.state, known.entry.why_it_ended)
    unknown = [layout.header[position] for position in layout.extra_columns]
    numbers = {
        "columns": len(layout.header),
        "columns_mapped": len(layout.mapping),
        "columns_unknown": unknown,
    }
    if batch.parent_batch_id is not None or layout.profile == GENERIC:
        return Judgement(
            passed=True, words="There is no file of its own kind to compare it with.", numbers=numbers
        )
    if not known.past:
        return Judgement(passed=True, words=f"It is the first file of {layout.profile}.", numbers=numbers)
    return _compared(layout, known.past[0], numbers)


def _compared(layout: Layout, last: Past, numbers: dict[str, Any]) -> Judgement:
    """Judge the columns of a file by those of its sender's last one."""
    new = [name for name in layout.header if name not in last.header]
    gone = [name for name in last.header if name not in layout.header]
    numbers = numbers | {"columns_new": new, "columns_gone": gone, "compared_with": last.batch_id}
    told = [f"{words}: {', '.join(names)}" for words, names in (("new", new), ("gone", gone)) if names]
    return Judgement(
        passed=not told,
        words=f"Compared with the last file of {layout.profile} ({last.batch_id}), "
        + (f"columns are {'; '.join(told)}." if told else "the columns are the same."),
        numbers=numbers,
    )


def usual_counts(known: Known) -> Judgement:
    """The rows of the file, and the share of them that is rejected, are what its sender's files have."""
    verdict = known.entry.judged()
    if known.entry.batch.parent_batch_id is not None:
        return Judgement(passed=True, words="Corrected rows that came back are compared with nothing.")
    usual = history.usual(known.past)
    if usual is None:
        return Judgement(
            passed=True,
            words=f"The earlier files of its sender ({len(known.past)}) are too few to say what is usual.",
        )
    odd = usual.oddities(verdict.rows_read, verdict.error_rate)
    return Judgement(
        passed=not odd,
        words=f"Compared with the last {usual.files} files of its sender, "
        + (f"{' and '.join(odd)}." if odd else "it is as usual."),
        numbers={
            "rows_read": verdict.rows_read,
            "rows_usual": round(usual.rows),
            "error_rate": round(verdict.error_rate, 4),
            "error_rate_usual": round(usual.rejected_rate, 4),
        },
    )


def control_totals(known: Known) -> Judgement:
    """What the ledger says was loaded is what a recount of the table finds."""
    done, held, left, taken = known.committed, known.held, known.left, known.taken
    expected = done.inserted + done.updated + left.rows
    # Rows that were there already, unchanged, keep the batch that brought them, and what a later one has changed is
    # that one's: then the sums are of other rows.
    comparable = done.unchanged == 0 and taken == 0
    agrees = held.rows + taken == expected
    if comparable:
        agrees = agrees and held.totals == done.totals + left.totals
    compared = "quantities and totals" if comparable else "they"
    changed = f" and {counted(taken, 'row')} that others have changed since" if taken else ""
    return Judgement(
        passed=agrees,
        words=(
            f"{contract.TARGET} has {counted(held.rows, 'row')} of this batch{changed}, and the ledger says "
            f"{expected:,}; {compared} {'agree' if agrees else 'do not agree'}."
        ),
        numbers={"rows_in_table": held.rows, "rows_in_ledger": expected}
        | ({"rows_changed_since": taken} if taken else {}),
    )


def keys_unique(known: Known) -> Judgement:
    """No line of the batch's invoices stands in the table twice."""
    if known.identity_is_kept:
        return Judgement(passed=True, words="A constraint of the table keeps every identity unique.")
    twice = known.identities_held_twice
    return Judgement(
        passed=twice == 0,
        severe=True,
        words=(
            f"{contract.TARGET} lacks its constraint {contract.IDENTITY_CONSTRAINT}, and {twice:,} "
            f"identities of this batch's invoices stand there more than once. Remove the doubles and add the "
            f"constraint again."
        ),
        numbers={"identities_held_twice": twice},
    )


def subtotals(known: Known) -> Judgement:
    """The lines of each invoice add up to the subtotal that the file gives for it."""
    found = known.subtotals
    if found is None:
        return Judgement(passed=True, words="The file gives no subtotals.")
    examples = "; ".join(
        f"{e.invoice_number}: lines {e.lines:,.2f}, subtotal {e.stated:,.2f}" for e in found.examples
    )
    return Judgement(
        passed=found.disagree == 0,
        words=(
            f"The lines of {found.disagree:,} of {counted(found.invoices, 'invoice')} do not add up to their "
            f"subtotal; lines that were rejected, or are in another file, are missing there ({examples})."
            if found.disagree
            else f"The lines of {counted(found.invoices, 'invoice')} add up to their {_subtotals(found.invoices)}."
        ),
        numbers={"invoices": found.invoices, "invoices_that_disagree": found.disagree},
    )


def _subtotals(invoices: int) -> str:
    return "subtotal" if invoices == 1 else "subtotals"


def nothing_lost(known: Known) -> Judgement:
    """The conservation law: every row read is loaded, rejected, or named as not processed."""
    receipt = known.entry.receipt
    loaded = receipt.rows_inserted + receipt.rows_updated + receipt.rows_unchanged
    accounted = loaded + receipt.rows_rejected + receipt.rows_unprocessed
    return Judgement(
        passed=accounted == receipt.rows_read and receipt.rows_unprocessed == 0,
        severe=True,
        words=(
            f"{counted(receipt.rows_read, 'row')} read: {loaded:,} loaded, {receipt.rows_rejected:,} rejected, "
            f"{receipt.rows_unprocessed:,} not processed."
        ),
        numbers={"rows_read": receipt.rows_read, "rows_accounted_for": accounted},
    )


INSPECTIONS: tuple[Inspection, ...] = (
    Inspection("shape", "validated_invoices", shape),
    Inspection("usual_counts", "validated_invoices", usual_counts),
    Inspection("error_rate", "validated_invoices", error_rate, blocking=True),
    Inspection("control_totals", contract.TARGET, control_totals),
    Inspection("keys_unique", contract.TARGET, keys_unique),
    Inspection("subtotals", contract.TARGET, subtotals),
    Inspection("nothing_lost", "upload_receipts", nothing_lost),
)


def of(asset: str) -> tuple[Inspection, ...]:
    """Return the inspections of an asset; the one that may block comes last."""
    return tuple(inspection for inspection in INSPECTIONS if inspection.asset == asset)
