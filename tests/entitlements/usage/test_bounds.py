"""What all answers of one period have in common: so one that tells of something new is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.entitlements.usage.bounds import Bounds


@pytest.fixture
def bounds():
    return Bounds(memoryview(bytearray(8 * 2 * 4)).cast("Q"))


def test_nothing_exceeds_what_is_not_known(bounds):
    assert not bounds.exceeds(1, 1e12)


def test_the_first_answer_is_known_from_then_on_also_where_it_allows_nothing(bounds):
    bounds.narrow(1, 0.0, 0.0)
    assert bounds.exceeds(1, 1.0)
    assert not bounds.exceeds(2, 1.0)


def test_an_answer_narrows_what_is_known_and_never_widens_it(bounds):
    bounds.narrow(1, 70.0, 100.0)
    bounds.narrow(1, 60.0, 110.0)
    assert (bounds.least(1), bounds.exceeds(1, 100.0), bounds.exceeds(1, 100.1)) == (70.0, False, True)
    bounds.narrow(1, 50.0, 65.0)
    assert bounds.least(1) == 65.0, "less is left than was thought: somebody else uses it too"


def test_what_is_new_begins_anew(bounds):
    bounds.narrow(1, 70.0, 100.0)
    bounds.begin(1, 170.0, 200.0)
    assert (bounds.least(1), bounds.exceeds(1, 200.0), bounds.exceeds(1, 201.0)) == (170.0, False, True)


def test_what_is_surely_allowed_by_now_raises_what_is_known_and_never_lowers_it(bounds):
    bounds.narrow(1, 70.0, 100.0)
    bounds.rise_to(1, 60.0)
    assert (bounds.least(1), bounds.exceeds(1, 100.0)) == (70.0, False)
    bounds.rise_to(1, 120.0)
    assert (bounds.least(1), bounds.exceeds(1, 120.0), bounds.exceeds(1, 121.0)) == (120.0, False, True)


def test_a_place_that_goes_to_somebody_else_is_not_known(bounds):
    bounds.narrow(1, 70.0, 100.0)
    bounds.forget(1)
    assert not bounds.exceeds(1, 1e12)


@given(
    quota=st.integers(0, 1000),
    answers=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), max_size=20),
)
def test_no_answer_of_one_period_is_taken_for_something_new(quota, answers):
    """``answers``: what is recorded before each, how much of that it lacks, and how much of what it holds is not known."""
    bounds = Bounds(memoryview(bytearray(16)).cast("Q"))
    recorded = 0
    for more, lacks, unknown in answers:
        recorded += more
        held = max(recorded - lacks, 0)
        balance, base = quota - held, max(held - unknown, 0)
        assert not bounds.exceeds(0, balance + base)
        bounds.narrow(0, balance + base, balance + recorded)
        assert bounds.least(0) <= quota
