"""Sales by day: which dates become stale, what is counted, and how Dagster shows it."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import dagster as dg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk_upload_pipeline import contract, sales
from bulk_upload_pipeline.definitions import defs
from bulk_upload_pipeline.defs.partitions import days
from bulk_upload_pipeline.defs.sales import daily_sales, daily_sales_refresh
from bulk_upload_pipeline.exceptions import RevertRefusedError
from bulk_upload_pipeline.revert import revert
from bulk_upload_pipeline.sales import Day
from bulk_upload_pipeline.upgrading import schema
from bulk_upload_pipeline_tests.staged_rows import execute, line, lines, load, query, stage
from bulk_upload_pipeline_tests.world import QUIET, line_at

__all__ = ["stage"]

FIRST, SECOND, THIRD = date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)


def on(day, number, **values):
    return line(number, invoice_date=day, **values)


def clear(engine):
    execute(engine, "DELETE FROM bulk_upload.stale_dates")


def table(engine):
    return {
        row.invoice_date: Day(*row)
        for row in query(
            engine,
            "SELECT invoice_date, lines, invoices, customers, quantity, sales, credits FROM public.daily_sales",
        )
    }


def recount(engine):
    """The figures of every day, counted in Python from the rows."""
    by_day = defaultdict(list)
    for row in query(engine, "SELECT * FROM public.mangalam_invoices"):
        by_day[row.invoice_date].append(row)
    return {
        day: Day(
            day,
            len(rows),
            len({row.invoice_number for row in rows}),
            len({row.customer_id or row.customer_name for row in rows}),
            sum(row.quantity for row in rows),
            sum(row.item_total for row in rows if row.quantity >= 0),
            sum(row.item_total for row in rows if row.quantity < 0),
        )
        for day, rows in by_day.items()
    }


# Which dates become stale


def test_a_load_makes_the_dates_of_its_rows_stale(engine, stage):
    load(engine, stage([on(FIRST, "A"), on(THIRD, "B"), on(FIRST, "C")], size=2))
    assert sales.stale(engine) == [FIRST, THIRD]


def test_rows_that_are_there_already_make_nothing_stale(engine, stage):
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B")]))
    clear(engine)
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B"), on(THIRD, "C")]), batch_id="b2")
    assert sales.stale(engine) == [THIRD]


def test_a_row_that_moves_to_another_date_makes_both_stale(engine, stage):
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B")]))
    clear(engine)
    load(engine, stage([on(THIRD, "A"), on(SECOND, "B")]), batch_id="b2")
    assert sales.stale(engine) == [FIRST, THIRD]


def test_undoing_a_load_makes_every_date_stale_that_it_changes_back(engine, stage):
    load(engine, stage([on(FIRST, "A")]))
    load(engine, stage([on(SECOND, "A"), on(THIRD, "B")]), batch_id="b2")
    clear(engine)
    revert(engine, "b2")
    assert sales.stale(engine) == [FIRST, SECOND, THIRD]


def test_what_is_rolled_back_leaves_no_date_stale(engine, stage):
    execute(engine, "ALTER TABLE public.mangalam_invoices ADD CHECK (invoice_number <> 'B')")
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B")]))
    assert sales.stale(engine) == [FIRST]


def test_a_database_that_had_rows_before_there_were_daily_sales_starts_with_all_its_dates(engine, stage):
    from alembic import command

    load(engine, stage([on(FIRST, "A"), on(THIRD, "B")]))
    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0002")
    with engine.begin() as connection:
        command.upgrade(schema.migration_config(connection), "head")
    assert sales.stale(engine) == [FIRST, THIRD]


# What is counted


def test_a_day_has_its_lines_invoices_customers_quantity_sales_and_credits(engine, stage):
    rows = [
        on(FIRST, "A", sku="1", customer_id="7"),
        on(FIRST, "A", sku="2", customer_id="7", customer_name="Sharma (new sign)"),
        on(FIRST, "B", customer_name="Gupta Stores", quantity="3"),
        on(FIRST, "C", customer_name="Gupta Stores", quantity="-1"),
    ]
    load(engine, stage(rows))
    figures = Day(FIRST, 4, 3, 2, Decimal(6), Decimal("73.5"), Decimal("-10.5"))
    assert sales.refresh(engine, [SECOND, FIRST]) == [figures, Day(SECOND)]
    assert table(engine) == {FIRST: figures}
    assert sales.in_words([figures]) == "1 day counted: 4 lines, 63.00 net."


def test_a_refresh_counts_the_dates_it_is_given_and_clears_no_others(engine, stage):
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B"), on(THIRD, "C")]))
    sales.refresh(engine, [FIRST, SECOND])
    assert sorted(table(engine)) == [FIRST, SECOND]
    assert sales.stale(engine) == [THIRD]


def test_a_day_that_lost_its_last_line_has_no_row_any_more(engine, stage):
    load(engine, stage([on(FIRST, "A")]))
    sales.refresh(engine, [FIRST])
    revert(engine, "b1")
    assert sales.refresh(engine, sales.stale(engine)) == [Day(FIRST)]
    assert table(engine) == {}


def test_a_touch_that_comes_while_the_day_is_counted_is_not_lost(engine, stage):
    load(engine, stage([on(FIRST, "A")]))
    (seen,) = sales.refresh(
        engine, [FIRST], lambda _: load(engine, stage([on(FIRST, "B")]), batch_id="meanwhile")
    )
    assert seen.lines == 1
    assert sales.stale(engine) == [FIRST]
    assert sales.refresh(engine, [FIRST])[0].lines == 2


def test_a_refresh_that_does_not_come_to_its_end_leaves_the_day_stale(engine, stage):
    load(engine, stage([on(FIRST, "A")]))

    def die(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sales.refresh(engine, [FIRST], die)
    assert (table(engine), sales.stale(engine)) == ({}, [FIRST])


def test_of_two_refreshes_at_once_the_later_count_stands(engine, stage):
    load(engine, stage([on(FIRST, "A")]))
    second = threading.Thread(target=sales.refresh, args=(engine, [FIRST]))

    def meanwhile(_):
        load(engine, stage([on(FIRST, "B")]), batch_id="b2")
        second.start()
        second.join(0.3)
        assert second.is_alive(), "the second refresh waits for the first"

    sales.refresh(engine, [FIRST], meanwhile)
    second.join(30)
    assert table(engine) == recount(engine)
    assert sales.stale(engine) == []


moves = st.lists(
    st.one_of(
        st.tuples(
            st.just("load"),
            st.lists(
                st.tuples(
                    st.sampled_from("ABCD"), st.sampled_from([FIRST, SECOND, THIRD]), st.sampled_from("12-")
                ),
                min_size=1,
                max_size=5,
            ),
        ),
        st.tuples(st.just("revert"), st.integers(0, 5)),
        st.tuples(st.just("refresh"), st.none()),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves)
def test_after_any_loads_and_reverts_refreshing_what_is_stale_makes_every_figure_right(engine, stage, moves):
    execute(
        engine,
        "TRUNCATE public.mangalam_invoices, public.daily_sales, bulk_upload.stale_dates, "
        "bulk_upload.former_rows, bulk_upload.load_chunks CASCADE",
    )
    for number, (move, what) in enumerate(moves):
        if move == "load":
            rows = [on(day, name, quantity=q.replace("-", "-3")) for name, day, q in what]
            load(engine, stage(rows, size=2), batch_id=f"b{number}")
        elif move == "revert":
            try:
                revert(engine, f"b{what}")
            except RevertRefusedError:
                continue
        else:
            sales.refresh(engine, sales.stale(engine))
    sales.refresh(engine, sales.stale(engine))
    assert table(engine) == recount(engine)
    assert sales.agreement(engine).passed


# What is held against the target


def test_days_agree_with_the_target_until_somebody_changes_it_past_the_loader(engine, stage):
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B"), on(THIRD, "C")]))
    sales.refresh(engine, [FIRST, SECOND, THIRD])
    assert sales.agreement(engine).words == "3 days agree with mangalam_invoices."
    execute(
        engine,
        "UPDATE public.mangalam_invoices SET item_total = item_total + 0.0001 WHERE invoice_number = 'A'",
        "DELETE FROM public.mangalam_invoices WHERE invoice_number = 'C'",
    )
    found = sales.agreement(engine)
    assert (found.passed, found.severe) == (False, True)
    assert "(2024-01-01, 2024-01-03)" in found.words
    assert found.numbers == {"days": 3, "days_that_differ": 2, "days_stale": 0}


def test_days_that_are_stale_are_no_disagreement_and_lines_without_a_date_are_named(engine, stage):
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B")]))
    execute(engine, "INSERT INTO public.mangalam_invoices (invoice_number) VALUES ('OLD')")
    found = sales.agreement(engine)
    assert (found.passed, found.numbers["days_stale"]) == (True, 2)
    assert found.words.endswith("1 line without a date belongs to no day.")


def test_a_date_that_waits_longer_than_two_hours_is_late(engine, stage):
    assert sales.freshness(engine).passed
    load(engine, stage([on(FIRST, "A"), on(SECOND, "B")]))
    now = datetime.now(UTC)
    assert sales.freshness(engine, now + timedelta(hours=1, minutes=50)).passed
    late = sales.freshness(engine, now + timedelta(hours=2, minutes=10))
    assert (late.passed, late.severe, late.numbers["days_stale"]) == (False, False, 2)
    sales.refresh(engine, sales.stale(engine))
    assert sales.freshness(engine, now + timedelta(days=9)).words == "Every day is up to date."


# The view of the dashboards


def test_an_invoice_is_one_row_of_the_view(engine, stage):
    load(engine, stage([on(FIRST, "A", sku="1"), on(FIRST, "A", sku="2", quantity="3"), on(SECOND, "B")]))
    found = query(
        engine,
        "SELECT invoice_number, invoice_date, customer_name, item_count, total_quantity, total_amount, "
        "first_upload <= last_upload FROM public.invoice_summary ORDER BY 1",
    )
    assert [tuple(row) for row in found] == [
        ("A", FIRST, "Sharma Sweets", 2, Decimal(5), Decimal("52.5"), True),
        ("B", SECOND, "Sharma Sweets", 1, Decimal(2), Decimal(21), True),
    ]


def test_a_view_of_the_old_system_stays_as_it_is(engine):
    from alembic import command

    with engine.begin() as connection:
        command.downgrade(schema.migration_config(connection), "0002")
        connection.exec_driver_sql("CREATE VIEW public.invoice_summary AS SELECT 'old' AS system")
    with engine.begin() as connection:
        command.upgrade(schema.migration_config(connection), "head")
    assert query(engine, "SELECT system FROM public.invoice_summary") == [("old",)]


# How Dagster shows it


@pytest.fixture
def home(tmp_path, database_url, engine):
    with line_at(tmp_path / "home", database_url) as line:
        yield line


def materialized(instance):
    return instance.get_materialized_partitions(dg.AssetKey("daily_sales"))


def figures_of(instance, day):
    events = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("daily_sales"), asset_partitions=[day]), limit=1
    ).records
    return {name: value.value for name, value in events[0].asset_materialization.metadata.items()}


def test_every_figure_is_traced_to_the_columns_it_is_counted_from():
    assert set(sales.COUNTED_FROM) == {column.name for column in sales.daily_sales.columns} - {"refreshed_at"}
    assert {name for names in sales.COUNTED_FROM.values() for name in names} <= set(contract.NAMES)


def test_a_range_is_one_run_with_the_figures_of_each_day(home, instance, engine, stage):
    load(engine, stage([on(FIRST, "A"), on(THIRD, "B", quantity="-2")]))
    tags = {
        "dagster/asset_partition_range_start": "2024-01-01",
        "dagster/asset_partition_range_end": "2024-01-03",
    }
    result = dg.materialize(
        [daily_sales], instance=instance, resources={"line": home}, tags=tags, run_config=QUIET
    )
    assert result.success
    assert materialized(instance) == {"2024-01-01", "2024-01-02", "2024-01-03"}
    shown = figures_of(instance, "2024-01-03")
    assert shown.pop("dagster/column_lineage").deps_by_column["sales"][0] == dg.TableColumnDep(
        dg.AssetKey("mangalam_invoices"), "item_total"
    )
    assert shown == {
        "lines": 1,
        "invoices": 1,
        "customers": 1,
        "quantity": -2.0,
        "sales": 0.0,
        "credits": -21.0,
    }
    assert figures_of(instance, "2024-01-02")["lines"] == 0
    assert table(engine) == recount(engine)


def refresh(home, instance):
    return defs.resolve_job_def("refresh_daily_sales").execute_in_process(
        instance=instance, resources={"line": home}, run_config=QUIET, raise_on_error=False
    )


def messages(instance, run_id):
    return [entry.user_message for entry in instance.all_logs(run_id)]


def test_a_run_that_is_launched_for_no_day_says_what_to_choose(home, instance):
    result = dg.materialize(
        [daily_sales], instance=instance, resources={"line": home}, run_config=QUIET, raise_on_error=False
    )
    (failure,) = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    assert failure.user_failure_data.description.startswith("Choose the days that are to be counted")


def test_the_hourly_run_counts_scattered_days_and_marks_exactly_those(home, instance, engine, stage):
    load(engine, stage([on(FIRST, "A"), on(THIRD, "B"), on(date(2026, 2, 28), "C")]))
    result = refresh(home, instance)
    assert result.success
    assert materialized(instance) == {"2024-01-01", "2024-01-03", "2026-02-28"}
    assert sales.stale(engine) == []
    lights = {
        name: instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("daily_sales"), name), limit=1
        )[0].status.value
        for name in ("sums_agree", "refreshed")
    }
    assert lights == {"sums_agree": "SUCCEEDED", "refreshed": "SUCCEEDED"}


def test_days_without_a_partition_are_counted_and_named(home, instance, engine, stage):
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    load(engine, stage([on(date(1999, 12, 31), "A"), on(tomorrow, "B"), on(FIRST, "C")]))
    result = refresh(home, instance)
    assert result.success
    assert materialized(instance) == {"2024-01-01"}
    assert table(engine) == recount(engine)
    assert [m for m in messages(instance, result.run_id) if m.startswith("2 days before 2010-01-01")]
    assert sales.stale(engine) == []
    assert sales.agreement(engine).words == "3 days agree with mangalam_invoices."


def test_a_day_without_a_partition_that_somebody_changed_by_hand_is_counted_again_as_its_check_advises(
    home, instance, engine, stage
):
    tomorrow, early = datetime.now(UTC).date() + timedelta(days=1), date(1999, 12, 31)
    load(engine, stage([on(early, "A"), on(tomorrow, "B"), on(FIRST, "C")]))
    assert refresh(home, instance).success
    execute(engine, "TRUNCATE public.mangalam_invoices")
    found = sales.agreement(engine, date(2010, 1, 1)).words
    assert found.endswith(
        f"Back-fill that partition. There is no partition for 1999-12-31, {tomorrow}: insert such an invoice_date "
        "into bulk_upload.stale_dates, and the next hourly refresh counts it."
    )
    execute(
        engine,
        f"INSERT INTO bulk_upload.stale_dates (invoice_date) VALUES ('{early}'), ('{tomorrow}'), ('{FIRST}')",
    )
    assert refresh(home, instance).success
    assert table(engine) == {}
    assert sales.agreement(engine).passed


def test_a_day_that_is_still_ahead_gets_its_partition_when_it_comes(home, instance, engine, stage):
    today = datetime.now(UTC).date()
    load(engine, stage([on(today + timedelta(days=1), "A"), on(today, "B")]))
    assert refresh(home, instance).success
    assert materialized(instance) == {today.isoformat()}
    assert (sales.stale(engine), sales.freshness(engine).words) == ([], "Every day is up to date.")
    assert sales.agreement(engine).numbers["days"] == 2
    execute(
        engine,
        "UPDATE public.mangalam_invoices SET invoice_date = invoice_date - 1",
        "UPDATE public.daily_sales SET invoice_date = invoice_date - 1",
        "UPDATE bulk_upload.stale_dates SET invoice_date = invoice_date - 1, "
        "touched_at = touched_at - interval '1 day'",
    )
    assert sales.stale(engine) == [today]
    assert refresh(home, instance).success
    assert query(engine, "SELECT count(*) FROM bulk_upload.stale_dates") == [(0,)]


def test_todays_invoices_have_a_partition_today():
    keys = days.get_partition_keys()
    assert keys[0] == "2010-01-01"
    assert keys[-1] == datetime.now(UTC).date().isoformat()


def test_the_schedule_starts_one_run_when_something_is_stale_and_else_says_so(home, instance, engine, stage):
    def tick():
        return daily_sales_refresh(dg.build_schedule_context(instance=instance, resources={"line": home}))

    assert tick().skip_message == "Every day is up to date."
    load(engine, stage(lines(3)))
    load(engine, stage([on(FIRST, "A")]), batch_id="b2")
    request = tick()
    assert request.tags == {"stale_days": "2", "days": "2024-01-01, 2024-12-31"}


def test_a_fault_of_the_database_fails_the_run_and_leaves_the_days_stale(home, instance, engine, stage):
    load(engine, stage([on(FIRST, "A")]))
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE public.daily_sales ADD CHECK (lines > 1)"))
    assert not refresh(home, instance).success
    assert sales.stale(engine) == [FIRST]
