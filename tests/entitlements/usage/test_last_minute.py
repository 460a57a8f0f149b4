"""In the last minute of a period OpenMeter answers with the balance of the next. A limit holds all the same."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from metergate.entitlements.counted import Counted
from metergate.entitlements.usage.bounds import Bounds
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Hold
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.errors import OpenMeterOutage
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
    """Lets in what it can each second; what it lets in OpenMeter sees at once. Its clock is so many seconds ``ahead``."""

    def __init__(self, openmeter, subject, *, ahead=0.0, folder=None):
        self.openmeter, self.subject, self.ahead = openmeter, subject, ahead
        self.client = AccessClient(openmeter.url, "")
        clock = self.wall_time
        self.folder = Folder(folder, most_places=8)
        ledger = Ledger(self.folder, Watermark(lambda: [(1, 1)]), clock, visibility=VISIBILITY)
        self.local = LocalUsage(ledger)
        self.local.watch(["calls"])
        self.counted = Counted(self.client, self.local, clock=clock, wall_clock=clock)
        self.let_in: list[datetime] = []

    def wall_time(self):
        return self.openmeter.clock.now.timestamp() + self.ahead

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
            "id": uuid.uuid4().hex,
            "source": "test",
            "type": "call",
            "subject": self.subject,
            "time": rfc3339(self.openmeter),
        }

    def before(self, moment):
        return sum(1 for time in self.let_in if time < moment)


def rfc3339(openmeter):
    return openmeter.clock.now.isoformat().replace("+00:00", "Z")


def give(openmeter, subject, amount, after=0):
    """A grant that does not recur, which begins so many seconds later."""
    at = openmeter.clock.now + timedelta(seconds=after)
    grant = {**GRANT, "amount": amount, "effectiveAt": at.isoformat().replace("+00:00", "Z")}
    del grant["recurrence"]
    openmeter.call("POST", f"/api/v2/customers/{subject}/entitlements/calls/grants", grant)


def play(openmeter, subject, script, **options):
    """What a gateway does by a script; what that gives."""

    async def scenario():
        gateway = Gateway(openmeter, subject, **options)
        try:
            return await script(gateway)
        finally:
            gateway.counted.close()
            gateway.folder.close()
            await gateway.client.close()

    return asyncio.run(scenario())


def serve(openmeter, subject, full_hour, seconds=320, **options):
    """How many were let in before the full hour and after it."""

    async def script(gateway):
        await gateway.run(seconds)
        before = gateway.before(full_hour)
        return before, len(gateway.let_in) - before

    return play(openmeter, subject, script, **options)


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

    async def script(gateway):
        await gateway.run(3)
        give(openmeter, key, QUOTA)
        await gateway.run(8)
        return len(gateway.let_in)

    assert play(openmeter, key, script) == QUOTA


def test_a_grant_that_was_made_to_begin_later_just_after_another_is_not_used_before_it_begins(
    openmeter, subject, full_hour
):
    key = subject(BY_PERIOD)

    async def script(gateway):
        await gateway.run(8)
        give(openmeter, key, 5)
        await gateway.run(4)
        at_once = len(gateway.let_in)
        begins = openmeter.clock.now.replace(second=0) + timedelta(seconds=60)
        give(openmeter, key, 10, after=(begins - openmeter.clock.now).total_seconds())
        await gateway.run(65)
        return at_once, gateway.before(begins), len(gateway.let_in)

    assert play(openmeter, key, script) == (QUOTA + 5, QUOTA + 5, QUOTA + 15)


def test_a_grant_before_the_last_minute_does_not_open_it_where_nobody_can_say_when_more_is_granted(
    openmeter, subject, full_hour
):
    """That the answer allows more was known for more than a minute by then; not that it allows so much."""
    key = subject(BY_PERIOD)
    openmeter.clock.move(seconds=185)

    async def script(gateway):
        async def may_not_read(*_):
            raise OpenMeterOutage("403")

        gateway.client.rises = may_not_read
        await gateway.run(20)
        give(openmeter, key, 5)
        await gateway.run(250)
        before = gateway.before(full_hour)
        return before, len(gateway.let_in) - before

    assert play(openmeter, key, script) == (QUOTA + 5, QUOTA)


def test_who_is_granted_a_little_every_minute_gets_it(openmeter, subject, full_hour):
    """There is always something that begins within the next minute, so every answer is early."""
    key = subject(BY_GRANT)

    async def script(gateway):
        give(openmeter, key, QUOTA)
        await gateway.run(8)
        for minute in range(1, 7):
            give(openmeter, key, 10, after=60 * minute)
        return [(await gateway.run(70), len(gateway.let_in))[1] for _ in range(3)]

    assert play(openmeter, key, script) == [QUOTA + 10, QUOTA + 20, QUOTA + 30]


def test_a_reset_by_hand_in_the_last_minute_is_used_soon(openmeter, subject, full_hour):
    key = subject(BY_PERIOD)
    openmeter.clock.move(seconds=200)

    async def script(gateway):
        await gateway.run(50)
        reset = {"effectiveAt": rfc3339(openmeter), "retainAnchor": False}
        openmeter.call("POST", f"/api/v2/customers/{key}/entitlements/calls/reset", reset)
        await gateway.run(20)
        return len(gateway.let_in)

    assert play(openmeter, key, script) == 2 * QUOTA


@pytest.mark.parametrize("ahead", [-VISIBILITY, VISIBILITY])
def test_nor_is_it_where_the_clocks_differ_also_if_the_server_sees_events_at_once(
    openmeter, subject, full_hour, ahead
):
    key = subject(BY_PERIOD)
    openmeter.clock.move(seconds=210)
    assert serve(openmeter, key, full_hour, seconds=110, ahead=ahead) == (QUOTA, QUOTA)


def test_a_gateway_that_starts_in_the_last_minute_goes_by_what_the_one_before_was_answered(
    openmeter, subject, full_hour, tmp_path
):
    key = subject(BY_PERIOD)
    openmeter.clock.move(seconds=200)
    assert serve(openmeter, key, full_hour, seconds=55, folder=tmp_path) == (QUOTA, 0)
    assert serve(openmeter, key, full_hour, seconds=65, folder=tmp_path) == (0, QUOTA)


def test_without_what_the_answers_before_allowed_the_limit_would_not_hold(
    openmeter, subject, full_hour, monkeypatch
):
    monkeypatch.setattr(Bounds, "exceeds", lambda *_: False)
    before, _ = serve(openmeter, subject(BY_PERIOD), full_hour)
    assert before > QUOTA
