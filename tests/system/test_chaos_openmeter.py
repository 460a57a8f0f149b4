"""What the embedded OpenMeter acknowledged is there exactly once, whatever happened to it.

The real server under ingest from eight clients, which repeat themselves and each other, while its entitlements are asked.
It is killed (SIGKILL) at random moments, also while it starts, stopped in an orderly way, put on a full disk and asked to
share its folder. Then its event list, its meters and its entitlements must agree with each other and with what the
clients know. The seed is printed; METERGATE_CHAOS_SEED repeats its choices (not their timing).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metergate.embedded.store.folder import LOG
from metergate.testing.events import every_event
from metergate.testing.processes import Server, free_port, metergate_command, openmeter_server
from metergate.testing.producers import Key, Producers, Shipments

pytestmark = pytest.mark.no_cover
CLIENTS = 8
SUBJECTS = tuple(f"subject-{number}" for number in range(5))
CUSTOMERS = {
    "two": SUBJECTS[:2],
    "one": SUBJECTS[2:3],
    "other": SUBJECTS[3:4],
}  # and one subject that is nobody's
TYPES = ("call", "job", "unmetered")
METERS = {
    "calls": {"eventType": "call", "aggregation": "COUNT"},
    "call_units": {"eventType": "call", "aggregation": "SUM", "valueProperty": "$.units"},
    "call_keys": {"eventType": "call", "aggregation": "UNIQUE_COUNT", "valueProperty": "$.key"},
    "job_units": {"eventType": "job", "aggregation": "SUM", "valueProperty": "$.units"},
}
PAST = 7200
"""Seconds that events lie back at most, in whose hours entitlements count already."""
DECK = ("kill", "kill", "kill", "kill while starting", "kill", "stop", "second process", "full disk")
"""Five kills, and one of everything else."""
SHORT_DECK = ("kill", "kill", "kill while starting", "stop", "full disk")
ENOUGH = 100
"""Events acknowledged between two cards, at least."""
MOST_SECONDS = 30.0
ACKNOWLEDGES_TOO_SOON = """
import asyncio
from metergate.embedded.store.events import EventStore

store, tasks = EventStore.append, []

async def later(*arguments):
    await asyncio.sleep(0.15)
    await store(*arguments)

async def append(*arguments):
    tasks.append(asyncio.create_task(later(*arguments)))

EventStore.append = append
"""
FORGETS_WHAT_IT_HAS = """
from metergate.embedded.store.keys import SeenKeys

SeenKeys.add = lambda *_: False
"""


@dataclass(frozen=True)
class Plan:
    """How long and how hard. ``broken`` is Python that is run in the server before it starts."""

    seed: int
    decks: int = 1
    deck: tuple[str, ...] = DECK
    pause: float = 0.2
    broken: str = ""


@dataclass
class Stage:
    """The server, and all that was found wrong with it."""

    openmeter: Server
    data: Path
    since: datetime
    complaints: list[str] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    def start(self) -> None:
        started = time.monotonic()
        self.openmeter.start()
        self.starts.append(time.monotonic() - started)


@contextmanager
def _stage(tmp_path: Path, plan: Plan) -> Iterator[Stage]:
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(seconds=PAST + 3600)
    data = tmp_path / "openmeter"
    openmeter = openmeter_server(data, _configuration(since))
    if plan.broken:
        code = f"{plan.broken}\nfrom metergate.cli import main\nmain()"
        openmeter.command = [sys.executable, "-c", code, *openmeter.command[1:]]
    try:
        yield Stage(openmeter, data, since)
    finally:
        openmeter.kill()


def _configuration(since: datetime) -> dict[str, object]:
    period = {"interval": "YEAR", "anchor": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
    entitlement = {
        "type": "metered",
        "usagePeriod": period,
        "measureUsageFrom": "CURRENT_PERIOD_START",
        "issueAfterReset": 1_000_000_000_000,
    }
    return {
        "meters": [{"slug": slug, **meter} for slug, meter in METERS.items()],
        "features": [{"key": slug.replace("_", "-"), "name": slug, "meterSlug": slug} for slug in METERS],
        "customers": [
            {"key": key, "name": key, "usageAttribution": {"subjectKeys": list(subjects)}}
            for key, subjects in CUSTOMERS.items()
        ],
        "entitlements": [
            {"customer": key, "featureKey": slug.replace("_", "-"), **entitlement}
            for key in CUSTOMERS
            for slug in METERS
        ],
    }


def _get(url: str, path: str) -> Any:
    """What it answers; raises OSError, HTTPException where it is away, AssertionError on another answer than 200."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, f"GET {path} answered {answer.status}: {body[:300]!r}"
        return json.loads(body)
    finally:
        connection.close()


def _usage(url: str, customer: str, slug: str) -> float:
    path = f"/api/v1/customers/{customer}/entitlements/{slug.replace('_', '-')}/value"
    return float(_get(url, path)["usage"])


class Monkey:
    """Does to the server what a deck of cards says, in which every kind comes up."""

    def __init__(self, stage: Stage, plan: Plan, shipments: Shipments) -> None:
        self._stage = stage
        self._plan = plan
        self._shipments = shipments
        self._random = random.Random(plan.seed)  # noqa: S311  # chance, not secrecy
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        deck = self._deck()
        for number, card in enumerate(deck, 1):
            await self._wait_for_acknowledgements()
            await asyncio.sleep(self._random.uniform(0.0, 0.5))
            await asyncio.to_thread(self._do, card)
            self.done[card] += 1
            if number % 20 == 0:
                print(f"  {number} of {len(deck)} done, {len(self._shipments.sent)} events sent", flush=True)
        await self._wait_for_acknowledgements()

    async def _wait_for_acknowledgements(self) -> None:
        """Until there are some more than now, so that what happens next happens under ingest."""
        enough = len(self._shipments.acknowledged) + ENOUGH
        deadline = time.monotonic() + MOST_SECONDS
        while len(self._shipments.acknowledged) < enough:
            if time.monotonic() > deadline:
                self._stage.complaints.append(f"hardly anything acknowledged within {MOST_SECONDS:g} s")
                return
            await asyncio.sleep(0.005)

    def _deck(self) -> list[str]:
        """As many of each kind, in another order each time."""
        cards: list[str] = []
        for _ in range(self._plan.decks):
            cards += self._random.sample(self._plan.deck, len(self._plan.deck))
        # only Linux lets one process limit the files of another
        return [card for card in cards if card != "full disk" or hasattr(resource, "prlimit")]

    def _do(self, card: str) -> None:
        if card == "stop":
            if status := self._stage.openmeter.stop():
                self._stage.complaints.append(f"an orderly stop ended with status {status}")
        elif card == "second process":
            self._try_a_second_process()
            return
        elif card == "full disk":
            if not self._fill_the_disk():
                return
        elif card == "kill while starting":
            self._stage.openmeter.kill()
            self._stage.openmeter.launch()
            time.sleep(self._random.uniform(0.0, 0.8))
            self._stage.openmeter.kill()
        else:
            self._stage.openmeter.kill()
        self._stage.start()

    def _try_a_second_process(self) -> None:
        command = metergate_command("openmeter", "--data", self._stage.data, "--port", str(free_port()))
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        said = second.stdout + second.stderr
        if not second.returncode or f"in use by process {self._stage.openmeter.pid}" not in " ".join(
            said.split()
        ):
            self._stage.complaints.append(f"a second process ended with {second.returncode} and said {said}")

    def _fill_the_disk(self) -> bool:
        """Let no file grow until that was felt; then, by chance, there is space again, or it is killed (True)."""
        log = self._stage.data / LOG
        length = max(log.stat().st_size if log.exists() else 0, 65_536)
        pid, unlimited = self._stage.openmeter.pid, resource.RLIM_INFINITY
        before = self._shipments.statuses[503]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (length, unlimited))
        deadline = time.monotonic() + MOST_SECONDS
        while self._shipments.statuses[503] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._shipments.statuses[503] == before:
            self._stage.complaints.append("the disk was full, and nobody was answered 503")
        if self._random.random() < 0.5:
            self._stage.openmeter.kill()
            return True
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        return False


class Asker:
    """Asks for usage all the time: never less than what was acknowledged before, never more than what was sent."""

    def __init__(self, stage: Stage, shipments: Shipments, seed: int) -> None:
        self._stage = stage
        self._shipments = shipments
        self._random = random.Random(seed)  # noqa: S311  # chance, not secrecy
        self.answers = 0

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            customer = self._random.choice(list(CUSTOMERS))
            event_type = self._random.choice(("call", "job"))
            least = self._sum(self._shipments.acknowledged_units, event_type, customer)
            try:
                usage = await asyncio.to_thread(
                    _usage, self._stage.openmeter.url, customer, f"{event_type}_units"
                )
            except (OSError, http.client.HTTPException):
                await asyncio.sleep(0.02)
                continue
            except AssertionError as failure:
                if "answered 503" not in str(failure):
                    self._stage.complaints.append(str(failure))
                continue
            self.answers += 1
            most = self._sum(self._shipments.sent_units, event_type, customer)
            if not least <= usage <= most:
                self._stage.complaints.append(
                    f"{customer} was said to have used {usage:g} of {event_type}, not {least} to {most}"
                )
            await asyncio.sleep(self._random.uniform(0.0, 0.05))

    @staticmethod
    def _sum(units: Counter[tuple[str, str]], event_type: str, customer: str) -> int:
        return sum(units[event_type, subject] for subject in CUSTOMERS[customer])


async def _let_it_happen(stage: Stage, plan: Plan) -> tuple[Shipments, Monkey, Asker]:
    producers = Producers(
        stage.openmeter.url,
        types=TYPES,
        subjects=SUBJECTS,
        past=PAST,
        concurrency=CLIENTS,
        pause=plan.pause,
        seed=plan.seed,
    )
    over = asyncio.Event()
    monkey = Monkey(stage, plan, producers.shipments)
    asker = Asker(stage, producers.shipments, plan.seed + 1)
    at_work = asyncio.gather(producers.run(over), asker.run(over))
    try:
        await monkey.run()
    finally:
        over.set()
        await at_work
    return producers.shipments, monkey, asker


def _listed(stage: Stage) -> dict[Key, dict[str, Any]]:
    """The events that it lists; one that is there more than once is complained of."""
    listed: dict[Key, dict[str, Any]] = {}
    doubled = []
    for event in every_event(stage.openmeter.url, f"{stage.since:%Y-%m-%dT%H:%M:%SZ}"):
        key = event["source"], event["id"]
        if key in listed:
            doubled.append(key)
        listed[key] = event
    if doubled:
        stage.complaints.append(f"{len(doubled)} events listed more than once: {doubled[:3]}")
    return listed


def _compare_with_sent(stage: Stage, shipments: Shipments, listed: dict[Key, dict[str, Any]]) -> None:
    if lost := shipments.acknowledged - listed.keys():
        stage.complaints.append(f"{len(lost)} events acknowledged and not there: {sorted(lost)[:3]}")
    if strange := listed.keys() - shipments.sent.keys():
        stage.complaints.append(f"{len(strange)} events that nobody sent: {sorted(strange)[:3]}")
    for key in listed.keys() & shipments.sent.keys():
        sent = shipments.sent[key].cloud_event()
        if listed[key] != {"time": listed[key]["time"], "datacontenttype": "application/json", **sent}:
            stage.complaints.append(f"not as it was sent first: {listed[key]}, sent {sent}")


def _measured(events: list[dict[str, Any]], meter: dict[str, str]) -> float:
    own = [event for event in events if event["type"] == meter["eventType"]]
    return sum(event["data"]["units"] for event in own) if meter["aggregation"] == "SUM" else len(own)


def _compare_with_measured(stage: Stage, listed: dict[Key, dict[str, Any]]) -> None:
    """Every meter by subject, all in one and by the hour, and every entitlement, from the events of the list."""
    url = stage.openmeter.url
    by_subject = {
        subject: [event for event in listed.values() if event["subject"] == subject] for subject in SUBJECTS
    }
    for slug, meter in METERS.items():
        expected = {subject: _measured(events, meter) for subject, events in by_subject.items()}
        for windows in ("", "&windowSize=HOUR"):
            found: Counter[str] = Counter()
            for row in _get(url, f"/api/v1/meters/{slug}/query?groupBy=subject{windows}")["data"]:
                found[row["subject"]] += row["value"]
            if found != Counter(expected):
                stage.complaints.append(f"{slug}{windows} is {dict(found)}, by the list it is {expected}")
        for customer, subjects in CUSTOMERS.items():
            used, due = _usage(url, customer, slug), sum(expected[subject] for subject in subjects)
            if used != due:
                stage.complaints.append(f"{customer} has used {used:g} of {slug}, by the list {due}")


def _run(stage: Stage, plan: Plan) -> str:
    """Let it all happen, complain of what is wrong, and say what happened."""
    print(f"\nchaos: METERGATE_CHAOS_SEED={plan.seed}", flush=True)
    stage.start()
    started = time.monotonic()
    shipments, monkey, asker = asyncio.run(_let_it_happen(stage, plan))
    happening = time.monotonic() - started
    listed = _listed(stage)
    _compare_with_sent(stage, shipments, listed)
    _compare_with_measured(stage, listed)
    if status := stage.openmeter.stop():
        stage.complaints.append(f"the last stop ended with status {status}")
    stage.start()
    _compare_with_measured(stage, listed)  # from what is on disk
    assert shipments.acknowledged, f"nothing was acknowledged: {shipments.statuses}"
    assert asker.answers, "no entitlement was asked"
    return (
        f"  {happening:.1f} s of {dict(monkey.done)}, {time.monotonic() - started - happening:.1f} s of comparing\n"
        f"  {shipments.requests} requests, answers {dict(shipments.statuses)}, failures {dict(shipments.failures)}\n"
        f"  {len(shipments.sent)} events sent, {shipments.repeats} repeats, "
        f"{len(shipments.acknowledged)} acknowledged, {len(listed)} there; {asker.answers} entitlements asked\n"
        f"  {len(stage.starts)} starts, {max(stage.starts):.2f} s at most, "
        f"{sorted(stage.starts)[len(stage.starts) // 2]:.2f} s median"
    )


def _seed() -> int:
    return int(os.environ.get("METERGATE_CHAOS_SEED") or random.SystemRandom().randrange(2**32))


def _judge(tmp_path: Path, plan: Plan) -> None:
    with _stage(tmp_path, plan) as stage:
        summary = _run(stage, plan)
        print(summary, flush=True)
        told = [*stage.complaints[:20], summary, f"seed {plan.seed}", stage.openmeter.output()[-3000:]]
        assert not stage.complaints, "\n".join(told)


@pytest.mark.timeout(240)
def test_what_was_acknowledged_counts_exactly_once_through_three_kills(tmp_path: Path) -> None:
    _judge(tmp_path, Plan(_seed(), deck=SHORT_DECK))


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_counts_exactly_once_through_a_hundred_kills(tmp_path: Path) -> None:
    _judge(tmp_path, Plan(_seed(), decks=20))


def test_an_openmeter_that_loses_and_doubles_is_found_out(tmp_path: Path) -> None:
    plan = Plan(seed=1, deck=("kill", "kill"), pause=0.05, broken=ACKNOWLEDGES_TOO_SOON + FORGETS_WHAT_IT_HAS)
    with _stage(tmp_path, plan) as stage:
        _run(stage, plan)
        complaints = "\n".join(stage.complaints)
    assert "events acknowledged and not there" in complaints
    assert "events listed more than once" in complaints
    assert "was said to have used" in complaints
