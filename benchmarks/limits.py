"""How well a limit holds: the real gateway, an OpenMeter that sees events late, clients that do not stop asking.

What counts is not time but requests: those let in beyond the quota, and those denied although units were left when
OpenMeter had caught up with everything. The peers are this same gateway without its local count.
"""

from __future__ import annotations

import asyncio
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from metergate.testing.load import LoadReport, load
from metergate.testing.processes import Server, gateway_server, openmeter_server
from metergate.testing.projects import api_key_policy, create_key, openmeter_policy, route, write_project

METERS = [{"slug": "calls", "eventType": "call", "aggregation": "COUNT"}]
FEATURES = [{"key": "calls", "name": "Calls", "meterSlug": "calls"}]
HELLO = """async def default(request, context):
    return "hello"
"""
ALLOWED, DENIED = 200, 403
MONTHLY: Mapping[str, Any] = {"interval": "MONTH"}
LONGEST = 45.0
"""Seconds until everything is sent: after an outage the sender tries again half a minute later at the latest."""


@dataclass(frozen=True)
class Way:
    """A way to keep a limit: options of ``entitlementCheck``, and whether what was let in is counted locally."""

    name: str
    check: Mapping[str, Any]
    counted: bool


WAYS = (
    Way("a call per request", {"ttlSeconds": 0, "maxReadsPerSecond": 100_000}, counted=False),
    Way("an answer kept for 5 s", {"ttlSeconds": 5, "maxReadsPerSecond": 100_000}, counted=False),
    Way("with the local count", {}, counted=True),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a quota: ``let_in`` requests in all, ``left`` units that nobody got though they kept asking.

    ``reads`` are the HTTP requests that the gateway made to OpenMeter to know it.
    """

    quota: int
    let_in: int
    denied: int
    failed: int
    reads: int

    @property
    def beyond(self) -> int:
        """Requests let in beyond the quota."""
        return max(self.let_in - self.quota, 0)

    @property
    def left(self) -> int:
        """Units left at the end: denied although they were there."""
        return max(self.quota - self.let_in, 0)


def try_out(
    folder: Path, way: Way, *, quota: int, clients: int, workers: int, delay: float, seconds: float
) -> Outcome:
    """Ask with so many clients at once for so long, with a quota that is far from enough."""
    with limited_gateway(folder, way, quota=quota, workers=workers, delay=delay) as (gateway, key, _):
        report = asyncio.run(ask(gateway, key, clients, seconds))
        return outcome(report, quota, reads(gateway))


async def ask(gateway: Server, key: str, clients: int, seconds: float) -> LoadReport:
    """Clients that ask one after the other for so long, whatever the answer."""
    headers = {"authorization": f"Bearer {key}"}
    return await load(f"{gateway.url}/v1", connections=clients, seconds=seconds, headers=headers)


def outcome(report: LoadReport, quota: int, reads: int = 0) -> Outcome:
    """What became of a quota, by the answers."""
    statuses = report.statuses
    others = sum(number for status, number in statuses.items() if status not in (ALLOWED, DENIED))
    return Outcome(quota, statuses.get(ALLOWED, 0), statuses.get(DENIED, 0), report.failed + others, reads)


def reads(gateway: Server) -> int:
    """HTTP requests that all workers made to OpenMeter to know what is left."""
    return int(sum(metrics(gateway, "metergate_entitlement_requests_total").values()))


def metrics(gateway: Server, name: str) -> dict[str, float]:
    """The samples of one metric, by their labels as the page has them."""
    lines = fetch(f"{gateway.url}/__metergate/metrics").decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if line.partition("{")[0] == name)
    return {labels: float(value) for labels, _, value in samples}


def catch_up(gateway: Server, delay: float) -> None:
    """Wait until everything is sent, also what a dead worker left behind, and OpenMeter sees it."""
    deadline, still = time.monotonic() + LONGEST, 0
    while still < 4 and time.monotonic() < deadline:
        still = 0 if sum(metrics(gateway, "metergate_events_pending").values()) else still + 1
        time.sleep(0.5)
    time.sleep(delay + 0.2)


@dataclass(frozen=True)
class Value:
    """What OpenMeter says of the entitlement itself, of the running period."""

    balance: float
    usage: float
    overage: float


def value(openmeter: Server, customer: str = "acme") -> Value:
    """What OpenMeter has of a customer's calls, as far as it sees events."""
    body = fetch(f"{openmeter.url}/api/v2/customers/{customer}/entitlements/calls/value")
    return msgspec.json.decode(body, type=Value)


def fetch(url: str, body: Mapping[str, Any] | None = None) -> bytes:
    """Ask one of our servers, with POST where there is a body. Raises OSError."""
    data = None if body is None else msgspec.json.encode(body)
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
        return content


@contextmanager
def limited_gateway(
    folder: Path,
    way: Way,
    *,
    quota: int,
    workers: int = 1,
    delay: float = 0.0,
    meter: Mapping[str, Any] | None = None,
    meters: Sequence[Mapping[str, Any]] = METERS,
    period: Mapping[str, Any] = MONTHLY,
    handler: str = HELLO,
) -> Iterator[tuple[Server, str, Server]]:
    """A gateway whose one client, with this key, has a quota of calls; and the OpenMeter behind.

    ``meter`` is what the policy records, ``meters`` what OpenMeter makes of it, ``handler`` a module that answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "meters": meters,
        "features": FEATURES,
        "customers": [{"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["acme"]}}],
        "entitlements": [
            {
                "customer": "acme",
                "featureKey": "calls",
                "type": "metered",
                "issueAfterReset": quota,
                "usagePeriod": period,
            }
        ],
    }
    with openmeter_server(folder / "openmeter", configuration, visibility_delay=delay) as openmeter:
        policy = openmeter_policy(
            apiUrl=openmeter.url,
            meter=meter or {"type": "call"},
            requiredEntitlements=["calls"],
            entitlementCheck=dict(way.check),
        )
        module = {"export": "default", "module": "$import(./modules/hello)"}
        routes = {"/v1": {"get": route(module, inbound=["keys", "metered"])}}
        project = write_project(folder / "project", routes, [api_key_policy(), policy])
        (project / "modules").mkdir(exist_ok=True)
        (project / "modules" / "hello.py").write_text(handler, encoding="utf-8")
        key = create_key(project, "acme")
        gateway = gateway_server(project, workers=workers)
        if not way.counted:
            gateway.command[:1] = [sys.executable, "-m", "benchmarks.uncounted"]
        with gateway:
            yield gateway, key, openmeter
