"""Bodies pass through as they come, in both directions, at the pace of whoever is slower."""

import threading
from pathlib import Path

import pytest

PIECES = [b"first", b"second", b"third"]
MEGABYTE = 1 << 20


def chunked(exchange, status=b"200 OK", fields=b""):
    exchange.send(b"HTTP/1.1 " + status + b"\r\n" + fields + b"transfer-encoding: chunked\r\n\r\n")


def send_chunk(exchange, data):
    exchange.send(b"%x\r\n%s\r\n" % (len(data), data))


@pytest.mark.parametrize("length", [True, False], ids=["with a length", "chunked"])
def test_each_piece_of_an_answer_arrives_while_the_upstream_holds_the_next(proxy, length):
    taken = threading.Semaphore(0)

    def script(exchange):
        if length:
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(b"".join(PIECES)))
        else:
            chunked(exchange)
        for piece in PIECES:
            exchange.send(piece) if length else send_chunk(exchange, piece)
            assert taken.acquire(timeout=10)
        if not length:
            exchange.send(b"0\r\n\r\n")

    proxy.api.on("/raw/pieces", script)
    with proxy.wire() as wire:
        wire.request("/raw/pieces")
        for piece in PIECES:
            wire.receive_until(piece)
            taken.release()


@pytest.mark.parametrize("length", [True, False], ids=["with a length", "chunked"])
def test_each_piece_of_an_upload_reaches_the_upstream_before_the_next_is_sent(proxy, length):
    arrived = threading.Semaphore(0)
    bodies = []

    def script(exchange):
        data = b""
        for piece in PIECES:
            while len(data) < len(piece) or not data.endswith(piece):
                data += exchange.receive() if length else exchange.chunk()
            arrived.release()
        bodies.append(data)
        if not length:
            assert exchange.chunk() == b""
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    proxy.api.on("/raw/upload", script)
    with proxy.wire() as wire:
        framing = (
            ("content-length", str(len(b"".join(PIECES)))) if length else ("transfer-encoding", "chunked")
        )
        wire.request("/raw/upload", "POST", headers=[framing])
        for piece in PIECES:
            wire.send(piece) if length else wire.chunk(piece)
            assert arrived.acquire(timeout=10)
        if not length:
            wire.chunk(b"")
        assert wire.response().status == 200
    assert bodies == [b"".join(PIECES)]


def test_an_echo_streams_both_ways_at_once(proxy):
    def script(exchange):
        chunked(exchange)
        while piece := exchange.chunk():
            send_chunk(exchange, piece.upper())
        exchange.send(b"0\r\n\r\n")

    proxy.api.on("/raw/echo", script)
    with proxy.wire() as wire:
        wire.request("/raw/echo", "POST", headers=[("transfer-encoding", "chunked")])
        for piece in PIECES:
            wire.chunk(piece)
            wire.receive_until(piece.upper())
        wire.chunk(b"")
        assert wire.receive_until(b"0\r\n\r\n").endswith(b"0\r\n\r\n")


def test_a_function_that_echoes_reads_the_rest_of_the_body_while_it_answers(proxy):
    with proxy.wire() as wire:
        wire.request("/own/echo", "POST", headers=[("transfer-encoding", "chunked")])
        for piece in PIECES:
            wire.chunk(piece)
            wire.receive_until(piece)
        wire.chunk(b"")
        wire.receive_until(b"0\r\n\r\n")


def test_server_sent_events_arrive_one_by_one(proxy):
    events = [b"data: %d\n\n" % number for number in range(20)]
    taken = threading.Semaphore(0)

    def script(exchange):
        chunked(exchange, fields=b"content-type: text/event-stream\r\n")
        for event in events:
            send_chunk(exchange, event)
            assert taken.acquire(timeout=10)
        exchange.send(b"0\r\n\r\n")

    proxy.api.on("/raw/events", script)
    with proxy.wire() as wire:
        wire.request("/raw/events", headers=[("accept", "text/event-stream")])
        status, fields = wire.head()
        assert (status, dict(fields)["content-type"]) == (200, "text/event-stream")
        for event in events:
            wire.receive_until(event)
            taken.release()
        wire.receive_until(b"0\r\n\r\n")


def test_the_head_of_an_event_stream_arrives_before_its_first_event(proxy):
    heard = threading.Event()

    def script(exchange):
        chunked(exchange, fields=b"content-type: text/event-stream\r\n")
        assert heard.wait(10)
        send_chunk(exchange, b"data: 1\n\n")
        exchange.send(b"0\r\n\r\n")

    proxy.api.on("/raw/quiet-events", script)
    with proxy.wire() as wire:
        wire.request("/raw/quiet-events", headers=[("accept", "text/event-stream")])
        assert wire.head()[0] == 200
        heard.set()
        wire.receive_until(b"0\r\n\r\n")


def test_the_head_of_a_function_s_stream_arrives_before_its_first_chunk(proxy):
    with proxy.wire() as wire:
        wire.request("/own/silent_stream")
        assert wire.head()[0] == 200


def test_an_empty_chunk_of_a_function_does_not_end_its_response(proxy):
    response = proxy.ask("/own/odd_chunks")
    assert (response.body, response.complete) == (b"ab", True)


def peak_of(pid):
    """The most memory that a process has used so far, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("length", [True, False], ids=["with a length", "chunked"])
def test_200_megabytes_pass_in_flat_memory(proxy, length):
    piece = bytes(MEGABYTE)
    total = 200 * MEGABYTE

    def script(exchange):
        if length:
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        else:
            chunked(exchange)
        for _ in range(total // MEGABYTE):
            exchange.send(piece) if length else send_chunk(exchange, piece)
        if not length:
            exchange.send(b"0\r\n\r\n")

    proxy.api.on("/raw/large", script)
    proxy.ask("/raw/warm")
    (worker,) = proxy.gateway.workers()
    before = peak_of(worker)
    with proxy.wire() as wire:
        wire.request("/raw/large")
        response = wire.response()
    assert (response.complete, len(response.body)) == (True, total)
    assert peak_of(worker) - before < 40 * MEGABYTE


def test_an_upstream_waits_for_a_client_that_does_not_read(proxy):
    total, piece = 64 * MEGABYTE, bytes(MEGABYTE)
    sent = []
    done = threading.Event()

    def script(exchange):
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _ in range(total // MEGABYTE):
            exchange.send(piece)
            sent.append(MEGABYTE)
        done.set()

    proxy.api.on("/raw/slow-reader", script)
    with proxy.wire(receive_buffer=65_536) as wire:
        wire.request("/raw/slow-reader")
        assert wire.head()[0] == 200
        # As much as fits into the buffers of the kernel goes on; then nothing more.
        assert not done.wait(0.3)
        assert sum(sent) < total
        body = wire.exactly(total)
    assert len(body) == total


def test_a_client_waits_for_an_upstream_that_does_not_read(proxy):
    total = 30 * MEGABYTE
    read_on = threading.Event()

    def script(exchange):
        assert read_on.wait(10)
        exchange.close()

    proxy.api.on("/raw/slow-upstream", script)
    with proxy.wire(timeout=0.3) as wire:
        wire.request("/raw/slow-upstream", "PUT", headers=[("transfer-encoding", "chunked")])
        with pytest.raises(TimeoutError):  # noqa: PT012  # at one of the chunks
            for _ in range(total // MEGABYTE):
                wire.chunk(bytes(MEGABYTE))
        read_on.set()
