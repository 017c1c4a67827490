"""`db`: the database of this home."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import as_json, open_line
from bulk_upload_pipeline.settings import read_provisioning, read_settings

if TYPE_CHECKING:
    from collections.abc import Generator


@click.group()
def db() -> None:
    """The database: bring it up to date, see what does not fit, or find it."""


@contextmanager
def _invoices() -> Generator[str]:
    """Yield the URL of the invoices' database as it is; a server that the settings name is only used."""
    from bulk_upload_pipeline import local

    settings = read_settings()
    if settings.database_url:
        yield settings.database_url
        return
    settings.home.make()
    with local.postgres(settings) as urls:
        yield urls.invoices


@db.command("upgrade")
@click.option("--dry-run", is_flag=True, help="Print the SQL, and change nothing.")
@as_json
def db_upgrade(dry_run: bool, as_json: bool) -> None:
    """Bring the tables up to date (every command that works with batches does so by itself). Safe to run twice.

    Tables of the old system are moved over, too, with every row: only this command does that.
    """
    from bulk_upload_pipeline import upgrade
    from bulk_upload_pipeline.database import address

    with _invoices() as url:
        shown = address(url)
        if dry_run:
            script = upgrade.script(url)
            terminal.print_json({"database": shown, "sql": script}) if as_json else terminal.say_text(script)
            return
        steps: list[str] = []
        upgrade.upgrade(url, on_step=steps.append if as_json else lambda why: terminal.say(f"{why} ..."))
    if as_json:
        terminal.print_json({"database": shown, "up_to_date": True, "steps": steps})
    else:
        terminal.say(f"{shown} is up to date.")


@db.command("check")
@as_json
def db_check(as_json: bool) -> None:
    """List what in the database does not fit the contract; exit code 1 when there is any. Changes nothing."""
    import dataclasses

    from bulk_upload_pipeline.upgrading import misfits

    with _invoices() as url:
        found = misfits.find(url)
    if as_json:
        terminal.print_json([dataclasses.asdict(misfit) for misfit in found])
    else:
        terminal.print_misfits(found)
    sys.exit(1 if found else 0)


@db.command("provision")
def db_provision() -> None:
    """Make roles and databases on a server of one's own, and bring the tables up to date. Safe to run twice.

    BULK_UPLOAD_ADMIN_DATABASE_URL names the server and a role that may create others; the variables
    BULK_UPLOAD_OWNER_PASSWORD, ..._LOADER_PASSWORD, ..._READER_PASSWORD and ..._DAGSTER_PASSWORD hold what
    the roles bulk_upload_owner (changes tables), bulk_upload_loader (loads files), bulk_upload_reader (reads)
    and bulk_upload_dagster (Dagster's own database) log in with.
    """
    from bulk_upload_pipeline import roles

    url, passwords = read_provisioning()
    roles.provision(url, roles.Passwords(**passwords), on_step=lambda why: terminal.say(f"{why} ..."))
    terminal.say("The server is ready.")


@db.command("url")
def db_url() -> None:
    """Print the URL of the invoices' database, for psql and notebooks."""
    with open_line() as line:
        url = line.engine.url.set(drivername="postgresql")
        terminal.say(url.render_as_string(hide_password=False))
