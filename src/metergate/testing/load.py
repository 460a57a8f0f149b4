"""Load on an HTTP/1.1 server over keep-alive connections: ``python -m metergate.testing.load URL -c 64``.

Each connection sends its next request as soon as it has the whole answer to the last (closed loop). One
process, one thread; it uses uvloop where that is installed. A lost connection is counted as failed and opened
again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import msgspec

from metergate.testing.responses import Answer, BadResponse, ResponseReader

_RECONNECT_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a run has shown. Times are milliseconds from the last byte asked to the last byte answered."""

    requests: int
    failed: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    statuses: dict[int, int] = field(default_factory=dict)


def encode_request(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """The bytes of one keep-alive request."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc, **(headers or {})}
    if body or method in {"POST", "PUT", "PATCH"}:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class _Run:
    """What all connections of one run share."""

    __slots__ = ("failed", "latencies", "next_request", "over", "statuses")

    def __init__(self, next_request: Callable[[float], bytes | None]) -> None:
        self.next_request = next_request  # (now) -> None when there is nothing more to ask
        self.over = False
        self.latencies = array("d")
        self.statuses: Counter[int] = Counter()
        self.failed = 0


class _Connection(asyncio.Protocol):
    """One keep-alive connection in its closed loop."""

    def __init__(self, run: _Run) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._run = run
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._asked = 0.0
        self._asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._ask(perf_counter())

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._reader.feed(data)
        except BadResponse:
            self._close()
            return
        now = perf_counter()
        for answer in answers:
            self._answered(answer, now)

    def connection_lost(self, exc: Exception | None) -> None:
        if (answer := self._reader.at_end()) is not None:
            self._run.latencies.append(perf_counter() - self._asked)
            self._run.statuses[answer.status] += 1
        elif self._asking:
            self._run.failed += 1
        if not self.ended.done():
            self.ended.set_result(None)

    def _answered(self, answer: Answer, now: float) -> None:
        self._run.latencies.append(now - self._asked)
        self._run.statuses[answer.status] += 1
        self._ask(now)

    def _ask(self, now: float) -> None:
        request = self._run.next_request(now)
        self._asking = request is not None
        if request is None:
            self._run.over = True
            self._close()
        elif self._transport is not None:
            self._asked = now
            self._transport.write(request)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def load(
    url: str,
    *,
    connections: int = 64,
    seconds: float = 5.0,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> LoadReport:
    """Send the same request over and over for ``seconds``; what is under way then is waited for, and counted.

    An answer that is not whole 10 s after that is given up.
    """
    request = encode_request(url, method, headers, body)
    deadline = perf_counter() + seconds
    return await _run(url, lambda now: request if now < deadline else None, connections, seconds + 10.0)


async def replay(
    url: str, requests: Iterable[bytes], *, connections: int = 16, within: float = 120.0
) -> LoadReport:
    """Send each of ``requests`` (see `encode_request`) once, to the host and port of ``url``, then end.

    A request whose connection is lost counts as failed and is not sent again. It ends after ``within`` s.
    """
    waiting = iter(requests)
    return await _run(url, lambda now: next(waiting, None), connections, within)


async def _run(
    url: str, next_request: Callable[[float], bytes | None], connections: int, within: float
) -> LoadReport:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    run = _Run(next_request)
    started = perf_counter()
    tasks = [asyncio.create_task(_keep_connected(run, host, port)) for _ in range(connections)]
    asyncio.get_running_loop().call_later(max(0.0, within - 10.0), _end, run)
    await asyncio.wait(tasks, timeout=within)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return _report(run, perf_counter() - started)


def _end(run: _Run) -> None:
    run.over = True  # also where nobody ever connected


async def _keep_connected(run: _Run, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    while not run.over:
        try:
            transport, connection = await loop.create_connection(partial(_Connection, run), host, port)
        except OSError:
            run.failed += 1
            await asyncio.sleep(_RECONNECT_SECONDS)
            continue
        try:
            await connection.ended
        finally:
            transport.abort()


def _report(run: _Run, seconds: float) -> LoadReport:
    times = sorted(run.latencies)
    return LoadReport(
        requests=len(times),
        failed=run.failed,
        seconds=seconds,
        rate=len(times) / seconds,
        p50_ms=quantile(times, 0.5) * 1e3,
        p99_ms=quantile(times, 0.99) * 1e3,
        max_ms=times[-1] * 1e3 if times else 0.0,
        statuses=dict(run.statuses),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed (nearest rank); 0 of none."""
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)] if ordered else 0.0


def run_load(url: str, **options: object) -> LoadReport:
    """`load` in an event loop of its own, on uvloop where that is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(load(url, **options))  # type: ignore[arg-type]  # checked by load itself


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a `LoadReport` as JSON."""
    parser = argparse.ArgumentParser(prog="metergate.testing.load", description="load on an HTTP server")
    parser.add_argument("url")
    parser.add_argument("-c", "--connections", type=int, default=64)
    parser.add_argument("-d", "--duration", type=float, default=5.0, help="seconds")
    parser.add_argument("-X", "--method", default="GET")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--body", default="")
    chosen = parser.parse_args(arguments)
    headers = {name.strip(): value.strip() for name, _, value in (h.partition(":") for h in chosen.header)}
    report = run_load(
        chosen.url,
        connections=chosen.connections,
        seconds=chosen.duration,
        method=chosen.method,
        headers=headers,
        body=chosen.body.encode(),
    )
    sys.stdout.write(msgspec.json.encode(asdict(report)).decode() + "\n")


if __name__ == "__main__":
    main()
