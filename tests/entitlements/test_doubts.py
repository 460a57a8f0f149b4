"""What an answer may hold already and counts here as well: who waits for that, how long, and who does not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from metergate.entitlements import Entitlements
from metergate.entitlements.counted import Counted
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Hold, UsedUp
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.errors import OpenMeterOutage
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue, MeteredEntitlement, SubjectAccess
from metergate.policy.model import EntitlementCheck

CATALOG = Catalog((Feature("calls", "1", "m"),), (Meter("m", "2", "call", "COUNT"),))
CALLS = ("calls",)
NOON = 1_800_000_000.0


class OpenMeter:
    """Sees at once what is recorded: of ``quota`` units what is left. Says itself how soon it sees events."""

    def __init__(self, quota, visibility_seconds):
        self.quota, self.visibility_seconds = quota, visibility_seconds
        self.recorded = self.reads = 0
        self.soft = False
        self.rise = ()

    async def access(self, subject):
        self.reads += 1
        left = max(self.quota - self.recorded, 0)
        return SubjectAccess("found", (FeatureValue("calls", left > 0, float(left), float(self.recorded)),))

    async def query(self, subjects, features):
        return None

    def count_requests(self, on_request):
        pass

    async def catalog(self):
        return CATALOG

    async def entitlement(self, subject, feature):
        if isinstance(self.soft, Exception):
            raise self.soft
        return MeteredEntitlement(is_soft_limit=self.soft)

    async def rises(self, subject, feature):
        return self.rise

    async def close(self):
        pass


class Gateway:
    """Checks with the count; what it records is acknowledged where ``acknowledges``."""

    def __init__(self, openmeter, time):
        self.openmeter, self.acknowledges = openmeter, True
        watermark = Watermark(lambda: [(openmeter.recorded, openmeter.recorded * self.acknowledges)])
        self.ledger = Ledger(Folder(None, most_places=8), watermark, time, visibility=5)
        self.ledger.tend(left_behind=False)
        self.local = LocalUsage(self.ledger)
        self.local.watch(CALLS)
        self.counted = Counted(openmeter, self.local, clock=time, wall_clock=lambda: NOON + time())
        self.checks = Entitlements(openmeter, clock=time)
        self.checks.count_by(self.counted)

    def record(self, number=1):
        for _ in range(number):
            self.local.spend((SimpleNamespace(type="call", subject="acme", data=None),))
            self.openmeter.recorded += 1

    async def settle(self):
        """Until any answer holds all that was recorded."""
        for _ in range(100):
            self.ledger.tend(left_behind=False)
            await asyncio.sleep(0.1)

    async def ask(self, check):
        return self.checks.decide("acme", CALLS, check) or await self.checks.ask("acme", CALLS, check)


@pytest.fixture
def gateway(virtual):
    """``gateway(scenario, quota, visibility_seconds)`` gives a scenario a gateway, and time that goes by at once."""

    def run(scenario, quota=3, visibility_seconds=0.5):
        async def whole(time):
            made = Gateway(OpenMeter(quota, visibility_seconds), time)
            try:
                return await scenario(made, time)
            finally:
                await made.checks.close()
                made.counted.close()

        return virtual(whole)

    return run


def test_doubts_that_settle_in_time_let_the_request_in_after_a_second_read(gateway):
    """Of three units two are used, which the answer may hold or not: so one is left, or none."""

    async def scenario(gateway, time):
        check = EntitlementCheck(ttl_seconds=1, timeout_seconds=3)
        (await gateway.ask(check)).hold.release()
        gateway.record(2)
        await asyncio.sleep(6)
        reads = gateway.openmeter.reads
        decision = await gateway.ask(check)
        return decision.allowed, decision.reason, gateway.openmeter.reads - reads

    assert gateway(scenario) == (True, "granted", 2)


def test_what_cannot_settle_ends_the_wait_at_the_deadline_with_a_denial(gateway):
    async def scenario(gateway, time):
        check = EntitlementCheck(ttl_seconds=1, timeout_seconds=3)
        (await gateway.ask(check)).hold.release()
        gateway.acknowledges = False
        gateway.record(2)
        await asyncio.sleep(6)
        before = time()
        decision = await gateway.ask(check)
        return decision.allowed, decision.reason, time() - before

    assert gateway(scenario) == (False, "exhausted", pytest.approx(3, abs=0.01))


def test_where_doubts_would_outlast_the_deadline_nobody_waits_for_them(gateway):
    async def scenario(gateway, time):
        check = EntitlementCheck(ttl_seconds=1, timeout_seconds=3)
        (await gateway.ask(check)).hold.release()
        gateway.acknowledges = False
        gateway.record(2)
        await asyncio.sleep(6)
        before = time()
        return (await gateway.ask(check)).allowed, time() - before

    assert gateway(scenario, visibility_seconds=3.0) == (False, 0)


def test_nobody_waits_for_doubts_in_the_last_minute_of_a_period(gateway):
    """What the answer says holds only later: no event that may be in it decides about now."""

    async def scenario(gateway, time):
        check = EntitlementCheck(ttl_seconds=1, timeout_seconds=3)
        openmeter = gateway.openmeter
        (await gateway.ask(check)).hold.release()
        gateway.record(3)
        await gateway.settle()
        openmeter.quota, openmeter.rise = 6, (NOON + time() + 30,)
        snapshot = await gateway.counted.read("acme", time(), openmeter.access)
        (ceiling,) = snapshot.ceilings
        used_up = gateway.counted.take(snapshot, CALLS, check)
        before = time()
        decision = await gateway.ask(check)
        return ceiling.early, used_up, decision.allowed, time() - before

    assert gateway(scenario) == (True, UsedUp("calls", 0.0), False, 0)


# --- what is asked beside the way of a request


def near_the_limit(gateway):
    """Something is left, and less than a tenth: whether the limit is soft is asked, and nobody waits for it."""
    gateway.openmeter.recorded = 38


def test_a_read_that_fails_near_the_limit_disturbs_no_decision(gateway, caplog):
    async def scenario(gateway, time):
        near_the_limit(gateway)
        gateway.openmeter.soft = OpenMeterOutage("away")
        check = EntitlementCheck()
        decisions = [await gateway.ask(check) for _ in range(4)]
        await asyncio.sleep(0)
        for decision in decisions:
            if decision.hold is not None:
                decision.hold.release()
        return [decision.reason for decision in decisions]

    assert gateway(scenario, quota=40) == ["granted", "granted", "exhausted", "exhausted"]
    assert caplog.messages == []


def test_what_is_being_asked_is_given_up_when_the_count_is_closed_and_nobody_complains(gateway, caplog):
    """A task that nobody awaits must neither be destroyed while it is pending nor fail unheard."""
    ended = []

    async def scenario(gateway, time):
        near_the_limit(gateway)

        async def never(subject, feature):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(feature)

        gateway.openmeter.entitlement = never
        decision = await gateway.ask(EntitlementCheck())
        assert isinstance(decision.hold, Hold), "nobody waits for it"
        decision.hold.release()
        await asyncio.sleep(0)
        assert ended == []
        gateway.counted.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert ended == ["calls"]

    gateway(scenario, quota=40)
    assert caplog.messages == []
