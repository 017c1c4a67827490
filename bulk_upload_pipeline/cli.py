"""`bulk-upload`, for people at a terminal.

Exit codes: 0 loaded, 1 some rows rejected, 2 the file or the command is at fault, 3 the system failed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.exceptions import BulkUploadError, UnreadableError
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from bulk_upload_pipeline.line import Line

EXIT_CODES = {
    State.LOADED: 0,
    State.DUPLICATE: 0,
    State.PARTIALLY_LOADED: 1,
    State.REJECTED: 2,
    State.UNREADABLE: 2,
    State.WAITING: 3,
    State.FAILED: 3,
}

FILE = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")


class Commands(click.Group):
    """A group that ends each known error as one sentence and its exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BulkUploadError as error:
            terminal.complain(str(error))
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bulk-upload-pipeline")
def main() -> None:
    """Load invoice files into PostgreSQL, every row accounted for."""


@contextmanager
def _line(*, quiet: bool = True) -> Generator[Line]:
    """Yield the line over this home's databases, brought up to date; PostgreSQL is started when it must be."""
    from bulk_upload_pipeline import local
    from bulk_upload_pipeline.database import make_engine, migrate
    from bulk_upload_pipeline.line import Line

    settings = read_settings()
    settings.home.make()
    with local.postgres(settings) as urls:
        migrate(urls.invoices)
        engine = make_engine(urls.invoices)
        try:
            yield Line(settings, engine)
        finally:
            engine.dispose()


def _stating_options(command: Any) -> Any:
    """Add the options that state what would otherwise be recognised."""
    for option in (
        click.option("--sheet", help="Excel: the sheet to read."),
        click.option("--delimiter", help="The character between two cells."),
        click.option("--encoding", help="The text's encoding, such as utf-8 or cp1252."),
        click.option("--profile", help="The sender's profile."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@_stating_options
@click.option("--force", is_flag=True, help="Load even what was loaded before; equal rows stay unchanged.")
@as_json
def load(files: Sequence[Path], force: bool, as_json: bool, **stated: Any) -> None:
    """Take FILES through the line now. They stay where they are; a copy goes to the archive."""
    from bulk_upload_pipeline import report
    from bulk_upload_pipeline.defs.session import session as open_session

    receipts = []
    with open_session(read_settings()) as session:
        for path in files:
            with terminal.progress_bar(path.name, quiet=as_json) as listener:
                receipt = session.load(path, Overrides(**stated, force=force), listener)
            receipts.append(receipt)
            if not as_json:
                terminal.print_receipt(receipt, str(session.line.reports(receipt.batch_id)))
    if as_json:
        terminal.print_json([report.as_json(receipt) for receipt in receipts])
    sys.exit(max(EXIT_CODES.get(receipt.state, 3) for receipt in receipts))


@main.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@_stating_options
@as_json
def check(files: Sequence[Path], as_json: bool, **stated: Any) -> None:
    """Say what a load of FILES would come to, without loading anything."""
    results = [_check(path, Overrides(**stated), as_json=as_json) for path in files]
    if as_json:
        terminal.print_json([facts for facts, _ in results])
    sys.exit(max(code for _, code in results))


def _check(path: Path, stated: Overrides, *, as_json: bool) -> tuple[dict[str, Any], int]:
    """Return the verdict on one file as plain values, and the exit code that a load would have."""
    import dataclasses

    from bulk_upload_pipeline import line

    try:
        with terminal.progress_bar(path.name, quiet=as_json) as listener:
            checked = line.check(read_settings(), path, stated, on_progress=listener)
    except UnreadableError as error:
        if not as_json:
            terminal.say(f"{path.name}  unreadable  {error}")
        return {"file": path.name, "state": "unreadable", "finding": dataclasses.asdict(error.finding)}, 2
    verdict = checked.verdict
    state = _state_of(verdict.rows_rejected, tripped=verdict.breaker_tripped)
    if not as_json:
        terminal.say(
            f"{path.name}  would be {state}  {verdict.rows_read:,} rows read, {verdict.rows_valid:,} good, "
            f"{verdict.rows_rejected:,} rejected, {verdict.warnings:,} warnings"
        )
        terminal.print_findings(checked.findings)
    facts = {"file": path.name, "state": state, **dataclasses.asdict(verdict), "findings": checked.findings}
    return facts, EXIT_CODES[state]


def _state_of(rejected: int, *, tripped: bool) -> State:
    if tripped:
        return State.REJECTED
    return State.PARTIALLY_LOADED if rejected else State.LOADED


@main.command()
@click.argument("batch", required=False)
@click.option("--limit", default=50, show_default=True, help="How many batches to list.")
@as_json
def status(batch: str | None, limit: int, as_json: bool) -> None:
    """List the batches, or tell everything about one BATCH."""
    from bulk_upload_pipeline import ledger, rejects, report

    with _line() as line:
        if batch is None:
            receipts = ledger.receipts(line.engine, limit=limit)
            if as_json:
                terminal.print_json([report.as_json(receipt) for receipt in receipts])
            else:
                terminal.print_receipts(receipts)
            return
        receipt = ledger.receipt(line.engine, batch)
        if as_json:
            terminal.print_json(report.as_json(receipt))
        else:
            terminal.print_account(receipt, rejects.by_code(line.engine, batch))


@main.command()
@click.argument("batch")
@click.option("--csv", "csv_path", type=FILE, help="Write the rejected rows there, to be corrected.")
@as_json
def errors(batch: str, csv_path: Path | None, as_json: bool) -> None:
    """Show the findings of BATCH by code, with an example each."""
    import dataclasses

    from bulk_upload_pipeline import ledger, rejects

    with _line() as line:
        receipt = ledger.receipt(line.engine, batch)
        codes = rejects.by_code(line.engine, batch)
        if csv_path is not None:
            rejects.write_rejected(line.engine, batch, receipt.layout.get("header", ()), csv_path)
    if as_json:
        terminal.print_json([dataclasses.asdict(code) for code in codes])
    else:
        terminal.print_codes(codes)


@main.command()
@click.argument("code", required=False)
@as_json
def explain(code: str | None, as_json: bool) -> None:
    """Say what a finding CODE means and how to fix it; without a code, list them all."""
    import dataclasses

    entries = list(CATALOGUE.values()) if code is None else [_entry(code)]
    if as_json:
        terminal.print_json([dataclasses.asdict(entry) for entry in entries])
    elif code is None:
        terminal.print_catalogue(entries)
    else:
        terminal.print_entry(entries[0])


def _entry(code: str) -> Any:
    from difflib import get_close_matches

    known = code.upper().replace("-", "_").replace(" ", "_")
    if known in CATALOGUE:
        return CATALOGUE[known]
    near = get_close_matches(known, CATALOGUE, n=1)
    hint = f" Did you mean {near[0]}?" if near else " `bulk-upload explain` lists them."
    raise click.UsageError(f"There is no finding {code!r}.{hint}")


@main.command()
@click.argument("file", type=FILE)
@click.option("--rows", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--profile", default="zoho", show_default=True, type=click.Choice(["zoho", "distributor"]))
@click.option(
    "--dirty", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share of faulty rows."
)
@click.option("--seed", default=1, show_default=True, help="The same seed writes the same file.")
@as_json
def sample(file: Path, rows: int, profile: str, dirty: float, seed: int, as_json: bool) -> None:
    """Write a realistic FILE of invoice lines, clean or with faults."""
    from collections import Counter

    from bulk_upload_pipeline.sample import write_sample

    manifest = write_sample(file, rows=rows, profile=profile, dirty=dirty, seed=seed)
    faults = Counter(code for code, _ in manifest.faults.values())
    if as_json:
        terminal.print_json({"file": str(file), "rows": manifest.rows, "faults": dict(faults.most_common())})
    else:
        told = ", ".join(f"{count:,} {code}" for code, count in faults.most_common())
        terminal.say(f"{file}: {manifest.rows:,} rows" + (f", of which faulty: {told}" if told else ""))


@main.group()
def db() -> None:
    """The database: bring it up to date, see what does not fit, or find it."""


@contextmanager
def _invoices() -> Generator[str]:
    """Yield the URL of the invoices' database as it is; a server that the settings name is only used."""
    from bulk_upload_pipeline import local

    settings = read_settings()
    if settings.database_url:
        yield settings.database_url
        return
    settings.home.make()
    with local.postgres(settings) as urls:
        yield urls.invoices


@db.command("upgrade")
@click.option("--dry-run", is_flag=True, help="Print the SQL, and change nothing.")
@as_json
def db_upgrade(dry_run: bool, as_json: bool) -> None:
    """Bring the tables up to date (`up` and `load` do it by themselves). Safe to run twice.

    Tables of the old system are moved over, too, with every row: only this command does that.
    """
    from bulk_upload_pipeline import upgrade
    from bulk_upload_pipeline.database import address

    with _invoices() as url:
        shown = address(url)
        if dry_run:
            script = upgrade.script(url)
            terminal.print_json({"database": shown, "sql": script}) if as_json else terminal.say(script)
            return
        steps: list[str] = []
        upgrade.upgrade(url, on_step=steps.append if as_json else lambda why: terminal.say(f"{why} ..."))
    if as_json:
        terminal.print_json({"database": shown, "up_to_date": True, "steps": steps})
    else:
        terminal.say(f"{shown} is up to date.")


@db.command("check")
@as_json
def db_check(as_json: bool) -> None:
    """List what in the database does not fit the contract; exit code 1 when there is any. Changes nothing."""
    import dataclasses

    from bulk_upload_pipeline import misfits

    with _invoices() as url:
        found = misfits.find(url)
    if as_json:
        terminal.print_json([dataclasses.asdict(misfit) for misfit in found])
    else:
        terminal.print_misfits(found)
    sys.exit(1 if found else 0)


@db.command("url")
def db_url() -> None:
    """Print the URL of the invoices' database, for psql and notebooks."""
    with _line() as line:
        url = line.engine.url.set(drivername="postgresql")
        terminal.say(url.render_as_string(hide_password=False))


@main.command()
@click.option("--sample", "with_sample", is_flag=True, help="Drop some sample files in the inbox first.")
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Of Dagster's UI."
)
def up(with_sample: bool, port: int) -> None:
    """Start everything here: PostgreSQL, Dagster with its UI, the inbox. Ctrl-C stops all of it."""
    from bulk_upload_pipeline import watch

    watch.up(read_settings(), port, with_sample=with_sample)


if __name__ == "__main__":
    main()
