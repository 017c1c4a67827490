"""`alerts`: whether the channels of this home hear what is said."""

from __future__ import annotations

import sys

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import as_json
from bulk_upload_pipeline.settings import ALERT_URLS, read_settings


@click.group("alerts")
def group() -> None:
    """Alerts: who is told when a file is rejected, fails or does not come."""


@group.command("test")
@as_json
def alerts_test(as_json: bool) -> None:
    """Send a test to every channel of BULK_UPLOAD_ALERT_URLS, and say which of them took it."""
    from bulk_upload_pipeline.alerting.channels import channels_of
    from bulk_upload_pipeline.alerting.messages import TEST

    channels = channels_of(read_settings().alert_urls)
    if not channels:
        raise click.UsageError(
            f"No channel is set. Set {ALERT_URLS} to URLs of Apprise, separated by blanks, such as "
            "mailto://user:password@example.com"
        )
    causes = [(channel, channel.send(TEST.title, TEST.body)) for channel in channels]
    if as_json:
        terminal.print_json([{"channel": c.name, "taken": why is None, "cause": why} for c, why in causes])
    else:
        for channel, cause in causes:
            terminal.say(f"{channel.name}: the test was sent." if cause is None else cause)
    sys.exit(3 if any(cause for _, cause in causes) else 0)
