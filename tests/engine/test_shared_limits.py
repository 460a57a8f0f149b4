"""One limit for all that is let in on a host: by several policies of a route, with several keys of an OpenMeter."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from metergate.engine import Backends, Metering
from metergate.gateway.http import User
from metergate.testing import embedded_openmeter

QUOTA = 5
FEATURES = ["calls"]
NUMBERS = count()


@pytest.fixture(scope="module")
def openmeter():
    with embedded_openmeter() as server:
        server.call("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "call"})
        server.call("POST", "/api/v1/features", {"key": "calls", "name": "calls", "meterSlug": "calls"})
        yield server


@pytest.fixture
def acme(openmeter):
    """A customer with a limit."""
    key = f"acme-{next(NUMBERS)}"
    customer = {"name": key, "key": key, "usageAttribution": {"subjectKeys": [key]}}
    openmeter.call("POST", "/api/v1/customers", customer)
    entitlement = {"type": "metered", "featureKey": "calls", "issueAfterReset": QUOTA}
    period = {"usagePeriod": {"interval": "MONTH"}}
    openmeter.call("POST", f"/api/v2/customers/{key}/entitlements", entitlement | period)
    return key


async def let_in(engines, subject):
    """Whether one request is let in by policies that follow one another; what arms it if so."""
    metering = Metering(f"r{next(NUMBERS)}")
    for engine in engines:
        admission = engine.admit(User(subject), "", metering.holds)
        if asyncio.iscoroutine(admission):
            admission = await admission
        if admission.denial is not None:
            metering.release()
            return None
        metering.arm(engine, admission.subject, "", admission.hold)
    return metering


async def serve(engines, subject, times=QUOTA + 3):
    """How many of these requests are let in, one after the other."""
    number = 0
    for _ in range(times):
        metering = await let_in(engines, subject)
        if metering is not None:
            number += 1
            metering.settle(200)
    return number


def run(backends, scenario):
    async def whole():
        try:
            return await scenario()
        finally:
            await backends.stop()

    backends.start()
    return asyncio.run(whole())


def test_two_policies_that_need_one_feature_leave_no_unit_unused(bench, openmeter, acme):
    one = bench.engine("one", apiUrl=openmeter.url, requiredEntitlements=FEATURES)
    other = bench.engine("other", apiUrl=openmeter.url, requiredEntitlements=FEATURES, meter={"type": "else"})
    assert run(bench.backends, lambda: serve([one, other], acme)) == QUOTA


def test_requests_in_flight_hold_once_what_two_policies_need(bench, openmeter, acme):
    one = bench.engine("one", apiUrl=openmeter.url, requiredEntitlements=FEATURES)
    other = bench.engine("other", apiUrl=openmeter.url, requiredEntitlements=FEATURES)

    async def scenario():
        in_flight = [await let_in([one, other], acme) for _ in range(QUOTA + 2)]
        let = [metering for metering in in_flight if metering is not None]
        for metering in let:
            metering.release()
        return len(let), await let_in([one, other], acme) is not None

    assert run(bench.backends, scenario) == (QUOTA, True)


def test_of_two_reserves_the_larger_is_held(bench, openmeter, acme):
    check = [{"reserve": 2}, {"reserve": 4}]
    engines = [
        bench.engine(str(each), apiUrl=openmeter.url, requiredEntitlements=FEATURES, entitlementCheck=each)
        for each in check
    ]

    async def scenario():
        metering = await let_in(engines, acme)
        return await engines[0].balance(acme, "calls"), metering.release()

    assert run(bench.backends, scenario) == (QUOTA - 4, None)


@pytest.mark.parametrize("spelling", ["127.0.0.1", "localhost"])
def test_two_keys_of_one_openmeter_use_one_limit(bench, openmeter, acme, spelling):
    url = openmeter.url.replace("127.0.0.1", spelling)
    check = {"visibilitySeconds": 30}
    one = bench.engine("one", apiUrl=openmeter.url, requiredEntitlements=FEATURES, entitlementCheck=check)
    other = bench.engine(
        "other", apiUrl=url, apiKey="b", requiredEntitlements=FEATURES, entitlementCheck=check
    )

    async def scenario():
        return [await serve([engine], acme, 3) for engine in (one, other, one)]

    assert run(bench.backends, scenario) == [3, QUOTA - 3, 0]


def test_what_a_key_records_that_checks_nothing_is_counted_too(bench, openmeter, acme):
    checks = bench.engine("checks", apiUrl=openmeter.url, apiKey="a", requiredEntitlements=FEATURES)
    meters = bench.engine("meters", apiUrl=openmeter.url, apiKey="b", delivery={"maxDelayMs": 60_000})

    async def scenario():
        left = await checks.balance(acme, "calls")
        return left, await serve([meters], acme, 2), await checks.balance(acme, "calls")

    assert run(bench.backends, scenario) == (QUOTA, 2, QUOTA - 2)


def test_after_a_key_was_replaced_what_the_old_one_recorded_still_counts(bench, openmeter, acme):
    """The gateway stops before its events were sent, and starts with another key."""
    slow = {"maxDelayMs": 60_000}
    old = bench.engine("old", apiUrl=openmeter.url, requiredEntitlements=FEATURES, delivery=slow)
    assert run(bench.backends, lambda: serve([old], acme, 3)) == 3
    bench.backends.drain(0)
    assert len(bench.events()) == 3
    bench.backends = Backends(bench.folder)
    new = bench.engine(
        "new", apiUrl=openmeter.url, apiKey="new", requiredEntitlements=FEATURES, delivery=slow
    )
    assert run(bench.backends, lambda: serve([new], acme, QUOTA - 2)) == QUOTA - 3
