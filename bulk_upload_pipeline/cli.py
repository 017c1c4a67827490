"""`bulk-upload`, for people at a terminal. Each subject has its room in `commands`.

Exit codes: 0 loaded, 1 some rows rejected, 2 the file or the command is at fault, 3 the system failed, or Ctrl-C.
"""

from __future__ import annotations

import atexit
import gc

import click

from bulk_upload_pipeline.commands import (
    alerts,
    batches,
    database,
    loading,
    mending,
    profiles,
    reference,
    reloading,
    services,
    tracing,
    writing,
)
from bulk_upload_pipeline.commands.frame import Commands

# A load imports a quarter of a million objects that live as long as it does. Looking for garbage among them at every
# 700, as Python does by itself, is a sixth of the time until its first row.
gc.set_threshold(50_000)
# Nor does it have to look among them when it ends, which is the last sixth of a command.
atexit.register(gc.freeze)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bulk-upload-pipeline")
def main() -> None:
    """Load invoice files into PostgreSQL, every row accounted for."""


for command in (
    services.up,
    services.metrics,
    loading.load,
    loading.check,
    batches.status,
    batches.errors,
    tracing.trace,
    reloading.reload,
    mending.retry,
    mending.revert,
    reference.explain,
    profiles.profiles,
    writing.template,
    writing.sample,
    database.db,
    alerts.group,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
