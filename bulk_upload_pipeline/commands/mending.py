"""`retry` and `revert`: a batch again, or undone."""

from __future__ import annotations

import sys

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import EXIT_CODES, TEXT, as_json
from bulk_upload_pipeline.commands.reloading import take_again
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.settings import read_settings


@click.command()
@click.argument("batch", required=False, type=TEXT)
@click.option("--all-failed", is_flag=True, help="Every batch that failed, the oldest first.")
@as_json
def retry(batch: str | None, all_failed: bool, as_json: bool) -> None:
    """Take BATCH down the line again, from its file in the archive.

    A batch that failed goes on from what is committed. One that has ended is judged anew by the rules and profiles
    of today: rows that are good now load, and nothing is loaded twice. Rows that are loaded stay so even when they
    are wrong by now: the receipt names them, until they are corrected or `revert` undoes the load.
    """
    from bulk_upload_pipeline import ledger, whereabouts
    from bulk_upload_pipeline.defs.session import session as open_session

    if (batch is None) is not all_failed:
        raise click.UsageError("Name a batch, or give --all-failed. `bulk-upload status` lists the batches.")
    with open_session(read_settings()) as session:
        engine = session.line.engine
        batches = [batch] if batch else whereabouts.failed(engine)
        names = {batch_id: ledger.batch(engine, batch_id).file_name for batch_id in batches}
        code = take_again(session, names, as_json=as_json)
    if not names and not as_json:
        terminal.say("No batch has failed.")
    sys.exit(code)


@click.command()
@click.argument("batch", type=TEXT)
@as_json
def revert(batch: str, as_json: bool) -> None:
    """Undo the load of BATCH: its rows go, and rows that it changed are as they were before.

    Refused when later batches have changed the same rows since; revert those first. The file stays in the archive
    and can be loaded again.
    """
    from bulk_upload_pipeline import report
    from bulk_upload_pipeline.defs.session import session as open_session

    with open_session(read_settings()) as session:
        receipt = session.revert(batch)
        folder = str(session.line.reports(batch))
    if as_json:
        terminal.print_json(report.as_json(receipt))
    else:
        terminal.print_receipt(receipt, folder)
    sys.exit(EXIT_CODES[State.REVERTED])
