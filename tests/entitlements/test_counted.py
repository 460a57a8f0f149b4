"""Before anybody is denied on the local count alone it is asked whether the limit is soft."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from metergate.entitlements.counted import Counted
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Hold, UsedUp
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue, MeteredEntitlement, SubjectAccess
from metergate.policy.model import EntitlementCheck

CATALOG = Catalog((Feature("calls", "1", "m"),), (Meter("m", "2", "call", "COUNT"),))
CHECK = EntitlementCheck()


class OpenMeter:
    def __init__(self, *, soft, visibility_seconds=None):
        self.soft, self.visibility_seconds = soft, visibility_seconds

    async def catalog(self):
        return CATALOG

    async def entitlement(self, subject, feature):
        return MeteredEntitlement(is_soft_limit=self.soft)

    async def rises(self, subject, feature):
        return ()


@pytest.fixture
def used_up(clock):
    """``await used_up(openmeter)``: a count, and an answer that it leaves nothing of."""

    async def make(openmeter):
        watermark = Watermark(lambda: [(1, 1)])
        local = LocalUsage(Ledger(Folder(None, most_places=8), watermark, clock, visibility=5))
        local.watch(["calls"])
        counted = Counted(openmeter, local, clock=clock)

        async def answer(subject):
            local.spend((SimpleNamespace(type="call", subject="acme", data=None),))
            return SubjectAccess("found", (FeatureValue("calls", True, balance=1.0, usage=0.0),))

        return counted, await counted.read("acme", clock(), answer)

    return make


async def nothing_new():
    return None


def test_a_soft_limit_is_never_used_up_here(used_up):
    async def scenario():
        counted, snapshot = await used_up(OpenMeter(soft=True))
        assert isinstance(counted.take(snapshot, ("calls",), CHECK), UsedUp)
        sure = await counted.make_sure("acme", snapshot, ("calls",), CHECK, nothing_new)
        return counted.take(sure, ("calls",), CHECK)

    assert isinstance(asyncio.run(scenario()), Hold)


def test_a_hard_limit_stays_used_up_where_doubts_would_last_too_long(used_up):
    async def scenario():
        counted, snapshot = await used_up(OpenMeter(soft=False))
        assert not counted.is_sure("acme", snapshot, "calls", CHECK)
        sure = await counted.make_sure("acme", snapshot, ("calls",), CHECK, nothing_new)
        assert counted.is_sure("acme", snapshot, "calls", CHECK)
        return counted.take(sure, ("calls",), CHECK), counted.left(sure, "calls")

    assert asyncio.run(scenario()) == (UsedUp("calls", 0.0), 0.0)


def test_what_another_process_learns_while_one_is_asking_makes_the_other_features_be_asked_for_too(clock):
    """Both tell of the next period, in half a minute. That of the second shows only by an answer that comes meanwhile."""
    features = ("calls", "users")
    catalog = Catalog(
        (Feature("calls", "1", "m"), Feature("users", "2", "n")),
        (Meter("m", "3", "call", "COUNT"), Meter("n", "4", "call", "COUNT")),
    )
    ledger = Ledger(Folder(None, most_places=8), Watermark(lambda: [(1, 0)]), clock, visibility=5)
    asked_for = []

    class InTheLastMinute(OpenMeter):
        async def rises(self, subject, feature):
            asked_for.append(feature)
            ledger.folder.places.bounds.narrow(ledger.place("acme", "users").number, 16.0, 16.0)
            return (clock() + 30,)

    async def scenario():
        local = LocalUsage(ledger)
        local.watch(features)
        local.learn(catalog)
        counted = Counted(InTheLastMinute(soft=False), local, clock=clock, wall_clock=clock)
        local.spend([SimpleNamespace(type="call", subject="acme", data=None)] * 4)
        for balance in (16.0, 20.5):

            async def answer(subject, left=balance):
                calls = FeatureValue("calls", True, balance=left, usage=0.0)
                users = FeatureValue("users", True, balance=min(left, 20.0), usage=0.0)
                return SubjectAccess("found", (calls, users))

            snapshot = await counted.read("acme", clock(), answer)
        counted.close()
        return [(one.feature, one.amount, one.early) for one in snapshot.ceilings]

    assert asyncio.run(scenario()) == [("calls", 16.0, True), ("users", 16.0, True)]
    assert asked_for == list(features)
