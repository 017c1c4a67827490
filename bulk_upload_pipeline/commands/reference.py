"""What is promised, to look up: `explain`."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from bulk_upload_pipeline import contract, storage, terminal
from bulk_upload_pipeline.commands.frame import as_json
from bulk_upload_pipeline.findings import CATALOGUE
from bulk_upload_pipeline.profiles import normalised
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from bulk_upload_pipeline.findings import Entry
    from bulk_upload_pipeline.profiles import Profiles


@click.command()
@click.argument("what", metavar="[CODE|COLUMN]", required=False)
@click.option("--columns", is_flag=True, help="List the columns of an invoice line instead of the findings.")
@click.option("--profiles", is_flag=True, help="List the keys of a profile instead of the findings.")
@click.option("--markdown", is_flag=True, help="Print the whole reference as Markdown.")
@as_json
def explain(what: str | None, columns: bool, profiles: bool, markdown: bool, as_json: bool) -> None:
    """Say what a finding CODE means and how to fix it, or what may stand in a COLUMN; without either, list all."""
    if markdown:
        _print_reference(columns=columns, profiles=profiles)
    elif what is None and profiles:
        _list_profile_keys(as_json=as_json)
    elif what is None:
        _list(columns=columns, as_json=as_json)
    else:
        _explain(what, as_json=as_json)


def _print_reference(*, columns: bool, profiles: bool) -> None:
    from bulk_upload_pipeline import markdown
    from bulk_upload_pipeline.profile_files import shipped_profiles

    if columns:
        text = markdown.columns_reference(shipped_profiles())
    else:
        text = markdown.profiles_reference() if profiles else markdown.findings_reference()
    click.echo(text, nl=False)


def _list_profile_keys(*, as_json: bool) -> None:
    from bulk_upload_pipeline import markdown

    keys = markdown.profile_keys()
    terminal.print_json(keys) if as_json else terminal.print_profile_keys(keys)


def _list(*, columns: bool, as_json: bool) -> None:
    if columns:
        profiles = _profiles()
        facts = [_facts(column, profiles) for column in contract.COLUMNS]
        terminal.print_json(facts) if as_json else terminal.print_columns(facts)
    elif as_json:
        terminal.print_json([dataclasses.asdict(entry) for entry in CATALOGUE.values()])
    else:
        terminal.print_catalogue(CATALOGUE.values())


def _explain(what: str, *, as_json: bool) -> None:
    found = _entry(what) or _column(what, _profiles())
    if found is None:
        raise click.UsageError(f"There is neither a finding nor a column {what!r}.{_hint(what)}")
    if isinstance(found, dict):
        terminal.print_json(found) if as_json else terminal.print_column(found)
    elif as_json:
        terminal.print_json(dataclasses.asdict(found))
    else:
        terminal.print_entry(found)


def _entry(code: str) -> Entry | None:
    return CATALOGUE.get(_as_code(code))


def _as_code(text: str) -> str:
    return text.strip().upper().replace("-", "_").replace(" ", "_")


def _column(name: str, profiles: Profiles) -> dict[str, Any] | None:
    """Return what is known of the column that has this name, title or header name anywhere."""
    for column, aliases in profiles.generic.columns.items():
        if normalised(name) in map(normalised, aliases):
            return _facts(contract.BY_NAME[column], profiles)
    return None


def _facts(column: contract.Column, profiles: Profiles) -> dict[str, Any]:
    return {
        "name": column.name,
        "title": column.title,
        "type": contract.sql_type(column),
        "required": column.required,
        "rule": contract.rule_in_words(column),
        "header_names": list(profiles.generic.columns[column.name][1:]),
    }


def _profiles() -> Profiles:
    from bulk_upload_pipeline.profile_files import usable_profiles

    with storage.opened(read_settings()) as settings:
        return usable_profiles(storage.profiles_at_hand(settings.home))


def _hint(what: str) -> str:
    known = {name.lower(): name for name in (*CATALOGUE, *contract.NAMES)}
    near = get_close_matches(_as_code(what).lower(), known, n=1)
    return (
        f" Did you mean {known[near[0]]}?"
        if near
        else " `bulk-upload explain` and `explain --columns` list them."
    )
