"""What every command shares: how it fails, its exit code, `--json`, and the line that it works on."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.exceptions import BulkUploadError
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from bulk_upload_pipeline.line import Line

EXIT_CODES = {
    State.LOADED: 0,
    State.DUPLICATE: 0,
    State.UNPACKED: 0,
    State.PARTIALLY_LOADED: 1,
    State.REJECTED: 2,
    State.UNREADABLE: 2,
    State.WAITING: 3,
    State.FAILED: 3,
    State.REVERTED: 0,
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


@contextmanager
def open_line() -> Generator[Line]:
    """Yield the line over this home's databases, brought up to date; PostgreSQL is started when it must be."""
    from bulk_upload_pipeline import local, storage
    from bulk_upload_pipeline.database import make_engine, migrate
    from bulk_upload_pipeline.line import Line

    stated = read_settings()
    stated.home.make()
    with storage.opened(stated) as settings, local.postgres(settings) as urls:
        migrate(urls.invoices)
        engine = make_engine(urls.invoices)
        try:
            yield Line(settings, engine)
        finally:
            engine.dispose()


def stating_options(command: Any) -> Any:
    """Add the options that state what would otherwise be recognised."""
    for option in (
        click.option("--sheet", help="Excel: the sheet to read."),
        click.option("--delimiter", help="The character between two cells."),
        click.option("--encoding", help="The text's encoding, such as utf-8 or cp1252."),
        click.option("--profile", help="The sender's profile."),
    ):
        command = option(command)
    return command
