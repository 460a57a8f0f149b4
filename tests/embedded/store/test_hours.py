"""What is kept by the hour and minute: when it is used, that it comes to the same, and that it follows the meters."""

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
from metergate.embedded.store.database import Cursor, Database, Unavailable
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


def made(number: int, value: int | None = -1) -> Event:
    value = "null" if value is None else number if value < 0 else value
    data = f'{{"v": {value}, "a": "a{number % 2}", "b": "b{number % 3}"}}'
    return Event("s", str(number), "t", "x", int(NOW.timestamp()) + number * 60, data)


async def tables(database: Database) -> list[tuple[Any, ...]]:
    rows = await database.read(
        "SELECT table_name FROM information_schema.tables WHERE regexp_matches(table_name, '^(hours|overall)_')"
    )
    return sorted(row[0] for row in rows)


SPAN = {"start": NOW, "end": NOW + 9 * HOUR}
UNIQUE = replace(METER, id="u", slug="u", aggregation=Aggregation.UNIQUE_COUNT)


@pytest.mark.parametrize(
    ("question", "used"),
    [
        (MeterQuery(), "overall_1"),
        (MeterQuery(window=WindowSize.HOUR), "overall_1"),
        (MeterQuery(window=WindowSize.MINUTE), "overall_1"),
        (MeterQuery(window=WindowSize.DAY, zone=find_zone("Asia/Kolkata"), **SPAN), "overall_1"),
        (MeterQuery(start=NOW + HOUR / 2, end=NOW + HOUR * 1.9), "overall_1"),
        (MeterQuery(start=NOW + HOUR / 240, end=NOW + HOUR / 62), None),
        (MeterQuery(group_by=("subject", "a"), window=WindowSize.HOUR), "hours_1"),
        (MeterQuery(subjects=("x",), window=WindowSize.DAY, zone=find_zone("Europe/Berlin"), **SPAN), "hours_1"),
        (MeterQuery(subjects=("x",), window=WindowSize.DAY, zone=find_zone("Asia/Kolkata"), **SPAN), None),
        (MeterQuery(subjects=("x",), window=WindowSize.MINUTE), None),
        (MeterQuery(subjects=("x",), start=NOW + HOUR / 2, end=NOW + HOUR * 1.9), None),
        (MeterQuery(customers={"c": frozenset("x")}, start=NOW + HOUR / 2, end=NOW + HOUR * 2.1), "hours_1"),
        (MeterQuery(start=NOW + HOUR / 2, end=NOW + HOUR * 2.1, filters={"a": one_of("a0")}), "overall_1"),
    ],
)  # fmt: skip
def test_rows_that_lie_within_a_window_are_read_from_a_table(database, question, used):
    database.submit(lambda cursor: hours.roll(cursor, METER)).result(10)
    found = asyncio.run(database.reading(lambda cursor: hours.source(cursor, Statement(), METER, question)))
    assert (used in found) if used else (found is None)


@pytest.mark.parametrize(
    ("question", "used"),
    [
        (MeterQuery(window=WindowSize.DAY), "overall_1"),
        (MeterQuery(window=WindowSize.MINUTE), None),
        (MeterQuery(group_by=("subject",)), None),
    ],
)
def test_which_values_there_were_is_kept_by_the_hour_all_in_all(database, question, used):
    database.submit(lambda cursor: hours.roll(cursor, UNIQUE)).result(10)
    found = asyncio.run(database.reading(lambda cursor: hours.source(cursor, Statement(), UNIQUE, question)))
    assert (used in found) if used else (found is None)
    assert asyncio.run(tables(database)) == ["overall_1"]


@pytest.mark.parametrize("question", [MeterQuery(), MeterQuery(group_by=("subject",))])
def test_the_table_is_what_is_read_and_events_behind_it_are_added(database, question):
    store = EventStore(database, lambda: NOW)
    name, cells = ("hours_1", 12) if question.group_by else ("overall_1", 100)

    async def scenario() -> None:
        await store.append([made(number) for number in range(100)], NOW)
        await database.write(lambda cursor: hours.roll(cursor, METER))
        await database.write(
            lambda cursor: cursor.execute(f"UPDATE {name} SET total = total + 1000") and None  # noqa: S608
        )
        await store.append([made(200)], NOW)
        (row,) = await database.reading(lambda cursor: query(cursor, METER, question))
        assert len(await database.read(f"SELECT 1 FROM {name}")) == cells  # noqa: S608
        assert row.value == sum(range(100)) + 200 + 1000 * cells

    asyncio.run(scenario())


@pytest.mark.parametrize("aggregation", Aggregation)
def test_tables_of_many_events_come_to_what_the_events_do(database, aggregation):
    store = EventStore(database, lambda: NOW)
    meter = replace(METER, aggregation=aggregation, event_from=NOW + timedelta(minutes=7))
    if aggregation is Aggregation.COUNT:
        meter = replace(meter, value_property=None)
    numbers = [number * 37 % 400 for number in range(300)]  # in no order of time
    questions = [
        MeterQuery(
            start=NOW + timedelta(minutes=start),
            end=NOW + timedelta(minutes=end),
            window=window,
            zone=find_zone(zone),
            filters={"a": one_of("a1")},
            group_by=group_by,
        )
        for start, end in ((30.5, 350.25), (60, 300))
        for group_by, zone, window in (
            (("b", "subject"), "Europe/Berlin", WindowSize.DAY),
            (("b",), "Europe/Berlin", WindowSize.DAY),
            ((), "Asia/Kathmandu", WindowSize.HOUR),
            ((), "Europe/Berlin", WindowSize.MINUTE),
            (("b",), "UTC", None),
        )
    ]

    def ask(cursor: Cursor) -> list[list[tuple[Any, ...]]]:
        answers = [query(cursor, meter, question) for question in questions]
        return [
            [(row.start, row.end, row.subject, dict(row.group_by), row.value) for row in rows]
            for rows in answers
        ]

    async def scenario() -> None:
        await store.append(
            [made(number, None if number % 50 == 1 else number % 7) for number in numbers], NOW
        )
        expected = await database.reading(ask)
        assert min(map(len, expected)) >= 3
        for size in (100, 150):
            await database.write(lambda cursor, size=size: hours.roll(cursor, meter, size))  # type: ignore[misc]
            assert await database.reading(ask) == expected

    asyncio.run(scenario())


def test_tables_follow_the_meters(database, monkeypatch):
    monkeypatch.setattr(hours, "ENOUGH", 10)
    monkeypatch.setattr(hours, "STEP", 7)
    store, meter_store = EventStore(database, lambda: NOW), MeterStore(database)
    keeping = Hours(database, meter_store)

    async def scenario() -> None:
        await store.append([made(number) for number in range(9)], NOW)
        await meter_store.create(METER)
        await meter_store.create(UNIQUE)
        await keeping.update()
        assert await tables(database) == []  # too few events
        await store.append([made(number) for number in range(9, 35)], NOW)
        await keeping.update()
        assert await database.read("SELECT meter, upto FROM hourly ORDER BY meter") == [("m", 34), ("u", 34)]
        await meter_store.update(replace(METER, group_by={"a": "$.b"}))
        await keeping.update()
        assert await tables(database) == ["hours_3", "overall_2", "overall_3"]
        found = meter_store.find("m")
        rows = await database.reading(lambda cursor: query(cursor, found, MeterQuery(group_by=("a",))))
        assert {row.group_by["a"]: row.value for row in rows} == {
            f"b{rest}": sum(range(rest, 35, 3)) for rest in range(3)
        }
        for meter in (found, UNIQUE):
            await meter_store.delete(meter, NOW)
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
