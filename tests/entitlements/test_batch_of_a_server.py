"""Answers confirmed many at a time by the embedded OpenMeter, over HTTP."""

import asyncio
import urllib.request
from datetime import UTC, datetime

import msgspec

from metergate.entitlements import Entitlements
from metergate.entitlements.counted import Counted
from metergate.entitlements.decision import GRANTED
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.access import AccessClient
from metergate.policy.model import EntitlementCheck
from metergate.testing.processes import openmeter_server

API = ("api",)
CHECK = EntitlementCheck(ttl_seconds=5, max_stale_seconds=9999, timeout_seconds=20)
SUBJECTS = [f"customer-{number}" for number in range(20)]


def configuration(**more):
    entitlement = {"featureKey": "api", "type": "metered", "usagePeriod": {"interval": "MONTH"}}
    return {
        "meters": [{"slug": "requests", "aggregation": "COUNT", "eventType": "request"}],
        "features": [{"key": "api", "name": "API", "meterSlug": "requests"}],
        "customers": [
            {"key": key, "name": key, "usageAttribution": {"subjectKeys": [key]}}
            for key in (*SUBJECTS, "poor", *more)
        ],
        "entitlements": [{**entitlement, "customer": key, "issueAfterReset": 50} for key in SUBJECTS]
        + [{**entitlement, "customer": "poor"}]
        + [{**entitlement, "customer": key, "issueAfterReset": units} for key, units in more.items()],
    }


def grant(url):
    """Top up who has nothing."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    request = urllib.request.Request(  # noqa: S310  # our own server
        f"{url}/api/v2/customers/poor/entitlements/api/grants",
        msgspec.json.encode({"amount": 5, "priority": 1, "effectiveAt": now}),
        {"content-type": "application/json"},
    )
    urllib.request.urlopen(request).close()  # noqa: S310  # as above


async def until(condition, clock):
    """Let the clock go, which gives the budget tokens, until it holds."""
    async with asyncio.timeout(30):
        while not condition():
            clock.advance(0.01)
            await asyncio.sleep(0.002)


async def press(checks, clock, number):
    """Let all answers grow old and use up the budget, so that all wait to be renewed."""
    clock.advance(20)
    strangers = [asyncio.ensure_future(checks.ask(f"nobody-{number}-{n}", API, CHECK)) for n in range(9)]
    await asyncio.sleep(0)
    decisions = [checks.decide(subject, API, CHECK) for subject in (*SUBJECTS, "poor")]
    assert [decision.reason for decision in decisions] == ["stale"] * len(SUBJECTS) + ["exhausted"]
    return strangers


def test_many_old_answers_are_renewed_by_one_request_and_a_top_up_is_found_by_it(tmp_path, clock):
    async def scenario(url):
        checks = Entitlements(AccessClient(url, "key"), clock=clock)
        for subject in (*SUBJECTS, "poor"):
            await checks.ask(subject, API, CHECK)
            clock.advance(1)
        strangers = await press(checks, clock, 1)
        await until(lambda: checks.statistics().confirmed == len(SUBJECTS) + 1, clock)
        assert checks.decide("poor", API, CHECK).reason == "exhausted"
        await until(lambda: all(stranger.done() for stranger in strangers), clock)
        asked = checks.statistics().asked
        await asyncio.to_thread(grant, url)
        strangers = await press(checks, clock, 2)
        await until(lambda: checks.statistics().confirmed == 2 * len(SUBJECTS) + 1, clock)
        await until(lambda: checks.decide("poor", API, CHECK) is GRANTED, clock)
        await until(lambda: all(stranger.done() for stranger in strangers), clock)
        statistics = checks.statistics()
        await checks.close()
        return statistics, statistics.asked - asked

    with openmeter_server(tmp_path / "data", configuration()) as server:
        statistics, asked = asyncio.run(scenario(server.url))
    assert statistics.batches == 2
    assert asked == 9 + 1, "the nine strangers and the one whose access has changed"
    assert not statistics.failing


def test_of_many_new_subjects_each_is_known_at_once_and_none_is_let_in_twice_on_that(tmp_path, clock):
    """With the local count, by the embedded OpenMeter: who has one unit gets one request, however many come."""

    async def scenario(url):
        client = AccessClient(url, "key")
        checks = Entitlements(client, clock=clock)
        local = LocalUsage(
            Ledger(Folder(None, most_places=64), Watermark(lambda: [(1, 0)]), clock, visibility=5)
        )
        local.watch(API)
        checks.count_by(Counted(client, local, clock=clock))
        waiting = {subject: [asyncio.ensure_future(checks.ask(subject, API, CHECK))] for subject in SUBJECTS}
        waiting["last"] = [asyncio.ensure_future(checks.ask("last", API, CHECK)) for _ in range(8)]
        await until(lambda: all(each.done() for one in waiting.values() for each in one), clock)
        statistics = checks.statistics()
        await checks.close()
        return {
            subject: [each.result().reason for each in one] for subject, one in waiting.items()
        }, statistics

    with openmeter_server(tmp_path / "data", configuration(last=1)) as server:
        reasons, statistics = asyncio.run(scenario(server.url))
    assert sorted(reasons.pop("last")) == ["exhausted"] * 7 + ["granted"]
    assert list(reasons.values()) == [["granted"]] * len(SUBJECTS)
    assert (statistics.batches, statistics.failing) == (1, False)
    assert statistics.asked <= 5 + 1 + 1, (
        "those of the burst, the last, and one that asks whether a limit is soft"
    )
