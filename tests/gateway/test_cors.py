"""`metergate.gateway.cors` and the router's preflight: pages of allowed origins read every response, others none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.cors import ANYTHING_GOES, NONE, CorsPolicy, read_cors_policies, read_cors_policy
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.model import Route
from metergate.gateway.paths import parse_pattern
from metergate.gateway.router import Router
from metergate.policy.fields import Unset

APP = "https://app.example.com"


def policy(**members: Any) -> CorsPolicy:
    read, findings = read_cors_policy({"name": "mine", "allowedOrigins": [APP], **members})
    assert findings == []
    assert read is not None
    return read


def request(method="GET", path="/a", **headers: str) -> Request:
    return Request(
        method, path, headers=Headers({key.replace("_", "-"): value for key, value in headers.items()})
    )


def decorated(cors: CorsPolicy, origin: str | None = APP, headers: Any = ()) -> dict[str, str]:
    response = Response(b"", 403, headers)
    cors.decorate(request(**({"origin": origin} if origin else {})), response)
    return dict(response.headers.items)


@pytest.mark.parametrize(
    ("allowed", "origin", "answer"),
    [
        ("https://app.example.com", "https://APP.example.com", True),
        ("https://app.example.com", "https://app.example.com.evil.com", False),
        ("https://app.example.com", "http://app.example.com", False),
        ("*", "https://any.where", True),
        ("https://*.example.com", "https://app.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://v2.api.example.com", False),
        ("https://*.example.com", "https://evil.com/.example.com", False),
        ("https://*.example.com", "https://app.exampleXcom", False),
        ("http://*.localhost:3000", "http://app.localhost:3000", True),
        ("http://*.localhost:3000", "http://localhost:3000", False),
        ("*.example.com", "https://app.example.com", True),
        ("https://a.com, https://b.com", "https://b.com", True),
        (["https://a.com", "https://b.com"], "https://b.com", True),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("null", "null", True),
    ],
)
def test_origins_are_compared_as_the_original_does(allowed, origin, answer):
    assert policy(allowedOrigins=allowed).allows(origin) is answer


def test_a_response_is_readable_by_an_allowed_page():
    cors = policy(exposeHeaders="X-A, X-B", allowCredentials=True)
    assert decorated(cors) == {
        "vary": "Origin",
        "access-control-allow-origin": APP,
        "access-control-expose-headers": "X-A, X-B",
        "access-control-allow-credentials": "true",
    }


def test_a_response_is_not_readable_by_any_other_page():
    assert decorated(policy(), "https://evil.com") == {"vary": "Origin"}
    assert decorated(policy(), None) == {"vary": "Origin"}


def test_what_the_upstream_says_of_cors_is_removed():
    said = {"access-control-allow-origin": "*", "Access-Control-Allow-Methods": "PUT", "x-kept": "1"}
    assert decorated(NONE, headers=said) == {"x-kept": "1"}
    assert decorated(policy(), headers=said)["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    ("vary", "result"),
    [("Accept", "Accept, Origin"), ("origin", "origin"), ("*", "*"), ("Accept,ORIGIN", "Accept,ORIGIN")],
)
def test_caches_are_told_that_the_origin_matters(vary, result):
    assert decorated(policy(), headers={"vary": vary})["vary"] == result


def test_anything_goes_names_the_headers_since_a_star_means_nothing_with_credentials():
    headers = decorated(ANYTHING_GOES, headers={"content-type": "a/b", "x-limit": "1", "zp-rid": "2"})
    assert headers["access-control-expose-headers"] == "x-limit, zp-rid"
    assert headers["access-control-allow-credentials"] == "true"


# --- preflight ------------------------------------------------------------------------------------------------


def router(cors: CorsPolicy | None) -> Router:
    def handler(request: Request, context: object) -> Response:
        return Response()

    def route(method: str, path: str) -> tuple[str, Any, Route]:
        return method, parse_pattern(path, "open-api"), Route(method, path, handler, cors=cors)

    return Router([route("GET", "/a"), route("POST", "/a"), route("GET", "/b/{id}")])


def preflight(cors: CorsPolicy | None, method="POST", path="/a", origin=APP, **more: str) -> Response | None:
    asked = request("OPTIONS", path, origin=origin, access_control_request_method=method, **more)
    return router(cors).preflight(asked)


def test_a_preflight_is_answered_for_an_allowed_page():
    cors = policy(
        allowedMethods=["get", "POST"], allowedHeaders="Authorization", maxAge="600", allowCredentials="true"
    )
    response = preflight(cors)
    assert response is not None
    assert response.status == 200
    assert dict(response.headers.items) == {
        "access-control-allow-origin": APP,
        "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "Authorization",
        "access-control-max-age": "600",
        "access-control-allow-credentials": "true",
    }


def test_without_methods_those_of_the_path_are_allowed_and_a_star_is_every_header_asked_for():
    response = preflight(ANYTHING_GOES, access_control_request_headers="x-a, authorization")
    assert response is not None
    assert response.headers["access-control-allow-methods"] == "GET, POST"
    assert response.headers["access-control-allow-headers"] == "x-a, authorization"


@pytest.mark.parametrize(
    "asked",
    [
        {"cors": NONE},
        {"cors": None},
        {"cors": policy(), "origin": "https://evil.com"},
        {"cors": policy(), "method": "DELETE"},
        {"cors": policy(), "path": "/nowhere"},
    ],
)
def test_any_other_preflight_is_left_to_become_a_404(asked):
    assert preflight(**asked) is None


def test_a_request_that_is_no_preflight_is_not_answered():
    routes = router(policy())
    assert routes.preflight(request("GET", origin=APP, access_control_request_method="GET")) is None
    assert routes.preflight(request("OPTIONS", origin=APP)) is None
    assert routes.preflight(request("OPTIONS", access_control_request_method="GET")) is None


# --- reading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "finding"),
    [
        ({"allowedOrigins": "example.com"}, 'error: $.allowedOrigins: "example.com" is not an origin. '),
        (
            {"allowedOrigins": "https://a*.com"},
            'error: $.allowedOrigins: "https://a*.com" is not an origin. ',
        ),
        (
            {"allowedOrigins": "https://a.com/"},
            'warning: $.allowedOrigins: "https://a.com/" ends in a slash, which no origin has. Write "https://a.com".',
        ),
        (
            {"allowedOrigins": Unset("ORIGINS")},
            "error: $.allowedOrigins: The environment variable ORIGINS is not set. Set ORIGINS.",
        ),
        ({"allowedOrigins": [1]}, "error: $.allowedOrigins: The list holds the number 1. Write strings."),
        ({"allowedOrigins": []}, "error: $.allowedOrigins: No origin is allowed. "),
        ({"allowedMethods": "GET POST"}, 'error: $.allowedMethods: "GET POST" is not a name. '),
        (
            {"maxAge": "soon"},
            'error: $.maxAge: "maxAge" has to be a number of seconds, not the string "soon". ',
        ),
        (
            {"allowCredentials": 1},
            'error: $.allowCredentials: "allowCredentials" has to be true or false, not the number 1.',
        ),
        (
            {"exposedHeaders": "x"},
            'warning: $.exposedHeaders: The key "exposedHeaders" is not known and has no effect. Did',
        ),
        (
            {"allowedOrigins": "*", "allowCredentials": True},
            "warning: $.allowedOrigins: Any web page may use your users' credentials. ",
        ),
        ({"name": " "}, "error: $.name: The CORS policy has no name, so no route can use it. "),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(written, finding):
    _, findings = read_cors_policy({"name": "mine", "allowedOrigins": [APP], **written})
    assert [str(each)[: len(finding)] for each in findings] == [finding]


def test_names_are_unique_and_the_built_in_ones_taken():
    read, findings = read_cors_policies(
        [
            {"name": "a", "allowedOrigins": "*"},
            {"name": "a", "allowedOrigins": "*"},
            {"name": "none", "allowedOrigins": "*"},
        ]
    )
    assert sorted(read) == ["a", "anything-goes", "none"]
    assert [(each.path, each.message) for each in findings] == [
        ("$[1].name", 'A CORS policy "a" is there already.'),
        ("$[2].name", 'A CORS policy "none" is built in.'),
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.just("*")
    | st.builds(Unset, st.just("X")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "allowedOrigins", "maxAge", "allowCredentials", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_value_is_read_or_explained(value):
    policies, findings = read_cors_policies(value)
    assert {"none", "anything-goes"} <= set(policies)
    assert all(finding.message and finding.path.startswith("$") for finding in findings)
