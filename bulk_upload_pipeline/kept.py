"""The form in which PostgreSQL keeps a batch: its row as what travels, and what travels as values of a row."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline.exceptions import NoVerdictError
from bulk_upload_pipeline.model import (
    ENDED_STATES,
    Batch,
    Layout,
    Overrides,
    Receipt,
    Sheet,
    State,
    Totals,
    Verdict,
)
from bulk_upload_pipeline.places import place_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from bulk_upload_pipeline.places import Place

NO_TEXT = "hex:"
"""How a place begins in `source_path` when its bytes are no text; others are absolute paths, or URLs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """All that the ledger says of a batch, from one look at it.

    Attributes:
        stated: What a person stated about the file.
        has_passed: Whether rows of it were loaded, be it before it was judged anew, and not reverted since.
        has_findings: Whether there are any, resolved ones included.
        has_corrections: Whether corrections brought rows of it, loaded or not.
    """

    batch: Batch
    stated: Overrides
    verdict: Verdict | None
    receipt: Receipt
    has_passed: bool
    has_findings: bool
    has_corrections: bool

    def judged(self) -> Verdict:
        """Return the verdict on the file.

        Raises:
            NoVerdictError: Nobody has judged it, or it has ended without a row that could be judged.
        """
        if self.verdict is None:
            raise NoVerdictError(self.batch.batch_id, self.batch.state, self.why_it_ended)
        return self.verdict

    @property
    def why_it_ended(self) -> str | None:
        """Why the batch has ended; None when it has not."""
        return self.receipt.reason if self.batch.state in ENDED_STATES else None


def as_entry(row: sa.Row[Any]) -> Entry:
    """Return a row of `upload_batches`, with what `Entry` says besides, as an entry."""
    return Entry(
        as_batch(row),
        Overrides(**(row.overrides or {})),
        None if row.verdict is None else verdict_of(row.verdict),
        as_receipt(row),
        row.has_passed,
        row.has_findings,
        row.has_corrections,
    )


def as_batch(row: sa.Row[Any]) -> Batch:
    """Return a row of `upload_batches` as a batch."""
    return Batch(
        batch_id=row.batch_id,
        file_name=row.file_name,
        state=State(row.state),
        source=path_of(row.source_path),
        received_at=row.received_at,
        file_size=row.file_size,
        folder=row.folder,
        sha256=row.sha256,
        layout=None if row.layout is None else _layout(row.layout),
        run_id=row.run_id,
        parent_batch_id=row.parent_batch_id,
        duplicate_of=row.duplicate_of,
    )


def as_receipt(row: sa.Row[Any]) -> Receipt:
    """Return a row of `upload_batches` as a receipt."""
    stated = row._asdict()
    names = {field.name for field in dataclasses.fields(Receipt)}
    empty = {"layout": {}, "findings_by_code": {}, "control_totals": {}, "reason": ""}
    values = {name: stated[name] for name in names}
    values |= {name: value for name, value in empty.items() if values[name] is None}
    return Receipt(**(values | {"state": State(row.state)}))


def stated_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as it is kept: JSON."""
    return dataclasses.asdict(verdict) | {
        "totals_read": verdict.totals_read.as_dict(),
        "totals_valid": verdict.totals_valid.as_dict(),
    }


def verdict_of(stated: dict[str, Any]) -> Verdict:
    """Return a verdict that was kept."""
    totals = {name: _totals(stated[name]) for name in ("totals_read", "totals_valid")}
    return Verdict(**(stated | totals))


def _totals(stated: dict[str, str]) -> Totals:
    return Totals(Decimal(stated["quantity"]), Decimal(stated["item_total"]))


def _layout(stated: dict[str, Any]) -> Layout:
    sheets = tuple(sheets_of(stated))
    lists = {name: tuple(stated.get(name, ())) for name in ("header", "left_out", "unread_sheets", "members")}
    written = stated.get("written_as")
    nested = {"sheets": sheets, "written_as": None if written is None else _layout(written)}
    return Layout(**(stated | lists | nested))


def sheets_of(stated: dict[str, Any]) -> list[Sheet]:
    """Return the sheets whose rows a batch has, by its layout as it is kept; none for a file that is no spreadsheet."""
    return [Sheet(**sheet) for sheet in stated.get("sheets", ())]


def storable(text: str) -> str:
    """Return a text of somebody else's as PostgreSQL can hold it: bytes that are no text are shown by number."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "")


def path_text(place: Place) -> str:
    """Return a place as text that PostgreSQL can hold and `path_of` turns back, whatever bytes it has."""
    text = str(place)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return NO_TEXT + text.encode("utf-8", "surrogateescape").hex()
    return text


def path_of(text: str) -> Place:
    """Return the place that `path_text` has written."""
    if text.startswith(NO_TEXT):
        return place_of(bytes.fromhex(text.removeprefix(NO_TEXT)).decode("utf-8", "surrogateescape"))
    return place_of(text)
