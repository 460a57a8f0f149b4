"""In the last minute of a period OpenMeter answers with the balance of the next. A limit holds all the same."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from metergate.entitlements.counted import Counted
from metergate.entitlements.usage.bounds import Bounds
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import Hold, LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.access import AccessClient
from metergate.policy.model import EntitlementCheck
from metergate.testing import embedded_openmeter

QUOTA = 20
VISIBILITY = 2.0
START = datetime(2026, 3, 1, 12, 55, tzinfo=UTC)
BY_PERIOD = {"usagePeriod": {"interval": "PT1H", "anchor": "2026-03-01T12:00:00Z"}, "issueAfterReset": QUOTA}
BY_GRANT = {"usagePeriod": {"interval": "MONTH", "anchor": "2026-03-01T12:00:00Z"}}
GRANT = {
    "amount": QUOTA,
    "priority": 1,
    "expiration": {"duration": "YEAR", "count": 1},
    "recurrence": {"interval": "PT1H", "anchor": "2026-03-01T12:00:00Z"},
}


@pytest.fixture(scope="module")
def openmeter():
    with embedded_openmeter(start=START) as server:
        server.call("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "call"})
        server.call("POST", "/api/v1/features", {"key": "calls", "name": "calls", "meterSlug": "calls"})
        yield server


@pytest.fixture
def full_hour(openmeter):
    """A period's end; the clock is moved to five minutes before it."""
    now = openmeter.clock.now
    hour = now.replace(minute=0, second=0) + timedelta(hours=1 if now.minute < 55 else 2)
    openmeter.clock.move(seconds=(hour - now).total_seconds() - 300)
    return hour


@pytest.fixture
def subject(openmeter, full_hour):
    """``subject(entitlement, *grants)``: a customer who has them."""

    def make(entitlement, *grants):
        key = f"acme-{full_hour.hour}"
        customer = {"name": key, "key": key, "usageAttribution": {"subjectKeys": [key]}}
        openmeter.call("POST", "/api/v1/customers", customer)
        at = f"/api/v2/customers/{key}/entitlements"
        openmeter.call("POST", at, {"type": "metered", "featureKey": "calls", **entitlement})
        for grant in grants:
            openmeter.call("POST", f"{at}/calls/grants", {**grant, "effectiveAt": rfc3339(openmeter)})
        return key

    return make


class Gateway:
    """Lets in what it can each second; what it lets in OpenMeter sees at once."""

    def __init__(self, openmeter, subject):
        self.openmeter, self.subject = openmeter, subject
        self.client = AccessClient(openmeter.url, "")
        clock = self.wall_time
        ledger = Ledger(
            Folder(None, most_places=8), Watermark(lambda: [(1, 1)]), clock, visibility=VISIBILITY
        )
        self.local = LocalUsage(ledger)
        self.local.watch(["calls"])
        self.counted = Counted(self.client, self.local, clock=clock, wall_clock=clock)
        self.let_in: list[datetime] = []

    def wall_time(self):
        return self.openmeter.clock.now.timestamp()

    async def run(self, seconds, wants=5):
        for _ in range(seconds):
            snapshot = await self.counted.read(self.subject, self.wall_time(), self.client.access)
            for _ in range(wants):
                held = snapshot.ceilings and self.counted.take(snapshot, ("calls",), EntitlementCheck())
                if isinstance(held, Hold):
                    self.let_in.append(self.openmeter.clock.now)
                    event = SimpleNamespace(type="call", subject=self.subject, data=None)
                    self.local.spend((event,))
                    self.openmeter.ingest(self.event())
                    held.release()
            self.openmeter.clock.move(seconds=1)
            self.local.ledger.tend(left_behind=False)

    def event(self):
        return {
            "specversion": "1.0",
            "id": f"{self.subject}-{len(self.let_in)}",
            "source": "test",
            "type": "call",
            "subject": self.subject,
            "time": rfc3339(self.openmeter),
        }

    def before(self, moment):
        return sum(1 for time in self.let_in if time < moment)


def rfc3339(openmeter):
    return openmeter.clock.now.isoformat().replace("+00:00", "Z")


def serve(openmeter, subject, full_hour, seconds=320):
    """How many were let in before the full hour and after it."""

    async def scenario():
        gateway = Gateway(openmeter, subject)
        try:
            await gateway.run(seconds)
        finally:
            gateway.counted.close()
            await gateway.client.close()
        before = gateway.before(full_hour)
        return before, len(gateway.let_in) - before

    return asyncio.run(scenario())


def test_no_more_is_let_in_in_the_last_minute_of_a_period_than_was_left_of_it(openmeter, subject, full_hour):
    assert serve(openmeter, subject(BY_PERIOD), full_hour) == (QUOTA, QUOTA)


def test_nor_in_the_last_minute_before_a_grant_recurs(openmeter, subject, full_hour):
    assert serve(openmeter, subject(BY_GRANT, GRANT), full_hour) == (QUOTA, QUOTA)


def test_who_begins_in_the_last_minute_gets_each_period_once(openmeter, subject, full_hour):
    key = subject(BY_PERIOD)
    openmeter.clock.move(seconds=255)
    assert serve(openmeter, key, full_hour, seconds=60) == (QUOTA, QUOTA)


def test_a_grant_that_comes_in_between_is_used_at_once(openmeter, subject, full_hour):
    key = subject(BY_PERIOD)
    assert serve(openmeter, key, full_hour, seconds=20) == (QUOTA, 0)

    async def scenario():
        gateway = Gateway(openmeter, key)
        await gateway.run(3)
        grant = {**GRANT, "effectiveAt": rfc3339(openmeter)}
        del grant["recurrence"]
        openmeter.call("POST", f"/api/v2/customers/{key}/entitlements/calls/grants", grant)
        await gateway.run(4)
        await gateway.client.close()
        return len(gateway.let_in)

    assert asyncio.run(scenario()) == QUOTA


def test_without_what_the_answers_before_allowed_the_limit_would_not_hold(
    openmeter, subject, full_hour, monkeypatch
):
    monkeypatch.setattr(Bounds, "exceeds", lambda *_: False)
    before, _ = serve(openmeter, subject(BY_PERIOD), full_hour)
    assert before > QUOTA
