"""An upstream that fails, lies or surprises: the client gets a problem, or a response that is visibly broken."""

import json
import re
import threading

import pytest

OK = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "a length, then the end": OK + b"content-length: 10\r\n\r\nonly",
    "chunks, then the end": OK + b"transfer-encoding: chunked\r\n\r\n4\r\nonly\r\n",
    "an event stream, then the end": OK
    + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n4\r\nonly\r\n",
    "a chunk that is none": OK + b"transfer-encoding: chunked\r\n\r\n4\r\nonly\r\nzz\r\n",
}
REFUSED = {
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 5\r\n\r\nokabc",
    "a length with a sign": OK + b"content-length: +2\r\n\r\nok",
    "a length and no body": OK + b"content-length: 2\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a first chunk that is none": OK + b"transfer-encoding: chunked\r\n\r\nzz\r\nonly\r\n",
    "more fields than any client takes": OK + b"".join(b"x-%d: a\r\n" % n for n in range(300)) + b"\r\n",
    "a switch that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
}


def problem_of(response, status):
    assert response.status == status
    assert response["content-type"] == "application/problem+json"
    assert (response.complete, response.framing) == (True, "length")
    document = json.loads(response.body)
    assert document["status"] == status
    assert document["trace"]["requestId"] == response["zp-rid"]
    assert "Traceback" not in response.body.decode()
    return document.get("detail")


def test_without_a_connection_the_client_gets_502_and_the_log_says_why(proxy):
    response = proxy.ask("/refused/x?token=hush")
    assert problem_of(response, 502) == "There is no connection to the upstream."

    def said():
        return [
            line for line in proxy.lines() if line.get("kind") == "no_connection" and "request_id" in line
        ]

    proxy.eventually(said, "a line about it")  # of this request, or an earlier one of these tests
    line = said()[-1]
    assert line["level"] == "error"
    assert re.search(r"no answer from upstream http://127\.0\.0\.1:\d+: .*refused", line["message"])
    assert "hush" not in json.dumps(proxy.lines())


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_connection_that_ends_before_the_answer_is_502(proxy, ending):
    proxy.api.on("/raw/gone", lambda exchange: (exchange.body(), getattr(exchange, ending)()))
    response = proxy.ask("/raw/gone", "POST", body=b"x")
    assert problem_of(response, 502) == "The upstream broke off before it answered."


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
def test_an_answer_that_http_does_not_allow_is_502(proxy, answer):
    proxy.answer("/raw/refused-answer", answer, close=True)
    detail = problem_of(proxy.ask("/raw/refused-answer", "POST", body=b""), 502)
    assert detail in {
        "The upstream's answer is not one that HTTP allows.",
        "The upstream broke off before it answered.",
    }


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_an_answer_that_breaks_off_is_broken_for_the_client_too(proxy, answer, ending):
    def script(exchange):
        exchange.body()
        exchange.send(answer)
        proxy.eventually(got.is_set, "the client's first bytes")
        getattr(exchange, ending)()

    got = threading.Event()
    proxy.api.on("/raw/broken", script)
    with proxy.wire() as wire:
        wire.request("/raw/broken", headers=[("accept", "text/event-stream")])
        status, fields = wire.head()
        got.set()
        rest = wire.receive_all()
    assert status == 200
    assert b"only" in rest
    assert not rest.endswith(b"0\r\n\r\n")
    assert dict(fields).get("content-length") in (None, "10")
    (line,) = proxy.await_log(dict(fields)["zp-rid"])
    assert (line["level"], "exception" in line) == ("warning", False)


def test_what_comes_after_the_announced_length_is_not_passed_on(proxy):
    proxy.answer("/raw/long", OK + b"content-length: 4\r\n\r\nonlymore", close=True)
    response = proxy.ask("/raw/long")
    assert (response.body, response.complete) == (b"only", True)


def test_chunks_count_where_a_length_is_said_too(proxy):
    answer = OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    proxy.answer("/raw/both", answer)
    response = proxy.ask("/raw/both")
    assert (response.status, response.body, response.complete, response.framing) == (
        200,
        b"abc",
        True,
        "chunked",
    )


def test_interim_responses_are_not_taken_for_the_answer(proxy):
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    proxy.answer("/raw/interim", early + OK + b"content-length: 2\r\n\r\nok")
    assert proxy.ask("/raw/interim").body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("length", [b"", b"content-length: 0\r\n", b"content-length: 77\r\n"])
def test_statuses_without_a_body_end_with_their_head(proxy, status, length):
    proxy.answer("/raw/bodiless", b"HTTP/1.1 %d X\r\netag: x\r\n%s\r\n" % (status, length))
    with proxy.wire() as wire:
        for _ in range(2):  # the connection goes on: nothing of a body was sent
            wire.request("/raw/bodiless")
            response = wire.response()
            assert (response.status, response["etag"], response.framing) == (status, "x", "none")
    assert status == 304 or response["content-length"] is None


def test_205_has_an_empty_body(proxy):
    proxy.answer(
        "/raw/reset-content", b"HTTP/1.1 205 Reset Content\r\ncontent-length: 3\r\n\r\nabc", close=True
    )
    response = proxy.ask("/raw/reset-content")
    assert (response.status, response.body, response.complete) == (205, b"", True)


@pytest.mark.parametrize("length", [b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b""])
def test_head_tells_the_length_that_get_would_have_and_sends_nothing(proxy, length):
    proxy.answer("/raw/head", OK + length + b"x-kept: yes\r\n\r\n", close=not length)
    with proxy.wire() as wire:
        wire.request("/raw/head", "HEAD")
        response = wire.response("HEAD")
        assert (response.status, response["x-kept"]) == (200, "yes")
        assert response["content-length"] == ("5" if b"content-length" in length else None)
        wire.request("/raw/other", "HEAD")
        assert wire.response("HEAD").status == 200


def test_a_204_of_a_function_says_no_length(proxy):
    response = proxy.ask("/own/nothing")
    assert (response.status, response["content-length"]) == (204, None)


def test_an_answer_without_length_ends_with_its_connection(proxy):
    proxy.answer("/raw/until-close", OK + b"\r\nuntil the end", close=True)
    response = proxy.ask("/raw/until-close")
    assert (response.body, response.complete, response.framing) == (b"until the end", True, "chunked")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_passed_on(proxy, status):
    proxy.answer("/raw/moved", b"HTTP/1.1 %d X\r\nlocation: /raw/else\r\ncontent-length: 0\r\n\r\n" % status)
    response = proxy.ask("/raw/moved")
    assert (response.status, response["location"]) == (status, "/raw/else")


def test_redirects_are_followed_where_the_route_says_so(proxy):
    proxy.answer("/follow/moved", b"HTTP/1.1 302 X\r\nlocation: /follow/else\r\ncontent-length: 0\r\n\r\n")
    proxy.answer("/follow/else", OK + b"content-length: 4\r\n\r\nelse")
    assert proxy.ask("/follow/moved").body == b"else"


def test_redirects_in_a_circle_are_502(proxy):
    proxy.answer("/follow/circle", b"HTTP/1.1 302 X\r\nlocation: /follow/circle\r\ncontent-length: 0\r\n\r\n")
    assert problem_of(proxy.ask("/follow/circle"), 502)


def test_a_header_of_60_kilobytes_is_passed_on(proxy):
    proxy.answer("/raw/huge", OK + b"x-huge: " + b"a" * 60_000 + b"\r\ncontent-length: 2\r\n\r\nok")
    assert len(proxy.ask("/raw/huge")["x-huge"]) == 60_000


def test_header_values_that_are_not_ascii_are_left_out_and_said(proxy):
    proxy.answer("/raw/latin", OK + b"x-latin: caf\xe9\r\nx-plain: yes\r\ncontent-length: 2\r\n\r\nok")
    response = proxy.ask("/raw/latin")
    assert (response.status, response["x-plain"], response["x-latin"]) == (200, "yes", None)
    said = [line["message"] for line in proxy.lines() if line["logger"] == "metergate.upstream"]
    assert "the upstream's header x-latin is not ASCII and is left out" in said


def test_several_cookies_stay_several_and_in_order(proxy):
    cookies = b"set-cookie: a=1; Path=/\r\nx-between: 1\r\nSet-Cookie: b=2, c\r\nset-cookie: a=3\r\n"
    proxy.answer("/raw/cookies", OK + cookies + b"content-length: 2\r\n\r\nok")
    assert proxy.ask("/raw/cookies").all("set-cookie") == ["a=1; Path=/", "b=2, c", "a=3"]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_an_encoded_body_passes_untouched(proxy, coding):
    body = bytes(range(256))
    fields = f"content-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    proxy.answer("/raw/encoded", OK + fields + body)
    response = proxy.ask("/raw/encoded", headers=[("accept-encoding", coding)])
    assert (response["content-encoding"], response.body) == (coding, body)


@pytest.mark.parametrize("status", [418, 499, 599, 600, 999])
def test_odd_statuses_pass_as_they_are(proxy, status):
    proxy.answer("/raw/odd", b"HTTP/1.1 %d Odd\r\ncontent-length: 2\r\n\r\nok" % status)
    response = proxy.ask("/raw/odd")
    assert (response.status, response.body) == (status, b"ok")


def test_an_answer_may_come_while_the_upload_is_running(proxy):
    proxy.api.on(
        "/raw/early", lambda e: (e.send(b"HTTP/1.1 403 X\r\ncontent-length: 2\r\n\r\nno"), e.close())
    )
    with proxy.wire() as wire:
        wire.request("/raw/early", "POST", headers=[("content-length", "1000000")])
        wire.send(b"x" * 1000)
        response = wire.response()
    assert (response.status, response.body, response.complete) == (403, b"no", True)


def test_a_kept_alive_connection_that_was_just_closed_costs_a_safe_request_nothing(proxy):
    proxy.answer("/raw/closing", OK + b"content-length: 2\r\n\r\nok", close=True)
    with proxy.wire() as wire:
        for _ in range(200):
            wire.request("/raw/closing")
            assert wire.response().status == 200


def test_a_request_that_may_do_something_is_never_repeated(proxy):
    proxy.api.on("/raw/once", lambda exchange: (exchange.body(), exchange.close()))
    assert proxy.ask("/raw/once", "POST", body=b"x").status == 502
    assert proxy.ask("/raw/once", "DELETE").status == 502
    assert proxy.api.targets.count("/raw/once") == 2


def test_a_stream_of_a_function_that_raises_at_once_is_broken_and_tells_nothing(proxy):
    response = proxy.ask("/own/raises_at_once")
    assert response.complete is False
    assert b"secret" not in response.body
    (line,) = proxy.await_log(response["zp-rid"])
    assert re.search("the response broke off: RuntimeError", line["message"])


def test_a_header_that_would_forge_another_never_leaves(proxy):
    response = proxy.ask("/own/malformed")
    assert response["x-forged"] is None
    problem_of(response, 500)
