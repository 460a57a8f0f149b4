"""Who is read when, under a budget. On an event loop with virtual time, so minutes go by at once."""

import asyncio
import itertools
from collections import Counter

import pytest

from metergate.entitlements import Entitlements
from metergate.entitlements.budget import BURST_SECONDS
from metergate.entitlements.decision import GRANTED
from metergate.errors import OpenMeterOutage, OpenMeterThrottled
from metergate.openmeter.batch import BatchAccess
from metergate.openmeter.values import FeatureValue, SubjectAccess
from metergate.policy.model import EntitlementCheck

API = ("api",)
NUMBERS = itertools.count()
RATE = 25.0
LATENCY = 0.05
CHECK = EntitlementCheck(ttl_seconds=5, max_stale_seconds=600, timeout_seconds=2)
EACH = EntitlementCheck(ttl_seconds=0, max_stale_seconds=600, timeout_seconds=2)
DENY = EntitlementCheck(ttl_seconds=5, max_stale_seconds=600, timeout_seconds=2, on_error="deny")


def metered(balance, usage=0.0, *, has_access=None):
    return FeatureValue("api", balance > 0 if has_access is None else has_access, balance, usage, 0.0)


class OpenMeter:
    """An OpenMeter in memory that takes its time. ``balances`` by subject, None: no such customer."""

    def __init__(self, now):
        self.now = now
        self.balances = {}
        self.usage = {}
        self.reads = []
        self.queries = []
        self.requests = []
        self.offered = True
        self.invisible = set()
        self.trouble = None
        self.batch_trouble = None
        self.requests_of_a_read = 1
        self.count = lambda: None

    def count_requests(self, on_request):
        self.count = on_request

    async def request(self):
        self.count()
        self.requests.append(self.now())
        await asyncio.sleep(LATENCY)
        if self.trouble is not None:
            raise self.trouble

    async def access(self, subject):
        self.reads.append((self.now(), subject))
        for _ in range(self.requests_of_a_read):
            await self.request()
        balance = self.balances.get(subject, 1000.0)
        if balance is None:
            return SubjectAccess("absent")
        return SubjectAccess("found", (metered(balance, self.usage.get(subject, 0.0)),))

    async def query(self, subjects, features):
        assert len(subjects) <= 100
        self.queries.append((self.now(), tuple(subjects)))
        await self.request()
        if self.batch_trouble is not None:
            raise self.batch_trouble
        if not self.offered:
            return None
        visible = [subject for subject in subjects if subject not in self.invisible]
        access = {
            subject: {feature: self.balances.get(subject, 1000.0) > 0 for feature in features}
            for subject in visible
        }
        return BatchAccess(access, frozenset(self.invisible.intersection(subjects)))

    async def close(self):
        pass

    def read(self, subject):
        """When a subject was read."""
        return [when for when, who in self.reads if who == subject]


def world(now, **options):
    openmeter = OpenMeter(now)
    checks = Entitlements(
        openmeter, clock=now, jitter=lambda: 0.0, **{"max_reads_per_second": RATE, **options}
    )
    return openmeter, checks


def keeps_to(moments, rate=RATE):
    """Whether in any time no more happened than the rate and a burst."""
    burst = tokens = max(rate * BURST_SECONDS, 1.0)
    for before, moment in zip([moments[0], *moments], moments, strict=False):
        tokens = min(tokens + rate * (moment - before), burst) - 1
        if tokens < -1e-6:
            return False
    return True


async def until(condition):
    """Let time go by until it holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to hold")


async def quiet(checks):
    """Wait until nobody is read and nobody waits for it."""
    await until(lambda: not checks.statistics().queued and not checks.statistics().in_flight)


async def know(checks, subjects, check=CHECK):
    """Wait until something is known of all these."""
    for subject in subjects:
        await checks.ask(subject, API, check)
    await quiet(checks)


async def drain(checks):
    """Leave the budget without a token: what is asked now is read when the next comes."""
    while not checks.statistics().queued:
        waiting = asyncio.ensure_future(checks.ask(f"drain-{next(NUMBERS)}", API, CHECK))
        await asyncio.sleep(0)
        waiting.cancel()


# --- many at once


@pytest.mark.no_cover  # it takes four times as long
def test_ten_thousand_new_subjects_at_once_neither_stampede_nor_starve(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        subjects = [f"s{number}" for number in range(10_000)]
        begun = now()
        decisions = await asyncio.gather(*(checks.ask(subject, API, CHECK) for subject in subjects))
        waited = now() - begun
        assert not checks.statistics().failing, "that they waited was our budget's doing"
        reasons = Counter(decision.reason for decision in decisions)
        again = Counter(checks.decide(subject, API, CHECK).reason for subject in subjects)
        await asyncio.sleep(10_000 / RATE)
        return openmeter, checks.statistics(), waited, reasons, again

    openmeter, statistics, waited, reasons, again = virtual(scenario)
    assert waited <= CHECK.timeout_seconds + 1e-6
    assert reasons["granted"] >= RATE * (CHECK.timeout_seconds - LATENCY)
    assert reasons["granted"] + reasons["error_allowed"] == 10_000
    assert again == reasons  # who waited in vain makes nobody else wait
    assert Counter(subject for _, subject in openmeter.reads) == Counter(f"s{n}" for n in range(10_000))
    assert keeps_to(openmeter.requests)
    assert (statistics.snapshots, statistics.queued, statistics.turned_away) == (10_000, 0, 0)
    assert not statistics.failing


@pytest.mark.no_cover  # it takes four times as long
@pytest.mark.parametrize("offered", [pytest.param(False, marks=pytest.mark.chaos), True])
def test_with_ten_thousand_active_subjects_nobody_waits_and_reads_keep_to_the_budget(virtual, offered):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.offered = offered
        subjects = [f"s{number}" for number in range(10_000)]
        await asyncio.gather(*(checks.ask(subject, API, CHECK) for subject in subjects))
        await asyncio.sleep(10_000 / RATE)
        begun = len(openmeter.reads)
        served, waited = [], []

        async def wait_for(subject):
            began = now()
            served.append(await checks.ask(subject, API, CHECK))
            waited.append(now() - began)

        for second in range(8):
            for number in range(second % 5, 10_000, 5):
                decision = checks.decide(subjects[number], API, CHECK)
                if decision is None:
                    asyncio.get_running_loop().create_task(wait_for(subjects[number]))
                    await asyncio.sleep(0)
                else:
                    served.append(decision)
            await asyncio.sleep(1)
        oldest = max(checks.age(subject) for subject in subjects)
        return openmeter, checks.statistics(), served, waited, oldest, openmeter.reads[begun:]

    openmeter, statistics, served, waited, oldest, reads = virtual(scenario)
    assert len(served) == 16_000
    assert {decision.reason for decision in served} <= {"granted", "stale"}
    assert keeps_to(openmeter.requests)
    # Where the budget is not used up a read starts at once, and whose answer is of long ago waits for it. Here
    # that is so for the first of all, and of each second as long as nobody is confirmed yet.
    assert len(waited) <= RATE * BURST_SECONDS * (5 if offered else 1)
    assert max(waited) <= LATENCY + 1e-6
    if offered:
        assert oldest < 8
        assert statistics.confirmed > 8_000
    else:
        assert len(openmeter.queries) == 1
        assert len(reads) >= RATE * 7
        assert max(Counter(subject for _, subject in reads).values()) == 1


def test_workers_share_the_budget(virtual):
    async def scenario(now):
        openmeter, checks = world(now, workers=5)
        await asyncio.gather(*(checks.ask(f"s{number}", API, CHECK) for number in range(100)))
        await asyncio.sleep(18)
        return openmeter

    openmeter = virtual(scenario)
    assert keeps_to(openmeter.requests, RATE / 5)
    assert len(openmeter.requests) == 100


def test_a_further_policy_with_a_higher_budget_raises_it(virtual):
    async def scenario(now):
        _, checks = world(now)
        checks.allow_reads(1000)
        checks.allow_reads(5)
        return await asyncio.gather(*(checks.ask(f"s{number}", API, CHECK) for number in range(1500)))

    assert set(virtual(scenario)) == {GRANTED}


def test_every_http_request_counts_so_that_after_a_read_of_several_the_next_waits_longer(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.requests_of_a_read = 5
        await asyncio.gather(*(checks.ask(f"s{number}", API, CHECK) for number in range(40)))
        await quiet(checks)
        return openmeter

    openmeter = virtual(scenario)
    took = openmeter.requests[-1] - openmeter.requests[0]
    # Beyond the burst: what the reads that had started needed when there was no token left, and made up for.
    assert len(openmeter.requests) == 200
    assert took >= (200 - 5 * 5 - 5 * 5) / RATE


# --- who waits


def test_a_usable_answer_serves_where_there_is_no_read_for_it_at_once(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.balances["denied"] = 0.0
        await know(checks, ["acme", "denied"])
        await asyncio.sleep(100)
        await drain(checks)
        before = len(openmeter.reads)
        direct = checks.decide("acme", API, CHECK), checks.decide("denied", API, CHECK)
        awaited = await checks.ask("acme", API, EACH), await checks.ask("denied", API, EACH)
        assert len(openmeter.reads) == before
        await asyncio.sleep(3)
        return checks, direct + awaited, openmeter.read("acme"), openmeter.read("denied")

    checks, decisions, *reads = virtual(scenario)
    assert [decision.reason for decision in decisions] == ["stale", "exhausted"] * 2
    assert all(100 <= decision.age <= 101 for decision in decisions)
    assert [len(each) for each in reads] == [2, 2]
    assert checks.statistics().deferred == 4


def test_where_there_is_a_read_at_once_an_old_answer_waits_for_it(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        await know(checks, ["acme"])
        openmeter.balances["acme"] = 0.0
        await asyncio.sleep(100)
        assert checks.decide("acme", API, CHECK) is None
        return await checks.ask("acme", API, CHECK)

    assert virtual(scenario).reason == "exhausted"


def test_an_answer_beyond_max_stale_serves_nobody(virtual):
    async def scenario(now):
        _, checks = world(now)
        await know(checks, ["acme"])
        await asyncio.sleep(CHECK.max_stale_seconds + 1)
        await drain(checks)
        assert checks.decide("acme", API, DENY) is None
        return await checks.ask("acme", API, DENY)

    assert virtual(scenario) is GRANTED


def test_who_waits_in_the_queue_goes_before_those_whose_answer_serves_and_these_are_not_starved(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.offered = False
        stale = [f"stale-{number}" for number in range(50)]
        await know(checks, stale)
        await asyncio.sleep(100)
        before = len(openmeter.reads)
        await drain(checks)
        for subject in stale:
            assert checks.decide(subject, API, CHECK).reason == "stale"
        unknown = [asyncio.ensure_future(checks.ask(f"new-{n}", API, CHECK)) for n in range(30)]
        await asyncio.gather(*unknown)
        await quiet(checks)
        return [subject for _, subject in openmeter.reads[before:] if not subject.startswith("drain")]

    order = virtual(scenario)
    assert sum(subject.startswith("new") for subject in order[:20]) >= 15
    assert any(subject.startswith("stale") for subject in order[:20])
    assert set(order) == {f"stale-{n}" for n in range(50)} | {f"new-{n}" for n in range(30)}


def test_a_read_that_nobody_could_wait_for_takes_place_later(virtual):
    async def scenario(now):
        openmeter, checks = world(now, max_reads_per_second=0.1)
        await checks.ask("first", API, CHECK)
        late = await checks.ask("late", API, DENY)
        next_one = checks.decide("late", API, DENY)
        assert not openmeter.read("late")
        await asyncio.sleep(11)
        return late, next_one, checks.decide("late", API, CHECK), checks.statistics()

    late, next_one, afterwards, statistics = virtual(scenario)
    assert (late.reason, next_one.reason) == ("error", "error")
    assert afterwards is GRANTED
    assert (statistics.timeouts, statistics.failing) == (1, False)


def test_who_waits_in_vain_makes_way_for_the_next_who_is_new(virtual):
    async def scenario(now):
        _, checks = world(now, max_reads_per_second=1)
        await asyncio.gather(*(checks.ask(f"old-{number}", API, CHECK) for number in range(20)))
        return await checks.ask("new", API, CHECK)

    assert virtual(scenario) is GRANTED


def test_a_full_queue_gives_up_the_least_urgent_and_counts_them(virtual):
    async def scenario(now):
        openmeter, checks = world(now, most_queued=10)
        decisions = await asyncio.gather(*(checks.ask(f"s{number}", API, CHECK) for number in range(50)))
        await asyncio.sleep(10)
        return openmeter, checks.statistics(), Counter(decision.reason for decision in decisions)

    openmeter, statistics, reasons = virtual(scenario)
    assert statistics.turned_away == 35
    assert reasons == {"granted": 15, "error_allowed": 35}
    assert len(openmeter.reads) == 15


def test_closing_ends_who_waits_in_the_queue(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        waiting = [asyncio.ensure_future(checks.ask(f"s{number}", API, CHECK)) for number in range(50)]
        await asyncio.sleep(0.01)
        await checks.close()
        decisions = await asyncio.gather(*waiting)
        await asyncio.sleep(10)
        return openmeter, decisions, checks.statistics()

    openmeter, decisions, statistics = virtual(scenario)
    assert {decision.reason for decision in decisions} == {"error_allowed"}
    assert len(openmeter.reads) == 5
    assert (statistics.queued, statistics.in_flight) == (0, 0)


# --- denials


def test_a_subject_that_is_denied_is_asked_for_once_a_second_and_a_top_up_is_seen_within_that(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.balances["acme"] = 0.0
        decisions = []
        topped_up = now() + 10
        while now() < topped_up + 3:
            if now() >= topped_up:
                openmeter.balances["acme"] = 1000.0
            decision = checks.decide("acme", API, CHECK) or await checks.ask("acme", API, CHECK)
            decisions.append((now(), decision.reason))
            await asyncio.sleep(0.01)
        return openmeter.read("acme"), topped_up, decisions

    reads, topped_up, decisions = virtual(scenario)
    while_denied = [when for when in reads if when <= topped_up]
    assert len(while_denied) in (10, 11)
    assert all(later - first >= 1 for first, later in itertools.pairwise(while_denied))
    seen = next(when for when, reason in decisions if reason == "granted")
    assert seen - topped_up <= 1 + 2 * LATENCY
    assert {reason for when, reason in decisions if when < topped_up} == {"exhausted"}


@pytest.mark.no_cover  # it takes four times as long
def test_a_top_up_is_seen_although_thousands_wait_to_be_renewed(virtual):
    async def scenario(now):
        openmeter, checks = world(now, max_reads_per_second=1000)
        openmeter.offered = False
        crowd = [f"s{number}" for number in range(5000)]
        openmeter.balances["acme"] = 0.0
        await know(checks, ["acme", *crowd])
        await asyncio.sleep(20)
        await drain(checks)
        for subject in crowd:
            checks.decide(subject, API, CHECK)
        assert checks.decide("acme", API, CHECK).reason == "exhausted"
        openmeter.balances["acme"] = 5.0
        begun = now()
        await until(lambda: openmeter.read("acme")[-1] >= begun)
        return openmeter.read("acme")[-1] - begun

    assert virtual(scenario) < 0.1


@pytest.mark.parametrize(
    "hasten",
    [
        lambda checks: checks.expire("acme"),
        lambda checks: checks.decide("acme", ("api", "denied"), CHECK),
    ],
)
def test_who_waits_to_be_renewed_is_read_sooner_once_it_is_urgent(virtual, hasten):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.offered = False
        crowd = [f"s{number}" for number in range(200)]
        await know(checks, [*crowd, "acme"])
        await asyncio.sleep(20)
        await drain(checks)
        for subject in (*crowd, "acme"):
            checks.decide(subject, API, CHECK)
        begun = now()
        hasten(checks)
        await until(lambda: openmeter.read("acme")[-1] >= begun)
        return now() - begun

    assert virtual(scenario) < 1


# --- OpenMeter is in trouble


def test_while_openmeter_says_to_slow_down_nobody_is_asked_for_and_the_queue_goes_on_afterwards(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.trouble = OpenMeterThrottled("slow down", 20.0)
        waiting = [asyncio.ensure_future(checks.ask(f"s{number}", API, CHECK)) for number in range(50)]
        await asyncio.sleep(LATENCY + 0.01)
        told, openmeter.trouble = now(), None
        before = len(openmeter.requests)
        await asyncio.gather(*waiting)
        await asyncio.sleep(17)
        paused = len(openmeter.requests) - before
        await asyncio.sleep(10)
        return openmeter, told, paused, checks.statistics()

    openmeter, told, paused, statistics = virtual(scenario)
    assert paused == 0
    assert min(when for when in openmeter.requests if when > told) >= told + 20 - 0.01
    assert statistics.snapshots in (44, 45)  # those that the 429 answered are not asked for again unasked
    assert statistics.queued == 0


def test_while_openmeter_is_away_the_queue_does_not_hammer_it(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.trouble = OpenMeterOutage("down")
        await asyncio.gather(*(checks.ask(f"s{number}", API, CHECK) for number in range(1000)))
        await asyncio.sleep(300)
        return openmeter

    assert len(virtual(scenario).requests) < 40


# --- confirming many at once


async def crowd_of_stale(checks, openmeter, count=50):
    """So many subjects with old answers, and a budget with nothing left."""
    subjects = [f"s{number}" for number in range(count)]
    await know(checks, subjects)
    await asyncio.sleep(20)
    openmeter.reads.clear()
    await drain(checks)
    for subject in subjects:
        assert checks.decide(subject, API, CHECK).reason == "stale"
    return subjects


def scenario_of(prepare, then=lambda openmeter, checks: None, wait=1.0):
    """A crowd of stale subjects, the world changed by ``prepare`` and looked at by ``then`` after a while."""

    async def scenario(now):
        openmeter, checks = world(now)
        subjects = await crowd_of_stale(checks, openmeter)
        prepare(openmeter)
        await asyncio.sleep(wait)
        return openmeter, checks, subjects, then(openmeter, checks)

    return scenario


def test_those_whose_answer_is_old_are_confirmed_by_one_request(virtual):
    def known(openmeter, checks):
        return [(checks.age(f"s{n}"), checks.decide(f"s{n}", API, CHECK)) for n in range(50)]

    openmeter, checks, subjects, answers = virtual(scenario_of(lambda _: None, known))
    assert [who for _, who in openmeter.queries] == [tuple(subjects)]
    assert not [subject for _, subject in openmeter.reads if subject in subjects]
    assert all(age <= 1 and decision is GRANTED for age, decision in answers)
    assert (checks.statistics().batches, checks.statistics().confirmed) == (1, 50)


def test_whose_access_has_changed_is_read_alone_at_once(virtual):
    openmeter, checks, *_ = virtual(
        scenario_of(lambda openmeter: openmeter.balances.update(s7=0.0, s9=0.0), wait=2 * LATENCY + 0.5)
    )
    assert [subject for _, subject in openmeter.reads if not subject.startswith("drain")] == ["s7", "s9"]
    assert checks.statistics().confirmed == 48
    assert {checks.decide(subject, API, EACH) for subject in ("s7",)} != {GRANTED}


def test_whose_access_has_changed_does_not_wait_behind_those_who_are_only_stale(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        subjects = await crowd_of_stale(checks, openmeter, 1000)
        openmeter.balances.update(dict.fromkeys(subjects[:4], 0.0))
        await quiet(checks)
        return openmeter

    openmeter = virtual(scenario)
    last_batch = openmeter.queries[-1][0]
    changed = [when for when, subject in openmeter.reads if subject in ("s0", "s1", "s2", "s3")]
    assert len(changed) == 4
    assert max(changed) < last_batch


def test_while_openmeter_is_away_no_batch_tries_whether_it_is_back(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        subjects = [f"s{number}" for number in range(50)]
        await know(checks, subjects)
        await asyncio.sleep(20)
        openmeter.trouble = OpenMeterOutage("down")
        await drain(checks)
        for subject in subjects:
            assert checks.decide(subject, API, CHECK).reason == "stale"
        await asyncio.sleep(5)
        assert checks.statistics().failing
        tried = list(openmeter.queries)
        openmeter.trouble = None
        await until(lambda: not checks.statistics().queued)
        return tried, openmeter.queries

    tried, queries = virtual(scenario)
    assert tried == []
    assert len(queries) == 1


def test_a_denial_is_confirmed_too_and_its_end_is_read_alone(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        subjects = [f"s{number}" for number in range(10)]
        openmeter.balances.update(dict.fromkeys(subjects, 0.0))
        await know(checks, subjects)
        await asyncio.sleep(20)
        openmeter.reads.clear()
        await drain(checks)
        openmeter.balances["s3"] = 9.0
        for subject in subjects:
            checks.decide(subject, API, CHECK)
        await asyncio.sleep(0.5)
        return openmeter, checks.statistics(), [checks.decide(subject, API, CHECK) for subject in subjects]

    openmeter, statistics, decisions = virtual(scenario)
    assert statistics.confirmed == 9
    assert [subject for _, subject in openmeter.reads if subject[0] == "s"] == ["s3"]
    assert [decision.allowed for decision in decisions] == [number == 3 for number in range(10)]


def test_who_is_near_a_limit_or_known_to_have_changed_is_read_with_balances(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        subjects = [f"s{number}" for number in range(20)]
        openmeter.balances["s3"], openmeter.usage["s3"] = 99.0, 901.0
        openmeter.balances["s4"], openmeter.usage["s4"] = 101.0, 899.0
        await know(checks, subjects)
        await asyncio.sleep(20)
        openmeter.reads.clear()
        checks.expire("s5")
        await drain(checks)
        for subject in subjects:
            checks.decide(subject, API, CHECK)
        await asyncio.sleep(1)
        return openmeter

    openmeter = virtual(scenario)
    assert {subject for _, subject in openmeter.reads if subject[0] == "s"} == {"s3", "s5"}
    assert not {"s3", "s5"}.intersection(openmeter.queries[0][1])


def test_two_are_not_worth_a_batch(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        await know(checks, ["a", "b"])
        await asyncio.sleep(20)
        await drain(checks)
        for subject in ("a", "b"):
            checks.decide(subject, API, CHECK)
        await asyncio.sleep(1)
        return openmeter

    assert virtual(scenario).queries == []


def test_whom_the_batch_does_not_find_is_read_alone_from_then_on(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        openmeter.invisible = {"s7"}
        for _ in range(2):
            await crowd_of_stale(checks, openmeter)
            await asyncio.sleep(2)
            assert len(openmeter.read("s7")) == 1
        return openmeter

    first, second = virtual(scenario).queries
    assert "s7" in first[1]
    assert "s7" not in second[1]


@pytest.mark.parametrize(
    ("break_it", "seconds"),
    [
        (lambda openmeter: setattr(openmeter, "offered", False), 3600),
        (lambda openmeter: setattr(openmeter, "batch_trouble", OpenMeterOutage("500")), 60),
        (lambda openmeter: setattr(openmeter, "batch_trouble", ZeroDivisionError("oh")), 60),
    ],
)
def test_where_the_batch_is_not_offered_or_fails_reads_go_on_without_it_for_a_while(
    virtual, break_it, seconds
):
    check = EntitlementCheck(ttl_seconds=5, max_stale_seconds=9999, timeout_seconds=2)

    async def scenario(now):
        openmeter, checks = world(now)
        break_it(openmeter)
        subjects = [f"s{number}" for number in range(20)]
        await know(checks, subjects, check)
        begun = now()
        while len(openmeter.queries) < 2:
            await asyncio.sleep(10.5)
            await drain(checks)
            for subject in subjects:
                assert checks.decide(subject, API, check).reason in ("stale", "granted")
            await asyncio.sleep(1.5)
        first, second = (when for when, _ in openmeter.queries)
        alone = {subject for when, subject in openmeter.reads if first < when < second}
        return begun, first, second, alone.issuperset(subjects), checks.statistics()

    _, first, second, all_were_read, statistics = virtual(scenario)
    assert seconds <= second - first <= seconds + 30
    assert all_were_read
    assert not statistics.failing


def test_a_batch_that_is_told_to_slow_down_slows_all_down(virtual):
    def throttle(openmeter):
        openmeter.batch_trouble = OpenMeterThrottled("slow down", 20.0)

    openmeter, checks, *_ = virtual(scenario_of(throttle, wait=15.0))
    told = openmeter.queries[0][0] + LATENCY
    assert not [when for when in openmeter.requests if when > told + 1e-6]
    assert checks.statistics().failures["throttled"] == 1


def test_who_comes_to_wait_while_a_batch_is_under_way_is_read_first_where_it_confirms_nothing(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        await crowd_of_stale(checks, openmeter)
        for number in range(50):
            openmeter.balances[f"s{number}"] = 0.0
        await until(lambda: openmeter.queries)
        impatient = EntitlementCheck(ttl_seconds=5, max_stale_seconds=1, timeout_seconds=2)
        decision = await checks.ask("s49", API, impatient)
        return decision, [subject for _, subject in openmeter.reads if subject.startswith("s")]

    decision, reads = virtual(scenario)
    assert decision.reason == "exhausted"
    assert reads.index("s49") < 10


def test_a_feature_first_required_while_a_batch_is_under_way_is_not_taken_for_confirmed(virtual):
    async def scenario(now):
        openmeter, checks = world(now)
        await crowd_of_stale(checks, openmeter)
        await until(lambda: openmeter.queries)
        checks.decide("s1", ("other",), EntitlementCheck(ttl_seconds=9999, mode="shadow"))
        await asyncio.sleep(2 * LATENCY)
        return checks

    assert virtual(scenario).statistics().confirmed == 0
