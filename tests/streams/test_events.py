"""Server-sent events: the standard's rules, wherever the stream is cut, and never more than a bound in memory."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.streams import Events

lines = st.sampled_from(
    [
        "data: one",
        "data:two",
        "data",
        "data:  spaced",
        "data:",
        "datax: no",
        ": comment",
        ":",
        "event: e",
        "id: 1",
        "retry: 5",
        "other",
        "",
    ]
)
ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\r", "\r\n\r\n"])
streams = st.lists(st.tuples(lines | st.text(alphabet="da:t \ufeffü", max_size=8), ends), max_size=12)


def by_the_book(text: str) -> list[str]:
    """The data of a whole stream's events, line by line as the standard says it; the last needs no blank line."""
    events: list[str] = []
    data: list[str] = []
    for line in [*re.split("\r\n|\r|\n", text.removeprefix("\ufeff")), ""]:
        name, _, value = line.partition(":")
        if line == "":
            events += ["\n".join(data)] if data else []
            data = []
        elif name == "data":
            data.append(value.removeprefix(" "))
    return events


def fed(chunks: list[bytes], **bounds: int) -> list[bytes]:
    events = Events(**bounds)
    found = [data for chunk in chunks for data in events.feed(chunk)]
    return found + events.finish()


@given(streams, st.booleans(), st.data())
def test_events_are_those_of_the_standard_wherever_the_stream_is_cut(parts, marked, data):
    text = ("\ufeff" if marked else "") + "".join(line + end for line, end in parts)
    raw = text.encode()
    at = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    chunks = [raw[begin:end] for begin, end in zip([0, *at], [*at, len(raw)], strict=True)]
    expected = [event.encode() for event in by_the_book(text)]
    assert fed(chunks) == expected
    assert fed([raw[at : at + 1] for at in range(len(raw))]) == expected


def test_an_event_is_there_as_soon_as_its_blank_line_is():
    events = Events()
    assert events.feed(b"data: now\r\n\r") == [b"now"]
    assert events.feed(b"\ndata: next\n") == []
    assert events.feed(b"\n") == [b"next"]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_an_event_over_the_bound_is_skipped_and_counted_and_the_next_is_read(size):
    body = b"data: " + b"x" * 5_000 + b"\ndata: y\n\ndata: after\n\n: " + b"c" * 5_000 + b"\n\ndata: last\n\n"
    events = Events(most=1_000)
    found = [data for at in range(0, len(body), size) for data in events.feed(body[at : at + size])]
    assert found == [b"after", b"last"]
    assert events.skipped == 2


def test_many_lines_of_one_event_are_bounded_together():
    events = Events(most=100)
    assert events.feed(b"data: 123456789\n" * 20 + b"\ndata: small\n\n") == [b"small"]
    assert events.skipped == 1


def test_an_event_of_exactly_the_bound_is_read():
    line = b"data: " + b"x" * 94
    assert fed([line + b"\n\n"], most=100) == [b"x" * 94]
    assert fed([line[:50], line[50:], b"\n\n"], most=100) == [b"x" * 94]
    assert fed([line + b"x\n\n"], most=100) == []


def test_a_line_without_end_does_not_grow_in_memory():
    events, chunk = Events(most=100_000), b"x" * 10_000
    tracemalloc.start()
    try:
        events.feed(b"data: ")
        for _ in range(2_000):
            events.feed(chunk)
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()
    assert events.skipped == 1
