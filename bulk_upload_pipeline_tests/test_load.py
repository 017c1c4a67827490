"""Staged chunks into the target: every path, every policy, and every way in which it can be cut off."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.database import is_transient
from bulk_upload_pipeline.exceptions import BatchBusyError
from bulk_upload_pipeline.found import FoundWriter
from bulk_upload_pipeline.holding import lock_name
from bulk_upload_pipeline.load import load_staged
from bulk_upload_pipeline.model import LoadResult, Totals
from bulk_upload_pipeline.staged import OCCURRENCES_SCHEMA, StagedBatch, valid_writer
from bulk_upload_pipeline_tests.upped import wait_until

UPDATE, SKIP, REJECT = "update", "skip", "reject"
OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def stage(tmp_path):
    """Stage rows (dicts of the contract's columns) in chunks of `size`."""
    numbers = iter(range(1_000_000))

    def stage(rows, size=50_000):
        return write_staged(tmp_path / f"staged-{next(numbers)}", rows, size)

    return stage


def write_staged(folder, rows, size):
    folder.mkdir()
    repeats, seen = [], Counter()
    for number, row in enumerate(rows, start=1):
        key = tuple(row.get(name) for name in contract.IDENTITY[:3])
        seen[key] += 1
        if seen[key] > 1:
            repeats.append({"row_number": number, "line_occurrence": seen[key]})
    table = pa.Table.from_pylist(
        [{"row_number": number, **row} for number, row in enumerate(rows, start=1)],
        schema=contract.STAGED_SCHEMA,
    )
    write_table(folder, table, pa.Table.from_pylist(repeats, schema=OCCURRENCES_SCHEMA), size)
    return StagedBatch(folder)


def write_table(folder, table, occurrences, size):
    with pa.OSFile(str(folder / "valid.arrow"), "wb") as file, valid_writer(file) as writer:
        for start in range(0, table.num_rows, size):
            writer.write_table(table.slice(start, size).combine_chunks())
    FoundWriter(folder).close()
    pq.write_table(occurrences, folder / "occurrences.parquet")


def line(number, sku="S-1", *, quantity="2", price="10.50", **values):
    quantity, price = Decimal(quantity), Decimal(price)
    return {
        "invoice_number": number,
        "invoice_date": date(2024, 12, 31),
        "customer_name": "Sharma Sweets",
        "quantity": quantity,
        "item_price": price,
        "item_total": quantity * price,
        "sku": sku,
        **values,
    }


def lines(count, **values):
    return [line(f"INV-{number}", **values) for number in range(1, count + 1)]


def load(engine, staged, batch_id="b1", policy=UPDATE, plan="plan", **options):
    return load_staged(engine, batch_id, staged, plan, policy, **options)


def counts(result):
    return (result.inserted, result.updated, result.unchanged, result.refused)


def query(engine, statement, **values):
    with engine.connect() as connection:
        return connection.execute(sa.text(statement), values).all()


def execute(engine, *statements):
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def table(engine):
    """The target without what PostgreSQL sets itself, by identity."""
    names = (*contract.NAMES, "extra", "line_occurrence", "upload_batch_id", "row_number")
    rows = query(engine, f"SELECT {', '.join(names)} FROM public.mangalam_invoices")
    found = {tuple(row._mapping[name] for name in contract.IDENTITY): dict(row._mapping) for row in rows}
    assert len(found) == len(rows)
    return found


def recounted(engine):
    return Totals(
        *query(
            engine,
            "SELECT coalesce(sum(quantity), 0), coalesce(sum(item_total), 0) FROM public.mangalam_invoices",
        )[0]
    )


def ledger(engine):
    return query(engine, "SELECT chunk_index, path, rows FROM bulk_upload.load_chunks ORDER BY 1")


def errors(engine):
    return query(
        engine,
        "SELECT row_number, error_code, severity, error_message, line_occurrence "
        "FROM bulk_upload.processing_errors ORDER BY row_number",
    )


def test_new_rows_are_copied_straight_into_the_target(engine, stage):
    result = load(engine, stage(lines(25), size=10))
    assert counts(result) == (25, 0, 0, 0)
    assert ledger(engine) == [(0, "copy", 10), (1, "copy", 10), (2, "copy", 5)]
    assert result.totals == recounted(engine) == Totals(Decimal(50), Decimal(525))
    row = table(engine)["INV-25", None, "S-1", 1]
    assert (row["row_number"], row["upload_batch_id"], row["customer_name"]) == (25, "b1", "Sharma Sweets")


def test_a_batch_without_rows_loads_nothing(engine, stage):
    assert load(engine, stage([])) == LoadResult()


def test_the_same_rows_again_change_nothing_and_are_not_even_written(engine, stage):
    load(engine, stage(lines(25), size=10))
    before = query(engine, "SELECT xmin::text, xmax::text, * FROM public.mangalam_invoices ORDER BY id")
    result = load(engine, stage(lines(25), size=10), batch_id="b2")
    assert counts(result) == (0, 0, 25, 0)
    assert result.totals == recounted(engine)
    assert (
        query(engine, "SELECT xmin::text, xmax::text, * FROM public.mangalam_invoices ORDER BY id") == before
    )


def test_rows_that_exist_with_other_values_are_updated_and_belong_to_the_later_batch(engine, stage):
    load(engine, stage(lines(20)))
    execute(
        engine, "UPDATE public.mangalam_invoices SET updated_at = '2001-01-01', created_at = '2001-01-01'"
    )
    rows = lines(10) + [line(f"INV-{n}", quantity="3") for n in range(11, 16)] + [line("NEW")]
    result = load(engine, stage(rows, size=4), batch_id="b2")
    assert counts(result) == (1, 5, 10, 0)
    assert result.totals == Totals(Decimal(37), Decimal("388.5"))
    touched = query(
        engine,
        "SELECT invoice_number, row_number FROM public.mangalam_invoices "
        "WHERE upload_batch_id = 'b2' AND updated_at > '2020-01-01' ORDER BY row_number",
    )
    assert touched == [*((f"INV-{n}", n) for n in range(11, 16)), ("NEW", 16)]
    assert query(engine, "SELECT count(*) FROM public.mangalam_invoices WHERE created_at < '2020-01-01'") == [
        (20,)
    ]


def test_skip_leaves_rows_that_exist_as_they_are(engine, stage):
    load(engine, stage(lines(3)))
    result = load(engine, stage([line("INV-3", quantity="9"), line("NEW")]), batch_id="b2", policy=SKIP)
    assert counts(result) == (1, 0, 1, 0)
    assert result.totals == Totals(Decimal(4), Decimal(42))
    assert table(engine)["INV-3", None, "S-1", 1]["quantity"] == 2


def test_reject_refuses_rows_that_exist_with_other_values(engine, stage):
    load(engine, stage(lines(3)))
    rows = [line("INV-1"), line("INV-3", quantity="9"), line("NEW")]
    result = load(engine, stage(rows), batch_id="b2", policy=REJECT)
    assert counts(result) == (1, 0, 1, 1)
    assert result.totals == Totals(Decimal(4), Decimal(42))
    (error,) = errors(engine)
    assert error[:3] == (2, "ALREADY_LOADED", "error")
    assert table(engine)["INV-3", None, "S-1", 1]["quantity"] == 2


@pytest.mark.parametrize("product", [None, "P-1"])
@pytest.mark.parametrize("sku", [None, "S-1"])
@pytest.mark.parametrize("number", [None, "INV-1"])
def test_an_identity_that_lacks_values_is_found_again(engine, stage, number, sku, product):
    rows = [line(number, sku, product_id=product), line(number, sku, product_id=product, price="9")]
    assert counts(load(engine, stage(rows))) == (2, 0, 0, 0)
    rows[1]["brand"] = "Haldiram"
    assert counts(load(engine, stage(rows), batch_id="b2")) == (0, 1, 1, 0)
    assert [row["brand"] for row in table(engine).values()] == [None, "Haldiram"]


def test_one_existing_key_in_the_first_chunk_sends_the_rest_of_the_batch_through_the_merge(engine, stage):
    load(engine, stage(lines(1)))
    result = load(engine, stage(lines(30), size=10), batch_id="b2", connections=1)
    assert counts(result) == (29, 0, 1, 0)
    assert [path for _, path, _ in ledger(engine)[1:]] == ["merge", "merge", "merge"]


# What cells can hold

HOSTILE = [
    "\\.", "\\N", "\\", '"', '""', "#", "# x", ",", ";", "\t", "a\nb", "a\r\nb", "a\rb", "\n\\.\n", "\\.\n",
    "NULL", "null", "''", "'; DROP TABLE x; --", "%s", "{0}", "₹ 45", "काजू कतली", "🍬", "e\u0301", "\ufeffx",
    "\x1f", "=1+1", "\u2028", "\x85", "\xa0", "x" * 500,
]  # fmt: skip


def test_hostile_text_arrives_as_it_stands_through_both_paths(engine, stage):
    rows = [line(text[:100], sku=text[:100], item_name=text, item_desc=text) for text in HOSTILE]
    load(engine, stage(rows))
    expected = {(row["invoice_number"], row["item_name"], row["item_desc"]) for row in rows}
    stored = "SELECT invoice_number, item_name, item_desc FROM public.mangalam_invoices"
    assert set(query(engine, stored)) == expected
    assert counts(load(engine, stage(rows), batch_id="b2")) == (0, 0, len(rows), 0)


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
amounts = st.decimals(
    min_value=Decimal("-99999999999.9999"), max_value=Decimal("99999999999.9999"), places=4
).filter(lambda amount: amount == amount)
values_of = {
    contract.Kind.TEXT: texts | st.sampled_from([text for text in HOSTILE if len(text) < 20]),
    contract.Kind.AMOUNT: amounts,
    contract.Kind.DATE: st.dates(),
}
cells = st.fixed_dictionaries(
    {},
    optional={column.name: values_of[column.kind] for column in contract.COLUMNS}
    | {
        "extra": st.dictionaries(texts, st.none() | texts, max_size=3).map(
            lambda extra: json.dumps(extra, ensure_ascii=False)
        )
    },
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cells, max_size=8))
def test_every_value_is_stored_exactly_and_is_equal_when_it_comes_again(engine, stage, rows):
    execute(engine, "TRUNCATE public.mangalam_invoices, bulk_upload.load_chunks CASCADE")
    assert counts(load(engine, stage(rows))) == (len(rows), 0, 0, 0)
    stored = sorted(table(engine).values(), key=lambda row: row["row_number"])
    for row, found in zip(rows, stored, strict=True):
        assert {name: found[name] for name in contract.NAMES} == {n: row.get(n) for n in contract.NAMES}
        assert found["extra"] == (json.loads(row["extra"]) if "extra" in row else None)
    assert counts(load(engine, stage(rows), batch_id="b2")) == (0, 0, len(rows), 0)


# The ledger


def test_chunks_of_the_ledger_are_not_loaded_again(engine, stage):
    staged = stage(lines(25), size=10)
    first = load(engine, staged)
    execute(engine, "DELETE FROM public.mangalam_invoices WHERE row_number > 20")
    execute(engine, "DELETE FROM bulk_upload.load_chunks WHERE chunk_index = 2")
    heard = []
    assert load(engine, staged, on_rows=heard.append) == first
    assert heard == [20, 5]
    assert len(table(engine)) == 25
    heard.clear()
    assert load(engine, staged, on_rows=heard.append) == first
    assert heard == [25]


def test_progress_is_told_in_the_callers_thread(engine, stage):
    threads = set()
    load(engine, stage(lines(25), size=5), on_rows=lambda rows: threads.add(threading.current_thread()))
    assert threads == {threading.current_thread()}


def test_a_row_that_a_batch_says_no_more_as_it_is_judged_anew_is_as_an_earlier_one_says_that_came_late(
    engine, stage
):
    execute(
        engine,
        "INSERT INTO bulk_upload.upload_batches (batch_id, file_name, file_size, source_path, state, received_at) "
        "SELECT 'b' || n, '', 0, '', 'loading', to_timestamp(n) FROM generate_series(1, 3) AS n",
    )
    load(engine, stage([line("INV-1")]))
    load(engine, stage([line("INV-1")]), batch_id="b3")
    assert counts(load(engine, stage([line("INV-1", quantity="7")]), batch_id="b2")) == (0, 0, 1, 0)
    load(engine, stage([line("INV-2")]), batch_id="b3", plan="other")
    found = query(engine, "SELECT upload_batch_id, quantity FROM mangalam_invoices ORDER BY invoice_number")
    assert found == [("b2", Decimal(7)), ("b3", Decimal(2))]
    assert query(engine, "SELECT updated, unchanged FROM bulk_upload.load_chunks WHERE batch_id = 'b2'") == [
        (1, 0)
    ]


def test_another_plan_loads_all_chunks_anew(engine, stage):
    execute(engine, "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT positive CHECK (quantity > 0)")
    load(engine, stage([*lines(24), line("BAD", quantity="-1")], size=10))
    result = load(engine, stage([*lines(24), line("BAD", quantity="1")], size=13), plan="other")
    assert counts(result) == (25, 0, 0, 0), "what the batch brought in counts as that, however often it loads"
    assert [chunk for chunk, *_ in ledger(engine)] == [0, 1]
    resolved = "SELECT row_number, is_resolved, resolved_by_batch FROM bulk_upload.processing_errors"
    assert query(engine, resolved) == [(25, True, "b1")]


def test_findings_of_the_validation_survive_a_load(engine, stage):
    execute(
        engine,
        "INSERT INTO bulk_upload.processing_errors "
        "(batch_id, row_number, error_code, severity, error_message) VALUES "
        "('b1', 7, 'MISSING_VALUE', 'error', 'x'), ('b0', 1, 'REFUSED_BY_DATABASE', 'error', 'x')",
    )
    load(engine, stage(lines(2)))
    assert {code for _, code, *_ in errors(engine)} == {"MISSING_VALUE", "REFUSED_BY_DATABASE"}


# What the database refuses

POSITIVE = "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT positive CHECK (quantity > 0)"
NARROW = "ALTER TABLE public.mangalam_invoices ALTER COLUMN brand TYPE varchar(3)"
FOREIGN = (
    "CREATE TABLE public.brands (brand varchar(200) PRIMARY KEY)",
    "INSERT INTO public.brands VALUES ('ok')",
    "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT known_brand "
    "FOREIGN KEY (brand) REFERENCES public.brands",
)
DEFERRED = (*FOREIGN[:2], FOREIGN[2] + " DEFERRABLE INITIALLY DEFERRED")
UNIQUE = "ALTER TABLE public.mangalam_invoices ADD CONSTRAINT one_order UNIQUE (purchase_order)"


def trigger(body):
    return (
        "CREATE FUNCTION public.guard() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body} RETURN NEW; END $$",
        "CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON public.mangalam_invoices "
        "FOR EACH ROW EXECUTE FUNCTION public.guard()",
    )


RAISING = trigger("IF NEW.quantity < 0 THEN RAISE EXCEPTION 'no credits in %%', NEW.invoice_number; END IF;")
SKIPPING = trigger("IF NEW.quantity < 0 THEN RETURN NULL; END IF;")


@pytest.mark.parametrize(
    ("rule", "bad", "reason"),
    [
        ([POSITIVE], {"quantity": "-1"}, '"positive"'),
        (RAISING, {"quantity": "-1"}, "no credits in BAD-"),
        (SKIPPING, {"quantity": "-1"}, "trigger"),
        (FOREIGN, {"brand": "unknown"}, '"known_brand"'),
        (DEFERRED, {"brand": "unknown"}, '"known_brand"'),
        ([NARROW], {"brand": "Haldiram"}, "too long"),
        ([UNIQUE], {"purchase_order": "PO-1"}, '"one_order"'),
    ],
)
def test_rows_that_the_database_refuses_are_isolated_and_the_rest_loads(engine, stage, rule, bad, reason):
    execute(
        engine, "INSERT INTO public.mangalam_invoices (invoice_number, purchase_order) VALUES ('x', 'PO-1')"
    )
    execute(engine, *rule)
    rows = lines(40)
    for at in (3, 4, 27, 39):
        rows[at] = line(f"BAD-{at}", **bad)
    result = load(engine, stage(rows, size=25))
    assert counts(result) == (36, 0, 0, 4)
    assert result.totals == Totals(Decimal(72), Decimal(756))
    assert len(table(engine)) == 37
    assert [row[:3] for row in errors(engine)] == [
        (n, "REFUSED_BY_DATABASE", "error") for n in (4, 5, 28, 40)
    ]
    assert all(
        row[3].startswith("The database refused the row: ") and reason in row[3] for row in errors(engine)
    )
    assert query(engine, "SELECT sum(rows), sum(refused) FROM bulk_upload.load_chunks") == [(40, 4)]


def test_an_update_that_the_database_refuses_leaves_the_row_as_it_was(engine, stage):
    load(engine, stage(lines(10)))
    execute(engine, POSITIVE)
    rows = [line(f"INV-{n}", quantity="-1" if n == 7 else "5") for n in range(1, 11)]
    assert counts(load(engine, stage(rows), batch_id="b2")) == (0, 9, 0, 1)
    assert table(engine)["INV-7", None, "S-1", 1]["quantity"] == 2


def test_a_trigger_that_changes_rows_does_not_make_them_updates(engine, stage):
    load(engine, stage(lines(1)))
    execute(engine, *trigger("NEW.brand := 'Mangalam'; NEW.quantity := 7;"))
    result = load(engine, stage(lines(10)), batch_id="b2")
    assert counts(result) == (9, 0, 1, 0)
    assert result.totals.quantity == recounted(engine).quantity == 65


def test_a_database_without_the_target_is_an_error_and_no_refusal(engine, stage):
    execute(engine, "ALTER TABLE public.mangalam_invoices RENAME TO elsewhere")
    with pytest.raises(psycopg2.errors.UndefinedTable):
        load(engine, stage(lines(30), size=10))
    assert errors(engine) == ledger(engine) == []


# Faults


def test_a_batch_that_another_worker_holds_is_busy(engine, stage, monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.holding.BUSY_AFTER_S", 0.1)
    with engine.connect() as other:
        other.execute(
            sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), {"name": lock_name("b1")}
        )
        with pytest.raises(BatchBusyError, match="b1"):
            load(engine, stage(lines(1)))
        assert counts(load(engine, stage(lines(1)), batch_id="b2")) == (1, 0, 0, 0)
        other.invalidate()


def cut(engine, which="application_name = 'bulk-upload'"):
    """Cut connections of the load, as a restart of the server or a kill of the worker does; they are gone then."""
    execute(
        engine,
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {which} "
        "AND pid <> pg_backend_pid() AND datname = current_database()",
    )


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_load_that_is_cut_off_is_finished_by_the_next(engine, database_url, stage, after, merge):
    if merge:
        load(engine, stage(lines(3)), batch_id="b0")
    staged = stage(lines(60), size=10)
    heard = []

    def cut_later(rows):
        heard.append(rows)
        if len(heard) == after:
            admin = sa.create_engine(database_url, poolclass=sa.NullPool)
            cut(admin)

    # Whether the connection that held the lock was missed tells whether the load ended with an error.
    faults = []
    try:
        load(engine, staged, on_rows=cut_later)
    except (psycopg2.Error, sa.exc.DBAPIError) as error:
        faults.append(error)
    assert all(is_transient(fault) for fault in faults)
    heard.clear()
    result = load(engine, staged, on_rows=heard.append)
    assert counts(result) == ((57, 0, 3, 0) if merge else (60, 0, 0, 0))
    assert sum(heard) == 60
    assert len(table(engine)) == 60
    assert result.totals == recounted(engine)


def test_a_callback_that_fails_ends_the_load_and_the_next_goes_on(engine, stage):
    staged = stage(lines(60), size=10)

    def interrupt(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(engine, staged, on_rows=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load-")]
    assert counts(load(engine, staged)) == (60, 0, 0, 0)
    assert len(table(engine)) == 60


def test_a_statement_that_hangs_is_cancelled_when_another_connection_fails(engine, stage):
    """One worker waits for a lock that is never released, the other one fails: nothing hangs."""
    execute(
        engine,
        *trigger(
            "IF NEW.invoice_number = 'INV-1' THEN PERFORM pg_advisory_xact_lock(42); END IF; "
            "IF NEW.invoice_number = 'INV-11' THEN RAISE EXCEPTION USING ERRCODE = '57P01'; END IF;"
        ),
    )
    with engine.connect() as other:
        other.execute(sa.text("SELECT pg_advisory_lock(42)"))
        with pytest.raises(psycopg2.Error) as caught:
            load(engine, stage(lines(20), size=10))
        other.invalidate()
    assert caught.value.pgcode == "57P01"
    assert table(engine) == {}


@pytest.mark.parametrize("code", ["40P01", "40001", "55P03"])
def test_a_chunk_that_collides_with_others_is_tried_again(engine, stage, code):
    execute(
        engine,
        "CREATE SEQUENCE public.tries",
        *trigger(
            "IF NEW.invoice_number = 'INV-5' AND nextval('public.tries') < 4 THEN "
            f"RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;"
        ),
    )
    assert counts(load(engine, stage(lines(10)))) == (10, 0, 0, 0)


def test_a_load_leaves_its_connections_to_the_next_and_no_lock_or_temporary_table(engine, stage):
    load(engine, stage(lines(5)))
    after_one = set(query(engine, f"SELECT pid {OTHERS}"))
    for number in range(2, 5):
        load(engine, stage(lines(5)), batch_id=f"b{number}")
    assert set(query(engine, f"SELECT pid {OTHERS}")) == after_one
    assert query(engine, f"SELECT count(*) {OTHERS} AND state <> 'idle'") == [(0,)]
    assert query(engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    assert query(engine, "SELECT count(*) FROM pg_class WHERE relname = 'bulk_upload_staged'") == [(0,)]
    assert engine.pool.checkedout() == 0
    engine.dispose()
    wait_until(lambda: query(engine, f"SELECT count(*) {OTHERS}") == [(0,)])


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(engine, stage):
    load(engine, stage(lines(5)))
    cut(engine)
    wait_until(lambda: query(engine, f"SELECT count(*) {OTHERS}") == [(0,)])
    assert counts(load(engine, stage(lines(5)), batch_id="b2")) == (0, 0, 5, 0)


def test_batches_with_the_same_invoices_at_once_load_as_if_one_after_the_other(engine, stage):
    forward = [line(f"INV-{n}", quantity="3") for n in range(1, 301)]
    backward = [line(f"INV-{n}", quantity="4") for n in range(300, 0, -1)]
    for round_ in range(3):
        execute(engine, "TRUNCATE public.mangalam_invoices, bulk_upload.load_chunks CASCADE")
        jobs = [(f"b{i}-{round_}", stage(rows, size=100)) for i, rows in enumerate([forward, backward] * 2)]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda job: load(engine, job[1], batch_id=job[0]), jobs))
        assert [result.rows for result in results] == [300] * 4
        assert sum(result.inserted for result in results) == 300
        found = table(engine)
        assert len(found) == 300
        for row in found.values():
            assert row["quantity"] == (3 if row["upload_batch_id"][1] in "02" else 4)


# Against a model

batches = st.lists(
    st.tuples(
        st.sampled_from([UPDATE, SKIP, REJECT]),
        st.lists(
            st.tuples(
                st.sampled_from(["INV-1", "INV-2", "INV-3"]),
                st.sampled_from([None, "S-1", "S-2"]),
                st.sampled_from(["1", "2", "-1"]),
            ),
            max_size=12,
        ),
        st.integers(1, 6),
        st.booleans(),
    ),
    max_size=6,
)


def model_load(world, policy, rows, batch_id):
    """What a load must do, said in Python: counts and the world after it."""
    tally, seen = Counter(inserted=0, updated=0, unchanged=0, refused=0), Counter()
    for number, sku, quantity in rows:
        seen[number, sku] += 1
        key = (number, None, sku, seen[number, sku])
        if quantity == "-1" and not (policy == SKIP and key in world):
            tally["refused"] += 1
        elif key not in world:
            world[key] = (Decimal(quantity), batch_id)
            tally["inserted"] += 1
        elif policy == SKIP or world[key][0] == Decimal(quantity):
            tally["unchanged"] += 1
        elif policy == REJECT:
            tally["refused"] += 1
        else:
            world[key] = (Decimal(quantity), batch_id)
            tally["updated"] += 1
    return tuple(tally.values())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_any_sequence_of_loads_leaves_what_a_plain_model_says(engine, stage, sequence):
    execute(
        engine,
        "TRUNCATE public.mangalam_invoices, bulk_upload.load_chunks, bulk_upload.processing_errors CASCADE",
    )
    execute(engine, "ALTER TABLE public.mangalam_invoices DROP CONSTRAINT IF EXISTS positive", POSITIVE)
    world = {}
    for number, (policy, rows, size, twice) in enumerate(sequence):
        batch_id = f"b{number}"
        expected = model_load(world, policy, rows, batch_id)
        staged = stage([line(n, sku, quantity=quantity) for n, sku, quantity in rows], size)
        result = load(engine, staged, batch_id=batch_id, policy=policy)
        assert counts(result) == expected
        assert result.rows + result.refused == len(rows)
        if twice:
            assert load(engine, staged, batch_id=batch_id, policy=policy) == result
        found = {key: (row["quantity"], row["upload_batch_id"]) for key, row in table(engine).items()}
        assert found == world
        refused = "SELECT count(*) FROM bulk_upload.processing_errors WHERE batch_id = :batch_id"
        assert query(engine, refused, batch_id=batch_id) == [(result.refused,)]
