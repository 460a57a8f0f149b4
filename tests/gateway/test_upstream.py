"""Forwarding, one call at a time: time limits, the pace of both sides, what is kept of headers."""

import asyncio
import json
import logging
import threading

import pytest

from metergate.gateway.context import Context
from metergate.gateway.http import BytesBody, Headers, Request
from metergate.gateway.upstream import ClientGone, Upstream, UpstreamBroke, request_headers, response_headers
from metergate.testing.processes import free_port
from metergate.testing.scripted import ScriptedUpstream

OK = b"HTTP/1.1 200 OK\r\n"
TIMEOUT = 0.25


@pytest.fixture(scope="module")
def api():
    with ScriptedUpstream() as server:
        yield server
        assert [failure for failure in server.failures if isinstance(failure, AssertionError)] == []


@pytest.fixture
def context():
    return Context("the-request-id")


def run(scenario, timeout=TIMEOUT, **options):
    """Run ``scenario(upstream)``."""

    async def running():
        upstream = Upstream(timeout=timeout, **options)
        try:
            return await asyncio.wait_for(scenario(upstream), 20)
        finally:
            await upstream.stop()

    return asyncio.run(running())


def forwarded(api, path, context, request=None, **options):
    """The response to one request, its body read to the end."""

    async def scenario(upstream):
        response = await upstream.forward(request or Request("GET", path), context, api.url + path)
        await response.bytes()
        return response

    return run(scenario, **options)


class Body:
    """A client's body: pieces, with a pause before each; ``failure`` ends it."""

    def __init__(self, *pieces, pause=0.0, failure=None):
        self.pieces = pieces
        self.pause = pause
        self.failure = failure

    async def stream(self):
        for piece in self.pieces:
            await asyncio.sleep(self.pause)
            yield piece
        if self.failure is not None:
            raise self.failure

    async def read(self):
        return b"".join([piece async for piece in self.stream()])


def upload(*pieces, length=None, method="POST", **options):
    fields = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
    return Request(method, "/", headers=Headers(fields), body=Body(*pieces, **options))


def detail(response):
    return json.loads(response.body)["detail"]


# --- time


def test_an_upstream_that_says_nothing_is_504_and_let_go(api, context, caplog):
    let_go = threading.Event()
    api.on("/silent", lambda exchange: (exchange.wait_closed(), let_go.set()))
    response = forwarded(api, "/silent", context)
    assert (response.status, detail(response)) == (504, "The upstream did not answer in time.")
    assert let_go.wait(5)
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("ERROR", None)


def test_an_upstream_that_says_nothing_to_a_streamed_upload_is_504(api, context):
    api.on("/silent-upload", lambda exchange: (exchange.body(), exchange.wait_closed()))
    response = forwarded(api, "/silent-upload", context, upload(b"a", b"b"))
    assert (response.status, detail(response)) == (504, "The upstream did not answer in time.")


@pytest.mark.parametrize("request_", [None, upload(b"a", b"b")], ids=["GET", "upload"])
def test_an_answer_that_stalls_is_broken_off(api, context, request_):
    let_go = threading.Event()

    def script(exchange):
        exchange.body()
        exchange.send(OK + b"content-length: 10\r\n\r\nonly")
        exchange.wait_closed()
        let_go.set()

    async def scenario(upstream):
        began = asyncio.get_running_loop().time()
        response = await upstream.forward(request_ or Request("GET", "/"), context, f"{api.url}/stalls")
        pieces = []
        with pytest.raises(UpstreamBroke):  # noqa: PT012  # after the first piece
            async for piece in response.body.chunks:
                pieces.append(piece)  # noqa: PERF401  # it raises
        await response.body.close()
        assert asyncio.get_running_loop().time() - began < TIMEOUT * 8
        return response.status, pieces

    api.on("/stalls", script)
    assert run(scenario) == (200, [b"only"])
    assert let_go.wait(5)


def test_an_answer_may_take_longer_than_the_limit_while_it_moves(api, context):
    def script(exchange):
        exchange.send(OK + b"content-length: 8\r\n\r\n")
        for _ in range(8):
            pause.wait(TIMEOUT / 4)
            exchange.send(b"x")

    pause = threading.Event()
    api.on("/drips", script)
    assert forwarded(api, "/drips", context).body == b"x" * 8


@pytest.mark.parametrize("length", [8, None])
def test_an_upload_may_take_longer_than_the_limit(api, context, length):
    def script(exchange):
        body = exchange.body()
        exchange.send(OK + b"content-length: %d\r\n\r\n%s" % (len(body), body))

    api.on("/slow-upload", script)
    request = upload(*[b"x"] * 8, length=length, pause=TIMEOUT / 4)
    assert forwarded(api, "/slow-upload", context, request).body == b"x" * 8


def test_a_client_that_is_slow_in_an_echo_is_not_the_upstream_s_silence(api, context):
    def script(exchange):
        exchange.send(OK + b"transfer-encoding: chunked\r\n\r\n")
        while piece := exchange.chunk():
            exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        exchange.send(b"0\r\n\r\n")

    api.on("/slow-echo", script)
    request = upload(b"a", b"b", b"c", pause=TIMEOUT * 2)
    assert forwarded(api, "/slow-echo", context, request).body == b"abc"


def test_a_client_that_pauses_loses_nothing(api, context):
    total = 20 << 20

    def script(exchange):
        exchange.send(OK + b"content-length: %d\r\n\r\n" % total)
        exchange.send(bytes(total))

    async def scenario(upstream):
        response = await upstream.forward(Request("GET", "/"), context, f"{api.url}/paused")
        size = 0
        async for piece in response.body.chunks:
            if size == 0:
                await asyncio.sleep(TIMEOUT * 3)
            size += len(piece)
        await response.body.close()
        return size, len(upstream._downloads)

    api.on("/paused", script)
    assert run(scenario) == (total, 0)


def test_a_pause_takes_a_bounded_number_of_pieces_out_of_the_upstream(api, context):
    """A client that never comes back must not make the gateway read the whole body."""

    async def scenario(upstream):
        response = await upstream.forward(Request("GET", "/"), context, f"{api.url}/abandoned")
        chunks = response.body.chunks
        await anext(chunks)
        (download,) = upstream._downloads._open
        for _ in range(500):
            download.look()
            download.look()
            await asyncio.sleep(0.001)
        kept = len(download._ahead)
        await response.body.close()
        return kept

    def script(exchange):
        exchange.send(OK + b"transfer-encoding: chunked\r\n\r\n")
        while True:
            exchange.send(b"5\r\nhello\r\n" * 100)

    api.on("/abandoned", script)
    assert 1 <= run(scenario, timeout=5.0) <= 64


def test_a_task_that_is_cancelled_while_pieces_come_fast_ends(api, context):
    """The HTTP client loses a cancellation that comes together with a piece."""

    def script(exchange):
        exchange.send(OK + b"transfer-encoding: chunked\r\n\r\n")
        while True:
            exchange.send(b"4\r\ntick\r\n")
            pause.wait(0.0003)

    async def reading(upstream):
        response = await upstream.forward(Request("GET", "/"), context, f"{api.url}/fast")
        try:
            async for _ in response.body.chunks:
                pass
        finally:
            await response.body.close()

    async def scenario(upstream):
        for number in range(60):
            task = asyncio.ensure_future(reading(upstream))
            await asyncio.sleep(0.002 + number % 7 * 0.0003)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 5)

    pause = threading.Event()
    api.on("/fast", script)
    run(scenario, timeout=10.0)


# --- connections


def test_no_connection_is_502(context):
    async def scenario(upstream):
        return await upstream.forward(Request("GET", "/"), context, f"http://127.0.0.1:{free_port()}/")

    response = run(scenario)
    assert (response.status, detail(response)) == (502, "There is no connection to the upstream.")


@pytest.mark.parametrize("url", ["nowhere", "ftp://x/", "http://", "http://[::1", "http://a b/"])
def test_an_address_that_is_no_url_is_502(context, url):
    async def scenario(upstream):
        return await upstream.forward(Request("GET", "/"), context, url)

    assert run(scenario).status == 502


def test_a_host_without_an_address_is_502_and_its_name_stays_inside(context, caplog):
    async def scenario(upstream):
        return await upstream.forward(Request("GET", "/"), context, "http://inner-name.invalid/")

    response = run(scenario, timeout=10.0)
    assert response.status == 502
    assert b"inner-name" not in response.body


def test_connections_are_kept_and_used_again(context):
    async def scenario(upstream):
        for _ in range(20):
            response = await upstream.forward(Request("GET", "/"), context, f"{own.url}/kept")
            assert response.status == 200
        return own.connections

    with ScriptedUpstream() as own:
        assert run(scenario, timeout=10.0) == 1


def test_closing_a_response_lets_go_of_its_connection(api, context):
    let_go = threading.Event()

    def script(exchange):
        exchange.send(OK + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        exchange.wait_closed()
        let_go.set()

    async def scenario(upstream):
        response = await upstream.forward(Request("GET", "/"), context, f"{api.url}/closed")
        await response.body.close()
        await asyncio.to_thread(let_go.wait, 5)

    api.on("/closed", script)
    run(scenario, timeout=10.0)
    assert let_go.is_set()


@pytest.mark.parametrize("failure", [ClientGone("left"), RuntimeError("of a policy")])
def test_an_upload_that_fails_raises_why(api, context, failure):
    api.on("/failing-upload", lambda exchange: exchange.wait_closed())
    request = upload(b"a", failure=failure)

    async def scenario(upstream):
        return await upstream.forward(request, context, f"{api.url}/failing-upload")

    with pytest.raises(type(failure)):
        run(scenario, timeout=5.0)


def test_a_body_of_a_policy_is_sent_with_its_own_length(api, context):
    seen = []
    api.on(
        "/policy-body",
        lambda exchange: (
            seen.append((exchange.body(), exchange.headers)),
            exchange.send(OK + b"content-length: 0\r\n\r\n"),
        ),
    )
    request = Request("POST", "/", headers=Headers({"content-length": "999"}), body=BytesBody(b"replaced"))
    assert forwarded(api, "/policy-body", context, request).status == 200
    (body, _headers) = seen[0]
    assert body == b"replaced"


# --- headers, as pure functions


def request(*fields, client="192.0.2.7"):
    return Request("GET", "/", headers=Headers(fields), client=client, scheme="https")


def test_request_headers_add_who_asked_whom(context):
    assert request_headers(request(("Host", "a.test"), ("X-A", "1")), context) == [
        ("x-a", "1"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-host", "a.test"),
        ("x-forwarded-proto", "https"),
        ("zp-rid", "the-request-id"),
    ]


def test_response_headers_keep_order_and_repeats_and_know_the_length():
    source = [
        ("set-cookie", "a"),
        ("Content-Length".lower(), "7"),
        ("set-cookie", "b"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
    ]
    assert response_headers(Pairs(source)) == ([("set-cookie", "a"), ("set-cookie", "b")], 7)


def test_response_headers_of_a_chunked_body_have_no_length():
    source = [("content-length", "7"), ("transfer-encoding", "chunked"), ("x-a", "1")]
    assert response_headers(Pairs(source)) == ([("x-a", "1")], None)


def test_response_headers_leave_out_what_is_not_ascii(caplog):
    caplog.set_level(logging.WARNING)
    source = Pairs([("x-a", "1"), ("x-bad", None), ("x-a", "2")])
    assert response_headers(source) == ([("x-a", "1"), ("x-a", "2")], None)
    assert [record.getMessage() for record in caplog.records] == [
        "the upstream's header x-bad is not ASCII and is left out"
    ]


class Pairs:
    """A header map as the HTTP client has it; a value of None cannot be read."""

    def __init__(self, pairs):
        self.pairs = pairs

    def items(self):
        for pair in self.pairs:
            if pair[1] is None:
                raise ValueError("not ASCII")
            yield pair

    def __iter__(self):
        return (name for name, _ in self.pairs)

    def getall(self, name):
        values = [value for key, value in self.pairs if key == name]
        if None in values:
            raise ValueError("not ASCII")
        return values
