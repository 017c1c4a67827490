"""A draft of a profile, written from a file that a new sender has sent.

What is certain stands in it as a profile states it; what only looks so stands behind a `#` for a person to
decide, and what nobody knows is listed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.contract import Kind
from bulk_upload_pipeline.inbox import found_file
from bulk_upload_pipeline.model import Overrides
from bulk_upload_pipeline.parse import date_order_of
from bulk_upload_pipeline.parsing.cells import as_text
from bulk_upload_pipeline.parsing.numerals import Notation, read_number
from bulk_upload_pipeline.profiles import lay_over, normalised
from bulk_upload_pipeline.read import read_chunks
from bulk_upload_pipeline.recognise import recognise_by
from bulk_upload_pipeline.recognising.headers import HeaderFinder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bulk_upload_pipeline.model import Layout, TextChunk
    from bulk_upload_pipeline.profiles import DateOrder, HeaderMatch, Profiles

_CHUNK_ROWS, _CHUNKS = 10_000, 20
"""Rows that are looked at to see how the sender writes dates and numbers: the first 200,000."""

_ALSO_CALLED = {
    "invoice_number": (
        "Bill No",
        "Bill Number",
        "Inv No",
        "Voucher No",
        "Document No",
        "Invoice",
        "Invoice #",
    ),
    "invoice_date": ("Bill Date", "Inv Date", "Voucher Date", "Document Date", "Date"),
    "customer_name": ("Customer", "Party", "Party Name", "Buyer", "Client", "Shop", "Shop Name", "Bill To"),
    "quantity": ("Qty", "Qnty", "Pcs", "Units", "Nos"),
    "item_price": ("Price", "Unit Rate", "Cost", "Selling Price"),
    "item_total": ("Line Total", "Net Amount", "Value", "Gross Amount"),
    "item_name": ("Item", "Product", "Product Name", "Particulars", "Goods", "Material"),
    "sku": ("Item Code", "Product Code", "Article", "Article No", "Material Code", "HSN"),
    "sales_person": ("Sales Rep", "Representative", "Agent"),
    "usage_unit": ("UOM", "Unit"),
}
"""Names that are often, but not always, meant so: they are suggested in a draft and never read."""

_FLOAT = re.compile(r"[0-9]+\.0")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a file shows of its sender.

    Attributes:
        columns: Canonical columns with the header cell that is a known name of theirs.
        suggested: Canonical columns with a header cell that looks like theirs.
        twice: Canonical columns with two header cells that are known names of theirs.
        missing: Required columns that have no known name in the header.
        unknown: Header cells that go to `extra`.
    """

    name: str
    file_name: str
    columns: dict[str, str]
    suggested: dict[str, str]
    twice: dict[str, tuple[str, str]]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    encoding: str | None
    delimiter: str | None
    date_order: DateOrder | None
    decimal_comma: bool
    float_identifiers: tuple[str, ...]


class _AnyHeader(HeaderFinder):
    """Finds headers, and leaves it to a person what they lack."""

    def refuse(self, match: HeaderMatch, names: Sequence[str]) -> None:
        """Refuse none."""


def draft_profile(
    path: Path, profiles: Profiles, *, name: str | None = None, stated: Overrides | None = None
) -> Draft:
    """Return what a file shows of its sender.

    Args:
        path: The file.
        profiles: The known senders, whose header names are known.
        name: The profile's name; by default it is made of the file's.
        stated: What a person states about the file.

    Raises:
        UnreadableError: The file is no table.
        FileMissingError: There is no such file.
    """
    found_file(path)
    finder = _AnyHeader(profiles, None)
    layout = recognise_by(finder, path, stated or Overrides())
    match = lay_over(layout.header, profiles.generic)
    lacking = [column for column in contract.NAMES if column not in match.mapping]
    suggested = _suggested(finder, match, layout.header, lacking)
    names = {column: layout.header[at] for column, at in match.mapping.items()}
    likely = replace(layout, mapping={**match.mapping, **_positions(suggested, layout.header)})
    first = next(_beginning(path, likely), None)
    taken = {*names.values(), *suggested.values(), *(cell for pair in match.twice.values() for cell in pair)}
    return Draft(
        name=name or _name_of(path),
        file_name=path.name,
        columns={column: names[column] for column in contract.NAMES if column in names},
        suggested=suggested,
        twice=match.twice,
        missing=match.missing,
        unknown=tuple(cell for cell in layout.header if cell not in taken),
        encoding=layout.encoding,
        delimiter=layout.delimiter,
        date_order=date_order_of(_beginning(path, likely), likely),
        decimal_comma=first is not None and _shows_decimal_comma(first, likely),
        float_identifiers=() if first is None else _float_identifiers(first, likely),
    )


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "_", path.name.split(".")[0].lower()).strip("_")[:50] or "sender"


def _beginning(path: Path, layout: Layout) -> Iterator[TextChunk]:
    return islice(read_chunks(path, layout, _CHUNK_ROWS), _CHUNKS)


def _suggested(
    finder: HeaderFinder, match: HeaderMatch, header: Sequence[str], lacking: Sequence[str]
) -> dict[str, str]:
    """Return header cells that look like a column's name, or are often meant so."""
    near = finder.near_misses(match, header, lacking)
    used = {*(header[at] for at in match.mapping.values()), *near.values()}
    free = {normalised(cell): cell for cell in header if cell not in used}
    for column, names in _ALSO_CALLED.items():
        cells = [free[key] for key in map(normalised, names) if key in free]
        if column in lacking and column not in near and cells:
            near[column] = cells[0]
            free = {key: cell for key, cell in free.items() if cell != cells[0]}
    return near


def _positions(cells: dict[str, str], header: Sequence[str]) -> dict[str, int]:
    return {column: header.index(cell) for column, cell in cells.items()}


def _distinct(chunk: TextChunk, at: int) -> list[str]:
    return as_text(chunk.cells[str(at)]).unique().drop_null().to_pylist()


def _shows_decimal_comma(chunk: TextChunk, layout: Layout) -> bool:
    """Return whether more texts of the amounts are numbers with a decimal comma than with a point."""
    if layout.file_format != "csv":
        return False
    amounts = (at for name, at in layout.mapping.items() if contract.BY_NAME[name].kind is Kind.AMOUNT)
    texts = [text for at in amounts for text in _distinct(chunk, at)]
    read = {n: sum(not isinstance(read_number(t, n), str) for t in texts) for n in Notation}
    return read[Notation.COMMA] > read[Notation.POINT]


def _float_identifiers(chunk: TextChunk, layout: Layout) -> tuple[str, ...]:
    """Return the identifiers of which every value is a whole number with `.0` behind it."""
    identifiers = {n: at for n, at in layout.mapping.items() if contract.BY_NAME[n].identifier}
    texts = {name: _distinct(chunk, at) for name, at in identifiers.items()}
    return tuple(name for name, found in texts.items() if found and all(map(_FLOAT.fullmatch, found)))


def as_toml(draft: Draft) -> str:
    """Return a draft as the text of a profile's file."""
    lines = [
        f"# Drafted from the file {_quoted(draft.file_name)}. What stands behind a `#` is for you to decide.",
        f"name = {_quoted(draft.name)}",
        f"title = {_quoted(draft.file_name)}",
        *_stated(draft),
        "",
        "[columns]",
        *(f"{column} = [{_quoted(cell)}]" for column, cell in draft.columns.items()),
        *(
            f"# {column} = [{_quoted(cell)}]  # looks like it: take the first # away if it is"
            for column, cell in draft.suggested.items()
        ),
        *(
            f"# {column}: {_quoted(first)} and {_quoted(second)} mean the same; name the one that counts"
            for column, (first, second) in draft.twice.items()
        ),
        *(
            f"# {column}: required, and no column of the file has a known name of it"
            for column in draft.missing
            if column not in draft.suggested
        ),
    ]
    if draft.unknown:
        lines += ["", "# Kept in `extra`, as nobody knows them: " + ", ".join(map(_quoted, draft.unknown))]
    return "\n".join(lines) + "\n"


def _stated(draft: Draft) -> Iterator[str]:
    if draft.encoding == "utf-8":
        yield '# encoding = "utf-8"  # seen in this file, and recognised by itself'
    elif draft.encoding:
        yield f"encoding = {_quoted(draft.encoding)}"
    if draft.delimiter:
        yield f"delimiter = {_quoted(draft.delimiter)}"
    if draft.date_order:
        yield f"date_order = {_quoted(draft.date_order)}  # every date that shows an order shows this one"
    else:
        yield '# date_order = "dmy"  # no date of the file shows whether the day or the month stands first'
    if draft.decimal_comma:
        yield "decimal_comma = true"
    if draft.float_identifiers:
        yield f"float_identifiers = [{', '.join(map(_quoted, draft.float_identifiers))}]"


def _quoted(text: str) -> str:
    """Return a text as TOML's basic string, which escapes as JSON does, and DEL besides."""
    sound = text.encode("utf-8", "backslashreplace").decode()
    return json.dumps(sound, ensure_ascii=False).replace("\x7f", "\\u007f")
