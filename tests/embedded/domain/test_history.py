"""Histories: whatever the windows, they tell what the values at the same moments tell."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.entitlements import Entitlement, Metering, ask, plain_value
from metergate.embedded.domain.grants import Grant, Phase
from metergate.embedded.domain.history import ask_history
from metergate.embedded.domain.periods import Interval, Period, Recurrence
from metergate.embedded.domain.usage_periods import UsageReset
from metergate.embedded.domain.windows import WindowSize, windows_between

START = datetime(2025, 1, 1, tzinfo=UTC)
HOURS = 48


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def entitlement(*, every=24, resets=(), preserve=False) -> Entitlement:
    return Entitlement(
        id="E",
        type="metered",
        customer_id="C",
        feature_id="F",
        feature_key="calls",
        created_at=START,
        updated_at=START,
        active_from=START,
        usage_period=Recurrence(Interval(0, every * 3600, f"PT{every}H"), START),
        metering=Metering(measure_usage_from=START, preserve_overage_at_reset=preserve, resets=tuple(resets)),
    )


def grant(identifier="g", amount=100, *, at=0, until=None, every=None, keep=0) -> Grant:
    return Grant(
        id=identifier,
        amount=Decimal(amount),
        priority=1,
        effective_at=hour(at),
        created_at=START,
        expires_at=None if until is None else hour(until),
        max_rollover=Decimal(keep),
        recurrence=every and Recurrence(Interval(0, every * 3600, "P"), hour(at)),
    )


def flow(events, phase: Phase) -> Decimal:
    return sum((Decimal(n) for at, n in events if phase.start <= hour(at) < phase.end), Decimal(0))


def balance_at(thing, grants, events, time) -> Decimal:
    question = ask(thing, grants, time, gauge=False)
    ledger = question.answer([flow(events, phase) for phase in question.phases]).ledger
    assert ledger is not None
    return ledger.balance


def history(thing, grants, events, start, end, size=WindowSize.HOUR):
    windows = windows_between(start, end, size, UTC)
    question = ask_history(thing, grants, Period(start, end), windows, gauge=False)
    return question, question.answer([flow(events, phase) for phase in question.phases])


def test_segments_end_at_resets_and_where_grants_change_and_nowhere_else():
    grants = [grant("a", 10, until=5), grant("b", 20, at=2, keep=20)]
    events = [(1, 4), (3, 5), (6, 7), (30, 1)]
    _, told = history(entitlement(), grants, events, START, hour(36))
    spans = [(segment.phase.start, segment.phase.end) for segment in told.segments]
    assert spans == [(hour(0), hour(2)), (hour(2), hour(5)), (hour(5), hour(24)), (hour(24), hour(36))]
    burned = [dict(segment.burned) for segment in told.segments]
    assert burned == [{"a": 4}, {"a": 5}, {"b": 7}, {"b": 1}]
    assert [segment.opening.balance for segment in told.segments] == [10, 26, 20, 13]
    assert [segment.reset for segment in told.segments] == [False, False, True, False]


def test_only_a_metered_entitlement_has_a_history():
    plain = Entitlement(
        id="E",
        type="boolean",
        customer_id="C",
        feature_id="F",
        feature_key="sso",
        created_at=START,
        updated_at=START,
        active_from=START,
    )
    assert plain_value(plain).has_access
    with pytest.raises(ValueError, match="metered"):
        ask_history(plain, (), Period(START, hour(1)), (), gauge=False)


GRANTS = st.lists(
    st.builds(
        lambda number, amount, at, until, every, keep: grant(
            f"g{number}", amount, at=at, until=until and at + until, every=every, keep=min(keep, amount)
        ),
        st.integers(0, 10**6),
        st.integers(1, 50),
        st.integers(0, HOURS),
        st.none() | st.integers(1, HOURS),
        st.none() | st.integers(1, 30),
        st.integers(0, 50),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)
EVENTS = st.lists(st.tuples(st.integers(0, HOURS * 4).map(lambda n: n / 4), st.integers(0, 30)), max_size=15)
RESETS = st.lists(
    st.builds(lambda at, keep: UsageReset(hour(at), hour(at), keep), st.integers(1, HOURS), st.booleans()),
    max_size=3,
    unique_by=lambda reset: reset.at,
).map(lambda resets: sorted(resets, key=lambda reset: reset.at))
SPANS = st.tuples(st.integers(0, HOURS), st.integers(1, HOURS)).map(lambda pair: (pair[0], sum(pair)))


@given(GRANTS, EVENTS, RESETS, st.booleans(), SPANS)
def test_the_balance_at_a_window_is_the_value_there(grants, events, resets, preserve, span):
    thing = entitlement(resets=resets, preserve=preserve)
    question, told = history(thing, grants, events, hour(span[0]), hour(span[1]))
    for window, balance in zip(question.windows, told.balances, strict=True):
        assert balance == balance_at(thing, grants, events, window.start)


@given(GRANTS, EVENTS, RESETS, st.booleans(), SPANS)
def test_cutting_by_windows_changes_no_segment(grants, events, resets, preserve, span):
    thing = entitlement(resets=resets, preserve=preserve)
    start, end = hour(span[0]), hour(span[1])
    _, hourly = history(thing, grants, events, start, end)
    uncut = ask_history(thing, grants, Period(start, end), (), gauge=False)
    plain = uncut.answer([flow(events, phase) for phase in uncut.phases])
    assert [(each.phase.start, each.phase.end) for each in hourly.segments] == [
        (each.phase.start, each.phase.end) for each in plain.segments
    ]
    for one, other in zip(hourly.segments, plain.segments, strict=True):
        used = {name: amount for name, amount in one.burned.items() if amount}
        assert (used, one.usage, one.overage) == (dict(other.burned), other.usage, other.overage)


@given(GRANTS, EVENTS, RESETS, SPANS)
def test_segments_follow_each_other_and_each_burns_its_usage_less_what_is_owed_more(
    grants, events, resets, span
):
    _, told = history(entitlement(resets=resets), grants, events, hour(span[0]), hour(span[1]))
    starts = [segment.phase.start for segment in told.segments[1:]]
    assert starts == [segment.phase.end for segment in told.segments[:-1]]
    for segment in told.segments:
        owed_more = segment.overage - segment.opening.owed
        assert sum(segment.burned.values(), Decimal(0)) == segment.usage - owed_more
