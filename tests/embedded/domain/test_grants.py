"""The burn-down of grants: hand-computed scenarios, and laws that hold for any grants, resets and usage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.grants import (
    Grant,
    Ledger,
    Phase,
    Reset,
    TooManyPhases,
    burn_order,
    forgetting_reset,
    open_at_reset,
    open_ledger,
    plan,
    run,
)
from metergate.embedded.domain.periods import Interval, Recurrence

START = datetime(2025, 1, 1, tzinfo=UTC)


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


def grant(
    identifier="g", amount="100", *, at=0, until=None, voided=None, priority=1, rollover=(0, 0), every=None
):
    return Grant(
        id=identifier,
        amount=Decimal(amount),
        priority=priority,
        effective_at=minute(at),
        created_at=START,
        expires_at=None if until is None else minute(until),
        voided_at=None if voided is None else minute(voided),
        min_rollover=Decimal(rollover[0]),
        max_rollover=Decimal(rollover[1]),
        recurrence=every and Recurrence(Interval(0, every * 60, "P"), minute(at)),
    )


def burn(grants, events, until, *, resets=(), ledger=None, gauge=False):
    """``events`` are (minute, amount); a gauge's level is the last amount since its period began."""
    ledger = ledger or open_ledger(grants, START)
    phases = plan(grants, resets, ledger.at, minute(until), ledger.period_start)
    usages = [level(events, phase) if gauge else flow(events, phase) for phase in phases]
    return run(grants, resets, ledger, phases, usages, gauge=gauge)


def flow(events, phase: Phase) -> Decimal:
    return sum(
        (Decimal(amount) for at, amount in events if phase.start <= minute(at) < phase.end), Decimal(0)
    )


def level(events, phase: Phase) -> Decimal:
    seen = [(at, amount) for at, amount in events if phase.period_start <= minute(at) < phase.end]
    return Decimal(max(seen)[1]) if seen else Decimal(0)


def figures(ledger: Ledger):
    return tuple(float(part) for part in (ledger.balance, ledger.usage, ledger.overage, ledger.available))


def test_usage_is_taken_from_the_grant_and_what_exceeds_it_is_overage():
    assert figures(burn([grant()], [(1, 30)], 10).ledger) == (70, 30, 0, 100)
    assert figures(burn([grant()], [(1, 30), (5, 90)], 10).ledger) == (0, 120, 20, 100)


def test_usage_at_the_end_of_the_time_asked_for_does_not_count():
    assert figures(burn([grant()], [(10, 30)], 10).ledger) == (100, 0, 0, 100)


def test_the_lower_priority_number_is_burned_first_then_the_earlier_expiration_then_the_older():
    late, soon, never = grant("late", until=90), grant("soon", until=50), grant("never")
    first = grant("first", priority=0)
    older = replace(grant("z"), created_at=START - timedelta(days=1))
    order = [each.id for each in burn_order([never, late, older, soon, first])]
    assert order == ["first", "soon", "late", "z", "never"]


def test_an_expired_grant_is_worth_nothing_but_what_it_covered_stays_available():
    result = burn([grant("a", "10", until=5), grant("b", "10")], [(1, 4), (7, 3)], 10)
    assert figures(result.ledger) == (7, 7, 0, 14)
    assert dict(result.ledger.balances) == {"b": Decimal(7)}


def test_a_voided_grant_ends_when_it_is_voided():
    assert figures(burn([grant(voided=5)], [(1, 30), (6, 20)], 10).ledger) == (0, 50, 20, 30)


def test_a_grant_that_starts_later_pays_the_overage_first():
    grants = [grant("a", "10"), grant("b", "50", at=5)]
    assert figures(burn(grants, [(1, 25)], 4).ledger) == (0, 25, 15, 10)
    assert figures(burn(grants, [(1, 25)], 5).ledger) == (35, 25, 0, 60)
    assert figures(burn(grants, [(1, 25), (6, 5)], 10).ledger) == (30, 30, 0, 60)


def test_a_recurring_grant_has_its_full_amount_again_at_each_recurrence():
    grants = [grant(amount="10", every=60)]
    assert figures(burn(grants, [(1, 8)], 59).ledger) == (2, 8, 0, 10)
    assert figures(burn(grants, [(1, 8)], 60).ledger) == (10, 8, 0, 18)
    assert figures(burn(grants, [(1, 8), (61, 15)], 90).ledger) == (0, 23, 5, 18)
    assert figures(burn(grants, [(1, 8), (61, 15)], 120).ledger) == (5, 23, 0, 28)


@pytest.mark.parametrize(
    ("rollover", "used", "expected"),
    [
        ((0, 0), 30, 0),
        ((100, 100), 30, 100),
        ((0, 100), 30, 70),
        ((0, 50), 30, 50),
        ((20, 50), 95, 20),
        ((50, 20), 0, 20),
    ],
)
def test_a_reset_leaves_a_grant_between_its_rollover_amounts(rollover, used, expected):
    result = burn([grant(rollover=rollover)], [(1, used)], 20, resets=[Reset(minute(10))])
    assert figures(result.ledger) == (expected, 0, 0, expected)


def test_overage_is_forgotten_at_a_reset_unless_it_is_preserved():
    full = [grant(rollover=(100, 100))]
    assert figures(burn(full, [(1, 130)], 20, resets=[Reset(minute(10))]).ledger) == (100, 0, 0, 100)
    kept = burn(full, [(1, 130), (11, 5)], 20, resets=[Reset(minute(10), preserve_overage=True)])
    assert figures(kept.ledger) == (65, 5, 0, 100)
    more = burn(full, [(1, 330)], 20, resets=[Reset(minute(10), preserve_overage=True)])
    assert figures(more.ledger) == (0, 0, 130, 100)


def test_a_reset_at_the_moment_asked_for_has_happened():
    result = burn([grant(rollover=(100, 100))], [(1, 30)], 10, resets=[Reset(minute(10))])
    assert figures(result.ledger) == (100, 0, 0, 100)
    assert result.ledger.period_start == minute(10)


def test_a_gauge_is_measured_against_the_full_amounts_whatever_it_was_before():
    events = [(1, 900), (2, 150)]
    assert figures(burn([grant(amount="1000")], events, 10, gauge=True).ledger) == (850, 150, 0, 1000)
    assert figures(burn([grant(amount="100")], events, 10, gauge=True).ledger) == (0, 150, 50, 100)
    topped = [grant("a", "100"), grant("b", "100", at=5)]
    assert figures(burn(topped, events, 10, gauge=True).ledger) == (50, 150, 0, 200)
    assert figures(burn(topped, events, 10, gauge=True, resets=[Reset(minute(7))]).ledger)[:3] == (
        100 + 100,
        0,
        0,
    )


def test_ten_tenths_use_up_a_grant_of_one_exactly():
    result = burn([grant(amount="1")], [(number, "0.1") for number in range(10)], 20)
    assert figures(result.ledger) == (0, 1, 0, 1)


def test_a_correction_gives_back_first_what_is_owed_then_to_the_grant_burned_last():
    grants = [grant("a", "10"), grant("b", "10", priority=2)]
    result = burn(grants, [(1, 25)], 5)
    corrected = burn(grants, [(6, -8)], 10, ledger=result.ledger)
    assert dict(corrected.ledger.balances) == {"a": Decimal(0), "b": Decimal(3)}
    assert figures(corrected.ledger) == (3, 17, 0, 20)
    beyond = burn(grants, [(11, -30), (12, 40)], 20, ledger=corrected.ledger)
    assert figures(beyond.ledger) == (0, 27, 7, 20)


def test_each_segment_says_what_its_phase_took_from_whom():
    grants = [grant("a", "10"), grant("b", "10", at=5)]
    first, second = burn(grants, [(1, 4), (6, 9)], 10).segments
    assert (first.phase.end, dict(first.burned), first.overage) == (minute(5), {"a": Decimal(4)}, 0)
    assert dict(second.burned) == {"a": Decimal(6), "b": Decimal(3)}
    assert dict(second.opening.balances) == {"a": Decimal(6), "b": Decimal(10)}


def test_only_history_that_matters_is_asked_for():
    resets = [Reset(minute(number)) for number in (10, 20, 30)]

    def last(time):
        return max((reset for reset in resets if reset.at <= time), key=lambda reset: reset.at, default=None)

    fixed, carrying = grant("a", rollover=(100, 100)), grant("b", at=15, rollover=(0, 100))
    assert forgetting_reset([fixed], last, minute(35), gauge=False) == resets[2]
    assert forgetting_reset([fixed, carrying], last, minute(35), gauge=False) == resets[0]
    assert (
        forgetting_reset([fixed, replace(carrying, effective_at=minute(5))], last, minute(35), gauge=False)
        is None
    )
    assert forgetting_reset([carrying], last, minute(35), gauge=True) == resets[2]
    resets[2] = Reset(minute(30), preserve_overage=True)
    assert forgetting_reset([fixed], last, minute(35), gauge=False) is None


def test_a_gauge_starts_a_period_with_the_full_amounts_whatever_the_rollover_says():
    opening = open_at_reset([grant(rollover=(0, 0))], Reset(minute(10)), gauge=True)
    assert figures(opening) == figures(
        burn([grant()], [(1, 30)], 10, resets=[Reset(minute(10))], gauge=True).ledger
    )
    assert opening.balance == 100


def test_a_question_about_too_far_a_future_is_refused_instead_of_computed():
    with pytest.raises(TooManyPhases, match="100000"):
        burn([grant(every=60)], [], 60 * 24 * 365 * 20)


MINUTES = 300
AMOUNTS = st.integers(0, 60)


@st.composite
def grant_lists(draw):
    grants = []
    for number in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, MINUTES))
        low, high = draw(AMOUNTS), draw(AMOUNTS)
        amount = draw(st.integers(1, 60))
        grants.append(
            grant(
                f"g{number}",
                amount,
                at=start,
                until=draw(st.none() | st.integers(start, MINUTES)),
                voided=draw(st.none() | st.integers(start, MINUTES)),
                priority=draw(st.integers(0, 2)),
                rollover=(min(low, amount), min(high, amount)),
                every=draw(st.none() | st.integers(60, 120)),
            )
        )
    return grants


EVENTS = st.lists(st.tuples(st.integers(0, MINUTES), st.integers(0, 40)), max_size=12)
RESETS = st.lists(
    st.builds(lambda at, keep: Reset(minute(at), keep), st.integers(1, MINUTES), st.booleans()),
    max_size=4,
    unique_by=lambda reset: reset.at,
)


def oracle(grants, events, until, resets):
    """The same by brute force: minute by minute, one unit of usage at a time."""
    left, owed, usage, ordered = {}, 0, 0, burn_order(grants)

    def pay(units):
        for _ in range(units):
            payer = next((each.id for each in ordered if left.get(each.id, 0) > 0), None)
            if payer is None:
                return units
            left[payer] -= 1
            units -= 1
        return units

    for number in range(until + 1):
        now = minute(number)
        reset = next((reset for reset in resets if reset.at == now), None)
        for each in grants:
            if not each.active_at(now):
                left.pop(each.id, None)
            elif each.refills_at(now):
                left[each.id] = int(each.amount)
            elif reset:
                left[each.id] = int(each.after_reset(Decimal(left[each.id])))
        if reset:
            usage, owed = 0, owed if reset.preserve_overage else 0
        owed = pay(owed)
        amount = sum(amount for at, amount in events if at == number and number < until)
        usage += amount
        owed = pay(owed + amount)
    return sum(left.values()), usage, owed, left


@given(grant_lists(), EVENTS, RESETS, st.integers(0, MINUTES))
def test_the_engine_agrees_with_counting_units_minute_by_minute(grants, events, resets, until):
    ledger = burn(grants, events, until, resets=resets).ledger
    balance, usage, overage, left = oracle(grants, events, until, resets)
    assert (ledger.balance, ledger.usage, ledger.overage) == (balance, usage, overage)
    assert {key: int(value) for key, value in ledger.balances.items()} == left


@given(grant_lists(), EVENTS, RESETS, st.integers(0, MINUTES), st.integers(0, MINUTES))
def test_cutting_a_run_anywhere_changes_nothing(grants, events, resets, middle, until):
    middle, until = sorted((middle, until))
    half = burn(grants, events, middle, resets=resets).ledger
    assert (
        burn(grants, events, until, resets=resets, ledger=half).ledger
        == burn(grants, events, until, resets=resets).ledger
    )


@given(grant_lists(), EVENTS, RESETS, st.integers(0, MINUTES), st.randoms(use_true_random=False))
def test_the_order_in_which_grants_are_given_does_not_matter(grants, events, resets, until, random):
    shuffled = random.sample(grants, len(grants))
    assert (
        burn(grants, events, until, resets=resets).ledger
        == burn(shuffled, events, until, resets=resets).ledger
    )


SIGNED = st.lists(st.tuples(st.integers(0, MINUTES), st.integers(-40, 40)), max_size=12)


@given(grant_lists(), SIGNED, RESETS, st.integers(0, MINUTES))
def test_no_balance_is_negative_or_above_its_amount_and_what_was_burned_is_usage_less_overage(
    grants, events, resets, until
):
    forgetting = [replace(reset, preserve_overage=False) for reset in resets]
    ledger = burn(grants, events, until, resets=forgetting).ledger
    amounts = {each.id: each.amount for each in grants}
    assert all(0 <= balance <= amounts[key] for key, balance in ledger.balances.items())
    assert ledger.consumed == ledger.usage - ledger.owed
    assert ledger.available == ledger.consumed + ledger.balance


@given(grant_lists(), EVENTS, RESETS, st.integers(0, MINUTES), st.booleans())
def test_starting_from_the_last_reset_that_forgets_gives_the_same_as_starting_from_the_beginning(
    grants, events, resets, until, gauge
):
    def last(time):
        return max((reset for reset in resets if reset.at <= time), key=lambda reset: reset.at, default=None)

    reset = forgetting_reset(grants, last, minute(until), gauge=gauge)
    if reset is not None:
        opening = open_at_reset(grants, reset, gauge=gauge)
        short = burn(grants, events, until, resets=resets, ledger=opening, gauge=gauge).ledger
        whole = burn(grants, events, until, resets=resets, gauge=gauge).ledger
        assert short == whole
