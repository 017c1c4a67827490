"""What Dagster loads."""

import dagster as dg

from bulk_upload_pipeline.defs.assets import ASSETS
from bulk_upload_pipeline.defs.checks import CHECKS
from bulk_upload_pipeline.defs.jobs import drop_file, load_batch
from bulk_upload_pipeline.defs.resources import line_resource
from bulk_upload_pipeline.defs.sensors import SENSORS

defs = dg.Definitions(
    assets=ASSETS,
    asset_checks=CHECKS,
    jobs=[load_batch, drop_file],
    sensors=SENSORS,
    resources={"line": line_resource},
    # One process a run: a step that starts its own would spend most of a small file's time on starting.
    executor=dg.in_process_executor,
)
