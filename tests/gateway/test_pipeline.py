"""The way of a request through hooks, policies and handler, and what a project's code may do wrong on it."""

import asyncio
import functools
import json
import logging

import pytest

from metergate.gateway import problems
from metergate.gateway.clientbody import ClientSilent
from metergate.gateway.hooks import RuntimeHooks
from metergate.gateway.http import Headers, Request, Response, User
from metergate.gateway.model import NamedPolicy


def problem(called, status):
    """The problem that came, which says nothing of the project's code."""
    assert (called.status, called.complete) == (status, True)
    assert called["content-type"] == "application/problem+json"
    document = json.loads(called.body)
    assert (document["status"], document["trace"]["requestId"]) == (status, called["zp-rid"])
    assert b"Traceback" not in called.body
    assert b"secret" not in called.body
    return document


def both(function):
    """A function, and the same as async."""

    async def later(*arguments):
        await asyncio.sleep(0)
        return function(*arguments)

    return pytest.param(function, id="sync"), pytest.param(later, id="async")


def raises(*arguments):
    raise RuntimeError("a secret of the project")


# --- the order


def test_everything_runs_in_its_order(serve):
    seen = []

    def note(name, result=None):
        def run(*arguments):
            seen.append(name)
            return arguments[0] if result is None else result

        return run

    def handler(request, context):
        seen.append("handler")
        context.add_response_sending_hook(note("sending of the request"))
        context.add_response_sending_final_hook(note("final of the request", False))
        return Response("ok")

    hooks = RuntimeHooks()
    hooks.add_pre_routing_hook(note("pre-routing 1"))
    hooks.add_pre_routing_hook(note("pre-routing 2"))
    hooks.add_request_hook(note("request"))
    hooks.add_response_sending_hook(note("sending"))
    hooks.add_response_sending_final_hook(note("final", False))
    served = serve(
        handler,
        inbound=[note("in 1"), note("in 2")],
        outbound=[note("out 1"), note("out 2")],
        hooks=hooks,
    )
    assert served.ask().status == 200
    assert seen == [
        *("pre-routing 1", "pre-routing 2", "request", "in 1", "in 2", "handler", "out 1", "out 2"),
        *("sending", "sending of the request", "final", "final of the request"),
    ]


@pytest.mark.parametrize("stop", both(lambda *arguments: Response("stopped", 418)))
@pytest.mark.parametrize("place", ["pre_routing", "request", "inbound"])
def test_a_response_on_the_way_in_skips_handler_and_outbound_policies_but_not_the_hooks(serve, stop, place):
    seen = []
    hooks = RuntimeHooks()
    hooks.add_response_sending_hook(lambda response, *rest: seen.append(response.status))
    hooks.add_response_sending_final_hook(lambda response, *rest: seen.append(response.status))
    if place != "inbound":
        getattr(hooks, place).append(stop)
    served = serve(
        raises,
        inbound=[stop, raises] if place == "inbound" else [raises],
        outbound=[raises],
        hooks=hooks,
    )
    called = served.ask()
    assert (called.status, called.body, seen) == (418, b"stopped", [418, 418])


@pytest.mark.parametrize(
    "change", both(lambda request, *rest: request.replace(headers=Headers({"x-new": "1"})))
)
@pytest.mark.parametrize("place", ["pre_routing", "request", "inbound"])
def test_a_request_that_is_returned_is_the_one_that_goes_on(serve, change, place):
    hooks = RuntimeHooks()
    if place != "inbound":
        getattr(hooks, place).append(change)
    served = serve(
        lambda request, context: dict(request.headers.items),
        inbound=[change] if place == "inbound" else [],
        hooks=hooks,
    )
    assert json.loads(served.ask(headers=[("x-old", "1")]).body) == {"x-new": "1"}


def test_a_pre_routing_hook_decides_which_route_is_taken(serve):
    hooks = RuntimeHooks()
    hooks.add_pre_routing_hook(lambda request, context: request.replace(raw_path="/v2"))
    served = serve(lambda request, context: context.route.label, path="/v2", hooks=hooks)
    assert json.loads(served.ask("/v1").body) == "GET /v2"


def test_a_hook_that_returns_nothing_lets_the_request_go_on(serve):
    hooks = RuntimeHooks()
    hooks.add_pre_routing_hook(lambda request, context: None)
    hooks.add_request_hook(lambda request, context: None)
    assert serve(hooks=hooks).ask().body == b"ok"


# --- mistakes


@pytest.mark.parametrize("fail", both(raises))
@pytest.mark.parametrize("place", ["pre_routing", "request", "inbound", "handler", "outbound"])
def test_what_raises_becomes_a_500_problem_and_a_traceback_in_the_log_only(serve, fail, place, caplog):
    hooks = RuntimeHooks()
    if place in {"pre_routing", "request"}:
        getattr(hooks, place).append(fail)
    served = serve(
        *([fail] if place == "handler" else []),
        inbound=[fail] if place == "inbound" else [],
        outbound=[fail] if place == "outbound" else [],
        hooks=hooks,
    )
    called = served.ask()
    problem(called, 500)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert (record.name, record.getMessage()) == ("metergate.request", "the request failed")
    assert record.request_id == called["zp-rid"]
    assert "a secret of the project" in str(record.exc_info[1])


@pytest.mark.parametrize(
    "nonsense", [*both(lambda *arguments: {"allowed": True}), *both(lambda *arguments: None)]
)
@pytest.mark.parametrize("place", ["inbound", "outbound"])
def test_a_policy_that_returns_nonsense_is_a_500_and_the_log_says_what_to_return(
    serve, nonsense, place, caplog
):
    problem(serve(**{place: [nonsense]}).ask(), 500)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "return" in str(record.exc_info[1])
    assert ("in-0" if place == "inbound" else "out-0") in str(record.exc_info[1])


@pytest.mark.parametrize("place", ["pre_routing", "request"])
@pytest.mark.parametrize("nonsense", both(lambda *arguments: "go on"))
def test_a_request_hook_that_returns_nonsense_is_a_500(serve, nonsense, place, caplog):
    hooks = RuntimeHooks()
    getattr(hooks, place).append(nonsense)
    problem(serve(hooks=hooks).ask(), 500)
    assert "return a Request, a Response or nothing" in caplog.text


@pytest.mark.parametrize("value", [object(), {1, 2, object()}, float("nan").__class__])
def test_a_handler_that_returns_what_no_json_can_hold_is_a_500(serve, value):
    problem(serve(lambda request, context: value).ask(), 500)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda response: setattr(response, "body", None),
        lambda response: setattr(response, "body", 5),
        lambda response: response.headers.items.append(("x-a", 5)),
        lambda response: response.headers.items.append(("x-a", "\ud800")),
        lambda response: setattr(response, "headers", None),
    ],
)
def test_a_response_that_was_broken_by_hand_is_a_500(serve, break_it, caplog):
    def spoil(response, *rest):
        break_it(response)
        return response

    problem(serve(outbound=[spoil]).ask(), 500)
    assert "the response could not be sent" in caplog.text


@pytest.mark.parametrize("fail", both(raises))
def test_a_response_sending_hook_that_fails_does_not_fail_the_response(serve, fail, caplog):
    def handler(request, context):
        context.add_response_sending_hook(fail)
        context.add_response_sending_hook(lambda response, *rest: Response(response.body + b" and more"))
        return Response(b"answer")

    assert serve(handler).ask().body == b"answer and more"
    assert "a response-sending hook failed" in caplog.text


@pytest.mark.parametrize("nonsense", both(lambda *arguments: "no response"))
def test_what_a_response_sending_hook_returns_besides_a_response_is_ignored(serve, nonsense):
    hooks = RuntimeHooks()
    hooks.add_response_sending_hook(nonsense)
    assert serve(hooks=hooks).ask().body == b"ok"


def test_hooks_see_the_problem_of_a_failed_request(serve):
    hooks = RuntimeHooks()
    hooks.add_response_sending_hook(lambda response, *rest: Response({"status": response.status}, 503))
    called = serve(raises, hooks=hooks).ask()
    assert (called.status, json.loads(called.body)) == (503, {"status": 500})


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt])
def test_what_is_meant_for_the_process_is_not_swallowed(serve, failure):
    def stop(request, context):
        raise failure

    async def asking():
        """Caught in the task that it is raised in: one left behind would end whatever runs when it is collected."""
        with pytest.raises(failure):
            await serve(stop).call("/")

    asyncio.run(asking())


# --- final hooks


def test_a_final_hook_sees_the_response_and_changes_nothing(serve):
    seen = []

    def meddle(response, request, context):
        seen.append((response.status, response.headers["x-a"], response.body, request.user.sub))
        response.status = 500
        response.headers["x-a"] = "changed"
        response.headers.append("x-b", "2")
        response.body = b"changed"
        return Response("another")

    def handler(request, context):
        request.user = User("acme")
        context.add_response_sending_final_hook(meddle)
        return Response(b"kept", 201, {"x-a": "1"})

    called = serve(handler).ask()
    assert (called.status, called["x-a"], called["x-b"], called.body) == (201, "1", None, b"kept")
    assert seen == [(201, "1", b"kept", "acme")]


def test_a_final_hook_cannot_take_a_stream_away_from_the_client(serve, caplog):
    async def chunks():
        yield b"one "
        yield b"two"

    async def greedy(response, request, context):
        await response.bytes()

    hooks = RuntimeHooks()
    hooks.add_response_sending_final_hook(greedy)
    assert serve(lambda request, context: Response(chunks()), hooks=hooks).ask().body == b"one two"
    assert "this body is streamed to the client" in caplog.text


def test_a_final_hook_does_not_delay_the_response_and_is_run_to_its_end(serve):
    order = []

    async def slow(response, request, context):
        for _ in range(20):
            await asyncio.sleep(0)
        order.append("hook")

    hooks = RuntimeHooks()
    hooks.add_response_sending_final_hook(slow)
    serve(hooks=hooks).ask(sent=lambda message: order.append(message["type"]))
    assert order == ["http.response.start", "http.response.body", "hook"]


@pytest.mark.parametrize("fail", both(raises))
def test_a_final_hook_that_fails_is_logged_and_no_more(serve, fail, caplog):
    hooks = RuntimeHooks()
    hooks.add_response_sending_final_hook(fail)
    assert serve(hooks=hooks).ask().body == b"ok"
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


# --- background work


def test_work_goes_on_after_the_response_and_its_failure_is_logged(serve, caplog):
    done = []

    async def work():
        await asyncio.sleep(0)
        done.append(True)
        raise RuntimeError("later")

    def handler(request, context):
        context.wait_until(work())
        assert done == []
        return Response("ok")

    called = serve(handler).ask()
    assert (called.body, done) == (b"ok", [True])
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.request_id == called["zp-rid"]


# --- other policies by name


async def add(request, context, options, policy_name):
    request.headers.append("x-in", policy_name)
    return request


def asks_for(name):
    async def policy(request, context, options, policy_name):
        return await context.invoke_inbound_policy(name, request)

    return policy


@pytest.mark.parametrize("outcome", both(lambda request, context: request))
def test_an_inbound_policy_can_run_another_by_name(serve, outcome):
    other = NamedPolicy("other", inbound=outcome)
    served = serve(lambda request, context: "reached", inbound=[asks_for("other")], policies={"other": other})
    assert json.loads(served.ask().body) == "reached"


def test_the_other_policy_s_response_is_an_answer(serve):
    other = NamedPolicy("other", inbound=lambda request, context: problems.forbidden(request, context))
    problem(serve(raises, inbound=[asks_for("other")], policies={"other": other}).ask(), 403)


def test_an_outbound_policy_can_run_another_by_name(serve):
    other = NamedPolicy("other", outbound=lambda response, request, context: Response(response.body * 2))

    async def twice(response, request, context, options, policy_name):
        return await context.invoke_outbound_policy("other", response, request)

    assert serve(outbound=[twice], policies={"other": other}).ask().body == b"okok"


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({}, "there is no policy 'other' in config/policies.json"),
        (
            {"other": NamedPolicy("other", outbound=lambda *_: None)},
            "the policy 'other' is not an inbound policy",
        ),
        ({"other": NamedPolicy("other", inbound=lambda *_: 5)}, "the policy 'other' returned int"),
    ],
)
def test_asking_for_a_policy_that_is_none_is_a_500_and_the_log_says_why(serve, policies, message, caplog):
    problem(serve(inbound=[asks_for("other")], policies=policies).ask(), 500)
    assert message in caplog.text


# --- bodies and conditions of a request


def test_a_body_that_does_not_come_in_time_is_408(serve):
    async def stalled():
        raise ClientSilent("the client sent nothing")
        yield b""

    class Body:
        async def read(self):
            raise ClientSilent("the client sent nothing")

        stream = staticmethod(stalled)

    def give(request, *rest):
        return request.replace(body=Body())

    async def read(request, context):
        return await request.json()

    assert (
        problem(serve(read, inbound=[give]).ask(), 408)["detail"]
        == "The body of the request did not come in time."
    )


def test_a_body_that_is_no_json_is_the_handler_s_affair(serve):
    async def handler(request, context):
        try:
            return await request.json()
        except ValueError:
            return problems.bad_request(request, context, {"detail": "Send JSON."})

    assert problem(serve(handler, method="POST").ask("/", "POST", body=b"{"), 400)["detail"] == "Send JSON."


def test_a_body_that_a_policy_reads_is_still_there_for_the_handler(serve):
    async def peek(request, context, options, policy_name):
        assert await request.text() == "one two"
        return request

    async def handler(request, context):
        assert await request.bytes() == b"one two"
        return Response(request.stream())

    served = serve(handler, inbound=[peek, peek], method="POST")
    assert served.ask("/", "POST", body=[b"one ", b"two"]).body == b"one two"


def test_a_body_can_be_streamed_once(serve, caplog):
    async def handler(request, context):
        async for _ in request.stream():
            pass
        return await request.bytes()

    problem(serve(handler, method="POST").ask("/", "POST", body=[b"one"]), 500)
    assert "was read already" in caplog.text


def test_no_route_is_404_and_runs_the_hooks(serve):
    hooks = RuntimeHooks()
    hooks.add_response_sending_hook(
        lambda response, request, context: response.headers.append("x-route", str(context.route))
    )
    called = serve(hooks=hooks).ask("/nowhere")
    assert problem(called, 404)["detail"] == "There is no route for GET here."
    assert called["x-route"] == "None"


def test_any_callable_will_do(serve):
    class Policy:
        def __call__(self, request, context, options, policy_name):
            return request

        async def method(self, request, context, options, policy_name):
            return request

    served = serve(
        functools.partial(lambda extra, request, context: extra, "from a partial"),
        inbound=[Policy(), Policy().method, functools.partial(add)],
    )
    assert json.loads(served.ask().body) == "from a partial"


def test_requests_at_the_same_time_do_not_see_each_other(serve):
    async def tag(request, context, options, policy_name):
        context.custom["who"] = request.headers["x-who"]
        await asyncio.sleep(0)
        return request

    async def handler(request, context):
        await asyncio.sleep(0)
        return [context.custom, context.request_id]

    served = serve(handler, inbound=[tag])

    async def many():
        return await asyncio.gather(*(served.call("/", headers=[("x-who", str(n))]) for n in range(50)))

    answers = [json.loads(called.body) for called in asyncio.run(many())]
    assert [custom["who"] for custom, _ in answers] == [str(n) for n in range(50)]
    assert len({request_id for _, request_id in answers}) == 50


def test_the_request_s_log_has_its_id_route_and_what_is_added(serve, caplog):
    caplog.set_level(logging.INFO)

    def handler(request, context):
        context.log.info("said %s", "so", extra={"order": 7})
        return Response("ok")

    called = serve(handler).ask(headers=[("zp-rid", "theirs")])
    (record,) = [record for record in caplog.records if record.name == "metergate.request"]
    assert (
        record.getMessage(),
        record.request_id,
        record.route,
        record.order,
        record.incoming_request_id,
    ) == (
        "said so",
        called["zp-rid"],
        "GET /",
        7,
        "theirs",
    )


def test_a_request_needs_no_gateway_to_be_made():
    assert Request("GET", "/a%20b").path == "/a b"
