"""What Dagster loads."""

import dagster as dg

from bulk_upload_pipeline.defs.alerts import ALERTS
from bulk_upload_pipeline.defs.assets import ASSETS
from bulk_upload_pipeline.defs.checks import CHECKS
from bulk_upload_pipeline.defs.freshness import files_arrive, freshness_sensor
from bulk_upload_pipeline.defs.helping import help_with_parts, parts_sensor
from bulk_upload_pipeline.defs.jobs import drop_file, load_batch
from bulk_upload_pipeline.defs.nightly import nightly_backfill
from bulk_upload_pipeline.defs.resources import line_resource
from bulk_upload_pipeline.defs.retention import nightly_retention, retention
from bulk_upload_pipeline.defs.sales import (
    daily_sales,
    daily_sales_refresh,
    refresh_daily_sales,
    refreshed,
    sums_agree,
)
from bulk_upload_pipeline.defs.sensors import SENSORS
from bulk_upload_pipeline.defs.small_files import load_small_files

defs = dg.Definitions(
    assets=[*ASSETS, daily_sales],
    asset_checks=[*CHECKS, sums_agree, refreshed, files_arrive],
    jobs=[load_batch, load_small_files, help_with_parts, drop_file, refresh_daily_sales, retention],
    sensors=[*SENSORS, parts_sensor, *ALERTS, freshness_sensor],
    schedules=[daily_sales_refresh, nightly_backfill, nightly_retention],
    resources={"line": line_resource},
    # One process a run: a step that starts its own would spend most of a small file's time on starting.
    executor=dg.in_process_executor,
)
