"""An OpenMeter that misbehaves on demand: a real HTTP server in a thread, for tests of everything that sends events.

    with FaultyOpenMeter(answer(500), cut(stored=True)) as openmeter:
        delivery = Delivery(openmeter.url, "key", directory=tmp_path)
        ...
        openmeter.wait_for_events(100)
        assert len(openmeter.received) == 200    # the cut one was sent again
        assert len(openmeter.events) == 100      # and counted once

It checks events as OpenMeter does (all or nothing), answers 204 when nothing else is scripted, and de-duplicates on
source and id. Nothing in it sleeps but a ``slow`` answer, so a test that uses it is as fast as what it tests.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

from metergate.testing.processes import HOST, free_port

EVENTS_PATH = "/api/v1/events"
BATCH_TYPE = "application/cloudevents-batch+json"
_REQUIRED = ("id", "source", "specversion", "type", "subject")

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request instead of being stored and answered with 204.

    ``stores``: how many of its events are stored all the same. ``cut``: the connection is closed without an answer.
    ``body`` is sent with ``content_type``; without one, a problem as OpenMeter sends it. ``seconds``: how long the answer is
    held back.
    """

    status: int = 204
    stores: Literal["none", "half", "all"] = "none"
    cut: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = ""
    body: bytes = b""
    seconds: float = 0.0


def answer(status: int, detail: str = "", **headers: str) -> Fault:
    """That status with a problem body, nothing stored. ``headers``: names with underscores for hyphens."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Fault(status, headers=named, body=_problem(status, detail))


def throttle(retry_after: float | str | None = 1) -> Fault:
    """429, with ``Retry-After`` in seconds or as an HTTP date (None: without)."""
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    return Fault(429, headers=headers, body=_problem(429, "rate limit exceeded"))


def cut(*, stored: bool) -> Fault:
    """The connection breaks before any answer, with the events stored or not: the client cannot know which."""
    return Fault(stores="all" if stored else "none", cut=True)


def half_stored() -> Fault:
    """The first half is stored, then 500: what OpenMeter does when its broker fails amid a batch."""
    return Fault(500, stores="half", body=_problem(500, ""))


def slow(seconds: float) -> Fault:
    """Stored, and answered after so long (or at once when the server stops)."""
    return Fault(stores="all", seconds=seconds)


def page(status: int = 200, html: str = "<html>Please log in</html>") -> Fault:
    """A web page instead of OpenMeter: a captive portal, a proxy's error page."""
    return Fault(status, content_type="text/html", body=html.encode())


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was seen. ``status`` is 0 where the connection was cut; ``at`` is ``time.monotonic()``."""

    status: int
    events: int
    headers: Mapping[str, str]
    body: bytes
    at: float


class FaultyOpenMeter:
    """Accepts ``POST /api/v1/events`` on a free port of 127.0.0.1; faults are used up one per request, in order.

    Args:
        faults: what happens to the first requests.
        api_key: any other key gets 401; None accepts every one.

    Attributes:
        events: what OpenMeter would count: each source and id once, in order of arrival.
        received: every event that was stored, repeats included.
        requests: every request to the ingest endpoint.
    """

    def __init__(self, *faults: Fault, api_key: str | None = None) -> None:
        self.events: list[Event] = []
        self.received: list[Event] = []
        self.requests: list[Request] = []
        self.api_key = api_key
        self.port = free_port()
        self._faults = deque(faults)
        self._refuses: Callable[[Event], bool] = lambda _event: False
        self._seen: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self._open = threading.Event()
        self._open.set()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{HOST}:{self.port}"

    def script(self, *faults: Fault) -> None:
        """Adds faults for the next requests."""
        with self._changed:
            self._faults.extend(faults)

    def refuse(self, event: Callable[[Event], bool]) -> None:
        """From now on any batch with such an event gets 400, all or nothing; ``lambda event: False`` ends it."""
        self._refuses = event

    def hold(self) -> None:
        """Lets requests wait for their answer, until ``let_go``. They are stored before they wait."""
        self._open.clear()

    def let_go(self) -> None:
        """Ends ``hold``."""
        self._open.set()

    def go_away(self) -> None:
        """Closes the port and all connections: connecting is refused."""
        if self._server is not None:
            self._open.set()
            self._server.stop()
            self._server = None

    def come_back(self) -> None:
        """Opens the same port again."""
        if self._server is None:
            self._server = _Server(self)

    def wait_for_events(self, count: int, timeout: float = 20.0) -> None:
        """Returns when so many different events have been stored.

        Raises:
            TimeoutError: they were not.
        """
        self.wait_until(
            lambda: len(self.events) >= count, timeout, lambda: f"{len(self.events)} of {count} events"
        )

    def wait_for_requests(self, count: int, timeout: float = 20.0) -> None:
        """Returns when so many requests have come.

        Raises:
            TimeoutError: they have not.
        """
        self.wait_until(
            lambda: len(self.requests) >= count, timeout, lambda: f"{len(self.requests)} of {count} requests"
        )

    def wait_until(
        self, condition: Callable[[], bool], timeout: float = 20.0, found: Callable[[], str] = lambda: "no"
    ) -> None:
        """Returns when the condition holds; looked at after every request.

        Raises:
            TimeoutError: it did not in time; the message says what was ``found``.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"{found()} after {timeout} s")

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    def __repr__(self) -> str:
        return f"<FaultyOpenMeter {self.url}, {len(self.requests)} requests, {len(self.events)} events>"

    def _handle(self, headers: Mapping[str, str], body: bytes) -> Fault:
        """What to answer; stores on the way."""
        with self._changed:
            events, fault = self._judge(headers, body)
            stored = {"none": 0, "half": len(events) // 2, "all": len(events)}[fault.stores]
            for event in events[:stored]:
                self._store(event)
            status = 0 if fault.cut else fault.status
            self.requests.append(Request(status, len(events), dict(headers), body, time.monotonic()))
            self._changed.notify_all()
        if fault.seconds:
            self._server_stopped().wait(fault.seconds)
        self._open.wait()
        return fault

    def _judge(self, headers: Mapping[str, str], body: bytes) -> tuple[list[Event], Fault]:
        scripted = self._faults.popleft() if self._faults else None
        if (
            scripted is None
            and self.api_key is not None
            and headers.get("authorization") != f"Bearer {self.api_key}"
        ):
            return [], answer(401, "invalid API key")
        if headers.get("content-type") != BATCH_TYPE:
            return [], answer(400, f"invalid content type: {headers.get('content-type')}")
        try:
            events = json.loads(body)
        except ValueError as error:
            return [], scripted or answer(400, f"validation error: {error}")
        if scripted is not None:
            return events, scripted
        for event in events:
            missing = [name for name in _REQUIRED if not isinstance(event.get(name), str) or not event[name]]
            if missing or self._refuses(event):
                return events, answer(
                    400, f"validation error: event {event.get('id')!r} {missing or 'is refused'}"
                )
        return events, Fault(stores="all")

    def _store(self, event: Event) -> None:
        self.received.append(event)
        key = (event["source"], event["id"])
        if key not in self._seen:
            self._seen.add(key)
            self.events.append(event)

    def _server_stopped(self) -> threading.Event:
        return self._server.stopped if self._server is not None else threading.Event()


class _Server(ThreadingHTTPServer):
    """The socket side. Connections are closed with it, so that a kept-alive one cannot outlive ``go_away``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: FaultyOpenMeter) -> None:
        self.owner = owner
        self.stopped = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__((HOST, owner.port), _Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.02,), name="faulty-openmeter", daemon=True
        )
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or a connection that was cut on purpose, is no news."""

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != EVENTS_PATH:
            self._send(answer(404, "not found"))
            return
        fault = self.server.owner._handle({name.lower(): value for name, value in self.headers.items()}, body)
        if fault.cut:
            self.close_connection = True
        else:
            self._send(fault)

    def _send(self, fault: Fault) -> None:
        self.send_response(fault.status)
        for name, value in fault.headers:
            self.send_header(name, value)
        if fault.body:
            self.send_header("Content-Type", fault.content_type or "application/problem+json")
        if fault.status != 204:
            self.send_header("Content-Length", str(len(fault.body)))
        self.end_headers()
        if fault.status != 204:
            self.wfile.write(fault.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Tests read ``requests`` instead."""


def _problem(status: int, detail: str) -> bytes:
    problem: dict[str, Any] = {"type": "about:blank", "title": "fault", "status": status}
    if detail:
        problem["detail"] = detail
    return json.dumps(problem).encode()
