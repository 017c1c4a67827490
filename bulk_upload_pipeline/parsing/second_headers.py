"""A row among the records that is a header with other columns: two tables that were put into one file.

The rows below it would be read under the names of the first header, and no rule would see it: a quantity times a
price is a price times a quantity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.compute as pc

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.parsing.cells import as_text
from bulk_upload_pipeline.profiles import normalised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.profiles import Profile

FEWEST_NAMES = 3
"""Names of columns in a row from which on it is a header."""

_LONGEST_NAME = 200
_LONGEST_SHOWN = 150


def refuse_second_header(
    chunk: TextChunk, layout: Layout, profile: Profile, unreadable: Mapping[str, pa.BooleanArray]
) -> None:
    """Stop at a row that names other columns than the header does.

    A header that comes again, as at the top of each page, is a rejected row like any other.

    Args:
        chunk: Records as text.
        layout: Which column is which.
        profile: Knows the names of columns.
        unreadable: Which cells of some columns are neither a number nor a day, as no name of a column is.

    Raises:
        UnreadableError: `SECOND_HEADER`.
    """
    names: dict[str, str] = {}
    for column, where in unreadable.items():
        cells = as_text(chunk.cells[str(layout.mapping[column])])
        for text in cells.filter(where).unique().to_pylist():
            if not text.lstrip()[:1].isalpha() or len(text) > _LONGEST_NAME:
                continue
            names = names or _names(profile)
            if normalised(text) in names:
                for row in _rows(chunk, pc.equal(cells, text)):
                    _refuse(row, layout, names)


def _names(profile: Profile) -> dict[str, str]:
    """Return which column each name means."""
    known = {
        normalised(name): column.name for column in contract.COLUMNS for name in (column.name, column.title)
    }
    return known | {normalised(alias): name for name, own in profile.columns.items() for alias in own}


def _rows(chunk: TextChunk, where: pa.BooleanArray) -> Iterator[list[str]]:
    for row in chunk.cells.filter(where).to_pylist():
        yield [cell or "" for cell in row.values()]


def _refuse(row: Sequence[str], layout: Layout, names: Mapping[str, str]) -> None:
    if any(cell.strip()[:1].isdigit() for cell in row):
        return  # a day or a number: a record, whatever its texts are
    own = {at: name for name, at in layout.mapping.items()}
    named = {at: names.get(normalised(cell)) for at, cell in enumerate(row) if len(cell) <= _LONGEST_NAME}
    meant = {at: name for at, name in named.items() if name is not None}
    if len(meant) >= FEWEST_NAMES and any(own.get(at) != name for at, name in meant.items()):
        first = ", ".join(filter(None, row))
        shown = first if len(first) <= _LONGEST_SHOWN else f"{first[:_LONGEST_SHOWN]}…"
        raise UnreadableError(file_finding("SECOND_HEADER", f"`{shown}`"))
