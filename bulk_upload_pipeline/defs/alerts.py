"""The operator is told: one sensor notices what is to be told, another sends it and shows channels that fail."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from bulk_upload_pipeline import again, alerts, whereabouts
from bulk_upload_pipeline.again import Night
from bulk_upload_pipeline.alerting import messages
from bulk_upload_pipeline.alerting.channels import channels_of
from bulk_upload_pipeline.alerting.messages import Alert
from bulk_upload_pipeline.defs.nightly import night_of, nights
from bulk_upload_pipeline.defs.recovery import WILL_RETRY_TAG, batches_of, batches_under_way
from bulk_upload_pipeline.model import counted
from bulk_upload_pipeline.workplace import Line

NO_CHANNEL = "Nobody is told: BULK_UPLOAD_ALERT_URLS names no channel."
FAILURE_REASON_TAG = "dagster/failure_reason"
OWN_WORDS = frozenset({"STEP_FAILURE", "RUN_EXCEPTION", "JOB_INITIALIZATION_FAILURE"})
"""Reasons of runs that could say themselves why they failed; those with others lost their worker."""
SETTLED = timedelta(seconds=15)
"""So long after a run failed it is known whether it is started again."""
BEGAN = datetime.now(UTC)
"""When this code server did, and with it the sensors."""
SENDING = timedelta(seconds=40)
"""Dagster gives a sensor 60 s."""


class UndeliveredError(Exception):
    """A channel does not take alerts: it makes the tick fail, so that it is seen in the UI."""


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notices what somebody has to be told: files rejected, unreadable, failed or loaded in part, those "
    "that cannot be taken or that nobody comes for, lost workers, failed jobs, senders that are silent, a disk that "
    "fills.",
)
def alert_sensor(context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]) -> dg.SkipReason:
    """The cursor holds up to when failed runs were looked at, as ISO time."""
    channels = channels_of(line.settings.alert_urls)
    if not channels:
        return dg.SkipReason(NO_CHANNEL)
    now = datetime.now(UTC)
    until = now - SETTLED
    since = _looked_until(context.cursor) or until
    under_way = batches_under_way(context.instance)
    of_nights = alerts.notice_nights(
        line, channels, now, under_way, _untold_nights(context.instance, line, now)
    )
    files = alerts.notice_receipts(line, channels, now, under_way, of_nights)
    files += alerts.notice_untaken(line, channels, now)
    others = [
        *_failed_runs(context.instance, line, since, until),
        *alerts.notice_silence(line, now),
        *alerts.notice_overlooked(line, now, BEGAN),
        *alerts.notice_full_disk(line, now),
    ]
    with line.engine.begin() as connection:
        alerts.queue(connection, others, channels)
    context.update_cursor(until.isoformat())
    return dg.SkipReason(f"{counted(files, 'file')} to be told of; of other things: {len(others):,}.")


def _looked_until(cursor: str | None) -> datetime | None:
    """Return up to when failed runs were looked at; None where a person has put something else in its place."""
    try:
        return datetime.fromisoformat(cursor or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _untold_nights(instance: dg.DagsterInstance, line: Line, now: datetime) -> list[Night]:
    untold = [
        name
        for name in nights(instance, now - alerts.OLDEST)
        if not alerts.is_told(line.engine, again.subject_of(name))
    ]
    return [night_of(instance, name) for name in untold]


def _failed_runs(instance: dg.DagsterInstance, line: Line, since: datetime, until: datetime) -> list[Alert]:
    if since >= until:
        return []
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since, updated_before=until)
    found = (_of_failed_run(line, run) for run in instance.get_runs(failed))
    return [alert for alert in found if alert is not None]


def _of_failed_run(line: Line, run: dg.DagsterRun) -> Alert | None:
    # A day of `daily_sales` is a partition, too, and no batch.
    batches = whereabouts.receipts_of(line.engine, batches_of(run)[: messages.MOST_FILES])
    retried = run.tags.get(WILL_RETRY_TAG) == "true"
    if run.tags.get(FAILURE_REASON_TAG) not in OWN_WORDS:
        files = [batch.file_name for batch in batches]
        return messages.of_lost_worker(run.run_id, run.job_name, files, retried=retried)
    # What became of files is told by their receipts.
    return None if batches or retried else messages.of_failed_run(run.run_id, run.job_name)


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends alerts. A channel that does not take one makes the tick fail, and is tried again later.",
)
def alert_delivery(line: dg.ResourceParam[Line]) -> dg.SkipReason:
    """Each channel for itself: what one has taken is not sent to it again because of another."""
    channels = channels_of(line.settings.alert_urls)
    if not channels:
        return dg.SkipReason(NO_CHANNEL)
    sent, refused = alerts.deliver(
        line.engine, channels, lambda: datetime.now(UTC), datetime.now(UTC) + SENDING
    )
    if refused:
        raise UndeliveredError(" ".join(dict.fromkeys(refused)))
    waiting, given_up = alerts.waiting(line.engine, channels)
    lost = f" {counted(given_up, 'was', 'were')} never taken, and given up." if given_up else ""
    return dg.SkipReason(f"{counted(sent, 'alert')} sent, {counted(waiting, 'waits', 'wait')}.{lost}")


ALERTS = [alert_sensor, alert_delivery]
