from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.delivery.batch import Batch, Limits, plan_batch, split

LINES = st.lists(
    st.dictionaries(st.text('}{\n,[]"\\ab', max_size=6), st.text("}{\n,x", max_size=12), max_size=3).map(
        lambda each: json.dumps(each, separators=(",", ":")).encode()
    ),
    max_size=30,
)


def test_a_batch_is_the_lines_joined_into_a_json_array():
    assert plan_batch(b'{"a":1}\n{"b":2}\n', Limits()) == Batch(b'[{"a":1},{"b":2}]', 2, 16)


def test_half_a_line_at_the_end_of_a_chunk_waits():
    assert plan_batch(b'{"a":1}\n{"b":', Limits()) == Batch(b'[{"a":1}]', 1, 8)


@pytest.mark.parametrize("chunk", [b"", b'{"a":1}', b'{"a":'])
def test_without_a_whole_line_there_is_no_batch(chunk):
    assert plan_batch(chunk, Limits()) is None


def test_a_batch_holds_no_more_events_than_allowed():
    assert plan_batch(b"{}\n" * 5, Limits(events=3)) == Batch(b"[{},{},{}]", 3, 9)


def test_a_batch_holds_no_more_bytes_than_allowed():
    assert plan_batch(b"{}\n" * 5, Limits(body_bytes=7)) == Batch(b"[{},{}]", 2, 6)


def test_an_event_larger_than_a_body_may_be_goes_alone():
    large = b'{"a":"' + b"x" * 50 + b'"}'
    assert plan_batch(large + b"\n{}\n", Limits(body_bytes=10)) == Batch(
        b"[" + large + b"]", 1, len(large) + 1
    )


def test_lines_before_one_that_cannot_be_an_event_are_a_batch_and_it_stands_alone():
    chunk = b"{}\n{}\n\0\0\0}\n{}\n"
    first = plan_batch(chunk, Limits())
    assert first == Batch(b"[{},{}]", 2, 6)
    bad = plan_batch(chunk[first.size :], Limits())
    assert (bad.sound, bad.line, bad.size) == (False, b"\0\0\0}", 5)
    assert plan_batch(chunk[first.size + bad.size :], Limits()) == Batch(b"[{}]", 1, 3)


@given(lines=LINES, torn=st.binary(max_size=5), events=st.integers(1, 7), body_bytes=st.integers(1, 200))
def test_batches_cover_every_line_once_in_order_within_the_limits(lines, torn, events, body_bytes):
    chunk = b"".join(line + b"\n" for line in lines) + torn.replace(b"\n", b"")
    limits, found, position = Limits(events, body_bytes), [], 0
    while (batch := plan_batch(chunk[position:], limits)) is not None:
        assert batch.sound
        assert batch.events <= events
        assert batch.size <= body_bytes or batch.events == 1
        decoded = json.loads(batch.body)
        assert len(decoded) == batch.events
        found += decoded
        position += batch.size
    assert found == [json.loads(line) for line in lines]


@given(st.integers(2, 10_000))
def test_a_batch_is_split_into_two_parts_that_are_not_empty(events):
    first, second = split(events)
    assert first + second == events
    assert first >= second > 0
