"""What every command shares: how it fails, its exit code, `--json`, and the line that it works on."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands import streams
from bulk_upload_pipeline.exceptions import (
    NO_ROOM,
    BulkUploadError,
    DatabaseRefusedError,
    FileUnwritableError,
    NoRoomError,
    OutputLostError,
)
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.profiles import is_delimiter
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from bulk_upload_pipeline.model import Receipt
    from bulk_upload_pipeline.workplace import Line

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

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run what a command line says, be it `--help`."""
        terminal.spell_out()
        with streams.guarded():
            try:
                return super().main(*args, **extra)
            except OutputLostError as error:
                terminal.complain(str(error))
                sys.exit(error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            terminal.complain(
                "Stopped. `bulk-upload status` shows what was begun, and `bulk-upload retry BATCH` goes on with it."
            )
            ctx.exit(3)
        except Exception as error:  # SQLAlchemy is not imported for a command that needs no database
            known = _known(error)
            if known is None:
                raise
            terminal.complain(str(known))
            ctx.exit(known.exit_code)


def _known(error: Exception) -> BulkUploadError | None:
    """Return what an error comes to for a person; None for one that nobody foresaw."""
    if isinstance(error, BulkUploadError):
        return error
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return NoRoomError(str(error.filename or "this machine"))
    return _of_the_database(error)


def _of_the_database(error: Exception) -> BulkUploadError | None:
    """Return what a server that does not do what it is asked comes to for a person; None for any other error."""
    import psycopg2
    from sqlalchemy.exc import DBAPIError

    from bulk_upload_pipeline import database

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (DBAPIError, psycopg2.Error)):
        cause = cause.__cause__  # Dagster says in words of its own that it cannot connect
    original = cause.orig if isinstance(cause, DBAPIError) else cause
    if not isinstance(original, psycopg2.Error):
        return None
    state, said = database.sqlstate(original), database.first_line(original)
    if state in (database.INSUFFICIENT_PRIVILEGE, database.READ_ONLY):
        return DatabaseRefusedError(said, DatabaseRefusedError.AS_ANOTHER)
    if state in database.NOT_AS_IT_WAS_MADE:
        return DatabaseRefusedError(said, DatabaseRefusedError.WHEN_IT_FITS)
    if isinstance(original, psycopg2.OperationalError) or database.is_transient(original):
        return DatabaseRefusedError(said, DatabaseRefusedError.LATER)
    return None


class _Text(click.ParamType[str]):
    """An argument that the database is asked about: bytes that are no text have no place there."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.isprintable() and text != text.encode("utf-8", "replace").decode():
            self.fail(f"{text!a} is no text in UTF-8.", param, ctx)
        return text


TEXT = _Text()


class _Delimiter(click.ParamType[str]):
    """One character, as in a profile; a tab may be spelled out, since it is hard to type at a terminal."""

    name = "character"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = "\t" if value == "\\t" else str(value)
        if not is_delimiter(text):
            self.fail(
                f"{text!r} is not a single character other than a quotation mark or a line break.", param, ctx
            )
        return text


DELIMITER = _Delimiter()


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Write a file that a command was asked for: where that cannot be done, nothing is left and one sentence says so.

    Raises:
        FileUnwritableError: It is a folder, is in none, or cannot be written there.
    """
    if path.is_dir():
        raise FileUnwritableError(path, "it is a folder")
    if not path.parent.is_dir():
        raise FileUnwritableError(path, f"there is no folder {path.parent}")
    try:
        yield
    except OSError as error:
        raise FileUnwritableError(path, error.strerror or str(error)) from error


@contextmanager
def list_of_facts(*, as_json: bool) -> Generator[list[dict[str, Any]]]:
    """Yield where the facts of each file are put, which are printed as one list, also when an error cuts it off."""
    facts: list[dict[str, Any]] = []
    try:
        yield facts
    except BaseException:  # Ctrl-C, too: what has been done is told, and the error goes on
        if as_json and facts:
            terminal.print_json(facts)
        raise
    if as_json:
        terminal.print_json(facts)


def refuse_to_go_on(receipt: Receipt) -> None:
    """Take no further file when the run of this one was stopped: Dagster makes no more of Ctrl-C than its end."""
    from bulk_upload_pipeline.defs.exits import was_stopped

    if was_stopped(receipt):
        raise KeyboardInterrupt


@contextmanager
def open_line() -> Generator[Line]:
    """Yield the line over this home's databases, brought up to date; PostgreSQL is started when it must be."""
    from bulk_upload_pipeline import local, storage
    from bulk_upload_pipeline.database import make_engine
    from bulk_upload_pipeline.upgrading.schema import migrate
    from bulk_upload_pipeline.workplace import Line

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
        click.option("--delimiter", type=DELIMITER, help="The character between two cells."),
        click.option("--encoding", help="The text's encoding, such as utf-8 or cp1252."),
        click.option("--profile", help="The sender's profile."),
    ):
        command = option(command)
    return command
