"""What travels down the line: batches, layouts, chunks, verdicts and receipts.

Frozen dataclasses without any I/O. The words are those of the README's glossary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy as np
    import pyarrow as pa

    from bulk_upload_pipeline.places import Place


class State(StrEnum):
    """Where a batch stands. The states in `FINAL_STATES` are exits; each of them has a receipt."""

    WAITING = "waiting"
    """Known, its file still lies in the inbox."""
    RECEIVED = "received"
    """Its file is archived and hashed."""
    VALIDATED = "validated"
    """The verdict on the whole file is in; nothing is loaded."""
    LOADING = "loading"
    LOADED = "loaded"
    PARTIALLY_LOADED = "partially_loaded"
    REJECTED = "rejected"
    UNREADABLE = "unreadable"
    DUPLICATE = "duplicate"
    UNPACKED = "unpacked"
    """A .zip of several files, each of which is a batch of its own."""
    FAILED = "failed"
    """The machine, the database or a defect stopped it; a retry goes on from what is committed."""
    REVERTED = "reverted"
    """A person undid the load."""


FINAL_STATES = frozenset(
    {
        State.LOADED,
        State.PARTIALLY_LOADED,
        State.REJECTED,
        State.UNREADABLE,
        State.DUPLICATE,
        State.UNPACKED,
        State.FAILED,
        State.REVERTED,
    }
)
ENDED_STATES = FINAL_STATES - {State.FAILED}
"""States in which a batch stays as it is unless somebody takes it again: one that failed is still to be loaded."""
LOADED_STATES = frozenset({State.LOADED, State.PARTIALLY_LOADED})
"""States in which rows of the batch stand in the target, so that the same bytes again are a duplicate."""
ON_THE_WAY = (State.RECEIVED, State.VALIDATED, State.LOADING)
"""States of a batch that was taken and has not ended."""


class Severity(StrEnum):
    """What a finding does to its row: an error rejects it, a warning lets it load."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a row or, when `row_number` is None, with the whole file.

    Attributes:
        code: A code of the catalogue in `findings`.
        severity: Whether the row (or file) is rejected.
        message: One sentence for a clerk: what is wrong, and with which value.
        row_number: Position of the record in the source, the first data row is 1.
        column: The column as the source's header names it.
        raw_value: The cell as it stands in the source.
    """

    code: str
    severity: Severity
    message: str
    row_number: int | None = None
    column: str | None = None
    raw_value: str | None = None


def counted(number: int, one: str, many: str = "") -> str:
    """Return how many there are of something: `1 row`, `0 rows`, `1,500 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share_in_words(part: int, whole: int, one: str, many: str) -> str:
    """Return what is true of some of the rows: `1 of 3 rows is loaded`, `2 of 3 rows are loaded`."""
    return f"{part:,} of {counted(whole, 'row')} {one if 1 in (part, whole) else many}"


def on_one_line(text: str) -> str:
    """Return text from a file as a part of a line: what would end the line, move others or hide is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def where_in_words(row_number: int, sheet: str | None = None, sheet_row: int | None = None) -> str:
    """Return where a record stands: `row 7`, or `row 9 of the sheet 'May'`."""
    return f"row {row_number:,}" if sheet is None else f"row {sheet_row:,} of the sheet '{sheet}'"


@dataclass(frozen=True, slots=True)
class CodeCount:
    """Findings of one code in a batch, with an example.

    Attributes:
        example_row: Position of the example among the records; None for a finding about the whole file.
        sheet: In a spreadsheet, the sheet where the example stands.
        sheet_row: In a spreadsheet, the row as it shows it.
        own_row: In a correction, of an example that is no row of the first file: where it stands in its own.
    """

    code: str
    severity: str
    count: int
    column: str | None
    example_row: int | None
    example: str
    sheet: str | None = None
    sheet_row: int | None = None
    own_row: int | None = None

    @property
    def where(self) -> str:
        """Return where the example stands, in words; empty for a finding about the whole file."""
        if self.own_row is not None:
            return f"row {self.own_row:,} of this file"
        return (
            "" if self.example_row is None else where_in_words(self.example_row, self.sheet, self.sheet_row)
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One uploaded file. `batch_id` is the Dagster partition key and a safe folder name.

    Attributes:
        batch_id: `<UTC time>-<slug>-<8 hex>`, only `[a-z0-9T-]`.
        file_name: The name that the sender gave: hostile input, only ever shown.
        source: Where the file waits, or waited.
        folder: Profile named by the inbox folder in which it was dropped.
        sha256: Hex digest of the content, once archived.
    """

    batch_id: str
    file_name: str
    state: State
    source: Place
    received_at: datetime
    file_size: int
    folder: str | None = None
    sha256: str | None = None
    layout: Layout | None = None
    run_id: str | None = None
    parent_batch_id: str | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a person states about a file instead of letting it be recognised (`--encoding` and the like).

    Attributes:
        force: Load although the same bytes were loaded before.
    """

    profile: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """Which rows of a sheet are records; rows are counted as the spreadsheet shows them, from 1.

    Attributes:
        header_row: The (last) row of the header; the records begin below it.
        last_row: The last row of the records; what stands below are totals and notes.
    """

    name: str
    header_row: int
    last_row: int


def numbers_of(rows_read: int, sheets: Sequence[Sheet]) -> int:
    """Return how many row numbers a file has: blank rows of a spreadsheet have one, too."""
    return max(rows_read, sum(sheet.last_row - sheet.header_row for sheet in sheets))


def place_in(sheets: Sequence[Sheet], row_number: int) -> tuple[str, int] | None:
    """Return the sheet and the row in it where a record stands, None for one that is in none of them."""
    for sheet in sheets:
        if row_number <= sheet.last_row - sheet.header_row:
            return sheet.name, sheet.header_row + row_number
        row_number -= sheet.last_row - sheet.header_row
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is to be read: what `upload` recognised, as it stands on the receipt.

    Attributes:
        file_format: `csv`, `xlsx`, `xls`, `xlsb`, `ods`, `json`, `jsonl` or `parquet`; `zip` for several files.
        header: The source's column names in file order, exactly as written (trimmed).
        mapping: Canonical column name to position in `header`.
        profile: Name of the profile that matched, `generic` when only all aliases together did.
        compression: `gzip`, `zip` or None.
        member: Name of the file inside a zip.
        encoding: Python codec name of a text file, else None.
        encoding_confidence: 0 to 1; 1 means stated, a byte-order mark, or valid UTF-8.
        delimiter: One character, for delimited text.
        quote: The character around cells that hold a delimiter or a line break, for delimited text.
        skip_rows: Physical lines above the header.
        sheets: Spreadsheets: the sheets that are read, in order.
        members: A .zip of several files: the batches that they became.
        left_out: Spreadsheets: rows below the records that are none (totals, notes), as text.
        unread_sheets: Spreadsheets: the sheets that are not read, each with how many rows it has, as text.
        excel_serials: Whether numbers in date columns may be Excel serial dates.
        written_as: Of a correction: how its own file is written. All else then says what its cells mean, as
            it does for the batch that is corrected.
    """

    file_format: str
    header: tuple[str, ...]
    mapping: dict[str, int]
    profile: str
    compression: str | None = None
    member: str | None = None
    encoding: str | None = None
    encoding_confidence: float = 1.0
    delimiter: str | None = None
    quote: str | None = None
    skip_rows: int = 0
    sheets: tuple[Sheet, ...] = ()
    left_out: tuple[str, ...] = ()
    unread_sheets: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    excel_serials: bool = False
    written_as: Layout | None = None

    @property
    def extra_columns(self) -> tuple[int, ...]:
        """Positions of the columns that no alias knows; their cells go to `extra`."""
        known = set(self.mapping.values())
        return tuple(i for i in range(len(self.header)) if i not in known)

    def place(self, row_number: int) -> tuple[str, int] | None:
        """Return the sheet and the row in it where a record of a spreadsheet stands; None for other files."""
        return place_in(self.sheets, row_number)

    def place_of(self, row_number: int) -> dict[str, object]:
        """Return `place` as values by name, for a finding as data; empty for other files."""
        return dict(zip(("sheet", "sheet_row"), self.place(row_number) or (), strict=False))

    def source_name(self, column: str) -> str:
        """Return what the source calls the canonical `column` (the canonical name if it lacks it)."""
        position = self.mapping.get(column)
        return column if position is None else self.header[position]


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A record that cannot be laid over the header: ragged, or torn by an unclosed quote.

    Attributes:
        row_number: Its position among the records.
        code: `WRONG_FIELD_COUNT`, `UNCLOSED_QUOTE` ...
        message: One sentence, naming the physical line.
        raw_text: The text of the record as it stands in the file.
    """

    row_number: int
    code: str
    message: str
    raw_text: str


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A run of records as text, in file order.

    Attributes:
        cells: One string column a source column, named "0", "1", ... by position; an empty cell is null.
        row_numbers: int64, one a row of `cells`, ascending; gaps are the damaged rows, and in a spreadsheet
            the blank ones.
        damaged: Records of the same stretch of the file that have no cells.
        bytes_done: Bytes of the (uncompressed) source consumed up to the end of this chunk.
        findings: What is wrong with rows before any cell is looked at, in the schema `findings.SCHEMA`.
    """

    cells: pa.Table
    row_numbers: pa.Int64Array
    damaged: tuple[DamagedRow, ...] = ()
    bytes_done: int = 0
    findings: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class TypedChunk:
    """The same records under the contract.

    Attributes:
        rows: The contract's columns with the contract's Arrow types; an unreadable cell is null.
        findings: What could not be read, in the schema `findings.SCHEMA`.
        text: Where the rows came from, for the verbatim row in an error record.
    """

    rows: pa.Table
    findings: pa.Table
    text: TextChunk


@dataclass(frozen=True, slots=True)
class Totals:
    """Control totals of some rows: exact sums, as an accountant would take them."""

    quantity: Decimal = Decimal(0)
    item_total: Decimal = Decimal(0)

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.quantity + other.quantity, self.item_total + other.item_total)

    def __sub__(self, other: Totals) -> Totals:
        return Totals(self.quantity - other.quantity, self.item_total - other.item_total)

    def as_dict(self) -> dict[str, str]:
        """Return the sums as exact decimal text, for JSON."""
        return {"quantity": f"{self.quantity:f}", "item_total": f"{self.item_total:f}"}


@dataclass(frozen=True, slots=True)
class ChunkVerdict:
    """The judgement on one chunk.

    Attributes:
        valid: Rows without an error, contract columns plus `row_number` (int32) and `extra` (JSON text).
        findings: Schema `findings.SCHEMA`, ordered by row number.
        sources: The source rows that have findings, in the form of `verbatim.source_rows`, with the number of
            the invoice that each belongs to.
        rows_read: Rows judged, damaged ones included.
        rows_rejected: Rows with at least one error.
        identities: uint64 hash of the first three values of each row's identity, in file order, rejected
            rows included.
        identity_rows: int64 row numbers that belong to `identities`.
        totals_read: Control totals of every row that could be read.
        totals_valid: Control totals of `valid`.
    """

    valid: pa.Table
    findings: pa.Table
    sources: pa.Table
    rows_read: int
    rows_rejected: int
    identities: np.ndarray
    identity_rows: np.ndarray
    totals_read: Totals
    totals_valid: Totals


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on a whole file, which the loader reads again before it loads.

    Attributes:
        plan: Digest of everything that decides what is staged; a chunk ledger counts only for its plan.
        chunks: Staged chunks, one record batch each.
        findings_by_code: Findings of each code, errors and warnings.
        max_error_rate: The breaker's limit that was applied, 0 to 1.
        rows_corrected: Rejected rows that are loaded by corrections; they do not count for the breaker.
        has_passed: Whether rows of the file were loaded before: it is no wrong file, whatever is found in it now.
    """

    plan: str
    rows_read: int
    rows_valid: int
    rows_rejected: int
    warnings: int
    chunks: int
    rules_version: int
    max_error_rate: float
    findings_by_code: dict[str, int] = field(default_factory=dict)
    totals_read: Totals = Totals()
    totals_valid: Totals = Totals()
    rows_corrected: int = 0
    has_passed: bool = False

    @property
    def rows_open(self) -> int:
        """Return the rejected rows that no correction has loaded."""
        return self.rows_rejected - self.rows_corrected

    @property
    def error_rate(self) -> float:
        """Return the share of rows read that are rejected and still open (0 for a file without rows)."""
        return self.rows_open / self.rows_read if self.rows_read else 0.0

    @property
    def breaker_tripped(self) -> bool:
        """Return whether so many rows are rejected that nothing of the file may load."""
        return not self.has_passed and self.rows_open > 0 and self.error_rate >= self.max_error_rate


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load did to the target, summed over the chunk ledger."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0
    totals: Totals = Totals()

    @property
    def rows(self) -> int:
        """Return the rows that stand in the target because of, or as told by, this batch."""
        return self.inserted + self.updated + self.unchanged


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment in a long stage, for a log line, an observation or a progress bar."""

    stage: str
    rows_done: int
    rows_total: int | None
    rows_per_second: float
    percent: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What somebody who looks at a batch, or at a table, has to say about it.

    Attributes:
        words: One or two sentences for an operator.
        severe: Whether a failure is an error; else it is a warning.
        numbers: What it was judged by: plain values, for the event log.
    """

    passed: bool
    words: str
    severe: bool = False
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The final account of a batch: what was read, loaded and rejected, and why.

    `reason` is the one sentence that says why it ended so, in the words of a clerk. `rows_corrected` are those
    of the rejected rows that corrections have loaded since.
    """

    batch_id: str
    file_name: str
    file_size: int
    state: State
    reason: str
    received_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    sha256: str | None = None
    file_format: str | None = None
    encoding: str | None = None
    profile: str | None = None
    layout: dict[str, Any] = field(default_factory=dict)
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_unchanged: int = 0
    rows_rejected: int = 0
    rows_unprocessed: int = 0
    rows_corrected: int = 0
    warnings: int = 0
    findings_by_code: dict[str, int] = field(default_factory=dict)
    control_totals: dict[str, Any] = field(default_factory=dict)
    rules_version: int | None = None
    run_id: str | None = None
    parent_batch_id: str | None = None
    duplicate_of: str | None = None

    @property
    def rows_open(self) -> int:
        """Return the rejected rows that no correction has loaded."""
        return self.rows_rejected - self.rows_corrected
