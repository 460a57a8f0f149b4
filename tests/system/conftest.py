"""Metergate's commands as real processes, each test on ports and folders of its own."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from metergate.testing.processes import Server, gateway_server, openmeter_server, upstream_server

T = TypeVar("T")
StartOpenMeter = Callable[..., Server]
StartGateway = Callable[..., Server]


@pytest.fixture
def running() -> Iterator[Callable[[Server], Server]]:
    """Starts a server and sees to its end, whatever the test does."""
    servers: list[Server] = []

    def start(server: Server) -> Server:
        servers.append(server)
        return server.start()

    yield start
    for server in reversed(servers):
        server.kill()


@pytest.fixture
def openmeter(running: Callable[[Server], Server], tmp_path: Path) -> StartOpenMeter:
    """``openmeter(config)``: an embedded OpenMeter, ready, its data in the test's folder."""

    def start(config: Mapping[str, Any] | None = None, *, name: str = "openmeter", **options: Any) -> Server:
        return running(openmeter_server(tmp_path / name, config, **options))

    return start


@pytest.fixture
def gateway(running: Callable[[Server], Server]) -> StartGateway:
    """``gateway(project_dir, workers=1, env=None, spool=None)``: a gateway that runs that project, ready."""

    def start(project: Path, **options: Any) -> Server:
        return running(gateway_server(project, **options))

    return start


@pytest.fixture
def upstream(running: Callable[[Server], Server], tmp_path: Path) -> Server:
    """The API of `metergate.testing.upstream`, ready."""
    return running(upstream_server(tmp_path / "upstream.log"))


@dataclass(frozen=True)
class Reply:
    """What a client got. Names of header fields are in lower case; of two of one name the last is here."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["zp-rid"]


def _call(
    url: str,
    path: str,
    *,
    method: str = "GET",
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Reply:
    sent = {**({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, fields, answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="session")
def call() -> Callable[..., Reply]:
    """``call(url, path, method=, key=, headers=, body=)``: one request on a connection of its own."""
    return _call


def _eventually(question: Callable[[], T], seconds: float = 15.0) -> T:
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer or time.monotonic() > deadline:
            assert answer, f"not so within {seconds:g} s"
            return answer
        time.sleep(0.02)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """``eventually(question)``: its answer as soon as that is true; fails where it is not in time."""
    return _eventually


@pytest.fixture
def issue_grant() -> Callable[[Server, str, str, float], None]:
    """``issue_grant(openmeter, customer, feature, amount)``: a top-up that OpenMeter knows of when this returns."""

    def issue(openmeter: Server, customer: str, feature: str, amount: float) -> None:
        body = {"amount": amount, "effectiveAt": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:00Z}", "priority": 1}
        connection = http.client.HTTPConnection("127.0.0.1", openmeter.port, timeout=10)
        try:
            path = f"/api/v2/customers/{customer}/entitlements/{feature}/grants"
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 201, answer.read()
        finally:
            connection.close()

    return issue
