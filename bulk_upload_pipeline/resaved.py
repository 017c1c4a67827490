"""What cells of a correction mean that a spreadsheet may have written anew, beside what they were before.

A spreadsheet writes days and amounts in the way of its own country, whatever the sender's way is. A cell that is as it
was means what it meant; of any other nothing is guessed.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, get_args

import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.parsing import dates
from bulk_upload_pipeline.parsing.cells import BLANKS
from bulk_upload_pipeline.parsing.numerals import Notation, read_number
from bulk_upload_pipeline.profiles import DateOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date


def as_meant(
    cells: pa.StringArray, before: Iterable[str | None], meaning: Callable[[str, str | None], str]
) -> pa.StringArray:
    """Return a column with each cell as `meaning` spells it, given the cell and what it was before."""
    spelled = cache(meaning)
    pairs = zip(cells.to_pylist(), before, strict=True)
    return pa.array([None if cell is None else spelled(cell, was) for cell, was in pairs], pa.string())


def has_ambiguous_day(cells: pa.StringArray) -> bool:
    """Return whether some day of a column can be read two ways."""
    return any(_is_ambiguous(cell) for cell in pc.unique(cells.drop_null()).to_pylist())


def day_meant(
    cell: str, before: str | None, order: DateOrder, *, is_in_doubt: bool, excel_serials: bool
) -> str:
    """Return a day so that it can be read in one way, or as it stands where it has two and both are likely.

    Args:
        cell: As the correction has it.
        before: As the row had it that is corrected.
        order: In which the sender writes days.
        is_in_doubt: Whether other days of the correction are in another order.
        excel_serials: Whether a plain number is the serial of a day.
    """
    if not _is_ambiguous(cell):
        return cell
    day = dates.read_date(cell, order)
    if not _is_same(cell, before):
        was = dates.read_date(before or "", order, excel_serials=excel_serials)
        if is_in_doubt or (was != day and was in _days(cell)):
            return cell
    return cell if day is None or isinstance(day, str) else day.isoformat()


def amount_meant(cell: str, before: str | None, notation: Notation) -> str:
    """Return an amount that is as it was so that it can be read in one way; any other as it stands.

    Args:
        cell: As the correction has it.
        before: As the row had it that is corrected.
        notation: In which it was read then.
    """
    number = read_number(cell, notation) if _is_same(cell, before) else None
    return format(number, "f").replace(".", ",") if isinstance(number, Decimal) else cell


def _is_ambiguous(cell: str) -> bool:
    return dates.read_date(cell, None) == dates.AMBIGUOUS


def _is_same(cell: str, before: str | None) -> bool:
    return before is not None and cell.strip(BLANKS) == before.strip(BLANKS)


def _days(cell: str) -> set[date | str | None]:
    """Return all days that a cell can be."""
    return {dates.read_date(cell, order) for order in get_args(DateOrder)}
