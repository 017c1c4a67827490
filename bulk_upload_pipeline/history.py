"""What a sender's files were like so far: the measure for a file that is unlike them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline.database import asking
from bulk_upload_pipeline.model import LOADED_STATES, counted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

REMEMBERED = 20
"""How many files of a sender are looked back upon."""

ENOUGH = 5
"""With fewer files than that, nothing is unusual yet."""

SIGMAS = 3.5
"""How far from the median, in robust standard deviations, a figure is unusual."""

_SIGMA_OF_MAD = 1.4826
_LEAST_FACTOR = 3.0
_LEAST_RATE = 0.02
"""A sender whose files hardly differ shall not be suspected for a few rows: it takes a third, or three times,
of the usual rows, or two rejected rows of a hundred more than usual."""


@dataclass(frozen=True, slots=True)
class Past:
    """A file that was loaded before; of those of one sender only the latest has its header."""

    batch_id: str
    rows_read: int
    rows_rejected: int
    header: tuple[str, ...]

    @property
    def rejected_rate(self) -> float:
        """Return the share of rows that were rejected."""
        return self.rows_rejected / self.rows_read if self.rows_read else 0.0


# What a file is compared with is read from the end of its sender's part of an index, for each file by itself.
_BEFORE = sa.text(
    "SELECT this.batch_id, past.batch_id, past.rows_read, past.rows_rejected, "
    "CASE WHEN place = 1 THEN past.layout->'header' END "
    "FROM bulk_upload.upload_batches AS this CROSS JOIN LATERAL ("
    "SELECT b.batch_id, b.rows_read, b.rows_rejected, b.layout, "
    "row_number() OVER (ORDER BY b.received_at DESC, b.batch_id DESC) AS place "
    "FROM bulk_upload.upload_batches AS b WHERE b.profile = this.profile AND b.received_at <= this.received_at "
    "AND b.batch_id <> this.batch_id AND b.state = ANY(:loaded) AND b.parent_batch_id IS NULL "
    "AND b.layout IS NOT NULL ORDER BY b.received_at DESC, b.batch_id DESC LIMIT :most) AS past "
    "WHERE this.batch_id = ANY(:batch_ids) ORDER BY this.batch_id, place"
)


def before(engine: sa.Engine, batch_ids: Collection[str], most: int = REMEMBERED) -> dict[str, list[Past]]:
    """Return, for each of some batches, the files of its profile that were loaded before it, the latest first.

    Corrected rows that came back are no file of their own here.
    """
    stated = {"batch_ids": list(batch_ids), "loaded": [*map(str, LOADED_STATES)], "most": most}
    found: dict[str, list[Past]] = {batch_id: [] for batch_id in batch_ids}
    with asking(engine) as connection:
        rows: Sequence[Any] = connection.execute(_BEFORE, stated).all()
    for this, batch_id, rows_read, rows_rejected, header in rows:
        found[this].append(Past(batch_id, rows_read, rows_rejected, tuple(header or ())))
    return found


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual for a sender, and what a file would have to be to stand out."""

    files: int
    rows: float
    least_rows: float
    most_rows: float
    rejected_rate: float
    most_rejected_rate: float

    def oddities(self, rows: int, rejected_rate: float) -> list[str]:
        """Return in words how a file stands out; nothing for one like the others."""
        odd = []
        if not self.least_rows <= rows <= self.most_rows:
            odd.append(f"it has {counted(rows, 'row')}, where {self.rows:,.0f} are usual")
        if rejected_rate > self.most_rejected_rate:
            odd.append(
                f"{rejected_rate:.1%} of its rows are rejected, where {self.rejected_rate:.1%} are usual"
            )
        return odd


def usual(past: Sequence[Past]) -> Usual | None:
    """Return what is usual among past files, by medians, which one odd file does not move; None for too few.

    Files grow and shrink by factors: their rows are compared as logarithms.
    """
    if len(past) < ENOUGH:
        return None
    rows, spread = _middle([math.log(max(file.rows_read, 1)) for file in past])
    reach = max(spread, math.log(_LEAST_FACTOR))
    rate, spread = _middle([file.rejected_rate for file in past])
    return Usual(
        files=len(past),
        rows=math.exp(rows),
        least_rows=math.exp(rows - reach),
        most_rows=math.exp(rows + reach),
        rejected_rate=rate,
        most_rejected_rate=rate + max(spread, _LEAST_RATE),
    )


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Return the median, and how far from it a value is still usual."""
    middle = median(values)
    return middle, SIGMAS * _SIGMA_OF_MAD * median(abs(value - middle) for value in values)
