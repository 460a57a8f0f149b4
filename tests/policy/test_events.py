"""Events: their bytes, their ids, whom they count for, and what becomes of those that cannot be made."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import UsageError
from metergate.policy import Drop, EventEncoder, Meter, Policy, RecordedEvent, Secret, merge, runtime_meters

REQUEST_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
TIME_MS = 1_769_860_800_123
TIME = "2026-01-31T12:00:00.123Z"

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
names = texts.filter(str.strip)
data = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
types = st.sampled_from(["call", "call-2", "call-3", "llm", "llm-2"]) | names
static_meters = st.builds(Meter, types, st.none() | data, subject=st.none() | texts, source=st.none() | names)
own_meters = st.builds(
    Meter, types, st.none() | data, st.none() | texts, st.none() | names, st.none() | names, st.just(TIME)
)


def of(*meters: Meter, source: str = "api-gateway") -> EventEncoder:
    return EventEncoder(Policy(name="p", api_key=Secret("k"), meters=meters, event_source=source))


def events(lines: bytes) -> list[dict[str, Any]]:
    assert lines == b"" or lines.endswith(b"\n")
    return [json.loads(line) for line in lines.splitlines()]


def test_an_event_is_one_line_of_these_bytes():
    recording = of(Meter("api-request", {"count": 1})).record(REQUEST_ID, "user-1", TIME_MS, None, {})
    assert recording.lines == (
        b'{"specversion":"1.0","id":"0f8fad5b-d9cb-469f-a165-70867728950e-api-request",'
        b'"time":"2026-01-31T12:00:00.123Z","source":"api-gateway","subject":"user-1",'
        b'"type":"api-request","data":{"count":1}}\n'
    )
    assert recording.count == 1
    assert recording.dropped == ()
    assert recording.events == (RecordedEvent("api-request", "user-1", {"count": 1}),)


def test_data_is_left_out_where_there_is_none_and_kept_where_it_is_empty():
    lines = of(Meter("a"), Meter("b", {})).record("r", "s", TIME_MS, None, {}).lines
    assert [event.get("data", "none") for event in events(lines)] == ["none", {}]


def test_a_policy_without_meters_records_nothing():
    recording = of().record("r", "s", TIME_MS, None, {})
    assert (recording.lines, recording.count, recording.dropped, recording.events) == (b"", 0, (), ())


@given(st.lists(static_meters, max_size=4), st.none() | st.lists(own_meters, max_size=4), texts, names)
def test_every_line_reads_back_as_the_event_that_it_is(configured, own, subject, source):
    runtime = None if own is None else runtime_meters(own)
    encoder = of(*configured, source=source)
    recording = encoder.record(REQUEST_ID, subject, TIME_MS, runtime, {})
    meters = merge(tuple(configured), runtime)
    read = events(recording.lines)
    assert recording.count == len(meters) == len(read) == recording.lines.count(b"\n")
    assert recording.dropped == ()
    for meter, event in zip(meters, read, strict=True):
        event_id = event.pop("id")
        assert event_id == meter.id if meter.id else event_id.startswith(f"{REQUEST_ID}-{meter.type}")
        expected = {
            "specversion": "1.0",
            "time": meter.time or TIME,
            "source": meter.source or source,
            "subject": meter.subject or subject,
            "type": meter.type,
        }
        assert event == expected | ({} if meter.data is None else {"data": meter.data})
    assert recording.events == tuple(
        RecordedEvent(meter.type, meter.subject or subject, meter.data) for meter in meters
    )


@given(st.lists(st.lists(static_meters, max_size=4), max_size=3))
def test_no_two_events_of_a_request_have_one_id_whatever_their_types_and_policies(policies):
    sequence: dict[str, int] = {}
    ids = [
        event["id"]
        for meters in policies
        for event in events(of(*meters).record("r", "s", TIME_MS, None, sequence).lines)
    ]
    assert len(set(ids)) == len(ids) == sum(len(meters) for meters in policies)


def test_further_meters_of_a_type_are_numbered_across_policies():
    sequence: dict[str, int] = {}
    first = of(Meter("call"), Meter("llm"), Meter("call")).record("r", "s", TIME_MS, None, sequence)
    second = of(Meter("llm"), Meter("call")).record("r", "s", TIME_MS, None, sequence)
    ids = [event["id"] for event in events(first.lines + second.lines)]
    assert ids == ["r-call", "r-llm", "r-call-2", "r-llm-2", "r-call-3"]


def test_a_number_is_skipped_where_it_would_be_the_id_of_another_type():
    lines = of(Meter("call-2"), Meter("call"), Meter("call")).record("r", "s", TIME_MS, None, {}).lines
    assert [event["id"] for event in events(lines)] == ["r-call-2", "r-call", "r-call-3"]


def test_a_meter_with_an_id_of_its_own_still_counts_for_the_numbers():
    runtime = runtime_meters([{"type": "call", "id": "mine"}, {"type": "call"}])
    lines = of().record("r", "s", TIME_MS, runtime, {}).lines
    assert [event["id"] for event in events(lines)] == ["mine", "r-call-2"]


def test_the_same_request_recorded_twice_is_the_same_bytes():
    encoder = of(Meter("a", {"n": 1}))
    runtime = runtime_meters({"type": "b", "data": {"n": 2}})
    once = encoder.record("r", "s", TIME_MS, runtime, {})
    assert encoder.record("r", "s", TIME_MS, runtime, {}) == once


def test_without_a_subject_an_event_is_dropped_with_its_reason():
    recording = of(Meter("a"), Meter("b", subject="own")).record("r", None, TIME_MS, None, {})
    assert [event["subject"] for event in events(recording.lines)] == ["own"]
    assert recording.dropped == (
        Drop(
            "no_subject",
            "a",
            'The event of the meter "a" was dropped: there is no subject to count it for.',
        ),
    )


@pytest.mark.parametrize("subject", [None, "", "\ud800"])
def test_no_subject_is_ever_made_up(subject):
    recording = of(Meter("a")).record("r", subject, TIME_MS, None, {})
    assert (recording.lines, recording.count) == (b"", 0)
    assert [drop.reason for drop in recording.dropped] == ["no_subject"]


def test_a_meter_s_own_subject_counts_for_that_event_only():
    runtime = runtime_meters([{"type": "llm", "subject": "user-456"}, {"type": "egress"}])
    lines = of(Meter("a")).record("r", "user-1", TIME_MS, runtime, {}).lines
    assert [(event["type"], event["subject"]) for event in events(lines)] == [
        ("a", "user-1"),
        ("llm", "user-456"),
        ("egress", "user-1"),
    ]


@pytest.mark.parametrize(
    ("value", "what"),
    [(math.nan, "NaN"), (math.inf, "infinity"), ({1}, "a Python set"), (object(), "a Python object")],
)
def test_data_that_json_cannot_hold_drops_that_event_and_no_other(value, what):
    runtime = runtime_meters([{"type": "a", "data": {"n": value}}, {"type": "b", "data": {"n": 1}}])
    recording = of(Meter("c")).record("r", "s", TIME_MS, runtime, {})
    assert [event["type"] for event in events(recording.lines)] == ["c", "b"]
    assert [event.type for event in recording.events] == ["c", "b"]
    assert recording.count == 2
    message = f'The event of the meter "a" was dropped: data.n is {what}, which JSON cannot hold.'
    assert recording.dropped == (Drop("invalid_data", "a", message),)


def test_data_is_what_it_was_when_it_was_set():
    body = {"tokens": [1]}
    runtime = runtime_meters({"type": "a", "data": body})
    body["tokens"].append(2)
    lines = of().record("r", "s", TIME_MS, runtime, {}).lines
    assert events(lines)[0]["data"] == {"tokens": [1]}


def test_half_a_character_in_data_costs_the_character_not_the_event():
    runtime = runtime_meters({"type": "a", "data": {"path": "x\ud800"}})
    assert events(of().record("r", "s", TIME_MS, runtime, {}).lines)[0]["data"] == {"path": "x\ufffd"}


def test_a_constant_id_or_time_of_a_policy_made_by_hand_is_not_sent():
    lines = (
        of(Meter("a", id="constant", time="2020-01-01T00:00:00.000Z"))
        .record("r", "s", TIME_MS, None, {})
        .lines
    )
    assert [(event["id"], event["time"]) for event in events(lines)] == [("r-a", TIME)]


def test_static_data_that_json_cannot_hold_is_refused_before_any_request():
    with pytest.raises(UsageError) as refusal:
        of(Meter("a", {"n": math.nan}))
    assert str(refusal.value) == 'The meter "a": data.n is NaN, which JSON cannot hold.'


def test_the_runtime_overrides_of_the_original_are_sent():
    runtime = runtime_meters(
        {
            "type": "llm-usage",
            "id": "custom-event-id-123",
            "subject": "user-456",
            "source": "worker",
            "time": "2026-01-31T13:00:00+01:00",
            "specversion": "1.0",
            "data": {"model": "gpt-4", "tokens": 1500},
        }
    )
    assert events(of().record("r", "user-1", TIME_MS, runtime, {}).lines) == [
        {
            "specversion": "1.0",
            "id": "custom-event-id-123",
            "time": "2026-01-31T12:00:00.000Z",
            "source": "worker",
            "subject": "user-456",
            "type": "llm-usage",
            "data": {"model": "gpt-4", "tokens": 1500},
        }
    ]
