"""Where rows come from: `trace`."""

from __future__ import annotations

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import TEXT, as_json, open_line


@click.command()
@click.argument("invoice_number", type=TEXT)
@as_json
def trace(invoice_number: str, as_json: bool) -> None:
    """Tell which files, rows, corrections and reverts made INVOICE_NUMBER what it is."""
    import dataclasses

    from bulk_upload_pipeline import trace as tracing

    with open_line() as line:
        found = tracing.trace(line.engine, invoice_number)
    if as_json:
        terminal.print_json(dataclasses.asdict(found))
    else:
        terminal.say_text(tracing.in_words(found))
