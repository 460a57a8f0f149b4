"""An embedded OpenMeter that listens, for tests: in this process, over a folder of its own, under a clock you move.

    with embedded_openmeter(config={"meters": [{"slug": "calls", "aggregation": "COUNT", "eventType": "call"}]}) as om:
        om.ingest({"type": "call", "subject": "acme"})
        om.clock.move(days=31)
        om.call("GET", "/api/v1/meters/calls/query")

It is the real server over real HTTP; what it acknowledged is there. It starts within about a tenth of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from granian.constants import Interfaces
from granian.server.embed import Server

from metergate.embedded.config import Configuration, check_configuration
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.server import create_app
from metergate.errors import ConfigurationError, MetergateError
from metergate.testing.processes import HOST, free_port

START_SECONDS = 20.0
STOP_SECONDS = 4.0
SOURCE = "metergate.testing"


class Refused(MetergateError):
    """A call that was answered with 400 or more; ``problem`` is what OpenMeter says of it."""

    def __init__(self, method: str, path: str, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(f"{method} {path} was answered {status}: {problem.get('detail', problem)}")


class VirtualClock:
    """The server's clock. With a ``start`` it stands still there, else it goes with the machine's; ``move`` it."""

    def __init__(self, start: datetime | None = None) -> None:
        if start is not None and start.tzinfo is None:
            raise ValueError(f"{start!r} has no time zone; write datetime(..., tzinfo=UTC)")
        self._start = None if start is None else start.astimezone(UTC)
        self._moved = timedelta(0)

    def __call__(self) -> datetime:
        return self.now

    @property
    def now(self) -> datetime:
        """What the clock shows, aware, in UTC."""
        return (datetime.now(UTC) if self._start is None else self._start) + self._moved

    def move(self, **by: float) -> datetime:
        """Put the clock forward (or back) by a timedelta: ``move(days=31)``; what it shows then."""
        self._moved += timedelta(**by)
        return self.now


class EmbeddedOpenMeter:
    """A server that runs. ``url`` is for clients, ``clock`` and ``folder`` are its own; ``restart`` keeps both."""

    def __init__(
        self, folder: Path, clock: VirtualClock, config: Path | Configuration | None, token: str | None
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.token = token
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._config = config
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Returns once it answers. Raises what kept it from starting."""
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="embedded-openmeter", daemon=True)
        self._thread.start()
        self._ready.wait(START_SECONDS)
        if self._failure is not None:
            raise self._failure
        if not self._ready.is_set():
            raise TimeoutError(f"the embedded OpenMeter did not start within {START_SECONDS:g} s")

    def stop(self) -> None:
        """Returns once its folder is free."""
        if self._thread is None:
            return
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed, as it could not start
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def restart(self) -> None:
        """Stop and start over the same folder and port."""
        self.stop()
        self.start()

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Make a request; the decoded JSON of the answer, its text where it is none, None where it is empty.

        ``body`` is sent as JSON; a list in ``query`` is a repeated parameter. Raises Refused.
        """
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path
        status, media_type, content = self._exchange(method, target, body)
        if not content:
            return None
        decoded = msgspec.json.decode(content) if "json" in media_type else content.decode()
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise Refused(method, path, status, decoded if isinstance(decoded, dict) else {"detail": decoded})
        return decoded

    def ingest(self, *events: Mapping[str, Any]) -> None:
        """Store events, at least a type and a subject each; the rest is filled in, the time with the clock's."""
        defaults = {"specversion": "1.0", "source": SOURCE, "time": format_rfc3339(self.clock.now)}
        self.call(
            "POST", "/api/v1/events", [{"id": str(uuid.uuid4()), **defaults, **event} for event in events]
        )

    def _exchange(self, method: str, target: str, body: Any) -> tuple[int, str, bytes]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, target, None if body is None else msgspec.json.encode(body), headers)
            response = connection.getresponse()
            return response.status, response.headers.get("Content-Type", ""), response.read()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as exception:  # noqa: BLE001 - it is raised in the thread that started this one
            self._failure = exception
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._failure = None
        app = create_app(self.folder, config=self._config, token=self.token, clock=self.clock)
        try:
            await app.startup()
            server = Server(
                app,
                address=HOST,
                port=self.port,
                interface=Interfaces.ASGINL,
                websockets=False,
                log_enabled=False,
            )
            serving = asyncio.ensure_future(server.serve())
            await self._wait_until_listening(serving)
            self._ready.set()
            await self._stopping.wait()
            server.stop()  # type: ignore[no-untyped-call]
            await asyncio.wait({serving}, timeout=STOP_SECONDS)
            app.abort()
        finally:
            await app.shutdown()

    async def _wait_until_listening(self, serving: asyncio.Future[None]) -> None:
        while not serving.done():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, self.port)
                writer.close()
                return
            await asyncio.sleep(0.002)
        serving.result()
        raise OSError(f"{self.url} cannot be listened on")


@contextlib.contextmanager
def embedded_openmeter(
    *,
    start: datetime | None = None,
    config: Path | Mapping[str, Any] | None = None,
    token: str | None = None,
    folder: Path | None = None,
) -> Iterator[EmbeddedOpenMeter]:
    """A running embedded OpenMeter; it is stopped, and its folder removed, at the end.

    Args:
        start: where its clock stands still until it is moved; None: it goes with the machine's clock.
        config: the ``--config`` file, or what would stand in it: meters, features, customers, entitlements.
        token: what every request then needs as bearer token.
        folder: where its data is to be, and to stay; None: a temporary folder.

    Raises:
        ConfigurationError: where the folder or the configuration cannot be used.
    """
    given = _configuration(config)
    with contextlib.ExitStack() as stack:
        data = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metergate-")))
        openmeter = EmbeddedOpenMeter(data, VirtualClock(start), given, token)
        stack.callback(openmeter.stop)
        openmeter.start()
        yield openmeter


def _configuration(config: Path | Mapping[str, Any] | None) -> Path | Configuration | None:
    if config is None or isinstance(config, Path):
        return config
    configuration, findings = check_configuration(config)
    if findings:
        raise ConfigurationError(findings)
    return configuration
