"""The events' table."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.store import events, keys
from metergate.embedded.store.database import Database, Overloaded, Unavailable
from metergate.embedded.store.events import EventStore

NOW = datetime(2026, 3, 15, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data", events.SCHEMA)
    yield opened
    opened.close()


def made(*ids: str) -> list[Event]:
    return [Event("source", id, "type", "subject", 1, None) for id in ids]  # noqa: A001


async def stored(database: Database) -> list[tuple[int, str]]:
    return await database.read("SELECT seq, id FROM events ORDER BY seq")


async def joined(store: EventStore, count: int) -> None:
    """Go on once so many events wait for the writer thread, which is kept busy."""
    async with asyncio.timeout(10):
        while store.statistics().waiting < count:  # noqa: ASYNC110 - a counter has no event to wait on
            await asyncio.sleep(0)


def test_two_ids_with_one_key_are_two_events(database, monkeypatch):
    monkeypatch.setattr(events, "event_key", lambda source, id: 7)  # noqa: A006
    store = EventStore(database, lambda: NOW)

    async def scenario() -> None:
        await store.append(made("a", "b"), NOW)
        await store.append(made("b", "c", "a"), NOW)
        assert [id for _, id in await stored(database)] == ["a", "b", "c"]  # noqa: A001

    asyncio.run(scenario())


def test_a_batch_that_failed_left_nothing_and_can_be_sent_again(database):
    store = EventStore(database, lambda: NOW)
    impossible = Event("source", "b", "type", None, 1, None)  # type: ignore[arg-type]

    async def scenario() -> None:
        for _ in range(2):
            with pytest.raises(duckdb.Error):
                await store.append([*made("a"), impossible, *made("c")], NOW)
        await store.append(made("a", "c"), NOW)
        assert [id for _, id in await stored(database)] == ["a", "c"]  # noqa: A001

    asyncio.run(scenario())


def test_a_batch_whose_group_was_rolled_back_is_stored_once(database):
    store = EventStore(database, lambda: NOW)
    release = threading.Event()

    def refuse(_: object) -> None:
        raise LookupError

    async def scenario() -> None:
        database.submit(lambda _: release.wait(10))
        appending = asyncio.ensure_future(store.append(made("a", "b"), NOW))
        await joined(store, 2)
        refused = database.submit(refuse)
        release.set()
        await appending
        with pytest.raises(LookupError):
            refused.result(10)
        assert [id for _, id in await stored(database)] == ["a", "b"]  # noqa: A001

    asyncio.run(scenario())


def test_who_leaves_while_waiting_takes_nothing_back(database):
    store = EventStore(database, lambda: NOW)
    release = threading.Event()

    async def scenario() -> None:
        database.submit(lambda _: release.wait(10))
        leaving = asyncio.ensure_future(store.append(made("left"), NOW))
        staying = asyncio.ensure_future(store.append(made("stayed"), NOW))
        await joined(store, 2)
        leaving.cancel()
        release.set()
        await staying
        assert sorted(id for _, id in await stored(database)) == ["left", "stayed"]  # noqa: A001

    asyncio.run(scenario())


def test_more_waiting_events_than_the_bound_are_refused_and_counted(database, monkeypatch):
    monkeypatch.setattr(events, "MAX_WAITING", 3)
    store = EventStore(database, lambda: NOW)
    release = threading.Event()

    async def scenario() -> None:
        database.submit(lambda _: release.wait(10))
        appending = asyncio.ensure_future(store.append(made("a", "b"), NOW))
        await joined(store, 2)
        with pytest.raises(Overloaded):
            await store.append(made("c", "d"), NOW)
        release.set()
        await appending
        assert store.statistics().refused == 2
        await store.append(made("c", "d"), NOW)
        assert len(await stored(database)) == 4

    asyncio.run(scenario())


def test_one_batch_beyond_the_bound_is_taken_when_nobody_waits(database, monkeypatch):
    monkeypatch.setattr(events, "MAX_WAITING", 3)
    store = EventStore(database, lambda: NOW)
    asyncio.run(store.append(made("a", "b", "c", "d"), NOW))
    assert store.statistics().stored == 4


def test_the_sequence_goes_on_after_a_restart(tmp_path):
    for expected in (["a"], ["a", "b"]):
        database = Database.open(tmp_path, events.SCHEMA)
        store = EventStore(database, lambda: NOW)
        asyncio.run(store.append(made(*expected), NOW))
        assert asyncio.run(stored(database)) == list(enumerate(expected))
        database.close()


def ids_of(rows: list[tuple[int, str]]) -> list[str]:
    return [id for _, id in rows]  # noqa: A001


def test_what_is_sent_again_while_the_keys_are_loaded_is_known(tmp_path):
    names = [str(number) for number in range(300)]
    database = Database.open(tmp_path, events.SCHEMA)
    asyncio.run(EventStore(database, lambda: NOW).append(made(*names), NOW))
    database.close()
    database = Database.open(tmp_path, events.SCHEMA)
    store = EventStore(database, lambda: NOW)

    async def scenario() -> None:
        await store.append(made(*names[:50], "new"), NOW)
        loading = asyncio.ensure_future(store.load_keys())
        for number in range(50, 300, 10):
            await store.append(made(*names[number : number + 10], f"new {number}"), NOW)
        await loading
        await store.append(made(*names, "new", *(f"new {number}" for number in range(50, 300, 10))), NOW)
        assert ids_of(await stored(database)) == [
            *names,
            "new",
            *(f"new {number}" for number in range(50, 300, 10)),
        ]

    asyncio.run(scenario())
    database.close()


def test_loaded_anew_the_keys_of_events_older_than_the_window_are_gone(database):
    now = NOW
    store = EventStore(database, lambda: now)

    async def scenario() -> None:
        nonlocal now
        await store.append(made("old"), now)
        await store.load_keys()
        assert store.statistics().known_keys == 1
        now += timedelta(days=20)
        await store.append(made("young"), now)
        now += timedelta(days=20)
        loading = asyncio.ensure_future(store.load_keys())
        await store.append(made("new"), now)
        await loading
        assert store.statistics().known_keys == 2
        await store.append(made("old", "young", "new"), now)
        assert ids_of(await stored(database)) == ["old", "young", "new", "old"]

    asyncio.run(scenario())


def test_keys_that_could_not_be_loaded_are_loaded_later_and_nothing_counts_twice(
    database, monkeypatch, caplog
):
    monkeypatch.setattr(events, "RETRY_SECONDS", 0)
    store = EventStore(database, lambda: NOW)
    reading, failures = database.reading, iter([True, True])

    async def fail_twice(function: object) -> object:
        if next(failures, False):
            raise Unavailable("The data folder cannot be read.")
        return await reading(function)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "reading", fail_twice)

    async def scenario() -> None:
        keeping = asyncio.ensure_future(store.keep_keys())
        async with asyncio.timeout(20):
            while store._seen.loaded < keys.ALL:
                await store.append(made("a"), NOW)
        keeping.cancel()
        await store.append(made("a", "b"), NOW)
        assert ids_of(await stored(database)) == ["a", "b"]

    asyncio.run(scenario())
    assert caplog.text.count("looked for in the table for now") == 2
