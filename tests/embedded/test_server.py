"""The server as a process of its own: starting, stopping, and being killed."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metergate.testing.processes import HOST, Server, free_port

SERVE = """
import sys
from pathlib import Path
from metergate.embedded import server
from metergate.errors import ConfigurationError
server.STOP_SECONDS = float(sys.argv[3])
try:
    server.serve(Path(sys.argv[1]), host="localhost", port=int(sys.argv[2]))
except ConfigurationError as exception:
    sys.exit(str(exception))
"""
METERS = [
    {"slug": "count", "aggregation": "COUNT", "eventType": "request"},
    {"slug": "ids", "aggregation": "UNIQUE_COUNT", "eventType": "request", "valueProperty": "$.id"},
]


def make_server(folder: Path, port: int | None = None, *, stop_seconds: float = 4) -> Server:
    port = port or free_port()
    command = [sys.executable, "-c", SERVE, str(folder / "data"), str(port), str(stop_seconds)]
    return Server(command, url=f"http://{HOST}:{port}", ready="/api/v1/meters", log=folder / "log")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = make_server(tmp_path)
    yield made
    made.kill()


def call(
    server: Server, method: str, path: str, body: Any = None, media_type: str = "application/json"
) -> Any:
    """Status and body; raises OSError or HTTPException when the server is gone."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        content = (
            None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )
        connection.request(method, path, content, {"Content-Type": media_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ingest(server: Server, ids: list[str]) -> int:
    events = [
        {"specversion": "1.0", "id": id, "source": "s", "type": "request", "subject": "a", "data": {"id": id}}
        for id in ids  # noqa: A001
    ]
    status, _ = call(server, "POST", "/api/v1/events", events, "application/cloudevents-batch+json")
    return int(status)


def measure(server: Server, slug: str) -> int:
    status, body = call(server, "GET", f"/api/v1/meters/{slug}/query")
    assert status == 200
    return int(json.loads(body)["data"][0]["value"])


class Writer(threading.Thread):
    """Sends batches of new ids until the server is gone; knows what was acknowledged and what is in doubt."""

    def __init__(self, server: Server, name: str, on_acknowledged: Any) -> None:
        super().__init__(name=name)
        self.server = server
        self.random = random.Random(name)  # noqa: S311 - sizes of batches
        self.acknowledged: list[str] = []
        self.in_doubt: list[str] = []
        self._on_acknowledged = on_acknowledged

    def run(self) -> None:
        for number in range(10_000):
            batch = [f"{self.name}-{number}-{index}" for index in range(self.random.randint(1, 60))]
            self.in_doubt = batch
            try:
                if ingest(self.server, batch) != 204:
                    return
            except (OSError, http.client.HTTPException):
                return
            self.acknowledged += batch
            self.in_doubt = []
            self._on_acknowledged()


def write_until(server: Server, round_: int, batches: int, end: Any) -> list[Writer]:
    """Six writers at once; ``end()`` after so many acknowledged batches; then all of them have stopped."""
    reached = threading.Semaphore(0)
    writers = [Writer(server, f"{round_}-{number}", reached.release) for number in range(6)]
    for writer in writers:
        writer.start()
    for _ in range(batches):
        assert reached.acquire(timeout=20)
    end()
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive()
    return writers


def test_after_kill_9_everything_acknowledged_is_there_and_nothing_twice(server):
    server.start()
    for meter in METERS:
        assert call(server, "POST", "/api/v1/meters", meter)[0] == 200
    acknowledged: list[str] = []
    in_doubt: list[str] = []
    for round_, batches in enumerate((7, 60, 23)):
        writers = write_until(server, round_, batches, server.kill)
        server.restart()
        acknowledged += [id for writer in writers for id in writer.acknowledged]  # noqa: A001
        new_doubts = [id for writer in writers for id in writer.in_doubt]  # noqa: A001
        count = measure(server, "count")
        assert len(acknowledged) <= count <= len(acknowledged) + len(in_doubt) + len(new_doubts)
        assert measure(server, "ids") == count
        in_doubt += new_doubts
        # what a client does with a batch it knows nothing of: send it again, and all the others too
        assert ingest(server, in_doubt + acknowledged[-500:]) == 204
        acknowledged += in_doubt
        in_doubt = []
        assert measure(server, "count") == measure(server, "ids") == len(acknowledged)


def test_sigterm_in_the_middle_of_ingest_ends_it_with_0_and_loses_nothing(server):
    server.start()
    for meter in METERS:
        call(server, "POST", "/api/v1/meters", meter)
    statuses = []
    writers = write_until(server, 0, 20, lambda: statuses.append(server.stop(timeout=5)))
    assert statuses == [0]
    server.restart()
    acknowledged = sum(len(writer.acknowledged) for writer in writers)
    in_doubt = sum(len(writer.in_doubt) for writer in writers)
    assert acknowledged <= measure(server, "count") <= acknowledged + in_doubt
    assert "Traceback" not in server.output()


def test_a_client_that_never_ends_its_request_does_not_hold_up_the_end(tmp_path):
    with make_server(tmp_path, stop_seconds=0.2) as server:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
        connection.putrequest("POST", "/api/v1/events")
        connection.putheader("Content-Type", "application/cloudevents-batch+json")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"[")
        assert call(server, "GET", "/api/v1/meters")[0] == 200
        assert server.stop(timeout=5) == 0
        assert connection.getresponse().status == 500  # so that it sends again
        connection.close()
        assert "Traceback" not in server.output()


def test_who_sends_far_too_much_is_told_so_and_not_cut_off(server):
    server.start()
    status, body = call(server, "POST", "/api/v1/meters", " " * 40_000_000)
    assert (status, json.loads(body)["title"]) == (413, "Request Entity Too Large")


def test_200_connections_at_once_are_all_answered_while_as_many_are_slow(server):
    server.start()
    call(server, "POST", "/api/v1/meters", METERS[0])
    slow = []
    for number in range(200):
        connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
        connection.putrequest("POST", "/api/v1/events")
        connection.putheader("Content-Type", "application/cloudevents+json")
        connection.putheader("Content-Length", "100")
        event = {
            "id": f"slow-{number}",
            "source": "s",
            "specversion": "1.0",
            "type": "request",
            "subject": "a",
        }
        text = json.dumps(event, separators=(",", ":")).encode().ljust(100)
        connection.endheaders(text[:40])
        slow.append((connection, text[40:]))
    with ThreadPoolExecutor(200) as pool:
        statuses = list(pool.map(lambda number: ingest(server, [f"quick-{number}"]), range(200)))
    assert statuses == [204] * 200
    for connection, rest in slow:
        connection.send(rest)
    assert [connection.getresponse().status for connection, _ in slow] == [204] * 200
    for connection, _ in slow:
        connection.close()
    assert measure(server, "count") == 400


def test_sigint_ends_it_as_well(server):
    server.start()
    os.kill(server.pid, signal.SIGINT)
    assert server.stop(timeout=5) == 0
