"""A copy made of a running server opens and holds all that was acknowledged before it began."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from metergate.embedded.store import database as store
from metergate.embedded.store.backup import Incomplete, archive, archive_size
from metergate.embedded.store.database import Database

BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def unpack(archive_bytes: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as opened:
        opened.extractall(folder, filter="data")
    return folder


def test_a_restored_copy_has_what_came_before_and_nothing_by_half_of_what_came_meanwhile(
    openmeter, event, tmp_path, monkeypatch
):
    monkeypatch.setattr(store, "FOLD_BYTES", 20_000)
    openmeter("POST", "/api/v1/meters", {"slug": "all", "aggregation": "COUNT", "eventType": "request"})
    openmeter("POST", "/api/v1/customers", {"name": "x", "key": "k"})
    for number in range(20):
        batch = [event(f"before {number}-{index}", data={"text": "x" * 200}) for index in range(20)]
        assert openmeter("POST", "/api/v1/events", batch, headers=BATCH).status == 204

    async def back_up_under_ingest() -> tuple[Any, int]:
        async def ingest(writer: int) -> int:
            for number in range(15):
                batch = [event(f"{writer}-{number}-{index}", data={"text": "y" * 200}) for index in range(20)]
                answer = await openmeter.request("POST", "/api/v1/events", batch, BATCH)
                assert answer.status == 204
            return 15 * 20

        backup, *sent = await asyncio.gather(
            openmeter.request("GET", "/api/metergate/backup"), *(ingest(writer) for writer in range(3))
        )
        return backup, sum(sent)

    answer, sent = openmeter.runner.run(back_up_under_ingest())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-tar")
    assert len(answer.body) == int(answer.headers["content-length"])
    openmeter.stop()
    openmeter.folder = unpack(answer.body, tmp_path / "copy")
    openmeter.start()
    counted = openmeter("GET", "/api/v1/meters/all/query").json["data"][0]["value"]
    assert 400 <= counted <= 400 + sent
    assert counted % 20 == 0
    assert openmeter("GET", "/api/v1/customers").json["totalCount"] == 1
    assert (
        openmeter("POST", "/api/v1/events", [event("before 3-7"), event("new")], headers=BATCH).status == 204
    )
    assert openmeter("GET", "/api/v1/meters/all/query").json["data"][0]["value"] == counted + 1


def test_the_log_is_not_folded_while_somebody_copies_and_is_afterwards(tmp_path):
    database = Database.open(tmp_path / "data", ["CREATE TABLE IF NOT EXISTS texts (text VARCHAR)"])
    log = tmp_path / "data" / "openmeter.duckdb.wal"

    async def scenario() -> None:
        await database.write(lambda cursor: cursor.execute("INSERT INTO texts VALUES ('a')") and None)
        files = await database.hold()
        assert files[log.name] == log.stat().st_size
        database._fold(1)
        assert log.stat().st_size == files[log.name]
        database.release()
        database._fold(1)
        assert not log.exists() or log.stat().st_size < files[log.name]

    asyncio.run(scenario())
    database.close()


def test_an_archive_is_as_long_as_was_said_and_of_a_file_cut_short_there_is_none(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "b").write_bytes(b"")
    files = {"a": 700, "b": 0}
    made = b"".join(archive(tmp_path, files))
    assert len(made) == archive_size(files)
    assert (unpack(made, tmp_path / "copy") / "a").read_bytes() == b"x" * 700
    with pytest.raises(Incomplete, match="a has become shorter"):
        b"".join(archive(tmp_path, {"a": 1001}))
