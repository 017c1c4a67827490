"""Rejected rows as a sheet, for clerks whose rows came from a spreadsheet: `rejected_rows.xlsx`."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline.origin import OWN_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_CELL = 32_767
"""Characters that a spreadsheet takes in a cell. It would cut a longer one, so its row stays out of the sheet."""

_LONGEST_OF_CSV = 1 << 30
_NAME = "Rejected rows"
_WIDTH, _WIDTH_OF_ERRORS = 16, 80


def write(source: Path, path: Path, layout: dict[str, Any]) -> None:
    """Write the rows of a `rejected_rows.csv` as an XLSX, every cell as the text that it is.

    So nothing in it becomes a number, a day or a formula on the way, nor does what is typed over it. Memory does
    not grow with the rows. A row with a cell that no spreadsheet can hold stands in the CSV only.

    Args:
        source: The CSV.
        path: The sheet, which is there whole or not at all.
        layout: That of the batch: a sender's profile may ask for the one sheet that its files have.
    """
    import xlsxwriter

    unfinished = path.with_name(f".{path.name}")
    unfinished.touch()  # where it cannot be, xlsxwriter raises an error of its own kind, and only at its end
    texts = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with (
        source.open(encoding="utf-8-sig", newline="") as file,
        xlsxwriter.Workbook(unfinished, texts) as book,
    ):
        sheet = book.add_worksheet(_name(layout))
        text, bold = book.add_format({"num_format": "@"}), book.add_format({"num_format": "@", "bold": True})
        rows = _rows(csv.reader(file))
        header = next(rows)
        sheet.set_column(0, len(header) - 1, _WIDTH, text)
        sheet.set_column(len(header) - 1, len(header) - 1, _WIDTH_OF_ERRORS, text)
        sheet.freeze_panes(1, 0)
        for column, name in enumerate(header):
            sheet.write_string(0, column, name, bold)
        for at, row in enumerate(rows, start=1):
            for column, cell in enumerate(row):
                if cell:
                    sheet.write_string(at, column, cell, text)
    unfinished.replace(path)


def _rows(source_rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the rows that a sheet can hold; what is said of a row may be shortened."""
    limit = csv.field_size_limit(_LONGEST_OF_CSV)
    try:
        for row in source_rows:
            if all(len(cell) <= LONGEST_CELL for cell in row[: -len(OWN_COLUMNS)]):
                yield [*row[:-1], row[-1][:LONGEST_CELL]]
    finally:
        csv.field_size_limit(limit)


def _name(layout: dict[str, Any]) -> str:
    names = [sheet["name"] for sheet in layout.get("sheets", ())]
    plain = len(names) == 1 and len(names[0]) <= 31 and not re.search(r"[\[\]:*?/\\]|^'|'$", names[0])
    return names[0] if plain and names[0].strip() else _NAME
