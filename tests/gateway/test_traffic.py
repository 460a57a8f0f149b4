"""Meters from the traffic in the gateway: what they see of a request, and that nobody waits for them."""

import asyncio
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from metergate.engine import Backends, Engine
from metergate.gateway.http import Response, StreamedBody, User
from metergate.gateway.model import NamedPolicy
from metergate.gateway.policies.openmeter import OpenMeterInboundPolicy
from metergate.policy import read_options

NOBODY = "http://127.0.0.1:9"
RECORDED = Path(__file__).parents[1] / "streams" / "recorded"
SSE = [("content-type", "text/event-stream")]
JSON = [("content-type", "application/json")]
PROMPT = {"type": "prompt", "from": "openai"}
EVERYTHING = {
    "method": "$request.method",
    "path": "$request.path",
    "page": "$request.query.page",
    "tenant": "$request.headers.x-tenant",
    "in": "$request.bytes",
    "status": "$response.status",
    "region": "$response.headers.x-region",
    "out": "$response.bytes",
    "total": "$response.body.usage.total",
    "route": "$route.path",
    "plan": "$user.data.plan",
    "ms": "$durationMs",
}


class Metered:
    """Policies over a spool of their own, and the events in it at this moment."""

    def __init__(self, folder):
        self.folder = folder
        self.backends = Backends(folder)

    def policy(self, meter, name="metered", **options):
        given = {"apiUrl": NOBODY, "apiKey": "hush", "meter": meter, **options}
        policy, findings = read_options(given, name=name)
        assert findings == []
        return NamedPolicy(name, inbound=OpenMeterInboundPolicy(Engine(policy, self.backends)))

    def events(self):
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        lines = [line for file in files for line in file.read_bytes().splitlines()]
        return [json.loads(line) for line in lines if b"specversion" in line]

    def data(self):
        return [event.get("data") for event in self.events()]

    def tokens(self):
        """The tokens of each kind, once each."""
        return {data["type"]: data["tokens"] for data in self.data()}


@pytest.fixture
def metered(tmp_path):
    made = Metered(tmp_path / "spool")
    yield made
    made.backends.drain(0)


def who(request, *rest):
    request.user = User("acme", {"plan": "pro"})
    return request


def answering(body, headers=SSE, length=None, status=200):
    """A handler that streams these chunks, or answers these bytes."""

    async def give():
        for chunk in body:
            yield chunk

    def handle(request, context):
        sent = body if isinstance(body, bytes) else StreamedBody(give(), length)
        return Response.trusted(status, list(headers), sent)

    return handle


def pieces(body, size=97):
    return [body[at : at + size] for at in range(0, len(body), size)]


def test_an_expression_takes_what_the_client_sent_and_what_it_got(serve, metered):
    async def handle(request, context):
        request.headers.delete("x-tenant")
        size = len(await request.bytes())
        return Response({"usage": {"total": size}}, 201, {"x-region": "eu"})

    policy = metered.policy({"type": "call", "data": EVERYTHING})
    served = serve(handle, inbound=[who, policy], method="POST", path="/orders/:id")
    called = served.ask(
        "/orders/7%2F8?page=a%20b&page=c",
        "POST",
        headers=[("x-tenant", "one"), ("x-tenant", "two")],
        body=[b"12345", b"67890"],
    )
    [data] = metered.data()
    assert data.pop("ms") >= 0
    assert data == {
        "method": "POST",
        "path": "/orders/7%2F8",
        "page": "a b",
        "tenant": "one, two",
        "in": 10,
        "status": 201,
        "region": "eu",
        "out": len(called.body),
        "total": 10,
        "route": "/orders/:id",
        "plan": "pro",
    }


def test_what_is_not_there_is_left_out(serve, metered):
    policy = metered.policy({"type": "call", "data": EVERYTHING})
    served = serve(answering(b"plain", [("content-type", "text/plain")]), inbound=[who, policy])
    served.ask()
    [data] = metered.data()
    assert sorted(data) == ["in", "method", "ms", "out", "path", "plan", "route", "status"]
    assert (data["in"], data["out"]) == (0, 5)
    assert metered.backends.statistics().not_read == {"content_type": 1}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("body", [b"x" * 9, [b"x" * 4, b"x" * 5]], ids=["bytes", "streamed"])
def test_bytes_are_those_that_were_sent(serve, metered, body, method):
    policy = metered.policy({"type": "call", "data": {"out": "$response.bytes"}})
    serve(answering(body, JSON), inbound=[who, policy], method=method).ask(method=method)
    assert metered.data() == [{"out": 9 if method == "GET" else 0}]


@pytest.mark.parametrize("announced", [True, False], ids=["with a length", "without"])
def test_the_tokens_of_a_stream_are_in_the_spool_before_it_ends_and_no_chunk_waits_for_them(
    serve, metered, announced
):
    body = (RECORDED / "openai.sse").read_bytes()
    chunks = pieces(body)
    served = serve(
        answering(chunks, SSE, len(body) if announced else None), inbound=[who, metered.policy(PROMPT)]
    )
    at = []
    called = served.ask(sent=lambda message: at.append(len(metered.events())))
    assert called.body == body
    assert called.chunks[1 : len(chunks) + 1] == chunks or called.chunks[: len(chunks)] == chunks
    assert metered.tokens() == {"input": 187, "cached": 1024, "output": 148}
    last = len(chunks) + 1 + (not called.chunks[0])
    assert at[: last - announced] == [0] * (last - announced), "metered before its end"
    assert at[-1] == 3


@pytest.mark.parametrize("way", ["bytes", "streamed with a length", "streamed without"])
def test_a_body_that_came_to_its_end_is_complete_whatever_it_ends_with(serve, metered, way):
    body = (
        b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    )
    handler = answering(
        body if way == "bytes" else [body[:40], body[40:]], SSE, len(body) if "with a" in way else None
    )
    serve(handler, inbound=[who, metered.policy(PROMPT)]).ask()
    assert metered.data() == [{"type": "input", "tokens": 1}, {"type": "output", "tokens": 2}]


def test_a_chunk_has_left_before_it_is_looked_at(serve, metered, monkeypatch):
    body = pieces((RECORDED / "openai.sse").read_bytes())
    order = []
    from metergate.engine.traffic import Look

    feed = Look.feed
    monkeypatch.setattr(Look, "feed", lambda look, chunk: (order.append(("fed", chunk)), feed(look, chunk)))
    served = serve(answering(body), inbound=[who, metered.policy(PROMPT)])
    served.ask(sent=lambda message: order.append(("sent", message.get("body"))))
    for chunk in body:
        assert order.index(("sent", chunk)) < order.index(("fed", chunk))


def test_a_compressed_body_is_read_and_goes_on_as_it_came(serve, metered):
    body = gzip.compress((RECORDED / "openai.sse").read_bytes())
    served = serve(
        answering(pieces(body), [*SSE, ("content-encoding", "gzip")]), inbound=[who, metered.policy(PROMPT)]
    )
    assert served.ask().body == body
    assert metered.tokens() == {"input": 187, "cached": 1024, "output": 148}


def test_a_body_that_cannot_be_read_is_counted_said_once_and_harms_nobody(serve, metered, caplog):
    served = serve(
        answering([b"\x01\x02", b"\x03"], [*SSE, ("content-encoding", "compress")]),
        inbound=[who, metered.policy(PROMPT)],
    )
    for _ in range(2):
        assert served.ask().body == b"\x01\x02\x03"
    statistics = metered.backends.statistics()
    assert (statistics.not_read, statistics.dropped) == ({"encoding": 2}, {"no_usage": 2})
    assert metered.events() == []
    assert len([line for line in caplog.messages if "could not be read" in line]) == 1
    assert len([line for line in caplog.messages if "told no usage" in line]) == 1


def test_an_upstream_that_breaks_off_leaves_what_was_seen_as_partial(serve, metered):
    async def broken():
        yield (RECORDED / "anthropic.sse").read_bytes()[:900]
        raise RuntimeError("gone")

    served = serve(
        lambda request, context: Response(StreamedBody(broken()), 200, dict(SSE)),
        inbound=[who, metered.policy({"type": "prompt", "from": "anthropic"})],
    )
    assert not served.ask().complete
    assert {data["partial"] for data in metered.data()} == {True}
    assert metered.tokens()["cached"] == 2000


def test_a_client_that_leaves_in_mid_stream_pays_for_what_was_seen(serve, metered):
    body = pieces((RECORDED / "openai-no-usage.sse").read_bytes())[:4]
    meter = {**PROMPT, "estimate": True}

    async def asking():
        left = asyncio.Event()

        async def endless():
            for chunk in body:
                yield chunk
            left.set()
            await asyncio.Event().wait()

        served = serve(
            lambda request, context: Response(StreamedBody(endless()), 200, dict(SSE)),
            inbound=[who, metered.policy(meter)],
        )
        return await asyncio.wait_for(served.call(left=left), 20)

    assert not asyncio.run(asking()).complete
    [data] = metered.data()
    assert (data["type"], data["partial"], data["estimated"]) == ("output", True, True)
    assert data["tokens"] > 0


@pytest.mark.parametrize("estimate", [False, True])
def test_a_stream_without_usage_is_estimated_where_that_is_wanted_and_no_event_otherwise(
    serve, metered, estimate
):
    body = (RECORDED / "openai-no-usage.sse").read_bytes()
    served = serve(answering(pieces(body)), inbound=[who, metered.policy({**PROMPT, "estimate": estimate})])
    served.ask()
    assert [data.get("estimated") for data in metered.data()] == [True] * estimate
    assert metered.backends.statistics().dropped == ({} if estimate else {"no_usage": 1})


def test_a_status_that_is_not_metered_is_not_looked_at(serve, metered):
    served = serve(
        answering([b"<html>"], [("content-type", "text/html")], status=500),
        inbound=[who, metered.policy(PROMPT)],
    )
    assert served.ask().body == b"<html>"
    statistics = metered.backends.statistics()
    assert (metered.events(), statistics.not_read, statistics.dropped) == ([], {}, {})


def test_several_policies_see_one_response_each_with_what_it_takes(serve, metered):
    body = (RECORDED / "openai.json").read_bytes()
    inbound = [
        who,
        metered.policy(PROMPT, "one"),
        metered.policy({"type": "raw", "data": {"n": "$response.body.usage.total_tokens"}}, "two"),
        metered.policy({"type": "call"}, "three"),
        metered.policy({"type": "other", "from": "gemini"}, "four"),
    ]
    serve(answering(body, JSON), inbound=inbound).ask()
    events = [(event["type"], event.get("data", {})) for event in metered.events()]
    assert [(name, data.get("tokens", data.get("n"))) for name, data in events] == [
        ("prompt", 19),
        ("prompt", 10),
        ("raw", 29),
        ("call", None),
    ]
    assert metered.backends.statistics().dropped == {"no_usage": 1}


def test_without_a_meter_that_takes_something_nothing_is_collected(serve, metered):
    seen = []

    def handle(request, context):
        seen.append(context.metering.traffic)
        return Response({"usage": 1})

    serve(handle, inbound=[who, metered.policy({"type": "call", "data": {"count": 1}})]).ask()
    assert seen == [None]
    assert metered.data() == [{"count": 1}]


def test_a_stream_that_is_looked_at_takes_no_memory(serve, metered):
    event = b'data: {"choices":[{"delta":{"content":"' + b"x" * 60_000 + b'"}}]}\n\n'
    served = serve(
        answering(event for _ in range(500)), inbound=[who, metered.policy({**PROMPT, "estimate": True})]
    )
    sizes = []

    def sent(message):
        sizes.append(len(message.get("body", b"")))
        message["body"] = b""  # the test's client keeps what it gets

    tracemalloc.start()
    try:
        served.ask(sent=sent)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 500 * len(event)
    assert peak < 4_000_000
    assert metered.tokens() == {"output": 500 * 60_000 // 4}
