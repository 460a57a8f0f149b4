"""A disk that is full: whoever writes is told so with 503, nothing is there by half, reading goes on, and so does
everything once there is space. The limit on the size of a file stands in for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metergate.embedded.store import database as store
from metergate.embedded.store.database import Database, Unavailable
from metergate.embedded.store.folder import LOG

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
METER = {"slug": "all", "aggregation": "COUNT", "eventType": "request"}
DiskUsage = namedtuple("DiskUsage", "total used free")  # noqa: PYI024 - as shutil gives it


@contextlib.contextmanager
def full_disk(folder: Path, left: int = 0) -> Iterator[None]:
    """No file of the folder can grow by more than ``left`` bytes beyond the longest of them now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    longest = max(file.stat().st_size for file in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest + left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def measured(openmeter: Any, event: Any) -> Any:
    """With a meter, and with more in its log than in its file, so that the log is what reaches the limit."""
    assert openmeter("POST", "/api/v1/meters", METER).status == 200
    assert (
        openmeter("POST", "/api/v1/events", [event("1", data={"text": "x" * 100_000})], headers=BATCH).status
        == 204
    )
    return openmeter


def count(openmeter: Any) -> int:
    return int(openmeter("GET", "/api/v1/meters/all/query").json["data"][0]["value"])


def test_who_writes_is_answered_503_and_can_send_the_same_again_later(measured, event, caplog):
    caplog.set_level("INFO", "metergate.embedded")
    large = [event(str(number), data={"text": "x" * 10_000}) for number in range(2, 22)]
    with full_disk(measured.folder, left=50_000):
        assert measured("POST", "/api/v1/events", [event("small")], headers=BATCH).status == 204
        for _ in range(2):
            answer = measured("POST", "/api/v1/events", large, headers=BATCH)
            assert (answer.status, answer.detail) == (
                503,
                "The data folder cannot be written: File too large.",
            )
        customer = {"name": "x", "key": "k", "metadata": {"text": "x" * 100_000}}
        assert measured("POST", "/api/v1/customers", customer).status == 503
        assert count(measured) == 2
        assert measured("GET", "/api/v1/customers").json["totalCount"] == 0
    assert measured("POST", "/api/v1/events", large, headers=BATCH).status == 204
    assert measured("POST", "/api/v1/customers", customer).status == 201
    assert count(measured) == 22
    measured.restart()
    assert count(measured) == 22
    said = [record.getMessage() for record in caplog.records if record.name == "metergate.embedded"]
    assert said == [
        "nothing can be stored: The data folder cannot be written: File too large.",
        "the data folder can be written again",
    ]


def test_what_a_power_cut_leaves_of_a_full_disk_is_what_was_acknowledged(measured, event, tmp_path):
    with full_disk(measured.folder, left=20_000):
        for number in range(2, 100):
            if measured("POST", "/api/v1/events", [event(str(number))], headers=BATCH).status == 503:
                break
        else:
            pytest.fail("the disk was never full")
        shutil.copytree(measured.folder, tmp_path / "copy")
    acknowledged = count(measured)
    measured.stop()
    measured.folder = tmp_path / "copy"
    measured.start()
    assert count(measured) == acknowledged == number - 1


def test_a_server_starts_and_answers_on_a_full_disk(measured, event):
    measured.stop()
    with full_disk(measured.folder):
        measured.start()
        assert count(measured) == 1
        answer = measured(
            "POST", "/api/v1/events", [event("2", data={"text": "x" * 10_000_000})], headers=BATCH
        )
        assert answer.status == 503
    assert measured("POST", "/api/v1/events", [event("2")], headers=BATCH).status == 204
    assert count(measured) == 2


def test_a_log_that_cannot_be_folded_costs_nothing_but_a_new_start_of_the_database(
    tmp_path, monkeypatch, caplog
):
    """Space seems to be there and is not: DuckDB then refuses everything until it is opened again."""
    monkeypatch.setattr(store, "FOLD_BYTES", 200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, 1 << 40))
    schema = ["CREATE TABLE IF NOT EXISTS texts (number INTEGER NOT NULL, text VARCHAR NOT NULL)"]
    database = Database.open(tmp_path / "data", schema)
    texts = [bytes(1000).hex() + str(number) for number in range(120)]

    def put(number: int) -> Any:
        row = [number, "".join(reversed(texts[number % 120] * 50))]
        return lambda cursor: cursor.execute("INSERT INTO texts VALUES (?, ?)", row) and None

    async def scenario() -> int:
        number = 0
        async with asyncio.timeout(30):
            while not database.statistics().reopened:
                await database.write(put(number))
                number += 1
                with contextlib.suppress(Unavailable):  # for the moment in which DuckDB is started again
                    assert await database.read("SELECT count(*) FROM texts") == [(number,)]
        return number

    async def write_again(number: int) -> None:
        with contextlib.suppress(Unavailable):  # it may have given up once more on what it wrote last
            await database.read("SELECT count(*) FROM texts")
        await database.write(put(number))

    with full_disk(tmp_path / "data", left=300_000):
        written = asyncio.run(scenario())
        assert "DuckDB gave up and is started again" in caplog.text
    asyncio.run(write_again(written))
    assert asyncio.run(database.read("SELECT count(*) FROM texts")) == [(written + 1,)]
    database.close()
    assert not (tmp_path / "data" / LOG).exists()
    again = Database.open(tmp_path / "data", schema)
    assert asyncio.run(again.read("SELECT count(*) FROM texts")) == [(written + 1,)]
    again.close()


def test_a_database_that_cannot_be_opened_again_is_unavailable_until_it_can(tmp_path, monkeypatch):
    schema = ["CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL)"]
    database = Database.open(tmp_path / "data", schema)
    connect = store.connect

    def insert(cursor: Any) -> None:
        cursor.execute("INSERT INTO numbers VALUES (1)")

    def give_up(_: Any) -> None:
        raise store.duckdb.FatalException("the disk burns: Input/output error")

    def refuse(_: Path) -> Any:
        raise store.duckdb.IOException("the disk still burns")

    database.submit(insert).result(10)
    monkeypatch.setattr(store, "connect", refuse)
    for function, reason in ((give_up, "Input/output error"), (insert, "cannot be opened")):
        with pytest.raises(Unavailable, match=reason):
            database.submit(function).result(10)
    with pytest.raises(Unavailable, match="cannot be read"):
        asyncio.run(database.read("SELECT 1"))
    monkeypatch.setattr(store, "connect", connect)
    database.submit(insert).result(10)
    assert asyncio.run(database.read("SELECT count(*) FROM numbers")) == [(2,)]
    database.close()
