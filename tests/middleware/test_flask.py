"""The Flask extension: in a Flask application's own order of things."""

from __future__ import annotations

from itertools import count

import flask
import pytest

from metergate.middleware import set_meters
from metergate.middleware.flask import FlaskMetergate

NUMBERS = count()


@pytest.fixture
def subject():
    return f"flask-{next(NUMBERS)}"


@pytest.fixture
def app():
    """Its users say themselves who they are, in a header, as `before_request` finds out."""
    made = flask.Flask("shop")

    @made.before_request
    def authenticate():
        name = flask.request.headers.get("authorization")
        flask.g.user = {"sub": name} if name else None

    @made.get("/things/<number>")
    def thing(number):
        return f"thing {number}"

    @made.get("/tokens")
    def tokens():
        set_meters({"type": "call", "data": {"tokens": 7}})
        return "done"

    @made.get("/healthz")
    def health():
        return "ok"

    @made.get("/fails")
    def fails():
        raise ValueError("bug")

    return made


def get(app, path, subject=""):
    return app.test_client().get(path, headers={"authorization": subject} if subject else {})


def test_a_view_is_metered_and_a_missing_page_is_not(app, metergate, events, subject):
    gate = metergate()
    FlaskMetergate(app, gate)
    assert get(app, "/things/7", subject).text == "thing 7"
    assert get(app, "/nothing", subject).status_code == 404
    assert get(app, "/fails", subject).status_code == 500
    assert get(app, "/tokens", subject).text == "done"
    assert gate.flush()
    assert [event.get("data") for event in events(subject)].count({"tokens": 7}) == 1
    assert len(events(subject)) == 2


def test_who_is_known_only_inside_is_let_in_to_the_unit(app, metergate, customer, subject):
    customer(subject, 2)
    FlaskMetergate(
        app, metergate(required_entitlements=["calls"], entitlement_check={"explain_header": "why"})
    )
    answers = [get(app, "/things/7", subject) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403]
    assert answers[0].headers["why"].startswith("granted")
    assert (answers[2].json["reason"], answers[2].content_type) == ("exhausted", "application/problem+json")


def test_nobody_is_let_in_where_an_entitlement_is_needed_and_a_health_check_is(app, metergate):
    FlaskMetergate(app, metergate(required_entitlements=["calls"]))
    assert get(app, "/things/7").status_code == 401
    assert get(app, "/healthz").status_code == 200


def test_a_view_may_need_more_and_be_metered_on_its_own(app, metergate, customer, events, subject):
    customer(subject, 1)
    gate = metergate()
    extension = FlaskMetergate(app, gate)

    @app.get("/chat")
    @extension.require("calls", meter={"type": "call", "data": {"kind": "chat"}})
    def chat():
        return "hi"

    assert [get(app, "/chat", subject).status_code for _ in range(2)] == [200, 403]
    assert get(app, "/things/1", subject).status_code == 200, "that needs nothing"
    assert gate.flush()
    kinds = [event.get("data") for event in events(subject)]
    assert (kinds.count({"kind": "chat"}), len(kinds)) == (1, 3)
