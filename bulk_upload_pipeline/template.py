"""An empty file with a sender's header, for somebody who types invoices by hand."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.contract import Kind
from bulk_upload_pipeline.exceptions import FileUnwritableError

if TYPE_CHECKING:
    from pathlib import Path

    from bulk_upload_pipeline.profiles import Profile

FORMATS = (".csv", ".xlsx")
_WIDTHS = {Kind.TEXT: 22, Kind.AMOUNT: 13, Kind.DATE: 13}
_CELLS = {Kind.TEXT: "@", Kind.AMOUNT: "#,##0.00##", Kind.DATE: "yyyy-mm-dd"}
"""How Excel shows, and takes, what is typed: as text an identifier keeps its leading zeros."""

_ROWS = 10_000
"""Rows below the header in which Excel is told what may be typed."""


def header_of(profile: Profile) -> dict[str, str]:
    """Return the columns of a profile in the contract's order, each with the name that its sender writes.

    A profile without names of its own has all columns under their own titles.
    """
    return {
        column.name: profile.columns[column.name][0] if profile.columns else column.title
        for column in contract.COLUMNS
        if not profile.columns or profile.columns.get(column.name)
    }


def write_template(path: Path, profile: Profile) -> tuple[str, ...]:
    """Write an empty file with the header of `profile`; its ending says whether CSV or XLSX.

    Returns:
        The header.

    Raises:
        FileUnwritableError: It exists already, cannot be created, or has another ending.
    """
    if path.suffix.lower() not in FORMATS:
        raise FileUnwritableError(path, f"a template ends in {' or '.join(FORMATS)}")
    header = header_of(profile)
    try:
        path.open("xb").close()
        if path.suffix.lower() == ".csv":
            _write_csv(path, profile, header)
        else:
            _write_xlsx(path, profile, header)
    except FileExistsError as error:
        raise FileUnwritableError(path, "it exists already, and may hold somebody's rows") from error
    except OSError as error:
        raise FileUnwritableError(path, str(error.strerror)) from error
    return tuple(header.values())


def _write_csv(path: Path, profile: Profile, header: dict[str, str]) -> None:
    # The mark of UTF-8 makes Excel read and save it as UTF-8.
    with path.open("w", encoding=profile.encoding or "utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=profile.delimiter or ",").writerow(header.values())


def _write_xlsx(path: Path, profile: Profile, header: dict[str, str]) -> None:
    import xlsxwriter

    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet(profile.sheet or "Invoices")
        bold = book.add_format({"bold": True, "bottom": 1})
        shown = {kind: book.add_format({"num_format": pattern}) for kind, pattern in _CELLS.items()}
        for at, (name, title) in enumerate(header.items()):
            column = contract.BY_NAME[name]
            sheet.set_column(at, at, _WIDTHS[column.kind], shown[column.kind])
            sheet.write_string(0, at, title, bold)
            sheet.write_comment(0, at, _note(column, required=name in profile.required))
            if column.kind is Kind.TEXT:
                longest = {"validate": "length", "criteria": "<=", "value": column.limit}
                sheet.data_validation(1, at, _ROWS, at, longest)
        sheet.freeze_panes(1, 0)


def _note(column: contract.Column, *, required: bool) -> str:
    must = "Required." if required else "May stay empty."
    return f"{must} {contract.rule_in_words(column)}"
