"""What an armed request collects of the traffic, and which events OpenMeter's meters can do without."""

from __future__ import annotations

import time

import pytest

from metergate.engine import Metering
from metergate.engine.counting import Count
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.catalog import Catalog, Meter

DONE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\ndata: [DONE]\n\n'
TOKENS = {"type": "prompt", "from": "openai"}


def headers(**values):
    return {name.replace("_", "-"): value for name, value in values.items()}.get


SSE = headers(content_type="text/event-stream")


@pytest.fixture
def armed(bench):
    """``armed({...meter}, ...)``: a request that policies with these meters have let in."""

    def arm(*meters, **options):
        metering = Metering("r")
        for number, meter in enumerate(meters):
            metering.arm(bench.engine(f"p{number}", meter=meter, **options), "acme")
        return metering

    return arm


def data(bench):
    return [event.get("data") for event in bench.events()]


def test_what_needs_nothing_collects_nothing(armed):
    assert armed({"type": "call", "data": {"count": 1}}).traffic is None


def test_a_host_that_hands_in_nothing_meters_the_constant_data(armed, bench):
    armed({"type": "call", "data": {"n": 1, "page": "$request.query.page"}}, TOKENS).settle(200)
    assert data(bench) == [{"n": 1}]
    assert bench.backends.dropped == {"no_usage": 1}


def test_the_body_is_wanted_only_where_a_meter_takes_something_from_it(armed):
    for meter, wanted in (
        ({"type": "a", "data": {"m": "$request.method", "h": "$response.headers.x"}}, False),
        ({"type": "a", "data": {"n": "$response.bytes"}}, True),
        ({"type": "a", "data": {"n": "$response.body.n"}}, True),
        (TOKENS, True),
    ):
        traffic = armed(meter).traffic
        assert traffic is not None
        assert (traffic.response(200, SSE) is not None) is wanted, meter


def test_a_response_that_no_policy_meters_is_not_looked_at(armed):
    traffic = armed(TOKENS).traffic
    assert traffic.response(500, SSE) is None


def test_a_body_that_was_not_said_to_be_complete_is_partial_unless_its_last_figures_came(armed, bench):
    metering = armed(TOKENS)
    look = metering.traffic.response(200, SSE)
    look.feed(DONE)
    metering.settle(200)
    assert data(bench) == [{"type": "input", "tokens": 3}, {"type": "output", "tokens": 4}]
    metering = armed(TOKENS)
    look = metering.traffic.response(200, SSE)
    look.feed(DONE.partition(b"data: [DONE]")[0].replace(b'"choices":[]', b'"choices":[{}]'))
    metering.settle(200)
    assert {each["partial"] for each in data(bench)[2:]} == {True}


def test_two_policies_may_read_one_response_in_different_ways(armed, bench):
    metering = armed(TOKENS, {**TOKENS, "type": "guess", "estimate": True}, {"type": "g", "from": "gemini"})
    look = metering.traffic.response(200, SSE)
    look.feed(b'data: {"choices":[{"delta":{"content":"four"}}]}\n\n')
    look.end()
    metering.settle(200)
    assert [(event["type"], event["data"]) for event in bench.events()] == [
        ("guess", {"type": "output", "tokens": 1, "partial": True, "estimated": True})
    ]
    assert bench.backends.dropped == {"no_usage": 2}


def test_the_request_is_the_one_that_reached_the_last_policy_and_the_route_may_come_late(armed, bench):
    metering = armed(
        {"type": "a", "data": {"p": "$request.path", "r": "$route.path", "q": "$request.query.q"}}
    )
    for path in ("/one", "/two"):
        metering.traffic.request("GET", path, "q=1&q=2", SSE, route=None, user=None)
    metering.traffic.route = "/{name}"
    metering.settle(200)
    assert data(bench) == [{"p": "/two", "r": "/{name}", "q": "1"}]


def test_what_is_missing_is_said_once_for_a_route_and_for_no_more_routes_than_a_bound(bench, caplog):
    engine = bench.engine(meter=TOKENS)
    for number in range(1010):
        for _ in range(2):
            metering = Metering("r")
            metering.arm(engine, "acme", f"/{number}")
            metering.settle(200)
    assert len([line for line in caplog.messages if "told no usage" in line]) == 1000
    assert bench.backends.dropped == {"no_usage": 2020}


# --- where OpenMeter has the values


@pytest.fixture
def count():
    def learn(*meters):
        local = Count(Ledger(Folder(None), Watermark(lambda: [(0, 0)]), time.monotonic, visibility=5.0))
        made = [Meter(f"m{n}", f"m{n}", "llm", *meter) for n, meter in enumerate(meters)]
        local.learn(Catalog((), tuple(made)))
        return local

    return learn


@pytest.mark.parametrize(
    ("meters", "missing", "nowhere"),
    [
        ([("SUM", "$.tokens")], ("$.tokens",), True),
        ([("SUM", "$['tokens']")], ("$.x", '$["tokens"]'), True),
        ([("SUM", "$.usage.total")], ("$.usage.total",), True),
        ([("SUM", "$.tokens")], ("$.model",), False),
        ([("SUM", "$.tokens"), ("SUM", "$.bytes")], ("$.tokens",), False),
        ([("SUM", "$.tokens"), ("SUM", "$.bytes")], ("$.tokens", "$.bytes"), True),
        ([("SUM", "$.tokens"), ("COUNT",)], ("$.tokens",), False),
        ([("SUM", "$..tokens")], ("$.tokens",), False),
        ([], ("$.tokens",), False),
    ],
)
def test_an_event_counts_nowhere_where_every_meter_of_its_type_misses_its_value(
    count, meters, missing, nowhere
):
    assert count(*meters).counts_nowhere("llm", missing) is nowhere
    assert count(*meters).counts_nowhere("other", missing) is False
