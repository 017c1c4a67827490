"""Batches of a time again: `reload`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import EXIT_CODES, as_json, list_of_facts, refuse_to_go_on
from bulk_upload_pipeline.exceptions import BatchBusyError, NotTakenAgainError, ProfileUnknownError
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bulk_upload_pipeline.defs.session import Session


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
    from bulk_upload_pipeline import again
    from bulk_upload_pipeline.defs.session import session as open_session

    with open_session(read_settings()) as session:
        found = again.since(session.line, since.date(), profile)
        known = session.line.profiles()
        if profile and not (found.taken or found.gone) and profile not in known:
            raise ProfileUnknownError(profile, sorted(each.name for each in known))
        code = take_again(session, {due.batch_id: due.file_name for due in found.taken}, as_json=as_json)
    if found.gone:
        terminal.complain(found.not_taken)
    if not found.taken and not as_json:
        of = f" of profile {profile}" if profile else ""
        terminal.say(f"No batch{of} that could be taken again was received since {since:%Y-%m-%d}.")
    sys.exit(code)


def take_again(session: Session, batches: Mapping[str, str], *, as_json: bool) -> int:
    """Take batches down the line again, one after the other, print their receipts, and return the exit code.

    One that another worker holds, or that cannot be begun, is said so in a sentence, and the rest goes on.

    Args:
        session: Where they are.
        batches: File names by batch.
        as_json: Whether to print JSON instead of words.
    """
    from bulk_upload_pipeline import report

    codes = [0]
    with list_of_facts(as_json=as_json) as facts:
        for batch_id, file_name in batches.items():
            try:
                with terminal.progress_bar(file_name, quiet=as_json) as listener:
                    receipt = session.retry(batch_id, listener)
            except (BatchBusyError, NotTakenAgainError) as error:
                terminal.complain(str(error))
                codes.append(error.exit_code)
                continue
            facts.append(report.as_json(receipt))
            codes.append(EXIT_CODES.get(receipt.state, 3))
            if not as_json:
                terminal.print_receipt(receipt, str(session.line.reports(batch_id)))
            refuse_to_go_on(receipt)
    return max(codes)
