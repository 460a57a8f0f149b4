"""An ASGI application at a route: bodies that stream both ways, its lifespan, clients that leave, and its mistakes."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route

from metergate.gateway.context import Context
from metergate.gateway.handlers import BUILTIN
from metergate.gateway.handlers import asgi as asgi_module
from metergate.gateway.handlers import lifespan as lifespan_module
from metergate.gateway.handlers.asgi import AsgiHandler
from metergate.gateway.http import BodyTooLarge, Headers, Request, StreamedBody, User
from metergate.gateway.upstream import ClientGone


class Chunks:
    """A request body in pieces; ``failure`` ends it."""

    def __init__(self, *chunks, failure=None):
        self.chunks = chunks
        self.failure = failure
        self.given = 0

    async def stream(self):
        for chunk in self.chunks:
            self.given += 1
            yield chunk
        if self.failure is not None:
            raise self.failure

    async def read(self):
        return b"".join([chunk async for chunk in self.stream()])


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 20))


async def started(app, root_path=""):
    handler = AsgiHandler(app, root_path)
    await handler.start()
    return handler


def answered(app, request=None, root_path=""):
    """The response and its whole body."""

    async def scenario():
        handler = await started(app, root_path)
        response = await handler(request or Request("GET", "/"), Context("r"))
        body = await response.bytes()
        await handler.stop()
        return response, body

    return run(scenario())


def sending(*messages):
    """An application that sends just these messages."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            for message in messages:
                await send(message)

    return app


START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


# --- requests


def test_the_scope_says_all_that_the_request_says_and_who_it_is():
    seen = {}

    async def app(scope, receive, send):
        if scope["type"] == "http":
            seen.update(scope)
            await send(START)
            await send(body(b""))

    request = Request(
        "POST",
        "/api/a%20b",
        "x=%20",
        Headers({"Host": "gw.example.com:8443", "X-A": "ü"}),
        scheme="https",
        client="::1",
        user=User("acme"),
    )
    answered(app, request, "/api")
    assert seen.pop("metergate.context").request_id == "r"
    assert seen == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/api/a b",
        "raw_path": b"/api/a%20b",
        "query_string": b"x=%20",
        "root_path": "/api",
        "headers": [(b"host", b"gw.example.com:8443"), (b"x-a", b"\xfc")],
        "client": ("::1", 0),
        "server": ("gw.example.com", 8443),
        "state": {},
        "metergate.user": User("acme"),
    }


@pytest.mark.parametrize(
    ("host", "scheme", "server"),
    [
        ("", "http", ("", 80)),
        ("a", "https", ("a", 443)),
        ("[::1]:8080", "http", ("::1", 8080)),
        ("[::1]", "http", ("::1", 80)),
    ],
)
def test_the_server_is_the_host_that_was_asked_for(host, scheme, server):
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            seen.append(scope["server"])
            await send(START)
            await send(body(b""))

    answered(app, Request("GET", "/", headers=Headers({"host": host}), scheme=scheme))
    assert seen == [server]


def test_a_whole_body_comes_in_one_message_and_a_stream_chunk_by_chunk():
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        messages = []
        while not messages or messages[-1]["more_body"]:
            messages.append(await receive())
        await send(START)
        await send(body(repr([(one["body"], one["more_body"]) for one in messages]).encode()))

    assert answered(app, Request("POST", "/", body=b"whole"))[1] == b"[(b'whole', False)]"
    assert answered(app, Request("GET", "/"))[1] == b"[(b'', False)]"
    streamed = Request("POST", "/", body=Chunks(b"a", b"b"))
    assert answered(app, streamed)[1] == b"[(b'a', True), (b'b', True), (b'', False)]"


def test_a_request_body_is_read_only_as_fast_as_the_application_wants_it():
    chunks = Chunks(b"a", b"b", b"c")

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await receive()
            await send(START)
            await send(body(str(chunks.given).encode()))

    assert answered(app, Request("POST", "/", body=chunks))[1] == b"1"


def test_a_body_that_is_too_large_is_the_gateways_to_answer():
    async def app(scope, receive, send):
        if scope["type"] == "http":
            while (await receive()).get("more_body"):
                pass

    with pytest.raises(BodyTooLarge):
        answered(app, Request("POST", "/", body=Chunks(b"a", failure=BodyTooLarge(1))))


def test_a_client_that_leaves_during_its_body_is_a_disconnect_to_the_application():
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            while (message := await receive())["type"] != "http.disconnect":
                seen.append(message)
            seen.append(await receive())

    with pytest.raises(ClientGone):
        answered(app, Request("POST", "/", body=Chunks(b"a", failure=ClientGone("gone"))))
    assert [one["type"] for one in seen] == ["http.request", "http.disconnect"]


# --- responses


def test_a_body_sent_at_once_is_not_a_stream_and_the_server_frames_it():
    app = Starlette(routes=[Route("/", lambda request: JSONResponse({"a": 1}, 201, {"x-a": "b"}))])
    response, data = answered(app)
    assert (response.status, data) == (201, b'{"a":1}')
    assert isinstance(response.body, bytes)
    assert response.headers.items == [("x-a", "b"), ("content-type", "application/json")]


def test_head_keeps_the_announced_length():
    app = Starlette(routes=[Route("/", lambda request: StarletteResponse(b"12345"))])
    response, _ = answered(app, Request("HEAD", "/"))
    assert response.headers["content-length"] == "5"


def test_a_stream_begins_before_it_ends_and_carries_its_announced_length():
    async def scenario():
        release = asyncio.Event()

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await send({**START, "headers": [(b"content-length", b"2")]})
                await send(body(b"a", True))
                await release.wait()
                await send(body(b"b"))

        handler = await started(app)
        response = await handler(Request("GET", "/"), Context("r"))
        assert isinstance(response.body, StreamedBody)
        assert response.body.length == 2
        assert await anext(response.body.chunks) == b"a"
        release.set()
        assert [chunk async for chunk in response.body.chunks] == [b"b"]
        await response.body.close()
        await handler.stop()

    run(scenario())


def test_the_head_leaves_as_soon_as_the_application_has_sent_it():
    async def scenario():
        release = asyncio.Event()

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await send(START)
                await release.wait()
                await send(body(b"late"))

        handler = await started(app)
        response = await handler(Request("GET", "/"), Context("r"))
        assert (response.status, release.is_set()) == (200, False)
        release.set()
        assert await response.bytes() == b"late"
        await handler.stop()

    run(scenario())


def test_an_application_waits_for_a_slow_client_instead_of_filling_memory():
    async def scenario():
        sent = 0

        async def app(scope, receive, send):
            nonlocal sent
            if scope["type"] == "http":
                await send(START)
                for _ in range(100):
                    await send(body(b"x" * 1000, True))
                    sent += 1
                await send(body(b""))

        handler = await started(app)
        response = await handler(Request("GET", "/"), Context("r"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert sent <= 2
        assert len(await response.bytes()) == 100_000
        await handler.stop()

    run(scenario())


def test_work_after_the_response_goes_on_after_it():
    async def scenario():
        release, done = asyncio.Event(), []

        async def work():
            await release.wait()
            done.append(True)

        def endpoint(request):
            return JSONResponse({}, background=BackgroundTask(work))

        handler = await started(Starlette(routes=[Route("/", endpoint)]))
        response = await handler(Request("GET", "/"), Context("r"))
        assert (response.body, done) == (b"{}", [])
        release.set()
        await handler.stop()
        assert done == [True]

    run(scenario())


def test_a_client_that_leaves_a_stream_is_told_to_an_application_that_listens_and_to_one_that_sends():
    async def scenario():
        heard = []

        async def app(scope, receive, send):
            if scope["type"] != "http":
                return
            await receive()
            await send(START)
            await send(body(b"a", True))
            heard.append((await receive())["type"])
            try:
                await send(body(b"b", True))
            except OSError:
                heard.append("OSError")
                raise

        handler = await started(app)
        response = await handler(Request("GET", "/"), Context("r"))
        assert await anext(response.body.chunks) == b"a"
        await response.body.close()
        await handler.stop()
        assert heard == ["http.disconnect", "OSError"]

    run(scenario())


def test_an_application_blocked_by_a_client_that_leaves_is_let_go():
    async def scenario():
        ended = []

        async def endless():
            try:
                while True:
                    yield b"x"
            finally:
                ended.append(True)

        handler = await started(Starlette(routes=[Route("/", lambda request: StreamingResponse(endless()))]))
        response = await handler(Request("GET", "/"), Context("r"))
        await anext(response.body.chunks)
        await response.body.close()
        await handler.stop()
        return handler

    handler = run(scenario())
    assert len(handler._tasks) == 0


# --- mistakes


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((), "returned before the end"),
        ((body(b"x"),), "before or after its response"),
        (({**START, "status": 999}, body(b"x")), "999 is not a status"),
        (({"type": "http.response.push"},), "offers no 'http.response.push'"),
    ],
)
def test_an_application_that_breaks_the_protocol_raises_for_the_pipeline(messages, said):
    with pytest.raises(RuntimeError, match=said):
        answered(sending(*messages))


def test_an_application_that_raises_before_its_response_raises_for_the_pipeline():
    async def app(scope, receive, send):
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        answered(app)


@pytest.mark.parametrize("ending", [None, KeyError("broke")])
def test_a_stream_that_breaks_off_is_not_taken_for_complete(ending):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send(START)
            await send(body(b"a", True))
            if ending is not None:
                raise ending

    with pytest.raises((RuntimeError, KeyError), match=r"returned before the end|broke"):
        answered(app)


def test_an_exception_after_the_response_is_logged_and_harms_nothing(caplog):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send(START)
            await send(body(b"fine"))
            raise KeyError("afterwards")

    assert answered(app)[1] == b"fine"
    assert "failed after its response" in caplog.text


# --- lifespan


class Lifespans:
    """An application that notes its lifespan; ``failing`` at start, ``silent`` at stop."""

    def __init__(self, failing=False, silent=False):
        self.events = []
        self.failing = failing
        self.silent = silent

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await send(START)
            await send(body(repr(scope["state"]).encode()))
            return
        assert (await receive())["type"] == "lifespan.startup"
        self.events.append("start")
        scope["state"]["pool"] = 1
        if self.failing:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.events.append("stop")
        if self.silent:
            await asyncio.Event().wait()
        await send({"type": "lifespan.shutdown.complete"})


def test_the_lifespan_runs_once_for_all_routes_that_mount_the_application():
    async def scenario():
        app = Lifespans()
        handlers = [AsgiHandler(app) for _ in range(3)]
        await asyncio.gather(*(handler.start() for handler in handlers))
        assert app.events == ["start"]
        response = await handlers[2](Request("GET", "/"), Context("r"))
        assert response.body == b"{'pool': 1}"
        await handlers[0].stop()
        await handlers[1].stop()
        assert app.events == ["start"]
        await handlers[2].stop()
        assert app.events == ["start", "stop"]

    run(scenario())


def test_state_of_one_request_does_not_reach_the_next():
    async def app(scope, receive, send):
        if scope["type"] == "http":
            scope["state"]["n"] = scope["state"].get("n", 0) + 1
            await send(START)
            await send(body(str(scope["state"]["n"]).encode()))

    async def scenario():
        handler = await started(app)
        for _ in range(2):
            assert (await handler(Request("GET", "/"), Context("r"))).body == b"1"
        await handler.stop()

    run(scenario())


def test_an_application_that_refuses_to_start_stops_the_start_and_says_why():
    async def scenario():
        with pytest.raises(RuntimeError, match="no database"):
            await started(Lifespans(failing=True))

    run(scenario())


def test_an_application_that_never_shuts_down_is_ended_after_a_while(monkeypatch, caplog):
    monkeypatch.setattr(lifespan_module, "STOP_SECONDS", 0.01)

    async def scenario():
        handler = await started(Lifespans(silent=True))
        await handler.stop()

    run(scenario())
    assert "did not shut down" in caplog.text


def test_a_request_that_never_ends_does_not_hold_up_the_stop(monkeypatch):
    monkeypatch.setattr(asgi_module, "STOP_SECONDS", 0.01)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send(START)
            await asyncio.Event().wait()

    async def scenario():
        handler = await started(app)
        response = await handler(Request("GET", "/"), Context("r"))
        await handler.stop()
        with pytest.raises(RuntimeError, match="cancelled"):
            await response.bytes()

    run(scenario())


# --- options


def test_the_options_name_the_application(parts):
    app = sending(START, body(b"hello"))
    parts.exports["$import(./modules/app)", "app"] = app
    parts.exports["$import(./modules/app)", "other"] = app
    for options in ({}, {"export": "other", "rootPath": "/api/"}):
        handler = BUILTIN["asgiHandler"]({"app": "$import(./modules/app)", **options}, parts.named())
        assert isinstance(handler, AsgiHandler)
    assert parts.findings == []


@pytest.mark.parametrize(
    ("options", "path"), [({}, "$.app"), ({"app": "$import(./modules/app)", "rootPath": "api"}, "$.rootPath")]
)
def test_what_is_wrong_with_the_options_is_found_at_start(parts, options, path):
    assert BUILTIN["asgiHandler"](options, parts.named()) is None
    assert parts.said[0].startswith(f"error {path} ")
