"""The references in Markdown: what a finding means, what a column holds, what a profile says. Written from the code.

`bulk-upload explain --markdown` prints them; `reference/` keeps a copy for who reads without a terminal, and
a test compares the two.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import Severity
from bulk_upload_pipeline.profile_files import wanted_of
from bulk_upload_pipeline.profiles import Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulk_upload_pipeline.findings import Entry

_MEANINGS = {
    "name": "Its name, and that of the sender's folder in the inbox.",
    "title": "What people call the sender.",
    "columns": "For each column of an invoice line the header names that stand for it; where the "
    "file has none of them, the contract's own name does.",
    "required": "Columns that may be neither missing nor empty.",
    "date_order": "How a date in figures is read when it can be read two ways; without it, as the other dates of the "
    "file tell, else it is rejected.",
    "decimal_comma": "Whether `1.234,56` is the way of this sender, and `1,234.56` is not.",
    "float_identifiers": "Identifiers that the sender's system exports as floats: `17850.0` is read as `17850`.",
    "encoding": "The encoding of its texts, such as `utf-8` or `cp1252`; without it, it is recognised.",
    "delimiter": "The one character between two cells; without it, it is recognised.",
    "sheet": "The sheet of a spreadsheet to read; without it, those with a header of invoices.",
    "max_error_rate": "Share of rejected rows from which nothing of a file is loaded; without it, "
    "`BULK_UPLOAD_MAX_ERROR_RATE`.",
    "on_conflict": "What becomes of a line that is in the table with other values: it is updated, or left as it is, or "
    "the row of the file is rejected.",
    "total_mismatch": "Whether a total that does not agree rejects its row or is only remarked on.",
    "expected_every_hours": "A file is missed when none came for so long, and somebody is told.",
}
_EXAMPLE = (
    'name = "north"',
    'title = "Shops in the north"',
    'date_order = "dmy"',
    "",
    "[columns]",
    'invoice_number = ["Bill No"]',
)


def findings_reference() -> str:
    """Return the reference of all findings."""
    entries = list(CATALOGUE.values())
    groups = {
        "About a whole file: nothing of it is loaded": [e for e in entries if e.whole_file],
        "About a row: it is rejected, the others load": [
            e for e in entries if not e.whole_file and e.severity is Severity.ERROR
        ],
        "Remarks: the row loads": [e for e in entries if e.severity is Severity.WARNING],
    }
    lines = ["# Findings", "", "What `bulk-upload explain CODE` says of each code."]
    for title, group in groups.items():
        lines += ["", f"## {title}"]
        for entry in group:
            lines += ["", *_entry(entry)]
    return "\n".join(lines) + "\n"


def _entry(entry: Entry) -> Iterator[str]:
    yield f"### {entry.code}"
    yield ""
    yield f"**{entry.title}.** {entry.explanation}"
    yield ""
    yield f"* For example: {_code(entry.example)}"
    yield f"* What to do: {entry.fix}"


def columns_reference(profiles: Iterable[Profile]) -> str:
    """Return the reference of the contract's columns, with the header names under which `profiles` know them."""
    senders = list(profiles)
    lines = [
        "# Columns of an invoice line",
        "",
        f"The columns of the table `{contract.TARGET}`, what may stand in them, and the header names under which "
        "they are found. Names are compared without case, accents, spaces and punctuation. A column of a file "
        "that has none of these names is kept in `extra`.",
        "",
        "| column | type | required | what may stand in it | header names |",
        "|---|---|---|---|---|",
    ]
    for column in contract.COLUMNS:
        known = [f"`{column.title}`", *_aliases(column, senders)]
        cells = (
            f"`{column.name}`",
            f"`{contract.sql_type(column)}`",
            "yes" if column.required else "",
            contract.rule_in_words(column),
            ", ".join(known),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def profile_keys() -> list[dict[str, str]]:
    """Return the keys of a profile, each with what may stand there, what counts without it, and what it means."""
    return [
        {"key": key, "wanted": wanted_of(key), "usual": _usual(field), "meaning": _MEANINGS[key]}
        for key, field in Profile.__dataclass_fields__.items()
    ]


def _usual(field: dataclasses.Field[Any]) -> str:
    """Return what counts where a profile says nothing, as TOML; empty where nothing does."""
    if field.default in (dataclasses.MISSING, None, "", ()):
        return ""
    return json.dumps(field.default)


def profiles_reference() -> str:
    """Return the reference of what a profile may say."""
    lines = [
        "# Keys of a profile",
        "",
        "A profile says what differs by sender. It is a TOML file in `data/profiles/`; the folder of the same name in "
        "the inbox is its sender's. Only `name` is needed. `bulk-upload profiles suggest FILE` drafts one, "
        "`bulk-upload profiles check` says what is wrong with yours. Shipped ones: [profiles](../profiles).",
        "",
        "| key | what may stand there | without it | what it means |",
        "|---|---|---|---|",
    ]
    for said in profile_keys():
        usual = f"`{said['usual']}`" if said["usual"] else ""
        lines.append(f"| `{said['key']}` | {said['wanted']} | {usual} | {said['meaning']} |")
    return "\n".join([*lines, "", "```toml", *_EXAMPLE, "```"]) + "\n"


def _aliases(column: contract.Column, senders: list[Profile]) -> Iterator[str]:
    for sender in senders:
        for alias in sender.columns.get(column.name, ()):
            if alias != column.title:
                yield f"`{alias}` ({sender.name})"


def _code(text: str) -> str:
    """Return a cell as code where it is one, and a sentence as it is."""
    return text if text.endswith(".") or "`" in text else f"`{text}`"
