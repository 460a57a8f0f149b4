"""What some routes need and count on their own, in each framework's manner, and by which name a route goes."""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module
from itertools import count

import fastapi
import httpx
import pytest

from metergate.errors import ConfigurationError, UsageError
from metergate.middleware import MetergateMiddleware, add_meters, set_meters
from metergate.middleware.fastapi import DENIALS, metered, require_entitlement
from metergate.middleware.requirements import Requirement
from metergate.middleware.routes import template

NUMBERS = count()
MANNERED = ["fastapi", "litestar", "quart", "django"]


@pytest.fixture(scope="module")
def chats(openmeter):
    """A feature by a meter of its own."""
    openmeter.call("POST", "/api/v1/meters", {"slug": "chats", "aggregation": "COUNT", "eventType": "chat"})
    openmeter.call("POST", "/api/v1/features", {"key": "chats", "name": "chats", "meterSlug": "chats"})


@pytest.fixture
def chatter(openmeter, chats, customer):
    """``chatter(3)``: a customer with so many chats left."""

    def make(quota):
        name = customer(f"chatter-{next(NUMBERS)}")
        entitlement = {"type": "metered", "featureKey": "chats", "issueAfterReset": quota}
        period = {"usagePeriod": {"interval": "MONTH"}}
        openmeter.call("POST", f"/api/v2/customers/{name}/entitlements", entitlement | period)
        return name

    return make


def application(framework, metergate):
    return import_module(f"tests.middleware.applications.{framework}").application(metergate)


def ask(metergate, app, *paths, user=None):
    """The answers to requests that are made all at once, without a server."""

    async def whole():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            headers = {"X-User": user} if user else {}
            try:
                return await asyncio.gather(*(client.get(path, headers=headers) for path in paths))
            finally:
                await metergate.stop()

    return asyncio.run(whole())


def statuses(answers):
    return sorted(answer.status_code for answer in answers)


@pytest.mark.parametrize(
    ("framework", "path"),
    [*((framework, "/chats/7") for framework in MANNERED), ("django", "/chats-async/7")],
)
def test_a_route_needs_more_and_is_metered_on_its_own(framework, path, metergate, chatter, events):
    gate = metergate()
    user = chatter(1)
    app = application(framework, gate)
    assert statuses(ask(gate, app, "/things/7", path, path, user=user)) == [200, 200, 403]
    assert gate.flush()
    assert sorted(event["type"] for event in events(user)) == ["call", "call", "chat"]


@pytest.mark.parametrize("framework", MANNERED)
def test_a_route_s_quota_holds_though_its_policy_is_made_with_the_first_request(
    framework, metergate, chatter, events
):
    gate = metergate()
    user = chatter(3)
    app = application(framework, gate)
    answers = ask(gate, app, "/things/7", *["/chats/7"] * 12, user=user)
    assert statuses(answers) == [200] * 4 + [403] * 9
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["features"] == [{"feature": "chats", "reason": "exhausted"}]
    assert gate.flush()
    assert len(events(user)) == 1 + 2 * 3, (
        "who is not let in is not metered by the application's policy either"
    )


@pytest.mark.parametrize(
    ("framework", "names"),
    [
        ("starlette", ["/things/{number:int}", "/shops/{shop}/things/{number:int}"]),
        ("fastapi", ["/things/{number}", "/shops/{shop}/things/{number}"]),
        ("litestar", ["/things/{number}", "/shops/{shop}/things/{number}"]),
        ("quart", ["/things/<int:number>", "/shops/<shop>/things/<int:number>"]),
        ("django", ["/things/<int:number>", "/shops/<shop>/things/<int:number>"]),
    ],
)
def test_a_route_goes_by_its_template(framework, names, metergate, events, caplog):
    gate = metergate(meter={"type": "call", "data": {"route": "$route.path"}})
    paths = ["/things/1", "/things/2", "/shops/corner/things/1", "/shops/other/things/2"]
    app = application(framework, gate)
    with caplog.at_level(logging.WARNING, "metergate.engine"):
        assert statuses(ask(gate, app, *paths)) == [200] * 4
    assert sorted(record.route for record in caplog.records) == sorted(names), "one warning each"
    user = f"routed-{next(NUMBERS)}"
    assert statuses(ask(gate, app, *paths, user=user)) == [200] * 4
    assert gate.flush()
    assert sorted(event["data"]["route"] for event in events(user)) == sorted([*names, *names])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({}, None),
        ({"route": object()}, None),
        ({"path_template": "/a/{b}"}, "/a/{b}"),
        (
            {
                "path_template": "/{n}",
                "app_root_path": "/v1",
                "root_path": "/v1/7",
                "path_params": {"t": 7, "n": "7"},
            },
            "/{t}/{n}",
        ),
        (
            {"path_template": "/x", "app_root_path": "", "root_path": "/files", "path_params": {"p": "a/b"}},
            "/files/x",
        ),
    ],
    ids=["no route", "no path", "said", "a mount's own parameter", "one of several segments"],
)
def test_what_a_scope_says_of_its_route(scope, expected):
    assert template(scope) == expected


def test_denials_are_described_in_the_openapi_document():
    app = fastapi.FastAPI()
    app.get("/chat", responses=DENIALS)(lambda: "hi")
    described = app.openapi()["paths"]["/chat"]["get"]["responses"]
    assert set(described) == {"200", "401", "403", "503"}
    assert list(described["403"]["content"]) == ["application/problem+json"]


def test_dependencies_of_a_whole_application_leave_health_checks_alone(metergate):
    gate = metergate(required_entitlements=["calls"])
    app = fastapi.FastAPI(dependencies=[fastapi.Depends(metered())])
    app.get("/healthz")(lambda: "ok")
    app.get("/things")(lambda: "thing")
    app.add_middleware(MetergateMiddleware, metergate=gate, admits=False)
    assert [each.status_code for each in ask(gate, app, "/healthz", "/things")] == [200, 401]


def test_a_policy_that_is_asked_for_twice_meters_once(metergate, events):
    gate = metergate()
    user = f"twice-{next(NUMBERS)}"
    app = fastapi.FastAPI(dependencies=[fastapi.Depends(metered())])
    chat = {"type": "chat", "data": {"kind": "short"}}
    app.get("/things", dependencies=[fastapi.Depends(metered()), fastapi.Depends(metered(chat))])(lambda: "x")
    app.add_middleware(MetergateMiddleware, metergate=gate)

    async def authenticated(scope, receive, send):
        await app({**scope, "user": user}, receive, send)

    assert statuses(ask(gate, authenticated, "/things")) == [200]
    assert gate.flush()
    assert sorted((event["type"], event.get("data")) for event in events(user)) == [
        ("call", None),
        ("chat", {"kind": "short"}),
    ]


def test_without_the_middleware_nobody_is_let_in(metergate, caplog):
    gate = metergate()
    app = fastapi.FastAPI()
    app.get("/chat", dependencies=[fastapi.Depends(require_entitlement("chats"))])(lambda: "hi")
    assert statuses(ask(gate, app, "/chat")) == [500]


def test_options_that_cannot_be_right_are_said_where_the_route_is_declared():
    with pytest.raises(ConfigurationError, match="exhaustedStatus"):
        Requirement(["chats"], {"entitlement_check": {"exhausted_status": 200}})


@pytest.mark.parametrize("call", [set_meters, add_meters])
def test_meters_are_not_set_of_a_request_that_is_not_metered(call):
    with pytest.raises(UsageError, match="none that Metergate meters"):
        call({"type": "http"}, {"type": "call"})


def test_meters_are_added_to_those_of_a_request(metergate, events):
    gate = metergate()
    user = f"added-{next(NUMBERS)}"

    async def app(scope, receive, send):
        set_meters(scope, {"type": "call", "data": {"n": 1}})
        add_meters(scope, {"type": "call", "data": {"n": 2}})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def authenticated(scope, receive, send):
        await MetergateMiddleware(app, gate)({**scope, "user": user}, receive, send)

    assert statuses(ask(gate, authenticated, "/")) == [200]
    assert gate.flush()
    assert sorted(event["data"]["n"] for event in events(user)) == [1, 2]
