"""Rows as they stand in the source, as JSON text: one object a row, made without a Python loop over rows.

The text is meant for `jsonb`. PostgreSQL refuses the escape of NUL there, so each NUL is written as U+FFFD;
every other character comes back exactly.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk_upload_pipeline.parsing.cells import REPLACEMENT, as_text, bytes_of, unique_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bulk_upload_pipeline.model import TextChunk

_SPECIAL = (*b'\\"', *range(0x20))
"""Bytes that may not stand in a JSON string as they are. The backslash comes first: the others bring more."""


_ABSENT = "??"
"""Joined in place of an absent cell: in its quotation marks it is as long as `null`, which is written over it."""

_NULL = np.frombuffer(b"null", np.uint8)

ROW_NUMBER = "row_number"
RAW_TEXT = "_raw"
"""Key under which `row_data` keeps the text of a record that has no cells."""

INVOICE_NUMBER = "_invoice_number"
"""Beside source rows that have findings: the number of the invoice that each belongs to, as it was read."""

_HEADER = b"header"


def as_json(
    cells: pa.Table | pa.RecordBatch, names: Sequence[str], *, skip_empty: bool = False
) -> pa.StringArray:
    """Return one JSON object a row.

    Args:
        cells: String columns, one a name.
        names: Keys, in the order of the columns; a repeated one gets the suffix ` (2)`, ` (3)` ...
        skip_empty: Leave out the keys of empty cells (null or no character); a row of which all cells are
            empty is then null. Otherwise a null cell is JSON null.

    Returns:
        Texts of valid JSON, as long as `cells`.
    """
    keys = [_quoted(name) for name in unique_names(names)]
    columns = [as_text(column) for column in cells.columns]
    return _sparse(columns, keys, len(cells)) if skip_empty else _complete(columns, keys, len(cells))


def source_rows(chunk: TextChunk, header: Sequence[str], wanted: pa.Array) -> pa.Table:
    """Return some rows as they stand in the source, of those that are in a chunk.

    Args:
        chunk: Records as text.
        header: What the source calls the columns of the chunk.
        wanted: Row numbers (int64).

    Returns:
        `row_number`, the cells under the positions of their columns, and `_raw`: the text of a record that has
        no cells. What the columns are called goes along as the schema's metadata.
    """
    at, damaged = _in(chunk.row_numbers, wanted), _damaged_rows(chunk, wanted)
    cells = chunk.cells if at is None else chunk.cells.filter(at)
    numbers = chunk.row_numbers if at is None else chunk.row_numbers.filter(at)
    columns = [numbers, *map(as_text, cells.columns), pa.nulls(len(numbers), pa.string())]
    names = [ROW_NUMBER, *cells.column_names, RAW_TEXT]
    rows = pa.table(columns, names)
    if len(damaged):
        rows = pa.concat_tables([rows, damaged], promote_options="default").combine_chunks()
    return rows.replace_schema_metadata({_HEADER: json.dumps(list(header))})


def row_data(rows: pa.Table | pa.RecordBatch) -> pa.StringArray:
    """Return the JSON text of each of some `source_rows`."""
    cells = rows.select(
        [name for name in rows.schema.names if name not in (ROW_NUMBER, RAW_TEXT, INVOICE_NUMBER)]
    )
    texts = as_json(cells, json.loads(rows.schema.metadata[_HEADER]))
    raw = as_text(rows[RAW_TEXT])
    if raw.null_count == len(raw):
        return texts
    return pc.if_else(pc.is_null(raw), texts, as_json(pa.table([raw], [RAW_TEXT]), [RAW_TEXT]))


def raw_text(kept: str) -> str:
    """Return SQL for the text of a record that has no cells, null of any other, of which a column may be called so.

    Args:
        kept: SQL for what `row_data` has kept.
    """
    return f"CASE WHEN {kept} - '{RAW_TEXT}' = '{{}}' THEN {kept}->>'{RAW_TEXT}' END"


def _in(row_numbers: pa.Array, wanted: pa.Array) -> pa.BooleanArray | None:
    """Return which rows are wanted, None when all of them are: then no cell has to move."""
    found = pc.is_in(row_numbers, value_set=wanted)
    return None if pc.all(found).as_py() else found


def _damaged_rows(chunk: TextChunk, wanted: pa.Array) -> pa.Table:
    numbers = pa.array([row.row_number for row in chunk.damaged], pa.int64())
    texts = pa.array([row.raw_text for row in chunk.damaged], pa.string())
    return pa.table([numbers, texts], [ROW_NUMBER, RAW_TEXT]).filter(pc.is_in(numbers, value_set=wanted))


def _complete(columns: list[pa.StringArray], keys: list[str], rows: int) -> pa.StringArray:
    """Join everything at once: `{"key": "`, cell, `", "key": "`, cell ... `"}`."""
    if not columns:
        return pa.repeat(pa.scalar("{}"), rows)
    befores = [
        f'{before}{key}: "' for before, key in zip(["{", *['", '] * (len(keys) - 1)], keys, strict=True)
    ]
    cells = [_escaped(column) for column in columns]
    pieces = [piece for pair in zip(befores, cells, strict=True) for piece in pair]
    texts = pc.binary_join_element_wise(*pieces, '"}', "", null_handling="replace", null_replacement=_ABSENT)
    return _with_nulls(texts, befores, cells) if any(column.null_count for column in cells) else texts


def _with_nulls(texts: pa.StringArray, befores: list[str], cells: list[pa.StringArray]) -> pa.StringArray:
    """Write `null` over each absent cell and its quotation marks: it is as long, so that no text moves."""
    _, offsets, data = texts.buffers()
    written = np.frombuffer(data, np.uint8).copy()
    at = np.frombuffer(offsets, np.int32)[: len(texts)].astype(np.int64)
    for before, column in zip(befores, cells, strict=True):
        at += len(before.encode())
        if column.null_count:
            quoted = at[pc.is_null(column).to_numpy(zero_copy_only=False)] - 1
            written[quoted[:, np.newaxis] + np.arange(len(_NULL))] = _NULL
            lengths = pc.fill_null(pc.binary_length(column), len(_ABSENT))
        else:
            lengths = pc.binary_length(column)
        at += lengths.to_numpy()
    return pa.StringArray.from_buffers(len(texts), offsets, pa.py_buffer(written))


def _sparse(columns: list[pa.StringArray], keys: list[str], rows: int) -> pa.StringArray:
    """Join the members of the cells that are not empty, each with a comma before it; cut the first comma."""
    used = [(key, column) for key, column in zip(keys, columns, strict=True) if column.null_count < rows]
    if not used:
        return pa.nulls(rows, pa.string())
    members = [
        pc.binary_join_element_wise(f', {key}: "', _escaped(_without_empty(column)), '"', "")
        for key, column in used
    ]
    # `null_handling="skip"` would drop a row of which all members are null.
    joined = pc.binary_join_element_wise(*members, "", null_handling="replace", null_replacement="")
    return pc.binary_join_element_wise("{", _without_empty(pc.utf8_slice_codeunits(joined, 2)), "}", "")


def _without_empty(texts: pa.StringArray) -> pa.StringArray:
    empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(empty, None, texts) if pc.any(empty).as_py() else texts


def _escaped(texts: pa.StringArray) -> pa.StringArray:
    """Escape what JSON does not take; only characters that occur cost a pass."""
    data, _ = bytes_of(texts)
    whole = data.tobytes()
    if not whole or (data.min() >= ord(" ") and b'"' not in whole and b"\\" not in whole):
        return texts
    special = data[(data < 0x20) | (data == ord('"')) | (data == ord("\\"))]
    found = set(np.unique(special).tolist())
    for byte in _SPECIAL:
        if byte in found:
            texts = pc.replace_substring(texts, chr(byte), _escape(chr(byte)))
    return texts


def _escape(character: str) -> str:
    return REPLACEMENT if character == "\0" else json.dumps(character)[1:-1]


def _quoted(name: str) -> str:
    """Return a key as a JSON string; half of a surrogate pair is no text and becomes a question mark."""
    text = name.encode("utf-8", "replace").decode("utf-8").replace("\0", REPLACEMENT)
    return json.dumps(text, ensure_ascii=False)
