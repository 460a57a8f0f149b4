"""Forgetting events that are older than one wants to keep. The space they took is used again, or given back.

No event goes that an entitlement still counts: where a usage period is longer than events are to be kept, a grant is
carried over from period to period, or overage is, the events of its customer that began it all stay with those since.
So a value is the same before and after, as a usage period's or a grant's start may still be asked about, backdated and
reset. What goes, goes an hour of events at a time, and what meters measured in that hour with it, all or nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from metergate.embedded.domain.moments import Clock, from_database, to_database, truncate
from metergate.embedded.domain.windows import HOUR
from metergate.embedded.store import hours
from metergate.embedded.store.balances import Balances, Need
from metergate.embedded.store.database import Cursor, Database, Overloaded, Row, Unavailable
from metergate.embedded.store.events import WINDOW, EventStore
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.statements import Statement

log = logging.getLogger("metergate.embedded")

STEP = 50_000
"""So many events go in one write, or those of one hour, so that ingest does not wait long behind it."""
EVERY_SECONDS = 3_600.0


class Retention:
    """Keeps events for ``keep`` after the hour of their time; each for as long as its duplicates are to be recognized,
    and as long as an entitlement counts it.
    """

    def __init__(
        self,
        database: Database,
        events: EventStore,
        meters: MeterStore,
        balances: Balances,
        keep: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._events = events
        self._meters = meters
        self._balances = balances
        self._keep = keep
        self._clock = clock
        self._kept_for: frozenset[Need] = frozenset()

    async def run(self) -> None:
        """Forget what is too old, every hour. Endless."""
        while True:
            try:
                if forgotten := await self.forget():
                    log.info("events older than %s forgotten: %d", self._keep, forgotten)
            except (Unavailable, Overloaded) as exception:
                log.warning("old events stay for now: %s", exception)
            await asyncio.sleep(EVERY_SECONDS)

    async def forget(self) -> int:
        """Delete the events that are too old now; how many there were. Raises Unavailable, Overloaded."""
        now = self._clock()
        before = truncate(now - self._keep, HOUR)
        needs = await self._balances.needs(now, before)
        self._say(needs)
        old = _Old(before, now - WINDOW, needs)
        found = await self._database.reading(old.by_hour)
        try:
            for start, end in _slices(found):
                await self._delete(old, start, end)
        finally:
            if found:
                await self._database.between(lambda: self._events.rollups.forget_before(before))
        return sum(count for _, count in found)

    async def _delete(self, old: _Old, start: datetime, end: datetime) -> None:
        """Those of this time, looked for on a reading thread."""
        numbers = await self._database.reading(lambda cursor: old.numbers(cursor, start, end))
        meters = self._meters.all()

        def delete(cursor: Cursor) -> None:
            sql = Statement()
            span = f"time >= {sql.add(start)} AND time < {sql.add(end)}"
            chosen = f"seq IN (SELECT unnest({sql.add(numbers)}::BIGINT[]))"
            cursor.execute(f"DELETE FROM events WHERE {span} AND {chosen}", sql.parameters)  # noqa: S608
            for meter in meters:
                hours.read_again(cursor, meter, start, end)

        await self._database.write(delete)

    def _say(self, needs: Sequence[Need]) -> None:
        """Once for each new reason."""
        if new := frozenset(needs) - self._kept_for:
            since = min(need.since for need in new)
            log.info(
                "older events of %d subjects are kept, since %s: entitlements count them", len(new), since
            )
        self._kept_for = frozenset(needs)


class _Old:
    """The events before a time, first seen before another, that nobody needs."""

    def __init__(self, before: datetime, seen_before: datetime, needs: Sequence[Need]) -> None:
        self._before = before
        self._seen_before = seen_before
        self._needs = needs

    def by_hour(self, cursor: Cursor) -> list[Row]:
        """How many there are in each hour that has any, in order."""
        sql = Statement()
        statement = f"SELECT date_trunc('hour', time), count(*) FROM {self._found(sql)} GROUP BY 1 ORDER BY 1"  # noqa: S608
        return cursor.execute(statement, sql.parameters).fetchall()

    def numbers(self, cursor: Cursor, start: datetime, end: datetime) -> list[int]:
        """The numbers of those of this time."""
        sql = Statement()
        span = f"time >= {sql.add(start)} AND time < {sql.add(end)}"
        statement = f"SELECT seq FROM {self._found(sql)} AND {span}"  # noqa: S608
        return [row[0] for row in cursor.execute(statement, sql.parameters).fetchall()]

    def _found(self, sql: Statement) -> str:
        """What follows FROM; an anti join takes a fifth of the time of NOT EXISTS."""
        old = f"time < {sql.add(self._before)} AND ingested_at < {sql.add(self._seen_before)}"
        if not self._needs:
            return f"events WHERE {old}"
        columns = (
            (sql.add([need.type for need in self._needs]), "VARCHAR", "type"),
            (sql.add([need.subject for need in self._needs]), "VARCHAR", "subject"),
            (sql.add([to_database(need.since) for need in self._needs]), "TIMESTAMP", "since"),
        )
        needed = ", ".join(f"unnest({value}::{kind}[]) AS {name}" for value, kind, name in columns)
        return (
            f"events ANTI JOIN (SELECT {needed}) AS needed ON needed.type = events.type "
            f"AND needed.subject = events.subject AND needed.since <= events.time WHERE {old}"
        )


def _slices(found: Sequence[Row]) -> Iterator[tuple[datetime, datetime]]:
    """Spans of hours with at most ``STEP`` events each, where an hour has no more."""
    start, end, events = None, None, 0
    for hour, count in found:
        if start is not None and end is not None and events + count > STEP:
            yield start, end
            start, events = None, 0
        start, end, events = start or from_database(hour), from_database(hour) + HOUR, events + count
    if start is not None and end is not None:
        yield start, end
