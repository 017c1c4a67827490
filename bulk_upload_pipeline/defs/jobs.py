"""What a person launches from the UI: a batch again, or a file by its path."""

from pathlib import Path

import dagster as dg

from bulk_upload_pipeline import inbox
from bulk_upload_pipeline.defs.lanes import BIG, LANE_TAG
from bulk_upload_pipeline.exceptions import BulkUploadError, in_one_line
from bulk_upload_pipeline.workplace import Line

FILES_ARRIVE = dg.AssetCheckKey(dg.AssetKey("upload"), "files_arrive")

load_batch = dg.define_asset_job(
    "load_batch",
    # What is checked of the senders, instead of a batch, has no place in a batch's run.
    selection=dg.AssetSelection.groups("invoices") - dg.AssetSelection.checks(FILES_ARRIVE),
    description="Takes one batch down the whole line. Launching it again resumes what is not finished.",
    tags={LANE_TAG: BIG},
)


class FileToDrop(dg.Config):
    """The file that `drop_file` copies into the inbox."""

    path: str
    profile: str = ""


@dg.op(description="Copies a file, which stays where it is, into the inbox (or a profile's folder in it).")
def copy_into_inbox(context: dg.OpExecutionContext, config: FileToDrop, line: dg.ResourceParam[Line]) -> None:
    """Copy under an unfinished name first, so that the sensor never sees half a file."""
    if config.profile and config.profile not in line.profiles():
        raise dg.Failure(f"There is no profile {config.profile!r}.", allow_retries=False)
    try:
        # The folder of this process is not that of the person: where one was looked is said in full.
        target = inbox.drop(Path(config.path).absolute(), line.home.inbox / config.profile)
    except (BulkUploadError, OSError) as error:
        raise dg.Failure(in_one_line(error), allow_retries=False) from error
    context.log.info(f"{target.name} is in the inbox; the sensor takes it within some seconds.")


@dg.job(description="Drops a file that this machine can read into the inbox.")
def drop_file() -> None:
    """A job of one op: the rest is the sensor's."""
    copy_into_inbox()
