"""What a sender's files were like so far: the measure for a file that is unlike them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bulk_upload_pipeline.model import LOADED_STATES
from bulk_upload_pipeline.tables import upload_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """A file that was loaded before."""

    batch_id: str
    rows_read: int
    rows_rejected: int
    header: tuple[str, ...]
    columns: frozenset[str]

    @property
    def rejected_rate(self) -> float:
        """Return the share of rows that were rejected."""
        return self.rows_rejected / self.rows_read if self.rows_read else 0.0


def before(engine: sa.Engine, batch_id: str, limit: int = REMEMBERED) -> list[Past]:
    """Return the files of the same profile that were loaded before a batch, the latest first.

    Corrected rows that came back are no file of their own here.
    """
    columns, this = upload_batches.c, upload_batches.alias("this")

    def of_this(name: str) -> sa.ScalarSelect[Any]:
        return sa.select(this.c[name]).where(this.c.batch_id == batch_id).scalar_subquery()

    # No join: with both known beforehand, the latest are read from the end of the sender's part of an index.
    query = (
        sa.select(columns.batch_id, columns.rows_read, columns.rows_rejected, columns.layout)
        .where(
            columns.profile == of_this("profile"),
            columns.received_at <= of_this("received_at"),
            columns.batch_id != batch_id,
            columns.state.in_(LOADED_STATES),
            columns.parent_batch_id.is_(None),
            columns.layout.is_not(None),
        )
        .order_by(columns.received_at.desc(), columns.batch_id.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        return [
            Past(
                row.batch_id,
                row.rows_read,
                row.rows_rejected,
                tuple(row.layout["header"]),
                frozenset(row.layout["mapping"]),
            )
            for row in connection.execute(query)
        ]


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
            odd.append(f"it has {rows:,} rows, where {self.rows:,.0f} are usual")
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
