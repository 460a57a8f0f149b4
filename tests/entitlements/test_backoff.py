from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.entitlements.backoff import (
    FIRST_DELAY,
    FIRST_DELAY_REFUSED,
    LONGEST_DELAY,
    MOST_BLOCKED,
    MOST_FAILING,
    Backoff,
)
from metergate.errors import OpenMeterBlocked, OpenMeterOutage, OpenMeterThrottled, OpenMeterUnauthorized

BLOCKED = OpenMeterBlocked("by a firewall")
OUTAGE = OpenMeterOutage("down")
REFUSED = OpenMeterUnauthorized("no")


def longest() -> float:
    return 0.999_999


def throttled(retry_after):
    return OpenMeterThrottled("slow down", retry_after)


@pytest.fixture
def backoff():
    return Backoff(longest)


def open_circuit(backoff, now=0.0, error=OUTAGE):
    backoff.fail("a", now, error)
    backoff.fail("b", now, error)
    assert backoff.is_open


def test_a_subject_that_fails_waits_on_its_own(backoff):
    backoff.fail("a", 0.0, OUTAGE)
    assert backoff.blocks("a", 0.4)
    assert not backoff.blocks("a", FIRST_DELAY)
    assert not backoff.blocks("b", 0.0)
    assert not backoff.is_open


def test_one_subject_can_fail_for_ever_without_harm_to_others(backoff):
    for turn in range(50):
        backoff.fail("poisoned", turn * 60.0, OUTAGE)
        assert not backoff.blocks("b", turn * 60.0)


def test_names_that_a_firewall_turns_down_wait_on_their_own_and_nothing_counts_as_failing(backoff):
    for turn in range(50):
        for name in ("<script>", "' or 1=1", "../etc"):
            backoff.fail(name, turn * 60.0, BLOCKED)
            assert backoff.wait(name, turn * 60.0) >= FIRST_DELAY_REFUSED * 0.99
        assert not backoff.is_open
        assert not backoff.is_failing
        backoff.succeed("acme", turn * 60.0 + 1)


def test_a_firewall_that_turns_everybody_down_opens_the_circuit(backoff):
    for number in range(MOST_BLOCKED):
        assert not backoff.is_open
        backoff.fail(f"s{number}", 0.0, BLOCKED)
    assert backoff.is_open
    assert backoff.blocks("other", 0.1)


def test_a_firewall_s_word_on_one_name_does_not_make_an_outage_of_another_one_s_failure(backoff):
    backoff.fail("<script>", 0.0, BLOCKED)
    backoff.fail("b", 0.0, OUTAGE)
    assert not backoff.is_open


def test_its_pauses_grow_up_to_a_bound(backoff):
    pauses = []
    for turn in range(12):
        backoff.fail("a", turn * 1000.0, OUTAGE)
        pauses.append(backoff.wait("a", turn * 1000.0))
    assert pauses[0] == pytest.approx(FIRST_DELAY, rel=1e-3)
    assert all(earlier <= later for earlier, later in pairwise(pauses))
    assert pauses[-1] == pytest.approx(LONGEST_DELAY, rel=1e-3)


def test_a_success_ends_a_subjects_pauses(backoff):
    backoff.fail("a", 0.0, OUTAGE)
    backoff.succeed("a", 0.1)
    assert not backoff.blocks("a", 0.1)
    backoff.fail("a", 1.0, OUTAGE)
    assert backoff.wait("a", 1.0) == pytest.approx(FIRST_DELAY, rel=1e-3)


def test_two_subjects_failing_in_a_row_stop_all(backoff):
    open_circuit(backoff)
    assert backoff.blocks("c", 0.1)
    assert backoff.wait("c", 0.0) == pytest.approx(FIRST_DELAY, rel=1e-3)


def test_a_success_in_between_lets_all_go_on(backoff):
    backoff.fail("a", 0.0, OUTAGE)
    backoff.succeed("c", 0.1)
    backoff.fail("b", 0.2, OUTAGE)
    assert not backoff.is_open


def test_when_the_pause_is_over_a_single_one_tries(backoff):
    open_circuit(backoff)
    assert not backoff.blocks("c", 1.0)
    backoff.begin("c")
    assert backoff.blocks("d", 1.0)
    backoff.fail("c", 1.1, OUTAGE)
    backoff.end("c")
    assert backoff.wait("d", 1.1) == pytest.approx(2 * FIRST_DELAY, rel=1e-3)
    assert not backoff.blocks("d", 3.0)
    backoff.begin("d")
    assert backoff.succeed("d", 3.1)
    assert not backoff.is_open
    assert not backoff.blocks("e", 3.1)


def test_one_that_tries_and_is_cut_off_makes_way_for_the_next(backoff):
    open_circuit(backoff)
    backoff.begin("c")
    backoff.end("c")
    assert not backoff.blocks("d", 1.0)


def test_a_hundred_that_were_on_their_way_count_as_one_failure(backoff):
    open_circuit(backoff)
    for number in range(100):
        backoff.fail(f"s{number}", 0.1, OUTAGE)
    assert backoff.wait("c", 0.1) < FIRST_DELAY


def test_a_429_stops_all_at_once_for_as_long_as_it_says(backoff):
    backoff.fail("a", 0.0, throttled(7.0))
    assert backoff.blocks("b", 6.99)
    assert 7.0 <= backoff.wait("b", 0.0) <= 7.7
    assert not backoff.blocks("b", 7.8)


def test_an_answer_that_was_on_its_way_takes_no_429_back(backoff):
    backoff.fail("a", 0.0, throttled(7.0))
    assert not backoff.succeed("b", 0.1)
    assert backoff.blocks("c", 1.0)
    backoff.begin("c")
    assert backoff.succeed("c", 8.0)


def test_a_burst_of_429_does_not_grow_the_pause_beyond_what_was_said(backoff):
    for number in range(64):
        backoff.fail(f"s{number}", 0.0, throttled(1.0))
    assert backoff.wait("c", 0.0) <= 1.1


def test_a_429_that_does_not_say_how_long_pauses_like_an_outage(backoff):
    backoff.fail("a", 0.0, throttled(None))
    assert backoff.wait("b", 0.0) == pytest.approx(FIRST_DELAY, rel=1e-3)


def test_a_refused_key_is_tried_again_slowly(backoff):
    open_circuit(backoff, error=REFUSED)
    assert backoff.wait("c", 0.0) == pytest.approx(FIRST_DELAY_REFUSED, rel=1e-3)


def test_a_slow_answer_is_a_failure_only_if_nobody_else_got_one(backoff):
    backoff.succeed("c", 5.0)
    backoff.slow("a", 4.0, 6.0, OUTAGE)
    backoff.slow("b", 4.0, 6.0, OUTAGE)
    assert not backoff.is_open
    backoff.slow("a", 5.5, 7.5, OUTAGE)
    backoff.slow("b", 5.5, 7.5, OUTAGE)
    assert backoff.is_open


def test_the_memory_of_failing_subjects_is_bounded(backoff):
    for number in range(MOST_FAILING + 10):
        backoff.fail(f"s{number}", 0.0, OUTAGE)
    assert len(backoff._subjects) <= MOST_FAILING


events = st.tuples(
    st.sampled_from(["fail", "refused", "throttled", "succeed", "slow"]),
    st.sampled_from("abc"),
    st.floats(0.01, 40),
)


@given(st.lists(events, max_size=60), st.floats(0, 0.999))
def test_whatever_happens_somebody_may_try_within_the_longest_pause(steps, jitter):
    backoff, now = Backoff(lambda: jitter), 0.0
    for what, subject, passed in steps:
        now += passed
        if backoff.blocks(subject, now):
            continue
        backoff.begin(subject)
        if what == "succeed":
            backoff.succeed(subject, now)
        elif what == "slow":
            backoff.slow(subject, now - 2, now, OUTAGE)
        else:
            error = {"fail": OUTAGE, "refused": REFUSED, "throttled": throttled(20.0)}[what]
            backoff.fail(subject, now, error)
        backoff.end(subject)
        assert backoff.wait("new", now) <= LONGEST_DELAY
        assert not backoff.blocks("new", now + LONGEST_DELAY)


def test_one_failure_is_shown_before_it_stops_others_and_an_answer_takes_it_back(backoff):
    backoff.fail("a", 0.0, OpenMeterUnauthorized("the key was refused"))
    assert (backoff.is_failing, backoff.is_open) == (True, False)
    backoff.succeed("b", 1.0)
    assert not backoff.is_failing
