"""Forgetting events that are older than one wants to keep. The space they took is used again, or given back."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from metergate.embedded.domain.moments import Clock, to_database, truncate
from metergate.embedded.domain.windows import HOUR
from metergate.embedded.store import hours
from metergate.embedded.store.database import Cursor, Database, Overloaded, Unavailable
from metergate.embedded.store.events import WINDOW, EventStore
from metergate.embedded.store.meters import MeterStore

log = logging.getLogger("metergate.embedded")

STEP = 50_000
"""Numbers of events that are looked through in one write, so that ingest does not wait long behind it."""
EVERY_SECONDS = 3_600.0


class Retention:
    """Keeps events for ``keep`` after the hour of their time; and each for as long as its duplicates are to be recognized."""

    def __init__(
        self, database: Database, events: EventStore, meters: MeterStore, keep: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._events = events
        self._meters = meters
        self._keep = keep
        self._clock = clock

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
        before = truncate(self._clock() - self._keep, HOUR)
        old = [to_database(before), to_database(self._clock() - WINDOW)]
        sql = "SELECT min(seq), max(seq), count(*) FROM events WHERE time < ? AND ingested_at < ?"
        ((first, last, count),) = await self._database.read(sql, old)
        if not count:
            return 0
        for number in range(first, last + 1, STEP):
            await self._database.write(lambda cursor, number=number: _delete(cursor, old, number))  # type: ignore[misc]
        for meter in self._meters.all():
            await self._database.write(lambda cursor, meter=meter: hours.read_again(cursor, meter, before))  # type: ignore[misc]
        await self._database.between(lambda: self._events.rollups.forget(-1))
        return int(count)


def _delete(cursor: Cursor, old: list[datetime], number: int) -> None:
    cursor.execute(
        "DELETE FROM events WHERE time < ? AND ingested_at < ? AND seq >= ? AND seq < ?",
        [*old, number, number + STEP],
    )
