"""What PostgreSQL knows of batches that are inspected: each question is asked once, for all of them together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from bulk_upload_pipeline import counting, history, ledger, target
from bulk_upload_pipeline.exceptions import BatchNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa

    from bulk_upload_pipeline.history import Past
    from bulk_upload_pipeline.kept import Entry
    from bulk_upload_pipeline.model import LoadResult
    from bulk_upload_pipeline.target import Held, Subtotals


class Evidence:
    """What is known of some batches; a question is asked when the first of them needs its answer."""

    def __init__(self, engine: sa.Engine, batch_ids: Sequence[str]) -> None:
        self.engine = engine
        self.batch_ids = tuple(batch_ids)

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """How each batch stands in the ledger."""
        return ledger.entries(self.engine, self.batch_ids)

    @cached_property
    def committed(self) -> Mapping[str, LoadResult]:
        """What the chunk ledger says of each batch."""
        return counting.committed_of(self.engine, self.batch_ids)

    @cached_property
    def past(self) -> Mapping[str, list[Past]]:
        """The files of its sender before each batch, the latest first."""
        return history.before(self.engine, self.batch_ids)

    @cached_property
    def held(self) -> Mapping[str, Held]:
        """What the target has of each batch."""
        return target.held(self.engine, self.batch_ids)

    @cached_property
    def taken(self) -> Mapping[str, int]:
        """How many rows that each batch brought another has changed since."""
        return target.taken(self.engine, self.batch_ids)

    @cached_property
    def left(self) -> Mapping[str, Held]:
        """What the target has of each batch that was judged anew and does not bring it any more."""
        verdicts = {batch_id: entry.verdict for batch_id, entry in self.entries.items()}
        anew = [batch_id for batch_id, verdict in verdicts.items() if verdict and verdict.has_passed]
        return target.left(self.engine, anew) if anew else {}

    @cached_property
    def identity_is_kept(self) -> bool:
        """Whether the database keeps the identity of a line unique."""
        return target.identity_is_kept(self.engine)

    @cached_property
    def subtotals(self) -> Mapping[str, Subtotals]:
        """How the invoices of each batch compare with their subtotals, of the batches whose files give some."""
        layouts = {batch_id: entry.batch.layout for batch_id, entry in self.entries.items()}
        given = [b for b, layout in layouts.items() if layout is not None and "subtotal" in layout.mapping]
        return target.subtotals(self.engine, given)

    def of(self, batch_id: str) -> Known:
        """Return what is known of one of them."""
        return Known(self, batch_id)


class Known:
    """What is known of one batch, by itself or among others."""

    def __init__(self, evidence: Evidence, batch_id: str) -> None:
        self._evidence = evidence
        self.batch_id = batch_id

    @property
    def entry(self) -> Entry:
        """How it stands in the ledger.

        Raises:
            BatchNotFoundError: There is no such batch.
        """
        entry = self._evidence.entries.get(self.batch_id)
        if entry is None:
            raise BatchNotFoundError(self.batch_id)
        return entry

    @property
    def past(self) -> list[Past]:
        """The files of its sender before it, the latest first."""
        return self._evidence.past[self.batch_id]

    @property
    def committed(self) -> LoadResult:
        """What the chunk ledger says was loaded."""
        return self._evidence.committed[self.batch_id]

    @property
    def held(self) -> Held:
        """What a recount of the target finds."""
        return self._evidence.held[self.batch_id]

    @property
    def taken(self) -> int:
        """How many rows that it brought another batch has changed since: they are that one's now."""
        return self._evidence.taken[self.batch_id]

    @property
    def left(self) -> Held:
        """What of that the batch does not bring any more: wrong by now, or corrected to just what it is."""
        return self._evidence.left.get(self.batch_id, target.Held())

    @property
    def subtotals(self) -> Subtotals | None:
        """How its invoices compare with their subtotals; None for a file that gives none."""
        return self._evidence.subtotals.get(self.batch_id)

    @property
    def identity_is_kept(self) -> bool:
        """Whether the database keeps the identity of a line unique."""
        return self._evidence.identity_is_kept

    @cached_property
    def identities_held_twice(self) -> int:
        """How many identities of its invoices stand in the target more than once."""
        return target.identities_held_twice(self._evidence.engine, self.batch_id)


def of(engine: sa.Engine, batch_id: str) -> Known:
    """Return what is known of one batch."""
    return Evidence(engine, [batch_id]).of(batch_id)
