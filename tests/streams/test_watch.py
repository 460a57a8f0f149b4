"""Looking along at a body: never raises, never holds more than its bounds, and says what it could not read."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import UsageError
from metergate.streams import NOT_READ, PROVIDERS, READABLE, Members, Reading, Tokens, Usage, Watch

EVENTS = "text/event-stream"
TOTAL = ("usage", "total_tokens")


@given(
    st.sampled_from(sorted(PROVIDERS)),
    st.sampled_from([EVENTS, "application/json", "application/vnd.api+json; charset=utf-8", "", "text/html"]),
    st.sampled_from(["", "identity", "br, gzip", *sorted(READABLE)]),
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from([b'data: {"usage":', b"{}\n\n", b"[", b'{"usage":3}', b"]", b"data: 1\n\n"])
    ),
    st.booleans(),
)
def test_whatever_comes_nothing_is_raised(provider, content_type, encoding, chunks, whole):
    watch = Watch(content_type, encoding, tokens=Tokens(provider, estimate=True), members=Members([TOTAL]))
    for chunk in chunks:
        watch.feed(chunk)
    reading = watch.finish(whole=whole)
    assert reading.not_read.keys() <= set(NOT_READ)
    assert watch.finish() is reading


def test_tokens_and_members_of_one_body_are_read_together():
    body = b'{"model":"m","usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5},"choices":[]}'
    watch = Watch("application/json", tokens=Tokens("openai"), members=Members([TOTAL, ("absent",)]))
    watch.feed(body)
    assert watch.finish() == Reading(Usage("m", 2, 3, total=5), {TOTAL: 5}, {})


def test_of_a_stream_of_events_a_member_is_what_the_last_event_says_that_has_it():
    watch = Watch(EVENTS, members=Members([("n",)]))
    watch.feed(
        b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: {"n":null}\n\ndata: {"x":1}\n\ndata: [DONE]\n\ndata:\n\n'
    )
    assert watch.finish() == Reading(None, {("n",): 2}, {})


def test_of_a_body_that_breaks_off_the_members_that_were_seen_count():
    watch = Watch("application/json", members=Members([("n",), ("m",)]))
    watch.feed(b'{"n":12,"m":34')
    assert watch.finish(whole=False) == Reading(None, {("n",): 12}, {}), "34 may be the start of 345"


@pytest.mark.parametrize(
    ("content_type", "encoding", "body", "reason"),
    [
        ("text/html", "", b"<p>", "content_type"),
        ("application/json", "compress", b"x", "encoding"),
        ("application/json", "gzip", b"not gzip at all", "corrupt"),
        (EVENTS, "gzip", gzip.compress(b":\n\n" * 2_000_000), "expands"),
        ("application/json", "", b'{"usage":"' + b"x" * 2_000 + b'"}', "too_large"),
        (EVENTS, "", b"data: " + b"x" * 2_000 + b"\n\n", "too_large"),
        (EVENTS, "", b"data: <p>\n\n", "not_understood"),
        ("application/json", "", b'{"usage":[1]}', "not_understood"),
    ],
)
def test_what_cannot_be_read_is_counted_by_its_reason(content_type, encoding, body, reason):
    watch = Watch(content_type, encoding, tokens=Tokens("openai"), most_event=1_000, most_document=1_000)
    watch.feed(body)
    assert watch.finish() == Reading(None, {}, {reason: 1})


def test_what_was_seen_before_a_fault_counts_and_is_partial():
    event = b'data: {"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":4}}\n\n'
    compressor = zlib.compressobj(wbits=31)
    stream = compressor.compress(event + b'data: {"mod') + compressor.flush(zlib.Z_SYNC_FLUSH)
    watch = Watch(EVENTS, "gzip", tokens=Tokens("openai"))
    watch.feed(stream)
    watch.feed(b"\xff" * 400)
    reading = watch.finish()
    assert reading.usage == Usage("m", output=4, partial=True)
    assert reading.not_read == {"corrupt": 1}


def test_a_reader_that_fails_is_said_and_the_host_goes_on(caplog):
    class Broken(dict):
        def update(self, *_: object) -> None:
            raise LookupError("the secret text of a response")

    for content_type, body in ((EVENTS, b'data: {"a":1}\n\n'), ("application/json", b'{"a":1}')):
        watch = Watch(content_type, members=Members([("a",)]))
        watch._values = Broken()
        watch.feed(body)
        watch.feed(b"\n")
        assert watch.finish().not_read == {"failed": 1}
    assert "LookupError" in caplog.text
    assert "secret" not in caplog.text


def test_memory_stays_flat_over_a_long_stream():
    event = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}],"usage":null}\n\n'
    watch = Watch(EVENTS, tokens=Tokens("openai", estimate=True), members=Members([TOTAL]))
    chunk = event * 20
    watch.feed(chunk)
    tracemalloc.start()
    try:
        for _ in range(300):
            watch.feed(chunk)
        assert tracemalloc.get_traced_memory()[0] < 4_000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert watch.finish(whole=False).usage == Usage("m", output=7_525, partial=True, estimated=True)


def test_an_unknown_provider_is_refused_where_it_is_named():
    with pytest.raises(UsageError, match='"opena1" is no provider whose usage is known; known are openai, '):
        Tokens("opena1")
