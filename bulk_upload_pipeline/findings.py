"""The catalogue of findings: every reason for which a row or a file can be refused or remarked on.

`bulk-upload explain CODE` prints an entry, and `reference/findings.md` is generated from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.model import Finding, Severity

SCHEMA = pa.schema(
    [
        ("row_number", pa.int64()),
        ("column_name", pa.string()),
        ("error_code", pa.string()),
        ("severity", pa.string()),
        ("error_message", pa.string()),
        ("raw_value", pa.string()),
    ]
)
"""Findings of a chunk, one a row. They stay columnar: a bad file has hundreds of thousands of them."""

LONGEST_RAW_VALUE = 500
"""Characters of a cell that a message and `raw_value` repeat; the whole row stands in `row_data`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One code of the catalogue.

    Attributes:
        message: The sentence of a finding; `{column}` and `{value}` are filled in.
        explanation: What it means, for somebody who has never seen a data type.
        example: A cell or file that earns it.
        fix: What the clerk does about it.
        whole_file: Whether it concerns a file instead of a row.
    """

    code: str
    severity: Severity
    title: str
    message: str
    explanation: str
    example: str
    fix: str
    whole_file: bool = False


def _file(code: str, title: str, message: str, explanation: str, example: str, fix: str) -> Entry:
    return Entry(code, Severity.ERROR, title, message, explanation, example, fix, whole_file=True)


def _error(code: str, title: str, message: str, explanation: str, example: str, fix: str) -> Entry:
    return Entry(code, Severity.ERROR, title, message, explanation, example, fix)


def _warning(code: str, title: str, message: str, explanation: str, example: str, fix: str) -> Entry:
    return Entry(code, Severity.WARNING, title, message, explanation, example, fix)


_ENTRIES = (
    # The whole file
    _file(
        "EMPTY_FILE",
        "Empty file",
        "The file is empty.",
        "There is not a single character in the file.",
        "A file of 0 bytes, or of blank lines only.",
        "Export it again, and drop the new file.",
    ),
    _file(
        "NO_DATA_ROWS",
        "Header without rows",
        "The file has a header but no row below it.",
        "The first line names columns, and nothing follows it.",
        "A file of which only the line of headings is left.",
        "Check the period or filter of the export, and drop the new file.",
    ),
    _file(
        "NOT_A_TABLE",
        "Not a table of text",
        "The file is not a table that can be read: {value}.",
        "The content is a picture, a program, a PDF or something else that has no rows and columns, whatever "
        "the name says.",
        "A photo renamed to invoices.csv.",
        "Export the invoices as CSV or Excel, and drop that file.",
    ),
    _file(
        "UNSUPPORTED_FORMAT",
        "Format not supported",
        "The file is {value}, which cannot be read here.",
        "The content was recognised, but it is none of the formats that this pipeline reads.",
        "A .docx or .7z file.",
        "Save it as CSV, Excel, JSON or Parquet, and drop that file.",
    ),
    _file(
        "DAMAGED_FILE",
        "Damaged file",
        "The file is damaged: {value}.",
        "It starts like a file of its format but cannot be read to its end, as after an interrupted copy.",
        "A .gz or .xlsx of which the second half is missing.",
        "Copy or export the file again, and drop the new one.",
    ),
    _file(
        "PASSWORD_PROTECTED",
        "Password-protected file",
        "The file is protected by a password.",
        "Its rows cannot be read without the password, which nobody should send along.",
        "An Excel file saved with a password.",
        "Save it without a password, and drop that file.",
    ),
    _file(
        "TOO_LARGE_INSIDE",
        "Packed file too large",
        "The packed file is refused: {value}.",
        "A small packed file can unpack to far more than the disk holds; the limits stop that.",
        "A .zip of 1 MB that unpacks to 100 GB.",
        "Send the file unpacked, or in smaller parts.",
    ),
    _file(
        "UNSAFE_ARCHIVE",
        "Packed file refused",
        "The packed file is refused: {value}.",
        "Packed files can hide paths that leave their folder, links, and further packed files; none of that "
        "belongs to an invoice export.",
        "A .zip inside a .zip.",
        "Pack the files themselves anew, or send them unpacked.",
    ),
    _file(
        "UNKNOWN_ENCODING",
        "Unknown encoding",
        "There is no encoding named {value}.",
        "The file was to be read in an encoding that does not exist.",
        "--encoding utf9",
        "Name one such as utf-8 or cp1252, or none: then it is recognised.",
    ),
    _file(
        "NO_HEADER",
        "No header",
        "No line of the file names the columns: {value}.",
        "Columns are found by their names; without a header nothing says which figure is the quantity.",
        "INV-1,2024-12-31,Sharma Sweets,4,120.00",
        "Export with column headings as the first line, and drop that file.",
    ),
    _file(
        "MISSING_COLUMN",
        "Required column missing",
        "Required column missing: {value}.",
        "A column without which no row can be judged is not in the header, under none of its known names.",
        "A file without `Quantity`.",
        "Add the column to the export, or give its name to a profile (`bulk-upload profiles suggest FILE`).",
    ),
    _file(
        "DUPLICATE_COLUMN",
        "Column twice",
        "Two columns of the header mean the same: {value}.",
        "Nothing says which of them counts, and choosing one would be a guess.",
        "`Quantity` twice, or `Item Price` beside `ITEM_PRICE`.",
        "Remove or rename one of them, and drop the file again.",
    ),
    _file(
        "SECOND_HEADER",
        "Two tables in one",
        "A row further down is a header as well, with other columns than the first: {value}.",
        "Two exports were put into one file. The rows below the second header would be read under the names of "
        "the first, a price as a quantity, and nobody would see it.",
        "An export with `Quantity` before `Item Price`, and below it one with `Item Price` before `Quantity`.",
        "Make a file of each table, and drop both.",
    ),
    _file(
        "TOO_MANY_COLUMNS",
        "Too many columns",
        "The header has {value}.",
        "No invoice export is so wide; the file is probably not a table of invoice lines, or its delimiter "
        "is not what it seems.",
        "A header of 2,000 columns.",
        "Export only the invoice columns, and drop that file.",
    ),
    _file(
        "LINE_TOO_LONG",
        "Line too long",
        "A line of the file is too long to be a record: {value}.",
        "A record of an invoice has some hundred characters. One of many megabytes means that the line "
        "breaks are missing, or that the file is no table.",
        "A file of 50 MB in a single line.",
        "Export it again with one record a line, and drop the new file.",
    ),
    _file(
        "MOSTLY_FRAGMENTS",
        "Most rows hold next to nothing",
        "Most rows of the file hold too little to be invoice lines: {value}.",
        "An invoice line states a number, a date, a quantity, a price and an item. Of more than 100,000 rows that "
        "hold less than any of that could take, and that are most of the file so far, none would load, and to "
        "list each of them would help nobody.",
        "A sheet of which the running number is filled down to the last row.",
        "Delete the rows that are no invoice lines, or export again with one record a line, and drop that file.",
    ),
    _file(
        "UNKNOWN_PROFILE",
        "Unknown profile",
        "There is no profile named {value}.",
        "The file was to be read by a profile that does not exist.",
        "--profile zohoo",
        "`bulk-upload profiles` lists the names.",
    ),
    # A correction
    _file(
        "CORRECTION_WITHOUT_BATCH",
        "Correction of no batch",
        "The file is a correction, but {value}.",
        "Its header ends with the columns of a rejected_rows.csv, and nothing says which rows it corrects.",
        "A rejected_rows.csv whose column _batch_id was emptied.",
        "Take the rejected_rows.csv of the batch's report again, correct it there, and drop it.",
    ),
    _file(
        "CORRECTED_BATCH_REVERTED",
        "Corrected batch was reverted",
        "The file is a correction of batch {value}, which was reverted, so that none of its rows is loaded.",
        "The rows of a correction take their places among those of the file that they correct.",
        "A rejected_rows.csv that is dropped after `bulk-upload revert` of its batch.",
        "If the file shall be loaded after all, take it again with `bulk-upload retry` and the name of its batch; then "
        "drop the correction again.",
    ),
    _file(
        "CORRECTED_FILE_GONE",
        "Corrected file is gone",
        "The file is a correction that needs the file of batch {value}, which is not in the archive any more.",
        "Where a corrected row belongs to another invoice or item now, or has a date that can be read two ways, the "
        "file that it corrects is read once more: it says how often that line occurs, and in which order its dates "
        "are. The archive of this home keeps files for some days only.",
        "A row whose invoice number was missing, corrected after its file was removed from the archive.",
        "Correct the row in the sender's whole file and drop that: lines that are loaded already stay as they are.",
    ),
    _file(
        "CORRECTION_COLUMNS",
        "Correction without all columns",
        "The file is a correction, but lacks {value}.",
        "A correction needs every column of the file that it corrects, and those that say which row is which. "
        "Their order does not matter.",
        "A rejected_rows.csv of which a column was removed.",
        "Take the rejected_rows.csv of the batch's report again, correct it there, and drop it.",
    ),
    _error(
        "NO_ORIGIN",
        "Row of unknown origin",
        "The row cannot be laid over a rejected row: {value}.",
        "A correction can only change rows that were rejected. Each is known by its cells `_batch_id` and "
        "`_row_number`, which must stay as they are.",
        "A row that somebody added to rejected_rows.csv.",
        "Copy those cells again from the rejected_rows.csv of the file that is corrected; drop new rows in a file of "
        "their own, without the last four columns.",
    ),
    _error(
        "CORRECTED_TWICE",
        "Row corrected twice",
        "Row {value} stands in the correction more than once, so none of its versions counts.",
        "Two rows of the file say that they correct the same row.",
        "A row that was copied in a spreadsheet.",
        "Keep the right one, remove the others, and drop the file again.",
    ),
    _error(
        "ALREADY_CORRECTED",
        "Row corrected already",
        "Batch {value} has loaded the row already, or is about to.",
        "Another correction, the corrected file itself, or this one before it was read anew, has loaded the row or is "
        "about to, as it is or as a line of another invoice, and it is not loaded twice.",
        "A row whose invoice number was corrected a second time.",
        "If that is wrong, revert that batch, and drop this row again; where it is the corrected file itself, retry "
        "that first.",
    ),
    _error(
        "AMBIGUOUS_NUMBER",
        "Thousands or decimals",
        "{column} is {value}, so that nobody can tell thousands from decimals.",
        "A spreadsheet of another country takes 1,250 for a thousand and more where its sender means one and a "
        "quarter, or the other way round, and saves what it took it for. Whether it did so, or somebody has corrected "
        "the number, cannot be seen.",
        "1250 in a row that had 1,250 before.",
        "Write the number with the decimals and the decimal mark of its sender, such as 1250.00 or 1.2500, in a cell "
        "that is formatted as text. `bulk-upload errors BATCH --xlsx FILE` writes a sheet of such cells.",
    ),
    _warning(
        "FIGURES_KEPT",
        "Figures or letters kept as they were",
        "{column} is {value}, which a spreadsheet makes of it: it loads as it was.",
        "A spreadsheet takes an article or invoice number of figures for an amount or a day: leading zeros go, "
        "8901234567890 becomes 8.90123E+12, what is longer than 15 digits is rounded, and 3-4 becomes 04-Mar. A CSV "
        "that is not saved as UTF-8 has question marks for the letters of other scripts.",
        "123 in a row that had 00123 before.",
        "Nothing, unless it was meant to change: then revert the batch of the correction, or the line stands twice; "
        "correct it in the sender's whole file, and drop that.",
    ),
    # A row that cannot be laid over the header
    _error(
        "WRONG_FIELD_COUNT",
        "Too many or too few cells",
        "{value}.",
        "The record has not as many cells as the header, so nothing says which cell belongs to which column.",
        "A comma inside an unquoted item name makes one cell too many.",
        "Quote the text that holds the delimiter, or remove the extra cell. In rejected_rows.csv the whole line stands "
        "in the first cell: correct it there, or spread it over the columns.",
    ),
    _error(
        "UNCLOSED_QUOTE",
        "Quotation mark not closed",
        "{value}.",
        "A cell starts with a quotation mark that has no partner, so its end cannot be told.",
        'INV-1,"Kaju Katli,4',
        "Close the quotation mark, or double it when it belongs to the text. In rejected_rows.csv the whole line "
        "stands in the first cell: correct it there, or spread it over the columns.",
    ),
    _error(
        "DAMAGED_RECORD",
        "Record that cannot be read",
        "{value}.",
        "The record is no JSON object of names and values, or not a whole one.",
        '{"Invoice Number": "INV-1", "Quantity": }',
        "Export the file again. In rejected_rows.csv the whole record stands in the first cell: spread its values over "
        "the columns.",
    ),
    _error(
        "UNDECODABLE_TEXT",
        "Characters that cannot be read",
        "{column} has bytes that are not text in the file's encoding: {value}.",
        "Some bytes belong to another encoding than the rest of the file.",
        "Caf\ufffd in a file of UTF-8.",
        "Type the text anew, or export the file as UTF-8.",
    ),
    _error(
        "SPREADSHEET_ERROR",
        "Spreadsheet error value",
        "{column} holds the spreadsheet error {value}.",
        "A formula in the sheet failed, so the cell has no value.",
        "#N/A, #REF!, #DIV/0!",
        "Repair the formula, or replace it by its value.",
    ),
    # A cell
    _error(
        "MISSING_VALUE",
        "Required value missing",
        "{column} is empty, but required.",
        "The row cannot be booked without this value.",
        "An empty Quantity.",
        "Fill in the cell.",
    ),
    _error(
        "MISSING_ITEM",
        "No item named",
        "The row names no item: item name, SKU and product id are all empty.",
        "At least one of the three must say what was sold.",
        "A row with a quantity and a price only.",
        "Fill in the item name, the SKU or the product id.",
    ),
    _error(
        "INVALID_NUMBER",
        "Not a number",
        "{column} is {value}, which is not a number.",
        "Digits, one decimal point, and thousands in Western or Indian grouping are read; anything that "
        "could mean two things is not.",
        "12abc, 1O.50, 4 5, 1,23",
        "Type the number with digits and the decimal mark of its sender, such as 1234.50. Where all of a sender's "
        "numbers have a decimal comma, let its profile say so (`bulk-upload profiles suggest FILE`).",
    ),
    _error(
        "NUMBER_TOO_PRECISE",
        "Too many decimals",
        "{column} is {value}, with more than 4 decimals.",
        "Amounts are kept with 4 decimals and never rounded in silence.",
        "12.34567",
        "Round the number to 4 decimals or fewer.",
    ),
    _error(
        "NUMBER_TOO_LARGE",
        "Number too large",
        "{column} is {value}, with more than 11 digits before the point.",
        "No price or quantity is that large; often it is an identifier in the wrong column.",
        "1234567890123",
        "Check whether the cell stands in the right column.",
    ),
    _error(
        "INVALID_DATE",
        "Not a date",
        "{column} is {value}, which is not a date.",
        "The day does not exist or the text is no date.",
        "31-Feb-2024, 2023-02-29, yesterday, 00/00/0000",
        "Write the date as 2024-12-31.",
    ),
    _error(
        "AMBIGUOUS_DATE",
        "Date that can be read two ways",
        "{column} is {value}, which can be read as two different days.",
        "Nothing in the file says whether the day or the month stands first, and nothing is guessed. Nor is it in a "
        "correction: a spreadsheet of another country takes 03/04/2024 for the other day, and saves that.",
        "03/04/2024 in a file in which no date has a day above 12.",
        "Write dates as 2024-04-03, or state `date_order` in the sender's profile. In a correction write the name of "
        "the month, such as 3-Apr-2024, in a cell that is formatted as text.",
    ),
    _error(
        "DATE_TOO_EARLY",
        "Date before 1990",
        "{column} is {value}, which is before 1990-01-01.",
        "No invoice is that old; often the year was mistyped or a date is missing.",
        "1900-01-01",
        "Correct the year.",
    ),
    _error(
        "TEXT_TOO_LONG",
        "Text too long",
        "{column} has {value}.",
        "The column holds fewer characters, and text is never cut.",
        "An invoice number of 150 characters.",
        "Shorten the text.",
    ),
    _error(
        "ROUNDED_IDENTIFIER",
        "Number without its last digits",
        "{column} is {value}, of which a spreadsheet has left out the last digits.",
        "A spreadsheet shows a long number as 4.00638E+12, and saves it so. Many numbers become this one, and the line "
        "would take the place of another.",
        "4.00638E+12",
        "Drop the file as its sender made it, unopened; or type the number into a cell that is formatted as text. "
        "`bulk-upload errors BATCH --xlsx FILE` writes a sheet of such cells.",
    ),
    _error(
        "ZERO_QUANTITY",
        "Quantity of zero",
        "{column} is zero.",
        "A line that sells nothing cannot be booked.",
        "0",
        "Fill in the quantity. A row that is right so can be left: it is not loaded.",
    ),
    _error(
        "TOTAL_MISMATCH",
        "Total does not agree",
        "{column} does not agree: {value}.",
        "The total of a line must be quantity times price, as is or less the discount, but for rounding.",
        "Quantity 10, price 12.50, total 152.00",
        "Correct the quantity, the price, the discount or the total.",
    ),
    # The database
    _error(
        "REFUSED_BY_DATABASE",
        "Refused by the database",
        "The database refused the row: {value}.",
        "A rule that somebody added to the table mangalam_invoices does not accept the row.",
        'new row violates check constraint "positive_price"',
        "Correct the row so that it meets the rule, or ask the operator about it.",
    ),
    _error(
        "ALREADY_LOADED",
        "Line exists already",
        "The invoice line exists already with other values, and this sender's lines may not be changed.",
        "The profile says `on_conflict = reject`.",
        "The same invoice number and SKU as in an earlier file.",
        "Nothing, if the line in the table is right; else ask the operator to allow updates for this sender and to "
        "retry the batch.",
    ),
    # Warnings: the row loads
    _warning(
        "CREDIT_LINE",
        "Negative quantity",
        "{column} is {value}: the line is booked as a credit.",
        "Returned or cancelled goods have a negative quantity.",
        "-4",
        "Nothing, if goods were returned.",
    ),
    _warning(
        "NEGATIVE_PRICE",
        "Negative price",
        "{column} is {value}, which is below zero.",
        "Prices are not negative as a rule; a credit has a negative quantity instead.",
        "-11.50",
        "Check the line.",
    ),
    _warning(
        "DATE_IN_FUTURE",
        "Date far in the future",
        "{column} is {value}, more than a year from now.",
        "Often the year was mistyped.",
        "2062-01-15",
        "Check the year.",
    ),
    _warning(
        "DUE_BEFORE_INVOICE",
        "Due before the invoice",
        "{column} is {value}, which is before the invoice date.",
        "A payment is not due before its invoice exists.",
        "Invoice of 2024-12-31, due on 2024-12-01",
        "Check both dates.",
    ),
    _warning(
        "CONTROL_CHARACTERS",
        "Control characters removed",
        "{column} had control characters, which were removed.",
        "Characters that cannot be seen came along, as from a copy out of another program.",
        "A NUL or backspace inside an item name",
        "Nothing, unless the text looks wrong.",
    ),
    _warning(
        "DOUBLE_ENCODED_TEXT",
        "Text looks damaged",
        "{column} is {value}, which looks like text that was encoded twice.",
        "Some program read UTF-8 as another encoding and saved the result. It loads as it stands.",
        "CafÃ© instead of Café",
        "Correct the export of the sending program.",
    ),
)

CATALOGUE: dict[str, Entry] = {entry.code: entry for entry in _ENTRIES}


def shorten(text: str) -> str:
    """Return `text`, cut to `LONGEST_RAW_VALUE` characters with a visible ellipsis."""
    return text if len(text) <= LONGEST_RAW_VALUE else text[: LONGEST_RAW_VALUE - 1] + "…"


def message_of(code: str, value: str) -> str:
    """Return the sentence of a finding that is about no column."""
    return CATALOGUE[code].message.format(value=value, column="")


def file_finding(code: str, value: str = "") -> Finding:
    """Return the file-level finding `code`, its message filled with `value`."""
    return Finding(code, CATALOGUE[code].severity, message_of(code, shorten(value)))


@cache
def no_findings() -> pa.Table:
    """Return an empty table of findings."""
    return SCHEMA.empty_table()


def row_findings(
    code: str,
    column: str | None,
    row_numbers: pa.Array,
    raw_values: pa.Array | None = None,
    *,
    values: pa.Array | None = None,
    severity: Severity | None = None,
) -> pa.Table:
    """Return one finding a row number, without a Python loop.

    Args:
        code: A code of the catalogue.
        column: The source's name of the column, None where a whole row is at fault.
        row_numbers: int64.
        raw_values: The cells as text, as long as `row_numbers`.
        values: What the message says instead of the raw value, when that is not the cell itself.
        severity: Overrides the catalogue's, where a profile says so.

    Returns:
        A table with `SCHEMA`.
    """
    entry = CATALOGUE[code]
    count = len(row_numbers)
    raw = pa.nulls(count, pa.string()) if raw_values is None else _shortened(raw_values)
    shown = raw if values is None else _shortened(values)
    return pa.table(
        [
            row_numbers,
            pa.repeat(pa.scalar(column, pa.string()), count),
            pa.repeat(code, count),
            pa.repeat(str(severity or entry.severity), count),
            _messages(entry.message, column or "The row", shown, count),
            raw,
        ],
        schema=SCHEMA,
    )


def _shortened(values: pa.Array) -> pa.Array:
    """Cut what is longer than `LONGEST_RAW_VALUE` characters, with a visible ellipsis."""
    too_long = pc.greater(pc.utf8_length(values), LONGEST_RAW_VALUE)
    if not pc.any(too_long).as_py():
        return values
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(values, 0, LONGEST_RAW_VALUE - 1), "…", "")
    return pc.if_else(too_long, cut, values)


def _messages(template: str, column: str, values: pa.Array, count: int) -> pa.Array:
    before, placeholder, after = template.replace("{column}", column).partition("{value}")
    if not placeholder:
        return pa.repeat(before, count)
    shown = pc.fill_null(values, "empty")
    return pc.binary_join_element_wise(before, shown, after, "")
