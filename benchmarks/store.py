"""The embedded OpenMeter with many events in its store: starting after a crash, queries, values under ingest."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import urlopen
from uuid import uuid4

import duckdb
import msgspec

from benchmarks.machine import OTHERS, cpu_seconds, on_core
from benchmarks.peers import plain_databases, took_ms
from benchmarks.report import Figure, Section, middle
from metergate.embedded.store import events as event_tables
from metergate.embedded.store.database import Database
from metergate.testing.load import LoadReport, encode_request, replay
from metergate.testing.processes import HOST, Server, metergate_command, openmeter_server

SUBJECTS = 1_000
ENTITLED = 200
BATCH = 100
QUIET_SECONDS = 6.0
"""It looks for new events every two seconds, and on a busy machine it comes to that later."""
CONFIG: dict[str, Any] = {
    "meters": [
        {"slug": "tokens", "eventType": "llm-usage", "aggregation": "SUM", "valueProperty": "$.tokens"},
        {"slug": "calls", "eventType": "llm-usage", "aggregation": "COUNT"},
        {
            "slug": "amounts",
            "eventType": "llm-usage",
            "aggregation": "UNIQUE_COUNT",
            "valueProperty": "$.tokens",
        },
    ],
    "features": [{"key": "tokens", "name": "tokens", "meterSlug": "tokens"}],
    "customers": [
        {
            "key": f"customer-{number}",
            "name": "x",
            "usageAttribution": {"subjectKeys": [f"customer-{number}"]},
        }
        for number in range(ENTITLED)
    ],
    "entitlements": [
        {
            "customer": f"customer-{number}",
            "featureKey": "tokens",
            "type": "metered",
            "usagePeriod": {"interval": "MONTH", "anchor": "2026-01-01T00:00:00Z"},
            "measureUsageFrom": "CURRENT_PERIOD_START",
            "issueAfterReset": 1e9,
        }
        for number in range(ENTITLED)
    ],
}
FILL = """
    INSERT INTO events SELECT i, hash(i, $1), 'api-gateway', uuid()::VARCHAR || '-llm-usage', 'llm-usage',
        'customer-' || (hash(i, 5) % $2), date_trunc('second', moment),
        '{"model":"' || (CASE WHEN hash(i, 3) % 2 = 0 THEN 'gpt' ELSE 'claude' END) || '","tokens":'
            || (hash(i, 9) % 500) || ',"route":"/v1/chat/completions"}',
        moment, moment
    FROM (SELECT i, $3::TIMESTAMP + to_microseconds((i * $4)::BIGINT) AS moment FROM range($5, $6) numbers(i))
"""


def fill(folder: Path, events: int) -> None:
    """A folder with so many events of the last 30 days, in the order of their times."""
    database = Database.open(folder, event_tables.SCHEMA)
    start = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=30)
    step = 30 * 86_400e6 / events
    for first in range(0, events, 500_000):
        values = [events, SUBJECTS, start, step, first, min(first + 500_000, events)]
        database.submit(lambda cursor, values=values: cursor.execute(FILL, values) and None).result()  # type: ignore[misc]
    database.close()


def storing(folder: Path, events: int, asks: int) -> Section:
    """With so many events in the store; values are asked for ``asks`` times."""
    fill(folder / "data", events)
    size = sum(file.stat().st_size for file in (folder / "data").iterdir())
    beside = _peers(folder, events) if events <= 1_000_000 else []
    server = openmeter_server(folder / "data", CONFIG)
    server.start()  # makes what the configuration asks for
    try:
        _replay(server, _batches(server, 1_000))
        server.kill()
        began = time.perf_counter()
        server.start()
        started = time.perf_counter() - began
        began = time.perf_counter()
        _replay(server, _batches(server, 1))
        first_event = time.perf_counter() - began
        figures = [
            Figure("start after a kill", started, "s", "3 or less for 10,000,000"),
            Figure("  its first event stored after", first_event, "s"),
            Figure("bytes an event, on disk", size / events, "bytes"),
            Figure("quiet after its background work of", _settle(server), "s"),
            *_queries(server),
            *_pages(server),
            *_values(server, asks),
            *_copies(server, folder, events),
            Figure("memory at most", _peak_mb(server), "MB"),
            *beside,
        ]
    finally:
        server.kill()
    notes = (
        f"{SUBJECTS} subjects, {ENTITLED} of them with a monthly entitlement; the server on both cores",
        "all events of the last 30 days: within those of the de-duplication",
    )
    return Section(f"embedded OpenMeter with {events:,} events in its store", tuple(figures), notes)


def _settle(server: Server) -> float:
    """How long it took until it had nothing to do any more: it loads keys, and keeps what meters measured by the hour."""
    began = quiet_since = time.perf_counter()
    while time.perf_counter() - quiet_since < QUIET_SECONDS and quiet_since - began < 900:
        before = cpu_seconds(server.pid)
        time.sleep(1.0)
        if cpu_seconds(server.pid) - before >= 0.05:
            quiet_since = time.perf_counter()
    return quiet_since - began


def _queries(server: Server) -> list[Figure]:
    end = datetime.now(UTC).replace(microsecond=0)
    month = {"from": _text(end - timedelta(days=31)), "to": _text(end)}
    hour, day = {"windowSize": "HOUR"}, {"windowSize": "DAY"}
    lately = {
        "from": _text(end - timedelta(days=2)),
        "to": _text(end - timedelta(days=1)),
        "windowSize": "MINUTE",
    }
    berlin, kolkata = {"windowTimeZone": "Europe/Berlin"}, {"windowTimeZone": "Asia/Kolkata"}
    questions: dict[str, dict[str, Any]] = {
        "a month by hour": month | hour,
        "a month by day of Berlin, by subject": month | day | berlin | {"groupBy": "subject"},
        "a month of one subject by hour": month | hour | {"subject": "customer-7"},
        "a month by minute": month | {"windowSize": "MINUTE"},
        "a day of one subject by minute": lately | {"subject": "customer-7"},
        "a month by day of Kolkata": month | day | kolkata,
        "a month of one subject by day of Kolkata": month | day | kolkata | {"subject": "customer-7"},
        "a month by day, UNIQUE_COUNT": month | day | {"meter": "amounts"},
        "a month of one subject, UNIQUE_COUNT": month | {"subject": "customer-7", "meter": "amounts"},
    }
    figures = []
    for name, question in questions.items():
        target = f"/api/v1/meters/{question.pop('meter', 'tokens')}/query?" + urlencode(question)
        goal = "150 or less for 10,000,000" if name == "a month by hour" else ""
        figures.append(Figure(name, middle([_get_ms(server, target) for _ in range(5)]), "ms", goal))
    return figures


def _pages(server: Server) -> list[Figure]:
    """Pages of a hundred events; the deep one lies after a thousand others."""
    deep = "/api/v2/events?limit=100"
    for _ in range(10):
        deep = f"/api/v2/events?limit=100&cursor={quote(_get(server, deep)['nextCursor'])}"
    pages = {
        "newest events, version 1": "/api/v1/events?limit=100",
        "  of one subject": "/api/v1/events?limit=100&subject=customer-7",
        "newest events, version 2": "/api/v2/events?limit=100",
        "  after a thousand": deep,
        "newest events, version 3": "/api/v3/openmeter/events?page[size]=100",
    }
    return [
        Figure(name, middle([_get_ms(server, target) for _ in range(5)]), "ms")
        for name, target in pages.items()
    ]


def _peers(folder: Path, events: int) -> list[Figure]:
    """What plain databases take for the same events and questions."""
    figures = []
    for plain in plain_databases(folder / "plain"):
        with duckdb.connect(str(folder / "data" / "openmeter.duckdb"), read_only=True) as connection:
            connection.execute(
                "SELECT source, id, type, subject, strftime(time, '%Y-%m-%dT%H:%M:%SZ'), data FROM events"
            )
            while lines := connection.fetchmany(10_000):
                plain.store(lines)
        end = datetime.now(UTC)
        start = end - timedelta(days=31)
        hours = middle([took_ms(lambda: plain.by_hour(start, end)) for _ in range(3)])  # noqa: B023
        used = [took_ms(lambda: plain.used(f"customer-{number}", start)) for number in range(50)]  # noqa: B023
        figures += [
            Figure(f"{plain.name}: a month by hour", hours, "ms"),
            Figure("  a month of one subject, as a value needs it", middle(used), "ms"),
        ]
        plain.close()
    return figures


def _values(server: Server, asks: int) -> list[Figure]:
    value = "/api/v1/subjects/customer-{}/entitlements/tokens/value"
    first = _replay(server, _asking(server, value, ENTITLED), connections=1)
    figures = [
        Figure("a value, asked for the first time: p50", first.p50_ms, "ms"),
        Figure("  p99", first.p99_ms, "ms"),
    ]
    for name, path in (("a value", value), ("an access", "/api/v1/customers/customer-{}/access")):
        alone = _replay(server, _asking(server, path, asks), connections=1)
        beside, rate = _beside_ingest(server, _asking(server, path, asks))
        figures += [
            Figure(f"{name}: p50", alone.p50_ms, "ms", "1 or less"),
            Figure("  p99", alone.p99_ms, "ms", "10 or less"),
            Figure(f"  beside ingest of {rate:,.0f} events/s: p50", beside.p50_ms, "ms"),
            Figure("    p99", beside.p99_ms, "ms", "10 or less"),
        ]
    return figures


def _copies(server: Server, folder: Path, events: int) -> list[Figure]:
    """A backup while it runs; and where they are not too many, all events out into a file and into a new folder."""
    seconds = _run("backup", folder / "copy.tar", "--url", server.url)
    figures = [Figure("backup of the running server", seconds, "s")]
    if events <= 1_000_000:
        (folder / "new").mkdir()
        file = folder / "events.jsonl"
        exported = _run("export", file, "--url", server.url)
        imported = _run("import", file, "--data", folder / "new")
        figures += [
            Figure("export as JSON lines", events / exported, "events/s"),
            Figure("import of them", events / imported, "events/s"),
        ]
    return figures


def _run(*arguments: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run(metergate_command("openmeter", *arguments), check=True, capture_output=True)
    return time.perf_counter() - began


def _beside_ingest(server: Server, requests: Sequence[bytes]) -> tuple[LoadReport, float]:
    """The answers' times while another connection sends batches, and how many events it got rid of a second."""
    with on_core(OTHERS):
        return asyncio.run(_ask_beside_ingest(server, requests))


async def _ask_beside_ingest(server: Server, requests: Sequence[bytes]) -> tuple[LoadReport, float]:
    run = str(uuid4())
    batches = _batches(server, 20, run)
    over, sent = False, 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while not over:
            yield batches[sent % len(batches)].replace(run.encode(), f"{run[:18]}{sent:018}".encode())
            sent += 1

    began = time.perf_counter()
    ingest = asyncio.ensure_future(replay(server.url, endless(), connections=1))
    report = await replay(server.url, requests, connections=1)
    seconds, over = time.perf_counter() - began, True
    await ingest
    return report, sent * BATCH / seconds


def _replay(server: Server, requests: Sequence[bytes], connections: int = 8) -> LoadReport:
    report = asyncio.run(replay(server.url, requests, connections=connections))
    if report.failed or set(report.statuses) - {200, 204}:
        raise RuntimeError(f"not all was answered well: {report}")
    return report


def _asking(server: Server, path: str, asks: int) -> list[bytes]:
    return [encode_request(server.url + path.format(number % ENTITLED)) for number in range(asks)]


def _batches(server: Server, count: int, run: str | None = None) -> list[bytes]:
    """So many requests of events of this moment."""
    run = run or str(uuid4())
    return [
        encode_request(
            f"{server.url}/api/v1/events",
            "POST",
            {"Content-Type": "application/cloudevents-batch+json"},
            msgspec.json.encode([_event(run, number * BATCH + index) for index in range(BATCH)]),
        )
        for number in range(count)
    ]


def _event(run: str, number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{run}-{number}",
        "source": "api-gateway",
        "type": "llm-usage",
        "subject": f"customer-{number % SUBJECTS}",
        "data": {"model": "gpt", "tokens": number % 500, "route": "/v1/chat/completions"},
    }


def _get(server: Server, target: str) -> Any:
    with urlopen(server.url + target, timeout=60) as answer:
        return msgspec.json.decode(answer.read())


def _get_ms(server: Server, target: str) -> float:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    with contextlib.closing(connection):
        connection.connect()
        started = time.perf_counter()
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{target} was answered with {body[:300]!r}")
        return (time.perf_counter() - started) * 1e3


def _peak_mb(server: Server) -> float:
    """The most memory it had at once; 0 where /proc does not tell."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{server.pid}/status").read_text("ascii")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) / 1000
    return 0.0


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
