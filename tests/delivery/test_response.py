from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.delivery.batch import split
from metergate.delivery.response import (
    BACKOFF_CAP,
    LONGEST_RETRY_AFTER,
    REFUSED_IN_A_ROW,
    REFUSING_CAP,
    SLOW_BASE,
    SLOW_CAP,
    TRIES_OF_A_STRANGER,
    Standing,
    after_response,
    backoff,
)
from metergate.openmeter.ingest import IngestAnswer

FRESH = Standing()


def problem(status):
    return IngestAnswer(status, "no", by_openmeter=True)


@pytest.mark.parametrize("status", [202, 204])
def test_what_openmeter_acknowledges_is_delivered(status):
    action = after_response(9, IngestAnswer(status), Standing(5, 5, 50), 0.5)
    assert (action.verdict, action.state, action.pause) == ("delivered", "ok", 0.0)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("by_openmeter", [True, False])
def test_a_refused_batch_is_split(status, by_openmeter):
    assert after_response(2, IngestAnswer(status, by_openmeter=by_openmeter), FRESH, 0.5).verdict == "split"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_event_that_openmeter_refuses_is_buried_at_once(status):
    action = after_response(1, problem(status), FRESH, 0.5)
    assert (action.verdict, action.pause) == ("bury", 0.0)


@pytest.mark.parametrize("status", [400, 422])
def test_one_event_that_somebody_else_refuses_is_kept_and_buried_only_after_many_slow_tries(status):
    answer = IngestAnswer(status, "<html>")
    for refusals in range(TRIES_OF_A_STRANGER - 1):
        action = after_response(1, answer, Standing(refusals=refusals), 0.0)
        assert (action.verdict, action.state) == ("retry", "misdirected")
        assert action.pause >= SLOW_BASE / 2
    assert after_response(1, answer, Standing(refusals=TRIES_OF_A_STRANGER - 1), 0.0).verdict == "bury"


def test_an_outage_before_a_strangers_refusal_does_not_count_as_refusals():
    assert after_response(1, IngestAnswer(400), Standing(failures=1000), 0.0).verdict == "retry"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_keeps_the_events_and_slows_down(status):
    action = after_response(500, problem(status), FRESH, 0.0)
    assert (action.verdict, action.state) == ("retry", "unauthorized")
    assert SLOW_BASE / 2 <= action.pause <= SLOW_CAP


@pytest.mark.parametrize("status", [200, 201, 301, 302, 307, 404, 405, 410, 100, 600])
def test_an_answer_that_openmeter_never_gives_is_not_believed(status):
    action = after_response(500, IngestAnswer(status), FRESH, 0.0)
    assert (action.verdict, action.state) == ("retry", "misdirected")
    assert action.pause >= SLOW_BASE / 2


@pytest.mark.parametrize("status", [0, 408, 425, 500, 502, 503, 504, 599])
def test_an_outage_is_retried_with_backoff(status):
    first = after_response(500, IngestAnswer(status), FRESH, 1.0)
    later = after_response(500, IngestAnswer(status), Standing(failures=4), 1.0)
    assert (first.verdict, first.state) == ("retry", "retrying")
    assert first.pause < later.pause <= BACKOFF_CAP


@pytest.mark.parametrize("status", [429, 503])
@given(seconds=st.floats(0, 1e9), jitter=st.floats(0, 1))
def test_retry_after_is_never_cut_short_but_bounded(status, seconds, jitter):
    action = after_response(1, IngestAnswer(status, retry_after=seconds), FRESH, jitter)
    assert (action.verdict, action.state) == ("retry", "throttled")
    assert min(seconds, LONGEST_RETRY_AFTER) <= action.pause <= LONGEST_RETRY_AFTER * 1.1


def test_a_429_that_does_not_say_how_long_backs_off():
    action = after_response(1, IngestAnswer(429), FRESH, 1.0)
    assert (action.verdict, action.state, action.pause) == ("retry", "throttled", backoff(0, 1.0))


@given(attempt=st.integers(0, 10_000), jitter=st.floats(0, 1))
def test_backoff_waits_at_least_half_and_never_more_than_its_cap(attempt, jitter):
    full = min(BACKOFF_CAP, 0.5 * 2 ** min(attempt, 30))
    assert full / 2 <= backoff(attempt, jitter) <= full


@given(events=st.integers(1, 500), in_a_row=st.integers(REFUSED_IN_A_ROW, 10_000))
def test_when_everything_is_refused_each_refusal_costs_a_bounded_pause(events, in_a_row):
    action = after_response(events, problem(400), Standing(buried=in_a_row), 1.0)
    assert action.state == "refusing"
    assert 0 < action.pause <= REFUSING_CAP


@given(
    st.one_of(
        st.sampled_from([0, 200, 204, 301, 400, 401, 403, 404, 413, 422, 429, 500, 503]), st.integers(0, 999)
    ),
    st.integers(1, 500),
    st.booleans(),
    st.builds(Standing, st.integers(0, 100), st.integers(0, 9), st.integers(0, 100)),
)
def test_nothing_but_an_acknowledgement_or_a_burial_lets_go_of_an_event(
    status, events, by_openmeter, standing
):
    action = after_response(events, IngestAnswer(status, by_openmeter=by_openmeter), standing, 0.5)
    if action.verdict == "delivered":
        assert status in (202, 204)
    if action.verdict == "bury":
        assert events == 1
        assert status in (400, 413, 422)
    if action.verdict == "split":
        assert events > 1


@given(st.lists(st.booleans(), min_size=1, max_size=64))
def test_splitting_isolates_exactly_the_bad_events_and_delivers_each_good_one_once(bad):
    delivered, buried, requests = [], [], 0
    plan = [len(bad)]
    position = 0
    while plan:
        count = plan.pop(0)
        part = range(position, position + count)
        requests += 1
        answer = problem(400) if any(bad[number] for number in part) else IngestAnswer(204)
        verdict = after_response(count, answer, FRESH, 0.0).verdict
        if verdict == "split":
            plan[:0] = split(count)
            continue
        (delivered if verdict == "delivered" else buried).extend(part)
        position += count
    assert buried == [number for number, is_bad in enumerate(bad) if is_bad]
    assert delivered == [number for number, is_bad in enumerate(bad) if not is_bad]
    assert requests <= 2 * len(bad)
