from __future__ import annotations

import email.utils
import os
import socket
import subprocess
import sys
import threading
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metergate.openmeter import ingest
from metergate.openmeter.ingest import BATCH_TYPE, IngestAnswer, IngestClient
from metergate.testing.faulty import FaultyOpenMeter, answer, cut, page, slow, throttle

EVENT = b'{"specversion":"1.0","id":"e1","source":"s","type":"t","subject":"u"}'
BODY = b"[" + EVENT + b"]"


@pytest.fixture
def openmeter():
    with FaultyOpenMeter() as server:
        yield server


@pytest.fixture(params=["pyreqwest", "standard library"])
def client_class(request, monkeypatch):
    """Both ways to send: the second is for processes that were forked, where the first cannot be used."""
    if request.param == "standard library":
        monkeypatch.setattr(ingest, "_open_transport", ingest._StandardLibrary)


@pytest.fixture
def client(client_class, openmeter):
    client = IngestClient(openmeter.url + "/", "sk_secret", timeout=10, wall_clock=lambda: 1_000_000.0)
    yield client
    client.close()


def test_a_batch_arrives_as_it_is_with_the_bare_media_type_and_the_key(client, openmeter):
    assert client.send(BODY) == IngestAnswer(204)
    (request,) = openmeter.requests
    assert request.body == BODY
    assert request.headers["content-type"] == BATCH_TYPE == "application/cloudevents-batch+json"
    assert request.headers["authorization"] == "Bearer sk_secret"
    assert request.headers["user-agent"] == "metergate"


def test_a_problem_is_openmeters_and_its_detail_is_read(client, openmeter):
    openmeter.script(answer(400, "validation error: subject is missing"))
    assert client.send(BODY) == IngestAnswer(
        400, "validation error: subject is missing", None, by_openmeter=True
    )


def test_a_web_page_is_not_openmeters(client, openmeter):
    openmeter.script(page(400, "<html>\n  Plain HTTP was sent\n</html>"))
    assert client.send(BODY) == IngestAnswer(400, "<html> Plain HTTP was sent </html>")


def test_a_redirect_is_an_answer_and_is_not_followed(client, openmeter):
    openmeter.script(answer(302, Location=openmeter.url + "/api/v1/events"))
    assert client.send(BODY).status == 302
    assert len(openmeter.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (email.utils.formatdate(1_000_030.0, usegmt=True), 30.0),
        (email.utils.formatdate(999_000.0, usegmt=True), 0.0),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(client, openmeter, header, seconds):
    openmeter.script(throttle(header))
    now = client.send(BODY)
    assert (now.status, now.retry_after) == (429, seconds)


@pytest.mark.parametrize("stored", [True, False])
def test_a_cut_connection_is_no_answer(client, openmeter, stored):
    openmeter.script(cut(stored=stored))
    now = client.send(BODY)
    assert now.status == 0
    assert now.detail


def test_a_refused_connection_is_no_answer_and_the_next_try_may_succeed(client, openmeter):
    openmeter.go_away()
    assert client.send(BODY).status == 0
    openmeter.come_back()
    assert client.send(BODY).status == 204


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b"202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", IngestAnswer(202)),
        (b"202 Accepted\r\nContent-Length: 10\r\n\r\nshort", IngestAnswer(202)),
        (b"204 No Content\r\nContent-Length: 5\r\n\r\nhello", IngestAnswer(204)),
        (b"204 No Content\r\nTransfer-Encoding: chunked\r\n\r\nno size", IngestAnswer(204)),
        (b"400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", IngestAnswer(400)),
        (b"429 Slow\r\nRetry-After: 30\r\nTransfer-Encoding: chunked\r\n\r\nx", IngestAnswer(429, "", 30.0)),
        (
            b"429 Slow\r\nRetry-After: \xff\r\nContent-Type: \xff\r\nContent-Length: 0\r\n\r\n",
            IngestAnswer(429),
        ),
    ],
)
@pytest.mark.usefixtures("client_class")
def test_a_status_holds_whatever_becomes_of_the_rest_of_the_answer(answer, wanted):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve():
            connection, _ = server.accept()
            with connection:
                got = b""
                while not got.endswith(BODY):
                    got += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 " + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        client = IngestClient(f"http://127.0.0.1:{server.getsockname()[1]}", "k", timeout=10)
        assert client.send(BODY) == wanted
        client.close()
        thread.join(10)


def test_a_slow_server_is_given_up_in_time(client, openmeter):
    openmeter.script(slow(30))
    assert client.send(BODY, timeout=0.2).status == 0


def test_an_answer_that_echoes_the_key_does_not_bring_it_to_the_log(client, openmeter):
    openmeter.script(page(401, "bad key sk_secret " + "x" * 100_000))
    now = client.send(BODY)
    assert "sk_secret" not in repr(now)
    assert now.detail.startswith("bad key ***")
    assert len(now.detail) <= 500
    assert "sk_secret" not in repr(client)


@pytest.mark.parametrize("url", ["http://exa mple", "ftp://127.0.0.1", "http://127.0.0.1:99999"])
def test_a_url_that_cannot_be_called_is_no_answer_and_not_an_exception(url):
    client = IngestClient(url, "k", timeout=1)
    assert client.send(BODY).status == 0
    client.close()


def test_a_child_of_a_process_that_has_sent_can_send(openmeter):
    parent = IngestClient(openmeter.url, "k", timeout=10)
    assert parent.send(BODY).status == 204
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            status = IngestClient(openmeter.url, "k", timeout=10).send(BODY).status
        finally:
            os._exit(0 if status == 204 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert parent.send(BODY).status == 204
    parent.close()
    assert len(openmeter.requests) == 3


FORK_AMID_THE_FIRST_CLIENT = """
import os, signal, sys, threading
from metergate.openmeter import ingest

begun = threading.Event()

class NeverDone:
    def __init__(self, url, headers):
        begun.set()
        threading.Event().wait()

ingest._Pyreqwest = NeverDone
threading.Thread(target=ingest.IngestClient, args=(sys.argv[1], "k"), daemon=True).start()
begun.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(10)  # it waits for ever, where this test fails
    status = 0
    try:
        status = ingest.IngestClient(sys.argv[1], "k", timeout=10).send(b'[]').status
    finally:
        os._exit(0 if status == 204 else 1)
os._exit(os.waitpid(pid, 0)[1] != 0)
"""


def test_a_child_of_a_process_that_was_just_opening_its_first_client_can_send(openmeter):
    # In the child pyreqwest would wait for a thread that only the parent has; the class above stands for that moment.
    command = [sys.executable, "-W", "ignore", "-c", FORK_AMID_THE_FIRST_CLIENT, openmeter.url]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0


@settings(max_examples=50)
@given(st.integers(100, 999), st.binary(max_size=200), st.text(max_size=20), st.none() | st.text(max_size=20))
def test_any_answer_is_read_without_an_exception_and_on_one_line(status, body, content_type, retry_after):
    client = IngestClient("http://127.0.0.1:9", "sk_secret")
    now = client._read(ingest._Reply(status, content_type, retry_after, body))
    assert now.status == status
    assert "\n" not in now.detail
    assert now.retry_after is None or 0 <= now.retry_after <= 600
    client.close()
