"""Where a corrected row comes from: the columns that say so, and the cells that a spreadsheet must not run.

`rejected_rows.csv` has these columns behind those of the source. By them a file is known to be a correction,
and each of its rows is known again, whatever a spreadsheet did to the order of rows and columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.parsing.cells import as_text

if TYPE_CHECKING:
    from collections.abc import Iterable

BATCH_ID, ROW_NUMBER, LINE_OCCURRENCE, ERRORS = "_batch_id", "_row_number", "_line_occurrence", "_errors"
OWN_COLUMNS = (BATCH_ID, ROW_NUMBER, LINE_OCCURRENCE, ERRORS)
TWICE = "CORRECTED_TWICE"
"""The finding on rows that say that they correct the same row, whose number is its raw value."""

CORRECTION = "correction"
"""Name that stands for a profile until it is known which batch a file corrects."""

FORMULA = "^[=+@\t\r\n'＝＋－＠-]"
"""A cell that begins so may be run as a formula (or begins with the mark that says that it is not one)."""

PLAIN_NUMBER = "^[+-]?[0-9.,]+$"
MARK = "'"


def names_own_columns(header: Iterable[str]) -> bool:
    """Return whether a header is that of a correction."""
    return not {BATCH_ID, ROW_NUMBER}.isdisjoint(header)


def harmless(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula; `restored` gives it back exactly."""
    runs = pc.match_substring_regex(pa.array([text]), FORMULA)[0].as_py()
    return (
        MARK + text
        if runs and not pc.match_substring_regex(pa.array([text]), PLAIN_NUMBER)[0].as_py()
        else text
    )


def restored(cells: pa.ChunkedArray | pa.Array) -> pa.StringArray:
    """Return cells as they were before they were made harmless; one of which nothing is left is null."""
    texts = as_text(cells)
    marked = pc.fill_null(pc.starts_with(texts, MARK), False)
    if not pc.any(marked).as_py():
        return texts
    whole = pc.if_else(marked, pc.utf8_slice_codeunits(texts, 1), texts)
    return pc.if_else(pc.equal(pc.binary_length(whole), 0), None, whole)
