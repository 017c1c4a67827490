"""Judges typed rows by the contract: which of them load, and what is wrong with the others.

Pandera sees parsed, typed columns only. (On text it would stop checking a column at its first value that
cannot be converted, and report none of the other faults.)
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline import contract, rules
from bulk_upload_pipeline.findings import SCHEMA, row_findings
from bulk_upload_pipeline.model import ChunkVerdict, Severity, Totals
from bulk_upload_pipeline.verbatim import INVOICE_NUMBER, ROW_NUMBER, source_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date
    from decimal import Decimal

    from pandera.errors import SchemaError

    from bulk_upload_pipeline.model import DamagedRow, Layout, TextChunk, TypedChunk
    from bulk_upload_pipeline.profiles import Profile


class BrokenRule(NamedTuple):
    """A rule that some rows of a chunk break.

    Attributes:
        column: The contract's column, None for a rule on the whole row.
        positions: int64 positions of the rows within the chunk.
    """

    code: str
    column: str | None
    positions: np.ndarray


def judge(chunk: TypedChunk, layout: Layout, profile: Profile, today: date) -> ChunkVerdict:
    """Return the verdict on one chunk.

    Args:
        chunk: Parsed rows with the findings of parsing.
        layout: How the file is laid out: names columns as the clerk knows them.
        profile: Says which columns are required and how severe a wrong total is.
        today: The day from which "in the future" counts.
    """
    broken = broken_rules(chunk.rows, layout, profile, today)
    findings = _in_file_order(
        [
            chunk.findings,
            *_damage(chunk.text.damaged),
            *_rule_findings(broken, chunk, layout, profile),
        ],
        layout,
    )
    rejected = _rejected_rows(findings)
    loads = pc.invert(pc.is_in(chunk.rows["row_number"].cast(pa.int64()), value_set=rejected))
    valid = chunk.rows if len(rejected) == 0 else chunk.rows.filter(loads)
    totals_read = totals(chunk.rows)
    return ChunkVerdict(
        valid=valid,
        findings=findings,
        sources=_sources(findings, chunk, layout),
        rows_read=len(chunk.rows) + len(chunk.text.damaged),
        rows_rejected=len(rejected),
        identities=identities(chunk.rows),
        identity_rows=chunk.text.row_numbers.to_numpy(),
        totals_read=totals_read,
        totals_valid=totals_read if len(rejected) == 0 else totals(valid),
    )


@cache
def prepare() -> None:
    """Load pandera and let it register what it validates with; call it before another thread works beside.

    It does so at its first use, by imports that lock each other out when two threads come first at once.
    """
    import pandas as pd
    import pandera.pandas as pandera

    check = pandera.Check(lambda values: values == values)
    pandera.DataFrameSchema({"any": pandera.Column(checks=check)}).validate(pd.DataFrame({"any": [1]}))


def broken_rules(rows: pa.Table, layout: Layout, profile: Profile, today: date) -> list[BrokenRule]:
    """Return every rule of the contract that some rows break, as pandera finds them."""
    import pandas as pd
    from pandera.errors import SchemaErrors

    present = frozenset(layout.mapping) | {"item_total"}
    names = [
        column.name
        for column in contract.COLUMNS
        if column.name in present
        and rules.may_break(column, rows[column.name], required=column.name in profile.required)
    ]
    schema = contract.pandera_schema(frozenset(names), profile.required, today)
    judged = rows.select(names)
    for name, agrees in rules.agreements(rows).items():
        judged = judged.append_column(name, agrees)
    try:
        schema.validate(judged.to_pandas(types_mapper=pd.ArrowDtype), lazy=True)
    except SchemaErrors as errors:
        known = rules.rules_of(frozenset(names), profile.required, today)
        return [_broken_rule(error, judged, known) for error in errors.schema_errors]
    return []


def _broken_rule(
    error: SchemaError, judged: pa.Table, known: Mapping[str, Mapping[str, rules.Rule]]
) -> BrokenRule:
    """Translate one of pandera's errors, and find the rows in which the rule is broken."""
    column, _, code = str(getattr(error.check, "name", error.check)).partition(": ")
    rule = known.get(column, {}).get(code)
    broken = None if rule is None else pc.indices_nonzero(pc.invert(rule(judged[column]))).to_numpy()
    if broken is None or len(broken) == 0:
        # A check that could not run would let wrong rows pass unseen: that is a defect, never data.
        raise AssertionError(f"pandera could not apply a rule: {error}") from error
    return BrokenRule(code, rules.FINDING_COLUMN.get(column, column), broken.astype(np.int64))


def _rule_findings(
    broken: Iterable[BrokenRule], chunk: TypedChunk, layout: Layout, profile: Profile
) -> Iterator[pa.Table]:
    for rule in broken:
        positions = pa.array(_not_already_found(rule, chunk, layout))
        if len(positions) == 0:
            continue
        raw = _raw_cells(rule.column, chunk.text, layout, positions)
        yield row_findings(
            rule.code,
            None if rule.column is None else layout.source_name(rule.column),
            chunk.text.row_numbers.take(positions),
            raw,
            values=_shown(rule, chunk.rows, positions),
            severity=profile.total_mismatch if rule.code == "TOTAL_MISMATCH" else None,
        )


def _not_already_found(rule: BrokenRule, chunk: TypedChunk, layout: Layout) -> np.ndarray:
    """Drop rows whose cell is only absent because it could not be read: that has its finding already."""
    if rule.code not in ("MISSING_VALUE", "MISSING_ITEM") or len(chunk.findings) == 0:
        return rule.positions
    names = contract.ITEM_COLUMNS if rule.column is None else (rule.column,)
    sources = pa.array([layout.source_name(name) for name in names])
    errors = chunk.findings.filter(pc.equal(chunk.findings["severity"], str(Severity.ERROR)))
    unreadable = errors.filter(pc.is_in(errors["column_name"], value_set=sources))["row_number"].to_numpy()
    row_numbers = chunk.text.row_numbers.to_numpy()[rule.positions]
    return rule.positions[~np.isin(row_numbers, unreadable)]


def _raw_cells(column: str | None, text: TextChunk, layout: Layout, positions: pa.Array) -> pa.Array | None:
    if column is None or column not in layout.mapping:
        return None
    return _whole(text.cells[str(layout.mapping[column])].take(positions))


def _shown(rule: BrokenRule, rows: pa.Table, positions: pa.Array) -> pa.Array | None:
    """Return what a message says in place of the cell, for the rules where the cell alone says little."""
    if rule.code == "TEXT_TOO_LONG":
        assert rule.column is not None
        lengths = pc.utf8_length(_whole(rows[rule.column].take(positions))).cast(pa.string())
        limit = contract.BY_NAME[rule.column].limit
        return pc.binary_join_element_wise(lengths, f"characters, at most {limit:,} fit", " ")
    if rule.code == "TOTAL_MISMATCH":
        return _calculation(rows.select(["quantity", "item_price", "item_total"]).take(positions))
    return None


def _calculation(rows: pa.Table) -> pa.Array:
    exact = rules.product(rows["quantity"], rows["item_price"])
    # With more decimals Arrow would write a small product as 1.2E-7, and nothing as 0E-8.
    gross = pc.round(exact, contract.AMOUNT_DECIMALS).cast(pa.decimal128(31, contract.AMOUNT_DECIMALS))
    words = [_plain(_whole(column)) for column in (*rows.columns[:2], gross, rows["item_total"])]
    quantity, price, expected, stated = words
    calculation = pc.binary_join_element_wise(quantity, "x", price, "=", expected, " ")
    return pc.binary_join_element_wise(calculation, stated, ", but the file says ")


def _plain(amounts: pa.Array) -> pa.Array:
    """Return amounts as text without trailing zeros."""
    return pc.replace_substring_regex(amounts.cast(pa.string()), r"\.?0+$", "")


def _damage(damaged: tuple[DamagedRow, ...]) -> list[pa.Table]:
    by_code: dict[str, list[DamagedRow]] = {}
    for row in damaged:
        by_code.setdefault(row.code, []).append(row)
    return [
        row_findings(
            code,
            None,
            pa.array([row.row_number for row in rows], pa.int64()),
            pa.array([row.raw_text for row in rows], pa.string()),
            # The catalogue puts the full stop.
            values=pa.array([row.message.removesuffix(".") for row in rows], pa.string()),
        )
        for code, rows in by_code.items()
    ]


def _in_file_order(tables: list[pa.Table], layout: Layout) -> pa.Table:
    """Return findings in the order of the rows, and those of a row in the order of its cells."""
    if not (found := [table for table in tables if len(table)]):
        return SCHEMA.empty_table()
    findings = pa.concat_tables(found)
    columns = pa.array(layout.header, pa.string())
    cell = pc.fill_null(pc.index_in(findings["column_name"], value_set=columns), len(columns))
    place = pc.add(pc.multiply(findings["row_number"], len(columns) + 1), cell.cast(pa.int64()))
    return findings.take(pc.sort_indices(place))


def _rejected_rows(findings: pa.Table) -> pa.Array:
    errors = findings.filter(pc.equal(findings["severity"], str(Severity.ERROR)))
    return _whole(errors["row_number"]).unique()


def _sources(findings: pa.Table, chunk: TypedChunk, layout: Layout) -> pa.Table:
    """Return the source row, verbatim, of every row that has a finding, and to which invoice it belongs."""
    found = source_rows(chunk.text, layout.header, _whole(findings["row_number"]).unique())
    if len(found) == 0:
        return found
    at = pc.index_in(found[ROW_NUMBER], value_set=_whole(chunk.rows["row_number"]).cast(pa.int64()))
    return found.append_column(INVOICE_NUMBER, chunk.rows["invoice_number"].take(at))


def identities(rows: pa.Table) -> np.ndarray:
    """Return a 64-bit hash of invoice number, product and SKU of each row (uint64).

    Two different identities fall on one hash about once in 360,000 files of 10,000,000 rows; one of the two
    lines then counts as the second of its kind, and still loads.
    """
    import pandas as pd

    keys = pc.binary_join_element_wise(
        rows["invoice_number"],
        rows["product_id"],
        rows["sku"],
        "\x1f",
        null_handling="replace",
        null_replacement="\x00",
    )
    return pd.util.hash_array(keys.to_numpy(zero_copy_only=False).astype(object), categorize=False)


def totals(rows: pa.Table) -> Totals:
    """Return the control totals of some rows, exactly."""
    return Totals(_sum(rows["quantity"]), _sum(rows["item_total"]))


def _sum(amounts: pa.ChunkedArray) -> Decimal:
    from decimal import Decimal

    return pc.sum(amounts.cast(pa.decimal128(38, contract.AMOUNT_DECIMALS))).as_py() or Decimal(0)


def _whole(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
