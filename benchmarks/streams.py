"""Time to the first byte of a stream, straight and through proxies, and whether its events arrive apart."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import OTHERS, on_core
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import granian, start_beside, start_measured
from metergate.testing.load import encode_request
from metergate.testing.processes import HOST, Server, gateway_server, upstream_server
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    forward,
    openmeter_policy,
    route,
    write_project,
)

GAP = 0.01
EVENTS = 5
PATH = f"/sse?events={EVENTS}&delay={GAP}"


@dataclass(slots=True)
class _Way:
    """One way to the stream. Times in milliseconds."""

    name: str
    server: Server
    headers: Mapping[str, str] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Ask once; note when the first byte of the body came, and how long after it the last."""
        headers = {"Connection": "close", **self.headers}
        started = time.perf_counter()
        with socket.create_connection((HOST, self.server.port), timeout=10) as connection:
            connection.sendall(encode_request(self.server.url + PATH, headers=headers))
            first = last = 0.0
            received = b""
            while data := connection.recv(65_536):
                last = time.perf_counter()
                received += data
                if not first and b"data:" in received:
                    first = last
        if b"[DONE]" not in received:
            raise RuntimeError(f"{self.name} did not stream to the end: {received[:300]!r}")
        self.first.append((first - started) * 1e3)
        self.spread.append((last - first) * 1e3)


def first_bytes(folder: Path, looks: int) -> Section:
    """Medians over ``looks`` streams for each way, one after the other in turn."""
    with ExitStack() as stack:
        behind = upstream_server(folder / "upstream.log")
        stack.callback(behind.kill)
        start_beside(behind)
        sink = granian("benchmarks.sink:application", folder)
        stack.callback(sink.kill)
        start_beside(sink)
        bare = granian("benchmarks.bare:rsgi", folder, env={"BENCH_UPSTREAM": behind.url})
        gateway, key = _metered_gateway(folder / "stream", behind, sink)
        for server in (bare, gateway):
            stack.callback(server.kill)
            start_measured(server)
        ways = [
            _Way("straight from the upstream", behind),
            _Way("through bare Granian + pyreqwest", bare),
            _Way("through the metering gateway", gateway, {"Authorization": f"Bearer {key}"}),
        ]
        with on_core(OTHERS):
            for _ in range(looks):
                for way in ways:
                    way.look()
    figures: list[Figure] = []
    for way in ways:
        figures.append(Figure(way.name, middle(way.first), "ms to the first event"))
        figures.append(Figure("  from first to last event", middle(way.spread), "ms"))
    figures.append(
        Figure("gateway - bare", middle(ways[2].first) - middle(ways[1].first), "ms", "none to measure")
    )
    note = f"new connection each; {EVENTS + 2} events {GAP * 1e3:g} ms apart; medians of {looks}"
    return Section("streams, time to first byte", tuple(figures), (note,))


def _metered_gateway(project: Path, behind: Server, openmeter: Server) -> tuple[Server, str]:
    metered = openmeter_policy(apiUrl=openmeter.url, meter={"type": "api-request"})
    routes = {"/(.*)": {"get": route(forward(behind.url), inbound=["keys", "metered"])}}
    write_project(project, routes, [api_key_policy(), metered])
    return gateway_server(project), create_key(project, "acme")
