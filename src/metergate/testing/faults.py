"""An OpenMeter that misbehaves: a proxy in front of a real one that refuses, breaks off and stores by halves.

    with FaultProxy(openmeter.url) as proxy:
        proxy.misbehave({Fault.STORE_HALF: 0.2, Fault.CUT_AFTER: 0.1})
        ...                      # what is sent to proxy.url fails at random, each time in another way
        proxy.go_away()          # nobody answers on that port
        proxy.come_back()
        proxy.behave()

The proxy runs in a thread of its own and may be called from any. What it did is in `FaultProxy.statistics`.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from metergate.testing.processes import HOST, free_port

_T = TypeVar("_T")
_CALL_SECONDS = 10.0


class Fault(StrEnum):
    """What can happen to a request. All but the first three happen to a batch of events only as named."""

    ERROR = "error"
    """500, and OpenMeter never saw it."""
    THROTTLE = "throttle"
    """429 with ``Retry-After``, and OpenMeter never saw it."""
    CUT_BEFORE = "cut_before"
    """The connection breaks before OpenMeter saw it."""
    CUT_AFTER = "cut_after"
    """OpenMeter has done it, and the connection breaks before the answer."""
    STORE_HALF = "store_half"
    """OpenMeter gets the first half of a batch, the sender gets 500. Something else than a batch: as `ERROR`."""


@dataclass(frozen=True, slots=True)
class FaultStatistics:
    """``requests`` that came in, ``passed`` unharmed, ``faults`` by kind, ``unreachable``: OpenMeter was not there."""

    requests: int
    passed: int
    unreachable: int
    faults: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Message:
    """One HTTP request as it came: its head without the empty line, and its body."""

    head: bytes
    body: bytes


class FaultProxy:
    """See the module. ``seed`` makes the choice of faults repeatable for the same order of requests."""

    def __init__(
        self, target: str, *, port: int | None = None, seed: int | None = None, retry_after: int = 1
    ) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or HOST, parts.port or 80)
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._random = random.Random(seed)  # noqa: S311  # chance, not secrecy
        self._retry_after = retry_after
        self._faults: Mapping[Fault, float] = {}
        self._counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.come_back()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.go_away()
        self._call(self._end_tasks)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def misbehave(self, faults: Mapping[Fault, float]) -> None:
        """From now on each request meets these faults with these chances (their sum at most 1)."""
        self._faults = dict(faults)

    def behave(self) -> None:
        """From now on every request passes."""
        self._faults = {}

    def go_away(self) -> None:
        """Close the port and every connection; what is under way breaks off."""
        self._call(self._close)

    def come_back(self) -> None:
        """Open the port again."""
        self._call(self._listen)

    def statistics(self) -> FaultStatistics:
        counts = dict(self._counts)
        return FaultStatistics(
            requests=counts.pop("requests", 0),
            passed=counts.pop("passed", 0),
            unreachable=counts.pop("unreachable", 0),
            faults=counts,
        )

    def _call(self, work: Callable[[], Awaitable[_T]]) -> _T:
        async def run() -> _T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALL_SECONDS)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._connections):
            writer.transport.abort()

    async def _end_tasks(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (message := await _read_message(reader)) is not None:
                answer = await self._answer(message)
                if answer is None:
                    writer.transport.abort()
                    return
                writer.write(answer)
                await writer.drain()
                if b"\r\nconnection: close" in answer.partition(b"\r\n\r\n")[0].lower():
                    return
        except (OSError, asyncio.IncompleteReadError):
            self._counts["client_gone"] += 1
        finally:
            self._connections.discard(writer)
            with suppress(OSError):
                writer.close()

    async def _answer(self, message: _Message) -> bytes | None:
        """What goes back; None: break the connection."""
        self._counts["requests"] += 1
        fault = choose(self._faults, self._random.random())
        if fault is not None:
            self._counts[fault.value] += 1
        match fault:
            case Fault.ERROR:
                return _problem(500, "Internal Server Error")
            case Fault.THROTTLE:
                return _problem(429, "Too Many Requests", f"Retry-After: {self._retry_after}\r\n")
            case Fault.CUT_BEFORE:
                return None
            case Fault.CUT_AFTER:
                await self._forward(message)
                return None
            case Fault.STORE_HALF:
                if (half := first_half(message.body)) is not None:
                    await self._forward(_Message(message.head, half))
                return _problem(500, "Internal Server Error")
            case None:
                answer = await self._forward(message)
                self._counts["passed" if answer is not None else "unreachable"] += 1
                return answer

    async def _forward(self, message: _Message) -> bytes | None:
        """OpenMeter's answer to the last byte; None when it is not there or breaks off."""
        try:
            reader, writer = await asyncio.open_connection(*self._target)
        except OSError:
            return None
        try:
            writer.write(_for_one_connection(message))
            answer = await reader.read(-1)
        except OSError:
            return None
        finally:
            writer.close()
        return answer or None


def choose(faults: Mapping[Fault, float], chance: float) -> Fault | None:
    """The fault that ``chance`` (0 to 1) falls on, each as wide as its share."""
    for fault, share in faults.items():
        if chance < share:
            return fault
        chance -= share
    return None


def first_half(body: bytes) -> bytes | None:
    """A batch of the first half of the events in ``body``, of an odd number the smaller; None where that is none."""
    try:
        events: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    if not isinstance(events, list) or len(events) < 2:
        return None
    return msgspec.json.encode(events[: len(events) // 2])


async def _read_message(reader: asyncio.StreamReader) -> _Message | None:
    """The next request of a connection; None at its end. Raises IncompleteReadError in the middle of one."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise
        return None
    length = _field(head, b"content-length")
    return _Message(head, await reader.readexactly(int(length)) if length else b"")


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _for_one_connection(message: _Message) -> bytes:
    """The request for a connection that ends after it: so its answer is all that comes until the end."""
    request, *fields = message.head.split(b"\r\n")
    dropped = (b"connection", b"keep-alive", b"content-length")
    kept = [line for line in fields if line.partition(b":")[0].strip().lower() not in dropped]
    if message.body:
        kept.append(b"Content-Length: %d" % len(message.body))
    return b"\r\n".join([request, *kept, b"Connection: close", b"", message.body])


def _problem(status: int, title: str, fields: str = "") -> bytes:
    body = msgspec.json.encode({"type": "about:blank", "title": title, "status": status})
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n{fields}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
