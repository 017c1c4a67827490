"""One partition a batch, whose key is the batch id; and one a day of invoices."""

import dagster as dg

from bulk_upload_pipeline.settings import read_settings

batches = dg.DynamicPartitionsDefinition(name="batches")

days = dg.DailyPartitionsDefinition(
    start_date=read_settings().first_day.isoformat(),
    end_offset=1,  # today's invoices are looked at today
)
