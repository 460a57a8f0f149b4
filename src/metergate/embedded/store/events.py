"""The events: stored once each, durable before ``append`` returns. ``listing`` lists them.

All requests that arrive while the writer thread is busy make one batch: one statement, one commit, one
``fdatasync``.

*Times*: what lies outside of the years 1970 to 2105 is answered like the others and not stored, as OpenMeter's
sink does (its columns cannot hold it); it is logged and counted.

*Duplicates*: for 32 days from first sight, an event whose (source, id) is known is left out and answered like
the first.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any, TypeAlias

from msgspec.structs import astuple

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.moments import Clock, to_database
from metergate.embedded.store import hours
from metergate.embedded.store.database import Cursor, Database, Overloaded, Unavailable
from metergate.embedded.store.keys import PARTS, SeenKeys, event_key, part, shards_of
from metergate.embedded.store.rollups import Rollups

SCHEMA = [
    *hours.SCHEMA,
    """
    CREATE TABLE IF NOT EXISTS events (
        seq BIGINT NOT NULL,            -- counts up in the order of storing
        key UBIGINT NOT NULL,           -- hash of source and id
        source VARCHAR NOT NULL,
        id VARCHAR NOT NULL,
        type VARCHAR NOT NULL,
        subject VARCHAR NOT NULL,
        time TIMESTAMP NOT NULL,        -- whole seconds
        data VARCHAR,                   -- a JSON object as text
        ingested_at TIMESTAMP NOT NULL,
        stored_at TIMESTAMP NOT NULL
    )
    """,
]
log = logging.getLogger("metergate.embedded")

WINDOW = timedelta(days=32)
LAST = 4_291_747_199
"""The latest time of an event, the end of the year 2105, in seconds since 1970; the earliest is 1."""
MAX_WAITING = 200_000
GATHER_SECONDS = 0.002
"""A batch waits so long for more where several requests made up the one before it: a commit costs as much for one
event as for a hundred.
"""
RELOAD_SECONDS = 86_400.0
RETRY_SECONDS = 5.0
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are
Line: TypeAlias = tuple[int, int, str, str, str, str, datetime, str | None, datetime, datetime]
"""One row, in the order of the columns."""


@dataclass(frozen=True, slots=True)
class EventStatistics:
    """Counts since the start. ``waiting`` of at most ``max_waiting`` events; ``refused`` is what that bound
    cost. ``out_of_range`` events had a time that is not kept.
    """

    stored: int
    duplicates: int
    batches: int
    waiting: int
    max_waiting: int
    refused: int
    known_keys: int
    out_of_range: int


class _Batch:
    """What arrived since the last batch was taken; ``done`` once it is on disk."""

    __slots__ = ("awaited", "done", "doubtful", "events", "lines", "next_seq", "requests")

    def __init__(self) -> None:
        self.requests: list[tuple[Sequence[Event], datetime]] = []
        self.events = 0
        self.done: Future[None] | None = None
        self.awaited: asyncio.Future[None] | None = None
        self.lines: list[Line] = []
        self.next_seq = 0
        self.doubtful = False


class EventStore:
    """Made once per opened database. Until ``load_keys`` is done, events are looked for in the table."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._open: _Batch | None = None
        self._waiting = self._stored = self._duplicates = self._batches = self._refused = 0
        self._out_of_range = self._requests = 0
        self._next_seq = 0
        self._seen = SeenKeys()
        self._loading: SeenKeys | None = self._seen
        self.rollups = Rollups(clock)
        database.submit(self._load).result()

    async def append(self, events: Sequence[Event], received: datetime) -> None:
        """Return once the events are on disk, those known already left out.

        Raises Overloaded when too many wait; events that find nobody waiting are taken, however many they are.
        """
        events = self._in_range(events)
        if not events:
            return
        # shielded: who leaves early must not take back a batch that holds the events of others
        await asyncio.shield(self._join(events, to_database(received)))

    def _in_range(self, events: Sequence[Event]) -> Sequence[Event]:
        kept = [event for event in events if event.time is None or 0 < event.time <= LAST]
        if (lost := len(events) - len(kept)) > 0:
            self._out_of_range += lost
            log.warning("events not stored, their time lies outside of the years 1970 to 2105: %d", lost)
        return kept

    def _join(self, events: Sequence[Event], received: datetime) -> asyncio.Future[None]:
        """What all wait for whose events go into one batch: the writer thread wakes the event loop once for all."""
        with self._lock:
            if self._waiting and self._waiting + len(events) > MAX_WAITING:
                self._refused += len(events)
                raise Overloaded(f"{self._waiting} events wait already.")
            if self._open is None:
                batch = _Batch()
                batch.done = self._database.submit(lambda cursor: self._insert(cursor, batch))
                batch.done.add_done_callback(lambda done: self._end(batch, done))
                batch.awaited = asyncio.wrap_future(batch.done)
                self._open = batch
            self._waiting += len(events)
            self._open.events += len(events)
            self._open.requests.append((events, received))
            assert self._open.awaited is not None  # noqa: S101 - set together with the batch, four lines above
            return self._open.awaited

    def _insert(self, cursor: Cursor, batch: _Batch) -> None:
        """Runs in the writer thread, a second time if its group was rolled back."""
        if self._open is batch and self._requests > 1:
            time.sleep(GATHER_SECONDS)
        with self._lock:
            if self._open is batch:
                self._open = None
                self._waiting -= batch.events
                self._requests = len(batch.requests)
        lines = self._without_duplicates(cursor, batch)
        if lines:
            self._database.put("events", lines)
            self._next_seq += len(lines)
        # fewer than at the first try: that one was said to have failed, and is on disk nevertheless
        batch.doubtful = len(lines) < len(batch.lines)
        batch.lines, batch.next_seq = lines, self._next_seq
        self._batches += 1
        self._stored += len(lines)
        self._duplicates += batch.events - len(lines)

    def _end(self, batch: _Batch, done: Future[None]) -> None:
        """In the writer thread, before anybody else learns that the batch is on disk, or is not."""
        if done.cancelled() or done.exception() is not None or batch.doubtful:
            self.rollups.forget(batch.next_seq - 1)
        else:
            stored = ((line[0], line[4], line[5], line[6], line[7]) for line in batch.lines)
            try:
                self.rollups.take(stored, batch.next_seq - 1)
            except Exception:
                log.exception("roll-ups are begun anew")
                self.rollups.forget(batch.next_seq - 1)

    def _without_duplicates(self, cursor: Cursor, batch: _Batch) -> list[Line]:
        keys = [event_key(event.source, event.id) for events, _ in batch.requests for event in events]
        maybe = {key for key in keys if self._seen.add(key)}
        if self._loading is not None and self._loading is not self._seen:
            for key in keys:
                self._loading.add(key)
        known = self._stored_ids(cursor, maybe) if maybe else set()
        numbers = count(self._next_seq)
        stored = to_database(self._clock())
        lines: list[Line] = []
        keyed = iter(keys)
        for events, received in batch.requests:
            whole = received.replace(microsecond=0)
            for event, key in zip(events, keyed, strict=False):
                source, id, type, subject, seconds, data = astuple(event)  # noqa: A001
                if key in maybe:
                    if (source, id) in known:
                        continue
                    known.add((source, id))
                moment = whole if seconds is None else _EPOCH + timedelta(0, seconds)
                lines.append((next(numbers), key, source, id, type, subject, moment, data, received, stored))
        return lines

    def _stored_ids(self, cursor: Cursor, keys: set[int]) -> set[tuple[str, str]]:
        """The (source, id) of the events with these keys that were first seen within the window."""
        rows = cursor.execute(
            "SELECT source, id FROM events WHERE key IN (SELECT unnest($1::UBIGINT[])) AND ingested_at > $2",
            [list(keys), to_database(self._clock() - WINDOW)],
        ).fetchall()
        return set(rows)

    def _load(self, cursor: Cursor) -> None:
        row = cursor.execute("SELECT coalesce(max(seq), -1) + 1 FROM events").fetchone()
        self._next_seq = 0 if row is None else int(row[0])
        self.rollups.take((), self._next_seq - 1)

    async def load_keys(self) -> None:
        """Have the keys of the last 32 days in memory, and no others. Events may come in meanwhile.

        Raises Unavailable; what was known before is known still.
        """
        loading = SeenKeys()

        def begin() -> None:
            self._loading = loading
            if self._seen.loaded == 0:
                self._seen = loading

        def end() -> None:
            self._seen = loading

        await self._database.between(begin)
        for number in range(PARTS):
            await self._load_part(loading, number)
        await self._database.between(end)

    async def keep_keys(self) -> None:
        """Load the keys, and once a day anew, so that those of events older than the window do not stay. Endless."""
        while True:
            try:
                await self.load_keys()
                await asyncio.sleep(RELOAD_SECONDS)
            except (Unavailable, Overloaded) as exception:
                log.warning("duplicates are looked for in the table for now: %s", exception)
                await asyncio.sleep(RETRY_SECONDS)

    async def _load_part(self, loading: SeenKeys, number: int) -> None:
        first, end = part(number)
        since = to_database(self._clock() - WINDOW)

        def read(cursor: Cursor) -> list[tuple[int, array[int]]]:
            cursor.execute(
                "SELECT key FROM events WHERE key >= ? AND key <= ? AND ingested_at > ? ORDER BY key",
                [first, end - 1, since],
            )
            return list(shards_of(_first_column(cursor)))

        shards = await self._database.reading(read)
        await self._database.between(lambda: loading.load(shards, end))

    def statistics(self) -> EventStatistics:
        """A look at the counters; they count tries, so a commit that failed is in them twice."""
        return EventStatistics(
            self._stored,
            self._duplicates,
            self._batches,
            self._waiting,
            MAX_WAITING,
            self._refused,
            len(self._seen),
            self._out_of_range,
        )


def _first_column(cursor: Cursor) -> list[Any]:
    """All of it, the rows taken in turn: each of them is ten times as large as what it holds."""
    column: list[Any] = []
    while rows := cursor.fetchmany(20_000):
        column += [row[0] for row in rows]
    return column
