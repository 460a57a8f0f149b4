"""Every framework in front of the same scenarios: a real server, a real client, a real OpenMeter."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import pytest
import uvicorn
from granian.constants import Interfaces
from granian.server.embed import Server as EmbeddedGranian
from tests.middleware.applications import steps

from metergate.middleware import Metergate
from metergate.testing.processes import free_port

NUMBERS = count()
HOST = "127.0.0.1"


@contextmanager
def on_uvicorn(app):
    """The application behind uvicorn; its port."""
    config = uvicorn.Config(app, HOST, 0, log_config=None, ws="none", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def on_granian(app):
    """The application behind Granian; its port."""
    port = free_port()
    server = EmbeddedGranian(app, HOST, port, interface=Interfaces.ASGI, log_enabled=False)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),))
    thread.start()
    try:
        wait_until(lambda: answers(port) or not thread.is_alive())
        yield port
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join()
        loop.close()


@contextmanager
def on_threads(app):
    """A WSGI application behind a server with a thread for each connection; its port."""
    server = make_server(HOST, 0, app, Threads, Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


SERVERS = {
    "starlette": ("starlette", "application", on_uvicorn),
    "starlette on granian": ("starlette", "application", on_granian),
    "fastapi": ("fastapi", "application", on_uvicorn),
    "litestar": ("litestar", "application", on_uvicorn),
    "quart": ("quart", "application", on_uvicorn),
    "django": ("django", "application", on_uvicorn),
    "django below wsgi": ("django", "application_wsgi", on_threads),
}


class Served:
    """A framework's application that runs, and what its metering is done by."""

    def __init__(self, port, metergate, openmeter):
        self.client = httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30)
        self.metergate = metergate
        self._openmeter = openmeter

    def get(self, path, user=None):
        return self.client.get(path, headers=identity(user))

    def stream(self, path, user):
        """As `get`, while the body still comes."""
        return self.client.stream("GET", path, headers=identity(user))

    def events(self, subject):
        """Those that OpenMeter has of it now, when all that is recorded has been sent."""
        assert self.metergate.flush()
        found = self._openmeter.call("GET", "/api/v1/events", subject=subject)
        return [item["event"] for item in found]


def identity(user):
    return {"X-User": user} if user else {}


@pytest.fixture(scope="module", params=SERVERS)
def served(request, openmeter, tmp_path_factory):
    module, make, server = SERVERS[request.param]
    made = Metergate(
        spool=tmp_path_factory.mktemp("spool"),
        api_url=openmeter.url,
        api_key="key",
        meter={"type": "call"},
        required_entitlements=["calls"],
    )
    app = getattr(import_module(f"tests.middleware.applications.{module}"), make)(made)
    with server(app) as port:
        one = Served(port, made, openmeter)
        with one.client:
            yield one
    made.drain(0.0)


@pytest.fixture
def user(served, customer):
    """Who may call five times."""
    return customer(f"user-{next(NUMBERS)}", 5)


def wait_until(condition, seconds=30.0):
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came true")


def answers(port):
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_request_is_one_event(served, user):
    answer = served.get("/things/7", user)
    assert (answer.status_code, answer.text) == (200, "thing 7")
    (event,) = served.events(user)
    assert (event["type"], event["subject"]) == ("call", user)


def test_a_missing_page_is_not_metered(served, user):
    assert served.get("/nothing", user).status_code == 404
    assert served.get("/things/7", user).status_code == 200
    assert len(served.events(user)) == 1


def test_who_has_used_up_a_quota_is_told_so_in_a_problem(served, user):
    assert [served.get("/things/7", user).status_code for _ in range(5)] == [200] * 5
    answer = served.get("/things/7?page=2", user)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert (answer.json()["reason"], answer.json()["instance"]) == ("exhausted", "/things/7")
    assert len(served.events(user)) == 5


def test_who_is_nobody_is_not_let_in(served):
    answer = served.get("/things/7")
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.json()["reason"] == "no_user"


def test_a_stream_goes_on_chunk_by_chunk_and_is_metered_at_its_end(served, user):
    with served.stream("/stream", user) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == b"chunk 0\n"
        assert served.events(user) == []
        for number in range(1, steps.CHUNKS):
            steps.allow(user)
            assert next(chunks) == f"chunk {number}\n".encode()
        assert b"".join(chunks) == b""
    assert len(served.events(user)) == 1


def test_a_stream_whose_client_leaves_is_metered_once(served, user):
    with served.stream("/stream", user) as answer:
        assert next(answer.iter_raw()) == b"chunk 0\n"
    steps.allow(user, steps.CHUNKS)
    wait_until(lambda: served.events(user))
    assert served.get("/things/7", user).status_code == 200
    assert len(served.events(user)) == 2


def test_a_handler_that_fails_is_not_metered_and_holds_nothing(served, user):
    for _ in range(6):  # a server may end a connection after that
        failed = served.client.get("/fails", headers=identity(user) | {"Connection": "close"})
        assert failed.status_code == 500
    assert served.get("/things/7", user).status_code == 200
    assert len(served.events(user)) == 1


@pytest.mark.parametrize(("path", "tokens"), [("/tokens", 7), ("/tokens-async", 8)], ids=["sync", "async"])
def test_a_handler_sets_meters(served, user, path, tokens):
    assert served.get(path, user).text == "done"
    (event,) = served.events(user)
    assert event["data"] == {"tokens": tokens}


def test_what_runs_in_the_background_delays_no_event(served, user):
    assert served.get("/background", user).text == "begun"
    assert len(served.events(user)) == 1
    assert not steps.done(user).is_set()
    steps.allow(user)
    assert steps.done(user).wait(20)


def test_fifty_requests_at_once_get_a_quota_and_not_one_more(served, customer):
    subject = customer(f"user-{next(NUMBERS)}", 20)

    async def ask_all():
        async with httpx.AsyncClient(base_url=served.client.base_url, timeout=60) as client:
            asked = (client.get("/things/7", headers=identity(subject)) for _ in range(50))
            return await asyncio.gather(*asked)

    statuses = [answer.status_code for answer in asyncio.run(ask_all())]
    assert (statuses.count(200), statuses.count(403)) == (20, 30)
    assert len(served.events(subject)) == 20
