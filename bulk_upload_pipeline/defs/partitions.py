"""One partition a batch, whose key is the batch id; and one a day of invoices."""

from collections.abc import Iterable
from itertools import count

import dagster as dg

from bulk_upload_pipeline.settings import read_settings

batches = dg.DynamicPartitionsDefinition(name="batches")
PARTITION_TAG = "dagster/partition"
"""Names the partition of a run: of one with a single batch, the batch."""
RUN_KEY_TAG = "dagster/run_key"
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of a run that has not ended."""

days = dg.DailyPartitionsDefinition(
    start_date=read_settings().first_day.isoformat(),
    end_offset=1,  # today's invoices are looked at today
)


def first_free(runs: Iterable[dg.DagsterRun], key: str, number: int) -> int:
    """Return the first number, from `number` on, which makes a key of a run that none of these runs has.

    Counting runs does not: after a person has deleted some, the count has been a number before. Dagster starts no run
    with a key that one has, and says so only in the log of its daemon.
    """
    taken = {run.tags.get(RUN_KEY_TAG) for run in runs}
    return next(n for n in count(number) if f"{key}{n}" not in taken)


def batch_of(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> str:
    """Return the batch that a step is for.

    Raises:
        dagster.Failure: The run was launched for none, or for several at once.
    """
    if not context.has_partition_key:
        raise dg.Failure(
            "A run takes one batch down the line. Launch it with a partition; of several, choose `Multiple runs (One "
            "per selected partition)`.",
            allow_retries=False,
        )
    return context.partition_key
