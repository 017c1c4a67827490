"""The outbox of alerts: what is to be told, and what each channel was told.

A receipt that has to be told carries no mark yet (`alerted_at`); message and mark commit together, so nothing is
forgotten and nothing is put into words twice. A channel that takes a message is noted at once; one that does not is
tried again later, without the others being told twice. One message that a channel never takes holds up no other.
"""

from __future__ import annotations

import os
import shutil
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from bulk_upload_pipeline import kept, overlooked, rejects, silence, storage, whereabouts
from bulk_upload_pipeline.alerting import messages
from bulk_upload_pipeline.model import State
from bulk_upload_pipeline.profile_files import usable_profiles
from bulk_upload_pipeline.tables import alerts, upload_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from bulk_upload_pipeline.again import Night
    from bulk_upload_pipeline.alerting.channels import Channel
    from bulk_upload_pipeline.alerting.messages import Alert
    from bulk_upload_pipeline.model import Receipt
    from bulk_upload_pipeline.workplace import Line

DIGEST_AFTER = timedelta(minutes=10)
"""Files that are loaded in part wait so long for others, so that a morning of them is one message."""
FAILED_AFTER = timedelta(seconds=60)
"""A failed batch is left so long to whoever retries it by itself."""
UNTAKEN_AFTER = timedelta(minutes=5)
"""A file that could not be taken is left so long to its next runs."""
OLDEST = timedelta(days=7)
"""What is older is no news: a channel that is set up today does not hear of last year."""
LEAST_FREE, LEAST_FREE_SHARE = 2_000_000_000, 0.05
LEAST_FREE_FILES = 50_000
"""A batch takes about ten: its file, its report and their folders."""
ENOUGH_REFUSED = 2
"""Messages that a channel refuses one after the other: then it is the channel that is at fault."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
_LOCK = 5_310_776_245


def notice_nights(
    line: Line,
    channels: Collection[Channel],
    now: datetime,
    under_way: Collection[str],
    nights: Iterable[Night],
) -> frozenset[str]:
    """Put what became of nights into words, once each, when they are over; return the batches of the others.

    What a night took again is told with it, and not a second time as files.

    Args:
        line: Whose receipts are looked at.
        channels: Who is to be told.
        now: The present, in UTC.
        under_way: Batches on which a run works or for which one waits.
        nights: Those of which nobody was told.
    """
    going_on: frozenset[str] = frozenset()
    for night in nights:
        receipts = whereabouts.receipts_of(line.engine, night.batch_ids)
        if not (_is_over(night, receipts, now, under_way) or night.is_late(now)):
            going_on |= night.batch_ids
            continue
        ended = [each for each in receipts if each.state in messages.STATES and each.finished_at]
        worst = sorted(ended, key=_badness)
        with line.engine.begin() as connection:
            words = night.in_words(receipts)
            told = messages.of_night(night.subject, night.name, words, worst, _accounts(line, worst))
            queue(connection, [told], channels)
            _mark(connection, worst)
    return going_on


def _is_over(night: Night, receipts: Sequence[Receipt], now: datetime, under_way: Collection[str]) -> bool:
    return len(night.batch_ids) >= night.asked and not any(
        each.batch_id in under_way or each.finished_at is None or _may_end_well(each, now, under_way)
        for each in receipts
    )


def is_told(engine: sa.Engine, subject: str) -> bool:
    """Return whether a message about this was put into the outbox."""
    with engine.connect() as connection:
        return bool(connection.scalar(sa.select(sa.exists().where(alerts.c.subject == subject))))


def notice_receipts(
    line: Line,
    channels: Collection[Channel],
    now: datetime,
    under_way: Collection[str],
    told_elsewhere: Collection[str] = (),
) -> int:
    """Put what became of files into words, once, for all channels; return of how many files.

    Args:
        line: Whose receipts are looked at.
        channels: Who is to be told.
        now: The present, in UTC.
        under_way: Batches on which a run works or for which one waits: they may still end well.
        told_elsewhere: Batches of which another message will tell.
    """
    with line.engine.begin() as connection:
        receipts = [
            each for each in _untold(connection, now, under_way) if each.batch_id not in told_elsewhere
        ]
        if not receipts:
            return 0
        queue(connection, [messages.of_receipts(receipts, _accounts(line, receipts))], channels)
        _mark(connection, receipts)
    return len(receipts)


def _mark(connection: sa.Connection, receipts: Iterable[Receipt]) -> None:
    """Note that these receipts are told; one that has changed meanwhile is not."""
    columns = upload_batches.c
    for receipt in receipts:
        told = sa.and_(columns.batch_id == receipt.batch_id, columns.finished_at == receipt.finished_at)
        connection.execute(sa.update(upload_batches).where(told).values(alerted_at=columns.finished_at))


def _badness(receipt: Receipt) -> int:
    return list(messages.STATES).index(receipt.state)


def _untold(connection: sa.Connection, now: datetime, under_way: Collection[str]) -> list[Receipt]:
    """Return the receipts that are to be told now, the worst first, locked until the transaction ends."""
    columns = upload_batches.c
    query = (
        sa.select(upload_batches)
        .where(columns.state.in_(list(messages.STATES)))
        .where(columns.finished_at.is_distinct_from(columns.alerted_at))
        .where(columns.finished_at > now - OLDEST)
        .order_by(columns.finished_at, columns.batch_id)
        .with_for_update(skip_locked=True)
    )
    found = [kept.as_receipt(row) for row in connection.execute(query)]
    final = [receipt for receipt in found if not _may_end_well(receipt, now, under_way)]
    parts = [receipt for receipt in final if receipt.state is State.PARTIALLY_LOADED]
    if len(parts) == len(final) and not any(_age(receipt, now) >= DIGEST_AFTER for receipt in parts):
        return []
    return sorted(final, key=_badness)


def _may_end_well(receipt: Receipt, now: datetime, under_way: Collection[str]) -> bool:
    failed = receipt.state is State.FAILED
    return failed and (receipt.batch_id in under_way or _age(receipt, now) < FAILED_AFTER)


def _age(receipt: Receipt, now: datetime) -> timedelta:
    assert receipt.finished_at is not None
    return now - receipt.finished_at


def _accounts(line: Line, receipts: Sequence[Receipt]) -> list[messages.Account]:
    return [
        messages.Account(
            receipt, rejects.by_code(line.engine, receipt.batch_id), line.reports(receipt.batch_id)
        )
        for receipt in receipts[: messages.MOST_FILES]
    ]


def notice_silence(line: Line, now: datetime) -> list[Alert]:
    """Return an alert for each sender whose file is overdue."""
    # A profile that cannot be used shall keep nobody from being told of other things.
    profiles = usable_profiles(storage.profiles_at_hand(line.home))
    overdue = silence.silent(line.engine, profiles, now)
    return [messages.of_silence(sender, now) for sender in overdue]


def notice_overlooked(line: Line, now: datetime, watched_since: datetime) -> list[Alert]:
    """Return an alert when files lie in the inbox for which nobody comes, whoever began to at `watched_since`."""
    found = overlooked.overlooked(line, now, watched_since)
    return [] if found is None else [messages.of_overlooked(found, now)]


def notice_untaken(line: Line, channels: Collection[Channel], now: datetime) -> int:
    """Put files that wait and cannot be taken into words, once each; return how many wait so when they are told.

    They have no receipt that would be told. There is one message an hour at most: on a full disk each file that comes
    would be one, and where there is room again each that is taken would leave fewer.
    """
    columns = upload_batches.c
    is_told_of = columns.alerted_at.is_not_distinct_from(columns.received_at).label("is_told_of")
    query = (
        sa.select(upload_batches, is_told_of)
        .where(columns.state == State.WAITING, columns.reason.is_not(None), columns.fingerprint.is_not(None))
        .where(columns.received_at.between(now - OLDEST, now - UNTAKEN_AFTER))
        .order_by(is_told_of, columns.received_at, columns.batch_id)
    )
    with line.engine.begin() as connection:
        found = list(connection.execute(query))
        untaken = [kept.as_receipt(row) for row in found]
        subject = f"untaken {now:%Y-%m-%dT%H}"
        if all(row.is_told_of for row in found) or is_told(line.engine, subject):
            return 0
        queue(connection, [messages.of_untaken(subject, untaken)], channels)
        told = sa.and_(columns.batch_id.in_([r.batch_id for r in untaken]), columns.state == State.WAITING)
        connection.execute(sa.update(upload_batches).where(told).values(alerted_at=columns.received_at))
    return len(untaken)


def notice_full_disk(line: Line, now: datetime) -> list[Alert]:
    """Return an alert, one a day, when the disk of the home has little room left, or takes few more files."""
    disk, day = storage.disk_of(line.home), f"{now:%Y-%m-%d}"
    usage, files = shutil.disk_usage(disk), os.statvfs(disk)
    if usage.free < min(LEAST_FREE, LEAST_FREE_SHARE * usage.total):
        return [messages.of_full_disk(disk, usage.free, usage.total, day)]
    # Some file systems have no limit, and state none.
    if files.f_favail < min(LEAST_FREE_FILES, LEAST_FREE_SHARE * files.f_files):
        return [messages.of_many_files(disk, files.f_favail, day)]
    return []


def queue(connection: sa.Connection, told: Iterable[Alert], channels: Collection[Channel]) -> None:
    """Put alerts into the outbox, in the caller's transaction; a subject that a channel knows stays out."""
    rows = [
        {"subject": alert.subject, "channel": channel.key, "title": alert.title, "body": alert.body}
        for alert in told
        for channel in channels
    ]
    if rows:
        connection.execute(insert(alerts).on_conflict_do_nothing(), rows)


def deliver(
    engine: sa.Engine, channels: Sequence[Channel], now: Callable[[], datetime], until: datetime
) -> tuple[int, list[str]]:
    """Send what is due, channel by channel; return how many were taken, and the sentences of those that were not.

    A message that is refused waits: 30 s, then 1 min, up to an hour, and is given up when it is no news any more. A
    channel that refuses two in a row is left alone until the time of one of them has come.

    Args:
        engine: Of the invoices' database.
        channels: Who is to be told.
        now: Returns the present, in UTC.
        until: When to stop, leaving the rest to the next call.
    """
    with engine.connect() as guard:
        # Two senders at once would tell everything twice.
        if not guard.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK))):
            return 0, []
        try:
            answers = [_deliver_to(engine, channel, now, until) for channel in channels]
        finally:
            guard.scalar(sa.select(sa.func.pg_advisory_unlock(_LOCK)))
    causes = [cause for answer in answers for cause in answer]
    return causes.count(None), [cause for cause in causes if cause is not None]


def _deliver_to(
    engine: sa.Engine, channel: Channel, now: Callable[[], datetime], until: datetime
) -> list[str | None]:
    """Send what is due to one channel, the oldest first; return what it answered to each message.

    After one that is refused comes one that was tried least: so it shows whether the message or the channel is at
    fault, also when there are several messages that the channel never takes.
    """
    due = _due(engine, channel, now())
    answers: list[str | None] = []
    refused = 0
    while due and refused < ENOUGH_REFUSED and now() < until:
        row = due[0] if not refused else min(due, key=lambda each: each.attempts)
        due.remove(row)
        answers.append(channel.send(row.title, row.body))
        _note(engine, row, answers[-1], now())
        refused = 0 if answers[-1] is None else refused + 1
    return answers


def _due(engine: sa.Engine, channel: Channel, now: datetime) -> list[sa.Row[Any]]:
    """Return the messages of a channel whose time has come, the oldest first; none while it is left alone."""
    columns = alerts.c
    unsent = sa.and_(
        columns.channel == channel.key, columns.sent_at.is_(None), columns.created_at > now - OLDEST
    )
    due = sa.select(alerts).where(unsent, columns.due_at <= now).order_by(columns.id).limit(100)
    tried = sa.select(columns.due_at, columns.attempts).where(
        unsent, columns.due_at > now, columns.attempts > 0
    )
    took = sa.select(sa.func.max(columns.sent_at)).where(columns.channel == channel.key)
    with engine.connect() as connection:
        last_taken = connection.scalar(took)
        refused_at = [row.due_at - _pause(row.attempts - 1) for row in connection.execute(tried)]
        since = [moment for moment in refused_at if last_taken is None or moment > last_taken]
        return [] if len(since) >= ENOUGH_REFUSED else list(connection.execute(due))


def _pause(attempts: int) -> timedelta:
    """Return how long a message waits that was refused, after so many earlier attempts."""
    return min(FIRST_PAUSE * 2 ** min(attempts, 10), LONGEST_PAUSE)


def _note(engine: sa.Engine, row: sa.Row[Any], cause: str | None, now: datetime) -> None:
    values = {"sent_at": now} if cause is None else {"due_at": now + _pause(row.attempts)}
    noted = sa.update(alerts).where(alerts.c.id == row.id)
    with engine.begin() as connection:
        connection.execute(noted.values(attempts=alerts.c.attempts + 1, failure=cause, **values))


def waiting(engine: sa.Engine, channels: Collection[Channel]) -> tuple[int, int]:
    """Return how many messages wait for these channels, and how many were given up: nobody took them in time."""
    columns = alerts.c
    is_news = columns.created_at > sa.func.now() - OLDEST
    query = sa.select(
        sa.func.count().filter(is_news).label("waiting"), sa.func.count().filter(~is_news).label("given_up")
    ).where(columns.channel.in_([channel.key for channel in channels]), columns.sent_at.is_(None))
    with engine.connect() as connection:
        row = connection.execute(query).one()
        return row.waiting, row.given_up
