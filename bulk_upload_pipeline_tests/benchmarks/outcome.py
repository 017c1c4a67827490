"""What a measure comes to: a row of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table.

    Attributes:
        key: S1 to S9, with what is varied.
        what: What is measured, and on how much.
        ours: In `unit`.
        reference: What it is held against, in `unit`; None where the goal is absolute.
        goal: The most (or, for `at_least`, the least) that the ratio may be, or `ours` where there is no reference.
        details: All single figures.
    """

    key: str
    what: str
    unit: str
    ours: float
    goal: float
    reference: float | None = None
    at_least: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Return ours in terms of the reference."""
        return None if self.reference is None else self.ours / self.reference

    @property
    def met(self) -> bool:
        """Return whether the goal is reached."""
        reached = self.ours if self.ratio is None else self.ratio
        return reached >= self.goal if self.at_least else reached <= self.goal

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


def table_of(outcomes: list[Outcome]) -> Table:
    """Return the outcomes as a table for people."""
    table = Table()
    for name in ("", "measure", "ours", "reference", "ratio", "goal", "met"):
        table.add_column(name, justify="right" if name in ("ours", "reference", "ratio", "goal") else "left")
    for outcome in outcomes:
        table.add_row(
            outcome.key,
            outcome.what,
            f"{outcome.ours:,.2f} {outcome.unit}",
            "" if outcome.reference is None else f"{outcome.reference:,.2f} {outcome.unit}",
            "" if outcome.ratio is None else f"{outcome.ratio:.2f}",
            f"{'>=' if outcome.at_least else '<='} {outcome.goal:g}"
            + ("" if outcome.reference is not None else f" {outcome.unit}"),
            "yes" if outcome.met else "NO",
        )
    return table
