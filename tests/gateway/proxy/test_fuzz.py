"""Random requests: always an answer or a clean end, never a fault of ours, never a hang."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
PREFIXES = (
    "/raw/",
    "/metered/",
    "/public/",
    "/own/body_size",
    "/own/echo",
    "/refused/x",
    "/__metergate/health",
    "/",
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "PATCH"]) | st.text(
    "ABCXYZabc-_!~", min_size=1, max_size=12
)
TAILS = st.text(st.characters(max_codepoint=255), max_size=24) | st.text("./%2eEfF?&=;\\#*", max_size=24)
KNOWN_NAMES = (
    "host connection content-length transfer-encoding expect upgrade te zp-rid accept x-forwarded-for x-user cookie "
    "authorization content-type trailer keep-alive origin"
)
NAMES = st.sampled_from(KNOWN_NAMES.split()) | st.text("abcxyz-_019!", min_size=1, max_size=12)
VALUES = st.sampled_from(
    ["chunked", "close", "keep-alive, host", "0", "5", "-1", "5, 5", "100-continue", "*", "é", ""]
) | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=24)
BODIES = st.sampled_from([b"", b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n"]) | st.binary(
    max_size=40
)


MARKER = b"GET /public/marker HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"
"""Sent behind the request: where that has an end, the gateway answers this one too, and ends the connection."""


def conversation(proxy, data):
    """All that the gateway says to these bytes, until it ends the connection."""
    said = b""
    with proxy.wire(timeout=0.5) as wire:
        with contextlib.suppress(OSError):  # it may have had enough already; what it said can be read
            wire.send(data + MARKER)
        try:
            said += wire.receive_all()
        except TimeoutError:  # it waits for the rest of a body that never comes
            wire.half_close()
            wire.socket.settimeout(20)
            said += wire.receive_all()
    return said


def in_order(proxy, said):
    assert said == b"" or said.startswith(b"HTTP/1."), said[:100]
    assert b"Traceback" not in said
    assert b"Internal server error" not in said, "the server had to answer for us"
    assert b"HTTP/1.1 500" not in said
    assert proxy.ask("/public/still").status == 200


@SETTINGS
@given(
    method=METHODS,
    prefix=st.sampled_from(PREFIXES),
    tail=TAILS,
    version=st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP"]),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=6),
    body=BODIES,
)
def test_random_requests(proxy, method, prefix, tail, version, fields, body):
    head = "\r\n".join(
        [
            f"{method} {prefix}{tail} {version}",
            "Host: gateway.test",
            *(f"{name}: {value}" for name, value in fields),
        ]
    )
    said = conversation(proxy, head.encode("latin-1") + b"\r\n\r\n" + body)
    in_order(proxy, said)


@SETTINGS
@given(data=st.binary(max_size=200))
def test_random_bytes(proxy, data):
    in_order(proxy, conversation(proxy, data))


STATUSES = (b"200 OK", b"204 X", b"304 X", b"999 X", b"101 X", b"100 X", b"abc", b"-1 X", b"2000 X")
FIELDS = (
    *(b"content-length: 5", b"content-length: 0", b"content-length: x", b"transfer-encoding: chunked"),
    *(b"connection: close", b"connection: x-a", b"x-a: \xe9", b"x-a: 1", b"bad header", b": empty"),
    *(b"set-cookie: a", b"zp-rid: theirs", b"upgrade: x", b"trailer: x", b"content-encoding: gzip"),
)


@SETTINGS
@given(status=st.sampled_from(STATUSES), fields=st.lists(st.sampled_from(FIELDS), max_size=5), body=BODIES)
def test_random_answers_of_the_upstream(proxy, status, fields, body):
    def script(exchange):
        exchange.body()
        exchange.send(b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", body]))
        exchange.close()

    proxy.api.on("/metered/fuzzed", script)
    response = proxy.ask("/metered/fuzzed", headers=[("x-user", "acme")])
    assert response["zp-rid"]
    assert b"Internal server error" not in response.body
    assert (response.status >= 200, response.status == 500) == (True, False)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "pieces"])
def test_bodies_of_any_size_come_back_whole(proxy, size, framing):
    def echo(exchange):
        body = exchange.body()
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    proxy.api.on("/raw/any-size", echo)
    body = bytes(number % 251 for number in range(size))
    with proxy.wire() as wire:
        if framing == "length":
            wire.request("/raw/any-size", "POST", body=body)
        else:
            wire.request("/raw/any-size", "POST", headers=[("transfer-encoding", "chunked")])
            step = size if framing == "chunked" else 10_000
            for start in range(0, size, max(1, step)):
                wire.chunk(body[start : start + step])
            wire.chunk(b"")
        response = wire.response()
    assert (response.complete, response.body) == (True, body)
