"""What a caller saw complete is in OpenMeter exactly once, whatever was killed and however OpenMeter misbehaved.

Real processes under load: a gateway with two workers, an embedded OpenMeter, a proxy between them that refuses, breaks
off and stores by halves. Workers, the whole gateway and OpenMeter are killed (SIGKILL) at random moments. The seed is
printed; METERGATE_CHAOS_SEED repeats its choices (not their timing).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metergate.testing.callers import Call, Callers, Ledger
from metergate.testing.events import count_by, events_with, meter_total
from metergate.testing.faults import Fault, FaultProxy
from metergate.testing.processes import Server, gateway_server, openmeter_server, upstream_server
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    custom_policy,
    forward,
    openmeter_policy,
    route,
    write_project,
)
from metergate.testing.verdict import discrepancies, expected_ids, read_journal

pytestmark = pytest.mark.no_cover
METERS = ("api-request", "data-out")
"""Set at run time, with the request id in their data: so OpenMeter can say for each request what it holds."""
CONSTANT = "call"
"""Of the configuration."""
TAGGING = """
from metergate.runtime import OpenMeterInboundPolicy


def default(request, context, options, policy_name):
    data = {"request": context.request_id}
    OpenMeterInboundPolicy.set_meters(context, [{"type": name, "data": data} for name in options["types"]])
    return request
"""
FEATURE = "api-access"
WORKERS = 2
SAMPLE = 30
CALLS = (
    Call("/bytes?n=20", weight=4),
    Call("/bytes?n=0"),
    Call("/bytes?n=300000"),
    Call("/stream?chunks=4&size=50&delay=0.003&length=1", weight=2),
    Call("/stream?chunks=4&size=50&delay=0.003"),
    Call("/sse?events=3&delay=0.002"),
    Call("/echo", "POST", b"x" * 2000),
    Call("/status/404", weight=0.5, status=404),
)
FAULTS: tuple[dict[Fault, float], ...] = (
    {},
    {Fault.ERROR: 0.6},
    {Fault.THROTTLE: 0.4},
    {Fault.CUT_BEFORE: 0.6},
    {Fault.CUT_AFTER: 0.6},
    {Fault.STORE_HALF: 0.6},
    dict.fromkeys(Fault, 0.15),
)
BLOCK = ("worker", "worker", "worker", "gateway", "openmeter")


@dataclass(frozen=True)
class Plan:
    """How long and how hard."""

    kills: int
    seed: int
    caller_pause: float = 0.01
    long_absence: float = 0.0  # seconds without OpenMeter, once, in the middle
    drain_seconds: float = 60.0


@dataclass
class Stage:
    """All that runs: made by `stage`, which also ends it."""

    openmeter: Server
    proxy: FaultProxy
    upstream: Server
    gateway: Server
    key: str
    journal: Path
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        openmeter = openmeter_server(tmp_path / "openmeter", _openmeter_configuration())
        stack.callback(openmeter.kill)
        openmeter.start()
        journal = tmp_path / "journal"
        upstream = upstream_server(tmp_path / "upstream.log", journal=journal)
        stack.callback(upstream.kill)
        upstream.start()
        proxy = stack.enter_context(FaultProxy(openmeter.url))
        project = _write_project(tmp_path / "project", upstream.url, proxy.url)
        gateway = gateway_server(project, workers=WORKERS, spool=tmp_path / "spool")
        stack.callback(gateway.kill)
        key = create_key(project, "acme")
        gateway.start()
        yield Stage(openmeter, proxy, upstream, gateway, key, journal)


def _openmeter_configuration() -> dict[str, object]:
    meters = [_meter(name, groupBy={"request": "$.request"}) for name in METERS]
    quota = {"type": "metered", "usagePeriod": {"interval": "MONTH"}, "issueAfterReset": 1_000_000_000}
    return {
        "meters": [*meters, _meter(CONSTANT)],
        "features": [{"key": FEATURE, "name": FEATURE, "meterSlug": CONSTANT}],
        "customers": [{"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["acme"]}}],
        "entitlements": [{"customer": "acme", "featureKey": FEATURE, **quota}],
    }


def _meter(event_type: str, **more: object) -> dict[str, object]:
    return {"slug": _slug(event_type), "eventType": event_type, "aggregation": "COUNT", **more}


def _slug(event_type: str) -> str:
    return event_type.replace("-", "_")


def _write_project(folder: Path, upstream: str, openmeter: str) -> Path:
    metered = openmeter_policy(
        apiUrl=openmeter,
        meter={"type": CONSTANT},
        requiredEntitlements=[FEATURE],
        entitlementCheck={"onError": "allow", "timeoutSeconds": 0.5},
    )
    tagging = custom_policy("tagging", "tagging", {"types": METERS})
    behind = route(forward(upstream), inbound=["keys", "metered", "tagging"])
    policies = [api_key_policy(), metered, tagging]
    write_project(folder, {"/(.*)": {"get": behind, "post": behind}}, policies)
    (folder / "modules").mkdir()
    (folder / "modules" / "tagging.py").write_text(TAGGING)
    return folder


class Monkey:
    """Kills by a deck in which every kind comes up, and changes what OpenMeter does, until all kills are done."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage = stage
        self._plan = plan
        self._random = random.Random(plan.seed)  # noqa: S311  # chance, not secrecy
        self._weather = random.Random(plan.seed + 1)  # noqa: S311  # of its own: it is drawn from beside the kills
        self.killed: Counter[str] = Counter()

    async def run(self) -> None:
        over = asyncio.Event()
        faults = asyncio.create_task(self._misbehave(over))
        try:
            for number, kind in enumerate(self._deck(), 1):
                await asyncio.sleep(self._random.uniform(0.1, 0.8))
                await asyncio.to_thread(self._kill, kind)
                self.killed[kind] += 1
                self._say_progress(number)
        finally:
            over.set()
            await faults

    def _deck(self) -> Iterator[str]:
        for start in range(0, self._plan.kills, len(BLOCK)):
            cards = list(BLOCK)
            self._random.shuffle(cards)
            yield from cards[: self._plan.kills - start]

    def _kill(self, kind: str) -> None:
        if kind == "worker":
            self._kill_worker()
            return
        server = self._stage.gateway if kind == "gateway" else self._stage.openmeter
        server.kill()
        time.sleep(self._random.uniform(0.0, 0.3))
        server.start()

    def _kill_worker(self) -> None:
        deadline = time.monotonic() + 30
        while self._stage.gateway.kill_worker(self._random.randrange(WORKERS)) is None:
            if time.monotonic() > deadline or not self._stage.gateway.running:
                self._stage.complaints.append("the gateway had no worker left, and none came back")
                self._stage.gateway.restart()
                return
            time.sleep(0.05)

    async def _misbehave(self, over: asyncio.Event) -> None:
        absence = self._plan.long_absence
        for faults in self._weathers():
            if over.is_set():
                break
            if absence and sum(self.killed.values()) >= self._plan.kills // 2:
                await self._stay_away(absence)
                absence = 0.0
            elif faults is None:
                await self._stay_away(self._weather.uniform(0.2, 1.5))
            else:
                self._stage.proxy.misbehave(faults)
                await asyncio.sleep(self._weather.uniform(0.2, 1.0))
        self._stage.proxy.behave()

    def _weathers(self) -> Iterator[dict[Fault, float] | None]:
        """Every kind in turn, in another order each time; None is an OpenMeter that is away."""
        while True:
            cards = [*FAULTS, None]
            self._weather.shuffle(cards)
            yield from cards

    async def _stay_away(self, seconds: float) -> None:
        await asyncio.to_thread(self._stage.proxy.go_away)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._stage.proxy.come_back)

    def _say_progress(self, number: int) -> None:
        if number % 10 == 0:
            print(f"  {number} of {self._plan.kills} kills: {dict(self.killed)}", flush=True)


async def _let_it_happen(stage: Stage, plan: Plan) -> tuple[Ledger, Monkey]:
    callers = Callers(
        stage.gateway.url,
        CALLS,
        headers={"Authorization": f"Bearer {stage.key}"},
        pause=plan.caller_pause,
        seed=plan.seed,
    )
    over = asyncio.Event()
    monkey = Monkey(stage, plan)
    calling = asyncio.create_task(callers.run(over))
    try:
        await monkey.run()
        await asyncio.sleep(0.5)  # some calls after the last kill too
    finally:
        over.set()
        await calling
    return callers.ledger, monkey


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _drain(stage: Stage, expected: int, seconds: float) -> None:
    """Wait until OpenMeter has as many events as there must be; then stop the gateway, which sends the rest."""
    if not _wait(lambda: _counted(stage) >= expected, seconds):
        stage.complaints.append(f"not drained within {seconds:g} s")
    if not _wait(lambda: len(stage.gateway.workers()) == WORKERS, 30):
        stage.complaints.append(f"{len(stage.gateway.workers())} workers in the end, not {WORKERS}")
    if status := stage.gateway.stop(timeout=60):
        stage.complaints.append(f"the gateway ended with status {status}")


def _counted(stage: Stage) -> float:
    return sum(meter_total(stage.openmeter.url, _slug(name)) for name in METERS)


def _listed(stage: Stage) -> Counter[str]:
    """The ids that the events with a request id must have, and how often they are there."""
    return Counter(
        {
            f"{request_id}-{name}": count
            for name in METERS
            for request_id, count in count_by(stage.openmeter.url, _slug(name), "request").items()
        }
    )


def _judge(stage: Stage, ledger: Ledger, listed: Counter[str]) -> None:
    with stage.journal.open() as lines:
        reached = read_journal(lines)
    stage.complaints += discrepancies(ledger, listed, reached, METERS)
    least, most = len(expected_ids(ledger, [CONSTANT])), len(reached)
    if not least <= (total := meter_total(stage.openmeter.url, _slug(CONSTANT))) <= most:
        stage.complaints.append(f"{total:g} events of the configured meter, not {least} to {most}")
    for seen in [seen for seen in ledger.complete.values() if seen.status == 200][-SAMPLE:]:
        ids = sorted(event["id"] for event in events_with(stage.openmeter.url, seen.request_id))
        if ids != sorted(f"{seen.request_id}-{name}" for name in (*METERS, CONSTANT)):
            stage.complaints.append(f"request {seen.request_id} has the events {ids}")


def _run(stage: Stage, plan: Plan) -> None:
    print(f"\nchaos: {plan.kills} kills, METERGATE_CHAOS_SEED={plan.seed}", flush=True)
    started = time.monotonic()
    ledger, monkey = asyncio.run(_let_it_happen(stage, plan))
    killing = time.monotonic() - started
    expected = expected_ids(ledger, METERS)
    _drain(stage, len(expected), plan.drain_seconds)
    listed = _listed(stage)
    _judge(stage, ledger, listed)
    summary = (
        f"  {killing:.1f} s of kills {dict(monkey.killed)}, {time.monotonic() - started - killing:.1f} s of counting\n"
        f"  {ledger.sent} requests, {len(ledger.complete)} seen complete, {len(ledger.in_doubt)} in doubt, "
        f"failures {dict(ledger.failures)}\n"
        f"  {listed.total()} events, {len(listed.keys() - expected)} of them of answers in doubt\n"
        f"  OpenMeter: {stage.proxy.statistics()}"
    )
    print(summary, flush=True)
    assert ledger.complete, f"nothing was answered\n{stage.gateway.output()[-3000:]}"
    assert not stage.complaints, "\n".join(
        [*stage.complaints, summary, f"seed {plan.seed}", stage.gateway.output()[-3000:]]
    )


def _seed() -> int:
    return int(os.environ.get("METERGATE_CHAOS_SEED") or random.SystemRandom().randrange(2**32))


@pytest.mark.timeout(240)
def test_what_was_seen_complete_is_in_openmeter_exactly_once_through_five_kills(stage: Stage) -> None:
    _run(stage, Plan(kills=len(BLOCK), seed=_seed()))


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_what_was_seen_complete_is_in_openmeter_exactly_once_through_two_hundred_kills(stage: Stage) -> None:
    _run(stage, Plan(kills=200, seed=_seed(), caller_pause=0.03, long_absence=60.0, drain_seconds=600.0))
