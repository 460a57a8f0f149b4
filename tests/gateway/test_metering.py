"""When a request is metered: by which status, with which meters, and always before the client has all of its response."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from metergate.engine import Backends, Engine
from metergate.gateway.cors import CorsPolicy
from metergate.gateway.hooks import RuntimeHooks
from metergate.gateway.http import Response, StreamedBody, User
from metergate.gateway.model import NamedPolicy
from metergate.gateway.policies.openmeter import OpenMeterInboundPolicy
from metergate.policy import read_options

NOBODY = "http://127.0.0.1:9"
"""Where no OpenMeter is. Nothing is sent here anyway: no sender is started."""


class Spool:
    """A spool, and the events in it at this moment, as another process would find them after a kill."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.backends = Backends(folder)

    def policy(self, name="metered", **options):
        defaults = {"apiUrl": NOBODY, "apiKey": "hush", "meter": {"type": "call"}}
        policy, findings = read_options({**defaults, **options}, name=name)
        assert policy is not None, findings
        return NamedPolicy(name, inbound=OpenMeterInboundPolicy(Engine(policy, self.backends)))

    def events(self):
        lines = [
            line
            for file in self.folder.rglob("*")
            if file.is_file()
            for line in file.read_bytes().splitlines()
        ]
        return [json.loads(line) for line in lines if b"specversion" in line]

    def ids(self, called):
        """The ids of a request's events, without the request's own."""
        return [event["id"].removeprefix(f"{called['zp-rid']}-") for event in self.events()]


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool")
    yield made
    made.backends.drain(0)


def who(request, *rest):
    request.user = User(request.headers.get("x-user", "acme"))
    return request


def streamed(*chunks, length=None):
    async def give():
        for chunk in chunks:
            yield chunk

    return StreamedBody(give(), length)


BODIES = {
    "bytes": lambda: Response(b"answer"),
    "empty": lambda: Response(b""),
    "a stream with a length": lambda: Response(streamed(b"ans", b"wer", length=6)),
    "a stream of no bytes": lambda: Response(streamed(length=0)),
    "a stream without a length": lambda: Response(streamed(b"ans", b"wer")),
    "204": lambda: Response(None, 204),
    "304": lambda: Response(None, 304),
    "204 with a stream": lambda: Response(streamed(b"never"), 204),
}


# --- before the last byte


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
def test_the_event_is_in_the_spool_before_the_byte_that_completes_the_response(
    serve, spool, make, method, durability
):
    policy = spool.policy(meterOnStatusCodes="200-599", delivery={"durability": durability})
    served = serve(lambda request, context: make(), inbound=[who, policy], method=method)
    found = []

    def sent(message):
        if message["type"] == "http.response.start":
            fields = dict(message["headers"])
            length = int(fields.get(b"content-length", b"-1"))
            bodiless = method == "HEAD" or message["status"] in (204, 304) or length == 0
            found.append([length, bodiless and not len(spool.events())])
        else:
            length, too_late = found[0]
            found[0][0] = length = length - len(message.get("body", b"")) if length >= 0 else -1
            if length == 0 or not message.get("more_body", False):
                found[0][1] = too_late or len(spool.events()) != 1

    called = served.ask("/", method, sent=sent)
    assert called.complete
    assert found[0][1] is False, "complete for the client before it was metered"
    assert spool.ids(called) == ["call"]


def test_a_stream_is_metered_at_its_end_and_not_before(serve, spool):
    at = []
    served = serve(
        lambda request, context: Response(streamed(b"a", b"b", b"c")), inbound=[who, spool.policy()]
    )
    served.ask(sent=lambda message: at.append(len(spool.events())))
    assert at == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "body",
    [streamed(b"too", b"short", length=100), streamed(b"too long by far", length=5)],
    ids=["too short", "too long"],
)
def test_a_response_that_breaks_off_is_metered_once_on_the_status_that_was_produced(serve, spool, body):
    called = serve(lambda request, context: Response(body, 203), inbound=[who, spool.policy()]).ask()
    assert (called.status, called.complete) == (203, False)
    assert len(called.body) < 100
    assert spool.ids(called) == ["call"]


def test_a_client_that_leaves_in_mid_stream_is_metered(serve, spool):
    left = asyncio.Event()
    closed = []

    async def endless():
        while True:
            yield b"tick"
            left.set()
            await asyncio.sleep(0.001)

    async def close():
        closed.append(True)

    served = serve(
        lambda request, context: Response(StreamedBody(endless(), None, close)), inbound=[who, spool.policy()]
    )
    called = served.ask(left=left)
    assert (called.complete, closed, spool.ids(called)) == (False, [True], ["call"])


ANY = "200-599"


async def read(request, context):
    return len(await request.bytes())


def gone():
    """What a client sends that leaves in the middle of its body."""
    left = asyncio.Event()
    left.set()
    return {"body": asyncio.Queue(), "left": left}


@pytest.mark.parametrize(
    ("options", "asked", "status"),
    [
        ({}, gone, 400),
        ({"client_timeout": 0.05}, lambda: {"body": asyncio.Queue()}, 408),
        ({"max_body_bytes": 3}, lambda: {"body": [b"too", b"much"]}, 413),
    ],
    ids=["left", "silent", "too much"],
)
def test_a_request_whose_body_does_not_come_is_metered_as_what_it_is_answered_with(
    serve, spool, options, asked, status
):
    for statuses in (str(status), "200-299"):
        policy = spool.policy(meterOnStatusCodes=statuses)
        called = serve(read, inbound=[who, policy], method="POST", **options).ask("/", "POST", **asked())
        assert called.status == status
        assert len(spool.events()) == 1, statuses


def test_a_client_that_leaves_in_its_body_gets_the_sending_hooks_like_any_other_end(serve, spool):
    seen = []
    hooks = RuntimeHooks(response_sending=[lambda response, request, context: seen.append(response.status)])
    policy = spool.policy(meterOnStatusCodes=ANY)
    serve(read, inbound=[who, policy], method="POST", hooks=hooks).ask("/", "POST", **gone())
    assert seen == [400]


@pytest.mark.parametrize(("statuses", "events"), [(ANY, 1), ("503", 1), ("200-299", 0)])
def test_a_request_that_is_broken_off_before_its_response_is_metered_as_503(serve, spool, statuses, events):
    began = asyncio.Event()

    async def handler(request, context):
        began.set()
        await asyncio.Event().wait()

    served = serve(handler, inbound=[who, spool.policy(meterOnStatusCodes=statuses)])

    async def run():
        call = asyncio.ensure_future(served.call())
        await asyncio.wait_for(began.wait(), 10)
        assert served.gateway.break_off() == 1
        return await asyncio.wait_for(call, 10)

    assert asyncio.run(run()).status == 503
    assert len(spool.events()) == events


@pytest.mark.parametrize(("statuses", "events"), [("500", 1), ("200-299", 0)])
def test_a_response_that_cannot_be_sent_is_metered_as_the_500_in_its_place(serve, spool, statuses, events):
    def handler(request, context):
        return Response.trusted(200, [("x-broken", "\ud800")], b"answer")

    called = serve(handler, inbound=[who, spool.policy(meterOnStatusCodes=statuses)]).ask()
    assert called.status == 500
    assert len(spool.events()) == events


def test_a_fault_in_metering_never_fails_the_response(serve, spool, caplog, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Engine, "record", broken)
    called = serve(inbound=[who, spool.policy()]).ask()
    assert (called.status, called.body) == (200, b"ok")
    assert "the request could not be metered" in caplog.text


# --- by which status


@pytest.mark.parametrize(
    ("status", "metered"), [(200, True), (299, True), (300, False), (404, False), (500, False)]
)
def test_the_final_status_decides(serve, spool, status, metered):
    called = serve(lambda request, context: Response("x", status), inbound=[who, spool.policy()]).ask()
    assert spool.ids(called) == (["call"] if metered else [])


@pytest.mark.parametrize(("produced", "final", "metered"), [(200, 500, False), (500, 200, True)])
@pytest.mark.parametrize("place", ["outbound", "hook"])
def test_the_final_status_is_the_one_after_outbound_policies_and_hooks(
    serve, spool, produced, final, metered, place
):
    def change(*arguments):
        return Response("changed", final)

    hooks = RuntimeHooks()
    if place == "hook":
        hooks.add_response_sending_hook(change)
    served = serve(
        lambda request, context: Response("x", produced),
        inbound=[who, spool.policy()],
        outbound=[change] if place == "outbound" else [],
        hooks=hooks,
    )
    assert spool.ids(served.ask()) == (["call"] if metered else [])


@pytest.mark.parametrize("place", ["handler", "outbound"])
def test_a_request_that_failed_is_metered_as_500(serve, spool, place):
    def fail(*arguments):
        raise RuntimeError

    policy = spool.policy(meterOnStatusCodes="500")
    served = serve(
        *([fail] if place == "handler" else []),
        inbound=[who, policy],
        outbound=[fail] if place == "outbound" else [],
    )
    assert spool.ids(served.ask()) == ["call"]


def test_a_later_policy_that_answers_is_metered_where_its_status_matches(serve, spool):
    cached = serve(inbound=[who, spool.policy(), lambda *arguments: Response("from the cache")]).ask()
    assert (cached.body, spool.ids(cached)) == (b"from the cache", ["call"])


def test_an_earlier_policy_that_answers_is_not_metered(serve, spool):
    served = serve(
        inbound=[lambda *arguments: Response("unknown", 401), spool.policy(meterOnStatusCodes="200-599")]
    )
    assert (served.ask().status, spool.events()) == (401, [])


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
def test_a_blocked_request_is_never_metered_and_a_shadowed_one_is(serve, spool, mode):
    policy = spool.policy(
        requiredEntitlements=["api"], entitlementCheck={"mode": mode}, meterOnStatusCodes="200-599"
    )
    called = serve(inbound=[policy]).ask()  # nobody is authenticated: OpenMeter is not asked
    if mode == "enforce":
        assert (called.status, spool.events()) == (401, [])
        assert json.loads(called.body)["detail"] == (
            "This API meters its callers and there is no authenticated user."
        )
    else:
        # Let in, but there is nobody to bill.
        assert (called.status, spool.events()) == (200, [])
        assert spool.backends.statistics().dropped == {"no_subject": 1}


def test_a_request_without_a_subject_passes_and_is_said_once_a_route(serve, spool, caplog):
    served = serve(inbound=[spool.policy(subjectPath=".data.account")])
    assert [served.ask().status for _ in range(3)] == [200, 200, 200]
    assert spool.events() == []
    assert spool.backends.statistics().dropped == {"no_subject": 3}
    (record,) = caplog.records
    assert (record.policy, record.route) == ("metered", "GET /")


def test_a_preflight_is_not_metered(serve, spool):
    cors = CorsPolicy("any", frozenset({"*"}))
    policy = spool.policy(meterOnStatusCodes="100-599")
    served = serve(inbound=[who, policy], cors=cors)
    headers = [("origin", "https://a.test"), ("access-control-request-method", "GET")]
    assert (served.ask("/", "OPTIONS", headers=headers).status, spool.events()) == (200, [])
    served.ask("/", headers=[("origin", "https://a.test")])
    assert len(spool.events()) == 1


# --- which meters


def sets(*meters):
    def policy(subject, *rest):
        context = next(one for one in (subject, *rest) if hasattr(one, "metering"))
        OpenMeterInboundPolicy.set_meters(context, list(meters))
        return subject

    return policy


TOKENS = {"type": "tokens", "data": {"count": 3}}


@pytest.mark.parametrize("place", ["before", "inbound", "handler", "outbound", "hook", "stream"])
def test_meters_can_be_set_anywhere_before_the_end(serve, spool, place):
    set_them = sets(TOKENS)

    def handler(request, context):
        if place == "handler":
            set_them(request, context)
        if place == "hook":
            context.add_response_sending_hook(
                lambda response, request, context: set_them(response, request, context)
            )
        if place == "stream":

            async def chunks():
                yield b"text"
                set_them(request, context)

            return Response(chunks())
        return Response("x")

    served = serve(
        handler,
        inbound=[
            who,
            *([set_them] if place == "before" else []),
            spool.policy(),
            *([set_them] if place == "inbound" else []),
        ],
        outbound=[set_them] if place == "outbound" else [],
    )
    called = served.ask()
    assert sorted(spool.ids(called)) == ["call", "tokens"]
    assert [event["data"] for event in spool.events() if event["type"] == "tokens"] == [{"count": 3}]


def test_after_the_response_it_is_too_late_and_logged(serve, spool, caplog):
    async def late(response, request, context):
        await asyncio.sleep(0)
        OpenMeterInboundPolicy.set_meters(context, TOKENS)

    hooks = RuntimeHooks()
    hooks.add_response_sending_final_hook(late)
    called = serve(inbound=[who, spool.policy()], hooks=hooks).ask()
    assert spool.ids(called) == ["call"]
    (record,) = caplog.records
    assert (record.levelname, called["zp-rid"] in record.getMessage()) == ("ERROR", True)


def test_a_run_time_meter_replaces_the_configured_one_of_its_type(serve, spool):
    policy = spool.policy(meter=[{"type": "call", "data": {"from": "json"}}, {"type": "other"}])
    called = serve(inbound=[who, policy, sets({"type": "call", "data": {"from": "code"}})]).ask()
    assert sorted(spool.ids(called)) == ["call", "other"]
    assert [event["data"] for event in spool.events() if event["type"] == "call"] == [{"from": "code"}]


def test_meters_of_one_type_are_numbered(serve, spool):
    called = serve(inbound=[who, spool.policy(), sets(TOKENS, TOKENS, TOKENS)]).ask()
    assert sorted(spool.ids(called)) == ["call", "tokens", "tokens-2", "tokens-3"]


def test_a_bad_meter_raises_where_it_is_set(serve, spool):
    called = serve(inbound=[who, spool.policy(), sets({"data": {}})]).ask()
    assert (called.status, spool.events()) == (500, [])


# --- several policies


def test_policies_of_one_destination_count_their_ids_on_and_share_run_time_meters(serve, spool):
    first, second = spool.policy("first"), spool.policy("second", eventSource="second")
    called = serve(inbound=[who, first, second, sets(TOKENS)]).ask()
    assert sorted(spool.ids(called)) == ["call", "call-2", "tokens"]


def test_a_run_time_meter_takes_its_type_from_all_policies_of_its_destination(serve, spool):
    policies = [spool.policy("first"), spool.policy("second", meter=[{"type": "call"}, {"type": "other"}])]
    called = serve(inbound=[who, *policies, sets({"type": "call", "data": {"by": "code"}})]).ask()
    assert sorted(spool.ids(called)) == ["call", "other"]


def test_policies_of_different_destinations_each_get_everything(serve, spool):
    first, second = spool.policy("first"), spool.policy("second", apiKey="another")
    called = serve(inbound=[who, first, second, sets(TOKENS)]).ask()
    # Two keys may be of one organisation, where a second "call" would be taken for the first again.
    assert sorted(spool.ids(called)) == ["call", "call-2", "tokens", "tokens"]


def test_each_policy_has_its_own_statuses(serve, spool):
    all_of_them = spool.policy("all", meterOnStatusCodes="200-599", meter={"type": "any"})
    served = serve(
        lambda request, context: Response("x", 404),
        inbound=[who, spool.policy("fine"), all_of_them, sets(TOKENS)],
    )
    assert sorted(spool.ids(served.ask())) == ["any", "tokens"]


def test_an_event_s_fields(serve, spool):
    policy = spool.policy(meter={"type": "call", "data": {"n": 1}}, eventSource="me")
    called = serve(inbound=[who, policy]).ask(headers=[("zp-rid", "theirs"), ("x-user", "Ünïcode")])
    (event,) = spool.events()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
    assert event == {
        "specversion": "1.0",
        "id": f"{called['zp-rid']}-call",
        "source": "me",
        "subject": "Ünïcode",
        "type": "call",
        "data": {"n": 1},
    }
