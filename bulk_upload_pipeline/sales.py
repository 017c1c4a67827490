"""Sales by day: counted from the target in one statement, for any dates, and held against it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Date, DateTime, Numeric, Table, func

from bulk_upload_pipeline import contract
from bulk_upload_pipeline.model import Judgement, counted
from bulk_upload_pipeline.stale import stale_dates
from bulk_upload_pipeline.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import date

daily_sales = Table(
    "daily_sales",
    metadata,
    Column("invoice_date", Date, primary_key=True),
    Column("lines", BigInteger, nullable=False),
    Column("invoices", BigInteger, nullable=False),
    Column("customers", BigInteger, nullable=False),
    Column("quantity", Numeric, nullable=False),
    Column("sales", Numeric, nullable=False),
    Column("credits", Numeric, nullable=False),
    Column("refreshed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""One row a day that has lines, in schema `public`: the analyst's table."""

COUNTED_FROM: dict[str, tuple[str, ...]] = {
    "invoice_date": ("invoice_date",),
    "lines": ("invoice_date",),
    "invoices": ("invoice_number",),
    "customers": ("customer_id", "customer_name"),
    "quantity": ("quantity",),
    "sales": ("item_total", "quantity"),
    "credits": ("item_total", "quantity"),
}
"""Which columns of the target each figure is counted from."""

STALE_FOR_LONG = timedelta(hours=2)
"""The refresh comes every hour: a date that waits longer was forgotten."""

_NAMED = 5
"""How many dates a sentence names."""

_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('bulk_upload.daily_sales', 0))")

# One statement has one snapshot: whoever's touch it removes, it has also seen what was changed with it. A day
# that is still ahead has no partition yet: it is counted now, and becomes stale when it comes, to be shown then.
_REFRESH = sa.text(
    f"""
WITH seen AS (
    DELETE FROM bulk_upload.stale_dates WHERE invoice_date = ANY (:dates)
), counted AS (
    SELECT invoice_date, count(*) AS lines, count(DISTINCT invoice_number) AS invoices,
        count(DISTINCT coalesce(customer_id, customer_name)) AS customers,
        coalesce(sum(quantity), 0) AS quantity,
        coalesce(sum(item_total) FILTER (WHERE quantity >= 0 OR quantity IS NULL), 0) AS sales,
        coalesce(sum(item_total) FILTER (WHERE quantity < 0), 0) AS credits
    FROM {contract.TABLE} WHERE invoice_date = ANY (:dates) GROUP BY invoice_date
), ahead AS (
    INSERT INTO bulk_upload.stale_dates (invoice_date, touched_at)
    SELECT invoice_date, invoice_date::timestamp AT TIME ZONE 'UTC' FROM counted
    WHERE invoice_date::timestamp AT TIME ZONE 'UTC' > now()
), emptied AS (
    DELETE FROM public.daily_sales AS d WHERE invoice_date = ANY (:dates)
        AND NOT EXISTS (SELECT FROM counted WHERE counted.invoice_date = d.invoice_date)
)
INSERT INTO public.daily_sales (invoice_date, lines, invoices, customers, quantity, sales, credits, refreshed_at)
SELECT *, now() FROM counted
ON CONFLICT (invoice_date) DO UPDATE SET
    lines = excluded.lines, invoices = excluded.invoices, customers = excluded.customers,
    quantity = excluded.quantity, sales = excluded.sales, credits = excluded.credits,
    refreshed_at = excluded.refreshed_at
RETURNING invoice_date, lines, invoices, customers, quantity, sales, credits
"""  # noqa: S608 - names of our own tables only, here and below
)

_DIFFERING = sa.text(
    f"""
WITH counted AS (
    SELECT invoice_date, count(*) AS lines, sum(quantity) AS quantity, sum(item_total) AS total
    FROM {contract.TABLE} WHERE invoice_date IS NOT NULL GROUP BY invoice_date
)
SELECT invoice_date FROM counted AS c FULL JOIN public.daily_sales AS d USING (invoice_date)
WHERE (c.lines, coalesce(c.quantity, 0), coalesce(c.total, 0))
    IS DISTINCT FROM (d.lines, coalesce(d.quantity, 0), coalesce(d.sales + d.credits, 0))
AND NOT EXISTS (
    SELECT FROM bulk_upload.stale_dates AS s
    WHERE s.invoice_date IN (c.invoice_date, d.invoice_date) AND s.touched_at <= now()
)
ORDER BY invoice_date
"""  # noqa: S608
)


@dataclass(frozen=True, slots=True)
class Day:
    """What was sold on a day.

    Attributes:
        customers: Shops, by their id where a line has one, else by name.
        sales: Sum of the lines with a positive quantity.
        credits: Sum of the credit lines, those with a negative quantity.
    """

    invoice_date: date
    lines: int = 0
    invoices: int = 0
    customers: int = 0
    quantity: Decimal = Decimal(0)
    sales: Decimal = Decimal(0)
    credits: Decimal = Decimal(0)


def stale(engine: sa.Engine) -> list[date]:
    """Return the dates whose sales have to be counted again by now, in order."""
    columns = stale_dates.c
    query = sa.select(columns.invoice_date).where(columns.touched_at <= func.now()).distinct()
    with engine.connect() as connection:
        return list(connection.scalars(query.order_by(columns.invoice_date)))


def refresh(
    engine: sa.Engine, dates: Collection[date], before_commit: Callable[[list[Day]], object] = lambda _: None
) -> list[Day]:
    """Count the sales of some dates again; what changes meanwhile makes its date stale again.

    Args:
        engine: The invoices' database.
        dates: Any dates, such as `stale` ones or a whole range.
        before_commit: Told of the days; unless it comes to its end, they stay as stale as they were.

    Returns:
        A day for each date, in order, also for dates without a line, which have no row in the table.
    """
    wanted = sorted(set(dates))
    with engine.begin() as connection:
        # Of two refreshes at once, the one that counted earlier must not be the last to write.
        connection.execute(_LOCK)
        rows = connection.execute(_REFRESH, {"dates": wanted})
        found = {row.invoice_date: Day(**row._mapping) for row in rows}
        days = [found.get(day, Day(day)) for day in wanted]
        before_commit(days)
    return days


def agreement(engine: sa.Engine, first: date | None = None) -> Judgement:
    """Every day's lines, quantity and sums are those of mangalam_invoices, but for dates that are stale.

    Args:
        engine: The invoices' database.
        first: The first day that has a partition; None if all have that lie not ahead.
    """
    lines = sa.text(f"SELECT count(*) FROM {contract.TABLE} WHERE invoice_date IS NULL")  # noqa: S608
    with engine.connect() as connection:
        differing = list(connection.scalars(_DIFFERING))
        days = connection.scalar(sa.select(func.count()).select_from(daily_sales)) or 0
        dateless = connection.scalar(lines) or 0
    waiting = stale(engine)
    words = f"{counted(days, 'day agrees', 'days agree')} with {contract.TARGET}."
    if differing:
        words = (
            f"{counted(len(differing), 'day does', 'days do')} not agree with {contract.TARGET} "
            f"({named(differing)}): somebody changed it past the loader. {_mended_by(differing, first)}"
        )
    return Judgement(
        passed=not differing,
        severe=True,
        words=words + (f" {_without_date(dateless)}" if dateless else ""),
        numbers={"days": days, "days_that_differ": len(differing), "days_stale": len(waiting)},
    )


def _mended_by(differing: Sequence[date], first: date | None) -> str:
    """Return what a person does about days that do not agree; some have no partition that could be back-filled."""
    today = datetime.now(UTC).date()
    outside = [day for day in differing if day > today or (first is not None and day < first)]
    inside = len(differing) - len(outside)
    told = [f"Back-fill {'that partition' if inside == 1 else 'those partitions'}."] if inside else []
    if outside:
        told.append(
            f"There is no partition for {named(outside)}: insert such an invoice_date into "
            "bulk_upload.stale_dates, and the next hourly refresh counts it."
        )
    return " ".join(told)


def _without_date(lines: int) -> str:
    return f"{counted(lines, 'line without a date belongs', 'lines without a date belong')} to no day."


def freshness(engine: sa.Engine, now: datetime | None = None) -> Judgement:
    """No date has waited for its refresh longer than two hours."""
    columns = stale_dates.c
    query = sa.select(
        func.min(columns.touched_at).label("since"), func.count(columns.invoice_date.distinct()).label("days")
    ).where(columns.touched_at <= func.now())
    with engine.connect() as connection:
        row = connection.execute(query).one()
    since, count = row.since, row.days
    if since is None:
        return Judgement(passed=True, words="Every day is up to date.", numbers={"days_stale": 0})
    waited = (now or datetime.now(UTC)) - since
    late = waited > STALE_FOR_LONG
    hours = waited / timedelta(hours=1)
    waiting = counted(count, "day waits", "days wait")
    return Judgement(
        passed=not late,
        words=f"{waiting} to be counted again, the first since {since:%Y-%m-%d %H:%M} UTC."
        + (" Is schedule `daily_sales_refresh` switched on, and the daemon running?" if late else ""),
        numbers={"days_stale": count, "hours_stale": round(hours, 2)},
    )


def named(dates: Sequence[date]) -> str:
    """Return the first of some dates, for a sentence."""
    return ", ".join(day.isoformat() for day in dates[:_NAMED]) + (", ..." if len(dates) > _NAMED else "")


def in_words(days: Sequence[Day]) -> str:
    """Return what was counted as a sentence."""
    total = sum((day.sales + day.credits for day in days), Decimal(0))
    lines = sum(day.lines for day in days)
    return f"{counted(len(days), 'day')} counted: {counted(lines, 'line')}, {total:,.2f} net."


def as_numbers(day: Day) -> dict[str, object]:
    """Return the figures of a day by name."""
    return {name: value for name, value in asdict(day).items() if name != "invoice_date"}
