"""A request through the real gateway, and its events read back from the real embedded OpenMeter."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from metergate.testing.events import events_with, meter_total
from metergate.testing.processes import Server, gateway_server, openmeter_server, upstream_server
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    forward,
    openmeter_policy,
    route,
    write_project,
)

METERS = [{"slug": "calls", "eventType": "call", "aggregation": "SUM", "valueProperty": "$.count"}]
FEATURES = [{"key": "calls", "name": "Calls", "meterSlug": "calls"}]
CUSTOMERS = {"acme": 1000, "tiny": 1}
CALL = {"type": "call", "data": {"count": 1}}
AT_ONCE = {
    "ttlSeconds": 0
}  # every request asks OpenMeter, so that a limit shows as soon as the usage is there

POLICIES = {
    "plain": {"meter": CALL},
    "same-type": {"meter": [CALL, {"type": "call", "data": {"count": 2}}, {"type": "other"}, CALL]},
    "statuses": {"meter": CALL, "meterOnStatusCodes": "200-201, 404"},
    "account": {"meter": CALL, "subjectPath": ".data.account.id"},
    "source": {"meter": CALL, "eventSource": "billing-edge"},
    "limited": {
        "meter": CALL,
        "meterOnStatusCodes": "200-599",
        "requiredEntitlements": ["calls", "premium"],
        "entitlementCheck": AT_ONCE,
    },
    "quota": {
        "meter": CALL,
        "meterOnStatusCodes": "200-599",
        "requiredEntitlements": ["calls"],
        "entitlementCheck": AT_ONCE,
    },
}


@dataclass(frozen=True)
class House:
    """All that runs for this module."""

    gateway: Server
    openmeter: Server
    spool: Path
    keys: dict[str, str]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with ExitStack() as stack:
        openmeter = stack.enter_context(openmeter_server(folder / "openmeter", _configuration()))
        api = stack.enter_context(upstream_server(folder / "api.log"))
        routes = {
            f"/{name}/:kind/:value": {
                "get": route(
                    {
                        "export": "urlRewriteHandler",
                        "module": "$import(@zuplo/runtime)",
                        "options": {"rewritePattern": f"{api.url}/${{params.kind}}/${{params.value}}"},
                    },
                    inbound=["keys", name],
                )
            }
            for name in POLICIES
        }
        routes["/free"] = {"get": route(forward(api.url))}
        policies = [openmeter_policy(name, **options) for name, options in POLICIES.items()]
        project = write_project(folder / "project", routes, [api_key_policy(), *policies])
        metadata = {"acme": {"account": {"id": 4711}}, "tiny": {}, "nobody": {"account": {"id": ""}}}
        keys = {name: create_key(project, name, data) for name, data in metadata.items()}
        spool = folder / "spool"
        env = {"METERGATE_OPENMETER_URL": openmeter.url}
        gateway = stack.enter_context(gateway_server(project, spool=spool, env=env))
        yield House(gateway, openmeter, spool, keys)


def _configuration() -> dict[str, Any]:
    return {
        "meters": METERS,
        "features": FEATURES,
        "customers": [
            {"key": name, "name": name, "usageAttribution": {"subjectKeys": [name]}} for name in CUSTOMERS
        ],
        "entitlements": [
            {
                "customer": name,
                "type": "metered",
                "featureKey": "calls",
                "usagePeriod": {"interval": "MONTH"},
                "issueAfterReset": quota,
            }
            for name, quota in CUSTOMERS.items()
        ],
    }


@pytest.fixture(scope="module")
def events(house: House, eventually: Callable[..., Any]) -> Callable[..., list[dict[str, Any]]]:
    """``events(reply, count)``: what OpenMeter holds of that request, by id, once it is ``count`` events."""

    def read(reply: Any, count: int) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            held = events_with(house.openmeter.url, reply.request_id)
            return held if len(held) >= count else []

        return sorted(eventually(found), key=lambda event: event["id"])

    return read


@pytest.fixture(scope="module")
def later(house: House, call: Callable[..., Any], events: Callable[..., Any]) -> Callable[[], None]:
    """Returns when everything that was recorded before has reached OpenMeter: events go out in their order."""

    def wait() -> None:
        events(call(house.gateway.url, "/plain/status/200", key=house.keys["acme"]), 1)

    return wait


def test_a_metered_request_is_one_event_with_the_fields_that_the_policy_says(house, call, events):
    before = int(time.time())
    reply = call(house.gateway.url, "/plain/anything/else?x=1", key=house.keys["acme"])
    after = time.time()
    assert reply.status == 200
    [event] = events(reply, 1)
    at = datetime.fromisoformat(event.pop("time"))
    assert event == {
        "specversion": "1.0",
        "id": f"{reply.request_id}-call",
        "source": "api-gateway",
        "subject": "acme",
        "type": "call",
        "datacontenttype": "application/json",
        "data": {"count": 1},
    }
    assert before <= at.timestamp() <= after
    assert at.utcoffset().total_seconds() == 0


def test_what_travels_has_the_time_in_milliseconds_and_nothing_that_the_policy_does_not_say(
    house, call, events
):
    before = time.time_ns() // 1_000_000
    reply = call(house.gateway.url, "/plain/status/200", key=house.keys["acme"])
    after = time.time_ns() // 1_000_000
    events(reply, 1)
    lines = b"".join(path.read_bytes() for path in house.spool.glob("*/segments/*.jsonl")).splitlines()
    [event] = [json.loads(line) for line in lines if reply.request_id.encode() in line]
    written = event.pop("time")
    assert written.endswith("Z")
    assert len(written) == len("2026-01-31T12:00:00.123Z")
    assert before <= round(datetime.fromisoformat(written).timestamp() * 1000) <= after
    assert event == {
        "specversion": "1.0",
        "id": f"{reply.request_id}-call",
        "source": "api-gateway",
        "subject": "acme",
        "type": "call",
        "data": {"count": 1},
    }


def test_further_meters_of_the_same_type_are_numbered(house, call, events):
    reply = call(house.gateway.url, "/same-type/status/200", key=house.keys["acme"])
    held = events(reply, 4)
    assert [(event["id"].removeprefix(reply.request_id), event.get("data")) for event in held] == [
        ("-call", {"count": 1}),
        ("-call-2", {"count": 2}),
        ("-call-3", {"count": 1}),
        ("-other", None),
    ]


@pytest.mark.parametrize(
    ("policy", "status", "count"),
    [
        ("plain", 200, 1),
        ("plain", 299, 1),
        ("plain", 304, 0),
        ("plain", 404, 0),
        ("statuses", 201, 1),
        ("statuses", 204, 0),
        ("statuses", 404, 1),
        ("statuses", 500, 0),
    ],
)
def test_a_request_is_metered_on_the_configured_statuses_only(
    policy, status, count, house, call, events, later
):
    reply = call(house.gateway.url, f"/{policy}/status/{status}", key=house.keys["acme"])
    assert reply.status == status
    if count == 0:
        later()
    assert len(events(reply, count) if count else events_with(house.openmeter.url, reply.request_id)) == count


def test_the_subject_is_read_from_the_key_s_metadata_and_a_number_becomes_its_digits(house, call, events):
    reply = call(house.gateway.url, "/account/status/200", key=house.keys["acme"])
    [event] = events(reply, 1)
    assert event["subject"] == "4711"


@pytest.mark.parametrize("consumer", ["tiny", "nobody"])
def test_without_a_subject_a_request_passes_and_its_event_is_dropped_and_counted(
    consumer, house, call, later
):
    reply = call(house.gateway.url, "/account/status/200", key=house.keys[consumer])
    assert reply.status == 200
    later()
    assert events_with(house.openmeter.url, reply.request_id) == []
    metrics = call(house.gateway.url, "/__metergate/metrics").body.decode()
    assert re.search(r'metergate_events_dropped_total\{[^}]*reason="no_subject"[^}]*\} [1-9]', metrics)
    assert house.gateway.output().count("a request without a subject at .data.account.id") == 1


def test_the_event_source_is_the_configured_one(house, call, events):
    reply = call(house.gateway.url, "/source/status/200", key=house.keys["acme"])
    [event] = events(reply, 1)
    assert (event["source"], event["id"]) == ("billing-edge", f"{reply.request_id}-call")


def test_a_client_cannot_choose_the_request_id(house, call, events):
    chosen = {"zp-rid": "chosen-by-a-client"}
    replies = [
        call(house.gateway.url, "/plain/status/200", key=house.keys["acme"], headers=chosen) for _ in range(2)
    ]
    assert len({reply.request_id for reply in replies} | {"chosen-by-a-client"}) == 3
    assert [events(reply, 1)[0]["id"] for reply in replies] == [
        f"{reply.request_id}-call" for reply in replies
    ]
    assert events_with(house.openmeter.url, "chosen-by-a-client") == []


@pytest.mark.parametrize("policy", ["plain", "quota"])
@pytest.mark.parametrize("key", [None, "mg_" + "x" * 43])
def test_without_a_valid_key_the_answer_is_401_and_there_is_no_event(policy, key, house, call, later):
    reply = call(house.gateway.url, f"/{policy}/status/200", key=key)
    assert reply.status == 401
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["title"] == "Unauthorized"
    later()
    assert events_with(house.openmeter.url, reply.request_id) == []


def test_past_the_quota_the_answer_is_403_that_names_the_feature_and_there_is_no_event(
    house, call, events, later
):
    first = call(house.gateway.url, "/quota/status/200", key=house.keys["tiny"])
    assert first.status == 200
    assert len(events(first, 1)) == 1
    refused = call(house.gateway.url, "/quota/status/200", key=house.keys["tiny"])
    assert refused.status == 403
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json
    trace, age = problem.pop("trace"), problem.pop("age")
    assert problem == {
        "type": "https://httpproblems.com/http-status/403",
        "title": "Forbidden",
        "status": 403,
        "detail": "Your quota is used up for: calls.",
        "instance": "/quota/status/200",
        "reason": "exhausted",
        "features": [{"feature": "calls", "reason": "exhausted"}],
    }
    assert age >= 0
    assert trace["requestId"] == refused.request_id
    later()
    assert events_with(house.openmeter.url, refused.request_id) == []
    [denial] = [line for line in logged(house) if line.get("reason") == "exhausted"]
    assert denial["policy"] == "quota"
    assert denial["subject"] == "tiny"
    assert denial["failures"] == [
        {"feature": "calls", "reason": "exhausted", "balance": 0, "usage": 1, "overage": 0}
    ]


def test_a_feature_that_nobody_was_given_is_refused_by_name_and_never_metered(house, call, later):
    refused = call(house.gateway.url, "/limited/status/200", key=house.keys["acme"])
    assert (refused.status, refused.json["detail"]) == (403, "You have no access to: premium.")
    unknown = call(house.gateway.url, "/limited/status/200", key=house.keys["nobody"])
    assert (unknown.status, unknown.json["detail"]) == (403, "You have no access to: calls, premium.")
    later()
    for reply in (refused, unknown):
        assert events_with(house.openmeter.url, reply.request_id) == []


def test_a_route_without_the_policy_is_not_metered(house, call, later):
    reply = call(house.gateway.url, "/free")
    assert reply.status == 200
    later()
    assert events_with(house.openmeter.url, reply.request_id) == []


def test_the_meter_counts_what_was_sent_and_what_the_gateway_says_it_delivered(
    house, call, later, eventually
):
    later()

    def settled() -> bool:
        health = call(house.gateway.url, "/__metergate/health").json["delivery"]
        [delivery] = health.values()
        return delivery["pending"] == 0 and delivery["delivered"] > 0 and delivery["state"] == "ok"

    assert eventually(settled)
    before = meter_total(house.openmeter.url, "calls")
    for _ in range(3):
        call(house.gateway.url, "/plain/status/200", key=house.keys["acme"])
    assert eventually(lambda: meter_total(house.openmeter.url, "calls") == before + 3)


def logged(house: House) -> list[dict[str, Any]]:
    return [json.loads(line) for line in house.gateway.output().splitlines() if line.startswith("{")]
