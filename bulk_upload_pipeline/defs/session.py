"""`bulk-upload load`: runs of `load_batch` in this process, without daemon or queue, visible in the UI."""

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from bulk_upload_pipeline import archiving, holding, intake, ledger, liveness, local, settling, storage
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.defs.exits import receipt_event
from bulk_upload_pipeline.defs.partitions import PARTITION_TAG, UNDER_WAY, batches
from bulk_upload_pipeline.defs.resources import living
from bulk_upload_pipeline.exceptions import BatchBusyError, NotTakenAgainError
from bulk_upload_pipeline.model import ENDED_STATES, Overrides, Progress, Receipt
from bulk_upload_pipeline.settings import Settings
from bulk_upload_pipeline.upgrading.schema import migrate
from bulk_upload_pipeline.workplace import Line

BEGUN = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)

LOOKS, BETWEEN_LOOKS_S = 2, 2 * liveness.BETWEEN_LOOKS
"""A run is lost when no look finds its worker; one that lost its connection has taken its lock again by the next."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Dagster's log goes to its storage and the UI, not between the lines of a terminal."""

SAYS_PAST_THE_LOG = "dagster._core.execution.plan.active"
"""Of steps that a duplicate skips, this logger says that a check gates nothing, and no setting of a run reaches it."""


@dataclass(frozen=True)
class Session:
    """Dagster's storage and the line of one home, for the length of a command."""

    instance: dg.DagsterInstance
    line: Line

    def load(self, path: Path, overrides: Overrides, listener: Callable[[Progress], None]) -> Receipt:
        """Take one file through the line and return its receipt.

        Raises:
            FileMissingError: There is no such file.
        """
        batch_id = intake.announce(self.line, path, overrides)
        return self.run(batch_id, listener)

    def retry(self, batch_id: str, listener: Callable[[Progress], None]) -> Receipt:
        """Take a batch down the line again and return its receipt.

        Raises:
            BatchNotFoundError: There is none with this id.
            BatchBusyError: A run of it is under way or waits for its turn.
            FileThrownAwayError: Its file was taken before, and is gone from the archive.
        """
        self._refuse_under_way(batch_id)
        with holding.alone(self.line.engine, batch_id, patience=0):
            pass  # a worker that Dagster does not know by the batch, such as one of many small files, holds it
        archiving.make_sure_it_is_there(self.line, ledger.batch(self.line.engine, batch_id))
        self.instance.add_dynamic_partitions(str(batches.name), [batch_id])
        return self.run(batch_id, listener)

    def revert(self, batch_id: str) -> Receipt:
        """Undo a load, show it in Dagster, and return the receipt.

        Raises:
            BatchNotFoundError: There is none with this id.
            NothingToRevertError: No row of it is loaded.
            RevertRefusedError: Later batches have changed the same rows since.
            BatchBusyError: A worker is loading it, or a run of it waits for its turn, and would load it again.
        """
        self._refuse_under_way(batch_id)
        receipt = stages.revert(self.line, batch_id)
        self.instance.add_dynamic_partitions(str(batches.name), [batch_id])
        for told in (*settling.relatives(self.line, receipt), receipt):
            self.instance.report_runless_asset_event(receipt_event(self.line, told))
        return receipt

    def _refuse_under_way(self, batch_id: str) -> None:
        """Raise `BatchBusyError` when a run of a batch is under way; end those whose worker was killed.

        Where a daemon runs that is the reaper's, and Dagster starts them again; where none does, nobody else would.
        """
        from bulk_upload_pipeline.defs import helping
        from bulk_upload_pipeline.defs.recovery import LOST

        ledger.batch(self.line.engine, batch_id)
        filters = dg.RunsFilter(tags={PARTITION_TAG: batch_id}, statuses=UNDER_WAY)
        runs = self.instance.get_runs(filters)
        if runs and (helping.may_come(self.instance) or not self._are_lost(runs)):
            raise BatchBusyError(batch_id)
        for run in runs:
            self.instance.report_run_failed(run, LOST)

    def _are_lost(self, runs: Sequence[dg.DagsterRun]) -> bool:
        """Return whether nobody works on any of these runs; one that waits for its turn is not lost."""
        if any(run.status not in BEGUN for run in runs):
            return False
        ids = {run.run_id for run in runs}
        for look in range(LOOKS):
            if look:
                time.sleep(BETWEEN_LOOKS_S)
            if liveness.without_worker(self.line.engine, ids, settled=0) != ids:
                return False
        return True

    def run(self, batch_id: str, listener: Callable[[Progress], None]) -> Receipt:
        """Run `load_batch` for a batch and return its receipt, whatever the exit was.

        Raises:
            NotTakenAgainError: It had ended before, and the run failed before it noted anything.
        """
        from bulk_upload_pipeline.definitions import defs
        from bulk_upload_pipeline.defs import helping

        line = replace(self.line, is_helped=helping.may_come(self.instance)).listening(listener)
        self.instance.add_dynamic_partitions(str(batches.name), [batch_id])
        file_name = ledger.batch(self.line.engine, batch_id).file_name
        with _without_skipped_gates():
            result = defs.resolve_job_def("load_batch").execute_in_process(
                instance=self.instance,
                partition_key=batch_id,
                resources={"line": living(line)},
                run_config=QUIET,
                tags={"file": file_name[:200]},
                raise_on_error=False,
            )
        receipt = ledger.receipt(self.line.engine, batch_id)
        if not result.success and receipt.run_id != result.run_id and receipt.state in ENDED_STATES:
            # Its receipt is of an earlier run: to show it would say that this one did something.
            raise NotTakenAgainError(batch_id, _cause(result))
        return receipt


def _cause(result: dg.ExecuteInProcessResult) -> str:
    """Return what the innermost error of a failed run says, in one line."""
    failures = result.filter_events(lambda event: event.is_step_failure)
    error = failures[0].step_failure_data.error if failures else None
    while error is not None and error.cause is not None:
        error = error.cause
    lines = error.message.strip().splitlines() if error is not None else []
    return lines[0].strip() if lines else f"run {result.run_id} says why"


@contextmanager
def _without_skipped_gates() -> Generator[None]:
    """Keep off the terminal that a check had nothing to judge: what it gates is skipped as well."""
    logger = logging.getLogger(SAYS_PAST_THE_LOG)
    logger.addFilter(_is_no_skipped_gate)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_skipped_gate)


def _is_no_skipped_gate(record: logging.LogRecord) -> bool:
    return "emitted no result" not in record.getMessage()


@contextmanager
def session(settings: Settings) -> Generator[Session]:
    """Yield a session on a home; PostgreSQL is started, and brought up to date, when it must be."""
    settings.home.make()
    with storage.opened(settings) as at_hand, local.postgres(settings) as urls:
        migrate(urls.invoices)
        os.environ.update(local.dagster_environment(settings, urls))
        engine = make_engine(urls.invoices)
        with dg.DagsterInstance.get() as instance:
            try:
                yield Session(instance, Line(at_hand, engine))
            finally:
                engine.dispose()
