"""A random workload against a model in memory: table, findings and receipts equal the model's after each step."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bulk_upload_pipeline import intake
from bulk_upload_pipeline import line as stages
from bulk_upload_pipeline.evidence import Evidence
from bulk_upload_pipeline.exceptions import NothingToRevertError, RevertRefusedError
from bulk_upload_pipeline.inspection import control_totals
from bulk_upload_pipeline.model import LOADED_STATES, Overrides, State
from bulk_upload_pipeline_tests.correcting import as_csv
from bulk_upload_pipeline_tests.upped import wait_until
from bulk_upload_pipeline_tests.world import line_at, receipt, rows

COLUMNS = {
    "invoice_number": "No",
    "invoice_date": "Day",
    "customer_name": "Who",
    "quantity": "Qty",
    "item_price": "Price",
    "sku": "Art",
}
POLICIES = ("update", "skip", "reject")
TABLES = (
    "public.mangalam_invoices, bulk_upload.upload_batches, bulk_upload.processing_errors, "
    "bulk_upload.load_chunks, bulk_upload.former_rows, bulk_upload.corrected_rows"
)


DATED = "3"


@dataclass
class Row:
    """A row of a file: the key of its line, and what stands in its cell for the quantity.

    With that of `DATED` comes a date which is good only where the profile says in which order its figures are.
    """

    key: tuple[str, str, int]
    quantity: str

    def is_good(self, is_ordered: bool) -> bool:
        return self.quantity != "x" and (is_ordered or self.quantity != DATED)


@dataclass
class Model:
    """What is known of a batch."""

    batch_id: str
    policy: str
    content: str
    rows: dict[int, Row]
    parent: Model | None = None
    state: State = State.WAITING
    bad: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    corrected: dict[int, str] = field(default_factory=dict)
    outcomes: dict[int, str] = field(default_factory=dict)
    plan: tuple[object, ...] = ()
    is_incomplete: bool = False
    force: bool = False
    standing: int = 0
    """Rows in the table, when it was last taken, that were wrong by then; a later file may take them over."""

    @property
    def root(self) -> Model:
        return self.parent.root if self.parent else self

    @property
    def rejected(self) -> set[int]:
        return self.bad | self.refused

    @property
    def is_dated(self) -> bool:
        return any(row.quantity == DATED for row in self.rows.values())

    @property
    def open(self) -> set[int]:
        return self.rejected - set(self.corrected)

    @property
    def has_rows(self) -> bool:
        """Whether its receipt counts rows: not where the file as a whole is not to be loaded."""
        return self.state not in (State.WAITING, State.DUPLICATE, State.UNREADABLE)

    @property
    def whole(self) -> set[None]:
        """The finding on the file as a whole, which belongs to no row."""
        return {None} if self.state is State.UNREADABLE else set()

    @property
    def is_loaded(self) -> bool:
        return self.state in LOADED_STATES

    @property
    def brought(self) -> set[int]:
        """Rows that stand in the table because of it, or did when it came."""
        return set(self.outcomes) if self.is_loaded else set()


class Workload(RuleBasedStateMachine):
    """Files with overlapping invoices, corrections, reverts, duplicates and retries, in any order."""

    line = None

    @initialize()
    def empty(self):
        with self.line.engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {TABLES} CASCADE")
        self.batches: dict[str, Model] = {}
        self.table: dict[tuple[str, str, int], list[tuple[str, str]]] = {}
        # Who found a line of another batch just as its own, and in which row.
        self.confirmed: dict[tuple[str, str, int], dict[str, int]] = {}
        # Who left a line to a later batch: its row, and what that says.
        self.yielded: dict[tuple[str, str, int], dict[str, tuple[int, str]]] = {}
        self.numbers = itertools.count(1)
        self.is_ordered = True
        write_profiles(self.line, is_ordered=True)

    # Steps

    @rule(
        policy=st.sampled_from(POLICIES),
        found=st.lists(
            st.tuples(st.sampled_from("AB"), st.sampled_from("PQ"), st.sampled_from(["1", "2", "x", DATED])),
            min_size=1,
            max_size=5,
        ),
        force=st.booleans(),
        is_late=st.booleans(),
    )
    def load(self, policy, found, force, is_late):
        content = as_csv(
            [
                {
                    "No": number,
                    "Day": "03/04/2024" if quantity == DATED else "2024-12-31",
                    "Who": "S",
                    "Qty": quantity,
                    "Price": "5",
                    "Art": sku,
                }
                for number, sku, quantity in found
            ]
        )
        seen: dict[tuple[str, str], int] = {}
        stated = {}
        for at, (number, sku, quantity) in enumerate(found, start=1):
            seen[number, sku] = seen.get((number, sku), 0) + 1
            stated[at] = Row((number, sku, seen[number, sku]), quantity)
        batch_id = self._drop(content, Overrides(profile=policy, force=force))
        batch = self.batches[batch_id] = Model(batch_id, policy, content, stated, force=force)
        if not is_late:  # else it waits until it is taken as by a retry
            stages.take(self.line, batch_id)
            self._take(batch)

    @precondition(lambda self: self._correctable())
    @rule(data=st.data())
    def correct(self, data):
        parent = data.draw(st.sampled_from(self._correctable()))
        with (self.line.reports(parent.batch_id) / "rejected_rows.csv").open(
            encoding="utf-8-sig", newline=""
        ) as file:
            found = list(csv.DictReader(file))
        assert {int(row["_row_number"]) for row in found} == parent.open
        chosen = data.draw(
            st.lists(st.sampled_from(found), min_size=1, unique_by=lambda row: row["_row_number"])
        )
        fixed = [row | {"Qty": data.draw(st.sampled_from(["1", "2", "x"]))} for row in chosen]
        content = as_csv(fixed)
        batch_id = self._drop(content, Overrides())
        stated = {
            int(row["_row_number"]): Row(parent.root.rows[int(row["_row_number"])].key, row["Qty"])
            for row in fixed
        }
        batch = self.batches[batch_id] = Model(batch_id, parent.root.policy, content, stated, parent)
        stages.take(self.line, batch_id)
        self._take(batch)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def retry(self, data):
        again = [b for b in self.batches.values() if b.parent is None or b.state is not State.REVERTED]
        if not again:
            return
        batch = data.draw(st.sampled_from(again))
        stages.take(self.line, batch.batch_id)
        self._take(batch, again=True)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def revert(self, data):
        batch = data.draw(st.sampled_from(list(self.batches.values())))
        living = {b.batch_id for b in self.batches.values() if b.parent and b.root is batch and b.brought}
        stacks = [stack for stack in self.table.values() if batch.batch_id in dict(stack)]
        later = {stack[-1][0] for stack in stacks} - {batch.batch_id}
        if not batch.is_loaded:
            with pytest.raises(NothingToRevertError):
                stages.revert(self.line, batch.batch_id)
            return
        if living or later:
            with pytest.raises(RevertRefusedError) as refusal:
                stages.revert(self.line, batch.batch_id)
            assert set(refusal.value.later_batches) == (living or later)
            return
        stages.revert(self.line, batch.batch_id)
        confirmed = self._forget_said(batch)
        for key in [key for key, stack in self.table.items() if batch.batch_id in dict(stack)]:
            self._undo(key, batch)
        self._fall(confirmed)
        batch.state, batch.outcomes, batch.refused = State.REVERTED, {}, set()
        for relative in self._family(batch):
            for number in [n for n, by in relative.corrected.items() if by == batch.batch_id]:
                del relative.corrected[number]
            self._settled(relative)

    @rule()
    def change_the_profiles(self):
        """What was good is wrong from now on, or the other way round, for whatever is judged from now on."""
        self.is_ordered = not self.is_ordered
        write_profiles(self.line, is_ordered=self.is_ordered)

    # The model

    def _drop(self, content, overrides):
        path = self.line.home.inbox / f"{next(self.numbers)}.csv"
        path.write_text(content)
        return intake.announce(self.line, path, overrides)

    def _correctable(self):
        return [
            b
            for b in self.batches.values()
            if b.open
            and not b.root.is_dated  # whose rows a correction brings may turn wrong: a story of its own
            and b.state in (*LOADED_STATES, State.REJECTED)
            and b.root.state is not State.REVERTED
        ]

    def _family(self, batch):
        return [b for b in self.batches.values() if b.root is batch.root and b is not batch]

    def _take(self, batch, *, again=False):
        self._follow(batch, again=again)
        owners = {key: stack[-1][0] for key, stack in self.table.items()}
        batch.standing = sum(owners.get(batch.rows[n].key) == batch.batch_id for n in batch.open)

    def _follow(self, batch, *, again=False):
        if self._is_duplicate(batch):
            batch.state, batch.corrected = State.DUPLICATE, {}
            return
        if batch.parent and batch.root.state is State.REVERTED:
            batch.state, batch.refused, batch.corrected = State.UNREADABLE, set(), {}
            return
        self._judge(batch)
        if self._is_stopped(batch):
            batch.state = State.REJECTED
            return
        if again and batch.is_loaded and not batch.is_incomplete and batch.plan == self._plan(batch):
            return
        self._load(batch)

    def _is_duplicate(self, batch):
        if batch.force or batch.is_loaded:
            return False
        return any(b.content == batch.content and b.is_loaded for b in self.batches.values())

    def _judge(self, batch):
        batch.bad = {number for number, row in batch.rows.items() if not row.is_good(self.is_ordered)}

    def _plan(self, batch):
        """The rows that corrections keep from being loaded: when there are others, all chunks load anew."""
        kept_out = frozenset(set(batch.corrected) & set(batch.outcomes) if batch.parent else batch.corrected)
        return kept_out, self.is_ordered

    def _is_stopped(self, batch):
        if batch.is_loaded:  # what has passed the gate once is no wrong file
            return False
        if batch.parent:  # stopped when none of its rows is good, whoever corrected them since
            return len(batch.bad) == len(batch.rows)
        open_rows = len(batch.bad - set(batch.corrected))
        return open_rows > 0 and open_rows / len(batch.rows) >= 0.5

    def _load(self, batch):
        batch.plan, batch.is_incomplete = self._plan(batch), False
        batch.refused, batch.outcomes = batch.refused & set(batch.corrected), {}
        self._fall(self._forget_said(batch))
        for number, row in batch.rows.items():
            if number not in batch.bad and number not in batch.corrected:
                outcome = self._place(batch, number, row)
                if outcome == "refused":
                    batch.refused.add(number)
                    batch.is_incomplete = True
                else:
                    batch.outcomes[number] = outcome
        if batch.parent:
            for relative in self._family(batch):
                for number in batch.outcomes:
                    if number in relative.rejected and self._came(relative) < self._came(batch):
                        relative.corrected[number] = batch.batch_id
        batch.state = State.PARTIALLY_LOADED if batch.open else State.LOADED
        for relative in self._family(batch) if batch.parent else ():
            self._settled(relative)

    def _settled(self, batch):
        if batch.is_loaded:
            batch.state = State.PARTIALLY_LOADED if batch.open else State.LOADED
        elif batch.state is State.REJECTED and batch.parent is None and not self._is_stopped(batch):
            if self._is_duplicate(batch):
                batch.state, batch.corrected = State.DUPLICATE, {}
            else:
                self._load(batch)

    def _undo(self, key, batch):
        """Leave a line to the first of the later batches that say it, too, else as it was before."""
        stack = self.table[key]
        _, quantity = stack.pop()
        heirs = [self.batches[by] for by in self.confirmed.get(key, ())]
        heirs = [heir for heir in heirs if self._came(heir) > self._came(batch)]
        if heirs:
            heir = min(heirs, key=self._came)
            heir.outcomes[self.confirmed[key][heir.batch_id]] = "updated" if stack else "inserted"
            stack.append((heir.batch_id, quantity))
        else:
            self._fall([key])
            if not stack:
                del self.table[key]

    def _fall(self, keys):
        """Give lines to the latest batch that says them, where that is one that has left them to a later one."""
        for key in keys:
            said, left, stack = (
                self.confirmed.get(key, ()),
                self.yielded.get(key, {}),
                self.table.get(key, []),
            )
            by = max(left, key=self._order, default=None)
            if by is None or any(self._order(other) > self._order(by) for other in (*said, *dict(stack))):
                continue
            number, quantity = left.pop(by)
            if stack and stack[-1][0] == by:
                stack.pop()
            else:
                self.batches[by].outcomes[number] = "updated" if stack else "inserted"
            stack.append((by, quantity))

    def _forget_said(self, batch):
        """Forget what a batch confirmed, or left to others; return the lines that it confirmed."""
        for left in self.yielded.values():
            left.pop(batch.batch_id, None)
        return [
            key
            for key, said in self.confirmed.items()
            if said.pop(batch.batch_id, None) and key in self.table
        ]

    def _order(self, batch_id):
        return self._came(self.batches[batch_id])

    def _came(self, batch):
        return list(self.batches).index(batch.batch_id)

    def _place(self, batch, number, row):
        stack = self.table.get(row.key, [])
        if not stack:
            self.table[row.key] = [(batch.batch_id, row.quantity)]
            return "inserted"
        owner, quantity = stack[-1]
        before = "inserted" if stack[0][0] == batch.batch_id else "updated"
        if owner == batch.batch_id:
            return before
        said = self.confirmed.setdefault(row.key, {})
        has_brought = batch.batch_id in dict(stack)
        if any(self._order(by) > self._came(batch) for by in (owner, *said)):
            if has_brought or quantity == row.quantity or batch.policy == "update":
                self.yielded.setdefault(row.key, {})[batch.batch_id] = (number, row.quantity)
            return before if has_brought else "unchanged"
        if quantity == row.quantity:
            said[batch.batch_id] = number
        if quantity == row.quantity or batch.policy == "skip":
            return "unchanged"
        if batch.policy == "reject":
            return "refused"
        stack.append((batch.batch_id, row.quantity))
        return "updated"

    # What the world must hold

    @invariant()
    def the_table_is_the_models(self):
        if not hasattr(self, "table"):
            return
        found = rows(
            self.line,
            "SELECT invoice_number, sku, line_occurrence, upload_batch_id, quantity::int FROM mangalam_invoices",
        )
        expected = {(*key, stack[-1][0], int(stack[-1][1])) for key, stack in self.table.items()}
        assert set(found) == expected
        assert len(found) == len(expected)

    @invariant()
    def a_line_is_as_the_latest_file_says(self):
        """Whatever the model believes; where each file that says it says it well, and takes over what it finds."""
        said = {}
        for batch in getattr(self, "batches", {}).values():
            for number, row in batch.rows.items():
                is_plain = batch.policy == "update" and batch.parent is None and row.quantity in "12"
                said.setdefault(row.key, []).append((row.quantity, is_plain, number in batch.brought))
        for key, sayings in said.items():
            if all(is_plain for _, is_plain, _ in sayings):
                latest = [quantity for quantity, _, is_loaded in sayings if is_loaded][-1:]
                assert [quantity for _, quantity in self.table.get(key, [])][-1:] == latest

    @invariant()
    def the_receipts_are_the_models(self):
        for batch in getattr(self, "batches", {}).values():
            account = receipt(self.line, batch.batch_id)
            counted = list(batch.outcomes.values()) if batch.is_loaded else []
            has_rows = batch.has_rows
            assert account.state is batch.state, batch
            assert (account.rows_inserted, account.rows_updated, account.rows_unchanged) == tuple(
                counted.count(outcome) for outcome in ("inserted", "updated", "unchanged")
            ), batch
            assert account.rows_rejected == (len(batch.rejected) if has_rows else 0), batch
            assert account.rows_corrected == (
                len(set(batch.corrected) & batch.rejected) if has_rows else 0
            ), batch
            assert account.rows_read == (len(batch.rows) if has_rows else 0)
            stated = account.control_totals.get("standing", {"rows": 0})
            assert stated["rows"] == (batch.standing if batch.is_loaded else 0), batch
            assert account.parent_batch_id == (
                batch.parent.batch_id if batch.parent and has_rows else account.parent_batch_id
            )

    @invariant()
    def a_recount_of_the_table_agrees(self):
        batches = [batch for batch in getattr(self, "batches", {}).values() if batch.is_loaded]
        known = Evidence(self.line.engine, [batch.batch_id for batch in batches])
        for batch in batches:
            found = control_totals(known.of(batch.batch_id))
            assert found.passed, (batch, found.words)

    @invariant()
    def the_findings_are_the_models(self):
        found = rows(
            self.line,
            "SELECT DISTINCT batch_id, row_number FROM bulk_upload.processing_errors "
            "WHERE NOT is_resolved AND severity = 'error'",
        )
        expected = {
            (batch.batch_id, number)
            for batch in getattr(self, "batches", {}).values()
            for number in (batch.open if batch.has_rows else batch.whole)
        }
        assert set(found) == expected

    @invariant()
    def nothing_is_left_lying_about(self):
        assert list(self.line.home.staging.iterdir()) == []
        locks = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        # A connection that was closed holds its locks for the moment in which the server ends it.
        wait_until(lambda: rows(self.line, locks) == [(0,)], 30)
        idle = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        wait_until(lambda: rows(self.line, idle) == [(0,)], 30)


def write_profiles(line, *, is_ordered):
    names = "\n".join(f'{name} = ["{title}"]' for name, title in COLUMNS.items())
    order = 'date_order = "dmy"\n' if is_ordered else ""
    for policy in POLICIES:
        (line.home.profiles / f"{policy}.toml").write_text(
            f'name = "{policy}"\non_conflict = "{policy}"\n{order}[columns]\n{names}\n'
        )


@pytest.fixture
def line(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url, max_error_rate=0.5) as line:
        with (
            line.engine.begin() as connection
        ):  # nobody cuts the power here, so that no disk need be waited for
            connection.exec_driver_sql(
                f'ALTER DATABASE "{line.engine.url.database}" SET synchronous_commit = off'
            )
        line.engine.dispose()
        yield line


def run_workload(line, **options):
    class OnThisLine(Workload):
        pass

    OnThisLine.line = line
    run_state_machine_as_test(
        OnThisLine,
        settings=settings(deadline=None, suppress_health_check=list(HealthCheck), **options),
    )


def test_any_workload_leaves_what_the_model_says(line):
    run_workload(line, max_examples=4, stateful_step_count=8)


@pytest.mark.soak
def test_a_long_workload_leaves_what_the_model_says(line):
    run_workload(line, max_examples=40, stateful_step_count=30)
