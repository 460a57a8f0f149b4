"""What a middleware adds to a request of a bare Starlette route, without sockets: ours and others', in turns.

Each is in a process of its own, since some of them change what all of a process does. The processes are asked one after
the other, round by round, all on one core.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import instrumented
from benchmarks.machine import MEASURED, on_core
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import granian, start_beside

BARE = "bare Starlette route"
FULL = "Metergate: and an entitlement, cached"
MIDDLEWARES = {
    BARE: "bare",
    "Metergate: metering into the spool": "metered",
    FULL: "entitled",
    "BaseHTTPMiddleware that does nothing": "nothing",
    "Sentry, errors only": "sentry",
    "Sentry, tracing": "sentry_tracing",
    "OpenTelemetry ASGI, batch processor": "opentelemetry",
    "Apitally": "apitally",
    "Moesif": "moesif",
}
GOAL = "at most 20"
_HEADERS = {"host": "127.0.0.1", "user-agent": "bench", "accept": "*/*", "authorization": "Bearer key"}


def adding(folder: Path, calls: int, rounds: int) -> Section:
    """Microseconds of CPU that each adds to a request, and how many times what Metergate adds with all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    times: dict[str, list[float]] = {name: [] for name in MIDDLEWARES}
    with ExitStack() as stack:
        sink = granian("benchmarks.sink:application", folder)
        stack.callback(sink.kill)
        start_beside(sink)
        asked = {}
        with on_core(MEASURED):
            for name, which in MIDDLEWARES.items():
                asked[name] = _begin(stack, which, sink.url, folder / which)
        for turn in range(rounds + 1):
            for name, connection in asked.items():
                connection.send(calls)
                taken = connection.recv()
                if turn:  # the first warms
                    times[name].append(taken)
    return Section("middleware", _figures(times), (NOTE,))


NOTE = (
    "CPU time of the event loop's thread in one process each, no sockets, medians of the rounds; each sends from a thread of "
    "its own, which is not counted, to a server that keeps nothing; OpenTelemetry's exporter discards"
)


def _figures(times: dict[str, list[float]]) -> tuple[Figure, ...]:
    """The bare route, then what is added to it, then ratios."""
    whole = {name: middle(taken) for name, taken in times.items()}
    added = {name: taken - whole[BARE] for name, taken in whole.items() if name != BARE}
    figures = [Figure(BARE, whole[BARE], "µs/request")]
    figures += [
        Figure(f"+ {name}", taken, "µs/request", GOAL if name == FULL else "")
        for name, taken in added.items()
    ]
    figures += [
        Figure(f"{name}, of Metergate's", taken / added[FULL], "times")
        for name, taken in added.items()
        if not name.startswith("Metergate")
    ]
    return tuple(figures)


def _begin(stack: ExitStack, which: str, sink: str, folder: Path) -> Connection:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(which, sink, folder, theirs), daemon=True)
    process.start()
    stack.callback(ours.close)
    stack.callback(process.join)
    stack.callback(process.kill)
    return ours


def _serve(which: str, sink: str, folder: Path, asked: Connection) -> None:
    """A process of one application: gives the microseconds of as many calls as it is asked for."""
    logging.disable()  # Moesif has the root logger print
    app = getattr(instrumented, which)(sink, folder)
    with asyncio.Runner() as runner:
        while True:
            asked.send(runner.run(_call_us(app, asked.recv())))


async def _call_us(app: Any, calls: int) -> float:
    statuses: set[int] = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    began = time.thread_time()
    for _ in range(calls):
        await app(_scope(), receive, send)
    taken = (time.thread_time() - began) / calls * 1e6
    if statuses != {200}:
        raise RuntimeError(f"it was answered with {statuses}")
    return taken


def _scope() -> dict[str, Any]:
    """A new one for each request, as a server makes it: who is behind may change it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/hello/world",
        "raw_path": b"/hello/world",
        "root_path": "",
        "query_string": b"",
        "headers": _ENCODED,
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 9000),
        "user": "acme",
    }


_ENCODED = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
