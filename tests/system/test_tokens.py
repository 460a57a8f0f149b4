"""Tokens of language models: a stream passes a real gateway as it comes, and a real OpenMeter has what it used."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metergate.testing.events import events_with, meter_total
from metergate.testing.processes import Server, gateway_server, openmeter_server
from metergate.testing.projects import custom_policy, forward, openmeter_policy, route, write_project
from metergate.testing.scripted import Exchange, ScriptedUpstream
from metergate.testing.wire import Wire, WireResponse

RECORDED = Path(__file__).parents[1] / "streams" / "recorded"
WHO = """
from metergate.runtime import User


def default(request, context, options, policy_name):
    request.user = User(request.headers.get("x-user", "acme"))
    return request
"""
USED = {
    "openai": {"input": 187, "cached": 1024, "output": 148},
    "openai-responses": {"input": 37, "output": 11},
    "anthropic": {"input": 12, "cached": 2000, "cache_write": 300, "output": 34},
    "gemini": {"input": 33, "cached": 64, "output": 90},
}
"""What the recorded streams used."""

CONFIG = {
    "meters": [
        {
            "slug": "tokens",
            "eventType": "prompt",
            "aggregation": "SUM",
            "valueProperty": "$.tokens",
            "groupBy": {"type": "$.type"},
        },
        {"slug": "limited", "eventType": "limited", "aggregation": "SUM", "valueProperty": "$.total_tokens"},
        {"slug": "valued", "eventType": "valued", "aggregation": "SUM", "valueProperty": "$.bytes"},
    ],
    "features": [{"key": "tokens", "name": "tokens", "meterSlug": "limited"}],
    "customers": [{"key": "acme", "name": "acme", "usageAttribution": {"subjectKeys": ["acme"]}}],
    "entitlements": [
        {
            "customer": "acme",
            "type": "metered",
            "featureKey": "tokens",
            "usagePeriod": {"interval": "MONTH"},
            "issueAfterReset": 100,
        }
    ],
}


@dataclass
class Proxy:
    """A gateway between an API that does as a test says, and an OpenMeter."""

    gateway: Server
    api: ScriptedUpstream
    openmeter: Server
    eventually: Callable[..., Any]

    def ask(self, target: str) -> WireResponse:
        with Wire(self.gateway.port) as wire:
            wire.request(target, "POST", body=b"{}")
            return wire.response("POST")

    def answer(
        self, target: str, *chunks: bytes, kind: str = "text/event-stream", encoding: str = ""
    ) -> None:
        """Have the API answer with these chunks."""

        def script(exchange: Exchange) -> None:
            exchange.body()
            begin(exchange, kind, encoding)
            for chunk in chunks:
                send(exchange, chunk)
            exchange.send(b"0\r\n\r\n")

        self.api.on(target, script)

    def data(self, response: Any, count: int) -> list[dict[str, Any]]:
        """The data of that many events of a request, once OpenMeter has them."""
        request_id = response if isinstance(response, str) else response["zp-rid"]

        def found() -> Any:
            events = events_with(self.openmeter.url, request_id)
            return events if len(events) >= count else None

        return [event.get("data") for event in self.eventually(found)]


def begin(exchange: Exchange, kind: str = "text/event-stream", encoding: str = "") -> None:
    fields = f"content-type: {kind}\r\n" + (f"content-encoding: {encoding}\r\n" if encoding else "")
    exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + fields.encode() + b"\r\n")


def send(exchange: Exchange, chunk: bytes) -> None:
    exchange.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))


def by_type(data: list[dict[str, Any]]) -> dict[str, int]:
    assert len({one["type"] for one in data}) == len(data)
    return {one["type"]: one["tokens"] for one in data}


def events_of(name: str) -> list[bytes]:
    """A recorded stream, event by event."""
    body = (RECORDED / name).read_bytes().replace(b"\r\n", b"\n")
    return [event + b"\n\n" for event in body.split(b"\n\n") if event.strip()]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, eventually: Callable[..., Any]) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("tokens")
    meters: dict[str, dict[str, Any]] = {
        name: {"meter": {"type": "prompt", "from": name, "estimate": True}} for name in USED
    }
    meters["limited"] = {
        "meter": {"type": "limited", "from": "openai", "tokens": "all"},
        "requiredEntitlements": [{"feature": "tokens", "reserve": 40}],
    }
    meters["valued"] = {
        "meter": [
            {"type": "valued", "data": {"bytes": "$response.body.n", "route": "$route.path"}},
            {"type": "free", "data": {"bytes": "$response.body.n", "route": "$route.path"}},
        ],
        "requiredEntitlements": ["tokens"],
    }
    with ExitStack() as stack:
        api = stack.enter_context(ScriptedUpstream())
        openmeter = openmeter_server(folder / "openmeter", CONFIG)
        policies = [custom_policy("who", "who")]
        policies += [
            openmeter_policy(name, apiUrl=openmeter.url, **options) for name, options in meters.items()
        ]
        routes = {
            f"/{name}/(.*)": {"post": route(forward(api.url), inbound=["who", name])} for name in meters
        }
        project = write_project(folder / "project", routes, policies)
        (project / "modules").mkdir()
        (project / "modules" / "who.py").write_text(WHO)
        gateway = gateway_server(project)
        for server in (openmeter, gateway):
            stack.callback(server.kill)
            server.launch()
        openmeter.wait_ready()
        gateway.wait_ready()
        yield Proxy(gateway, api, openmeter, eventually)
        assert api.failures == []


def test_each_event_of_a_stream_is_with_the_client_before_the_next_is_made(proxy):
    events = events_of("openai.sse")
    taken = threading.Semaphore(0)

    def script(exchange):
        exchange.body()
        begin(exchange)
        for event in events:
            send(exchange, event)
            assert taken.acquire(timeout=10)
        exchange.send(b"0\r\n\r\n")

    proxy.api.on("/openai/paced", script)
    before = meter_total(proxy.openmeter.url, "tokens")
    with Wire(proxy.gateway.port) as wire:
        wire.request("/openai/paced", "POST", body=b"{}")
        _, fields = wire.head()
        for event in events:
            wire.receive_until(event)
            taken.release()
        wire.receive_until(b"0\r\n\r\n")
    assert by_type(proxy.data(dict(fields)["zp-rid"], 3)) == USED["openai"]
    assert meter_total(proxy.openmeter.url, "tokens") - before == 1359


@pytest.mark.parametrize("provider", USED)
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_the_stream_of_each_provider_goes_on_byte_by_byte_as_it_came_and_its_tokens_are_counted(
    proxy, provider, encoding
):
    body = (RECORDED / f"{provider}.sse").read_bytes()
    body = gzip.compress(body) if encoding else body
    target = f"/{provider}/recorded{encoding}"
    proxy.answer(target, *(body[at : at + 101] for at in range(0, len(body), 101)), encoding=encoding)
    response = proxy.ask(target)
    assert (response.body, response["content-encoding"]) == (body, encoding or None)
    data = proxy.data(response, len(USED[provider]))
    assert by_type(data) == USED[provider]
    assert not [one for one in data if "partial" in one or "estimated" in one]


def test_a_client_that_leaves_in_mid_stream_pays_for_what_was_seen(proxy):
    let_go = threading.Event()

    def script(exchange):
        exchange.body()
        begin(exchange)
        for event in events_of("anthropic.sse")[:4]:
            send(exchange, event)
        exchange.wait_closed()
        exchange.close()
        let_go.set()

    proxy.api.on("/anthropic/left", script)
    with Wire(proxy.gateway.port) as wire:
        wire.request("/anthropic/left", "POST", body=b"{}")
        _, fields = wire.head()
        wire.receive_until(b"A short one will do.")
    assert let_go.wait(10)
    data = proxy.data(dict(fields)["zp-rid"], 4)
    assert by_type(data) == {"input": 12, "cached": 2000, "cache_write": 300, "output": 5}
    assert all(one["partial"] for one in data)
    assert [one["type"] for one in data if one.get("estimated")] == ["output"]


def test_an_upstream_that_breaks_off_leaves_what_was_seen_as_partial(proxy):
    def script(exchange):
        exchange.body()
        begin(exchange)
        for event in events_of("gemini.sse")[:1]:
            send(exchange, event)
        exchange.reset()

    proxy.api.on("/gemini/cut", script)
    response = proxy.ask("/gemini/cut")
    assert not response.complete
    data = proxy.data(response, 2)
    assert {"input", "output"} <= by_type(data).keys()
    assert all(one["partial"] for one in data)


def test_a_body_that_cannot_be_read_goes_on_untouched_and_is_counted(proxy):
    proxy.answer("/openai/odd", b"\x1f\x9d\x90", encoding="compress")
    response = proxy.ask("/openai/odd")
    assert (response.body, response["content-encoding"]) == (b"\x1f\x9d\x90", "compress")

    def figures():
        with Wire(proxy.gateway.port) as wire:
            wire.request("/__metergate/metrics")
            text = wire.response().body.decode()
        wanted = (
            'metergate_bodies_not_read_total{reason="encoding"} 1',
            'metergate_events_dropped_total{reason="no_usage"} 1',
        )
        return all(one in text for one in wanted)

    proxy.eventually(figures)


def test_a_limit_on_tokens_holds_by_what_was_really_used(proxy):
    usage = {"prompt_tokens": 60, "completion_tokens": 10, "total_tokens": 70}
    answer = json.dumps({"model": "m", "choices": [], "usage": usage}).encode()
    proxy.answer("/limited/chat", answer, kind="application/json")
    answers = [proxy.ask("/limited/chat") for _ in range(2)]
    assert [one.status for one in answers] == [200, 403]
    [data] = proxy.data(answers[0], 1)
    assert data == {"model": "m", "input_tokens": 60, "output_tokens": 10, "total_tokens": 70}


def test_an_event_without_the_value_that_its_meter_sums_up_is_not_sent(proxy):
    proxy.answer("/valued/x", b'{"n":"' + b"x" * 2000 + b'"}', kind="application/json")
    [data] = proxy.data(proxy.ask("/valued/x"), 1)
    assert data == {"route": "/valued/(.*)"}, "of a type that no meter has nothing is known"
    proxy.answer("/valued/y", b'{"n":7}', kind="application/json")
    assert {one["bytes"] for one in proxy.data(proxy.ask("/valued/y"), 2)} == {7}
