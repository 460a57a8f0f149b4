"""What holds for every route: problems, headers, the token."""

from __future__ import annotations

import logging

import pytest
from starlette.requests import Request
from starlette.routing import Route

from metergate.embedded.api.app import Application
from metergate.embedded.store.database import Overloaded, Unavailable


def test_every_answer_says_what_it_is_powered_by(openmeter):
    for target in ("/api/v1/meters", "/nowhere"):
        assert openmeter("GET", target).headers["x-powered-by"] == "OpenMeter by Kong, Inc."


def test_a_problem_is_told_as_openmeter_tells_it_with_the_callers_request_id(openmeter):
    answer = openmeter("GET", "/api/v1/meters/unknown", headers={"X-Request-Id": "abc-1"})
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "not found error: meter not found: unknown",
        "instance": "urn:request:abc-1",
    }


def test_what_the_api_does_not_describe_is_a_problem_without_instance(openmeter, event):
    for method, target, body, status in (
        ("GET", "/nowhere", None, 404),
        ("PATCH", "/api/v1/meters", None, 405),
        ("GET", "/api/v1/events?limit=0", None, 400),
        ("POST", "/api/v1/meters", {}, 400),
        ("POST", "/api/v1/events", {}, 400),
    ):
        answer = openmeter(method, target, body)
        assert answer.status == status
        assert answer.json.keys() == {"type", "title", "status", "detail"}
    handled = openmeter(
        "POST", "/api/v1/events", event(), headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert handled.json["instance"].startswith("urn:request:")
    assert handled.json["extensions"] == {"contentType": "application/json; charset=utf-8"}
    assert "instance" in openmeter("POST", "/api/v1/events", []).json


def test_a_wrong_method_is_a_405_problem(openmeter):
    answer = openmeter("PATCH", "/api/v1/meters")
    assert (answer.status, answer.detail) == (405, "method not allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


def test_a_request_id_that_could_harm_a_log_is_replaced(openmeter):
    answer = openmeter("GET", "/api/v1/meters/unknown", headers={"X-Request-Id": "a\tb"})
    assert answer.json["instance"].startswith("urn:request:")
    assert "\t" not in answer.json["instance"]


def test_with_a_token_only_who_knows_it_is_answered(openmeter):
    openmeter.stop()
    openmeter.token = "open-sesame"
    openmeter.start()
    for headers in ({}, {"Authorization": "open-sesame"}, {"Authorization": "Bearer wrong"}):
        answer = openmeter("GET", "/api/v1/meters", headers=headers)
        assert answer.status == 401
        assert "open-sesame" not in answer.detail
    assert openmeter("GET", "/api/v1/meters", headers={"Authorization": "Bearer open-sesame"}).status == 200


def test_an_unforeseen_error_is_a_500_without_detail_and_is_logged_with_its_request_id(openmeter, caplog):
    async def broken(_: Request):
        raise RuntimeError("the cause, for the log only")

    async def nothing() -> None:
        return

    openmeter.stop()
    openmeter.app = Application([Route("/broken", broken)], startup=nothing, shutdown=nothing)
    with caplog.at_level(logging.ERROR):
        answer = openmeter("GET", "/broken", headers={"X-Request-Id": "r-1"})
    assert answer.status == 500
    assert b"cause" not in answer.body
    assert "detail" not in answer.json
    assert caplog.records[0].request_id == "r-1"
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize("error", [Overloaded("too much"), Unavailable("no space")])
@pytest.mark.parametrize("path", ["/api/v1/x", "/api/v3/openmeter/x"])
def test_every_503_says_when_to_try_again(openmeter, error, path):
    async def busy(_: Request):
        raise error

    async def nothing() -> None:
        return

    openmeter.stop()
    openmeter.app = Application([Route(path, busy)], startup=nothing, shutdown=nothing)
    answer = openmeter("GET", path)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.detail == str(error)
    assert "retry-after" not in openmeter("GET", "/elsewhere").headers


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/plans",
        "/api/v1/plans/01G65Z755AFWAKHE12NY0CQ9FH/publish",
        "/api/v1/subscriptions/x/edit",
        "/api/v1/billing/invoices",
        "/api/v1/customers/acme/apps",
        "/api/v1/features/tokens/cost/query",
        "/api/v3/openmeter/subscriptions",
        "/api/v3/openmeter/customers/x/charges",
        "/api/v3/openmeter/features/x/cost/query",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_openmeter_has_and_this_server_has_not_is_a_501_that_says_so(openmeter, method, target):
    answer = openmeter(method, target, {} if method == "POST" else None)
    assert answer.status == 501
    assert f"{method} {target} is not served here" in answer.detail


def test_the_events_of_the_day_are_counted_for_a_look(openmeter, event):
    names = {"1": "acme", "2": "acme", "3": 'a"b'}
    events = [event(number, subject=subject, time=None) for number, subject in names.items()]
    openmeter("POST", "/api/v1/events", [*events, event("old", time="2026-03-14T23:59:59Z")])
    answer = openmeter("GET", "/api/v1/debug/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body.decode().splitlines()[2:] == [
        'openmeter_events_total{subject="a\\"b"} 1',
        'openmeter_events_total{subject="acme"} 2',
        "# EOF",
    ]
