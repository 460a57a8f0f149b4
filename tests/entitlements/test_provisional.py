"""What is known of many subjects at once, and only that something is left for each of them: one request each."""

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace

import pytest

from metergate.entitlements import Entitlements
from metergate.entitlements.counted import Counted
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.errors import OpenMeterOutage, OpenMeterThrottled
from metergate.openmeter.batch import BatchAccess
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue, MeteredEntitlement, SubjectAccess
from metergate.policy.model import EntitlementCheck

CALLS = ("calls",)
CATALOG = Catalog(
    tuple(Feature(name, name, meter) for name, meter in (("calls", "m"), ("seats", "s"), ("sso", None))),
    (Meter("m", "1", "call", "COUNT"), Meter("s", "2", "seat", "LATEST", "$.seats")),
)
CHECK = EntitlementCheck(ttl_seconds=5, max_stale_seconds=300, timeout_seconds=60)
DENY = EntitlementCheck(ttl_seconds=5, max_stale_seconds=300, timeout_seconds=2, on_error="deny")
RATE = 25.0
LATENCY = 0.05
VISIBILITY = 5.0
NUMBERS = itertools.count()


class OpenMeter:
    """One in memory, which knows at once what was recorded. ``balances`` by subject, 1,000 where there is none."""

    visibility_seconds = None

    def __init__(self, now):
        self.now = now
        self.balances = {}
        self.plans = {}
        self.reads, self.queries = [], []
        self.trouble = None
        self.latency = LATENCY
        self.seconds_each = 0.0
        self.count = lambda: None

    def count_requests(self, on_request):
        self.count = on_request

    def left(self, subject):
        return self.balances.get(subject, 1000.0)

    async def catalog(self):
        return CATALOG

    async def entitlement(self, subject, feature):
        return MeteredEntitlement(is_soft_limit=False)

    async def rises(self, subject, feature):
        return ()

    async def access(self, subject):
        self.count()
        self.reads.append(subject)
        balance = self.left(subject)
        await asyncio.sleep(self.latency)
        values = {
            "calls": FeatureValue("calls", balance > 0, balance, 0.0, 0.0),
            "sso": FeatureValue("sso", True),
            "seats": FeatureValue("seats", True, 5.0, 1.0, 0.0),
        }
        return SubjectAccess("found", tuple(values[name] for name in self.plans.get(subject, CALLS)))

    async def query(self, subjects, features):
        self.count()
        self.queries.append((self.now(), tuple(subjects)))
        answer = {
            subject: {
                name: name in self.plans.get(subject, CALLS) and (name != "calls" or self.left(subject) > 0)
                for name in features
            }
            for subject in subjects
        }
        await asyncio.sleep(LATENCY + self.seconds_each * len(subjects))
        if self.trouble is not None:
            raise self.trouble
        return BatchAccess(answer)

    async def close(self):
        pass


class World:
    """A gateway's checks with the local count, in one process; what is recorded is acknowledged at once."""

    def __init__(self, now):
        self.now = now
        self.openmeter = OpenMeter(now)
        ledger = Ledger(
            Folder(None, most_places=1 << 14), Watermark(lambda: [(1, 1)]), now, visibility=VISIBILITY
        )
        self.local = LocalUsage(ledger)
        self.local.watch(("calls", "seats", "sso"))
        self.checks = Entitlements(self.openmeter, max_reads_per_second=RATE, clock=now, jitter=lambda: 0.0)
        self.counted = Counted(self.openmeter, self.local, clock=now, wall_clock=now)
        self.checks.count_by(self.counted)

    async def decide(self, subject, features=CALLS, check=CHECK):
        decision = self.checks.decide(subject, features, check)
        return decision or await self.checks.ask(subject, features, check)

    def record(self, subject):
        """A request that was let in has ended, and was metered."""
        self.local.spend((SimpleNamespace(type="call", subject=subject, data=None),))
        self.openmeter.balances[subject] = self.openmeter.left(subject) - 1

    async def see(self):
        """Let all that was recorded become visible."""
        for _ in range(int(VISIBILITY) * 10 + 10):
            self.local.ledger.tend(left_behind=False)
            await asyncio.sleep(0.1)

    async def begin(self):
        """Find out that the query is offered, and how events count, and use up the burst."""
        first = [asyncio.ensure_future(self.decide(f"first-{number}")) for number in range(12)]
        for decision in await asyncio.gather(*first):
            decision.hold.release()
        assert len(self.openmeter.queries) == 1

    async def drain(self):
        """Use up the budget, so that all who come now wait."""
        while not self.checks.statistics().queued:
            waiting = asyncio.ensure_future(self.decide(f"drain-{next(NUMBERS)}"))
            await asyncio.sleep(0)
            waiting.cancel()

    async def know(self, *subjects, features=CALLS):
        """Make provisional snapshots of these."""
        await self.drain()
        decisions = await asyncio.gather(*(self.decide(subject, features) for subject in subjects))
        for decision in decisions:
            decision.hold.release()
        assert not set(subjects) & set(self.openmeter.reads)


@pytest.fixture
def world(virtual):
    """``world(scenario)`` runs ``scenario(world)`` on a loop with virtual time."""

    def run(scenario):
        async def whole(now):
            made = World(now)
            await made.begin()
            return await scenario(made)

        return virtual(whole)

    return run


def test_a_thousand_new_subjects_are_known_within_a_second_and_within_the_budget(world):
    async def scenario(world):
        began, requests = world.now(), world.checks.statistics().requests
        decisions = await asyncio.gather(*(world.decide(f"s{number}") for number in range(1000)))
        took = world.now() - began
        return Counter(one.reason for one in decisions), took, world.checks.statistics().requests - requests

    reasons, took, requests = world(scenario)
    assert reasons == {"granted": 1000}
    assert took < 1
    assert requests <= RATE * took + 6


def test_a_server_that_takes_its_time_for_each_subject_is_asked_for_fewer_at_a_time(world):
    async def scenario(world):
        world.openmeter.seconds_each = 0.04
        waiting = [asyncio.ensure_future(world.decide(f"s{number}")) for number in range(1500)]
        await asyncio.gather(*waiting)
        slow = len(world.openmeter.queries)
        world.openmeter.seconds_each = 0.0
        await asyncio.gather(*(world.decide(f"t{number}") for number in range(1000)))
        return [len(subjects) for _, subjects in world.openmeter.queries], slow

    sizes, slow = world(scenario)
    assert max(sizes[20:slow]) <= 0.5 / 0.04
    assert max(sizes[slow:]) == 100, "once it is quick again it is asked for more"


def test_where_there_are_too_many_for_all_those_who_came_last_are_served_in_time(world):
    async def scenario(world):
        impatient = EntitlementCheck(timeout_seconds=0.5)
        await world.drain()
        waiting = [world.decide(f"s{number}", check=impatient) for number in range(3000)]
        decisions = await asyncio.gather(*waiting)
        return [number for number, one in enumerate(decisions) if one.reason == "granted"]

    granted = world(scenario)
    assert len(granted) >= 1000
    assert set(range(2500, 3000)) <= set(granted)


def test_of_sixty_four_requests_for_the_last_unit_one_is_let_in(world):
    async def scenario(world):
        world.openmeter.balances["acme"] = 1.0
        await world.know("acme", "b", "c")
        reads = len(world.openmeter.reads)

        async def request():
            decision = await world.decide("acme")
            if decision.allowed:
                world.record("acme")
                decision.hold.release()
            return decision.reason

        reasons = await asyncio.gather(*(request() for _ in range(64)))
        return Counter(reasons), world.openmeter.balances["acme"], world.openmeter.reads[reads:]

    reasons, left, reads = world(scenario)
    assert reasons == {"granted": 1, "exhausted": 63}
    assert left == 0
    assert "acme" in reads, "nobody is denied before OpenMeter was asked for the balance"


def test_who_is_slow_is_served_by_the_batch_query_alone(world):
    async def scenario(world):
        await world.know("slow", "b", "c")
        for _ in range(5):
            decision = await world.decide("slow")
            assert decision.reason == "granted"
            world.record("slow")
            decision.hold.release()
            await world.see()
            await world.drain()
            crowd = [world.decide(f"crowd-{next(NUMBERS)}") for _ in range(3)]
            decision, *_ = await asyncio.gather(world.decide("slow"), *crowd)
            decision.hold.release()
        return world.openmeter

    openmeter = world(scenario)
    assert openmeter.balances["slow"] == 995
    assert "slow" not in openmeter.reads


def test_who_needs_more_than_one_request_at_a_time_is_read_alone_at_once(world):
    async def scenario(world):
        await world.know("busy", "b", "c")
        held = [await world.decide("busy") for _ in range(5)]
        return [one.reason for one in held], world.openmeter.reads.count("busy")

    assert world(scenario) == (["granted"] * 5, 1)


def test_nobody_is_denied_by_a_batch_answer_but_read(world):
    async def scenario(world):
        world.openmeter.balances["empty"] = 0.0
        world.openmeter.plans["none"] = ("sso",)
        await world.drain()
        subjects = ("empty", "none", "b", "c")
        decisions = await asyncio.gather(*(world.decide(subject) for subject in subjects))
        return [one.reason for one in decisions], world.openmeter.reads

    reasons, reads = world(scenario)
    assert reasons == ["exhausted", "not_found", "granted", "granted"]
    assert {"empty", "none"} <= set(reads)
    assert not {"b", "c"} & set(reads)


def test_a_provisional_answer_says_nothing_of_features_that_it_does_not_hold(world):
    async def scenario(world):
        world.openmeter.plans["acme"] = ("calls", "sso")
        await world.know("acme", "b", "c")
        reasons = []
        for subject in ("acme", "b"):
            decision = world.checks.decide(subject, ("calls", "sso"), CHECK)
            assert decision is None, "of that it was never asked"
            decision = await world.decide(subject, ("calls", "sso"))
            reasons.append(decision.reason)
        return reasons, world.openmeter.reads

    reasons, reads = world(scenario)
    assert reasons == ["granted", "not_found"]
    assert {"acme", "b"} <= set(reads)


def test_what_a_provisional_answer_does_not_hold_is_not_denied_while_openmeter_is_away(world):
    async def scenario(world):
        await world.know("acme", "b", "c")
        world.openmeter.latency = 100.0
        decisions = [await world.decide("acme", ("calls", "sso"), DENY) for _ in range(3)]
        return {one.reason for one in decisions}

    assert world(scenario) == {"error"}


def test_who_cannot_be_read_in_time_follows_on_error_and_is_not_taken_for_used_up(world):
    async def scenario(world):
        await world.know("acme", "b", "c")
        world.openmeter.latency = 100.0
        decisions = [await world.decide("acme", check=DENY) for _ in range(3)]
        return [(one.reason, one.status) for one in decisions]

    assert world(scenario) == [("granted", 0), ("error", 503), ("error", 503)]


@pytest.mark.parametrize("trouble", [OpenMeterOutage("away"), OpenMeterThrottled("slow down", 0.5)])
def test_where_the_query_fails_they_are_read_one_by_one(world, trouble):
    async def scenario(world):
        world.openmeter.trouble = trouble
        await world.drain()
        decisions = await asyncio.gather(*(world.decide(f"s{number}") for number in range(20)))
        return {one.reason for one in decisions}, world.openmeter

    reasons, openmeter = world(scenario)
    assert reasons == {"granted"}
    assert {f"s{number}" for number in range(20)} <= set(openmeter.reads)


def test_what_was_recorded_and_may_be_unseen_leaves_nothing_of_a_provisional_answer(world):
    async def scenario(world):
        world.record("acme")
        await world.drain()
        decisions = await asyncio.gather(*(world.decide(subject) for subject in ("acme", "b", "c")))
        return {one.reason for one in decisions}, world.openmeter.reads

    reasons, reads = world(scenario)
    assert reasons == {"granted"}
    assert "acme" in reads


def test_who_has_to_have_a_reserve_left_is_read_alone(world):
    async def scenario(world):
        check = EntitlementCheck(timeout_seconds=60, reserve=5.0)
        await world.drain()
        before = len(world.openmeter.queries)
        await asyncio.gather(*(world.decide(f"s{number}", check=check) for number in range(10)))
        return world.openmeter.reads, world.openmeter.queries[before:]

    reads, queries = world(scenario)
    assert {f"s{number}" for number in range(10)} <= set(reads)
    assert not any("s1" in subjects for _, subjects in queries)


def test_a_balance_is_asked_for_where_it_is_not_known(world):
    async def scenario(world):
        world.openmeter.balances["acme"] = 7.0
        await world.know("acme", "b", "c")
        return await world.checks.balance("acme", "calls", CHECK)

    assert world(scenario) == 7.0


def test_an_expired_provisional_answer_is_read_anew(world):
    async def scenario(world):
        await world.know("acme", "b", "c")
        world.openmeter.balances["acme"] = 0.0
        world.checks.expire("acme")
        await world.drain()
        before = len(world.openmeter.queries)
        crowd = [world.decide(f"s{number}") for number in range(9)]
        first, *_ = await asyncio.gather(world.decide("acme"), *crowd)
        return first.reason, (await world.decide("acme")).reason, world.openmeter.queries[before:]

    *reasons, queries = world(scenario)
    assert reasons == ["stale", "exhausted"], "as long as there is no read for it the last answer serves"
    assert not any("acme" in subjects for _, subjects in queries), "it would say nothing of the balance"


def test_an_answer_beyond_what_was_allowed_before_is_not_taken_without_a_balance(world):
    async def scenario(world):
        world.openmeter.balances["acme"] = 2.0
        (await world.decide("acme")).hold.release()
        world.record("acme")
        world.record("acme")
        await world.see()
        world.checks._snapshots.entries.clear()
        world.openmeter.balances["acme"] = 100.0
        reads = world.openmeter.reads.count("acme")
        await world.drain()
        decisions = await asyncio.gather(*(world.decide(subject) for subject in ("acme", "b", "c")))
        return {one.reason for one in decisions}, world.openmeter.reads.count("acme") - reads

    assert world(scenario) == ({"granted"}, 1)


def test_a_level_has_to_be_seen_before_a_provisional_answer_serves(world):
    async def scenario(world):
        world.openmeter.plans = dict.fromkeys(("a", "b", "c"), ("seats",))
        await world.drain()
        for each in await asyncio.gather(*(world.decide(subject, ("seats",)) for subject in "abc")):
            each.hold.release()
        assert "a" not in world.openmeter.reads
        seat = SimpleNamespace(type="seat", subject="a", data={"seats": 3})
        world.local.spend((seat,))
        return (await world.decide("a", ("seats",))).reason, world.openmeter.reads.count("a")

    assert world(scenario) == ("granted", 1)
