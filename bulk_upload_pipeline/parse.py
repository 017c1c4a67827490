"""Text to the contract's types: exact decimals, days, trimmed text; what cannot be read becomes a finding.

A whole column is read at once where it is clean. Only the cells that the fast way cannot read take a slow
one, and there each distinct text is read once, so that a column full of rubbish costs little more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline import contract, findings, rules
from bulk_upload_pipeline.contract import Kind
from bulk_upload_pipeline.model import TypedChunk
from bulk_upload_pipeline.parsing import dates
from bulk_upload_pipeline.parsing.cells import as_text, bytes_of, cells_at, storable
from bulk_upload_pipeline.parsing.decimals import even_decimals
from bulk_upload_pipeline.parsing.numerals import INVALID, PLAIN, TOO_LARGE, Notation, read_number
from bulk_upload_pipeline.parsing.second_headers import refuse_second_header
from bulk_upload_pipeline.parsing.texts import read_texts
from bulk_upload_pipeline.verbatim import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from datetime import date
    from decimal import Decimal

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.profiles import DateOrder, Profile

_TEXT_FORMATS = frozenset({"csv"})
"""Formats in which a number can only be text, so that the profile's decimal comma is all there is."""

_PERCENT_COLUMNS = frozenset({"discount"})


class _Reading(NamedTuple):
    """A column after reading: its values, and which cells earned which code (disjoint masks)."""

    values: pa.Array
    found: tuple[tuple[str, pa.BooleanArray], ...] = ()


def parse_chunk(
    chunk: TextChunk, layout: Layout, profile: Profile, date_order: Callable[[], DateOrder | None]
) -> TypedChunk:
    """Return the records of a chunk under the contract.

    Args:
        chunk: Records as text.
        layout: Says which column is which, and what the source calls it.
        profile: Says how its sender writes numbers, dates and identifiers.
        date_order: Called, once at most, when a date can be read two ways and the profile states no order;
            answers with the order on which the whole file agrees, or None.

    Returns:
        Rows with `contract.STAGED_SCHEMA`, as many and in the same order. A cell that cannot be read is null
        there and has exactly one finding. Damaged records are left to the verdict.

    Raises:
        UnreadableError: `SECOND_HEADER`: it turns out that the file is two tables.
    """
    order = _Order(profile.date_order, date_order)
    readings = {
        name: _read(contract.BY_NAME[name], as_text(chunk.cells[str(at)]), layout, profile, order)
        for name, at in layout.mapping.items()
    }
    refuse_second_header(chunk, layout, profile, _unreadable(readings))
    found = [
        _finding(code, name, chunk, layout, where)
        for name, reading in readings.items()
        for code, where in reading.found
    ]
    columns = {name: reading.values for name, reading in readings.items()}
    too_large = _derive_item_total(columns, readings.get("item_total"), chunk, layout)
    rows = _staged(columns, chunk, layout)
    tables = [*found, *too_large]
    return TypedChunk(rows, pa.concat_tables(tables) if tables else findings.no_findings(), chunk)


def identity_columns(chunk: TextChunk, layout: Layout, profile: Profile) -> pa.Table:
    """Return the columns that say which line a record is, read as `parse_chunk` reads them."""
    rows = len(chunk.row_numbers)
    columns = {
        name: read_texts(
            as_text(chunk.cells[str(layout.mapping[name])]),
            float_identifier=name in profile.float_identifiers,
        ).values
        if name in layout.mapping and rows
        else pa.nulls(rows, pa.string())
        for name in contract.IDENTITY[:3]
    }
    return pa.table(columns)


def date_order_of(chunks: Iterable[TextChunk], layout: Layout) -> DateOrder | None:
    """Return the order on which all dates that can be read in one order only agree.

    Args:
        chunks: The whole file. Reading stops where two dates contradict each other.
        layout: Says which columns hold dates.

    Returns:
        `dmy` or `mdy`; None where no date shows an order, or not all the same.
    """
    return agreed_order(orders_shown(chunks, layout))


def notation_of(layout: Layout, profile: Profile) -> Notation:
    """Return which mark stands before the decimals in a file, or in a correction of one."""
    if not profile.decimal_comma:
        return Notation.POINT
    formats = {layout.file_format, (layout.written_as or layout).file_format}
    return Notation.COMMA if formats <= _TEXT_FORMATS else Notation.EITHER


def agreed_order(shown: Collection[DateOrder]) -> DateOrder | None:
    """Return the one order that dates show, None where they show none or contradict each other."""
    return next(iter(shown)) if len(shown) == 1 else None


def orders_shown(chunks: Iterable[TextChunk], layout: Layout) -> frozenset[DateOrder]:
    """Return the orders that dates show which can be read in one only; reading stops at a contradiction."""
    columns = [str(at) for name, at in layout.mapping.items() if contract.BY_NAME[name].kind is Kind.DATE]
    shown: set[DateOrder] = set()
    for chunk in chunks:
        for column in columns:
            distinct = as_text(chunk.cells[column]).unique().drop_null().to_pylist()
            shown.update(order for text in distinct if (order := dates.order_shown_by(text)))
            if len(shown) > 1:
                return frozenset(shown)
    return frozenset(shown)


class _Order:
    """The order of dates in figures: the profile's, else the file's, which is asked for when it is needed."""

    def __init__(self, stated: DateOrder | None, ask: Callable[[], DateOrder | None]) -> None:
        self.known = stated
        self._ask = None if stated else ask

    def agreed(self) -> DateOrder | None:
        """Return the order, asking the file at most once."""
        if self._ask is not None:
            self.known, self._ask = self._ask(), None
        return self.known


def _unreadable(readings: dict[str, _Reading]) -> dict[str, pa.BooleanArray]:
    """Return which cells are neither a number nor a day, by their columns."""
    return {
        name: where
        for name, reading in readings.items()
        for code, where in reading.found
        if code in (INVALID, dates.INVALID)
    }


def _read(
    column: contract.Column, cells: pa.StringArray, layout: Layout, profile: Profile, order: _Order
) -> _Reading:
    if cells.null_count == len(cells):
        return _Reading(pa.nulls(len(cells), column.kind.value))
    if column.kind is Kind.AMOUNT:
        return _read_amounts(cells, notation_of(layout, profile), percent=column.name in _PERCENT_COLUMNS)
    if column.kind is Kind.DATE:
        return _read_dates(cells, order, excel_serials=layout.excel_serials)
    texts = read_texts(cells, float_identifier=column.name in profile.float_identifiers)
    return _Reading(texts.values, tuple((finding.code, finding.where) for finding in texts.findings))


def _read_amounts(cells: pa.StringArray, notation: Notation, *, percent: bool) -> _Reading:
    values, rest = _plain_amounts(cells, notation)
    if rest is None:
        return _Reading(values)
    slow = _read_distinct(
        cells.filter(rest), partial(read_number, notation=notation, percent=percent), Kind.AMOUNT
    )
    return _Reading(
        pc.replace_with_mask(values, rest, slow.values),
        tuple((code, _spread(where, rest)) for code, where in slow.found),
    )


def _plain_amounts(cells: pa.StringArray, notation: Notation) -> tuple[pa.Array, pa.BooleanArray | None]:
    """Return the amounts of the cells that can be read as they are, and which cells are left (None: none)."""
    if notation is Notation.POINT:
        other = _with_other_signs(cells)
        plain = cells if other is None else pc.if_else(other, pa.scalar(None, pa.string()), cells)
        amounts = even_decimals(plain) if plain.null_count == 0 else None
        if amounts is not None:
            return amounts, other
        try:
            # What Arrow reads as a decimal of this size, the slow way reads as the same number.
            return plain.cast(Kind.AMOUNT.value), other
        except pa.ArrowInvalid:
            pass  # the signs are right, but not their order or number
    matches = pc.match_substring_regex(cells, PLAIN[notation])
    readable = pc.if_else(matches, cells, pa.scalar(None, pa.string()))
    if notation is Notation.COMMA:
        readable = pc.replace_substring(readable, ",", ".")
    return readable.cast(Kind.AMOUNT.value), pc.fill_null(pc.invert(matches), False)


def _with_other_signs(cells: pa.StringArray) -> pa.BooleanArray | None:
    """Return which cells have more than figures, points and hyphens; None when none has."""
    data, begins = bytes_of(cells)
    others = np.flatnonzero((data < ord("-")) | (data > ord("9")) | (data == ord("/")))
    return pa.array(cells_at(begins, others)) if len(others) else None


def _read_dates(cells: pa.StringArray, order: _Order, *, excel_serials: bool) -> _Reading:
    days = _iso_days(cells)
    if days is not None:
        return _Reading(days)

    def read(text: str) -> date | str | None:
        day = dates.read_date(text, order.known, excel_serials=excel_serials)
        if day == dates.AMBIGUOUS and order.known is None and order.agreed():
            day = dates.read_date(text, order.known, excel_serials=excel_serials)
        return day

    return _read_distinct(cells, read, Kind.DATE)


def _iso_days(cells: pa.StringArray) -> pa.Array | None:
    """Return the days of a column in which all are written as 2024-12-31; None for any other."""
    try:
        days = cells.cast(Kind.DATE.value)
    except pa.ArrowInvalid:
        return None
    first, last = (days_of.as_py() for days_of in pc.min_max(days).values())
    return days if first.year >= dates.FIRST_YEAR and last.year <= dates.LAST_YEAR else None


def _read_distinct(
    cells: pa.StringArray, read: Callable[[str], Decimal | date | str | None], kind: Kind
) -> _Reading:
    """Read each distinct text once; `read` returns a value, None, or (a str) the code of a finding."""
    encoded = cells.dictionary_encode()
    results = [read(text) for text in encoded.dictionary.to_pylist()]
    values = pa.array([None if isinstance(result, str) else result for result in results], kind.value)
    codes = [result if isinstance(result, str) else None for result in results]
    found = ((code, pa.array([c == code for c in codes])) for code in sorted({c for c in codes if c}))
    return _Reading(
        values.take(encoded.indices),
        tuple((code, pc.fill_null(where.take(encoded.indices), False)) for code, where in found),
    )


def _spread(where: pa.BooleanArray, rest: pa.BooleanArray) -> pa.BooleanArray:
    """Lay a mask over the cells that took the slow way back over the whole column."""
    return pc.replace_with_mask(rest, rest, where)


def _finding(code: str, name: str, chunk: TextChunk, layout: Layout, where: pa.BooleanArray) -> pa.Table:
    raw = as_text(chunk.cells[str(layout.mapping[name])]).filter(where)
    return findings.row_findings(
        code, layout.source_name(name), chunk.row_numbers.filter(where), storable(raw)
    )


def _derive_item_total(
    columns: dict[str, pa.Array], stated: _Reading | None, chunk: TextChunk, layout: Layout
) -> list[pa.Table]:
    """Fill in the totals that the source leaves out; return the findings on those that are too large.

    A total that could not be read stays null: what the source says instead is not known.
    """
    if stated is not None and stated.values.null_count == 0:
        return []
    nothing = pa.nulls(len(chunk.row_numbers), Kind.AMOUNT.value)
    totals = nothing if stated is None else stated.values
    missing = pc.is_null(totals)
    for _, unreadable in () if stated is None else stated.found:
        missing = pc.and_not(missing, unreadable)
    gross = rules.product(columns.get("quantity", nothing), columns.get("item_price", nothing))
    # Half a unit of the last decimal counts up, for credits away from zero, too.
    rounded = pc.round(gross, contract.AMOUNT_DECIMALS, round_mode="half_towards_infinity")
    limit = pa.scalar(10 ** (contract.AMOUNT_DIGITS - contract.AMOUNT_DECIMALS)).cast(pa.decimal128(19, 0))
    beyond = pc.fill_null(pc.greater_equal(pc.abs(rounded), limit), False)
    too_large = pc.and_(missing, beyond)
    derived = pc.if_else(beyond, pa.scalar(None, rounded.type), rounded).cast(Kind.AMOUNT.value)
    columns["item_total"] = pc.if_else(missing, derived, totals)
    if not pc.any(too_large).as_py():
        return []
    return [
        findings.row_findings(
            TOO_LARGE,
            layout.source_name("item_total"),
            chunk.row_numbers.filter(too_large),
            values=rounded.filter(too_large).cast(pa.string()),
        )
    ]


def _staged(columns: dict[str, pa.Array], chunk: TextChunk, layout: Layout) -> pa.Table:
    rows = len(chunk.row_numbers)
    arrays = [
        columns[column.name] if column.name in columns else pa.nulls(rows, column.kind.value)
        for column in contract.COLUMNS
    ]
    extra = [str(at) for at in layout.extra_columns]
    beyond = as_json(chunk.cells.select(extra), [layout.header[int(at)] for at in extra], skip_empty=True)
    return pa.table([*arrays, beyond, chunk.row_numbers.cast(pa.int32())], schema=contract.STAGED_SCHEMA)
