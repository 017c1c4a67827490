"""`up`: everything that runs, started and stopped together."""

from __future__ import annotations

import click

from bulk_upload_pipeline.settings import read_settings


@click.command()
@click.option("--sample", "with_sample", is_flag=True, help="Drop some sample files in the inbox first.")
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Of Dagster's UI."
)
@click.option("--viewer-port", type=click.IntRange(1, 65535), help="Also serve a UI that changes nothing.")
def up(with_sample: bool, port: int, viewer_port: int | None) -> None:
    """Start everything here: PostgreSQL, Dagster with its UI, the inbox. Ctrl-C stops all of it."""
    from bulk_upload_pipeline import watch

    watch.up(read_settings(), port, with_sample=with_sample, viewer_port=viewer_port)
