"""What is kept by the hour: when it is used, and that it follows the meters. That it is right is shown in test_usage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.filters import one_of
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.windows import WindowSize, find_zone
from metergate.embedded.store import events, hours, meters
from metergate.embedded.store.database import Database, Unavailable
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.hours import Hours
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.statements import Statement
from metergate.embedded.store.usage import query

NOW = datetime(2026, 3, 15, tzinfo=UTC)
HOUR = timedelta(hours=1)
METER = Meter(
    id="m",
    slug="m",
    name="m",
    aggregation=Aggregation.SUM,
    event_type="t",
    value_property="$.v",
    group_by={"b": "$.b", "a": "$.a"},
    created_at=NOW,
    updated_at=NOW,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data", [*events.SCHEMA, *meters.SCHEMA])
    yield opened
    opened.close()


def made(number: int) -> Event:
    data = f'{{"v": {number}, "a": "a{number % 2}", "b": "b{number % 3}"}}'
    return Event("s", str(number), "t", "x", int(NOW.timestamp()) + number * 60, data)


async def tables(database: Database) -> list[tuple[Any, ...]]:
    rows = await database.read(
        "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'hours%'"
    )
    return sorted(row[0] for row in rows)


@pytest.mark.parametrize(
    ("question", "used"),
    [
        (MeterQuery(), True),
        (MeterQuery(window=WindowSize.HOUR), True),
        (
            MeterQuery(window=WindowSize.DAY, zone=find_zone("Europe/Berlin"), start=NOW, end=NOW + 9 * HOUR),
            True,
        ),
        (
            MeterQuery(window=WindowSize.DAY, zone=find_zone("Asia/Kolkata"), start=NOW, end=NOW + 9 * HOUR),
            False,
        ),
        (MeterQuery(window=WindowSize.MINUTE), False),
        (MeterQuery(start=NOW + HOUR / 2, end=NOW + HOUR * 1.9), False),
        (MeterQuery(start=NOW + HOUR / 2, end=NOW + HOUR * 2.1, filters={"a": one_of("a0")}), True),
    ],
)
def test_whole_hours_are_read_from_the_table(database, question, used):
    database.submit(lambda cursor: hours.roll(cursor, METER)).result(10)
    found = asyncio.run(database.reading(lambda cursor: hours.source(cursor, Statement(), METER, question)))
    assert (found is not None) is used


def test_the_table_is_what_is_read_and_events_behind_it_are_added(database):
    store = EventStore(database, lambda: NOW)

    async def scenario() -> None:
        await store.append([made(number) for number in range(100)], NOW)
        await database.write(lambda cursor: hours.roll(cursor, METER))
        await database.write(
            lambda cursor: cursor.execute("UPDATE hours_1 SET total = total + 1000") and None
        )
        await store.append([made(200)], NOW)
        (row,) = await database.reading(lambda cursor: query(cursor, METER, MeterQuery()))
        cells = len(await database.read("SELECT 1 FROM hours_1"))
        assert (row.value, cells) == (sum(range(100)) + 200 + 1000 * cells, 12)

    asyncio.run(scenario())


@pytest.mark.parametrize("aggregation", [each for each in Aggregation if each in hours.VALUES])
@pytest.mark.parametrize("minutes", [(30, 350), (60, 300)])
def test_hours_of_many_events_come_to_what_the_events_do(database, aggregation, minutes):
    store = EventStore(database, lambda: NOW)
    meter = replace(METER, aggregation=aggregation, event_from=NOW + timedelta(minutes=7))
    if aggregation is Aggregation.COUNT:
        meter = replace(meter, value_property=None)
    numbers = [number * 37 % 400 for number in range(300)]  # in no order of time
    question = MeterQuery(
        start=NOW + timedelta(minutes=minutes[0]),
        end=NOW + timedelta(minutes=minutes[1]),
        window=WindowSize.DAY,
        zone=find_zone("Europe/Berlin"),
        filters={"a": one_of("a1")},
        group_by=("b", "subject"),
    )

    async def ask() -> list[tuple[Any, ...]]:
        rows = await database.reading(lambda cursor: query(cursor, meter, question))
        return [(row.start, row.end, row.subject, dict(row.group_by), row.value) for row in rows]

    async def scenario() -> None:
        await store.append([made(number) for number in numbers], NOW)
        expected = await ask()
        assert len(expected) == 3
        for size in (100, 150):
            await database.write(lambda cursor, size=size: hours.roll(cursor, meter, size))  # type: ignore[misc]
            assert await ask() == expected

    asyncio.run(scenario())


def test_tables_follow_the_meters(database, monkeypatch):
    monkeypatch.setattr(hours, "ENOUGH", 10)
    monkeypatch.setattr(hours, "STEP", 7)
    store, meter_store = EventStore(database, lambda: NOW), MeterStore(database)
    keeping = Hours(database, meter_store)
    unique = replace(METER, id="u", slug="u", aggregation=Aggregation.UNIQUE_COUNT)

    async def scenario() -> None:
        await store.append([made(number) for number in range(9)], NOW)
        await meter_store.create(METER)
        await meter_store.create(unique)
        await keeping.update()
        assert await tables(database) == []  # too few events
        await store.append([made(number) for number in range(9, 35)], NOW)
        await keeping.update()
        assert await database.read("SELECT meter, upto FROM hourly") == [("m", 34)]
        await meter_store.update(replace(METER, group_by={"a": "$.b"}))
        await keeping.update()
        assert len(await tables(database)) == 1
        found = meter_store.find("m")
        rows = await database.reading(lambda cursor: query(cursor, found, MeterQuery(group_by=("a",))))
        assert {row.group_by["a"]: row.value for row in rows} == {
            f"b{rest}": sum(range(rest, 35, 3)) for rest in range(3)
        }
        await meter_store.delete(found, NOW)
        await keeping.update()
        assert await tables(database) == []

    asyncio.run(scenario())


def test_they_are_kept_on_after_a_failure(database, monkeypatch, caplog):
    monkeypatch.setattr(hours, "LOOK_SECONDS", 0)
    keeping, tries, again = Hours(database, MeterStore(database)), iter([True]), asyncio.Event()

    async def fail_once() -> None:
        if next(tries, False):
            raise Unavailable("The data folder cannot be read.")
        again.set()

    monkeypatch.setattr(keeping, "update", fail_once)

    async def scenario() -> None:
        running = asyncio.ensure_future(keeping.keep())
        await asyncio.wait_for(again.wait(), 10)
        running.cancel()

    asyncio.run(scenario())
    assert "is not kept for now" in caplog.text
