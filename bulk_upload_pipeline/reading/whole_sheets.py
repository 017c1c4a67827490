"""What has to be known of a file of `xls`, `xlsb` or `ods` before calamine reads it whole: its room, and what it shows.

Calamine keeps room for every cell between the first and the last of a sheet, so that some bytes can ask for all
memory; it returns nothing for a cell whose formula failed, which would be silence about a lost value, and 0.125 for
one that shows 12.5%. So the records of the file are passed over once before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.findings import file_finding
from bulk_upload_pipeline.recognising.unpack import damaged

if TYPE_CHECKING:
    import zipfile

    from bulk_upload_pipeline.reading.beside_values import Told

MOST_CELLS = 8_000_000
"""Cells that are held at once, filled or not: 200,000 rows of 40 columns."""

MOST_BYTES = 256 << 20
"""Bytes of a part of such a file that has to be in memory as a whole."""

ERRORS = {
    0x00: "#NULL!",
    0x07: "#DIV/0!",
    0x0F: "#VALUE!",
    0x17: "#REF!",
    0x1D: "#NAME?",
    0x24: "#NUM!",
    0x2A: "#N/A",
    0x2B: "#GETTING_DATA",
}
"""What a cell shows whose formula failed, by the number that XLS and XLSB write for it."""


class Beside(NamedTuple):
    """What a file tells beside the values of its cells.

    Attributes:
        sheets: Of each sheet, in their order.
        starts_in_1904: Whether its days are counted from 1904.
    """

    sheets: dict[str | int, Told]
    starts_in_1904: bool


class Extent:
    """The cells between the first and the last of a sheet."""

    def __init__(self) -> None:
        self.top = self.left = 1 << 30
        self.bottom = self.right = -1

    def grow(self, row: int, left: int, right: int) -> None:
        """Take in the cells of a row from `left` to `right`."""
        self.top, self.bottom = min(self.top, row), max(self.bottom, row)
        self.left, self.right = min(self.left, left), max(self.right, right)

    @property
    def cells(self) -> int:
        """How many cells there is room for."""
        return max(0, self.bottom - self.top + 1) * max(0, self.right - self.left + 1)


def refuse_room(cells: int) -> None:
    """Stop where a sheet asks for more memory than its reading may take.

    Raises:
        UnreadableError: `TOO_LARGE_INSIDE`.
    """
    if cells > MOST_CELLS:
        raise UnreadableError(
            file_finding(
                "TOO_LARGE_INSIDE",
                f"its sheets have room for {cells:,} cells, and a file of this kind is read whole, up to "
                f"{MOST_CELLS:,}; saved as XLSX or CSV it is read in parts",
            )
        )


def whole_part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a part of a packed file, which has to be in memory as a whole.

    Raises:
        UnreadableError: It is missing, or too large for that.
    """
    if name not in archive.namelist():
        raise damaged("a part of it is missing")
    with archive.open(name) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise too_large()
    return content


def too_large() -> UnreadableError:
    """Return the error of a file that does not fit into the memory as a whole."""
    return UnreadableError(
        file_finding(
            "TOO_LARGE_INSIDE",
            f"a file of this kind is read whole, up to {MOST_BYTES >> 20} MB of its content; saved as XLSX or CSV "
            "it is read in parts",
        )
    )
