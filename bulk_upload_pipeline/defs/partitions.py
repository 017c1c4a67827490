"""One partition a batch, whose key is the batch id; and one a day of invoices."""

import dagster as dg

from bulk_upload_pipeline.settings import read_settings

batches = dg.DynamicPartitionsDefinition(name="batches")
PARTITION_TAG = "dagster/partition"
"""Names the partition of a run: of one with a single batch, the batch."""
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


def batch_of(context: dg.AssetExecutionContext) -> str:
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
