"""What a balance does not say is asked once for all who want to know, and again after a while."""

from __future__ import annotations

import asyncio

import pytest

from metergate.entitlements.usage.terms import KNOWN_SECONDS, RISES_SECONDS, UNKNOWN_SECONDS, Terms
from metergate.errors import OpenMeterOutage
from metergate.openmeter.values import MeteredEntitlement

NOON = 1_800_000_000.0


class EntitlementSource:
    def __init__(self):
        self.answer = MeteredEntitlement(is_soft_limit=True)
        self.rise = ()
        self.asked = 0

    async def entitlement(self, subject, feature):
        return await self.give(self.answer)

    async def rises(self, subject, feature):
        return await self.give(self.rise)

    async def give(self, answer):
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def limits():
    return EntitlementSource()


@pytest.fixture
def terms(limits, clock):
    """Our clock shows ``NOON`` when ``clock`` shows what it begins with; the margin is 5 s."""
    began = clock()
    made = Terms(limits, clock, lambda: NOON + clock() - began)
    made.margin = 5.0
    return made


def find_out(terms, times=1):
    async def scenario():
        return set(await asyncio.gather(*(terms.soft.find_out("acme", "calls") for _ in range(times))))

    return asyncio.run(scenario())


def is_early(terms, after=0.0):
    """Of an answer that was asked for so many seconds after noon."""
    return asyncio.run(terms.is_early("acme", "calls", NOON + after))


@pytest.mark.parametrize("is_soft", [True, False])
def test_it_is_asked_once_for_many_and_again_after_a_while(limits, terms, clock, is_soft):
    limits.answer = MeteredEntitlement(is_soft_limit=is_soft)
    assert terms.soft.known("acme", "calls") is None
    assert (find_out(terms, 10), find_out(terms), limits.asked) == ({is_soft}, {is_soft}, 1)
    assert terms.soft.known("acme", "calls") is is_soft
    clock.advance(KNOWN_SECONDS)
    assert terms.soft.known("acme", "calls") is None
    assert (find_out(terms), limits.asked) == ({is_soft}, 2)


def test_a_limit_that_openmeter_cannot_say_anything_of_is_hard_for_a_moment(limits, terms, clock):
    limits.answer = OpenMeterOutage("away")
    assert (find_out(terms), find_out(terms), limits.asked) == ({False}, {False}, 1)
    limits.answer = MeteredEntitlement(is_soft_limit=True)
    clock.advance(UNKNOWN_SECONDS)
    assert find_out(terms) == {True}


def test_what_was_known_of_a_limit_stays_so_while_openmeter_is_away(limits, terms, clock):
    assert find_out(terms) == {True}
    limits.answer = OpenMeterOutage("away")
    clock.advance(KNOWN_SECONDS)
    assert find_out(terms) == {True}


def test_where_there_is_no_entitlement_the_limit_is_hard(limits, terms):
    limits.answer = None
    assert find_out(terms) == {False}


@pytest.mark.parametrize(
    ("rise", "early"),
    [
        (-3600.0, False),
        (-5.1, False),
        (-4.9, True),
        (0.5, True),
        (64.9, True),
        (65.1, False),
        (86400.0, False),
    ],
    ids=["long ago", "over", "by a clock behind", "ahead", "by a clock ahead", "later", "tomorrow"],
)
def test_an_answer_is_early_where_more_is_granted_within_the_next_minute(limits, terms, rise, early):
    limits.rise = (NOON + rise,)
    assert is_early(terms) is early


def test_after_a_period_has_begun_it_is_asked_when_the_next_does(limits, terms, clock):
    limits.rise = (NOON + 6,)
    assert is_early(terms)
    clock.advance(9.9)
    assert is_early(terms, after=9.9)
    assert limits.asked == 1
    limits.rise = (NOON + 6, NOON + 3630)
    clock.advance(1.2)
    assert not is_early(terms, after=11.1)
    assert limits.asked == 2


def test_a_grant_that_was_made_after_it_was_asked_when_more_is_granted_is_found_in_time(limits, terms, clock):
    assert not is_early(terms)
    limits.rise = (NOON + 60,)
    clock.advance(RISES_SECONDS)
    assert is_early(terms, after=RISES_SECONDS)


def test_after_something_new_it_is_asked_anew_at_once_when_more_is_granted(limits, terms):
    assert not is_early(terms)
    limits.rise = (NOON + 60,)
    terms.settle("acme", "calls", has_changed=False)
    assert not is_early(terms)
    terms.settle("acme", "calls", has_changed=True)
    assert is_early(terms)


def test_where_openmeter_cannot_say_when_more_is_granted_any_answer_may_be_early(limits, terms, clock):
    limits.rise = (NOON + 3600,)
    assert not is_early(terms)
    limits.rise = OpenMeterOutage("away")
    for after in (RISES_SECONDS, 1000.0, 10_000.0):
        clock.now = 1000.0 + after
        assert is_early(terms, after=after), "what was known an hour ago may have changed"


def test_what_an_early_answer_allowed_is_in_force_once_its_minute_is_over_for_sure(terms):
    def in_force(after, amount):
        return terms.in_force("acme", "calls", NOON + after, amount)

    assert [in_force(0, 20.0), in_force(40, 30.0), in_force(69.9, 35.0)] == [None, None, None]
    assert in_force(70, 40.0) == 20, "the answer of a minute ago, not the newest"
    assert in_force(139, 50.0) is None
    assert in_force(140, 33.0) == 33, "no more than the newest allows, either"
    terms.settle("acme", "calls", has_changed=False)
    assert in_force(300, 90.0) is None, "another story"


def test_with_no_entitlement_no_answer_is_early(limits, terms):
    assert not is_early(terms)
