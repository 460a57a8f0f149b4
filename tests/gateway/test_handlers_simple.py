"""Handlers that answer by themselves: functions, redirects, OpenAPI documents; and those that only find a URL."""

import asyncio
import json

import pytest

from metergate.gateway.handlers import BUILTIN, function
from metergate.gateway.http import Request, Response

REQUEST = Request("GET", "/v1/a%20b", "x=1&y=2")


def answer(handler, request=REQUEST, context=None):
    result = handler(request, context)
    if isinstance(result, Response):
        return result

    async def wait():
        return await result

    return asyncio.run(wait())


# --- functions


def plain(value):
    return lambda request, context: value


def later(value):
    async def handler(request, context):
        return value

    return handler


class Callable:
    async def __call__(self, request, context):
        return {"path": request.path}


@pytest.mark.parametrize("form", [plain, later], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("value", "body"),
    [({"a": [1, None]}, b'{"a":[1,null]}'), ("text", b'"text"'), (None, b"null"), ([], b"[]"), (0.5, b"0.5")],
)
def test_what_a_function_returns_becomes_json(form, value, body):
    response = answer(function.wrap(form(value)))
    assert (response.status, response.body) == (200, body)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("form", [plain, later], ids=["sync", "async"])
def test_a_response_is_sent_as_it_is(form):
    response = Response("teapot", 418)
    assert answer(function.wrap(form(response))) is response


def test_a_callable_object_that_is_async_is_awaited():
    assert answer(function.wrap(Callable())).body == b'{"path":"/v1/a b"}'


def test_bytes_and_chunks_are_a_body_and_not_json():
    async def chunks():
        yield b"a"
        yield b"b"

    assert answer(function.wrap(plain(b"\0\1"))).body == b"\0\1"
    streamed = answer(function.wrap(plain(chunks())))
    assert asyncio.run(streamed.bytes()) == b"ab"


def test_what_json_cannot_hold_raises_for_the_pipeline_to_answer():
    with pytest.raises(TypeError):
        answer(function.wrap(plain(object())))


# --- redirects


def test_a_redirect_has_location_and_status(parts):
    handler = BUILTIN["redirectHandler"]({"location": "https://example.com/new"}, parts.named())
    response = answer(handler)
    assert (response.status, response.headers["location"], response.body) == (
        302,
        "https://example.com/new",
        b"",
    )
    moved = BUILTIN["redirectHandler"]({"location": "/new", "status": "308"}, parts.named())
    assert answer(moved).status == 308
    assert parts.findings == []


def test_one_answer_changed_by_a_policy_does_not_change_the_next(parts):
    handler = BUILTIN["redirectHandler"]({"location": "/new"}, parts.named())
    answer(handler).headers.set("location", "/other")
    assert answer(handler).headers["location"] == "/new"


def test_everything_wrong_with_a_redirect_is_said_at_once(parts):
    assert (
        BUILTIN["redirectHandler"]({"location": "/a\r\nx: y", "status": 200, "locations": 1}, parts.named())
        is None
    )
    assert [one.split(" ", 2)[:2] for one in parts.said] == [
        ["error", "$.status"],
        ["error", "$.location"],
        ["warning", "$.locations"],
    ]
    assert 'Did you mean "location"?' in parts.said[2]


# --- OpenAPI documents


def test_the_document_is_served_without_what_is_the_gateways_own(parts):
    config = parts.directory / "config"
    config.mkdir()
    (config / "routes.oas.json").write_text(
        """{"openapi": "3.1.0", // comments are allowed
        "x-zuplo-stuff": 1, "x-mine": 2,
        "paths": {"/a": {"x-zuplo-path": {}, "get": {"x-zuplo-route": {"handler": {}}, "tags": ["t",]}}}}"""
    )
    handler = BUILTIN["openApiSpecHandler"]({"openApiFilePath": "./config/routes.oas.json"}, parts.named())
    response = answer(handler)
    assert json.loads(response.body) == {
        "openapi": "3.1.0",
        "x-mine": 2,
        "paths": {"/a": {"get": {"tags": ["t"]}}},
    }
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret.json", "outside"),
        ("config/none.json", "cannot be read"),
        ("broken.json", "not JSON"),
        (5, "string"),
    ],
)
def test_a_document_that_cannot_be_served_is_found_at_start(parts, name, said):
    (parts.directory / "broken.json").write_text("{")
    (parts.directory.parent / "secret.json").write_text("{}")
    assert BUILTIN["openApiSpecHandler"]({"openApiFilePath": name}, parts.named()) is None
    assert len(parts.said) == 1
    assert said in parts.said[0]
    assert parts.said[0].startswith("error $.openApiFilePath")


# --- URLs


class Recorder:
    """Stands where the upstream does and says which URL it was asked for."""

    def __init__(self, site):
        site.upstream.forward = self.forward
        self.urls = []
        self.followed = []

    async def forward(self, request, context, url, *, follow_redirects=False):
        self.urls.append(url)
        self.followed.append(follow_redirects)
        return Response("ok")


def url_of(parts, name, options, request=REQUEST, context=None):
    site = parts.named()
    recorder = Recorder(site)
    handler = BUILTIN[name](options, site)
    assert [one for one in parts.said if one.startswith("error")] == []
    response = answer(handler, request, context)
    return recorder.urls[0] if recorder.urls else response


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"baseUrl": "https://api.example.com"}, "https://api.example.com/v1/a%20b?x=1&y=2"),
        ({"baseUrl": "https://api.example.com/folder/"}, "https://api.example.com/folder/v1/a%20b?x=1&y=2"),
        ({"baseUrl": "https://api.example.com", "forwardSearch": False}, "https://api.example.com/v1/a%20b"),
        ({"baseUrl": "${env.BASE}"}, "http://127.0.0.1:8000/x/v1/a%20b?x=1&y=2"),
        ({"baseUrl": "https://api.example.com/${method}/"}, "https://api.example.com/GET/v1/a%20b?x=1&y=2"),
    ],
)
def test_forwarding_appends_path_and_query_to_the_base(parts, options, url):
    parts.environment["BASE"] = "http://127.0.0.1:8000/x/"
    assert url_of(parts, "urlForwardHandler", options) == url


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"rewritePattern": "https://e.com/${params.id}"}, "https://e.com/7?x=1&y=2"),
        ({"rewritePattern": "https://e.com/?q=${query.x}"}, "https://e.com/?q=1&x=1&y=2"),
        ({"rewritePattern": "https://e.com/r", "forwardSearch": "false"}, "https://e.com/r"),
        ({"rewritePattern": "https://e.com${pathname}${search}"}, "https://e.com/v1/a%20b?x=1&y=2"),
    ],
)
def test_rewriting_fills_the_pattern_and_adds_the_query_once(parts, options, url):
    request = Request("GET", "/v1/a%20b", "x=1&y=2", params={"id": "7"})
    assert url_of(parts, "urlRewriteHandler", options, request) == url


def test_redirects_are_followed_only_where_asked_for(parts):
    site = parts.named()
    recorder = Recorder(site)
    for options in ({}, {"followRedirects": True}):
        answer(BUILTIN["urlForwardHandler"]({"baseUrl": "https://e.com", **options}, site))
    assert recorder.followed == [False, True]


def test_a_value_that_would_choose_the_host_is_refused_and_nobody_is_asked(parts, context):
    pattern = {"rewritePattern": "https://${params.id}.example.com/"}
    request = Request("GET", "/", params={"id": "evil.com/"})
    response = url_of(parts, "urlRewriteHandler", pattern, request, context)
    assert response.status == 400
    assert "choose the upstream host" in json.loads(response.body)["detail"]


@pytest.mark.parametrize(
    ("name", "options", "path", "said"),
    [
        ("urlForwardHandler", {}, "$.baseUrl", "missing"),
        ("urlForwardHandler", {"baseUrl": "api.example.com"}, "$.baseUrl", "not the URL"),
        ("urlForwardHandler", {"baseUrl": "https://e.com/?a=1"}, "$.baseUrl", "no query"),
        ("urlForwardHandler", {"baseUrl": "$env(BASE)"}, "$.baseUrl", "${env.BASE}"),
        (
            "urlForwardHandler",
            {"baseUrl": "https://e.com", "forwardSearch": 1},
            "$.forwardSearch",
            "true or false",
        ),
        ("urlRewriteHandler", {"rewritePattern": "https://${nope}/"}, "$.rewritePattern", "nope"),
        ("urlRewriteHandler", [], "$", "object"),
    ],
)
def test_what_is_wrong_with_a_url_handler_is_found_at_start(parts, name, options, path, said):
    assert BUILTIN[name](options, parts.named()) is None
    assert parts.said[0].startswith(f"error {path} ")
    assert said in parts.said[0]


def test_a_forwarded_request_reaches_the_api_and_its_answer_comes_back(parts, context):
    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.splitlines()[0]
        writer.write(b"HTTP/1.1 200 OK\r\nx-from: api\r\ncontent-length: %d\r\n\r\n%s" % (len(line), line))
        await writer.drain()
        writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        site = parts.named()
        handler = BUILTIN["urlForwardHandler"]({"baseUrl": f"http://127.0.0.1:{port}/base"}, site)
        response = await handler(REQUEST, context)
        body = await response.bytes()
        await site.upstream.stop()
        server.close()
        await server.wait_closed()
        return response, body

    response, body = asyncio.run(run())
    assert (response.status, response.headers["x-from"]) == (200, "api")
    assert body == b"GET /base/v1/a%20b?x=1&y=2 HTTP/1.1"
