"""A client that leaves: the upstream is let go soon, the request is metered once, and nobody is alarmed."""

import threading

import pytest

ENDINGS = pytest.mark.parametrize("ending", ["close", "reset"])


class Watched:
    """A script that sends a head and a piece, then says when the gateway has let go of it."""

    def __init__(self, head=b"transfer-encoding: chunked\r\n", piece=b"4\r\ntick\r\n", endless=False):
        self.head = head
        self.piece = piece
        self.endless = endless
        self.pause = 0.005
        self.began = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, exchange):
        self.began.set()
        exchange.send(b"HTTP/1.1 200 OK\r\n" + self.head + b"\r\n" + self.piece)
        try:
            while self.endless:
                exchange.send(self.piece)
                self.let_go.wait(self.pause)
            exchange.wait_closed()
        except OSError:
            pass
        exchange.close()
        self.let_go.set()


def no_alarm(proxy, request_id):
    """The lines about a request, none of which is a warning or has a traceback."""
    lines = proxy.await_log(request_id)
    assert [line for line in lines if line["level"] not in ("info", "debug") or "exception" in line] == []
    return [line["message"] for line in lines]


@ENDINGS
@pytest.mark.parametrize("body", [None, b"", b"question"], ids=["GET", "POST without", "POST with a body"])
@pytest.mark.parametrize("endless", [False, True], ids=["silent", "endless"])
def test_in_mid_response_the_upstream_is_let_go_and_the_request_is_metered_once(proxy, ending, body, endless):
    script = Watched(endless=endless)
    proxy.api.on("/metered/leave", script)
    wire = proxy.wire()
    wire.request("/metered/leave", "GET" if body is None else "POST", [("x-user", "acme")], body)
    fields = wire.head()[1]
    wire.receive_until(b"tick")
    getattr(wire, ending)()
    assert script.let_go.wait(5)
    request_id = dict(fields)["zp-rid"]
    assert no_alarm(proxy, request_id) == ["the client left before the response was complete"]
    assert [event["id"] for event in proxy.events(request_id)] == [f"{request_id}-call"]


def test_in_the_middle_of_a_fast_stream_nobody_is_overlooked(proxy):
    scripts = [Watched(endless=True) for _ in range(30)]
    for number, script in enumerate(scripts):
        script.pause = 0.0005
        proxy.api.on(f"/raw/fast/{number}/", script)
    wires = [proxy.wire() for _ in scripts]
    for number, wire in enumerate(wires):
        wire.request(f"/raw/fast/{number}/")
        wire.head()
    for wire in wires:
        wire.close()
    assert [script.let_go.wait(5) for script in scripts] == [True] * len(scripts)


def test_in_mid_response_with_a_length_it_is_metered_on_the_status_that_was_produced(proxy):
    script = Watched(head=b"content-length: 1000\r\n", piece=b"tick")
    proxy.api.on("/metered/leave-length", script)
    wire = proxy.wire()
    wire.request("/metered/leave-length", headers=[("x-user", "acme")])
    request_id = dict(wire.head()[1])["zp-rid"]
    wire.close()
    assert script.let_go.wait(5)
    assert len(proxy.events(request_id)) == 1


@ENDINGS
@pytest.mark.parametrize("framing", [("content-length", "50000"), ("transfer-encoding", "chunked")])
def test_in_mid_upload_the_upstream_sees_it_broken_off_and_it_is_metered_as_a_400_that_nobody_sees(
    proxy, ending, framing
):
    received = []
    let_go = threading.Event()

    def script(exchange):
        received.append(exchange.header("zp-rid"))
        while exchange.receive():
            pass
        exchange.close()
        let_go.set()

    proxy.api.on("/metered/broken-upload", script)
    wire = proxy.wire()
    wire.request("/metered/broken-upload", "POST", [("x-user", "acme"), framing])
    wire.chunk(b"x" * 1000)
    proxy.eventually(lambda: received, "the upload's begin")
    getattr(wire, ending)()
    assert let_go.wait(5)
    assert no_alarm(proxy, received[0]) == ["the client left before its request was complete"]
    assert len(proxy.events(received[0])) == 1  # of a policy that meters 200-599


def test_before_the_answer_nobody_notices_and_the_answer_is_metered(proxy):
    left = threading.Event()
    received = []

    def script(exchange):
        received.append(exchange.header("zp-rid"))
        assert left.wait(10)
        exchange.send(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok")

    proxy.api.on("/metered/impatient", script)
    wire = proxy.wire()
    wire.request("/metered/impatient", "POST", [("x-user", "acme")], b"do it")
    proxy.eventually(lambda: received, "the request")
    wire.close()
    left.set()
    assert len(proxy.events(received[0])) == 1


def test_while_both_stream_the_upstream_is_let_go(proxy):
    script = Watched()
    proxy.api.on("/metered/both", script)
    wire = proxy.wire()
    wire.request("/metered/both", "POST", [("x-user", "acme"), ("transfer-encoding", "chunked")])
    wire.chunk(b"x" * 1000)
    request_id = dict(wire.head()[1])["zp-rid"]
    wire.close()
    assert script.let_go.wait(5)
    assert len(proxy.events(request_id)) == 1
    assert len(no_alarm(proxy, request_id)) == 1


def test_a_function_s_endless_stream_ends_though_it_never_reads_the_body(proxy):
    wire = proxy.wire()
    wire.request("/own/ignore_body", "POST", [("x-user", "acme")], b"ignored" * 100)
    request_id = dict(wire.head()[1])["zp-rid"]
    wire.receive_until(b"tick")
    wire.close()
    assert no_alarm(proxy, request_id) == ["the client left before the response was complete"]
    assert len(proxy.events(request_id)) == 1


def test_a_client_that_half_closes_is_taken_for_gone_but_its_request_is_done_and_metered(proxy):
    """The server ends a connection whose client says that it will send no more."""
    left = threading.Event()
    received = []

    def script(exchange):
        received.append(exchange.header("zp-rid"))
        assert left.wait(10)
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    proxy.api.on("/metered/half", script)
    with proxy.wire() as wire:
        wire.request("/metered/half", headers=[("x-user", "acme")])
        proxy.eventually(lambda: received, "the request")
        wire.half_close()
        assert wire.receive_all() == b""
    left.set()
    assert len(proxy.events(received[0])) == 1
