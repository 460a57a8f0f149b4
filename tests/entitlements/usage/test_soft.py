"""Which limits are soft is asked once for all who want to know, and again after a while."""

from __future__ import annotations

import asyncio

import pytest

from metergate.entitlements.usage.soft import SOFT_SECONDS, UNKNOWN_SECONDS, SoftLimits
from metergate.errors import OpenMeterOutage
from metergate.openmeter.values import MeteredEntitlement


class EntitlementSource:
    def __init__(self):
        self.answer = MeteredEntitlement(is_soft_limit=True)
        self.asked = 0

    async def entitlement(self, subject, feature):
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def limits():
    return EntitlementSource()


def find_out(soft, times=1):
    async def scenario():
        return set(await asyncio.gather(*(soft.find_out("acme", "calls") for _ in range(times))))

    return asyncio.run(scenario())


@pytest.mark.parametrize("is_soft", [True, False])
def test_it_is_asked_once_for_many_and_again_after_a_while(limits, clock, is_soft):
    limits.answer = MeteredEntitlement(is_soft_limit=is_soft)
    soft = SoftLimits(limits, clock)
    assert soft.known("acme", "calls") is None
    assert (find_out(soft, 10), find_out(soft), limits.asked) == ({is_soft}, {is_soft}, 1)
    assert soft.known("acme", "calls") is is_soft
    clock.advance(SOFT_SECONDS)
    assert soft.known("acme", "calls") is None
    assert (find_out(soft), limits.asked) == ({is_soft}, 2)


def test_a_limit_that_openmeter_cannot_say_anything_of_is_hard_for_a_moment(limits, clock):
    limits.answer = OpenMeterOutage("away")
    soft = SoftLimits(limits, clock)
    assert (find_out(soft), find_out(soft), limits.asked) == ({False}, {False}, 1)
    limits.answer = MeteredEntitlement(is_soft_limit=True)
    clock.advance(UNKNOWN_SECONDS)
    assert find_out(soft) == {True}


def test_where_there_is_no_entitlement_the_limit_is_hard(limits, clock):
    limits.answer = None
    assert find_out(SoftLimits(limits, clock)) == {False}
