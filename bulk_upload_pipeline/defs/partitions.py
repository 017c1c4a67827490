"""One partition a batch: the partition key is the batch id."""

import dagster as dg

batches = dg.DynamicPartitionsDefinition(name="batches")
