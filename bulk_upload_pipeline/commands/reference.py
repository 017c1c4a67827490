"""What is promised, to look up: `explain`."""

from __future__ import annotations

from typing import Any

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import as_json
from bulk_upload_pipeline.findings import CATALOGUE


@click.command()
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
