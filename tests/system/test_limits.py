"""A limit holds: no request more than the quota is let in, and none is denied for long while something is left."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from benchmarks.limits import ALLOWED, DENIED, WAYS, Way, ask, limited_gateway, outcome
from benchmarks.tokens import MOST, SUFFICIENT, spend

from metergate.testing.processes import Server

_, _, OURS = WAYS
DENYING = Way("who was never asked for is denied", {"onError": "deny"}, counted=True)
QUOTA = 100


@pytest.fixture
def limited(tmp_path):
    """``with limited(quota, workers=…, delay=…) as (gateway, key, openmeter)``."""
    return lambda quota=QUOTA, way=OURS, **options: limited_gateway(tmp_path, way, quota=quota, **options)


def ask_until(call, gateway: Server, key: str, wanted: int, within: float = 15.0) -> Counter:
    """Ask one after the other until this status was answered; what was answered meanwhile."""
    answers: Counter = Counter()
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        answers[call(gateway.url, "/v1", key=key).status] += 1
        if answers[wanted]:
            return answers
    raise AssertionError(f"no {wanted} within {within} s: {answers}")


@pytest.mark.parametrize(("workers", "clients", "delay"), [(1, 32, 0.5), (2, 64, 1.0)])
def test_many_at_once_get_what_there_is_and_not_one_more(limited, workers, clients, delay):
    with limited(workers=workers, delay=delay) as (gateway, key, _):
        report = asyncio.run(ask(gateway, key, clients, delay + 1.5))
        result = outcome(report, QUOTA)
        assert (result.let_in, result.failed) == (QUOTA, 0)


def test_a_killed_worker_takes_nothing_of_the_count_with_it(limited):
    with limited(workers=2, delay=2.0) as (gateway, key, _):

        async def ask_and_kill():
            asking = asyncio.create_task(ask(gateway, key, 16, 3.0))
            for _ in range(3):
                await asyncio.sleep(0.6)
                await asyncio.to_thread(gateway.kill_worker)
            return await asking

        report = asyncio.run(ask_and_kill())
        assert report.statuses.get(ALLOWED, 0) <= QUOTA
        assert report.statuses.get(DENIED, 0) > 0, "it was asked for more than there is"


def test_an_outage_does_not_lift_a_limit(limited):
    with limited(quota=1000, way=DENYING, workers=2, delay=0.5) as (gateway, key, openmeter):
        let_in = asyncio.run(ask(gateway, key, 16, 0.1)).statuses[ALLOWED]
        openmeter.kill()
        for _ in range(40):
            report = asyncio.run(ask(gateway, key, 16, 0.5))
            let_in += report.statuses.get(ALLOWED, 0)
            if report.statuses.get(DENIED, 0):
                break
        else:
            raise AssertionError("it was never asked for more than there is")
        assert let_in <= 1000


def test_a_gateway_that_was_killed_in_an_outage_still_knows_what_it_let_in(limited, call):
    with limited(workers=1, delay=0.5) as (gateway, key, openmeter):
        answers = Counter(call(gateway.url, "/v1", key=key).status for _ in range(10))
        openmeter.kill()
        answers += Counter(call(gateway.url, "/v1", key=key).status for _ in range(40))
        assert answers == {ALLOWED: 50}
        gateway.kill()
        gateway.start()
        openmeter.restart()
        report = asyncio.run(ask(gateway, key, 16, 2.5))
        assert report.statuses.get(ALLOWED, 0) == QUOTA - 50


def test_a_top_up_is_seen_within_moments_by_who_is_denied(limited, call, issue_grant):
    with limited(quota=5, delay=0.2) as (gateway, key, openmeter):
        ask_until(call, gateway, key, DENIED)
        issue_grant(openmeter, "acme", "calls", 7)
        began = time.monotonic()
        ask_until(call, gateway, key, ALLOWED, within=10.0)
        print(f"seen after {time.monotonic() - began:.2f} s")
        report = asyncio.run(ask(gateway, key, 8, 2.0))
        assert report.statuses.get(ALLOWED, 0) == 6


def test_streams_at_once_use_no_token_beyond_what_there_is_where_each_reserves_enough(tmp_path):
    spent = spend(tmp_path, SUFFICIENT, workers=2, quota=20_000, streams=16, seconds=3.0, delay=0.5)
    assert (spent.beyond, spent.failed) == (0, 0)
    assert spent.streams >= 20_000 // MOST, "so many fit whatever each of them uses"
