"""Headers, requests and responses: what a project's code may do with them, and what it may not."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import UsageError
from metergate.gateway.http import (
    BodyConsumed,
    BytesBody,
    Headers,
    Request,
    Response,
    StreamedBody,
    User,
    encode_path,
)


def chunks(*parts):
    async def give():
        for part in parts:
            yield part

    return give()


# --- headers


def test_names_have_no_case_and_repeats_keep_their_order():
    headers = Headers([("X-A", "1"), ("x-b", "2"), ("x-a", "3")])
    assert (headers["X-a"], headers.get("X-B"), headers.get("x-c"), headers.get_all("X-A")) == (
        "1",
        "2",
        None,
        ["1", "3"],
    )
    assert ("x-A" in headers, "x-c" in headers, 5 in headers) == (True, False, False)
    assert (list(headers), len(headers)) == (["x-a", "x-b"], 3)


def test_setting_replaces_all_of_a_name_and_appending_adds():
    headers = Headers([("x-a", "1"), ("x-a", "2")])
    headers["X-A"] = "3"
    headers.append("X-A", "4")
    assert headers.items == [("x-a", "3"), ("x-a", "4")]
    del headers["x-a"]
    headers.delete("never-there")
    assert headers.items == []


def test_a_copy_is_a_copy():
    first = Headers({"a": "1"})
    second = first.copy()
    second["a"] = "2"
    assert (first["a"], second == Headers({"a": "2"}), first == second) == ("1", True, False)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "a\0"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(UsageError, match="is not a header name"):
        Headers().append(name, "x")


@pytest.mark.parametrize("value", ["a\r\nx-forged: 1", "a\nb", "a\0b", "\x7f"])
def test_a_value_that_could_forge_another_field_is_refused(value):
    for give in (
        lambda: Headers({"x-a": value}),
        lambda: Headers().set("x-a", value),
        lambda: Response("x", headers={"x-a": value}),
    ):
        with pytest.raises(UsageError, match="control character"):
            give()


@pytest.mark.parametrize("value", [5, None, b"x"])
def test_a_value_is_text(value):
    with pytest.raises(UsageError, match="give a string"):
        Headers().append("x-a", value)


def test_what_is_secret_is_not_shown():
    shown = repr(Headers({"Authorization": "Bearer hush", "Cookie": "hush", "x-api-key": "hush", "x-a": "1"}))
    assert "hush" not in shown
    assert "('x-a', '1')" in shown


@given(st.text(max_size=30))
def test_any_value_is_taken_as_it_is_or_refused(value):
    headers = Headers()
    try:
        headers.append("x-a", value)
    except UsageError:
        assert any(ord(character) < 32 or ord(character) == 127 for character in value)
    else:
        assert headers["x-a"] == value


# --- requests


def test_a_request_s_parts():
    request = Request(
        "GET", "/a%20b/%C3%A9", "x=1&y=a%20b&x=2&z", Headers({"host": "gw.test:9"}), scheme="https"
    )
    assert request.path == "/a b/é"
    assert request.url == "https://gw.test:9/a%20b/%C3%A9?x=1&y=a%20b&x=2&z"
    assert request.query == {"x": "2", "y": "a b", "z": ""}
    assert (request.has_body, request.user, request.params) == (False, None, {})


def test_a_body_of_bytes_can_be_read_in_every_way_again_and_again():
    async def run():
        request = Request("POST", "/", body=b'{"a": "\xc3\xa9"}')
        assert await request.json() == {"a": "é"}
        assert await request.text() == '{"a": "é"}'
        assert await request.bytes() == b'{"a": "\xc3\xa9"}'
        assert [part async for part in request.stream()] == [b'{"a": "\xc3\xa9"}']

    asyncio.run(run())


def test_text_that_is_no_utf_8_shows_where():
    assert asyncio.run(Request("POST", "/", body=b"a\xffb").text()) == "a\ufffdb"


def test_a_request_without_a_body_reads_as_empty():
    async def run():
        request = Request("GET", "/")
        assert (await request.bytes(), [part async for part in request.stream()]) == (b"", [])

    asyncio.run(run())


def test_a_copy_with_changes_leaves_the_first_as_it_is():
    first = Request("GET", "/a", headers=Headers({"x-a": "1"}), user=User("acme"))
    second = first.replace(raw_path="/b", body=b"x")
    second.headers["x-a"] = "2"
    assert (first.raw_path, first.headers["x-a"], first.has_body) == ("/a", "1", False)
    assert (second.raw_path, second.user, second.has_body, isinstance(second.body, BytesBody)) == (
        *("/b", User("acme")),
        *(True, True),
    )


@pytest.mark.parametrize(
    ("path", "encoded"), [("/a b", "/a%20b"), ("/é", "/%C3%A9"), ("/a%2F", "/a%252F"), ("/a/b", "/a/b")]
)
def test_a_decoded_path_is_encoded_again(path, encoded):
    assert encode_path(path) == encoded


# --- responses


@pytest.mark.parametrize(
    ("body", "content", "content_type"),
    [
        (None, b"", None),
        (b"bytes", b"bytes", None),
        ("text é", "text é".encode(), "text/plain; charset=utf-8"),
        ({"a": 1}, b'{"a":1}', "application/json"),
        ([1, None], b"[1,null]", "application/json"),
        (5, b"5", "application/json"),
        (False, b"false", "application/json"),
    ],
)
def test_what_a_body_may_be(body, content, content_type):
    response = Response(body)
    assert (response.body, response.headers.get("content-type")) == (content, content_type)


def test_a_content_type_that_is_given_stays():
    assert Response({"a": 1}, headers={"Content-Type": "application/hal+json"}).headers.items == [
        ("content-type", "application/hal+json")
    ]


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 999, "200", None])
def test_a_status_is_that_of_a_final_response(status):
    with pytest.raises(UsageError, match="use a number from 200 to 599"):
        Response("x", status)


def test_reading_a_streamed_response_keeps_it_and_closes_what_is_behind_it():
    closed = []

    async def close():
        closed.append(True)

    async def run():
        response = Response(StreamedBody(chunks(b"a", b"b"), None, close))
        assert (await response.bytes(), await response.bytes(), response.body) == (b"ab", b"ab", b"ab")

    asyncio.run(run())
    assert closed == [True]


def test_a_stream_that_breaks_is_closed_too():
    closed = []

    async def broken():
        yield b"a"
        raise RuntimeError("broken")

    async def close():
        closed.append(True)

    with pytest.raises(RuntimeError):
        asyncio.run(Response(StreamedBody(broken(), None, close)).bytes())
    assert closed == [True]


def test_a_snapshot_shows_and_changes_nothing():
    response = Response(chunks(b"a"), 201, {"x-a": "1"})
    seen = response.snapshot()
    seen.status = 500
    seen.headers["x-a"] = "2"
    with pytest.raises(BodyConsumed):
        asyncio.run(seen.bytes())
    assert (response.status, response.headers["x-a"], asyncio.run(response.bytes())) == (201, "1", b"a")


def test_representations_are_short_and_show_no_content():
    assert repr(Request("GET", "/a", user=User("acme"))) == "<Request GET /a user=acme>"
    assert repr(Response(b"hush")) == "<Response 200 4 bytes>"
    assert repr(Response(chunks())) == "<Response 200 streamed>"


def test_json_of_any_depth_that_json_has_is_read():
    body = json.dumps({"a": [1, {"b": [None, True, 1.5, "é"]}]}).encode()
    assert asyncio.run(Request("POST", "/", body=body).json()) == json.loads(body)
