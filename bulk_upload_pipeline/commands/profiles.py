"""`profiles`: the senders' formats, listed, checked, and drafted from a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bulk_upload_pipeline import storage, terminal
from bulk_upload_pipeline.commands.frame import DELIMITER, FILE, as_json
from bulk_upload_pipeline.exceptions import FileUnwritableError
from bulk_upload_pipeline.model import Overrides
from bulk_upload_pipeline.profile_files import (
    ProfileFile,
    home_profiles,
    read_profile,
    shipped_profiles,
    stated_by,
    usable_profiles,
)
from bulk_upload_pipeline.settings import read_settings

if TYPE_CHECKING:
    from pathlib import Path

    from bulk_upload_pipeline.places import Place
    from bulk_upload_pipeline.profiles import Profile
    from bulk_upload_pipeline.settings import Home


PROFILES = "profiles"


def _home() -> Home:
    """Return the home with its profiles at hand, for the length of the command."""
    return click.get_current_context().with_resource(storage.opened(read_settings())).home


def _shown(home: Home, file: ProfileFile) -> str:
    """Return where a profile is for whoever wants to edit it, and not its copy at hand."""
    return str(home.root / PROFILES / file.path.name)


@click.group(invoke_without_command=True)
@click.pass_context
def profiles(ctx: click.Context) -> None:
    """The senders' formats: list them, check your own, or draft one from a file."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_profiles)


@profiles.command("list")
@as_json
def list_profiles(as_json: bool = False) -> None:
    """List the profiles: those that come with the package, and this home's, which win over them."""
    home = _home()
    own = home_profiles(storage.profiles_at_hand(home))
    names = {file.profile.name for file in own if file.profile}
    listed = [_facts(p, "shipped") for p in shipped_profiles() if p.name not in names]
    listed += [_facts(file.profile, _shown(home, file)) for file in own if file.profile]
    if as_json:
        terminal.print_json(listed)
    else:
        terminal.print_profiles(listed)
    for file in own:
        if file.problem is not None and not as_json:
            terminal.complain(str(file.problem))


def _facts(profile: Profile, source: str) -> dict[str, Any]:
    return {
        "name": profile.name,
        "title": profile.title,
        "source": source,
        "columns": {name: list(aliases) for name, aliases in profile.columns.items()},
        "states": stated_by(profile),
    }


@profiles.command("check")
@as_json
def check_profiles(as_json: bool) -> None:
    """Check every TOML file in the home's `profiles` folder; exit code 2 when one of them cannot be used."""
    home = _home()
    found = home_profiles(storage.profiles_at_hand(home))
    if as_json:
        terminal.print_json([_checked(home, file) for file in found])
    else:
        for file in found:
            _say(file)
        if not found:
            terminal.say(f"There is no profile in {home.root / PROFILES}.")
    sys.exit(2 if any(file.problem for file in found) else 0)


def _checked(home: Home, file: ProfileFile) -> dict[str, Any]:
    return {
        "file": _shown(home, file),
        "name": file.profile.name if file.profile else None,
        "problem": str(file.problem) if file.problem else None,
    }


def _say(file: ProfileFile) -> None:
    if file.problem is not None:
        terminal.complain(str(file.problem))
    elif file.profile is not None:
        terminal.say(f"{file.path.name}: the profile {file.profile.name} can be used.")


@profiles.command("suggest")
@click.argument("file", type=FILE)
@click.option("--name", help="The profile's name; by default it is made of the file's.")
@click.option("--sheet", help="Excel: the sheet to read.")
@click.option("--delimiter", type=DELIMITER, help="The character between two cells.")
@click.option("--encoding", help="The text's encoding, such as utf-8 or cp1252.")
@click.option("--write", is_flag=True, help="Save it in the home's `profiles` folder instead of printing it.")
@as_json
def suggest(file: Path, name: str | None, write: bool, as_json: bool, **stated: Any) -> None:
    """Draft a profile from the header of FILE, and from how its dates and numbers are written."""
    import dataclasses

    from bulk_upload_pipeline.drafting import as_toml, draft_profile

    home = _home()
    draft = draft_profile(
        # The shell makes an empty profile of `... > data/profiles/new.toml` before this begins.
        file,
        usable_profiles(storage.profiles_at_hand(home)),
        name=name,
        stated=Overrides(**stated),
    )
    text = as_toml(draft)
    read_profile(text, draft.name)
    path = home.root / PROFILES / f"{draft.name}.toml"
    if write:
        _write(home, path, text)
    if as_json:
        facts = dataclasses.asdict(draft)
        terminal.print_json(facts | {"toml": text, "written_to": str(path) if write else None})
    elif write:
        terminal.say(f"{path} is written. Read it through, then run `bulk-upload profiles check`.")
    else:
        click.echo(text, nl=False)


def _write(home: Home, path: Place, text: str) -> None:
    try:
        storage.write_new(home, path, text)
    except FileExistsError as error:
        raise FileUnwritableError(path, "that profile exists already; choose another --name") from error
    except OSError as error:
        raise FileUnwritableError(path, str(error.strerror)) from error
