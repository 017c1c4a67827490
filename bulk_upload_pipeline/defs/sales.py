"""Sales by day: any range from the UI as one run, and every hour the days that loads have touched."""

import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime

import dagster as dg

from bulk_upload_pipeline import sales
from bulk_upload_pipeline.defs import metadata
from bulk_upload_pipeline.defs.checks import as_facts, log_evaluation, result
from bulk_upload_pipeline.defs.partitions import days
from bulk_upload_pipeline.model import Judgement
from bulk_upload_pipeline.workplace import Line

DAILY_SALES = "daily_sales"
AGREES, FRESH = "sums_agree", "refreshed"


AssetFunction = Callable[..., dg.MaterializeResult[None]]


def _asset_by_day(function: AssetFunction) -> dg.AssetsDefinition:
    """Make an asset of which any range of days is one run.

    `backfill_policy` is a beta in Dagster 1.13: without it a back-fill of a year would be 365 runs. This is
    the only place that leans on it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*backfill_policy.*")
        return dg.asset(
            deps=[dg.AssetDep("mangalam_invoices", partition_mapping=dg.AllPartitionMapping())],
            partitions_def=days,
            backfill_policy=dg.BackfillPolicy.single_run(),
            group_name="sales",
            owners=["team:back-office"],
            kinds={"postgres", "table"},
            tags={"stage": "sales"},
            metadata={
                "dagster/column_schema": metadata.sales_schema(),
                "dagster/table_name": "public.daily_sales",
            },
        )(function)


@_asset_by_day
def daily_sales(
    context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """What was sold on each day: lines, invoices, customers, quantity, sales, credits. Any range is one run."""
    if not (context.has_partition_key or context.has_partition_key_range):
        raise dg.Failure(
            "Choose the days that are to be counted, or launch `refresh_daily_sales` for all that have changed.",
            allow_retries=False,
        )
    counted = sales.refresh(line.engine, [date.fromisoformat(key) for key in context.partition_keys])
    for day in counted:
        context.add_asset_metadata(metadata.of_day(day), partition_key=day.invoice_date.isoformat())
    context.log.info(sales.in_words(counted))
    return dg.MaterializeResult()


@dg.asset_check(asset=daily_sales)
def sums_agree(line: dg.ResourceParam[Line]) -> dg.AssetCheckResult:
    """Lines, quantity and sums of every day are those of mangalam_invoices, but for days that are stale."""
    return result(sales.agreement(line.engine, _first()))


@dg.asset_check(asset=daily_sales)
def refreshed(line: dg.ResourceParam[Line]) -> dg.AssetCheckResult:
    """No day has waited for its refresh longer than two hours."""
    return result(sales.freshness(line.engine))


def evaluation(asset: str, check: str, judgement: Judgement) -> dg.AssetCheckEvaluation:
    """Return the event of a check that is made outside of its own step."""
    return dg.AssetCheckEvaluation(asset_key=dg.AssetKey(asset), check_name=check, **as_facts(judgement))


@dg.op(description="Counts the sales of all stale days again, in one transaction.")
def count_stale_days(context: dg.OpExecutionContext, line: dg.ResourceParam[Line]) -> None:
    """Log each day before the commit: a run that dies leaves its days stale, and the next one logs them."""
    counted = sales.refresh(line.engine, sales.stale(line.engine), lambda found: _materialize(context, found))
    context.log.info(sales.in_words(counted))
    log_evaluation(context, evaluation(DAILY_SALES, AGREES, sales.agreement(line.engine, _first())))
    log_evaluation(context, evaluation(DAILY_SALES, FRESH, sales.freshness(line.engine)))


def _materialize(context: dg.OpExecutionContext, counted: Sequence[sales.Day]) -> None:
    first, last = _first(), _today()
    inside = [day for day in counted if first <= day.invoice_date <= last]
    outside = [day.invoice_date for day in counted if not first <= day.invoice_date <= last]
    for day in inside:
        context.log_event(
            dg.AssetMaterialization(
                DAILY_SALES, partition=day.invoice_date.isoformat(), metadata=metadata.of_day(day)
            )
        )
    if outside:
        context.log.warning(
            f"{len(outside):,} {'day' if len(outside) == 1 else 'days'} before {first} or after today counted in the "
            f"table, without a partition: {sales.named(outside)}."
        )


def _first() -> date:
    return date.fromisoformat(str(days.get_first_partition_key()))


def _today() -> date:
    return datetime.now(UTC).date()


@dg.job(description="Brings every day up to date that loads, corrections or reverts have touched.")
def refresh_daily_sales() -> None:
    """One run, however many days: it reads what is stale when it starts."""
    count_stale_days()


@dg.schedule(
    job=refresh_daily_sales,
    cron_schedule="0 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour, one run over the days that have changed since they were counted.",
)
def daily_sales_refresh(
    context: dg.ScheduleEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.RunRequest | dg.SkipReason:
    """Start nothing when nothing is stale."""
    dates = sales.stale(line.engine)
    if not dates:
        return dg.SkipReason("Every day is up to date.")
    return dg.RunRequest(tags={"stale_days": str(len(dates)), "days": sales.named(dates)})
