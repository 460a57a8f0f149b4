"""The gateway's own work for one request, without sockets: the ASGI application called as a server calls it.

The steps that forward have a stand-in for the HTTP client. What the same stand-in costs behind the barest application
that forwards is the first figure: the rest is the gateway's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.bare import BareASGI
from benchmarks.machine import MEASURED, on_core
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import granian, start_beside
from benchmarks.sink import FEATURE
from benchmarks.standin import StandIn
from metergate.engine import Backends
from metergate.gateway.asgi import Gateway
from metergate.gateway.metrics import Metrics
from metergate.gateway.project import load_project
from metergate.gateway.server import assemble
from metergate.gateway.upstream import Upstream
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    forward,
    openmeter_policy,
    route,
    write_project,
)

MODULE = """
from metergate.runtime import Response


def answer(request, context):
    return Response(b'{"ok":true}', headers={"content-type": "application/json"})
"""
ANSWERING = {
    "nothing but an answer": [],
    "and an API key": ["keys"],
    "and metering into the spool": ["keys", "metered"],
    "and an entitlement, cached": ["keys", "entitled"],
}
FORWARDING = {
    "forwarding, no policy": [],
    "forwarding, all of them": ["keys", "entitled"],
}
BARE = "forwarding, bare ASGI"
STEPS = {**ANSWERING, **FORWARDING}
_HEADERS = {"host": "127.0.0.1", "user-agent": "bench", "accept": "*/*"}


def inside(folder: Path, calls: int, rounds: int) -> Section:
    """Each step holds the ones before it; microseconds of CPU a request."""
    with ExitStack() as stack:
        sink = granian("benchmarks.sink:application", folder)
        stack.callback(sink.kill)
        start_beside(sink)
        stack.enter_context(on_core(MEASURED))
        project = _write_project(folder / "inside", sink.url)
        key = create_key(project, "acme", {"plan": "gold"})
        times = asyncio.run(_measure(project, key, calls, rounds))
    figures = tuple(Figure(name, middle(taken), "µs/request") for name, taken in times.items())
    note = (
        "CPU time of the event loop's thread, no sockets; the sender works beside it; medians of the rounds"
    )
    return Section("inside the gateway", figures, (note,))


def _write_project(folder: Path, sink: str) -> Path:
    handler = {"export": "answer", "module": "$import(./modules/answering)"}
    options = {"apiUrl": sink, "apiKey": "local", "meter": {"type": "api-request", "data": {"count": 1}}}
    policies = [
        api_key_policy(),
        openmeter_policy("metered", **options),
        openmeter_policy("entitled", **options, requiredEntitlements=[FEATURE]),
    ]
    routes = {
        f"/{number}": {"get": route(handler if name in ANSWERING else forward(sink), inbound=STEPS[name])}
        for number, name in enumerate(STEPS)
    }
    write_project(folder, routes, policies)
    (folder / "modules").mkdir()
    (folder / "modules" / "answering.py").write_text(MODULE, "utf-8")
    return folder


async def _measure(project: Path, key: str, calls: int, rounds: int) -> dict[str, list[float]]:
    application = _application(project)
    to_application: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, to_application.get, told.put))
    to_application.put_nowait({"type": "lifespan.startup"})
    if (started := await told.get())["type"] != "lifespan.startup.complete":
        raise RuntimeError(f"the gateway did not start: {started}")
    bare = BareASGI()
    bare._client = StandIn()  # type: ignore[assignment]  # what it needs of a client
    steps = {BARE: (bare, "/"), **{name: (application, f"/{number}") for number, name in enumerate(STEPS)}}
    times: dict[str, list[float]] = {name: [] for name in steps}
    try:
        for turn in range(rounds + 1):
            for name, (called, path) in steps.items():
                taken = await _call_us(called, _scope(path, key), calls)
                if turn:  # the first warms
                    times[name].append(taken)
    finally:
        to_application.put_nowait({"type": "lifespan.shutdown"})
        await life
    return times


class _Standing(Upstream):
    """An upstream that answers at once."""

    def _build(self, follow_redirects: bool, streamed: bool) -> Any:
        return StandIn()


def _application(project: Path) -> Gateway:
    backends = Backends(project / "spool")
    upstream = _Standing()
    loaded, findings = load_project(project, backends=backends, upstream=upstream)
    if loaded is None:
        raise RuntimeError("\n".join(map(str, findings)))
    return assemble(loaded, backends, upstream, Metrics(None))


def _scope(path: str, key: str) -> dict[str, Any]:
    headers = {**_HEADERS, "authorization": f"Bearer {key}"}
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 9000),
    }


async def _call_us(application: Gateway | BareASGI, scope: dict[str, Any], calls: int) -> float:
    statuses: set[int] = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    clock: Callable[[], float] = time.thread_time
    began = clock()
    for _ in range(calls):
        await application(scope, receive, send)
    taken = (clock() - began) / calls * 1e6
    if statuses != {200}:
        raise RuntimeError(f"{scope['path']} was answered with {statuses}")
    return taken
