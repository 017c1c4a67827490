"""The references in Markdown: what a finding means, and what a column holds. Written from the code itself.

`bulk-upload explain --markdown` prints them; `reference/` keeps a copy for who reads without a terminal, and
a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulk_upload_pipeline.findings import Entry
    from bulk_upload_pipeline.profiles import Profile


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


def _aliases(column: contract.Column, senders: list[Profile]) -> Iterator[str]:
    for sender in senders:
        for alias in sender.columns.get(column.name, ()):
            if alias != column.title:
                yield f"`{alias}` ({sender.name})"


def _code(text: str) -> str:
    """Return a cell as code where it is one, and a sentence as it is."""
    return text if text.endswith(".") or "`" in text else f"`{text}`"
