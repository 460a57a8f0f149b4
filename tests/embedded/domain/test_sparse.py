"""Long times at once: whatever happens in them, the ledger is that of the run phase by phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain.entitlements import Entitlement, Metering, ask
from metergate.embedded.domain.grants import Grant, Ledger
from metergate.embedded.domain.periods import Interval, Recurrence
from metergate.embedded.domain.sparse import Course, ask_sparsely
from metergate.embedded.domain.usage_periods import UsageReset

START = datetime(2025, 1, 30, tzinfo=UTC)
HOURS = 24 * 120
Used = list[tuple[datetime, int]]


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def entitlement(
    every: Interval, resets: Sequence[UsageReset] = (), *, preserve: bool = False, anchor: float = 0
) -> Entitlement:
    return Entitlement(
        id="E",
        type="metered",
        customer_id="C",
        feature_id="F",
        feature_key="calls",
        created_at=START,
        updated_at=START,
        active_from=START,
        usage_period=Recurrence(every, hour(anchor)),
        metering=Metering(measure_usage_from=START, preserve_overage_at_reset=preserve, resets=tuple(resets)),
    )


INTERVALS = st.one_of(
    st.integers(1, 300).map(lambda hours: Interval(0, hours * 3600, "P")),
    st.integers(1, 3).map(lambda months: Interval(months, 0, "P")),
    st.just(Interval(1, 3600, "P")),
)
times = st.integers(0, HOURS)
amounts = st.integers(1, 60)


@st.composite
def grant_lists(draw: Any) -> list[Grant]:
    grants = []
    for number in range(draw(st.integers(0, 4))):
        at, amount = draw(times | st.just(0)), draw(amounts)
        until, voided = draw(st.none() | times), draw(st.none() | times)
        recurs, anchor = draw(st.none() | INTERVALS), draw(st.just(at) | times)
        grants.append(
            Grant(
                id=f"g{number}",
                amount=Decimal(amount),
                priority=draw(st.integers(0, 2)),
                effective_at=hour(at),
                created_at=START,
                expires_at=None if until is None else hour(at + until),
                voided_at=None if voided is None else hour(voided),
                min_rollover=Decimal(draw(st.just(0) | st.integers(0, amount))),
                max_rollover=Decimal(draw(st.integers(0, amount))),
                recurrence=recurs and Recurrence(recurs, hour(anchor)),
            )
        )
    return grants


usages = st.lists(
    st.tuples(st.integers(0, HOURS * 4).map(lambda quarter: hour(quarter / 4)), st.integers(-30, 3000)),
    max_size=8,
).map(sorted)
resets = st.lists(
    st.builds(
        lambda at, move, keep: UsageReset(hour(at), hour(at - move), keep),
        times,
        st.integers(0, 9),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda reset: reset.at,
).map(lambda made: sorted((each for each in made if each.at > START), key=lambda reset: reset.at))
entitlements = st.builds(
    lambda every, by_hand, preserve, anchor: entitlement(every, by_hand, preserve=preserve, anchor=anchor),
    INTERVALS,
    resets,
    st.booleans(),
    st.integers(-500, 500),
)


def slowly(thing: Entitlement, grants: Sequence[Grant], used: Used, until: datetime) -> Ledger:
    question = ask(thing, grants, until, gauge=False)
    usage = [sum(n for at, n in used if phase.start <= at < phase.end) for phase in question.phases]
    ledger = question.answer([Decimal(each) for each in usage]).ledger
    assert ledger is not None
    return plain(ledger)


def at_once(thing: Entitlement, grants: Sequence[Grant], used: Used, until: datetime) -> Ledger:
    opening = ask(thing, grants, until, gauge=False).ledger
    relevant = [(at, n) for at, n in used if opening.at <= at < until]
    ran = Course.of(thing, grants).run(opening, until, relevant, lambda _, each: Decimal(sum(each)))
    return plain(ran)


def plain(ledger: Ledger) -> Ledger:
    """Without the grants of which nothing was used."""
    return replace(ledger, used={grant: used for grant, used in ledger.used.items() if used})


def grant(amount: int, every: int | None = None, **fields: Any) -> Grant:
    recurs = None if every is None else Recurrence(Interval(0, every * 3600, "P"), START)
    given = {"id": "g", "priority": 1, "effective_at": START, "created_at": START, "recurrence": recurs}
    return Grant(amount=Decimal(amount), **(given | fields))


OWING = [(hour(1), 3000)]


@settings(max_examples=300)
@given(entitlements, grant_lists(), usages, times)
@example(entitlement(Interval(0, 3600, "P"), preserve=True), [grant(1, 5)], OWING, HOURS)
@example(
    entitlement(Interval(0, 7200, "P"), preserve=True),
    [grant(7, min_rollover=Decimal(7), max_rollover=Decimal(7))],
    OWING,
    HOURS,
)
@example(
    entitlement(Interval(0, 7200, "P"), preserve=True),
    [grant(7, 3, min_rollover=Decimal(2), max_rollover=Decimal(7))],
    OWING,
    HOURS,
)
@example(entitlement(Interval(2, 0, "P")), [grant(3, 1, max_rollover=Decimal(3))], OWING, HOURS)
@example(entitlement(Interval(1, 0, "P")), [grant(3, 1)], [(hour(1), 10), (hour(2), -30)], HOURS)
def test_all_that_lies_between_two_moments_of_usage_comes_to_the_same_at_once(thing, grants, used, until):
    assert at_once(thing, grants, used, hour(until)) == slowly(thing, grants, used, hour(until))


@given(entitlements, grant_lists(), usages, times, times)
def test_cutting_the_time_anywhere_changes_nothing(thing, grants, used, middle, until):
    middle, until = sorted((middle, until))
    course, opening = Course.of(thing, grants), ask(thing, grants, START, gauge=False).ledger

    def run(ledger: Ledger, end: datetime) -> Ledger:
        relevant = [(at, n) for at, n in used if ledger.at <= at < end]
        return course.run(ledger, end, relevant, lambda _, each: Decimal(sum(each)))

    assert plain(run(run(opening, hour(middle)), hour(until))) == plain(run(opening, hour(until)))


class Counting:
    """Counts how often the boundary of a recurrence is asked for: what long times cost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        boundary = Recurrence.boundary

        def counted(recurrence: Recurrence, number: int) -> datetime:
            self.asked += 1
            return boundary(recurrence, number)

        monkeypatch.setattr(Recurrence, "boundary", counted)


@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("years", [-200, 20, 2000, 7970])
def test_how_far_away_a_time_is_does_not_matter(monkeypatch, preserve, years):
    thing = entitlement(Interval(0, 3600, "PT1H"), preserve=preserve)
    grants = [
        grant(1, 1, id="a", max_rollover=Decimal(1)),
        grant(5, 24, id="b"),
        grant(9, id="c", max_rollover=Decimal(9)),
    ]
    counting = Counting(monkeypatch)
    question = ask_sparsely(thing, grants, START.replace(year=START.year + years))
    if years < 0:
        assert question is None
        return
    assert question is not None
    ledger = question.run([(START, 10**7)], lambda _, each: Decimal(sum(each)))
    assert counting.asked < 5_000
    assert ledger.balance == (0 if preserve and years == 20 else 6)  # both recurrences fall on this moment


def test_few_phases_are_run_one_by_one():
    assert ask_sparsely(entitlement(Interval(0, 3600, "PT1H")), [grant(1)], hour(11)) is None
    assert (
        ask_sparsely(entitlement(Interval(0, 3600, "PT1H"), preserve=True), [grant(1)], hour(13)) is not None
    )
