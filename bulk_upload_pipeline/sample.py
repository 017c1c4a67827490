"""Writes realistic invoice files, clean or with a stated share of faults, for first tries and for tests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from bulk_upload_pipeline.sampling.draws import Draws
from bulk_upload_pipeline.sampling.faults import plan_faults
from bulk_upload_pipeline.sampling.invoices import invoice_sizes, invoices
from bulk_upload_pipeline.sampling.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from bulk_upload_pipeline.sampling.faults import FaultPlan
    from bulk_upload_pipeline.sampling.layouts import Cells, SampleLayout

INVOICES_AT_ONCE = 6_000
"""About 30,000 rows or 12 MB of text. The bytes of a file do not depend on it."""


@dataclass(frozen=True, eq=False)
class SampleManifest:
    """What was written.

    Attributes:
        rows: Records below the header, faulty ones included.
        faulty_rows: int64 row numbers (the first data row is 1) of the rows with a fault, ascending.
        kinds: Index into `catalogue` of each of them.
        catalogue: Finding code and the header of the column that the finding names (None: the whole row).
    """

    rows: int
    faulty_rows: np.ndarray
    kinds: np.ndarray
    catalogue: tuple[tuple[str, str | None], ...]

    @cached_property
    def faults(self) -> dict[int, tuple[str, str | None]]:
        """Code and column of the one finding that each faulty row earns, by row number."""
        kinds = self.kinds.tolist()
        return {row: self.catalogue[kind] for row, kind in zip(self.faulty_rows.tolist(), kinds, strict=True)}

    @property
    def faults_by_code(self) -> dict[str, int]:
        """Number of faulty rows of each code."""
        counts: Counter[str] = Counter()
        for kind, count in enumerate(np.bincount(self.kinds).tolist()):
            counts[self.catalogue[kind][0]] += count
        return dict(counts.most_common())


def write_sample(
    path: Path,
    *,
    rows: int,
    profile: str = "zoho",
    dirty: float = 0.0,
    seed: int = 1,
    on_rows: Callable[[int], None] | None = None,
) -> SampleManifest:
    """Write a CSV file (UTF-8) of invoices of 2 to 8 lines over a year, and return which faults it has.

    The same arguments give the same bytes. Files of different seeds have different invoices of the same
    shops and items. A clean file earns no finding, though some of its cells look odd: Indian grouping,
    currency signs, quoted commas, the same item twice on an invoice. The file appears under its name only
    when it is complete, so that it may be written into an inbox.

    Args:
        path: Where to write; an existing file is replaced.
        rows: How many data rows.
        profile: Layout, `zoho` or `distributor`.
        dirty: Share of the rows with a fault, 0 to 1: exactly `round(rows * dirty)` rows have one each.
        seed: Chance, 0 or above.
        on_rows: Called with the number of rows written since the last call.

    Raises:
        ValueError: An argument is outside what is said here.
    """
    if rows < 0 or seed < 0 or not 0 <= dirty <= 1:
        raise ValueError("rows and seed must not be negative, and dirty must be from 0 to 1")
    if profile not in LAYOUTS:
        raise ValueError(f"profile must be one of {', '.join(LAYOUTS)}")
    layout, draws = LAYOUTS[profile], Draws(seed)
    plan = plan_faults(layout, draws, rows, round(rows * dirty))
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(f"{','.join(layout.header)}\n".encode())
            for lines in _pieces(layout, draws, rows, plan):
                file.write(memoryview(_text_of(lines)))
                if on_rows is not None:
                    on_rows(len(lines))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return SampleManifest(rows, plan.rows + 1, plan.kinds, _catalogue(layout, plan))


def _catalogue(layout: SampleLayout, plan: FaultPlan) -> tuple[tuple[str, str | None], ...]:
    return tuple((f.code, layout.titles[f.column] if f.column else None) for f in plan.faults)


def _pieces(layout: SampleLayout, draws: Draws, rows: int, plan: FaultPlan) -> Iterator[pa.StringArray]:
    """Yield the file's lines, some thousand invoices at a time."""
    sizes = invoice_sizes(draws, rows)
    first_row = 0
    for first in range(0, len(sizes), INVOICES_AT_ONCE):
        last = min(first + INVOICES_AT_ONCE, len(sizes))
        bills, lines = invoices(draws, sizes, first, last, first_row)
        faults = plan.stretch(first_row, first_row + len(lines.row))
        cells = faults.spoil(layout.cells(bills, lines, draws))
        yield faults.shorten(_joined(cells, layout))
        first_row += len(lines.row)


def _joined(cells: Cells, layout: SampleLayout) -> pa.StringArray:
    *others, last = (cells[name] for name in layout.titles)
    return pc.binary_join_element_wise(*others, pc.binary_join_element_wise(last, "\n", ""), ",")


def _text_of(lines: pa.StringArray) -> pa.Buffer:
    """Return the text of all lines, which Arrow keeps in one piece of memory."""
    _, offsets, text = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
    return text.slice(int(ends[0]), int(ends[-1] - ends[0]))
