"""Every example runs: the original's own, word for word, and the projects of this repository."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from metergate.gateway.consumers import create_key
from metergate.testing.events import events_with, meter_total
from metergate.testing.processes import (
    HOST,
    Server,
    free_port,
    gateway_server,
    metergate_command,
    openmeter_server,
    upstream_server,
)
from metergate.testing.projects import api_key_policy, custom_policy, forward, route, write_project

ROOT = Path(__file__).parents[2]
ORIGINAL = ROOT / "tests" / "policy" / "golden"
EXAMPLES = ROOT / "examples"

EVENTS: dict[str, list[tuple[str, Any]]] = {
    "configuration": [("api-request", {"count": 1})],
    "basic_metering": [("api-call", {"service": "payment-api", "tier": "premium"})],
    "multiple_meters": [("api-call", {"service": "payment-api"}), ("data-transfer", {"bytes": 1024})],
    "entitlements": [("api-call", {"service": "payment-api"})],
    "custom_status_codes": [("api-call", None)],
}
"""What a request with status 200 is metered as by each of the original's JSON blocks."""

REQUIRED = {"configuration": "api-request", "entitlements": "payment-api-access, premium-tier"}

OVERRIDE = """
from metergate.runtime import OpenMeterInboundPolicy


def default(request, context, options, policy_name):
    OpenMeterInboundPolicy.setMeters(
        context,
        {
            "type": "llm-usage",
            "id": "custom-event-id-123",
            "subject": "user-456",
            "data": {"model": "gpt-4", "tokens": 1500},
        },
    )
    return request
"""


@pytest.fixture(scope="module")
def openmeter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    features = ("api-request", "payment-api-access", "premium-tier")
    config = {
        "features": [{"key": key, "name": key} for key in features],
        "customers": [{"key": name, "name": name} for name in ("acme", "basic")],
        "entitlements": [
            *({"customer": "acme", "type": "boolean", "featureKey": key} for key in features),
            {"customer": "basic", "type": "boolean", "featureKey": "payment-api-access"},
        ],
    }
    for customer in config["customers"]:
        customer["usageAttribution"] = {"subjectKeys": [customer["key"]]}
    with openmeter_server(tmp_path_factory.mktemp("original") / "data", config) as server:
        yield server


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with upstream_server(tmp_path_factory.mktemp("upstream") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    file = tmp_path_factory.mktemp("keys") / "consumers.json"
    return file, {name: create_key(file, name)[0] for name in ("acme", "basic")}


@pytest.fixture(scope="module")
def original(
    openmeter: Server,
    upstream: Server,
    keys: tuple[Path, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Server]]:
    """A gateway for each of the original's examples, and "override" for its sample of overridden fields."""
    folder = tmp_path_factory.mktemp("projects")
    env = {"METERGATE_OPENMETER_URL": openmeter.url}
    with ExitStack() as stack:
        gateways: dict[str, Server] = {}
        for name in (*EVENTS, "override"):
            example = json.loads(
                (ORIGINAL / f"{name if name in EVENTS else 'basic_metering'}.json").read_text()
            )
            chain = ["keys", example.get("name") or example["type"]]
            policies = [api_key_policy(), example]
            if name == "override":
                (folder / name / "modules").mkdir(parents=True)
                (folder / name / "modules" / "meters.py").write_text(OVERRIDE)
                policies.append(custom_policy("set-meters", "meters"))
                chain.append("set-meters")
            routes = {"/(.*)": {"get": route(forward(upstream.url), inbound=chain)}}
            project = write_project(folder / name, routes, policies)
            shutil.copy(keys[0], project / "config" / "consumers.json")
            gateways[name] = gateway_server(project, env=env)
            stack.callback(gateways[name].kill)
            gateways[name].launch()
        for server in gateways.values():
            server.wait_ready()
        yield gateways


@pytest.fixture(scope="module")
def held(eventually: Callable[..., Any]) -> Callable[..., list[dict[str, Any]]]:
    """``held(openmeter, reply, count)``: the events of that request in OpenMeter, by type, once there are so many."""

    def read(openmeter: Server, reply: Any, count: int) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            events = events_with(openmeter.url, reply.request_id)
            return events if len(events) >= count else []

        return sorted(eventually(found), key=lambda event: event["type"])

    return read


def kinds(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(event["type"], event.get("data")) for event in events]


@pytest.mark.parametrize("name", EVENTS)
def test_an_example_of_the_original_meters_a_request_as_it_says(name, original, openmeter, keys, call, held):
    reply = call(original[name].url, "/status/200", key=keys[1]["acme"])
    assert reply.status == 200
    events = held(openmeter, reply, len(EVENTS[name]))
    assert kinds(events) == EVENTS[name]
    assert [event["id"] for event in events] == [f"{reply.request_id}-{kind}" for kind, _ in EVENTS[name]]
    assert {(event["subject"], event["source"]) for event in events} == {("acme", "api-gateway")}


@pytest.mark.parametrize(
    ("name", "missing"), [("configuration", "api-request"), ("entitlements", "premium-tier")]
)
def test_an_example_with_entitlements_refuses_who_has_them_not(
    name, missing, original, openmeter, keys, call, held
):
    refused = call(original[name].url, "/status/200", key=keys[1]["basic"])
    assert refused.status == 403
    assert refused.json["detail"] == f"You have no access to: {missing}."
    held(openmeter, call(original[name].url, "/status/200", key=keys[1]["acme"]), 1)
    assert events_with(openmeter.url, refused.request_id) == []


@pytest.mark.parametrize(("status", "count"), [(200, 1), (204, 1), (304, 1), (301, 0), (404, 0), (500, 0)])
def test_the_example_of_custom_status_codes_meters_these(
    status, count, original, openmeter, keys, call, held
):
    url, key = original["custom_status_codes"].url, keys[1]["acme"]
    reply = call(url, f"/status/{status}", key=key)
    assert reply.status == status
    held(openmeter, call(url, "/status/200", key=key), 1)  # what was recorded before is there as well now
    assert len(events_with(openmeter.url, reply.request_id)) == count


def test_the_sample_that_overrides_fields_sends_its_own_id_and_subject(
    original, openmeter, keys, call, eventually
):
    reply = call(original["override"].url, "/status/200", key=keys[1]["acme"])
    assert reply.status == 200
    [event] = eventually(lambda: events_with(openmeter.url, "custom-event-id-123"))
    assert event["id"] == "custom-event-id-123"
    assert event["subject"] == "user-456"
    assert kinds([event]) == [("llm-usage", {"model": "gpt-4", "tokens": 1500})]
    assert kinds(events_with(openmeter.url, reply.request_id)) == EVENTS["basic_metering"]


@pytest.fixture
def running_example(tmp_path: Path, upstream: Server) -> Iterator[Callable[..., tuple[Server, Server]]]:
    """``running_example("quickstart", {key: consumer}, api)``: a project of the repository with its openmeter.yaml."""
    with ExitStack() as stack:

        def start(name: str, consumers: dict[str, str], api: Server = upstream) -> tuple[Server, Server]:
            project = tmp_path / name
            ignored = shutil.ignore_patterns(".metergate", "consumers.json", "__pycache__")
            shutil.copytree(EXAMPLES / name, project, ignore=ignored)
            for consumer in consumers:
                consumers[consumer] = create_key(project / "config" / "consumers.json", consumer)[0]
            port = free_port()
            command = metergate_command("openmeter", "--data", tmp_path / "data", "--port", str(port))
            openmeter = Server(
                [*command, "--config", str(project / "openmeter.yaml")],
                url=f"http://{HOST}:{port}",
                ready="/api/v1/meters",
                log=tmp_path / "openmeter.log",
            )
            env = {
                "METERGATE_OPENMETER_URL": openmeter.url,
                "UPSTREAM_URL": api.url,
                "OPENMETER_API_KEY": None,  # the .env has one
            }
            gateway = gateway_server(project, env=env)
            for server in (openmeter, gateway):
                stack.callback(server.kill)
                server.launch()
            openmeter.wait_ready()
            gateway.wait_ready()
            return gateway, openmeter

        yield start


def test_the_programmatic_example_sends_the_three_events_of_the_set_meters_sample(
    running_example, call, held, eventually
):
    keys = {"acme": ""}
    gateway, openmeter = running_example("programmatic", keys)
    reply = call(gateway.url, "/complete", method="POST", key=keys["acme"], body=b"abc")
    assert reply.status == 200
    assert reply.json == {"id": reply.request_id, "completion": "cba"}
    events = held(openmeter, reply, 3)
    assert kinds(events) == [
        ("api-call", {"endpoint": f"{gateway.url}/complete", "method": "POST"}),
        ("api-request", {"count": 1}),
        ("llm-usage", {"model": "gpt-4", "prompt_tokens": 100, "completion_tokens": 50}),
    ]
    assert [event["id"] for event in events] == [
        f"{reply.request_id}-{kind}" for kind in ("api-call", "api-request", "llm-usage")
    ]
    totals = {slug: meter_total(openmeter.url, slug) for slug in ("api-call", "api-request", "prompt-tokens")}
    assert totals == {"api-call": 1, "api-request": 1, "prompt-tokens": 100}


def test_the_quickstart_meters_and_limits_its_two_consumers(running_example, call, held):
    keys = {"acme": "", "stranger": ""}
    gateway, openmeter = running_example("quickstart", keys)
    reply = call(gateway.url, "/hello", key=keys["acme"])
    assert (reply.status, reply.json["path"]) == (200, "/hello")
    assert kinds(held(openmeter, reply, 1)) == EVENTS["configuration"]
    assert call(gateway.url, "/free").status == 200
    assert call(gateway.url, "/hello").status == 401
    refused = call(gateway.url, "/hello", key=keys["stranger"])
    assert (refused.status, refused.json["detail"]) == (403, "You have no access to: api-request.")
    access = call(openmeter.url, "/api/v1/customers/tiny/access").json["entitlements"]["api-request"]
    assert (access["hasAccess"], access["balance"]) == (True, 3)
    assert meter_total(openmeter.url, "api-request") == 1


def test_the_llm_proxy_meters_tokens_and_lets_in_as_long_as_there_are_enough(
    running_example, running, call, held, tmp_path
):
    port = free_port()
    model = [sys.executable, str(EXAMPLES / "llm-proxy" / "upstream.py"), "--port", str(port)]
    api = running(Server(model, url=f"http://{HOST}:{port}", ready="/", log=tmp_path / "model.log"))
    keys = {"acme": "", "tiny": ""}
    gateway, openmeter = running_example("llm-proxy", keys, api)

    def complete(name: str, **asked: Any) -> Any:
        body = json.dumps(asked).encode()
        return call(gateway.url, "/v1/chat/completions", method="POST", key=keys[name], body=body)

    route = {"model": "parrot-1", "route": "/v1/chat/completions"}
    told = complete("acme", stream=True, stream_options={"include_usage": True})
    assert told.body.endswith(b"data: [DONE]\n\n")
    found = kinds(held(openmeter, told, 2))
    assert {kind["type"]: kind["tokens"] for _, kind in found} == {"input": 11, "output": 9}
    assert {(kind["model"], kind["route"]) for _, kind in found} == {tuple(route.values())}
    untold = complete("acme", stream=True)
    assert kinds(held(openmeter, untold, 1)) == [
        ("prompt", {**route, "type": "output", "tokens": 9, "estimated": True})
    ]
    answers = [complete("tiny") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 403]
    assert answers[2].json["detail"] == "Your quota is used up for: tokens."
    assert meter_total(openmeter.url, "tokens") == 2 * 20 + 20 + 9
