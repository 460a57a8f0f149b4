"""Header fields: which end here, which are made here, which pass as they are."""

import json
import re

import pytest

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
HOP_BY_HOP = {
    "Keep-Alive": "timeout=5",
    "Proxy-Authenticate": "Basic",
    "Proxy-Authorization": "Basic eA==",
    "Proxy-Connection": "keep-alive",
    "TE": "trailers",
    "Trailer": "X-Checksum",
    "Upgrade": "websocket",
}


def named(exchange):
    return {name for name, _ in exchange.headers}


def test_fields_of_one_connection_are_not_passed_up(proxy):
    seen = proxy.seen("/raw/up", headers=[*HOP_BY_HOP.items(), ("X-Kept", "1")])
    assert named(seen) & {name.lower() for name in HOP_BY_HOP} == set()
    assert seen.header("x-kept") == "1"


def test_fields_of_one_connection_are_not_passed_down(proxy):
    fields = "".join(f"{name}: {value}\r\n" for name, value in HOP_BY_HOP.items()).encode()
    fields += b"connection: x-one, X-TWO , keep-alive\r\nx-one: 1\r\nx-two: 2\r\nx-three: 3\r\n"
    proxy.answer("/raw/down", b"HTTP/1.1 200 OK\r\n" + fields + b"content-length: 2\r\n\r\nok")
    response = proxy.ask("/raw/down")
    assert {name for name, _ in response.headers} == {"x-three", "content-length", "date", "server", "zp-rid"}


@pytest.mark.parametrize("connection", ["x-one, X-TWO", "close, x-one,x-two", " x-two , , x-one "])
def test_fields_that_connection_names_are_not_passed_up(proxy, connection):
    headers = [("Connection", connection), ("X-One", "1"), ("X-Two", "2"), ("X-Three", "3")]
    seen = proxy.seen("/raw/named", headers=headers)
    assert named(seen) & {"x-one", "x-two", "connection"} == set()
    assert seen.header("x-three") == "3"


def test_several_connection_fields_count_all(proxy):
    headers = [("Connection", "x-one"), ("Connection", "x-two"), ("X-One", "1"), ("X-Two", "2")]
    assert named(proxy.seen("/raw/named-twice", headers=headers)) & {"x-one", "x-two"} == set()


@pytest.mark.parametrize("connection", ["x-added", "X-Added, keep-alive"])
def test_what_a_policy_adds_is_not_taken_away_by_the_client_s_connection_field(proxy, connection):
    seen = proxy.seen("/added/x", headers=[("Connection", connection), ("X-Added", "by the client")])
    assert [value for name, value in seen.headers if name == "x-added"] == ["by the gateway"]


@pytest.mark.parametrize("field", ["content-length", "host", "transfer-encoding"])
def test_framing_and_host_are_not_up_to_the_connection_field(proxy, field):
    seen = proxy.seen("/raw/framed", "POST", headers=[("Connection", field)], body=b"body")
    assert seen.body() == b"body"
    assert seen.header("x-forwarded-host") == "gateway.test"


def test_the_upstream_sees_its_own_host_and_who_asked(proxy):
    seen = proxy.seen("/raw/host", headers=[("X-Forwarded-Host", "evil"), ("X-Forwarded-Proto", "https")])
    assert [value for name, value in seen.headers if name == "host"] == [f"127.0.0.1:{proxy.api.port}"]
    assert seen.header("x-forwarded-host") == "gateway.test"
    assert [value for name, value in seen.headers if name == "x-forwarded-proto"] == ["http"]
    assert seen.header("x-forwarded-for") == "127.0.0.1"


def test_the_chain_of_forwarders_is_continued_in_one_field(proxy):
    headers = [("X-Forwarded-For", "192.0.2.1"), ("x-forwarded-for", "192.0.2.2, 192.0.2.3")]
    seen = proxy.seen("/raw/chain", headers=headers)
    chain = [value for name, value in seen.headers if name == "x-forwarded-for"]
    assert chain == ["192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"]


def test_the_request_id_is_ours_everywhere_and_the_client_s_is_only_logged(proxy):
    proxy.answer(
        "/raw/id", b"HTTP/1.1 200 OK\r\nzp-rid: of-the-upstream\r\ncontent-length: 10\r\n\r\nonly", close=True
    )
    response = proxy.ask("/raw/id", headers=[("zp-rid", "chosen-by-the-client")])
    (ours,) = response.all("zp-rid")
    assert UUID(ours)
    (line,) = proxy.await_log(ours)
    assert line["incoming_request_id"] == "chosen-by-the-client"


def test_the_upstream_gets_the_same_request_id_as_the_client(proxy):
    seen = []

    def script(exchange):
        seen.append([value for name, value in exchange.headers if name == "zp-rid"])
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    proxy.api.on("/raw/same-id", script)
    response = proxy.ask("/raw/same-id", headers=[("ZP-RID", "chosen")])
    assert seen == [[response["zp-rid"]]]


def test_every_request_has_an_id_of_its_own(proxy):
    ids = {proxy.ask("/nowhere")["zp-rid"] for _ in range(50)}
    assert len(ids) == 50


def test_fields_pass_up_in_order_and_as_often_as_they_came(proxy):
    headers = [("X-A", "1"), ("x-b", "2"), ("X-A", "3"), ("Cookie", "a=1; b=2"), ("X-Empty", "")]
    seen = proxy.seen("/raw/order", headers=headers)
    passed = [item for item in seen.headers if item[0] in {"x-a", "x-b", "cookie", "x-empty"}]
    assert [item for item in passed if item[0] == "x-a"] == [("x-a", "1"), ("x-a", "3")]
    assert {("x-b", "2"), ("cookie", "a=1; b=2"), ("x-empty", "")} <= set(passed)


def test_values_in_utf_8_pass_up_as_they_are_beside_others_that_are_not(proxy):
    both = [("x-utf", "é".encode().decode("latin-1")), ("x-latin", "é")]
    seen = proxy.seen("/raw/not-ascii", headers=both)
    assert seen.header("x-utf").encode("latin-1") == "é".encode()
    assert seen.header("x-latin").encode("latin-1") == "é".encode()


def test_100_continue_is_said_when_the_body_is_wanted_and_not_asked_of_the_upstream(proxy):
    seen = []

    def script(exchange):
        seen.append((exchange.header("expect"), exchange.body()))
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    proxy.api.on("/raw/expect", script)
    with proxy.wire() as wire:
        wire.request("/raw/expect", "POST", [("Expect", "100-continue"), ("Content-Length", "4")])
        assert wire.head()[0] == 100
        wire.send(b"body")
        assert wire.response().status == 200
    assert seen == [(None, b"body")]


def test_100_continue_is_not_said_to_a_body_that_is_refused(proxy):
    with proxy.wire() as wire:
        wire.request("/raw/x", "POST", [("Expect", "100-continue"), ("Content-Length", str(10**12))])
        response = wire.response()
    assert (response.status, response.interim) == (413, ())


def test_a_websocket_s_request_for_an_upgrade_is_forwarded_without_it(proxy):
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x")]
    assert named(proxy.seen("/raw/socket", headers=headers)) & {"upgrade", "connection"} == set()


def test_a_problem_names_the_path_without_its_query(proxy):
    response = proxy.ask("/nowhere/at%20all?token=hush")
    document = json.loads(response.body)
    assert (response.status, document["instance"]) == (404, "/nowhere/at%20all")
    assert b"hush" not in response.body
