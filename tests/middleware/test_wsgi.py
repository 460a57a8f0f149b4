"""The middleware around a plain WSGI application, on several threads: what is metered, and who is let in."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from wsgiref.util import FileWrapper

import msgspec
import pytest

from metergate.middleware import set_meters
from metergate.middleware.wsgi import MetergateMiddleware

NUMBERS = count()


@pytest.fixture
def subject():
    return f"wsgi-{next(NUMBERS)}"


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class Answer:
    """What a server gets for one request. It iterates with ``next``."""

    def __init__(self, app, environ):
        self.body = app(environ, self.start)
        self.chunks = iter(self.body)

    def start(self, status, headers, exc_info=None):
        self.status, self.headers = int(status[:3]), dict(headers)

    def close(self):
        if hasattr(self.body, "close"):
            self.body.close()


def call(metergate, app, user="", path="/things", **environ):
    return Answer(MetergateMiddleware(app, metergate), {"PATH_INFO": path, "REMOTE_USER": user, **environ})


def recorded(gate):
    return next(iter(gate.backends.statistics().deliveries.values())).recorded


def test_a_response_goes_on_untouched_and_is_one_event(metergate, events, subject):
    gate = metergate()
    answer = call(gate, hello, subject)
    assert (answer.status, list(answer.chunks)) == (200, [b"hello"])
    assert gate.flush()
    (event,) = events(subject)
    assert (event["type"], event["subject"]) == ("call", subject)


def test_a_health_check_is_let_through_and_not_metered(metergate, subject):
    gate = metergate(required_entitlements=["calls"])
    assert call(gate, hello, path="/healthz").status == 200
    assert recorded(gate) == 0


def test_a_quota_is_let_in_to_the_unit_from_many_threads(metergate, customer, events, subject):
    customer(subject, 10)
    gate = metergate(required_entitlements=["calls"], entitlement_check={"exhausted_status": 429})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: call(gate, hello, subject), range(40)))
    assert sorted(answer.status for answer in answers) == [200] * 10 + [429] * 30
    denied = next(answer for answer in answers if answer.status == 429)
    assert msgspec.json.decode(b"".join(denied.chunks))["reason"] == "exhausted"
    assert denied.headers["content-type"] == "application/problem+json"
    assert gate.flush()
    assert len(events(subject)) == 10


def test_nobody_is_let_in_where_an_entitlement_is_needed(metergate, subject):
    gate = metergate(required_entitlements=["calls"], trusted_header="x-user")
    assert call(gate, hello).status == 401
    assert call(gate, hello, HTTP_X_USER=f"{subject},admin").status == 401, "it came twice"


def test_the_decision_is_told_in_a_header_where_that_is_wanted(metergate, customer, subject):
    customer(subject, 2)
    gate = metergate(required_entitlements=["calls"], entitlement_check={"explain_header": "x-why"})
    assert call(gate, hello, subject).headers["x-why"].startswith("granted")


def test_a_stream_is_recorded_when_it_ends(metergate, subject):
    gate = metergate()

    def stream(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        yield b"b"

    answer = call(gate, stream, subject)
    assert [next(answer.chunks), recorded(gate), next(answer.chunks), recorded(gate)] == [b"a", 0, b"b", 0]
    assert (next(answer.chunks, None), recorded(gate)) == (None, 1)
    answer.close()
    assert recorded(gate) == 1


def test_a_stream_of_known_length_is_recorded_before_its_last_chunk_leaves(metergate, subject):
    gate = metergate()

    def stream(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return iter([b"a", b"b"])

    answer = call(gate, stream, subject)
    assert [next(answer.chunks), recorded(gate), next(answer.chunks), recorded(gate)] == [b"a", 0, b"b", 1]


def test_a_file_is_left_to_the_server_and_recorded_before(metergate, subject):
    gate = metergate()

    def file(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    answer = call(gate, file, subject, **{"wsgi.file_wrapper": FileWrapper})
    assert isinstance(answer.body, FileWrapper)
    assert recorded(gate) == 1


def test_a_client_that_leaves_pays_for_what_was_begun(metergate, subject):
    gate = metergate()
    closed = []

    class Body:
        def __iter__(self):
            return iter([b"a", b"b"])

        def close(self):
            closed.append(True)

    def stream(environ, start_response):
        start_response("200 OK", [])
        return Body()

    answer = call(gate, stream, subject)
    next(answer.chunks)
    answer.close()
    assert (recorded(gate), closed) == (1, [True])


@pytest.mark.parametrize("begun", [False, True])
def test_an_application_that_fails_is_metered_with_what_is_answered(metergate, subject, begun):
    gate = metergate(meter_on_status_codes="500" if not begun else "200")

    def fails(environ, start_response):
        if begun:
            start_response("200 OK", [])
            yield b"a"
        raise ValueError("bug")

    def fails_at_once(environ, start_response):
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        list(call(gate, fails if begun else fails_at_once, subject).chunks)
    assert recorded(gate) == 1


def test_meters_can_be_set_while_a_stream_is_made(metergate, events, subject):
    gate = metergate()

    def stream(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        set_meters({"type": "call", "data": {"tokens": 7}})

    assert list(call(gate, stream, subject).chunks) == [b"a"]
    assert gate.flush()
    (event,) = events(subject)
    assert event["data"] == {"tokens": 7}
