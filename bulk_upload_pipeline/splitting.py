"""One huge file, judged and loaded by several workers at once, with the result of one.

Who takes the batch plans its `parts` and makes them known in `part_ledger`; from then on it is a worker like any
other. Workers are processes, on this machine or on another one that reaches the database and the folders.
There is nobody who gives out work: each takes the next part that nobody has, so that one worker alone comes
to the end, more come earlier, and the part of one that is killed is taken by another (`part_judging`, `part_loading`,
`helping`). What makes of the parts one file:

* Records: a part begins where one reading of the whole would cut, and is read by the same blocks (`parts`).
* Row numbers: a part is staged with rows from 1, and `parts.json` says how many records come before it.
* Dates that can be read two ways: the first part that meets one with no order stated notes the doubt. Then every part
  is looked through for the orders that its dates show, before any part is judged that has none yet. Parts without
  doubt, judged before, do not depend on the order.
* Line occurrences, counts, control totals, the verdict: each part leaves the 8 bytes a row of its identities and its
  own sums; who took the batch composes them when all parts are judged, in file order.
* The gate: parts may load only after the verdict on the whole. A chunk locks the row of its part, which says so, in
  its own transaction: whoever reverts the batch, judges it anew or ends it first takes that leave back, and so
  waits for the chunks that are under way and bars all others.
* The chunk ledger is that of any batch. Its plan names the parts, so that a retry stages the same chunks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from bulk_upload_pipeline import part_ledger
from bulk_upload_pipeline.judging import Judging
from bulk_upload_pipeline.reading.parts import may_be_parted, parts_of
from bulk_upload_pipeline.recognising import encodings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    from bulk_upload_pipeline.part_ledger import PartRow
    from bulk_upload_pipeline.reading.parts import Part
    from bulk_upload_pipeline.staged import StagedBatch


@dataclass(frozen=True)
class Shared:
    """A shared batch as one worker sees it.

    Attributes:
        staged: Where its parts are staged, on this machine.
        plan: Digest of all that decides what is staged, parts included.
        publish: Puts the files of a folder of the staging (or, without a name, of itself) where others see them.
        bring: Brings those that others have put there to this machine.
    """

    engine: sa.Engine
    batch_id: str
    judging: Judging
    staged: StagedBatch
    plan: str
    publish: Callable[[str], None] = lambda folder: None
    bring: Callable[[str], None] = lambda folder: None

    def rows(self) -> list[PartRow]:
        """Return how far its parts are; none when they are not those of this plan any more."""
        return [row for row in part_ledger.rows(self.engine, self.batch_id) if row.plan == self.plan]


def planned(judging: Judging, part_bytes: int) -> tuple[Part, ...]:
    """Return the parts in which a file is judged; none when one worker judges it as a whole.

    Corrections are, and what they corrected when it is judged again: they name rows by their number in the file.
    """
    if type(judging) is not Judging or judging.corrected or not may_be_parted(judging.layout):
        return ()
    return parts_of(judging.path, judging.layout, part_bytes)


def plan_in_parts(plan: str, parts: Sequence[Part]) -> str:
    """Return the digest of a plan and of the parts by which it is carried out."""
    decisive = [plan, encodings.BLOCK_BYTES, [astuple(part) for part in parts]]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
