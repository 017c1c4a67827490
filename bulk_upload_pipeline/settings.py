"""What a home is configured with. The one place that reads the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bulk_upload_pipeline.exceptions import SettingInvalidError
from bulk_upload_pipeline.places import SCHEME, Place, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = "BULK_UPLOAD_HOME"
DATABASE_URL = "BULK_UPLOAD_DATABASE_URL"
DAGSTER_DATABASE_URL = "BULK_UPLOAD_DAGSTER_DATABASE_URL"
MAX_ERROR_RATE = "BULK_UPLOAD_MAX_ERROR_RATE"
CHUNK_ROWS = "BULK_UPLOAD_CHUNK_ROWS"
PART_MB = "BULK_UPLOAD_PART_MB"
FIRST_DAY = "BULK_UPLOAD_FIRST_DAY"
ADMIN_DATABASE_URL = "BULK_UPLOAD_ADMIN_DATABASE_URL"
ROLE_PASSWORD = "BULK_UPLOAD_{}_PASSWORD"  # noqa: S105 - the name of a variable
ROLES = ("OWNER", "LOADER", "READER", "DAGSTER")
UI_PASSWORD = "BULK_UPLOAD_UI_PASSWORD"  # noqa: S105 - the name of a variable
VIEWER_PASSWORD = "BULK_UPLOAD_VIEWER_PASSWORD"  # noqa: S105
UI_HOSTS = "BULK_UPLOAD_UI_HOSTS"
BROKER_URL = "BULK_UPLOAD_BROKER_URL"
ALERT_URLS = "BULK_UPLOAD_ALERT_URLS"
KEEP_LOGS_DAYS = "BULK_UPLOAD_KEEP_LOGS_DAYS"
KEEP_FAILED_RUNS_DAYS = "BULK_UPLOAD_KEEP_FAILED_RUNS_DAYS"
KEEP_REPORTS_DAYS = "BULK_UPLOAD_KEEP_REPORTS_DAYS"
KEEP_ARCHIVE_DAYS = "BULK_UPLOAD_KEEP_ARCHIVE_DAYS"

DEFAULT_HOME = "data"
DEFAULT_MAX_ERROR_RATE = 0.5
DEFAULT_CHUNK_ROWS = 10_000
LONGEST_CHUNK = 1_000_000
DEFAULT_PART_MB = 128
LARGEST_PART_MB = 1_000_000
LONGEST_KEPT = 36_500
DEFAULT_FIRST_DAY = date(2010, 1, 1)
EARLIEST_DAY = date(1990, 1, 1)
"""No invoice that loads is older: a rule of the contract."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of an installation, all below `root`.

    Attributes:
        root: A folder, or a key in an object store that many machines share.
        scratch: Of an object store: where copies lie on this machine; `storage.opened` makes it.
    """

    root: Place
    scratch: Path | None = None

    @property
    def inbox(self) -> Place:
        """Where people drop files."""
        return self.root / "inbox"

    @property
    def archive(self) -> Place:
        """`archive/<batch_id>/<file name>`: every file as it was received, for as long as `Keeping` says."""
        return self.root / "archive"

    @property
    def staging(self) -> Place:
        """`staging/<batch_id>/`: validated rows on their way, removed when they are loaded."""
        return self.root / "staging"

    @property
    def reports(self) -> Place:
        """`reports/<batch_id>/`: what the clerk reads and corrects."""
        return self.root / "reports"

    @property
    def profiles(self) -> Path:
        """Profiles of this home, one TOML file each; of an object store the copies at hand."""
        return (self.scratch or self.machine) / "profiles"

    @property
    def machine(self) -> Path:
        """What belongs to this machine alone: the folder itself, or `./data` beside an object store."""
        return self.root if isinstance(self.root, Path) else Path(DEFAULT_HOME).absolute()

    @property
    def postgres(self) -> Path:
        """Data of the embedded PostgreSQL."""
        return self.machine / "postgres"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME of the local services."""
        return self.machine / "dagster"

    def make(self) -> None:
        """Create the folders that do not exist yet; an object store has none.

        Raises:
            SettingInvalidError: There can be no folder, or nothing in it.
        """
        if not isinstance(self.root, Path):
            return
        try:
            for name in ("inbox", "archive", "staging", "reports", "profiles", "dagster"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            wanted = f"a folder in which folders can be made ({error.strerror})"
            raise SettingInvalidError(HOME, str(self.root), wanted) from error


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long things are kept, in days; None means for ever.

    Attributes:
        logs: Log lines and other events of runs from which nothing is computed.
        failed_runs: Failed and cancelled runs that hold no materialization.
        reports: The report folders of batches.
        archive: The files themselves.
        partitions: How many partitions Dagster shows at most; older ones whose batch has ended leave its UI.
    """

    logs: int | None = 30
    failed_runs: int | None = 90
    reports: int | None = None
    archive: int | None = None
    partitions: int = 20_000


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a process.

    Attributes:
        database_url: PostgreSQL of the invoices; None means the embedded one.
        dagster_database_url: PostgreSQL of Dagster's storage; None means database `dagster` on the same
            server.
        part_bytes: Least size of the parts in which several workers share a file of three and more.
        first_day: First partition of `daily_sales`; older days are counted, but have no partition.
        ui_password: Asked for by the UI; None asks for none.
        viewer_password: Asked for by the port for viewers; None means that of the UI.
        ui_hosts: Names under which the UI answers besides those of this machine.
        broker_url: Redis of the worker pool; None means that runs are children of the code server.
        alert_urls: Where alerts go: URLs of Apprise, which hold secrets.
        keeping: How long things are kept.
    """

    home: Home
    database_url: str | None = None
    dagster_database_url: str | None = None
    max_error_rate: float = DEFAULT_MAX_ERROR_RATE
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    part_bytes: int = DEFAULT_PART_MB << 20
    first_day: date = DEFAULT_FIRST_DAY
    ui_password: str | None = field(default=None, repr=False)
    viewer_password: str | None = field(default=None, repr=False)
    ui_hosts: tuple[str, ...] = ()
    broker_url: str | None = field(default=None, repr=False)
    alert_urls: tuple[str, ...] = field(default=(), repr=False)
    keeping: Keeping = field(default_factory=Keeping)


def unguarded(settings: Settings) -> str | None:
    """Return, in a sentence, that only viewers are asked for a password; None where that is not so."""
    if settings.viewer_password is None or settings.ui_password is not None:
        return None
    return (
        f"The UI asks nobody for a password: {VIEWER_PASSWORD} is set, but {UI_PASSWORD} is not. Set it, too."
    )


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings that the environment states.

    Raises:
        SettingInvalidError: A variable has a value that cannot be used.
    """
    return Settings(
        home=Home(_root(environment)),
        database_url=_stated(environment, DATABASE_URL) or None,
        dagster_database_url=_stated(environment, DAGSTER_DATABASE_URL) or None,
        max_error_rate=_rate(environment),
        chunk_rows=_chunk_rows(environment),
        part_bytes=_part_mb(environment) << 20,
        first_day=_first_day(environment),
        ui_password=_password(environment, UI_PASSWORD),
        viewer_password=_password(environment, VIEWER_PASSWORD),
        ui_hosts=_names(environment, UI_HOSTS),
        broker_url=_stated(environment, BROKER_URL) or None,
        alert_urls=tuple(environment.get(ALERT_URLS, "").split()),
        keeping=_keeping(environment),
    )


def _stated(environment: Mapping[str, str], variable: str) -> str:
    """Return what a variable states, without the blanks and line breaks that files of settings leave around it."""
    return environment.get(variable, "").strip()


def _password(environment: Mapping[str, str], variable: str) -> str | None:
    """Return a password without the line break that a file of settings leaves behind it; blanks may be meant."""
    stated = environment.get(variable, "")
    password = stated.strip("\r\n")
    if stated and (not password.strip() or len(password.splitlines()) > 1):
        raise SettingInvalidError(variable, "...", "one line that holds more than blanks")
    return password or None


def _root(environment: Mapping[str, str]) -> Place:
    stated = _stated(environment, HOME) or DEFAULT_HOME
    if stated.startswith(SCHEME) and stated.removeprefix(SCHEME).strip("/"):
        if find_spec("s3fs") is None:
            extra = "`pip install 'bulk-upload-pipeline[s3]'`"
            raise SettingInvalidError(
                HOME, stated, f"a folder as long as the extra `s3` is not installed ({extra})"
            )
        return place_of(stated)
    if "://" in stated:
        raise SettingInvalidError(HOME, stated, f"a folder, or a bucket such as {SCHEME}bucket/prefix")
    return Path(stated).absolute()


def _rate(environment: Mapping[str, str]) -> float:
    stated = _stated(environment, MAX_ERROR_RATE)
    if not stated:
        return DEFAULT_MAX_ERROR_RATE
    try:
        rate = float(stated)
    except ValueError:
        rate = -1.0
    if not 0 < rate <= 1:
        raise SettingInvalidError(MAX_ERROR_RATE, stated, "a share above 0 and at most 1, such as 0.5")
    return rate


def _chunk_rows(environment: Mapping[str, str]) -> int:
    stated = _stated(environment, CHUNK_ROWS)
    if not stated:
        return DEFAULT_CHUNK_ROWS
    rows = _whole(stated)
    if not 1 <= rows <= LONGEST_CHUNK:
        raise SettingInvalidError(CHUNK_ROWS, stated, f"a whole number from 1 to {LONGEST_CHUNK:,}")
    return rows


def _part_mb(environment: Mapping[str, str]) -> int:
    stated = _stated(environment, PART_MB)
    if not stated:
        return DEFAULT_PART_MB
    megabytes = _whole(stated)
    if not 1 <= megabytes <= LARGEST_PART_MB:
        raise SettingInvalidError(PART_MB, stated, f"a whole number of MB from 1 to {LARGEST_PART_MB:,}")
    return megabytes


def _whole(stated: str) -> int:
    """Return a whole number as it is written; 0 for what is none, or longer than any that is of use."""
    return int(stated) if stated.isascii() and stated.isdecimal() and len(stated) <= 20 else 0


def _first_day(environment: Mapping[str, str]) -> date:
    stated = _stated(environment, FIRST_DAY)
    if not stated:
        return DEFAULT_FIRST_DAY
    today = datetime.now(UTC).date()
    try:
        day = date.fromisoformat(stated)
    except ValueError:
        day = date.max
    if not EARLIEST_DAY <= day <= today:
        raise SettingInvalidError(
            FIRST_DAY, stated, f"a day from {EARLIEST_DAY} to today, such as 2010-01-01"
        )
    return day


def read_provisioning(environment: Mapping[str, str] = os.environ) -> tuple[str, dict[str, str]]:
    """Return the administrator's URL and the password of each of `ROLES`, by its name in small letters.

    Raises:
        SettingInvalidError: A variable is not set.
    """
    url = _stated(environment, ADMIN_DATABASE_URL)
    if not url:
        raise SettingInvalidError(
            ADMIN_DATABASE_URL, "", "the URL of the server as a role that may create others"
        )
    passwords = {role.lower(): environment.get(ROLE_PASSWORD.format(role), "") for role in ROLES}
    for role, password in passwords.items():
        if not password:
            name = ROLE_PASSWORD.format(role.upper())
            raise SettingInvalidError(name, "", f"the password that the role of the {role} gets")
    return url, passwords


def _names(environment: Mapping[str, str], variable: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in environment.get(variable, "").split(",") if name.strip())


def _keeping(environment: Mapping[str, str]) -> Keeping:
    default = Keeping()
    return Keeping(
        logs=_days(environment, KEEP_LOGS_DAYS, default.logs),
        failed_runs=_days(environment, KEEP_FAILED_RUNS_DAYS, default.failed_runs),
        reports=_days(environment, KEEP_REPORTS_DAYS, default.reports),
        archive=_days(environment, KEEP_ARCHIVE_DAYS, default.archive),
    )


def _days(environment: Mapping[str, str], variable: str, default: int | None) -> int | None:
    stated = _stated(environment, variable)
    if not stated:
        return default
    if stated == "forever":
        return None
    if not 1 <= _whole(stated) <= LONGEST_KEPT:
        raise SettingInvalidError(variable, stated, "a whole number of days from 1 to 36,500, or `forever`")
    return int(stated)


def stated(keeping: Keeping) -> dict[str, str]:
    """Return the variables that state how long things are kept, for another process."""
    days = {
        KEEP_LOGS_DAYS: keeping.logs,
        KEEP_FAILED_RUNS_DAYS: keeping.failed_runs,
        KEEP_REPORTS_DAYS: keeping.reports,
        KEEP_ARCHIVE_DAYS: keeping.archive,
    }
    return {variable: "forever" if kept is None else str(kept) for variable, kept in days.items()}
