"""Staged chunks into the target: every path and every policy, and what a plain model says of them."""

import json
import threading
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.model import LoadResult, Totals
from bulk_upload_pipeline_tests.staged_rows import (
    POSITIVE,
    REJECT,
    SKIP,
    UPDATE,
    counts,
    errors,
    execute,
    ledger,
    line,
    lines,
    load,
    query,
    recounted,
    stage,
    table,
)

__all__ = ["stage"]


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
