"""Old events go, and with them nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.store import events, hours, meters, retention
from metergate.embedded.store.database import Database, Unavailable
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.retention import Retention
from metergate.embedded.store.rollups import Measure, Span
from metergate.embedded.store.usage import read_usage

NOW = datetime(2026, 3, 15, tzinfo=UTC)
METER = Meter(
    id="m", slug="m", name="m", aggregation=Aggregation.COUNT, event_type="t", created_at=NOW, updated_at=NOW
)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data", [*events.SCHEMA, *meters.SCHEMA])
    yield opened
    opened.close()


def made(name: str, time: datetime) -> Event:
    return Event("s", name, "t", "a", int(time.timestamp()), None)


async def names(database: Database) -> list[str]:
    return [row[0] for row in await database.read("SELECT id FROM events ORDER BY seq")]


def test_an_event_goes_when_it_is_old_and_its_duplicates_are_not_looked_for_any_more(
    database, clock, monkeypatch
):
    monkeypatch.setattr(retention, "STEP", 3)
    store = EventStore(database, clock)
    keeping = Retention(database, store, MeterStore(database), timedelta(days=40), clock)
    late = made("late", NOW - timedelta(days=100))

    async def scenario() -> None:
        await store.append([made(str(day), NOW + timedelta(days=day)) for day in range(10)], NOW)
        clock.now = NOW + timedelta(days=30)
        await store.append([late], clock.now)
        clock.now = NOW + timedelta(days=45)
        assert await keeping.forget() == 5
        assert await names(database) == ["5", "6", "7", "8", "9", "late"]
        await store.append([late], clock.now)  # of 15 days ago: known still
        assert (await names(database)).count("late") == 1
        clock.now = NOW + timedelta(days=63)
        assert await keeping.forget() == 6
        assert await names(database) == []
        assert await keeping.forget() == 0

    asyncio.run(scenario())


def test_rollups_forget_what_is_gone(database, clock):
    store = EventStore(database, clock)
    measure, span = Measure(METER, {}, ("a",)), Span(NOW - timedelta(days=90), NOW + timedelta(days=90))

    async def total() -> int:
        if (known := store.rollups.totals(measure, [span])) is None:
            await database.reading(lambda cursor: store.rollups.build(cursor, measure, [span]))
            known = store.rollups.totals(measure, [span])
        assert known is not None
        return int(known[0])

    async def scenario() -> None:
        await store.append([made("old", NOW), made("new", NOW + timedelta(days=30))], NOW)
        assert await total() == 2
        clock.now = NOW + timedelta(days=45)
        assert await Retention(database, store, MeterStore(database), timedelta(days=40), clock).forget() == 1
        assert await total() == 1

    asyncio.run(scenario())


def test_what_meters_measured_by_the_hour_is_without_what_is_gone(database, clock):
    store, meter_store = EventStore(database, clock), MeterStore(database)
    late = made("late", NOW - timedelta(days=30))

    async def scenario() -> None:
        await meter_store.create(METER)
        await store.append([made("old", NOW), made("new", NOW + timedelta(days=30))], NOW)
        clock.now = NOW + timedelta(days=30)
        await store.append([late], clock.now)
        assert await database.write(lambda cursor: hours.roll(cursor, METER)) is False
        clock.now = NOW + timedelta(days=45)
        assert await Retention(database, store, meter_store, timedelta(days=40), clock).forget() == 1
        span = NOW - timedelta(days=60), NOW + timedelta(days=60)
        left = await database.reading(lambda cursor: read_usage(cursor, METER, {}, ["a"], *span))
        rolled = await database.read("SELECT sum(number) FROM hours_1")
        assert (left, rolled) == (2, [(2,)])

    asyncio.run(scenario())


def test_it_goes_on_after_a_failure(database, clock, monkeypatch, caplog):
    monkeypatch.setattr(retention, "EVERY_SECONDS", 0)
    keeping = Retention(
        database, EventStore(database, clock), MeterStore(database), timedelta(days=40), clock
    )
    tries = asyncio.Event()
    forget, failures = keeping.forget, iter([True])

    async def fail_once() -> int:
        if next(failures, False):
            raise Unavailable("The data folder cannot be read.")
        tries.set()
        return await forget()

    monkeypatch.setattr(keeping, "forget", fail_once)

    async def scenario() -> None:
        running = asyncio.ensure_future(keeping.run())
        await asyncio.wait_for(tries.wait(), 10)
        running.cancel()

    asyncio.run(scenario())
    assert "old events stay for now" in caplog.text
