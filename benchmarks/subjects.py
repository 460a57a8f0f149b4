"""Ten thousand subjects that all ask: how often OpenMeter is asked then, and what becomes of who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from benchmarks.limits import FEATURES, HELLO, METERS, MONTHLY, metrics, reads
from benchmarks.report import Figure, Section
from metergate.testing.load import LoadReport, encode_request, replay
from metergate.testing.processes import Server, gateway_server, openmeter_server
from metergate.testing.projects import custom_policy, openmeter_policy, route, write_project

SUBJECTS = 10_000
BUDGET = 25
CUSTOMERS = 100
"""Of a hundred subjects each: the embedded OpenMeter takes customers one by one, 15 ms of CPU each."""
CONNECTIONS = 512
WORKERS = 2
LOOK_SECONDS = 1.0
USER = """from metergate.runtime import User


def default(request, context, options, policy_name):
    return request.replace(user=User(request.headers["x-subject"]))
"""


@dataclass(frozen=True)
class Stretch:
    """Some time of asking: the answers, the reads of OpenMeter, and how many of those within any one second.

    ``waited``: decisions that waited for an answer and got none. ``decisions``: how many by reason.
    """

    report: LoadReport
    reads: int
    most_reads: float
    waited: int
    decisions: dict[str, int]

    @property
    def reads_per_second(self) -> float:
        return self.reads / self.report.seconds


def subjects(folder: Path, *, quick: bool) -> Section:
    """First when nothing is known of any of them, then when each has asked before."""
    number, seconds = (500, 4.0) if quick else (SUBJECTS, 40.0)
    figures: list[Figure] = []
    with serving(folder, number) as gateway:
        for name in ("at first", "then"):
            figures += _figures(name, ask_all(gateway, number, seconds))
    notes = (
        f"{number:,} subjects in turn over {CONNECTIONS:,} connections, {WORKERS} workers, as fast as it goes;",
        "at first: nothing was known of any subject; waited: for an answer in vain, the longest that a request may wait",
    )
    return Section("many subjects", tuple(figures), notes)


def ask_all(gateway: Server, number: int, seconds: float) -> Stretch:
    """Ask for so long, for each subject in turn."""
    return asyncio.run(_ask_all(gateway, number, seconds))


async def _ask_all(gateway: Server, number: int, seconds: float) -> Stretch:
    before, waited, decided = reads(gateway), _waited(gateway), _decisions(gateway)
    asking = asyncio.create_task(_ask(gateway, number, seconds))
    most = await asyncio.to_thread(_watch, gateway, asking)
    report = await asking
    after = _decisions(gateway)
    decisions = {reason: after[reason] - decided.get(reason, 0) for reason in after}
    return Stretch(report, reads(gateway) - before, most, _waited(gateway) - waited, decisions)


async def _ask(gateway: Server, number: int, seconds: float) -> LoadReport:
    url = f"{gateway.url}/v1"
    requests = cycle([encode_request(url, headers={"x-subject": f"user-{each}"}) for each in range(number)])
    deadline = time.monotonic() + seconds

    def until_then() -> Iterator[bytes]:
        while time.monotonic() < deadline:
            yield next(requests)

    return await replay(url, until_then(), connections=CONNECTIONS, within=seconds + 20.0)


def _watch(gateway: Server, asking: asyncio.Task[LoadReport]) -> float:
    """The most reads within a second or what it took to look again, by the second."""
    most, then, seen = 0.0, time.monotonic(), reads(gateway)
    while not asking.done():
        time.sleep(LOOK_SECONDS)
        now, known = time.monotonic(), reads(gateway)
        most, then, seen = max(most, (known - seen) / (now - then)), now, known
    return most


def _waited(gateway: Server) -> int:
    return int(sum(metrics(gateway, "metergate_entitlement_timeouts_total").values()))


def _decisions(gateway: Server) -> dict[str, int]:
    found = metrics(gateway, "metergate_entitlement_decisions_total")
    return {labels.rpartition('reason="')[2].rstrip('"}'): int(number) for labels, number in found.items()}


def _figures(name: str, stretch: Stretch) -> list[Figure]:
    report = stretch.report
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in stretch.decisions.items() if number)
    return [
        Figure(
            f"{name}: requests", report.rate, f"/s; p50 {report.p50_ms:.3g} ms, p99 {report.p99_ms:.4g} ms"
        ),
        Figure(f"{name}: reads of OpenMeter", stretch.reads_per_second, "/s", f"{BUDGET} or less"),
        Figure(f"{name}: the most of a second", stretch.most_reads, "/s"),
        Figure(f"{name}: waited", float(stretch.waited), f"of {report.requests:,}; {report.failed:,} failed"),
        Figure(f"{name}: decisions", float(sum(stretch.decisions.values())), reasons),
    ]


@contextmanager
def serving(folder: Path, number: int) -> Iterator[Server]:
    """A gateway that takes the user from a header, and an OpenMeter that knows so many of them."""
    folder.mkdir(parents=True, exist_ok=True)
    customers = {f"customer-{each}": range(each, number, CUSTOMERS) for each in range(CUSTOMERS)}
    configuration = {
        "meters": METERS,
        "features": FEATURES,
        "customers": [
            {
                "key": name,
                "name": name,
                "usageAttribution": {"subjectKeys": [f"user-{each}" for each in users]},
            }
            for name, users in customers.items()
        ],
        "entitlements": [
            {
                "customer": name,
                "featureKey": "calls",
                "type": "metered",
                "issueAfterReset": 1_000_000,
                "usagePeriod": MONTHLY,
            }
            for name in customers
        ],
    }
    openmeter = openmeter_server(folder / "openmeter", configuration, visibility_delay=2.0)
    openmeter.start_timeout = 300.0
    with openmeter:
        policy = openmeter_policy(
            apiUrl=openmeter.url,
            meter={"type": "call"},
            requiredEntitlements=["calls"],
            entitlementCheck={"maxReadsPerSecond": BUDGET},
        )
        module = {"export": "default", "module": "$import(./modules/hello)"}
        routes = {"/v1": {"get": route(module, inbound=["users", "metered"])}}
        project = write_project(folder / "project", routes, [custom_policy("users", "users"), policy])
        (project / "modules").mkdir(exist_ok=True)
        (project / "modules" / "hello.py").write_text(HELLO, encoding="utf-8")
        (project / "modules" / "users.py").write_text(USER, encoding="utf-8")
        with gateway_server(project, workers=WORKERS) as gateway:
            yield gateway
