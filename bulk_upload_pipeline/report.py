"""The receipt as files: `reports/<batch_id>/`, what a clerk reads, sorts and corrects.

* `summary.html`: the account for people, one page.
* `summary.json`: the same for programs.
* `findings.csv`: every finding, when there is one.
* `rejected_rows.csv`: the rejected rows, to be corrected and dropped in the inbox again.
* `rejected_rows.xlsx`: the same as a sheet of texts, where the rows came from a spreadsheet and are not too many.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import State, counted, on_one_line, share_in_words
from bulk_upload_pipeline.recognising.formats import SPREADSHEETS
from bulk_upload_pipeline.reporting import summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bulk_upload_pipeline.model import CodeCount, Layout, Receipt, Verdict

PAGE = "summary.html"
SUMMARY = "summary.json"
FINDINGS = "findings.csv"
REJECTED_ROWS = "rejected_rows.csv"
REJECTED_SHEET = "rejected_rows.xlsx"
MOST_TOLD = 5
"""Sheets, or rows, of which a receipt says that they were not read; the layout has all of them."""
MOST_ROWS_OF_SHEET = 100_000
"""Rejected rows up to which there is a sheet of them: a person corrects no more by hand, and writing takes time."""


def as_json(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as plain JSON values, with ISO times and exact sums as text."""
    stated = dataclasses.asdict(receipt)
    return {name: _plain(value) for name, value in stated.items()} | {"columns_to_extra": _unknown(receipt)}


def _unknown(receipt: Receipt) -> list[str]:
    """Return the columns of the file that no name is known of; their cells are kept in `extra`."""
    known = receipt.layout.get("mapping", {}).values()
    return [name for at, name in enumerate(receipt.layout.get("header", ())) if at not in known]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return f"{value:f}" if isinstance(value, Decimal) else value


def write(folder: Path, receipt: Receipt, codes: Sequence[CodeCount]) -> None:
    """Write the receipt for people into `folder`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / PAGE, summary.page(receipt, codes, files(receipt)))


def finish(folder: Path, receipt: Receipt, codes: Sequence[CodeCount]) -> None:
    """Leave only what this receipt has, and write it for programs: who finds that finds all files of it."""
    _tidy(folder, receipt)
    stated = as_json(receipt) | {"findings": [_finding(code) for code in codes]}
    _write_text(folder / SUMMARY, json.dumps(stated, indent=2, ensure_ascii=False) + "\n")


def is_finished(folder: Path, state: State, ended_at: datetime | None) -> bool:
    """Return whether the report of just the receipt of this end, and of no earlier one, was written to its end."""
    try:
        stated = json.loads((folder / SUMMARY).read_text("utf-8"))
        told = datetime.fromisoformat(stated["finished_at"])
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return stated["state"] == state and told == datetime.fromisoformat(str(_plain(ended_at)))


def files(receipt: Receipt) -> tuple[str, ...]:
    """Return the names of the files that stand beside the page of a receipt."""
    rejected: tuple[str, ...] = (REJECTED_ROWS,) if receipt.rows_open else ()
    if rejected and _to_correct(receipt.layout.get("file_format"), receipt.rows_open) == REJECTED_SHEET:
        rejected = (REJECTED_SHEET, REJECTED_ROWS)
    return (*rejected, FINDINGS) if receipt.findings_by_code or receipt.rows_corrected else rejected


def _to_correct(file_format: str | None, rows: int) -> str:
    """Return the file in which a clerk corrects rows."""
    return REJECTED_SHEET if file_format in SPREADSHEETS and rows <= MOST_ROWS_OF_SHEET else REJECTED_ROWS


def _finding(code: CodeCount) -> dict[str, Any]:
    entry = CATALOGUE[code.code]
    return dataclasses.asdict(code) | {"title": entry.title, "fix": entry.fix}


def _tidy(folder: Path, receipt: Receipt) -> None:
    """Remove files of earlier receipts that this one does not have, and what a killed process left unfinished."""
    stale = {
        folder / name for name in (FINDINGS, REJECTED_ROWS, REJECTED_SHEET) if name not in files(receipt)
    }
    for path in stale.union(folder.glob(".*")):
        path.unlink(missing_ok=True)


def withdraw(folder: Path) -> None:
    """Remove the report of an attempt that counts no more; what a clerk has put beside it stays."""
    own = [folder / name for name in (PAGE, SUMMARY, FINDINGS, REJECTED_ROWS, REJECTED_SHEET)]
    for path in (*own, *folder.glob(".*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, "utf-8", errors="backslashreplace")
    unfinished.replace(path)


def in_words(receipt: Receipt, codes: Iterable[CodeCount]) -> str:
    """Return the account of a batch as a clerk reads it."""
    lines = [
        f"{receipt.file_name}",
        "",
        receipt.reason or "It has not ended yet.",
        "",
        f"State      {receipt.state}",
        f"Batch      {receipt.batch_id}",
        *_counts(receipt),
        *([f"Kept in `extra`: {', '.join(unknown)}"] if (unknown := _unknown(receipt)) else []),
    ]
    for code in codes:
        entry = CATALOGUE[code.code]
        lines += [
            "",
            f"{entry.title} ({code.code}, {code.severity}): {code.count:,}",
            f"  {'for example ' if code.count > 1 else ''}{code.where + ': ' if code.where else ''}{code.example}",
            f"  {entry.fix}",
        ]
    return "\n".join(map(on_one_line, lines)) + "\n"


def _counts(receipt: Receipt) -> list[str]:
    if receipt.state in (State.UNREADABLE, State.DUPLICATE, State.UNPACKED):
        return []
    counts = {
        "Read": receipt.rows_read,
        "Inserted": receipt.rows_inserted,
        "Updated": receipt.rows_updated,
        "Unchanged": receipt.rows_unchanged,
        "Rejected": receipt.rows_rejected,
        **({"Corrected": receipt.rows_corrected} if receipt.rows_corrected else {}),
        "Not loaded": receipt.rows_unprocessed,
        "Warnings": receipt.warnings,
    }
    rows = [f"{name:<10} {count:>12,}" for name, count in counts.items()]
    for name, totals in receipt.control_totals.items():
        rows.append(f"Sum {name:<6} quantity {totals['quantity']}, item total {totals['item_total']}")
    return rows


def why_loaded(
    rows: int,
    rejected: int,
    corrected: int,
    codes: dict[str, int],
    file_format: str = "csv",
    standing: int = 0,
) -> str:
    """Return the sentence of a batch that is loaded, wholly or in part.

    Args:
        rows: That the batch loaded itself.
        rejected: That it did not.
        corrected: Those of the rejected rows that corrections have loaded.
        codes: Findings that are open, by code.
        file_format: That of the batch.
        standing: Those of the rejected rows that it had loaded before they were judged anew.
    """
    read, wrong = rows + rejected, rejected - corrected
    since = f", {corrected:,} of them as corrected" if corrected else ""
    if not wrong and read == 1:
        return f"Its row is loaded{', as corrected' if corrected else ''}."
    if not wrong:
        return f"All {read:,} rows are loaded{since}."
    loaded = share_in_words(rows + corrected, read, "is loaded", "are loaded")
    return (
        f"{loaded}{since}, {counted(wrong, 'is', 'are')} rejected{_most_frequent(codes)}.{_stand(standing)} Correct "
        f"{_them(wrong)} in {_to_correct(file_format, wrong)} and drop that file in the inbox."
    )


def _them(rows: int) -> str:
    return "it" if rows == 1 else "them"


def _stand(rows: int) -> str:
    if not rows:
        return ""
    told = (
        "1 of those was loaded before and is wrong by what is known today: it stays in the table as it was, until it "
        "is "
        if rows == 1
        else f"{rows:,} of those were loaded before and are wrong by what is known today: they stay in the table as "
        "they were, until they are "
    )
    first = "to correct an invoice or item number, revert first"
    return f" {told}corrected or `bulk-upload revert` undoes the load; {first}."


_NOTHING_LEFT = (
    "None of its rows could be loaded. Other files have corrected them since: nothing is left to do."
)


def why_still_wrong(verdict: Verdict, file_format: str = "csv") -> str:
    """Return the sentence of a correction of which no row is right."""
    if not verdict.rows_open:
        return _NOTHING_LEFT
    rows = verdict.rows_read
    none = "Its row is not" if rows == 1 else f"None of its {rows:,} rows is"
    return (
        f"{none} right yet{_most_frequent(verdict.findings_by_code)}. The column `_errors` says why. Correct "
        f"{_them(rows)} in {_to_correct(file_format, verdict.rows_open)} and drop that file in the inbox."
    )


def beside(layout: Layout | None) -> str:
    """Return the sentences on what of a spreadsheet is in none of its counts; none for any other file."""
    written = layout and (layout.written_as or layout)
    if written is None:
        return ""
    told = [
        _told("Not read, because laid out otherwise or hidden: sheet", written.unread_sheets),
        _told("Left out at the bottom, as totals or notes:", written.left_out),
    ]
    return " ".join(filter(None, told))


def _told(what: str, shown: Sequence[str]) -> str:
    more = f"; and {len(shown) - MOST_TOLD:,} more" if len(shown) > MOST_TOLD else ""
    return f"{what} {'; '.join(shown[:MOST_TOLD])}{more}." if shown else ""


def why_rejected(verdict: Verdict, file_format: str = "csv") -> str:
    """Return the sentence of a batch that the circuit breaker stopped."""
    if verdict.rows_valid and not verdict.breaker_tripped:
        others = counted(verdict.rows_valid, "row")
        return (
            f"So many of its rows are corrected that the other {others} may load, but its file is not in "
            f"the archive any more. Drop it again with those rows corrected: lines that are loaded stay as they are."
        )
    if not verdict.rows_open:
        return _NOTHING_LEFT
    to_correct = _to_correct(file_format, verdict.rows_open)
    since = " that are not corrected yet" if verdict.rows_corrected else ""
    rows = counted(verdict.rows_read, "row")
    have = "has" if verdict.rows_open == 1 else "have"
    return (
        f"{verdict.rows_open:,} of {rows} ({verdict.error_rate:.0%}) {have} "
        f"errors{since}{_most_frequent(verdict.findings_by_code)}, and at {verdict.max_error_rate:.0%} nothing of a "
        f"file is loaded. Is it the right file? If so, correct {_them(verdict.rows_open)} in {to_correct} and drop "
        f"that file in the inbox."
    )


def _most_frequent(codes: dict[str, int]) -> str:
    errors = {code: n for code, n in codes.items() if CATALOGUE[code].severity == "error"}
    if not errors:
        return ""
    code = max(errors, key=lambda code: errors[code])
    if sum(errors.values()) == 1:
        return f', for "{CATALOGUE[code].title}"'
    often = "most often" if list(errors.values()).count(errors[code]) == 1 else "among others"
    return f', {often} for "{CATALOGUE[code].title}" ({errors[code]:,})'
