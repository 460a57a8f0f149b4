"""The folder: its lock, its writer, its end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from metergate.embedded.store.database import Cursor, Database, Overloaded
from metergate.errors import ConfigurationError

SCHEMA = ["CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL)"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data", SCHEMA)
    yield opened
    opened.close()


def insert(number: int):
    def function(cursor: Cursor) -> int:
        cursor.execute("INSERT INTO numbers VALUES (?)", [number])
        return number

    return function


def refuse(cursor: Cursor) -> None:
    cursor.execute("INSERT INTO numbers VALUES (-1)")
    raise LookupError("changed its mind")


def blocked(release: threading.Event, running: threading.Event | None = None):
    def function(_: Cursor) -> None:
        if running is not None:
            running.set()
        assert release.wait(10)

    return function


async def numbers(database: Database) -> list[int]:
    return [row[0] for row in await database.read("SELECT number FROM numbers ORDER BY number")]


def test_a_write_returns_what_its_function_returned_and_is_seen_by_the_next_read(database):
    async def scenario() -> None:
        for number in range(20):
            assert await database.write(insert(number)) == number
            assert await numbers(database) == list(range(number + 1))

    asyncio.run(scenario())


def test_all_writes_that_wait_share_one_commit(database):
    running, release = threading.Event(), threading.Event()
    database.submit(blocked(release, running))
    assert running.wait(10)
    waiting = [database.submit(insert(number)) for number in range(100)]
    assert database.statistics().waiting >= 100
    release.set()
    assert [future.result(10) for future in waiting] == list(range(100))
    assert database.statistics().commits <= 2


def test_a_write_that_raises_is_undone_and_leaves_the_others_of_its_group_alone(database):
    release = threading.Event()
    database.submit(blocked(release))
    before = database.submit(insert(1))
    refused = database.submit(refuse)
    after = database.submit(insert(2))
    release.set()
    with pytest.raises(LookupError, match="changed its mind"):
        refused.result(10)
    assert (before.result(10), after.result(10)) == (1, 2)
    assert asyncio.run(numbers(database)) == [1, 2]


def test_what_runs_between_writes_is_no_transaction_and_comes_after_those_that_wait(database):
    async def scenario() -> None:
        release = threading.Event()
        database.submit(blocked(release))
        writing = database.submit(insert(1))
        between = asyncio.ensure_future(database.between(writing.done))
        failing = asyncio.ensure_future(database.between(lambda: [].pop()))
        await asyncio.sleep(0)
        release.set()
        assert await between is True
        with pytest.raises(IndexError):
            await failing
        commits = database.statistics().commits
        await database.between(lambda: None)
        assert database.statistics().commits == commits

    asyncio.run(scenario())


def test_a_statement_that_fails_is_an_error_for_its_caller_only(database):
    with pytest.raises(duckdb.Error):
        database.submit(lambda cursor: cursor.execute("SELECT nonsense")).result(10)
    assert database.submit(insert(1)).result(10) == 1


def test_several_queries_of_one_reading_see_one_state(database):
    reading, written = threading.Event(), threading.Event()

    def look_twice(cursor: Cursor) -> tuple[int, int]:
        first = len(cursor.execute("SELECT * FROM numbers").fetchall())
        reading.set()
        assert written.wait(10)
        return first, len(cursor.execute("SELECT * FROM numbers").fetchall())

    async def scenario() -> None:
        looking = asyncio.ensure_future(database.reading(look_twice))
        assert await asyncio.to_thread(reading.wait, 10)
        await database.write(insert(1))
        written.set()
        assert await looking == (0, 0)
        assert await numbers(database) == [1]

    asyncio.run(scenario())


def test_what_waits_at_the_end_is_written(tmp_path):
    database = Database.open(tmp_path, SCHEMA)
    futures = [database.submit(insert(number)) for number in range(50)]
    database.close()
    database.close()
    assert [future.result(0) for future in futures] == list(range(50))
    with pytest.raises(Overloaded):
        database.submit(insert(0))
    again = Database.open(tmp_path, SCHEMA)
    assert asyncio.run(numbers(again)) == list(range(50))
    again.close()


def test_more_waiting_writes_than_the_bound_are_refused_and_counted(database, monkeypatch):
    monkeypatch.setattr("metergate.embedded.store.database.MAX_WAITING", 3)
    started, release = threading.Event(), threading.Event()
    database.submit(lambda _: started.set() or release.wait(10))
    assert started.wait(10)
    accepted = [database.submit(insert(number)) for number in range(3)]
    with pytest.raises(Overloaded):
        database.submit(insert(3))
    release.set()
    assert [future.result(10) for future in accepted] == [0, 1, 2]
    assert database.statistics().refused == 1


def test_a_folder_in_use_is_refused_and_names_who_uses_it(database):
    with pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"):
        Database.open(database.folder, SCHEMA)
    assert database.submit(insert(1)).result(10) == 1


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Database.open(tmp_path / "file" / "data")


def test_a_file_that_is_no_database_says_so_and_frees_the_folder(tmp_path):
    (tmp_path / "openmeter.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(ConfigurationError, match=r"openmeter\.duckdb cannot be opened"):
        Database.open(tmp_path)
    (tmp_path / "openmeter.duckdb").unlink()
    Database.open(tmp_path).close()


def test_a_folder_of_a_newer_version_is_left_alone(tmp_path):
    database = Database.open(tmp_path)
    database.submit(lambda cursor: cursor.execute("UPDATE about SET format = 99") and None).result(10)
    database.close()
    with pytest.raises(ConfigurationError, match="format 99"):
        Database.open(tmp_path)


def test_rows_that_are_appended_are_seen_by_later_statements_of_their_group_and_go_with_it(database):
    async def scenario() -> None:
        def append(number: int):
            def function(cursor: Cursor) -> list[int]:
                cursor.execute("SELECT unnest([1, 2, 3])").fetchone()  # and nobody fetches the others
                database.append("numbers", (number,))
                return [
                    row[0] for row in cursor.execute("SELECT number FROM numbers ORDER BY number").fetchall()
                ]

            return function

        def append_and_raise(_: Cursor) -> None:
            database.append("numbers", (-1,))
            raise LookupError("changed its mind")

        def append_what_does_not_fit(_: Cursor) -> None:
            database.append("numbers", (None,))

        release, running = threading.Event(), threading.Event()
        blocker = database.submit(blocked(release, running))
        running.wait(10)
        functions = [append(1), append_and_raise, append(2), append_what_does_not_fit, append(3)]
        futures = [database.submit(function) for function in functions]
        release.set()
        blocker.result(10)
        outcomes = [future.exception(10) or future.result() for future in futures]
        assert [each if isinstance(each, list) else type(each) for each in outcomes] == [
            [1], LookupError, [1, 2], duckdb.ConstraintException, [1, 2, 3],
        ]  # fmt: skip
        assert await numbers(database) == [1, 2, 3]

    asyncio.run(scenario())
