"""What goes stale when nothing happens: days that nobody counts, and senders that send nothing."""

import json
import time
from typing import Any

import dagster as dg

from bulk_upload_pipeline import sales, silence
from bulk_upload_pipeline.defs import cursors
from bulk_upload_pipeline.defs.checks import result
from bulk_upload_pipeline.defs.jobs import FILES_ARRIVE
from bulk_upload_pipeline.defs.sales import DAILY_SALES, FRESH, evaluation
from bulk_upload_pipeline.model import Judgement
from bulk_upload_pipeline.workplace import Line

UPLOAD, ARRIVE = FILES_ARRIVE.asset_key.to_user_string(), FILES_ARRIVE.name
TOLD_EVERY_S = 3600.0
"""A light that does not change is lit again that often, so that it does not look forgotten."""


def files_in_time(line: Line) -> Judgement:
    """Return whether every sender of whom files are expected has sent one in time."""
    profiles = [profile for profile in line.profiles() if profile.expected_every_hours is not None]
    return silence.judged(silence.silent(line.engine, profiles), len(profiles))


@dg.asset_check(asset=UPLOAD, name=ARRIVE)
def files_arrive(line: dg.ResourceParam[Line]) -> dg.AssetCheckResult:
    """A file came from each sender whose profile says how often one is expected."""
    return result(files_in_time(line))


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks every 5 minutes for days that wait to be counted and for senders that are silent.",
)
def freshness_sensor(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """Start no run: a check that runs because nothing happened would fill the event log."""
    found = {
        (DAILY_SALES, FRESH): sales.freshness(line.engine),
        (UPLOAD, ARRIVE): files_in_time(line),
    }
    lights = {check: judgement.passed for (_, check), judgement in found.items()}
    before, told = cursors.kept(context.cursor, _lit)
    words = " ".join(judgement.words for judgement in found.values())
    # The clock may have been set back since: nobody waits until it has come round.
    if before == lights and 0 <= time.time() - told < TOLD_EVERY_S:
        return dg.SkipReason(words)
    context.log.info(words)
    return dg.SensorResult(
        skip_reason=words,
        asset_events=[evaluation(asset, check, judgement) for (asset, check), judgement in found.items()],
        cursor=json.dumps({"lights": lights, "told": time.time()}),
    )


def _lit(kept: dict[str, Any]) -> tuple[dict[str, bool], float]:
    """Return which lights were lit, and when."""
    return kept.get("lights", {}), float(kept.get("told", 0.0))
