"""The services of docker/compose.yaml as processes of this machine.

Each runs with the command and environment that the file gives it, and is judged by its own health check; only
addresses and folders are swapped for ones of this test. PostgreSQL is the one in a wheel.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
import yaml

import bulk_upload_pipeline
from bulk_upload_pipeline.serving.cluster import cluster_in
from bulk_upload_pipeline_tests.upped import free_port

ROOT = Path(bulk_upload_pipeline.__file__).parent.parent
DOCKER = ROOT / "docker"
SECONDS = 600
"""How long anything may take on a machine that has much else to do."""


def compose(*overlays):
    """The services, as Compose merges its files: lists grow, and of two values the later counts."""
    file = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for overlay in overlays:
        file = merged(file, yaml.safe_load((DOCKER / overlay).read_text()))
    return file


def merged(below, above):
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: merged(below.get(key), above.get(key)) for key in below | above}
    if isinstance(below, list) and isinstance(above, list):
        return below + above
    return below if above is None else above


def interpolated(value, variables):
    """What Compose makes of `${NAME}`, `${NAME:-default}`, `${NAME:+instead}`, `${NAME:?message}` and `$$`."""
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if isinstance(value, dict):
        return {name: interpolated(item, variables) for name, item in value.items()}

    def put(match):
        if match["dollar"]:
            return "$"
        found = variables.get(match["name"], "")
        if not found and match["kind"] == ":?":
            raise KeyError(match["name"])
        if match["kind"] == ":+":
            return match["rest"] if found else ""
        return found or (match["rest"] if match["kind"] == ":-" else "")

    pattern = r"(?P<dollar>\$\$)|\$\{(?P<name>\w+)(?P<kind>:-|:\?|:\+)?(?P<rest>[^}]*)\}"
    return re.sub(pattern, put, value) if isinstance(value, str) else value


def image_environment():
    """What ENV says in the last stage of the Dockerfile."""
    last = (DOCKER / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    pairs = [pair for line in re.findall(r"^ENV (.*)$", last, re.MULTILINE) for pair in shlex.split(line)]
    return dict(pair.split("=", 1) for pair in pairs)


class Deployment:
    """Starts and ends services; use it as a context manager."""

    def __init__(self, *, overlays=(), **variables):
        self.variables = {
            name.partition("=")[0]: f"of-{name.partition('=')[0].lower()}"
            for name in (DOCKER / "env.example").read_text().splitlines()
            if "PASSWORD=" in name
        }
        self.variables |= {"BULK_UPLOAD_UI_HOST": "localhost"} | variables
        self.file = interpolated(compose(*overlays), self.variables)
        self.shares_disk = not overlays
        self.ports = {
            name: free_port()
            for name in (
                "postgres",
                "code",
                "webserver",
                "viewer",
                "redis",
                "ui",
                "ui-viewer",
                "caddy-health",
            )
        }
        # Short, since sockets lie in it, and open to the system user that PostgreSQL runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="bulk-upload-compose-"))
        self.processes = {}

    def __enter__(self):
        self.folder.chmod(0o711)
        for name in ("data", "logs", "secrets", "dagster/storage", "dagster/celery"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "dagster" / "celery" / "storage").symlink_to("../storage")
        pool = (DOCKER / "dagster-celery.yaml").read_text()
        (self.folder / "dagster" / "celery" / "dagster.yaml").write_text(pool)
        (self.folder / "Caddyfile").write_text(self.swapped((DOCKER / "Caddyfile").read_text()))
        for name, secret in self.file["secrets"].items():
            if "environment" not in secret:
                continue  # a file that the test writes
            (self.folder / "secrets" / name).write_text(self.variables[secret["environment"]] + "\n")
        for source in (ROOT / "dagster.yaml", DOCKER / "workspace.yaml"):
            (self.folder / "dagster" / source.name).write_text(self.swapped(source.read_text()))
        return self

    def __exit__(self, *_):
        for name in reversed(list(self.processes)):
            self.end_postgres() if name == "postgres" else self.stop(name)
        subprocess.run(["rm", "-rf", self.folder], check=True)

    @property
    def data(self):
        return self.folder / "data"

    def disk(self, name):
        """The disk of a service, where its temporary files are, too; nobody else sees it unless all share one."""
        disk = self.data if self.shares_disk else self.folder / "disks" / name
        disk.mkdir(parents=True, exist_ok=True)
        return disk

    def swapped(self, text):
        ports = self.ports
        for found, put in {
            r"\bpostgres:5432\b": f"127.0.0.1:{ports['postgres']}",
            r"\bredis:6379\b": f"127.0.0.1:{ports['redis']}",
            r"\bwebserver:3000\b": f"127.0.0.1:{ports['webserver']}",
            r"\bwebserver:3001\b": f"127.0.0.1:{ports['viewer']}",
            r":443\b": f":{ports['ui']}",
            r":8443\b": f":{ports['ui-viewer']}",
            r":8080\b": f":{ports['caddy-health']}",
            r"/etc/caddy\b": str(self.folder),
            r"host: code\b": "host: 127.0.0.1",
            r"\b0\.0\.0\.0\b": "127.0.0.1",
            r"\b5432\b": str(ports["postgres"]),
            r"\b6379\b": str(ports["redis"]),
            r"\b4000\b": str(ports["code"]),
            r"\b3000\b": str(ports["webserver"]),
            r"\b3001\b": str(ports["viewer"]),
            r"/run/secrets\b": str(self.folder / "secrets"),
            r"/opt/dagster\b": str(self.folder / "dagster"),
            r"^/data\b": str(self.data),
        }.items():
            text = re.sub(found, put, text)
        return text

    def environment(self, name, as_name=None):
        stated = {
            key: str(value) for key, value in self.file["services"][name].get("environment", {}).items()
        }
        inside = image_environment() | stated
        path = [
            str(DOCKER),
            str(Path(sys.executable).parent),
            str(self._postgres.programs),
            os.environ["PATH"],
        ]
        return {
            **{key: self.swapped(value) for key, value in inside.items()},
            "PATH": os.pathsep.join(path),
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.data),
            "HOSTNAME": as_name or name,
            **({} if self.shares_disk else {"TMPDIR": str(self.disk(as_name or name))}),
            # This tree's code, with the shared packages.
            "PYTHONPATH": str(ROOT),
        }

    @property
    def _postgres(self):
        return cluster_in((self.folder / "postgres").resolve())

    def command(self, name):
        ours = "build" in self.file["services"][name]
        return [
            *(["with-secrets"] if ours else []),
            *map(self.swapped, self.file["services"][name]["command"]),
        ]

    def start(self, name, *, command=None, as_name=None):
        if name == "postgres":
            command, extra = self._postgres_command()
        else:
            command, extra = command or self.command(name), {}
        with (self.folder / "logs" / f"{as_name or name}.log").open("ab") as log:
            self._spawn(
                as_name or name,
                command,
                self.environment(name, as_name),
                log,
                {"cwd": self.disk(as_name or name)} | extra,
            )

    def _spawn(self, name, command, environment, log, extra):
        self.processes[name] = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **extra,
        )

    def _postgres_command(self):
        """What the official image does: initdb with what it is told, then the command, as another user."""
        cluster = self._postgres
        who = {"user": cluster.os_user, "group": cluster.os_user} if cluster.os_user else {}
        if not cluster.folder.exists():
            cluster.folder.mkdir()
            if cluster.os_user:
                subprocess.run(["chown", f"{cluster.os_user}:", cluster.folder], check=True)
            arguments = shlex.split(self.file["services"]["postgres"]["environment"]["POSTGRES_INITDB_ARGS"])
            subprocess.run(
                [
                    cluster.programs / "initdb",
                    "-D",
                    ".",
                    "-U",
                    "postgres",
                    "--pwfile=../secrets/postgres_password",
                    *arguments,
                ],
                cwd=cluster.folder,
                stdout=subprocess.DEVNULL,
                check=True,
                **who,
            )
        command = list(map(self.swapped, self.file["services"]["postgres"]["command"]))
        command[0] = str(cluster.programs / command[0])
        here = ["-D", ".", "-p", str(self.ports["postgres"]), "-k", ".", "-c", "listen_addresses=127.0.0.1"]
        return [*command, *here], {"cwd": cluster.folder, **who}

    def start_pool(self, *workers):
        """Start all that loads files, with these workers."""
        for name in ("postgres", "redis"):
            self.start(name)
            self.wait_healthy(name)
        done = self.run("init")
        assert done.returncode == 0, done.stderr
        self.start("code")
        self.start_workers(*workers)
        self.wait_healthy("code")
        self.start("daemon")
        self.wait_healthy("daemon")

    def start_workers(self, *workers):
        for name in workers:
            self.start("worker", as_name=name)
        for name in workers:
            self.wait_healthy("worker", as_name=name)

    def run(self, name, *command):
        """Run a command in the surroundings of a service, as `docker compose run` does; return how it ended."""
        return subprocess.run(
            [*(self.command(name) if not command else ["with-secrets", *command])],
            env=self.environment(name),
            cwd=self.data,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def is_healthy(self, name, *, as_name=None):
        """Run a service's own health check once."""
        kind, *test = self.file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return (
            subprocess.run(
                list(map(self.swapped, test)),
                env=self.environment(name, as_name),
                cwd=self.data,
                capture_output=True,
                timeout=60,
                check=False,
            ).returncode
            == 0
        )

    def wait_healthy(self, name, *, as_name=None):
        self.wait(lambda: self.is_healthy(name, as_name=as_name), as_name or name)

    def wait(self, condition, name=None):
        """Return what a condition yields once it is true; fail when the service ends or time is over."""
        deadline = time.monotonic() + SECONDS
        while not (found := condition()):
            process = self.processes.get(name)
            ended = process is not None and process.poll() is not None
            assert not ended, self.said(name)
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.2)
        return found

    def log(self, name):
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else "nothing"

    def said(self, name):
        return self.log(name)[-4_000:]

    def stop(self, name, how=signal.SIGKILL, patience=0.0):
        """End a service and, after a while, all its children: as stopping its container does."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def end_postgres(self):
        """End it as its image is stopped: it ends its children itself, which are in groups of their own."""
        self.stop("postgres", signal.SIGINT, 60)

    def ask(self, query, role="READER", database="bulk_upload"):
        name = "postgres" if role == "POSTGRES" else f"bulk_upload_{role.lower()}"
        url = sa.URL.create(
            "postgresql+psycopg2",
            name,
            self.variables[f"{role}_PASSWORD"],
            "127.0.0.1",
            self.ports["postgres"],
            database,
        )
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]
