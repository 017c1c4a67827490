"""`up`: everything that runs, started and stopped together. `metrics`: figures where the services are containers."""

from __future__ import annotations

import click

from bulk_upload_pipeline.commands.frame import open_line
from bulk_upload_pipeline.settings import read_settings


@click.command()
@click.option("--sample", "with_sample", is_flag=True, help="Drop some sample files in the inbox first.")
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Of Dagster's UI."
)
@click.option("--viewer-port", type=click.IntRange(1, 65535), help="Also serve a UI that changes nothing.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Also serve metrics for Prometheus.")
def up(with_sample: bool, port: int, viewer_port: int | None, metrics_port: int | None) -> None:
    """Start everything here: PostgreSQL, Dagster with its UI, the inbox. Ctrl-C stops all of it."""
    from bulk_upload_pipeline import watch

    watch.up(
        read_settings(), port, with_sample=with_sample, viewer_port=viewer_port, metrics_port=metrics_port
    )


@click.command()
@click.option("--port", default=9464, show_default=True, type=click.IntRange(1, 65535), help="To listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def metrics(port: int, host: str) -> None:
    """Serve metrics for Prometheus until Ctrl-C, without anything else (`up --metrics-port` does both)."""
    import signal

    from bulk_upload_pipeline import metrics as figures
    from bulk_upload_pipeline import terminal

    stop = (signal.SIGINT, signal.SIGTERM)
    # Before the thread begins, so that it inherits the mask and the signal waits for us.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with open_line() as line, figures.served(line.engine, line.home, port, host):
        terminal.say(f"Metrics    http://{host}:{port}/metrics")
        signal.sigwait(stop)
