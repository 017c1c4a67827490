"""Undoing a load, against the state before it."""

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline.exceptions import BatchBusyError, RevertForbiddenError, RevertRefusedError
from bulk_upload_pipeline.holding import lock_name
from bulk_upload_pipeline.revert import RevertResult, revert
from bulk_upload_pipeline_tests.staged_rows import (
    counts,
    execute,
    ledger,
    line,
    lines,
    load,
    query,
    stage,
    table,
)

__all__ = ["stage"]


def everything(engine):
    """Return all that rows hold but the time of their last change, of which a revert is one."""
    rows = query(engine, "SELECT to_jsonb(t) - 'updated_at' FROM public.mangalam_invoices AS t ORDER BY id")
    return [row for (row,) in rows]


def test_rows_that_a_load_inserted_go_and_it_can_be_loaded_again(engine, stage):
    staged = stage(lines(25), size=10)
    first = load(engine, staged)
    assert revert(engine, "b1") == RevertResult(deleted=25, restored=0)
    assert table(engine) == {}
    assert ledger(engine) == []
    assert load(engine, staged) == first


def test_rows_that_a_load_changed_get_back_every_former_value(engine, stage):
    full = line(
        "INV-1", brand='a "b" \\ काजू', mrp=line("x")["item_price"], extra='{"Month": "Dec", "n": 1.50}'
    )
    load(engine, stage([full, line("INV-2"), line("INV-3")]), batch_id="b0")
    before = everything(engine)
    rows = [line("INV-1", quantity="3"), line("INV-2", price="1"), line("INV-3"), line("NEW")]
    assert counts(load(engine, stage(rows))) == (1, 2, 1, 0)
    assert revert(engine, "b1") == RevertResult(deleted=1, restored=2)
    assert everything(engine) == before


def test_who_reads_what_has_changed_since_it_last_looked_reads_the_restored_rows(engine, stage):
    load(engine, stage([line("INV-1"), line("INV-2")]), batch_id="b0")
    load(engine, stage([line("INV-1", quantity="3")]))
    looked_at = query(engine, "SELECT max(updated_at) FROM public.mangalam_invoices")[0][0]
    revert(engine, "b1")
    changed = (
        "SELECT invoice_number, quantity::text FROM public.mangalam_invoices WHERE updated_at > :looked_at"
    )
    with engine.connect() as connection:
        assert connection.execute(sa.text(changed), {"looked_at": looked_at}).all() == [("INV-1", "2.0000")]


def test_rows_that_no_batch_wrote_are_restored_too(engine, stage):
    execute(engine, "INSERT INTO public.mangalam_invoices (invoice_number, sku) VALUES ('INV-1', 'S-1')")
    before = everything(engine)
    load(engine, stage(lines(2)))
    assert revert(engine, "b1") == RevertResult(deleted=1, restored=1)
    assert everything(engine) == before


def test_it_is_refused_with_the_names_of_later_batches_that_changed_the_same_rows(engine, stage):
    load(engine, stage(lines(5)))
    load(engine, stage([line("INV-2", quantity="7")]), batch_id="b2")
    load(engine, stage([line("INV-2", quantity="8"), line("INV-3", quantity="8")]), batch_id="b3")
    before = everything(engine)
    with pytest.raises(RevertRefusedError, match="b3") as caught:
        revert(engine, "b1")
    assert caught.value.later_batches == ("b3",)
    assert everything(engine) == before
    for batch_id in ("b3", "b2", "b1"):
        revert(engine, batch_id)
    assert everything(engine) == []
    assert query(engine, "SELECT count(*) FROM bulk_upload.former_rows") == [(0,)]


def test_rows_that_later_batches_found_unchanged_do_not_hinder_it(engine, stage):
    load(engine, stage(lines(5)))
    load(engine, stage(lines(5)), batch_id="b2")
    assert revert(engine, "b1").deleted == 5


def test_a_batch_that_was_judged_anew_is_undone_to_what_was_before_its_first_load(engine, stage):
    load(engine, stage(lines(2)), batch_id="b0")
    before = everything(engine)
    load(engine, stage([line("INV-1", quantity="3"), line("NEW")]))
    load(engine, stage([line("INV-1", quantity="4"), line("NEW", quantity="4")]), plan="other")
    assert revert(engine, "b1") == RevertResult(deleted=1, restored=1)
    assert everything(engine) == before


def on_change(body, events="UPDATE OR DELETE"):
    return (
        f"CREATE FUNCTION public.guarded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; "
        f"CREATE TRIGGER guarded BEFORE {events} ON public.mangalam_invoices "
        "FOR EACH ROW EXECUTE FUNCTION public.guarded()"
    )


KEEPING = {
    "a payment refers to a row": (
        "CREATE TABLE public.payments (line bigint REFERENCES public.mangalam_invoices (id)); "
        "INSERT INTO public.payments SELECT max(id) FROM public.mangalam_invoices",
        "violates foreign key constraint",
    ),
    "it refers to one until the end": (
        "CREATE TABLE public.payments (line bigint REFERENCES public.mangalam_invoices (id) INITIALLY DEFERRED); "
        "INSERT INTO public.payments SELECT max(id) FROM public.mangalam_invoices",
        "violates foreign key constraint",
    ),
    "former values are wrong by now": (
        "ALTER TABLE public.mangalam_invoices ADD CHECK (quantity <> 2) NOT VALID",
        "violates check constraint",
    ),
    "a trigger says no": (on_change("RAISE EXCEPTION 'the month is closed';"), "the month is closed"),
    "a trigger does nothing": (on_change("RETURN NULL;"), "leaves 1 row unchanged"),
    "a trigger lets nothing be deleted": (on_change("RETURN NEW;", "DELETE"), "leaves 2 rows unchanged"),
}


@pytest.mark.parametrize("what", KEEPING)
def test_rows_that_a_rule_of_somebody_else_keeps_are_not_undone_in_part(engine, stage, what):
    statement, cause = KEEPING[what]
    load(engine, stage([line("INV-1")]), batch_id="b0")
    load(engine, stage([line("INV-1", quantity="3"), line("NEW"), line("NEWER")]))
    execute(engine, statement)
    before = everything(engine)
    with pytest.raises(RevertForbiddenError, match=cause) as caught:
        revert(engine, "b1")
    assert "\n" not in str(caught.value)
    assert everything(engine) == before
    assert ledger(engine) != []


def test_a_batch_that_loaded_nothing_is_left_alone(engine):
    assert revert(engine, "unknown") == RevertResult(0, 0)


def test_a_batch_that_is_being_loaded_is_busy(engine, monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.holding.BUSY_AFTER_S", 0.1)
    with engine.connect() as other:
        other.execute(sa.text("SELECT pg_advisory_lock(hashtextextended(:n, 0))"), {"n": lock_name("b1")})
        with pytest.raises(BatchBusyError):
            revert(engine, "b1")
        other.invalidate()


loads = st.lists(
    st.dictionaries(st.sampled_from(["INV-1", "INV-2", "INV-3"]), st.sampled_from(["1", "2"]), min_size=1),
    min_size=1,
    max_size=5,
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(loads, st.data())
def test_reverts_in_any_allowed_order_go_back_through_the_same_states(engine, stage, sequence, data):
    """From the last to the first they pass every state backwards; out of order one is refused or harmless."""
    execute(
        engine, "TRUNCATE public.mangalam_invoices, bulk_upload.load_chunks, bulk_upload.former_rows CASCADE"
    )
    states = []
    for number, quantities in enumerate(sequence):
        states.append(everything(engine))
        rows = [line(name, quantity=quantity) for name, quantity in quantities.items()]
        load(engine, stage(rows, size=2), batch_id=f"b{number}")
    early = data.draw(st.integers(0, len(sequence) - 1))
    final = everything(engine)
    hindering = None
    try:
        revert(engine, f"b{early}")
    except RevertRefusedError as refusal:
        hindering = refusal.later_batches
    if hindering is not None:
        assert hindering
        assert all(int(name[1:]) > early for name in hindering)
        assert everything(engine) == final
        for number in range(len(sequence) - 1, -1, -1):
            revert(engine, f"b{number}")
            assert everything(engine) == states[number]
    else:
        owned = [row for row in final if row["upload_batch_id"] == f"b{early}"]
        untouched = [row for row in final if row not in owned]
        assert [row for row in everything(engine) if row in untouched] == untouched
        assert not [row for row in everything(engine) if row["upload_batch_id"] == f"b{early}"]


def test_a_batch_below_two_later_ones_cannot_be_reverted(engine, stage):
    load(engine, stage([line("INV-1")]), batch_id="b1")
    load(engine, stage([line("INV-1", quantity="7")]), batch_id="b2")
    load(engine, stage([line("INV-1", quantity="8")]), batch_id="b3")
    with pytest.raises(RevertRefusedError) as caught:
        revert(engine, "b1")
    assert caught.value.later_batches == ("b3",)
