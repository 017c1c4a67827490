"""A `bulk-upload up` under test: the command itself, in a process of its own, asked as people ask it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.serving import cluster, processes
from bulk_upload_pipeline.settings import Home

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "bulk_upload_pipeline.cli"]
FINAL = "('loaded', 'partially_loaded', 'rejected', 'unreadable', 'duplicate', 'failed')"

_MATERIALIZED = """
query ($asset: String!, $batches: [String!]!) {
  assetNodeOrError(assetKey: {path: [$asset]}) {
    ... on AssetNode {
      latestMaterializationByPartition(partitions: $batches) {
        partition runId metadataEntries { label ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue } }
      }
    }
  }
}
"""
_CHECKED = """
query ($asset: String!, $check: String!) {
  assetCheckExecutions(assetKey: {path: [$asset]}, checkName: $check, limit: 1000) {
    status evaluation { success severity partition }
  }
}
"""
_RUN = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status jobName } } }"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, seconds=120):
    """Return what `condition` comes to, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"it did not come true in {seconds} s"
        time.sleep(0.1)
    return answer


@dataclass
class Upped:
    """A running `up`.

    Attributes:
        told: The lines that it printed.
    """

    home: Home
    port: int
    process: subprocess.Popen[str]
    told: list[str] = field(default_factory=list)
    engine: sa.Engine | None = None

    def listen(self):
        """Keep what it prints, in a thread of its own."""
        threading.Thread(target=lambda: self.told.extend(self.process.stdout), daemon=True).start()

    def drop(self, name, content):
        """Put a file into the inbox as a careful program does: under its name when it is whole."""
        unfinished = self.home.inbox / f"{name}.part"
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.rename(self.home.inbox / name)

    def rows(self, query, **parameters):
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query), parameters)]

    def states(self):
        """The state of each batch that has its receipt, by the name of its file."""
        found = f"SELECT file_name, state FROM bulk_upload.upload_batches WHERE state IN {FINAL}"
        return dict(self.rows(found))

    def batch(self, file_name):
        ((batch_id,),) = self.rows(
            "SELECT batch_id FROM bulk_upload.upload_batches WHERE file_name = :name", name=file_name
        )
        return batch_id

    def ask(self, query, **variables):
        """Ask Dagster's GraphQL API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def materialized(self, asset, batch_id):
        """The metadata and run of the latest materialization of a batch; None while there is none."""
        found = self.ask(_MATERIALIZED, asset=asset, batches=[batch_id])["assetNodeOrError"]
        (event,) = found["latestMaterializationByPartition"]
        if event is None:
            return None
        entries = {e["label"]: e.get("text", e.get("intValue")) for e in event["metadataEntries"]}
        return entries | {"run": event["runId"]}

    def checked(self, asset, check, batch_id):
        """Whether a check passed for a batch, and how severe it is; None while there is no answer."""
        found = self.ask(_CHECKED, asset=asset, check=check)["assetCheckExecutions"]
        of_batch = [
            e["evaluation"] for e in found if e["evaluation"] and e["evaluation"]["partition"] == batch_id
        ]
        return (of_batch[0]["success"], of_batch[0]["severity"]) if of_batch else None

    def run(self, run_id):
        """Status and job of a run."""
        found = self.ask(_RUN, run=run_id)["runOrError"]
        return found["status"], found["jobName"]

    def stop(self, number=signal.SIGTERM):
        """End it as a person does, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)


@contextmanager
def upped(root, *options, environment=None):
    """Yield an `up` on a home of its own, when it says that files may be dropped."""
    home, port = Home(root), free_port()
    ours = {name: value for name, value in os.environ.items() if not name.startswith("BULK_UPLOAD_")}
    ours |= (environment or {}) | {"BULK_UPLOAD_HOME": str(root), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [*COMMAND, "up", "--port", str(port), *options],
        env=ours,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        world = Upped(home, port, process)
        try:
            world.listen()
            wait_until(lambda: any("Drop files" in line for line in world.told) or process.poll() is not None)
            assert process.poll() is None, "".join(world.told)
            world.engine = make_engine(database_url(home))
            yield world
        finally:
            if world.engine is not None:
                world.engine.dispose()
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()
                processes.end_all(processes.marked(home.root), 5)


def database_url(home):
    """URL of the invoices' database on the running server of a home."""
    postmaster = cluster.postmaster_of(cluster.cluster_in(home.postgres))
    address = {"host": postmaster.sockets, "port": str(postmaster.port)}
    return sa.URL.create("postgresql+psycopg2", "postgres", database="bulk_upload", query=address)
