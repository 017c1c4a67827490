"""`load` and `check`: files through the line, for real or for the verdict only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bulk_upload_pipeline import storage, terminal
from bulk_upload_pipeline.commands.frame import (
    EXIT_CODES,
    FILE,
    as_json,
    list_of_facts,
    refuse_to_go_on,
    stating_options,
)
from bulk_upload_pipeline.exceptions import (
    CorrectionNotJudgedError,
    FileMissingError,
    SeveralFilesError,
    UnreadableError,
)
from bulk_upload_pipeline.model import Overrides, State, counted
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bulk_upload_pipeline.checking import Checked
    from bulk_upload_pipeline.defs.session import Session
    from bulk_upload_pipeline.model import Receipt


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@stating_options
@click.option("--force", is_flag=True, help="Load even what was loaded before; equal rows stay unchanged.")
@as_json
def load(files: Sequence[Path], force: bool, as_json: bool, **stated: Any) -> None:
    """Take FILES through the line now. They stay where they are; a copy goes to the archive."""
    from bulk_upload_pipeline import report
    from bulk_upload_pipeline.defs.session import session as open_session

    codes: list[int] = []
    with list_of_facts(as_json=as_json) as facts, open_session(read_settings()) as session:
        for path in files:
            try:
                for receipt in _load(session, path, Overrides(**stated, force=force), as_json=as_json):
                    facts.append(report.as_json(receipt))
                    codes.append(EXIT_CODES.get(receipt.state, 3))
                    refuse_to_go_on(receipt)
            except FileMissingError as error:
                codes.append(_missing(error))
    sys.exit(max(codes))


def _load(session: Session, path: Path, stated: Overrides, *, as_json: bool) -> Iterator[Receipt]:
    """Load a file and, of a .zip, each file in it; show and yield what became of each as soon as it has ended."""
    with terminal.progress_bar(path.name, quiet=as_json) as listener:
        receipt = session.load(path, stated, listener)
    yield _shown(session, receipt, as_json=as_json)
    for member in receipt.layout.get("members", ()):
        with terminal.progress_bar(member, quiet=as_json) as listener:
            receipt = session.run(member, listener)
        yield _shown(session, receipt, as_json=as_json)


def _shown(session: Session, receipt: Receipt, *, as_json: bool) -> Receipt:
    if not as_json:
        terminal.print_receipt(receipt, str(session.line.reports(receipt.batch_id)))
    return receipt


def _missing(error: FileMissingError) -> int:
    """Say that a file is not there, and return its exit code: the other files are taken all the same."""
    terminal.complain(str(error))
    return error.exit_code


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@stating_options
@as_json
def check(files: Sequence[Path], as_json: bool, **stated: Any) -> None:
    """Say what a load of FILES would come to by their content alone, without loading anything.

    It asks no database: a file that is loaded already is judged like a new one, of which `load` would make a
    duplicate, and a correction cannot be judged.
    """
    codes: list[int] = []
    with list_of_facts(as_json=as_json) as facts:
        for path in files:
            try:
                for found, code in _check_all(path, Overrides(**stated), as_json=as_json):
                    facts.append(found)
                    codes.append(code)
            except FileMissingError as error:
                codes.append(_missing(error))
    sys.exit(max(codes))


def _check_all(path: Path, stated: Overrides, *, as_json: bool) -> list[tuple[dict[str, Any], int]]:
    """Return the verdict on a file, or on each file of a .zip."""
    from bulk_upload_pipeline.members import unpacked_members

    try:
        return [_check(path, path.name, stated, as_json=as_json)]
    except SeveralFilesError:
        try:
            with unpacked_members(path) as members:
                return [
                    _check(content, f"{path.name}/{name}", stated, as_json=as_json)
                    for name, content in members
                ]
        except UnreadableError as error:
            return [_unreadable(path.name, error, as_json=as_json)]


def _unreadable(name: str, error: UnreadableError, *, as_json: bool) -> tuple[dict[str, Any], int]:
    import dataclasses

    from bulk_upload_pipeline.closing import why_unreadable

    if not as_json:
        terminal.say(f"{name}  unreadable  {why_unreadable(error.finding)}")
    return {"file": name, "state": "unreadable", "finding": dataclasses.asdict(error.finding)}, 2


def _check(path: Path, name: str, stated: Overrides, *, as_json: bool) -> tuple[dict[str, Any], int]:
    """Return the verdict on one file as plain values, and the exit code that a load would have."""
    import dataclasses

    from bulk_upload_pipeline.checking import check as judged

    try:
        with (
            storage.opened(read_settings()) as settings,
            terminal.progress_bar(name, quiet=as_json) as listener,
        ):
            checked = judged(settings, path, stated, on_progress=listener)
    except UnreadableError as error:
        return _unreadable(name, error, as_json=as_json)
    except CorrectionNotJudgedError as error:
        if not as_json:
            terminal.say(f"{name}  not judged  {error}")
        return {"file": name, "state": "not judged", "reason": str(error)}, error.exit_code
    verdict = checked.verdict
    state = _state_of(verdict.rows_rejected, tripped=verdict.breaker_tripped)
    if not as_json:
        _tell(name, state, checked)
    facts = {"file": name, "state": state, **dataclasses.asdict(verdict), "findings": checked.findings}
    facts["beside"] = checked.beside
    return facts, EXIT_CODES[state]


def _tell(name: str, state: State, checked: Checked) -> None:
    verdict = checked.verdict
    terminal.say(
        f"{name}  would be {state}  {counted(verdict.rows_read, 'row')} read, {verdict.rows_valid:,} good, "
        f"{verdict.rows_rejected:,} rejected, {counted(verdict.warnings, 'warning')}"
    )
    if checked.beside:
        terminal.say(checked.beside)
    terminal.print_findings(checked.findings)
    if more := sum(verdict.findings_by_code.values()) - len(checked.findings):
        terminal.say(f"  and {counted(more, 'finding')} more, which a load lists in its report.")


def _state_of(rejected: int, *, tripped: bool) -> State:
    if tripped:
        return State.REJECTED
    return State.PARTIALLY_LOADED if rejected else State.LOADED
