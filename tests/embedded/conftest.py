"""An embedded OpenMeter for each test: in process over a folder of its own, under a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import pytest

from metergate.embedded.api.app import Application
from metergate.embedded.server import create_app

START = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


class MovableClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        """``move(days=1)``, ``move(minutes=-5)``."""
        self.now += timedelta(**by)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def detail(self) -> str:
        """The detail of a problem; the answer must be one."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return str(self.json.get("detail", ""))


@dataclass
class OpenMeter:
    """A started application and the loop it lives on. ``restart`` is a stop and a start over the same folder."""

    folder: Path
    clock: MovableClock
    config: Path | None = None
    token: str | None = None
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    app: Application | None = None

    def start(self) -> None:
        self.app = create_app(self.folder, config=self.config, token=self.token, clock=self.clock)
        self.runner.run(self.app.startup())

    def stop(self) -> None:
        if self.app is not None:
            self.runner.run(self.app.shutdown())
        self.app = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def __call__(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. ``body`` is sent as JSON unless it is bytes; lists in ``query`` are repeated parameters."""
        if query:
            target += "?" + urlencode(query, doseq=True)
        return self.runner.run(self.request(method, target, body, headers))

    async def request(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The same for tests that ask for several things at once."""
        assert self.app is not None
        sent = {"content-type": "application/json"} if body is not None else {}
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        parts = urlsplit(target)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        answer = Answer(0, {}, b"")

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        await self.app(scope, receive, send)
        return answer


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def openmeter(tmp_path: Path, clock: MovableClock) -> Iterator[OpenMeter]:
    server = OpenMeter(tmp_path / "data", clock)
    server.start()
    with server.runner:
        yield server
        server.stop()


def cloud_event(id: str = "1", **attributes: Any) -> dict[str, Any]:  # noqa: A002
    """A valid event; keyword arguments replace its attributes, None takes one away."""
    event = {
        "specversion": "1.0",
        "id": id,
        "source": "tests",
        "type": "request",
        "subject": "acme",
        "time": "2026-03-15T10:00:00Z",
        "data": {"tokens": 1},
    }
    event |= attributes
    return {name: value for name, value in event.items() if value is not None}


@pytest.fixture
def event() -> Any:
    """The function ``cloud_event``, for tests without an import of this file."""
    return cloud_event
