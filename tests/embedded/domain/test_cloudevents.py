"""Reading CloudEvents: the quick way and the slow one agree."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.cloudevents import (
    BATCH,
    EITHER,
    SINGLE,
    InvalidEvents,
    is_uri_reference,
    read_events,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=4,
)
events = st.fixed_dictionaries(
    {
        "id": texts.filter(bool),
        "source": st.sampled_from(["a", "https://a.example/b?c#d", "urn:x"]),
        "specversion": st.just("1.0"),
        "type": texts.filter(bool),
        "subject": texts.filter(bool),
    },
    optional={
        "time": st.none() | st.sampled_from(["2026-01-31T09:30:00.9Z", "1969-12-31T23:59:59.5Z"]),
        "data": st.none() | st.dictionaries(texts, values, max_size=3),
        "datacontenttype": st.none() | st.just("application/json"),
        "dataschema": st.none() | st.just("urn:schema"),
        "extension": values,
    },
)
SECONDS = {"2026-01-31T09:30:00.9Z": 1769851800, "1969-12-31T23:59:59.5Z": -1}


@given(st.lists(events, max_size=4), st.sampled_from([BATCH, EITHER]))
def test_valid_events_are_read_as_they_were_written(written, content_type):
    read = read_events(json.dumps(written).encode(), content_type)
    assert [(event.id, event.source, event.type, event.subject) for event in read] == [
        (event["id"], event["source"], event["type"], event["subject"]) for event in written
    ]
    assert [event.time for event in read] == [SECONDS.get(event.get("time")) for event in written]
    for event, original in zip(read, written, strict=True):
        assert (event.data is None) == (original.get("data") is None)
        if event.data is not None:
            assert json.loads(event.data) == original["data"]


junk = values | st.dictionaries(
    st.sampled_from(["id", "source", "specversion", "type", "subject", "time", "data"]), values
)


@given(st.lists(events | junk, min_size=1, max_size=3), st.sampled_from([SINGLE, BATCH, EITHER]))
def test_whatever_comes_is_read_or_turned_down_with_a_message(written, content_type):
    try:
        read = read_events(json.dumps(written).encode(), content_type)
    except InvalidEvents as exception:
        message = str(exception)
        assert message
    else:
        assert len(read) == len(written)
        for event in read:
            msgspec.json.decode(event.data or "{}")


@given(st.binary(max_size=40), st.sampled_from([SINGLE, BATCH, EITHER]))
def test_bytes_that_are_no_json_are_turned_down(body, content_type):
    with pytest.raises(InvalidEvents):
        read_events(body.replace(b"[]", b""), content_type)


@pytest.mark.parametrize(
    "text", ["a", "/a/b", "https://x", "urn:a:b", "//host", "a%20b", "é", "a b", "./a:b", "?a:b"]
)
def test_sources_that_go_takes_are_taken(text):
    assert is_uri_reference(text)


@pytest.mark.parametrize("text", ["a%2", "a%zz", "\n", "a\x7f", "1:2", ":a", "a_b:c"])
def test_sources_that_go_turns_down_are_turned_down(text):
    assert not is_uri_reference(text)
