"""Files that commands write: `sample` and `template`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bulk_upload_pipeline import terminal
from bulk_upload_pipeline.commands.frame import FILE, as_json, writing
from bulk_upload_pipeline.model import counted

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=FILE)
@click.option("--rows", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--profile", default="zoho", show_default=True, type=click.Choice(["zoho", "distributor"]))
@click.option(
    "--dirty", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share of faulty rows."
)
@click.option("--seed", default=1, show_default=True, help="The same seed writes the same file.")
@as_json
def sample(file: Path, rows: int, profile: str, dirty: float, seed: int, as_json: bool) -> None:
    """Write a realistic FILE (CSV) of invoice lines, clean or with faults."""
    from bulk_upload_pipeline.sample import write_sample

    with writing(file):
        manifest = write_sample(file, rows=rows, profile=profile, dirty=dirty, seed=seed)
    faults = manifest.faults_by_code
    if as_json:
        terminal.print_json({"file": str(file), "rows": manifest.rows, "faults": faults})
    else:
        told = ", ".join(f"{count:,} {code}" for code, count in faults.items())
        terminal.say(
            f"{file}: {counted(manifest.rows, 'row')}" + (f", of which faulty: {told}" if told else "")
        )


@click.command()
@click.argument("file", type=FILE)
@click.option("--profile", default="zoho", show_default=True, help="Whose header names it has.")
@as_json
def template(file: Path, profile: str, as_json: bool) -> None:
    """Write an empty FILE (.csv or .xlsx) with the header of a profile, to be filled in by hand."""
    from bulk_upload_pipeline import storage
    from bulk_upload_pipeline.exceptions import ProfileUnknownError
    from bulk_upload_pipeline.profile_files import load_profiles
    from bulk_upload_pipeline.settings import read_settings
    from bulk_upload_pipeline.template import write_template

    with storage.opened(read_settings()) as settings:
        profiles = load_profiles(storage.profiles_at_hand(settings.home))
    if profile not in profiles:
        raise ProfileUnknownError(profile, sorted(known.name for known in profiles))
    header = write_template(file, profiles[profile])
    if as_json:
        terminal.print_json({"file": str(file), "profile": profile, "header": header})
    else:
        terminal.say(f"{file}: the {len(header)} columns of {profile}.")
