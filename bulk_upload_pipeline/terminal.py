"""How things look at a terminal: colours and a progress bar there, plain lines elsewhere, JSON on demand."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from bulk_upload_pipeline import report
from bulk_upload_pipeline.exceptions import OutputLostError
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import State, counted, on_one_line, where_in_words
from bulk_upload_pipeline.pace import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from bulk_upload_pipeline.findings import Entry
    from bulk_upload_pipeline.model import CodeCount, Progress, Receipt
    from bulk_upload_pipeline.upgrading.misfits import Misfit

COLOURS = {
    State.LOADED: "green",
    State.PARTIALLY_LOADED: "yellow",
    State.REJECTED: "red",
    State.UNREADABLE: "red",
    State.DUPLICATE: "cyan",
    State.UNPACKED: "cyan",
    State.FAILED: "bold red",
    State.REVERTED: "magenta",
}

WIDEST_LISTING = 220
"""Characters of a line of `status`, which a narrow terminal wraps by itself."""


def console() -> Console:
    """Return where results go: standard output."""
    return Console(soft_wrap=True, highlight=False)


def error_console() -> Console:
    """Return where errors and progress go: standard error."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_json(value: object) -> None:
    """Print a value as JSON, two spaces deep."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    if not _takes(text):
        text = json.dumps(value, indent=2, default=str)
    console().print(text, markup=False, emoji=False)


def spell_out() -> None:
    """Let standard output spell out what its encoding lacks, instead of ending a command that has done its work."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _takes(text: str) -> bool:
    """Return whether standard output has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def say(line: str) -> None:
    """Print a line, which stays one whatever a file name has in it."""
    console().print(on_one_line(line), markup=False, emoji=False)


def mention(line: str) -> None:
    """Print a line for whoever watches: what runs does not end because nobody can, be it that a disk is full."""
    with suppress(OutputLostError):
        say(line)


def say_text(text: str) -> None:
    """Print text of several lines, each of which holds nothing that would end it."""
    for line in text.splitlines():
        say(line)


def complain(sentence: str) -> None:
    """Print an error to standard error."""
    error_console().print(on_one_line(sentence), style="red", markup=False, emoji=False)


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Generator[Callable[[Progress], None]]:
    """Show how far something is for the length of the block.

    Args:
        title: The file's name.
        quiet: Show nothing, for JSON.

    Yields:
        What is to be called with each `Progress`.
    """
    out = error_console()
    if quiet:
        yield lambda _: None
    elif not out.is_terminal:
        yield lambda progress: out.print(on_one_line(f"{title}: {in_words(progress)}"), markup=False)
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Bar(*columns, TextColumn("{task.fields[words]}"), console=out, transient=True) as bar:
            task = bar.add_task(escape(on_one_line(title)), total=None, words="starting")
            yield lambda progress: bar.update(
                task, total=100, completed=progress.percent or 0, words=in_words(progress)
            )


def print_receipt(receipt: Receipt, folder: str) -> None:
    """Print what became of a file, in two or three lines."""
    out = console()
    state = f"[{COLOURS.get(receipt.state, 'white')}]{receipt.state}[/]"
    out.print(f"{escape(on_one_line(receipt.file_name))}  {state}  {escape(on_one_line(receipt.reason))}")
    rates = f", {_rate(receipt):,.0f} rows/s" if _rate(receipt) else ""
    out.print(
        f"  batch {receipt.batch_id}: {receipt.rows_read:,} read, {receipt.rows_inserted:,} inserted, "
        f"{receipt.rows_updated:,} updated, {receipt.rows_unchanged:,} unchanged, {receipt.rows_rejected:,} "
        f"rejected, {receipt.rows_unprocessed:,} not loaded{rates}"
    )
    out.print(f"  report {escape(folder)}", markup=True)


def _rate(receipt: Receipt) -> float:
    """Return the rows a second of a load; an undone one has none."""
    if receipt.state is State.REVERTED or receipt.started_at is None or receipt.finished_at is None:
        return 0.0
    seconds = (receipt.finished_at - receipt.started_at).total_seconds()
    return receipt.rows_read / seconds if seconds > 0 else 0.0


def print_receipts(receipts: Sequence[Receipt]) -> None:
    """Print one line a batch, however narrow the terminal is: a batch id must be whole to be copied."""
    counts = ("read", "loaded", "corrected", "rejected")
    table = Table("received (UTC)", "state", *counts, "batch", "file", box=None)
    for receipt in receipts:
        loaded = receipt.rows_inserted + receipt.rows_updated + receipt.rows_unchanged
        table.add_row(
            f"{receipt.received_at:%Y-%m-%d %H:%M:%S}",
            f"[{COLOURS.get(receipt.state, 'white')}]{receipt.state}[/]",
            f"{receipt.rows_read:,}",
            f"{loaded:,}",
            f"{receipt.rows_corrected:,}",
            f"{receipt.rows_open:,}",
            receipt.batch_id,
            escape(on_one_line(receipt.file_name)[:60]),
        )
    out = console()
    out.width = max(out.width, WIDEST_LISTING)
    out.print(table if receipts else "No batch yet. Drop a file in the inbox, or `bulk-upload load FILE`.")


def print_account(receipt: Receipt, codes: Iterable[CodeCount]) -> None:
    """Print everything about one batch."""
    say_text(report.in_words(receipt, codes))


def print_codes(codes: Sequence[CodeCount]) -> None:
    """Print findings by code, with an example each."""
    for code in codes:
        entry = CATALOGUE[code.code]
        row = f"{code.where}: " if code.where else ""
        say(f"{code.count:>9,}  {code.code} ({code.severity})  {entry.title}")
        say(f"{'':11}{row}{code.example}")
    if not codes:
        say("No findings.")


def print_findings(findings: Iterable[Mapping[str, Any]]) -> None:
    """Print single findings, in file order."""
    for finding in findings:
        where = where_in_words(finding["row_number"], finding.get("sheet"), finding.get("sheet_row"))
        say(f"  {where}  {finding['error_code']}  {finding['error_message']}")


def print_entry(entry: Entry) -> None:
    """Print an entry of the catalogue."""
    where = "a whole file" if entry.whole_file else "a row"
    say_text(f"{entry.code}: {entry.title} ({entry.severity}, about {where})\n\n")
    say_text(f"{entry.explanation}\n\nFor example: {entry.example}\nWhat to do:  {entry.fix}")


def print_catalogue(entries: Iterable[Entry]) -> None:
    """Print code, severity and title of every entry."""
    listed = list(entries)
    widest = max(len(entry.code) for entry in listed)
    for entry in listed:
        say(f"{entry.code:<{widest}} {entry.severity:<8} {entry.title}")


def print_misfits(misfits: Sequence[Misfit]) -> None:
    """Print what in the database does not fit, each with some examples."""
    if not misfits:
        say("Everything fits.")
    for misfit in misfits:
        rows = f"{counted(misfit.rows, 'row')}: " if misfit.rows else ""
        where = f" {misfit.column}" if misfit.column else ""
        say(f"{misfit.code}{where}  {rows}{misfit.message}")
        for example in misfit.examples:
            say(f"    {example}")


def print_columns(columns: Iterable[Mapping[str, Any]]) -> None:
    """Print name, type and rule of each column of the contract."""
    for column in columns:
        must = "required" if column["required"] else ""
        say(f"{column['name']:<22} {column['type']:<14} {must:<9} {column['rule']}")


def print_profile_keys(keys: Iterable[Mapping[str, str]]) -> None:
    """Print what each key of a profile takes and means."""
    for said in keys:
        usual = f", {said['usual']} without it" if said["usual"] else ""
        say(f"{said['key']:<22} {said['meaning']} ({said['wanted']}{usual})")


def print_column(column: Mapping[str, Any]) -> None:
    """Print everything about a column of the contract."""
    must = "required" if column["required"] else "not required"
    say_text(f"{column['name']}: {column['title']} ({column['type']}, {must})\n\n{column['rule']}")
    say(f"Header names: {', '.join(column['header_names'])}")


def print_profiles(profiles: Iterable[Mapping[str, Any]]) -> None:
    """Print a line or two a profile: its name, where it is from, and what it states."""
    for profile in profiles:
        names = counted(len(profile["columns"]), "column") if profile["columns"] else "any known header names"
        say(f"{profile['name']:<20} {profile['title']} ({names}, {profile['source']})")
        states = ", ".join(f"{key} = {_in_toml(value)}" for key, value in profile["states"].items())
        if states:
            say(f"{'':<20} {states}")


def _in_toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
