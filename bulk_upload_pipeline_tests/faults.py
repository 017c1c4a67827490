"""Faults at every effect of the line: a worker process that dies, fails or is cut off exactly there.

Nothing is listed by hand. An effect is whatever changes the world outside of the process: a file that is
opened, renamed or removed, a statement that writes, a COMMIT, a chunk that is staged. Each is caught where
Python hands it to the operating system or the database, and named after the function of the package that
asked for it. Between two effects the world does not change, so faults before each effect, and after each
COMMIT, are faults everywhere.

Run as a program it is a nursery: it has everything imported, has taken batches down the line itself, so that all
that is made once a process is made, and forks a worker for each line that it reads.
"""

from __future__ import annotations

import errno
import functools
import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa

import bulk_upload_pipeline

PACKAGE = str(Path(bulk_upload_pipeline.__file__).parent) + os.sep
FILE_EFFECTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "shutil.copyfile"}
READS = ("SELECT", "SHOW", "SET ", "BEGIN", "ROLLBACK", "RELEASE", "SAVEPOINT", "COPY (")
LOCKS = ("pg_try_advisory_lock", "pg_advisory_lock", "pg_advisory_unlock")


class FaultError(Exception):
    """What a fault of kind `exception` raises: a defect that nobody foresaw."""


class Faults:
    """Counts the effects of this process by name, and does `kind` at the one called `point`."""

    def __init__(self, root, point=None, kind=None):
        self.root, self.point, self.kind = root, point, kind
        self.points: list[str] = []
        self.called: set[str] = set()
        self.hit = False
        self._seen: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._within = threading.local()

    def watch(self, engine, *, calls=False):
        sys.addaudithook(self._audit)
        self._watch_arrow()
        sa.event.listen(engine, "do_connect", self._connect)
        if calls:
            threading.setprofile(self._profile)
            sys.setprofile(self._profile)

    def effect(self, what, connection=None):
        """An effect is about to happen (or, for `after COMMIT`, has just happened)."""
        if getattr(self._within, "busy", False) or (where := asked_by()) is None:
            return
        with self._lock:
            name = f"{where} {what}"
            self._seen[name] += 1
            name = f"{name} #{self._seen[name]}"
            self.points.append(name)
            if name != self.point or self.hit:
                return
            self.hit = True
        self._within.busy = True
        try:
            self._do(what, connection)
        finally:
            self._within.busy = False

    def _do(self, what, connection):
        match self.kind:
            case "exception":
                raise FaultError(self.point)
            case "kill -9":
                os.kill(os.getpid(), signal.SIGKILL)
            case "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            case "full disk" if connection is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "full disk":
                fill_disk_of_server(connection)
            case "dropped connection":
                drop(connection)
                if what == "after COMMIT":
                    raise psycopg2.OperationalError("server closed the connection unexpectedly")

    def _audit(self, event, arguments):
        if event not in FILE_EFFECTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(self.root):
            writes = event == "open" and not reads_only(arguments)
            self.effect(f"{event} to write" if writes else event)

    def _watch_arrow(self):
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrows = pa.ipc.RecordBatchFileWriter
        for owner, name in ((arrows, "write_batch"), (pq.ParquetWriter, "write_table"), (pq, "write_table")):
            setattr(owner, name, self._before(getattr(owner, name), "staging"))

    def _before(self, function, what):
        def effect_first(*args, **named):
            self.effect(what)
            return function(*args, **named)

        return effect_first

    def _connect(self, _dialect, _record, _arguments, named):
        named["connection_factory"] = connection_class(self)

    def _profile(self, frame, event, _argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.called.add(f"{room_of(frame)}.{frame.f_code.co_qualname}")


def reads_only(arguments):
    _, mode, flags = arguments
    if mode is None:
        return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return not set(mode) & set("wax+")


def asked_by():
    """The function of the package, innermost first, on whose behalf this thread is working."""
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return None if frame is None else f"{room_of(frame)}.{frame.f_code.co_qualname.replace('.<locals>', '')}"


def room_of(frame):
    return frame.f_code.co_filename.removeprefix(PACKAGE).removesuffix(".py").replace(os.sep, ".")


def drop(connection):
    """Cut a connection from the server's side, and wait until it is gone."""
    url = connection.info.dsn_parameters
    other = psycopg2.connect(host=url["host"], port=url["port"], user=url["user"], dbname=url["dbname"])
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (connection.info.backend_pid,))
    other.close()


def fill_disk_of_server(connection):
    """Let the server refuse to go on as it does when it cannot extend a file."""
    with connection.cursor() as cursor:
        cursor.execute("DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$")


def connection_class(faults):
    """A psycopg2 connection whose writing statements and COMMITs are effects."""

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query, *args):
            with self._effect(query):
                return super().execute(query, *args)

        def executemany(self, query, *args):
            with self._effect(query):
                return super().executemany(query, *args)

        def copy_expert(self, query, *args, **named):
            with self._effect(query):
                return super().copy_expert(query, *args, **named)

        @contextmanager
        def _effect(self, query):
            text = query if isinstance(query, str) else query.as_string(self.connection)
            lock = next((name for name in LOCKS if name in text), None)
            writes = not lock and not text.lstrip().upper().startswith(READS)
            if lock or writes:
                faults.effect(lock or " ".join(text.split()[:3]), self.connection)
            if writes and self.connection.autocommit:
                yield
                faults.effect("after COMMIT", self.connection)  # outside of a transaction it is one by itself
            else:
                self.connection.dirty = self.connection.dirty or writes
                yield

    class Connection(psycopg2.extensions.connection):
        dirty = False

        def cursor(self, *args, **named):
            return super().cursor(*args, **{"cursor_factory": Cursor} | named)

        def commit(self):
            with committing(self):
                super().commit()

    class committing:
        def __init__(self, connection):
            self.connection = connection

        def __enter__(self):
            if self.connection.dirty:
                faults.effect("before COMMIT", self.connection)

        def __exit__(self, kind, *_):
            if kind is None and self.connection.dirty:
                self.connection.dirty = False
                faults.effect("after COMMIT", self.connection)

    return Connection


# The nursery


@functools.cache
def engine_of(url):
    """The engine of a nursery: a worker inherits the statements that it has compiled, and none of its connections."""
    from bulk_upload_pipeline.database import make_engine

    return make_engine(url)


@contextmanager
def line_of(order):
    from bulk_upload_pipeline import storage
    from bulk_upload_pipeline.settings import Home, Settings
    from bulk_upload_pipeline.workplace import Line

    stated = {"chunk_rows": order["chunk_rows"]} | ({"part_bytes": 900} if order.get("small_parts") else {})
    engine = engine_of(order["url"])
    with storage.opened(Settings(Home(Path(order["root"])), order["url"], **stated)) as settings:
        yield Line(settings, engine)
    engine.dispose()


def warm(order):
    """Take one batch down the line without any fault: what it leaves in this process, its workers need not do."""
    with line_of(order) as line:
        ended = through_dagster(line, order) if order.get("dagster") else by_hand(line, order)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return {"ended": ended, "points": []}


def work(order):
    """Take one batch through the line as `order` says; returns what is to be told of it."""
    from bulk_upload_pipeline.recognising import dialects, encodings

    if order["small_parts"]:
        encodings.BLOCK_BYTES = dialects.TOP_BYTES = 256
    with line_of(order) as line:
        faults = Faults(order["root"], order.get("point"), order.get("kind"))
        faults.watch(line.engine, calls=order.get("calls", False))
        ended = through_dagster(line, order) if order.get("dagster") else by_hand(line, order)
    sys.setprofile(None)
    return {"ended": ended, "points": faults.points, "called": sorted(faults.called), "hit": faults.hit}


def by_hand(line, order):
    """The stages as they are; what fails ends in its receipt, and is tried again if that is the order."""
    from bulk_upload_pipeline import line as stages

    ended = "killed"
    for _ in range(2 if order.get("kind") and order.get("kind") != "kill -9" else 1):
        try:
            if order.get("revert"):
                stages.revert(line, order["batch_id"])
                return "undone"
            ended = all_stages(line, order["batch_id"])
        except Exception as error:  # noqa: BLE001 - as the glue does: whatever it is, the batch has its receipt
            ended = f"{type(error).__name__}: {error}"
            if not order.get("revert"):
                stages.fail(line, order["batch_id"], ended)
    return ended


def all_stages(line, batch_id):
    from bulk_upload_pipeline import line as stages
    from bulk_upload_pipeline.exceptions import DataFaultError, FileStillChangingError

    try:
        if stages.upload(line, batch_id).receipt is None:
            stages.validate(line, batch_id)
            stages.load(line, batch_id)
            stages.close(line, batch_id)
    except (DataFaultError, FileStillChangingError):
        pass  # an exit, which has its receipt, or no exit at all
    return "in its exit"


def through_dagster(line, order):
    import dagster as dg

    from bulk_upload_pipeline.defs import exits
    from bulk_upload_pipeline_tests.world import run

    exits.SECONDS_BEFORE_FIRST = 0.01
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the worker of a run takes it
    with dg.DagsterInstance.ephemeral() as instance:
        run(line, order["batch_id"], instance)
    return "as Dagster says"


def main():
    """Fork a worker for each order (a line of JSON), and answer with what became of it."""
    import_everything()
    for text in sys.stdin:
        if (order := json.loads(text)).get("warm"):
            answer_with({"signal": 0} | warm(order))
            gc.collect()
            gc.freeze()
            continue
        readable, writable = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(readable)
            try:
                told = work(order)
            except BaseException:  # noqa: BLE001 - a fork that dies untold would look like a kill
                told = {"ended": traceback.format_exc()}
            with os.fdopen(writable, "w") as answer:
                json.dump(told, answer)
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as answer:
            told = answer.read()
        _, status = os.waitpid(pid, 0)
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        answer_with({"signal": signalled} | (json.loads(told) if told else {}))


def answer_with(told):
    json.dump(told, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()


def import_everything():
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules([PACKAGE], "bulk_upload_pipeline."):
        importlib.import_module(module.name)
    importlib.import_module("bulk_upload_pipeline_tests.world")
    from bulk_upload_pipeline.validate import prepare

    prepare()


if __name__ == "__main__":
    main()
