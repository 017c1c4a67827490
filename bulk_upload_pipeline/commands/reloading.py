"""Batches of a time again: `reload`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import EXIT_CODES, as_json
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from datetime import datetime


@click.command()
@click.option(
    "--since",
    required=True,
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="First day (UTC) on which the batches were received, such as 2026-11-01.",
)
@click.option("--profile", help="Only batches of this sender.")
@as_json
def reload(since: datetime, profile: str | None, as_json: bool) -> None:
    """Take every batch received since DATE down the line again, the oldest first.

    Each is judged anew by the rules and profiles of today. Rows that are good now load; nothing is loaded twice.
    Duplicates and reverted batches stay as they are.
    """
    from bulk_upload_pipeline import again, report
    from bulk_upload_pipeline.defs.session import session as open_session

    receipts, codes = [], [0]
    with open_session(read_settings()) as session:
        for due in again.since(session.line, since.date(), profile):
            try:
                with terminal.progress_bar(due.file_name, quiet=as_json) as listener:
                    receipt = session.retry(due.batch_id, listener)
            except BatchBusyError as error:
                terminal.complain(str(error))
                codes.append(error.exit_code)
                continue
            receipts.append(receipt)
            codes.append(EXIT_CODES.get(receipt.state, 3))
            if not as_json:
                terminal.print_receipt(receipt, str(session.line.reports(due.batch_id)))
    if as_json:
        terminal.print_json([report.as_json(receipt) for receipt in receipts])
    elif codes == [0]:
        of = f" of profile {profile}" if profile else ""
        terminal.say(f"No batch{of} that could be taken again was received since {since:%Y-%m-%d}.")
    sys.exit(max(codes))
