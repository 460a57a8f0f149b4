"""Answers of OpenMeter that one worker process was given serve the others of the host, and those that start later."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from itertools import count

import pytest

from metergate.engine import Backends, Engine, Metering
from metergate.gateway.http import User
from metergate.policy import read_options
from metergate.testing import embedded_openmeter

QUOTA = 5
NUMBERS = count()
SUBJECTS = [f"user-{number}" for number in range(12)]
NUMBERS = count()

WORKER = """
import asyncio, json, sys
from pathlib import Path
from metergate.engine import Backends, Engine
from metergate.gateway.http import User
from metergate.policy import read_options

async def main(spool, options, subjects):
    policy, _ = read_options(json.loads(options), name="other")
    backends = Backends(Path(spool))
    engine = Engine(policy, backends)
    backends.start()
    for subject in subjects:
        admission = engine.admit(User(subject), "", ())
        if asyncio.iscoroutine(admission):
            admission = await admission
        if admission.hold is not None:
            admission.hold.release()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await backends.stop()

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def openmeter():
    with embedded_openmeter() as server:
        server.call("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "call"})
        server.call("POST", "/api/v1/features", {"key": "calls", "name": "calls", "meterSlug": "calls"})
        entitlement = {"type": "metered", "featureKey": "calls", "issueAfterReset": QUOTA}
        period = {"usagePeriod": {"interval": "MONTH"}}
        for key, subjects in (("all", SUBJECTS), ("busy", ["busy"])):
            customer = {"name": key, "key": key, "usageAttribution": {"subjectKeys": subjects}}
            server.call("POST", "/api/v1/customers", customer)
            server.call("POST", f"/api/v2/customers/{key}/entitlements", entitlement | period)
        yield server


@pytest.fixture
def worker(openmeter, tmp_path):
    """``worker()``: a worker process of the gateway, as far as it decides. All of a test share a spool."""
    made = []

    def make(**more):
        made.append(_Worker(tmp_path / "spool", options(openmeter, **more)))
        return made[-1]

    yield make
    for each in made:
        each.backends.drain(0)


def options(openmeter, **more):
    check = {"ttlSeconds": 100, "maxReadsPerSecond": 1000}
    needed = {"apiUrl": openmeter.url, "apiKey": "key", "requiredEntitlements": ["calls"]}
    return {**needed, "meter": {"type": "call"}, "entitlementCheck": check, **more}


class _Worker:
    def __init__(self, spool, options):
        policy, findings = read_options(options, name="mine")
        assert policy is not None, findings
        self.backends = Backends(spool)
        self.engine = Engine(policy, self.backends)
        self.backends.start()

    async def let_in(self, *subjects):
        """Who of these is let in, by a decision without waiting or after it; nothing is held."""
        let_in = []
        for subject in subjects:
            admission = self.engine.admit(User(subject), "", ())
            if asyncio.iscoroutine(admission):
                admission = await admission
            if admission.hold is not None:
                admission.hold.release()
            let_in += [subject] * (admission.denial is None)
        return let_in

    @property
    def asked(self):
        (statistics,) = self.backends.statistics().entitlements.values()
        return statistics.asked


def run(scenario, *workers):
    async def whole():
        try:
            return await scenario
        finally:
            for worker in workers:
                await worker.backends.stop()

    return asyncio.run(whole())


def test_what_one_process_was_answered_serves_another_one_that_asks_nothing(worker, openmeter, tmp_path):
    command = [
        sys.executable,
        "-c",
        WORKER,
        str(tmp_path / "spool"),
        json.dumps(options(openmeter)),
        *SUBJECTS,
    ]

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        mine = worker()
        assert run(mine.let_in(*SUBJECTS), mine) == SUBJECTS
        assert mine.asked == 0
        other.communicate("\n", timeout=30)
    assert other.returncode == 0


def test_a_gateway_that_starts_again_knows_its_subjects(worker):
    first = worker()
    assert run(first.let_in(*SUBJECTS), first) == SUBJECTS
    assert first.asked == len(SUBJECTS)
    second = worker()
    assert run(second.let_in(*SUBJECTS), second) == SUBJECTS
    assert second.asked == 0


def test_with_another_key_answers_are_others(worker):
    first, second = worker(), worker(apiKey="another")
    assert run(first.let_in(*SUBJECTS), first) == SUBJECTS
    assert run(second.let_in(*SUBJECTS), second) == SUBJECTS
    assert second.asked == len(SUBJECTS)


def test_what_another_process_is_answered_later_is_heard_where_an_answer_is_missed(worker):
    async def scenario():
        await first.let_in("user-1")
        await second.let_in("user-1")
        await first.let_in(*SUBJECTS)
        return await second.let_in(*SUBJECTS)

    first, second = worker(), worker()
    assert run(scenario(), first, second) == SUBJECTS
    assert first.asked == len(SUBJECTS)
    assert second.asked == 1, "the first, by which it learnt how events count"


def test_what_has_expired_is_asked_for_again_also_after_a_restart(worker):
    async def scenario():
        await first.let_in(*SUBJECTS)
        first.backends.expire("user-3")

    first = worker()
    run(scenario(), first)
    second = worker()
    assert run(second.let_in(*SUBJECTS), second) == SUBJECTS
    assert second.asked == 1


def test_a_process_that_does_not_know_how_events_count_lets_in_nobody_on_the_answer_of_another(worker):
    async def serve(worker):
        metering = Metering(f"r{next(NUMBERS)}")
        admission = worker.engine.admit(User("busy"), "", metering.holds)
        if asyncio.iscoroutine(admission):
            admission = await admission
        if admission.denial is not None:
            return False
        metering.arm(worker.engine, admission.subject, "", admission.hold)
        metering.settle(200)
        return True

    async def scenario():
        return [await serve(first), *[await serve(second) for _ in range(2 * QUOTA)]]

    first, second = worker(), worker()
    assert sum(run(scenario(), first, second)) == QUOTA


def test_the_limit_is_kept_by_processes_that_share_answers(worker, openmeter):
    first, second = worker(), worker()

    async def scenario():
        held, let_in = [], 0
        for number in range(2 * QUOTA):
            admission = (first if number % 2 else second).engine.admit(User("user-1"), "", ())
            if asyncio.iscoroutine(admission):
                admission = await admission
            let_in += admission.denial is None
            held.append(admission.hold)
        for hold in held:
            if hold is not None:
                hold.release()
        return let_in

    assert run(scenario(), first, second) == QUOTA
