"""The embedded OpenMeter taking events over HTTP, by batch size. Every batch is on disk before its 204."""

from __future__ import annotations

import asyncio
import http.client
import time
from pathlib import Path
from uuid import uuid4

import msgspec

from benchmarks.machine import MEASURED, OTHERS, cpu_seconds, on_core
from benchmarks.peers import Plain, plain_databases, store_all
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import start_measured
from metergate.testing.events import meter_total
from metergate.testing.load import LoadReport, encode_request, replay
from metergate.testing.processes import HOST, Server, openmeter_server

CONNECTIONS = 32
GOALS = {100: "40,000 or more"}
METERS = [
    {"slug": "tokens", "eventType": "llm-usage", "aggregation": "SUM", "valueProperty": "$.tokens"},
    {"slug": "calls", "eventType": "llm-usage", "aggregation": "COUNT"},
]


def ingesting(folder: Path, events: dict[int, int], rounds: int) -> Section:
    """``events`` says how many to send for each batch size."""
    server = openmeter_server(folder / "ingest", {"meters": METERS})
    start_measured(server)
    with on_core(MEASURED):
        plain = plain_databases(folder / "plain")
    beside: dict[tuple[str, int], list[tuple[float, float]]] = {}
    rates: dict[int, list[float]] = {size: [] for size in events}
    costs: dict[int, list[float]] = {size: [] for size in events}
    refused = 0
    try:
        for _ in range(rounds):
            for size, number in events.items():
                requests = _requests(server.url, size, number)
                before = cpu_seconds(server.pid)
                report = _replay(server.url, requests)
                rates[size].append(report.requests * size / report.seconds)
                costs[size].append((cpu_seconds(server.pid) - before) / (report.requests * size) * 1e6)
                refused += report.failed + report.requests - report.statuses.get(204, 0)
                for peer in plain:
                    beside.setdefault((peer.name, size), []).append(_peer(peer, requests, size))
        stored = int(meter_total(server.url, "calls"))
        queries = [_query_ms(server) for _ in range(4 * rounds)]
    finally:
        server.kill()
        for peer in plain:
            peer.close()
    figures: list[Figure] = []
    for size in events:
        figures.append(Figure(f"batches of {size}", middle(rates[size]), "events/s", GOALS.get(size, "")))
        figures.append(Figure("  CPU of the server", middle(costs[size]), "µs/event"))
        for peer in plain:
            rate, cost = (middle(values) for values in zip(*beside[peer.name, size], strict=True))
            figures += [
                Figure(f"  {peer.name}, no HTTP", rate, "events/s"),
                Figure("    CPU", cost, "µs/event"),
                Figure("    ours, of its rate", middle(rates[size]) / rate, ""),
            ]
    title = f"one month by hour, SUM of {stored:,} events"
    figures.append(Figure(title, middle(queries), "ms", "150 or less for 10,000,000"))
    notes = [f"{CONNECTIONS} connections; the server on a core of its own; medians of {rounds} rounds"]
    notes.append(
        "the plain databases: one thread, one commit for each batch, each event once, a tenth as many events"
    )
    if refused:
        notes.append(f"{refused} requests were not answered with 204")
    return Section("embedded OpenMeter over HTTP", tuple(figures), tuple(notes))


def _peer(peer: Plain, requests: list[bytes], size: int) -> tuple[float, float]:
    """Events a second and microseconds of CPU an event, of the first tenth of the same events."""
    bodies = [request.partition(b"\r\n\r\n")[2] for request in requests[: max(1, len(requests) // 10)]]
    with on_core(MEASURED):
        seconds, cpu = store_all(peer, bodies)
    return len(bodies) * size / seconds, cpu / (len(bodies) * size) * 1e6


def _replay(url: str, requests: list[bytes]) -> LoadReport:
    with on_core(OTHERS):
        return asyncio.run(replay(url, requests, connections=CONNECTIONS))


def _query_ms(server: Server) -> float:
    """How long the usage of a month by the hour takes to answer."""
    month = "from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&windowSize=HOUR"
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    try:
        connection.connect()
        started = time.perf_counter()
        connection.request("GET", f"/api/v1/meters/tokens/query?{month}")
        body = connection.getresponse().read()
        taken = (time.perf_counter() - started) * 1e3
    finally:
        connection.close()
    if b"windowStart" not in body:
        raise RuntimeError(f"the query was answered with {body[:300]!r}")
    return taken


def _requests(url: str, size: int, events: int) -> list[bytes]:
    """Requests of fresh events, each encoded before the clock runs."""
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    run = uuid4()
    requests: list[bytes] = []
    for first in range(0, events, size):
        batch = [_event(f"{run}-{number}", number) for number in range(first, first + size)]
        body = msgspec.json.encode(batch)
        requests.append(encode_request(f"{url}/api/v1/events", "POST", headers, body))
    return requests


def _event(name: str, number: int) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"{name}-llm-usage",
        "time": f"2026-01-{number % 31 + 1:02}T{number % 24:02}:{number % 60:02}:{number % 59:02}.123Z",
        "source": "api-gateway",
        "subject": f"customer-{number % 1000}",
        "type": "llm-usage",
        "data": {
            "model": ("gpt", "claude")[number % 2],
            "tokens": number % 500,
            "route": "/v1/chat/completions",
        },
    }
