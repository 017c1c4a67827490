"""The account of a batch as one page: `summary.html`, which a clerk opens from a mail or a shared folder.

The page is complete in itself and asks nothing of any server; its policy forbids scripts and loading, so that
whatever stands in a file or in its name is only ever text.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    import jinja2

    from bulk_upload_pipeline.findings import Entry
    from bulk_upload_pipeline.model import CodeCount, Receipt

TITLES = {
    State.LOADED: "Loaded",
    State.PARTIALLY_LOADED: "Loaded in part",
    State.REJECTED: "Rejected, nothing was loaded",
    State.UNREADABLE: "Could not be read",
    State.DUPLICATE: "Was loaded before",
    State.UNPACKED: "Holds several files",
    State.FAILED: "Failed, can be retried",
    State.REVERTED: "Loaded, and undone",
}
WITHOUT_ROWS = (State.UNREADABLE, State.DUPLICATE, State.UNPACKED)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the rows: a stretch of the chart and a line of its legend. Percentages are of all rows."""

    name: str
    kind: str
    rows: int
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Remark:
    """Findings of one code, with what the catalogue says of it."""

    entry: Entry
    found: CodeCount
    width: float


def page(receipt: Receipt, codes: Iterable[CodeCount], files: Collection[str]) -> str:
    """Return the page of a receipt.

    Args:
        receipt: Of a batch that has ended.
        codes: Its findings by code.
        files: Names of the files beside the page that it links to.
    """
    style = _text("summary.css")
    return _template().render(
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        receipt=receipt,
        title=TITLES[receipt.state],
        shares=_shares(receipt),
        loaded=receipt.rows_inserted + receipt.rows_updated + receipt.rows_unchanged,
        has_rows=receipt.state not in WITHOUT_ROWS,
        remarks=_remarks(list(codes)),
        totals=_totals(receipt),
        columns=_columns(receipt.layout),
        read_as=_read_as(receipt),
        files=files,
        seconds=_seconds(receipt),
    )


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": _shown, "moment": _moment, "number": "{:,}".format}
    return environment.from_string(_text("summary.html.jinja"))


@cache
def _text(name: str) -> str:
    return resources.files("bulk_upload_pipeline.reporting").joinpath("pages", name).read_text("utf-8")


def _shown(text: object) -> str:
    """Return text without characters that hide or turn other characters around: those are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _moment(time: datetime | None) -> str:
    return "" if time is None else f"{time:%d %b %Y, %H:%M:%S %Z}"


def _seconds(receipt: Receipt) -> float | None:
    if receipt.started_at is None or receipt.finished_at is None:
        return None
    return round((receipt.finished_at - receipt.started_at).total_seconds(), 1)


def _shares(receipt: Receipt) -> list[Share]:
    counts = (
        ("new", "new", receipt.rows_inserted),
        ("changed", "changed", receipt.rows_updated),
        ("unchanged", "same", receipt.rows_unchanged),
        ("corrected since", "new", receipt.rows_corrected),
        ("rejected", "rejected", receipt.rows_open),
        ("good, but not loaded", "left", receipt.rows_unprocessed),
    )
    shares: list[Share] = []
    start = 0.0
    for name, kind, rows in counts:
        width = 100 * rows / receipt.rows_read if receipt.rows_read else 0.0
        shares.append(Share(name, kind, rows, round(start, 3), round(width, 3)))
        start += width
    return [share for share in shares if share.rows]


def _remarks(codes: list[CodeCount]) -> list[Remark]:
    most = max((code.count for code in codes), default=1)
    return [Remark(CATALOGUE[code.code], code, round(100 * code.count / most, 2)) for code in codes]


def _totals(receipt: Receipt) -> list[tuple[str, str, str, str]]:
    """Return each control total: its name, as read, as loaded, and the difference."""
    read, loaded = (receipt.control_totals.get(name) for name in ("read", "loaded"))
    if not read or not loaded or receipt.state in WITHOUT_ROWS:
        return []
    names = {"quantity": "Quantity", "item_total": "Item total"}
    figures = [(title, Decimal(read[name]), Decimal(loaded[name])) for name, title in names.items()]
    return [(title, _amount(a), _amount(b), _amount(a - b)) for title, a, b in figures]


def _read_as(receipt: Receipt) -> str:
    """Return as what the file was read, and how sure that is where nothing but its letters tell its encoding."""
    if not receipt.file_format or not receipt.encoding:
        return receipt.file_format or ""
    known = receipt.layout.get("written_as") or receipt.layout
    sure = known.get("encoding_confidence", 1.0)
    then = "if some are wrong, state `encoding` in the sender's profile"
    guessed = f" (recognised by its letters, {sure:.0%} sure; {then})" if sure < 1 else ""
    return f"{receipt.file_format}, {receipt.encoding}{guessed}"


def _amount(value: Decimal) -> str:
    whole, _, decimals = f"{value:,f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _columns(layout: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the columns of the file, and as what each is loaded."""
    loaded_as = {position: name for name, position in layout.get("mapping", {}).items()}
    return [(name, loaded_as.get(at, "extra")) for at, name in enumerate(layout.get("header", ()))]
