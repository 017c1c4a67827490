"""The fault matrix: whatever happens at whichever point, a retry makes the world that of an undisturbed load."""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import openpyxl
import pytest
import sqlalchemy as sa

from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.database import make_engine
from bulk_upload_pipeline.model import Overrides, State
from bulk_upload_pipeline.settings import Home, Settings
from bulk_upload_pipeline.workplace import Line
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import csv_of, drop, good_row, receipt, rows

ROOT = Path(stages.__file__).parent
AT_ONCE = 2
CASE = "F00000"
"""Stands for the invoice numbers of one case, so that all cases share a database and not a row."""

WRITES = ("open to write", "os.rename", "os.mkdir", "shutil.copyfile", "staging", "INSERT", "UPDATE", "COPY")
KINDS = {
    "exception": lambda what: True,
    "kill -9": lambda what: True,
    "SIGTERM": lambda what: True,
    "dropped connection": lambda what: not what.startswith(("os.", "shutil.", "open", "staging")),
    "full disk": lambda what: what.startswith(WRITES),
}
BY_SIGNAL = {"kill -9": 9, "SIGTERM": 15}
LOST_AT_COMMIT = "dropped connection"
"""Right after a COMMIT, so that the worker cannot know whether it has happened: only the ledger can tell."""
WAYS = ("hand", "dagster")
AS_BY_KILL = ("hand", "SIGTERM")
"""Nobody minds the signal there, so that the kernel ends the worker as by kill -9; a run of Dagster is interrupted."""
COST = {"SIGTERM": 20}
"""What a kind takes, by the time of the others: the cover has a SIGTERM meet a run of Dagster."""


def can_happen(kind, point):
    """Whether a fault of this kind can happen at a point, which is `function effect #number`."""
    return KINDS[kind](point.partition(" ")[2])


REFUSED = "Nobody"
"""A customer that a rule of the database, which somebody else added, does not admit."""


def row(number, **changed):
    return good_row(number, **{"Invoice Number": f"{CASE}-{number:03}", **changed})


NEW = [row(n) for n in range(10)]
SCENARIOS = {
    # Two chunks on two connections, rows that are rejected, and one with a warning.
    "new": [*NEW, row(90, Quantity="x"), row(91, Quantity="-4", **{"Item Total": "-50"})],
    # One chunk, of which rows stand in the target, some of them with other values.
    "merged": [row(n, **({"Customer Name": "Gupta Sweets"} if n % 2 else {})) for n in range(6)],
    "rejected": [row(n, Quantity="x") for n in range(4)],
    "unreadable": [{"SKU": CASE}],
    "duplicate": NEW[:5],
    "refused": [row(1), row(2, **{"Customer Name": REFUSED})],
    # A batch that had ended already, of which a row is refused once more.
    "again": [row(1), row(2, **{"Customer Name": REFUSED})],
    # A batch that was loaded, of which every row is wrong by the profile of today.
    "outdated": [row(n, **{"Invoice Date": "03/04/2024"}) for n in range(9)],
    # The corrected rows of a batch that was loaded in part, and of one that the breaker stopped.
    "corrected": [*NEW[:3], row(90, Quantity="x")],
    "followed": [row(0), *(row(n, Quantity="x") for n in range(1, 4))],
    # A spreadsheet of which rows are rejected.
    "sheet": [*NEW[:2], row(90, Quantity="x")],
    # A file that several workers may share.
    "huge": [row(n, **({"Quantity": "x"} if n == 30 else {})) for n in range(40)],
    # A .zip of two files, and a file that somebody still writes.
    "unpacked": [row(n) for n in range(2)],
    "changing": NEW[:2],
    # Undone: a load of which rows stood in the target, and a correction.
    "reverted": [row(n, **({"Customer Name": "Gupta Sweets"} if n % 2 else {})) for n in range(6)],
    "reopened": [*NEW[:3], row(90, Quantity="x")],
}
EARLIER = {
    # What is loaded, or at least tried, before the file of the scenario comes.
    "merged": [row(n) for n in range(4)],
    "duplicate": SCENARIOS["duplicate"],
    "corrected": SCENARIOS["corrected"],
    "followed": SCENARIOS["followed"],
    "reverted": [row(n) for n in range(4)],
    "reopened": SCENARIOS["reopened"],
}
WARMED_BY = ("new", "unpacked")
"""What a nursery plays itself before it forks workers, so that nothing is done for the first time in each of them."""
SMALL_PARTS = ("huge", "sheet")
"""Where a file counts as huge from a few hundred bytes on, be it one that cannot be parted."""
CORRECTIONS = ("corrected", "followed", "reopened")
UNDONE = ("reverted", "reopened")
EXIT = {
    "new": State.PARTIALLY_LOADED,
    "merged": State.LOADED,
    "rejected": State.REJECTED,
    "unreadable": State.UNREADABLE,
    "duplicate": State.DUPLICATE,
    "refused": State.PARTIALLY_LOADED,
    "again": State.PARTIALLY_LOADED,
    "outdated": State.PARTIALLY_LOADED,
    "corrected": State.LOADED,
    "followed": State.LOADED,
    "sheet": State.PARTIALLY_LOADED,
    "huge": State.PARTIALLY_LOADED,
    "unpacked": State.UNPACKED,
    "changing": State.WAITING,
    "reverted": State.REVERTED,
    "reopened": State.REVERTED,
}


OWN_PROFILE = """
name = "own"
{}
[columns]
invoice_number = ["Invoice Number"]
invoice_date = ["Invoice Date"]
customer_name = ["Customer Name"]
sku = ["SKU"]
item_name = ["Item Name"]
quantity = ["Quantity"]
item_price = ["Item Price"]
item_total = ["Item Total"]
"""


class Nursery:
    """A process that has everything imported and forks workers."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bulk_upload_pipeline_tests.faults"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT.parent,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def work(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["signal"] or "points" in answer, answer["ended"]
        return answer


class Place:
    """Where cases are played: a database for all, a home of its own for each, and a nursery a thread."""

    def __init__(self, folder, other_disk, url, nurseries):
        self.folder, self.other_disk, self.url = folder, other_disk, url
        self.engine = make_engine(url)
        self._numbers = itertools.count(1)
        self._free = SimpleQueue()
        for nursery in nurseries:
            self._warm(nursery)
            self._free.put(nursery)

    def _warm(self, nursery):
        for scenario, dagster in itertools.product(WARMED_BY, (False, True)):
            case = self.case(scenario).prepare()
            nursery.work(batch_id=case.batch_id, warm=True, dagster=dagster, **case.order)

    def work(self, **order):
        nursery = self._free.get()
        try:
            return nursery.work(**order)
        finally:
            self._free.put(nursery)

    def case(self, scenario):
        number = next(self._numbers)
        return Case(self, scenario, f"F{number:05}")

    def together(self, function, cases):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(function, cases))


def zip_of(content):
    """The same file twice, under two names: the second one will be a duplicate."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("one.csv", "two.csv"):
            archive.writestr(name, content)
    return packed.getvalue()


def sheet_of(content):
    """The same rows in a workbook."""
    file, workbook = io.BytesIO(), openpyxl.Workbook()
    for cells in csv.reader(io.StringIO(content)):
        workbook.active.append(cells)
    workbook.save(file)
    return file.getvalue()


PACKED = {"unpacked": ("a.zip", zip_of), "sheet": ("a.xlsx", sheet_of)}


class Case:
    """One batch of a scenario, before anything has happened to it."""

    is_undone = False

    def __init__(self, place, scenario, name):
        self.place, self.scenario, self.name = place, scenario, name
        self.root = place.folder / name
        self.home = Home(self.root)
        if scenario == "merged":  # its archive is on another file system: its file is copied
            self.root.mkdir()
            (place.other_disk / name).mkdir()
            (self.root / "archive").symlink_to(place.other_disk / name)

    def content(self, records):
        return csv_of(records, tuple(records[0])).replace(CASE, self.name)

    def line(self):
        self.home.make()
        return Line(Settings(self.home, self.place.url, chunk_rows=7), self.place.engine)

    def prepare(self):
        line, content = self.line(), self.content(SCENARIOS[self.scenario])
        if self.scenario in EARLIER:
            self.batch_id = drop(line, "earlier.csv", self.content(EARLIER[self.scenario]))
            self.work()
        if self.scenario in CORRECTIONS:
            rejected = line.reports(self.batch_id) / "rejected_rows.csv"
            content = rejected.read_text("utf-8-sig").replace(",x,", ",4,")
        name, packed = PACKED.get(self.scenario, ("a.csv", str))
        stated = Overrides()
        if self.scenario == "outdated":
            (line.home.profiles / "own.toml").write_text(OWN_PROFILE.format('date_order = "dmy"'))
            stated = Overrides(profile="own")
        self.batch_id = drop(line, name, packed(content), stated)
        if self.scenario == "changing":
            with (line.home.inbox / "a.csv").open("a") as file:
                file.write(self.content([row(3)]).partition("\n")[2])
        if self.scenario in (*UNDONE, "again", "outdated"):
            self.work()
        if self.scenario == "outdated":
            (line.home.profiles / "own.toml").write_text(OWN_PROFILE.format(""))
        self.is_undone = self.scenario in UNDONE
        return self

    @property
    def order(self):
        return {"root": str(self.root), "url": self.place.url, "chunk_rows": 7}

    def work(self, **order):
        order |= {"revert": self.is_undone, "small_parts": self.scenario in SMALL_PARTS}
        return self.place.work(batch_id=self.batch_id, **self.order, **order)

    def world(self):
        """All that is left of the case, in words that are the same for every case."""
        line = self.line()
        batches = [text for (text,) in rows(line, BATCHES_OF, root=f"{self.root}/%")]
        self.others = [batch for batch in batches if batch != self.batch_id]
        found = {
            name: sorted(
                self._neutral(json.dumps(record, default=str, sort_keys=True))
                for (record,) in rows(line, query, batches=batches, case=f"{self.name}-%")
            )
            for name, query in WORLD.items()
        }
        found["files"] = dict(sorted(self._files()))
        found["state"] = receipt(line, self.batch_id).state
        return json.loads(self._neutral(json.dumps(found, default=str)))

    def _files(self):
        for folder, _, names in os.walk(self.root, followlinks=True):
            for name in names:
                path = Path(folder) / name
                # Other files of a report say when it was written and how long it took.
                exact = name.endswith((".csv", ".txt"))
                text = path.read_text("utf-8-sig") if exact else ""
                yield str(path.relative_to(self.root)), text
            if Path(folder).parent.name == "staging":
                yield folder, "a folder that should be gone"

    def _neutral(self, text):
        for number, batch_id in enumerate(self.others):
            text = text.replace(batch_id, f"other-{number}")
        return text.replace(self.batch_id, "batch").replace(self.name, CASE)


BATCHES_OF = "SELECT batch_id FROM bulk_upload.upload_batches WHERE source_path LIKE :root ORDER BY file_name"
WORLD = {
    "target": "SELECT to_jsonb(t) - '{id,created_at,updated_at}'::text[] FROM mangalam_invoices t "
    "WHERE invoice_number LIKE :case",
    "receipts": "SELECT to_jsonb(b) - '{run_id,received_at,started_at,validated_at,finished_at,fingerprint,"
    "source_path,sha256,file_size,verdict}'::text[] FROM bulk_upload.upload_batches b WHERE batch_id = ANY(:batches)",
    # A batch that is taken again after it has loaded has passed the gate before.
    "verdicts": "SELECT verdict - '{plan,has_passed}'::text[] FROM bulk_upload.upload_batches "
    "WHERE batch_id = ANY(:batches)",
    "findings": "SELECT to_jsonb(e) - '{id,detected_at,resolved_at}'::text[] "
    "FROM bulk_upload.processing_errors e WHERE batch_id = ANY(:batches)",
    "ledger": "SELECT to_jsonb(c) - '{committed_at,plan}'::text[] FROM bulk_upload.load_chunks c "
    "WHERE batch_id = ANY(:batches)",
    "former rows": "SELECT former - '{id,created_at,updated_at}'::text[] "
    "FROM bulk_upload.former_rows WHERE batch_id = ANY(:batches)",
}


@pytest.fixture(scope="module")
def place(postgres_url, template_database, tmp_path_factory):
    name = "faults"
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE {name} TEMPLATE "{template_database}"')
    url = postgres_url.set(database=name).render_as_string(hide_password=False)
    with ExitStack() as stack:
        other_disk = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        nurseries = [stack.enter_context(Nursery()) for _ in range(AT_ONCE)]
        place = Place(tmp_path_factory.mktemp("faults"), other_disk, url, nurseries)
        with place.engine.begin() as connection:
            # Here workers die and never the server, so that it need not wait for its disk.
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
            connection.exec_driver_sql(
                f"ALTER TABLE mangalam_invoices ADD CONSTRAINT of_others CHECK (customer_name <> '{REFUSED}')"
            )
        yield place
        place.engine.dispose()
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture(scope="module")
def undisturbed(place):
    """What each scenario does and comes to when nothing happens to it."""
    found = {}
    for scenario in SCENARIOS:
        case = place.case(scenario).prepare()
        answer = case.work(calls=True)
        found[scenario] = {**answer, "world": case.world()}
    return found


@pytest.fixture(scope="module")
def points(undisturbed):
    """Every point of the first scenario, and of the others what is new in them."""
    found, known = [], set()
    for scenario, seen in undisturbed.items():
        news = [point for point in seen["points"] if point.rpartition(" #")[0] not in known]
        known |= {point.rpartition(" #")[0] for point in news}
        found += [(scenario, point) for point in news]
    return found


def play(place, undisturbed, scenario, point, kind, *, dagster=False):
    """Let a fault happen and the batch be tried again; return what is wrong with the world then."""
    case = place.case(scenario).prepare()
    dagster = dagster and not case.is_undone  # a person does that, and no run
    first = case.work(point=point, kind=kind, dagster=dagster)
    told = f"{kind} at {scenario}: {point}"
    killed = kind == "kill -9" or (kind == "SIGTERM" and not dagster)
    if first["signal"] != (BY_SIGNAL[kind] if killed else 0):
        return f"{told}: the worker ended by signal {first['signal']}"
    if not killed and not first["hit"]:
        return f"{told}: it was not reached"
    if killed or dagster:
        case.work(dagster=dagster)
    world = case.world()
    wrong = [part for part, wanted in undisturbed[scenario]["world"].items() if world[part] != wanted]
    shown = {part: (undisturbed[scenario]["world"][part], world[part]) for part in wrong}
    return f"{told}: {shown}" if wrong else None


def one_kind_a_point(points):
    """Every point once, by its name, and the kinds spread over them."""
    used = Counter()
    for scenario, point in points:
        if point.endswith(" #1"):
            possible = [kind for kind in KINDS if can_happen(kind, point)]
            kind = LOST_AT_COMMIT if "after COMMIT" in point else min(possible, key=lambda kind: used[kind])
            used[kind] += COST.get(kind, 1)
            yield scenario, point, kind


def everything_is_as_if_nothing_had_happened(place, undisturbed, faults, *, dagster, tell=str):
    """Play faults (scenario, point, kind), those of which `dagster` is true by way of a run of Dagster."""

    def play_one(fault):
        if wrong := play(place, undisturbed, *fault, dagster=dagster(*fault)):
            tell(wrong)
        return wrong

    wrong = place.together(play_one, faults)
    assert [text for text in wrong if text] == []
    no_trace_of_a_worker(place)


def no_trace_of_a_worker(place):
    """No lock, no transaction and no connection outlives its worker, but for the moment that the server takes."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    locks = "FROM pg_locks WHERE locktype = 'advisory' AND database = "
    locks += "(SELECT oid FROM pg_database WHERE datname = current_database())"
    query = (
        f"SELECT (SELECT count(*) {others} AND backend_type = 'client backend'), (SELECT count(*) {locks})"
    )
    place.engine.dispose()

    def left():
        with place.engine.connect() as connection:
            return tuple(connection.execute(sa.text(query)).one())

    wait_until(lambda: left() == (0, 0), 60)


def test_every_scenario_ends_in_its_exit(undisturbed):
    assert {scenario: seen["world"]["state"] for scenario, seen in undisturbed.items()} == EXIT


def test_the_points_are_those_that_the_line_promises(points):
    """Named here so that nobody loses one; they are found by running the line, not by this list."""
    names = {point.rpartition(" #")[0] for _, point in points}
    promised = {
        "take": "taking._move os.rename",
        "archive on another disk": "taking._copy shutil.copyfile",
        "the source goes": "taking._move os.remove",
        "hash": "taking.content_hash open",
        "received": "ledger._update after COMMIT",
        "a chunk is staged": "stage.Stage.add staging",
        "verdict kept": "line.validate before COMMIT",
        "COPY": "loading.copying.copy COPY public.mangalam_invoices (invoice_number,",
        "ledger row": "load._Load._note INSERT INTO bulk_upload.load_chunks",
        "before COMMIT": "load._Load._copied before COMMIT",
        "after COMMIT": "load._Load._copied after COMMIT",
        "a merge commits": "load._Load._merged before COMMIT",
        "receipt": "ledger._update UPDATE bulk_upload.upload_batches SET",
        "report": "report._write_text os.rename",
        "rejected rows": "reporting.finding_files._write_csv os.rename",
        "staging cleared": "storage.remove shutil.rmtree",
        "unreadable": "rejects.keep_file_finding INSERT INTO bulk_upload.processing_errors",
    }
    assert {what: name for what, name in promised.items() if name not in names} == {}


ELSEWHERE = {
    "report.is_finished",  # asked by the sensor that follows a failed run, and changes nothing
    "storage.disk_of",  # names the disk in the error of a full one, which faults bring about
    "storage.folder_at_hand",  # a home in a bucket, which has tests of its own
    "validate.prepare",  # imports, once a process and beside a long file only: the world stays as it is
}
STAGES = ("upload", "validate", "load", "close", "revert")


def test_every_step_of_the_line_is_played(undisturbed):
    """A new step needs a scenario that reaches it: then its effects become points of the matrix by themselves."""
    called = {name for seen in undisturbed.values() for name in seen["called"]}
    missing = {
        step for step in steps_of_the_line() if not any(f"{name}.".startswith(f"{step}.") for name in called)
    }
    assert missing - ELSEWHERE == set()


def steps_of_the_line():
    """What the stages call in other rooms, directly or by other functions of `line` and the rooms beside it."""
    begun = {"line": STAGES, "workplace": ("alone",), "sharing": ("judged", "share_of")}
    trees = {name: tree_of(name) for name in (*begun, "closing", "settling")}
    return set().union(
        *(steps_from(tree, begun.get(name, functions_of(tree))) for name, tree in trees.items())
    )


def tree_of(room):
    return ast.parse((ROOT / f"{room}.py").read_text("utf-8"))


def functions_of(tree):
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def steps_from(tree, first):
    functions = functions_of(tree)
    modules, names = imported(tree)
    reached, waiting, steps = set(), [*first], set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Name | ast.Attribute) and (text := ast.unparse(node)) in functions:
                waiting.append(text)
            if isinstance(node, ast.Call):
                owner, _, attribute = ast.unparse(node.func).rpartition(".")
                if owner in modules:
                    steps.add(f"{modules[owner]}.{attribute}")
                elif not owner and attribute in names:
                    steps.add(f"{names[attribute]}.{attribute}")
    nouns = ("model.", "exceptions.", "findings.", "staged.StagedBatch", "settings.", "origin.", "pace.Pace")
    return {step for step in steps if not step.startswith(nouns)}


def imported(tree):
    """The rooms that are imported as modules, and the names that are imported from rooms."""
    modules, names = {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bulk_upload_pipeline"):
            room = node.module.removeprefix("bulk_upload_pipeline").removeprefix(".")
            for alias in node.names:
                (names if room else modules)[alias.asname or alias.name] = room or alias.name
    return modules, names


def test_a_fault_at_any_point_leaves_what_a_retry_finishes(place, undisturbed, points):
    faults = list(one_kind_a_point(points))
    assert {kind for _, _, kind in faults} == set(KINDS)
    everything_is_as_if_nothing_had_happened(
        place, undisturbed, faults, dagster=lambda _, __, kind: kind == "SIGTERM"
    )


def first_middle_and_last(points):
    """Leave out what a loop does between them: its rounds differ in nothing but how many are done and to do."""
    often = Counter(point.rpartition(" #")[0] for point in points)
    for point in points:
        name, _, number = point.rpartition(" #")
        if int(number) in (1, (often[name] + 1) // 2, often[name]):
            yield point


def every_fault(undisturbed, points, kind, by):
    """By hand, which takes a fourth of the time of Dagster, each scenario has its own points."""
    if by == "hand":
        points = [
            (scenario, point)
            for scenario, seen in undisturbed.items()
            for point in first_middle_and_last(seen["points"])
        ]
    return [(scenario, point, kind) for scenario, point in points if can_happen(kind, point)]


@pytest.mark.soak
@pytest.mark.parametrize(("by", "kind"), [way for way in itertools.product(WAYS, KINDS) if way != AS_BY_KILL])
def test_every_fault_at_every_point_leaves_what_a_retry_finishes(
    place, undisturbed, points, by, kind, capsys
):
    faults, begun = every_fault(undisturbed, points, kind, by), time.monotonic()

    def tell(text):
        with capsys.disabled():
            sys.stdout.write(f"\n{text}")
            sys.stdout.flush()

    everything_is_as_if_nothing_had_happened(
        place, undisturbed, faults, dagster=lambda *_: by == "dagster", tell=tell
    )
    tell(f"{kind} by {by}: {len(faults)} faults in {time.monotonic() - begun:.0f} s")
