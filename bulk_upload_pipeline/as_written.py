"""A correction as it is written: a spreadsheet may have chosen another encoding, delimiter or order of columns.

Here it is known how its cells lie over the columns of the batch that it corrects, and which rows its own columns name.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.origin import BATCH_ID, LINE_OCCURRENCE, OWN_COLUMNS, ROW_NUMBER, restored
from bulk_upload_pipeline.parsing.cells import BLANKS, as_text, unique_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bulk_upload_pipeline.model import Layout, TextChunk

_MARKS = ".,' \u2019\u00a0\u2009\u202f"
_NUMBER = re.compile(
    rf"(?P<whole>[0-9]{{1,15}}|[1-9][0-9]{{0,2}}(?P<mark>[{_MARKS}])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}}){{0,3}}"
    r"|[1-9][0-9]?(?P<indian>,)(?:[0-9]{2},){1,5}[0-9]{3})"
    r"(?:(?!(?P=mark)|(?P=indian))[.,]0{1,2})?"
)
"""A row number, also as a spreadsheet shows it when it has taken it for an amount: `2.00`, `1,500`, `1.500,00`.

No spreadsheet shows three decimals unless it is told to, so `2,000` is two thousand."""


def lay_over(written: Layout, parent: Layout) -> Layout:
    """Return the layout of a correction: the parent's, with how the correction itself is written.

    A column that somebody added stands behind the parent's own, so that it goes to `extra`.

    Raises:
        UnreadableError: `CORRECTION_COLUMNS`: a column is gone.
    """
    names = names_of(written)
    wanted = (*trimmed_names(parent.header), BATCH_ID, ROW_NUMBER)
    gone = [name for name in wanted if name not in names]
    if gone:
        listed = ", ".join(f"`{name}`" for name in gone)
        column = "the column" if len(gone) == 1 else "the columns"
        raise UnreadableError(file_finding("CORRECTION_COLUMNS", f"{column} {listed}"))
    added = tuple(name for name in names if name not in (*wanted, *OWN_COLUMNS, ""))
    return replace(parent, header=(*parent.header, *added), written_as=written)


def trimmed_names(header: Sequence[str]) -> list[str]:
    """Return names of columns as a header has them that is read: those in JSON and Parquet may end with a blank."""
    return unique_names([name.strip(BLANKS) for name in header])


def names_of(written: Layout) -> list[str]:
    """Return the names of a correction's columns as the parent's header had them, but trimmed."""
    whole = [name or "" for name in restored(pa.array(written.header, pa.string())).to_pylist()]
    own = [at for at, name in enumerate(written.header) if name in OWN_COLUMNS]
    others = iter(trimmed_names([name for at, name in enumerate(whole) if at not in own]))
    return [written.header[at] if at in own else next(others) for at in range(len(whole))]


ANSI = ("cp1252", "cp1250", "cp1251", "cp1254", "iso8859-1", "mac_roman")
"""In what a spreadsheet writes CSV when it is not asked for UTF-8, by the country of its computer."""


def in_its_encoding(
    written: Layout, read: Callable[[Layout], Iterable[TextChunk]], known: frozenset[str]
) -> Layout:
    """Return the layout with the encoding under which most cells are what they were in the batch itself.

    Args:
        written: With the encoding that was guessed, of a text that is no UTF-8.
        read: Reads the correction by a layout.
        known: Cells of the rejected rows that are not all ASCII.
    """
    choices = [replace(written, encoding=codec) for codec in dict.fromkeys((*ANSI, written.encoding))]
    return max(choices, key=lambda layout: sum(_known_cells(chunk, known) for chunk in read(layout)))


def _known_cells(chunk: TextChunk, known: frozenset[str]) -> int:
    cells = pa.array(list(known), pa.string())
    return sum(
        pc.sum(pc.is_in(restored(column), value_set=cells)).as_py() or 0 for column in chunk.cells.columns
    )


class Own:
    """What the own columns of a chunk say."""

    def __init__(self, chunk: TextChunk, names: list[str]) -> None:
        rows = len(chunk.row_numbers)
        self.batches = _trimmed(chunk.cells, names, BATCH_ID, rows)
        self.numbers = _trimmed(chunk.cells, names, ROW_NUMBER, rows)
        self.occurrences = _trimmed(chunk.cells, names, LINE_OCCURRENCE, rows)

    def row_number(self, at: int) -> int | None:
        """Return the row number of one row, None where the cell holds none."""
        return as_number(self.numbers[at])


def _trimmed(cells: pa.Table, names: list[str], name: str, rows: int) -> list[str]:
    if name not in names:
        return [""] * rows
    column = as_text(cells[str(names.index(name))])
    return pc.fill_null(pc.utf8_trim(column, BLANKS), "").to_pylist()


def as_number(text: str) -> int | None:
    """Return the number that a cell holds, as a spreadsheet may show it; None for any other text."""
    shown = _NUMBER.fullmatch(text)
    return None if shown is None else int(re.sub("[^0-9]", "", shown["whole"]))


@dataclass(frozen=True, slots=True)
class Named:
    """What a whole correction names.

    Attributes:
        batches: How many rows name each batch.
        rows: How many name each row of each batch.
    """

    batches: Counter[str]
    rows: Counter[tuple[str, int]]

    def repeated(self, members: frozenset[str], copies: Mapping[tuple[str, int], int]) -> frozenset[int]:
        """Return the row numbers of a family that stand in it more than once; those of other batches do not count.

        Args:
            members: The batches of the family.
            copies: Which row is meant by each copy of one that stood in an earlier correction more than once.
        """
        numbers = Counter[int]()
        for (batch, number), count in self.rows.items():
            if batch in members:
                numbers[copies.get((batch, number), number)] += count
        return frozenset(number for number, count in numbers.items() if count > 1)


def named(chunks: Iterable[TextChunk], written: Layout) -> Named:
    """Return which batches and rows a correction names, reading all of it."""
    names = names_of(written)
    batches: Counter[str] = Counter()
    rows: Counter[tuple[str, int]] = Counter()
    for chunk in chunks:
        own = Own(chunk, names)
        batches.update(batch for batch in own.batches if batch)
        numbered = zip(own.batches, map(as_number, own.numbers), strict=True)
        rows.update((batch, number) for batch, number in numbered if number is not None)
    return Named(batches, rows)
