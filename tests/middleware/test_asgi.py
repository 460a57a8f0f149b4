"""The middleware around a plain ASGI application: what is metered, and with which status; who is let in."""

from __future__ import annotations

import asyncio
from itertools import count

import msgspec
import pytest

from metergate.errors import ConfigurationError, UsageError
from metergate.middleware import Denied, Metergate, MetergateMiddleware, set_meters
from metergate.middleware.asgi import admit
from metergate.middleware.requirements import Requirement

NUMBERS = count()
HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


@pytest.fixture
def subject():
    return f"asgi-{next(NUMBERS)}"


async def hello(scope, receive, send):
    await send(HEAD)
    await send({"type": "http.response.body", "body": b"hello"})


def call(metergate, app, user=None, path="/things", **scope):
    """What the middleware sends for one request."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def whole():
        request = {"type": "http", "path": path, "headers": [], "user": user, **scope}
        try:
            await MetergateMiddleware(app, metergate)(request, receive, send)
        finally:
            await metergate.stop()

    asyncio.run(whole())
    return sent


def status_of(sent):
    return sent[0]["status"]


def test_a_response_goes_on_untouched_and_is_one_event(metergate, events, subject):
    gate = metergate()
    sent = call(gate, hello, subject)
    assert sent == [HEAD, {"type": "http.response.body", "body": b"hello"}]
    assert gate.flush()
    (event,) = events(subject)
    assert (event["type"], event["subject"]) == ("call", subject)


@pytest.mark.parametrize(
    ("options", "scope"),
    [({}, {"path": "/healthz"}), ({"exclude": ["/x"]}, {"path": "/x"}), ({}, {"type": "websocket"})],
    ids=["a health check", "excluded", "no request"],
)
def test_what_is_excluded_is_let_through_and_not_metered(metergate, events, subject, options, scope):
    gate = metergate(required_entitlements=["calls"], **options)
    assert len(call(gate, hello, subject, **scope)) == 2
    assert events(subject) == []


@pytest.mark.parametrize("where", ["state", "user", "header", "callable"])
def test_the_user_is_found_where_it_is_said(metergate, events, subject, where):
    options = {
        "header": {"trusted_header": "X-User"},
        "callable": {"user": lambda scope: scope["query_string"].decode()},
    }
    scope = {
        "state": {"state": {"user": {"sub": subject}}},
        "user": {"user": {"sub": subject}},
        "header": {"headers": [(b"x-user", subject.encode())], "user": "somebody else"},
        "callable": {"query_string": subject.encode()},
    }
    gate = metergate(**options.get(where, {}))
    call(gate, hello, **scope[where])
    assert gate.flush()
    assert len(events(subject)) == 1


def test_a_header_that_nobody_named_names_nobody(metergate, subject):
    gate = metergate(required_entitlements=["calls"])
    assert status_of(call(gate, hello, headers=[(b"x-user", subject.encode())])) == 401


def test_a_trusted_header_that_comes_twice_names_nobody(metergate, subject):
    gate = metergate(required_entitlements=["calls"], trusted_header="x-user")
    twice = [(b"x-user", subject.encode()), (b"x-user", b"admin")]
    assert status_of(call(gate, hello, headers=twice)) == 401


def test_a_quota_is_let_in_to_the_unit_and_a_denial_says_why(metergate, customer, events, subject):
    customer(subject, 2)
    gate = metergate(required_entitlements=["calls"], entitlement_check={"exhausted_status": 402})
    answers = [call(gate, hello, subject) for _ in range(3)]
    assert [status_of(sent) for sent in answers] == [200, 200, 402]
    head, body = answers[-1]
    problem = msgspec.json.decode(body["body"])
    assert (problem["status"], problem["reason"], problem["instance"]) == (402, "exhausted", "/things")
    assert dict(head["headers"])[b"content-type"] == b"application/problem+json"
    assert dict(head["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert gate.flush()
    assert len(events(subject)) == 2


def test_the_decision_is_told_in_a_header_where_that_is_wanted(metergate, customer, subject):
    customer(subject, 2)
    gate = metergate(required_entitlements=["calls"], entitlement_check={"explain_header": "x-why"})
    (told,) = [value for name, value in call(gate, hello, subject)[0]["headers"] if name == b"x-why"]
    assert told.startswith(b"granted")


def test_a_stream_is_recorded_before_its_last_chunk_leaves(metergate, subject):
    gate = metergate()
    recorded = []

    async def stream(scope, receive, send):
        await send(HEAD)
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more})

    async def whole():
        async def send(message):
            recorded.append(next(iter(gate.backends.statistics().deliveries.values())).recorded)

        await MetergateMiddleware(stream, gate)(
            {"type": "http", "path": "/", "headers": [], "user": subject}, None, send
        )

    asyncio.run(whole())
    assert recorded == [0, 0, 0, 1]


@pytest.mark.parametrize(("begun", "metered"), [(False, [500]), (True, [200])])
def test_an_application_that_fails_is_metered_with_what_is_answered(
    metergate, events, subject, begun, metered
):
    gate = metergate(meter_on_status_codes="200-599", meter={"type": "call", "data": {"x": 1}})

    async def fails(scope, receive, send):
        if begun:
            await send(HEAD)
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        call(gate, fails, subject)
    assert gate.flush()
    assert len(events(subject)) == len(metered)
    only_success = metergate(spool=gate.backends.spool / "other")
    with pytest.raises(ValueError, match="bug"):
        call(only_success, fails, subject)
    assert only_success.flush()
    assert len(events(subject)) == len(metered) + begun


def test_a_request_that_is_given_up_holds_nothing(metergate, customer, subject):
    customer(subject, 1)
    gate = metergate(required_entitlements=["calls"])

    async def waits(scope, receive, send):
        raise asyncio.CancelledError

    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            call(gate, waits, subject)
    assert status_of(call(gate, hello, subject)) == 200


def test_meters_can_be_set_anywhere_while_a_request_is_served(metergate, events, subject):
    gate = metergate()

    async def app(scope, receive, send):
        await asyncio.to_thread(set_meters, {"type": "call", "data": {"tokens": 7}})
        await hello(scope, receive, send)

    call(gate, app, subject)
    assert gate.flush()
    (event,) = events(subject)
    assert event["data"] == {"tokens": 7}


def test_elsewhere_setting_meters_says_what_to_do():
    with pytest.raises(UsageError, match="behind the middleware"):
        set_meters({"type": "call"})


def test_options_that_cannot_be_right_are_all_named_at_once(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        Metergate(
            spool=tmp_path, api_key="k", meter={}, required_entitlments=["x"], delivery={"batch_size": 0}
        )
    said = str(raised.value)
    assert all(part in said for part in ("meter", "required_entitlments", "batchSize"))


def test_at_the_end_of_the_application_what_was_recorded_is_sent(metergate, events, subject):
    gate = metergate(delivery={"max_delay_ms": 60_000})

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await hello(scope, receive, send)
        else:
            await send({"type": "lifespan.shutdown.complete"})

    call(gate, app, subject)
    assert events(subject) == []
    call(gate, app, type="lifespan")
    assert len(events(subject)) == 1


def test_a_denial_after_the_answer_has_begun_is_metered_with_what_was_sent(
    metergate, customer, events, subject
):
    customer(subject, 0)
    gate = metergate()
    chats = Requirement(["calls"])

    async def begins(scope, receive, send):
        await send(HEAD)
        await admit(scope, chats)

    with pytest.raises(Denied, match="calls"):
        call(gate, begins, subject)
    assert gate.flush()
    assert len(events(subject)) == 1


def test_what_was_announced_and_is_there_is_recorded_before_its_last_bytes_leave(metergate, subject):
    gate = metergate()
    recorded = []

    async def announces(scope, receive, send):
        await send({**HEAD, "headers": [(b"Content-Length", b"4")]})
        for body in (b"ab", b"cd", b""):
            await send({"type": "http.response.body", "body": body, "more_body": body != b""})

    async def send(message):
        recorded.append(next(iter(gate.backends.statistics().deliveries.values())).recorded)

    asyncio.run(
        MetergateMiddleware(announces, gate)(
            {"type": "http", "path": "/", "headers": [], "user": subject}, None, send
        )
    )
    assert recorded == [0, 0, 1, 1]
