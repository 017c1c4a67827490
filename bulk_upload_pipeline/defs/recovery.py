"""What is done, without a person, about runs that ended before the line could end their batch.

* `reaper` finds runs whose worker is gone and reports them failed; Dagster's run retries start them again. It also
  finds batches on the way that nobody works on any more, whatever else overlooked them: Dagster tells the sensors
  below of a run once, also when they fail just then, and it cannot start a run of the command line again.
* `batch_failed` looks at a failed run that Dagster does not start again: a batch that was cut off gets a new
  run, and its receipt when too many runs were of no use. Of a run that many small files shared, what it had
  come to gets runs of its own, so that the one that kills its worker stands alone; the rest waits as before.
* `batch_cancelled` writes the receipt of a batch whose run a person cancelled.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from bulk_upload_pipeline import archiving, holding, ledger, storage, whereabouts
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.defs import account, cursors
from bulk_upload_pipeline.defs.jobs import load_batch
from bulk_upload_pipeline.defs.partitions import PARTITION_TAG, UNDER_WAY, batches, first_free
from bulk_upload_pipeline.defs.small_files import batch_ids_in, load_small_files
from bulk_upload_pipeline.exceptions import BulkUploadError, StorageUnavailableError, in_one_line
from bulk_upload_pipeline.kept import Entry
from bulk_upload_pipeline.liveness import without_worker
from bulk_upload_pipeline.model import FINAL_STATES, LOADED_STATES, Batch, State, counted
from bulk_upload_pipeline.places import Place
from bulk_upload_pipeline.workplace import Line

WILL_RETRY_TAG = "dagster/will_retry"

LOST = "Its worker is gone: it holds no lock any more."

LOST_AFTER_S = 20.0
"""A run that has no worker for so long is lost: longer than one that lives needs to take its lock."""

LEFT_AFTER_S = 120.0
"""A batch on the way that nobody has worked on for so long is left: longer than Dagster, or a sensor, takes to start
its next run."""

MOST_GONE = 200
"""Batches whose file is gone that are brought to their end at once: thousands may wait in a restored database, and
neither may a tick take longer than a minute, nor all of their runs wait in the queue."""

MOST_RECEIPTS = 100
"""So many receipts of a batch are looked at, the latest first: each that corrects it brings another."""

MOST_RUNS = 8
"""Runs of a batch, all told, after which one that was cut off is not started again by itself."""


@dg.sensor(
    job=load_batch,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Finds runs whose worker is gone (killed with its code server, say) and reports them failed; "
    "starts batches again that were left on the way.",
)
def reaper(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """The cursor holds since when each run was seen without a worker, and each batch without a run (epoch, s)."""
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    runs = {run.run_id: run for run in context.instance.get_runs(filters) if _is_ours(context, run)}
    alone = [*without_worker(line.engine, list(runs)), *_without_run(context.instance, line)]
    since, now = cursors.kept(context.cursor, _since), time.time()
    # The clock may have been set back since: nobody waits until it has come round.
    seen = {name: min(since.get(name, now), now) for name in alone}
    lost = [name for name, when in seen.items() if name in runs and now - when >= LOST_AFTER_S]
    left = [name for name, when in seen.items() if name not in runs and now - when >= LEFT_AFTER_S]
    for run_id in lost:
        context.instance.report_run_failed(runs[run_id], LOST)
    context.update_cursor(json.dumps({name: when for name, when in seen.items() if name not in lost}))
    return _answer(
        [_of_left(context.instance, line, batch_id) for batch_id in left],
        f"{counted(len(runs), 'run is', 'runs are')} under way, {len(lost)} had lost their worker.",
    )


def _since(kept: dict[str, Any]) -> dict[str, float]:
    return {name: float(when) for name, when in kept.items()}


def _answer(followed: list[dg.RunRequest | str], otherwise: str) -> dg.SensorResult | dg.SkipReason:
    """Return the runs that follow; where there are none, why."""
    requests = [after for after in followed if isinstance(after, dg.RunRequest)]
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SkipReason(" ".join(after for after in followed if isinstance(after, str)) or otherwise)


def _without_run(instance: dg.DagsterInstance, line: Line) -> list[str]:
    """Return the batches on the way that nobody works on, and for which no run waits."""
    before = datetime.now(UTC) - timedelta(seconds=LEFT_AFTER_S)
    left = [*whereabouts.on_the_way(line.engine, before, line.home.inbox), *_without_file(line, before)]
    # A batch may also be worked on by the run of another one, which corrects it.
    found = holding.unheld(line.engine, left)
    under_way = batches_under_way(instance) if found else frozenset()
    return [batch_id for batch_id in found if batch_id not in under_way]


def _without_file(line: Line, before: datetime) -> list[str]:
    """Return the oldest batches that wait and whose file is not in the inbox, where it would be seen.

    So it is when the database was restored from before they were taken.
    """
    waiting = whereabouts.waiting_since(line.engine, before, line.home.inbox)
    there = {folder: _names(folder) for folder in {source.parent for source in waiting.values()}}
    gone = (
        batch_id
        for batch_id, source in waiting.items()
        if _is_gone(source, there[source.parent], line.home.archive / batch_id)
    )
    return list(islice(gone, MOST_GONE))


def _is_gone(source: Place, there: set[str] | None, archive: Place) -> bool:
    """Return whether a file is not in its folder; a share that is away has lost none that is not archived.

    A store that is away has the archive, too, and each question to it takes long.
    """
    if there is None:
        return isinstance(archive, Path) and bool(_names(archive))
    return source.name not in there


def _names(folder: Place) -> set[str] | None:
    """Return the names of what lies in a folder, None where nobody can say."""
    try:
        return set(os.listdir(folder)) if isinstance(folder, Path) else storage.names(folder)  # noqa: PTH208
    except (OSError, StorageUnavailableError):
        return None


def _of_left(instance: dg.DagsterInstance, line: Line, batch_id: str) -> dg.RunRequest | str:
    """Return the next run of a batch that was left on the way, or why there is none."""
    entry = ledger.entry(line.engine, batch_id)
    batch = entry.batch
    if batch.state is State.WAITING and not archiving.is_ours(line, batch):
        # Who stopped a command that early may not want it.
        return _end(instance, line, batch_id, _untaken(batch_id))
    last = _last_run(instance, batch)
    if _was_to_stop(instance, line, entry, last):
        return f"Batch {batch_id} was to be taken so far and no further."
    if last is not None and last.status is dg.DagsterRunStatus.CANCELED:
        return _end(instance, line, batch_id, _cancelled(batch_id))
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: batch_id}))
    if len(runs) >= MOST_RUNS:
        return _end(instance, line, batch_id, "Its runs ended early, and it can be retried.")
    number = first_free(runs, f"{batch_id}#left-", len(runs))
    return _next_run(instance, batch_id, f"left-{number}", {"file": batch.file_name[:200]})


def _next_run(instance: dg.DagsterInstance, batch_id: str, why: str, tags: dict[str, str]) -> dg.RunRequest:
    """Return the next run of a batch.

    One of a command that was killed early has no partition yet, and a person may have deleted it since: then Dagster
    would refuse the whole tick, again and again, and nobody would hear of the failures behind it.
    """
    instance.add_dynamic_partitions(str(batches.name), [batch_id])
    return dg.RunRequest(run_key=f"{batch_id}#{why}", partition_key=batch_id, tags=tags)


def _was_to_stop(instance: dg.DagsterInstance, line: Line, entry: Entry, last: dg.DagsterRun | None) -> bool:
    """Return whether the last run of a batch came to its own end, but was not asked for that of the batch."""
    if last is None or last.status is not dg.DagsterRunStatus.SUCCESS:
        return False
    return not (_had_ended(line, entry) or _has_told_the_end(instance, entry.batch.batch_id, last))


def _had_ended(line: Line, entry: Entry) -> bool:
    """Return whether a batch had its receipt before a part of its way was done again, which would be out of date."""
    batch = entry.batch
    if batch.state is State.WAITING:
        return True
    if batch.state is State.RECEIVED:
        # One that failed early, or could not be read, has no more than its report.
        return entry.verdict is not None or bool(storage.names(line.reports(batch.batch_id)))
    return entry.has_passed or entry.receipt.finished_at is not None


def _has_told_the_end(instance: dg.DagsterInstance, batch_id: str, run: dg.DagsterRun) -> bool:
    """Return whether a run came to the end of a batch: of a database that was restored since, Dagster alone knows.

    A receipt of an earlier run says nothing: somebody may judge anew what was reverted, and not want it loaded.
    """
    receipts = dg.AssetRecordsFilter(dg.AssetKey("upload_receipts"), asset_partitions=[batch_id])
    told = instance.fetch_materializations(receipts, limit=MOST_RECEIPTS).records
    return any(record.run_id == run.run_id for record in told)


def _last_run(instance: dg.DagsterInstance, batch: Batch) -> dg.DagsterRun | None:
    """Return the latest run of a batch: one of its own, or the one that took it with others."""
    filters = [dg.RunsFilter(tags={PARTITION_TAG: batch.batch_id})]
    if batch.run_id:
        filters.append(dg.RunsFilter(run_ids=[batch.run_id]))
    records = [record for each in filters for record in instance.get_run_records(each, limit=1)]
    return max(records, key=lambda record: record.create_timestamp).dagster_run if records else None


def _is_ours(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Return whether a run is of this code, whose runs all hold a lock; others may share the storage."""
    origin, here = run.remote_job_origin, context.code_location_origin
    if origin is None or here is None:
        return context.repository_def is None or context.repository_def.has_job(run.job_name)
    return origin.location_name == here.location_name


@dg.run_failure_sensor(
    monitored_jobs=[load_batch, load_small_files],
    request_job=load_batch,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a batch again whose run was cut off, or writes its receipt in the end.",
)
def batch_failed(
    context: dg.RunFailureSensorContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """A batch that has ended in its exit is left alone, and so is a run that Dagster starts again by itself."""
    run = context.dagster_run
    if run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"Run {run.run_id} is retried.")
    cut_off, under_way = _cut_off(context.instance, line, run), batches_under_way(context.instance)
    return _answer(
        [
            f"Another run works on batch {batch_id}."
            if batch_id in under_way
            else _what_follows(context, line, batch_id)
            for batch_id in cut_off
        ],
        f"What run {run.run_id} had come to has its receipt.",
    )


def _what_follows(context: dg.RunFailureSensorContext, line: Line, batch_id: str) -> dg.RunRequest | str:
    """Return the next run of a batch that was cut off, or why there is none."""
    run = context.dagster_run
    if context.instance.get_runs_count(dg.RunsFilter(tags={PARTITION_TAG: batch_id})) < MOST_RUNS:
        return _next_run(context.instance, batch_id, f"after-{run.run_id}", _file_tag(run))
    return _end(
        context.instance,
        line,
        batch_id,
        f"Its run ended early and can be retried: {context.failure_event.message}",
    )


def _cut_off(instance: dg.DagsterInstance, line: Line, run: dg.DagsterRun) -> list[str]:
    """Return the batches that a failed run left on the way, or ended but without the last events or the report."""
    states = whereabouts.states(line.engine, batches_of(run))
    if run.job_name != load_small_files.name:
        return [batch_id for batch_id, state in states.items() if _was_cut_off(line, batch_id, state)]
    told = instance.get_materialized_partitions(dg.AssetKey("upload_receipts"))
    return [batch_id for batch_id in _touched(line, states) if batch_id not in told]


def batches_of(run: dg.DagsterRun) -> list[str]:
    """Return the batches that a run takes down the line: one, or the many small ones that share it."""
    if run.job_name == load_small_files.name:
        return batch_ids_in(run.run_config)
    return [run.tags[PARTITION_TAG]] if PARTITION_TAG in run.tags else []


def batches_under_way(instance: dg.DagsterInstance) -> frozenset[str]:
    """Return the batches on which a run works, or for which one waits."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
    return frozenset(batch_id for run in runs for batch_id in batches_of(run))


def _was_cut_off(line: Line, batch_id: str, state: State) -> bool:
    """Return whether a run that failed left its batch on the way, loaded but without the last events, or unreported.

    Every run of a rejected file fails; one that was cut off before the clerk's files were written is no different.
    """
    if state not in FINAL_STATES or state in LOADED_STATES:
        return True
    return state not in (State.FAILED, State.REVERTED) and not stages.is_published(line, batch_id)


def _file_tag(run: dg.DagsterRun) -> dict[str, str]:
    return {name: value for name, value in run.tags.items() if name == "file"}


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED,
    monitored_jobs=[load_batch, load_small_files],
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes the receipt of a batch whose run was cancelled.",
)
def batch_cancelled(context: dg.RunStatusSensorContext, line: dg.ResourceParam[Line]) -> None:
    """What is committed stays; launching `load_batch` on the batch finishes it.

    Small files to which a shared run had not come wait in the inbox as before, and get another run. It answers
    nothing: after an answer Dagster leaves the next run to the next tick, and of many that are cancelled at once the
    last would be loaded before it is heard of.
    """
    on_the_way = _cancelled_on_the_way(context.instance, line, context.dagster_run)
    under_way = batches_under_way(context.instance) if on_the_way else frozenset()
    for batch_id in on_the_way:
        if batch_id not in under_way:
            context.log.info(_end(context.instance, line, batch_id, _cancelled(batch_id)))


def _cancelled_on_the_way(instance: dg.DagsterInstance, line: Line, run: dg.DagsterRun) -> list[str]:
    """Return the batches that a cancelled run left on the way, or ended but without the report or the last events."""
    states = whereabouts.states(line.engine, batches_of(run))
    is_shared = run.job_name == load_small_files.name
    touched = _touched(line, states) if is_shared else sorted(states)
    told = instance.get_materialized_partitions(dg.AssetKey("upload_receipts"))
    return [
        batch_id
        for batch_id in touched
        if states[batch_id] not in FINAL_STATES
        or batch_id not in told
        or not (is_shared or stages.is_published(line, batch_id))  # a shared run tells of what is published
    ]


def _touched(line: Line, states: Mapping[str, State]) -> list[str]:
    """Return the batches of a shared run to which it had come; the files of all others wait in the inbox.

    One whose worker was killed on the way from the archive to the ledger waits there for ever: nobody would see it.
    """
    return [
        batch_id
        for batch_id, state in states.items()
        if state is not State.WAITING or storage.names(line.home.archive / batch_id)
    ]


def _cancelled(batch_id: str) -> str:
    return f"Its run was cancelled. `bulk-upload retry {batch_id}` finishes it."


def _untaken(batch_id: str) -> str:
    return f"Its command ended before it had taken the file. `bulk-upload retry {batch_id}` loads it."


def _end(instance: dg.DagsterInstance, line: Line, batch_id: str, reason: str) -> str:
    """Write the receipt, or the report, of a batch that nobody works on any more, and tell Dagster of it.

    One that has failed has a receipt that says why: that nobody came to its end is no better reason.
    """
    try:
        receipt = ledger.receipt(line.engine, batch_id)
        has_failed = receipt.state is State.FAILED
        if not has_failed or not stages.is_published(line, batch_id):
            receipt = stages.fail(line, batch_id, receipt.reason if has_failed else reason)
    except (BulkUploadError, OSError) as error:  # another run works on it, or a disk is full
        return in_one_line(error)
    for event in account.of_batches(line, [receipt]):
        instance.report_runless_asset_event(event)
    return receipt.reason


RECOVERY = [reaper, batch_failed, batch_cancelled]
