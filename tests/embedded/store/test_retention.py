"""Old events go, and with them nothing else."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.customers import CustomerInput
from metergate.embedded.domain.entitlements import Entitlement, EntitlementInputV2
from metergate.embedded.domain.features import FeatureInput
from metergate.embedded.domain.grants import Ledger
from metergate.embedded.domain.issuance import GrantInput
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.store import catalog, events, hours, meters, retention
from metergate.embedded.store.catalog import Catalog
from metergate.embedded.store.database import Database, Unavailable
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.retention import Retention
from metergate.embedded.store.rollups import Measure, Span
from metergate.embedded.store.usage import query, read_usage

NOW = datetime(2026, 3, 15, tzinfo=UTC)
METER = Meter(
    id="m", slug="m", name="m", aggregation=Aggregation.COUNT, event_type="t", created_at=NOW, updated_at=NOW
)


SCHEMA = [*events.SCHEMA, *meters.SCHEMA, *catalog.SCHEMA]


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data", SCHEMA)
    yield opened
    opened.close()


def made(name: str, time: datetime) -> Event:
    return Event("s", name, "t", "a", int(time.timestamp()), None)


def retaining(
    database: Database, store: EventStore, clock: Clock, meter_store: MeterStore | None = None
) -> Retention:
    """Of 40 days."""
    meter_store = meter_store or MeterStore(database)
    balances = Catalog(database, meter_store, store.rollups).balances
    return Retention(database, store, meter_store, balances, timedelta(days=40), clock)


async def names(database: Database) -> list[str]:
    return [row[0] for row in await database.read("SELECT id FROM events ORDER BY seq")]


def test_an_event_goes_when_it_is_old_and_its_duplicates_are_not_looked_for_any_more(
    database, clock, monkeypatch
):
    monkeypatch.setattr(retention, "STEP", 3)
    store = EventStore(database, clock)
    keeping = retaining(database, store, clock)
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
        assert await retaining(database, store, clock).forget() == 1
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
        assert await retaining(database, store, clock, meter_store).forget() == 1
        span = NOW - timedelta(days=60), NOW + timedelta(days=60)
        left = await database.reading(lambda cursor: read_usage(cursor, METER, {}, ["a"], *span))
        rolled = await database.read("SELECT sum(number) FROM hours_1")
        assert (left, rolled) == (2, [(2,)])

    asyncio.run(scenario())


def test_it_goes_on_after_a_failure(database, clock, monkeypatch, caplog):
    monkeypatch.setattr(retention, "EVERY_SECONDS", 0)
    keeping = retaining(database, EventStore(database, clock), clock)
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


class Stage:
    """Entitlements of the customer ``acme`` to a feature that is metered by events of type ``t``."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.database = Database.open(folder, SCHEMA)
        self.events = EventStore(self.database, clock)
        self.meters = MeterStore(self.database)
        self.catalog = Catalog(self.database, self.meters, self.events.rollups)
        self.retention = Retention(
            self.database, self.events, self.meters, self.catalog.balances, timedelta(days=40), clock
        )

    async def entitle(self, aggregation: Aggregation = Aggregation.SUM, **fields: Any) -> Entitlement:
        value = None if aggregation is Aggregation.COUNT else "$.n"
        meter = replace(METER, aggregation=aggregation, value_property=value)
        await self.meters.create(meter)
        await self.catalog.features.create(FeatureInput(key="f", name="F", meter_slug="m"), self.clock())
        customer = await self.catalog.customers.create(CustomerInput(name="A", key="a"), self.clock())
        given = {"type": "metered", "featureKey": "f", "usagePeriod": {"interval": "YEAR"}} | fields
        read = msgspec.convert(given, EntitlementInputV2)
        return await self.catalog.entitlements.create(customer.id, read, self.clock())

    async def use(self, day: float, amount: float, subject: str = "a") -> None:
        """An event so many days after the beginning."""
        await self.events.append([used(day, amount, subject)], NOW)

    async def values(self, entitlement: Entitlement) -> list[Ledger]:
        """Now, and at times to come."""
        entitlement = self.catalog.entitlements.ever(entitlement.id)
        times = [self.clock() + timedelta(days=days, seconds=1) for days in (0, 20, 400)]
        found = [await self.catalog.balances.value(entitlement, time) for time in times]
        return [each.ledger for each in found if each.ledger is not None]


def used(day: float, amount: float, subject: str) -> Event:
    data = msgspec.json.encode({"n": amount}).decode()
    moment = NOW + timedelta(days=day)
    return Event("s", f"{subject} {day}", "t", subject, int(moment.timestamp()), data)


@pytest.fixture
def stage(tmp_path: Path, clock: Clock) -> Iterator[Stage]:
    stage = Stage(tmp_path / "data", clock)
    yield stage
    stage.database.close()


def grant(**fields: Any) -> dict[str, Any]:
    return {"amount": 100, "effectiveAt": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")} | fields


ENTITLEMENTS = [
    {"issueAfterReset": 100},
    {"issueAfterReset": 100, "usagePeriod": {"interval": "DAY"}, "preserveOverageAtReset": True},
    {"grants": [grant()]},
    {"grants": [grant()], "usagePeriod": {"interval": "MONTH"}},
    {
        "grants": [grant(recurrence={"interval": "P1W"}), grant(priority=2)],
        "usagePeriod": {"interval": "WEEK"},
    },
    {"grants": [grant(maxRolloverAmount=50)], "usagePeriod": {"interval": "P2M"}},
]


@pytest.mark.parametrize(
    ("aggregation", "fields"),
    [
        *((Aggregation.SUM, fields) for fields in ENTITLEMENTS),
        (Aggregation.COUNT, ENTITLEMENTS[0]),
        (Aggregation.UNIQUE_COUNT, ENTITLEMENTS[1]),
        (Aggregation.UNIQUE_COUNT, ENTITLEMENTS[3]),
        (Aggregation.LATEST, ENTITLEMENTS[2]),
    ],
)
def test_no_value_changes_when_old_events_go(stage, clock, aggregation, fields):
    async def scenario() -> None:
        entitlement = await stage.entitle(aggregation, **fields)
        days = [day + 1 / 48 for day in range(0, 96, 3)]
        sent = [
            used(day, number, subject) for day in days for subject, number in (("a", day % 7 + 0.1), ("b", 1))
        ]
        await stage.events.append(sent, NOW)
        clock.now = NOW + timedelta(days=93, hours=1)
        before = await stage.values(entitlement)
        await stage.retention.forget()
        assert await stage.values(entitlement) == before
        stage.events.rollups.forget(-1)
        assert await stage.values(entitlement) == before
        (left,) = await stage.database.read("SELECT min(time) FROM events WHERE subject = 'b'")
        assert left[0].date() == (NOW + timedelta(days=54)).date()

    asyncio.run(scenario())


def test_what_was_used_of_a_year_stays_used_and_may_be_granted_and_reset_in_the_past(stage, clock, caplog):
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        entitlement = await stage.entitle(grants=[grant()])
        await stage.use(0.5, 60)
        await stage.use(10, 30)
        clock.now = NOW + timedelta(days=100)
        await stage.retention.forget()
        assert "older events of 1 subjects are kept" in caplog.text
        assert (await stage.values(entitlement))[0].balance == 10
        late = msgspec.convert(grant(amount=5, priority=1), GrantInput)
        await stage.catalog.grants.create(entitlement, late, clock())
        assert (await stage.values(entitlement))[0].balance == 15
        await stage.catalog.entitlements.reset(
            entitlement.id, NOW + timedelta(days=5), clock(), retain_anchor=False, preserve=None
        )
        ledger = (await stage.values(entitlement))[0]
        assert (ledger.usage, ledger.balance) == (30, 15)  # 45 were left of both, and carried over

    asyncio.run(scenario())


def test_what_no_living_entitlement_counts_goes(stage, clock):
    async def scenario() -> None:
        entitlement = await stage.entitle(issueAfterReset=100)
        await stage.use(0.5, 60)
        clock.now = NOW + timedelta(days=100)
        assert await stage.retention.forget() == 0
        clock.now = NOW + timedelta(days=370)  # a year has begun that needs nothing of the last one
        await stage.use(369, 1)
        assert await stage.retention.forget() == 1
        clock.now = NOW + timedelta(days=450)
        assert await stage.retention.forget() == 0
        await stage.catalog.entitlements.delete(entitlement.id, clock())
        assert await stage.retention.forget() == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("done", range(3))
def test_whenever_it_is_killed_values_and_meters_say_the_same_before_and_after_the_next_start(
    tmp_path, clock, monkeypatch, done
):
    monkeypatch.setattr(retention, "STEP", 2)
    stage = Stage(tmp_path / "data", clock)

    class Killed(BaseException):
        pass

    async def begin() -> tuple[Entitlement, list[Ledger]]:
        entitlement = await stage.entitle(Aggregation.COUNT, issueAfterReset=100)
        for day in range(0, 12, 2):
            await stage.use(day, 1)
            await stage.use(day + 0.1, 1, "b")
        await stage.database.write(lambda cursor: hours.roll(cursor, stage.meters.find("m")))
        clock.now = NOW + timedelta(days=100)
        before = await stage.values(entitlement)
        calls, write = iter(range(100)), stage.database.write

        async def write_some(function: Any) -> Any:
            if next(calls) >= done:
                raise Killed
            return await write(function)

        monkeypatch.setattr(stage.database, "write", write_some)
        with pytest.raises(Killed):
            await stage.retention.forget()
        return entitlement, before

    async def go_on(stage: Stage, entitlement: Entitlement, before: list[Ledger]) -> None:
        meter = stage.meters.find("m")

        async def counted() -> dict[str | None, float]:
            question = MeterQuery(group_by=("subject",))
            rows = await stage.database.reading(lambda cursor: query(cursor, meter, question))
            return {row.subject: row.value for row in rows}

        async def stored() -> dict[str, float]:
            return dict(await stage.database.read("SELECT subject, count(*) FROM events GROUP BY 1"))

        assert await stage.values(entitlement) == before
        left = {"a": 6, "b": 6 - 2 * done}
        assert await counted() == await stored() == left
        await stage.retention.forget()
        assert await stage.values(entitlement) == before
        assert await counted() == await stored() == {"a": 6}

    entitlement, before = asyncio.run(begin())
    monkeypatch.undo()
    copy = tmp_path / "copy"  # the folder as the kill leaves it
    copy.mkdir()
    for file in (tmp_path / "data").iterdir():
        shutil.copy(file, copy / file.name)
    stage.database.close()
    after = Stage(copy, clock)
    asyncio.run(go_on(after, entitlement, before))
    after.database.close()
