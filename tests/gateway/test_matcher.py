"""`metergate.gateway.matcher`: the first route in document order that matches, whatever makes finding it fast."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.matcher import Matcher
from metergate.gateway.paths import Params, PathMode, normal_path, parse_pattern


def router(*paths: str | tuple[str, str], mode: PathMode = "open-api") -> Matcher[str]:
    """Routes named by their path, GET unless said otherwise."""
    pairs = [("GET", path) if isinstance(path, str) else path for path in paths]
    return Matcher((method, parse_pattern(path, mode), path) for method, path in pairs)


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/users/7", {"id": "7"}),
        ("/users/a b", {"id": "a b"}),
        ("/users/a%20b", {"id": "a b"}),
        ("/users/a%2Fb", {"id": "a/b"}),
        ("/users/%E2%82%AC", {"id": "€"}),
        ("/users/%61", {"id": "a"}),
    ],
)
def test_a_parameter_is_one_segment_decoded_after_matching(path, params):
    assert router("/users/{id}").match("GET", path) == ("/users/{id}", params)


@pytest.mark.parametrize(
    "path", ["/users", "/users/", "/users/7/", "/users/7/8", "/Users/7", "/users//", "users/7"]
)
def test_a_parameter_is_neither_empty_nor_two_segments(path):
    assert router("/users/{id}").match("GET", path) is None


def test_the_raw_form_of_a_parameter_is_kept():
    _, params = router("/files/{name}").match("GET", "/files/a%2fb")
    assert isinstance(params, Params)
    assert params.raw == {"name": "a%2Fb"}


def test_the_first_in_document_order_wins():
    both = router("/users/{id}", "/users/me")
    assert both.match("GET", "/users/me") == ("/users/{id}", {"id": "me"})
    assert [(each.route, each.winner) for each in both.shadowed] == [("/users/me", "/users/{id}")]
    assert router("/users/me", "/users/{id}").match("GET", "/users/me") == ("/users/me", {})


def test_a_later_route_wins_where_the_earlier_ends_differently():
    routes = router("/{a}/x/y", "/b/{c}/z", "/b/x/{d}")
    assert routes.match("GET", "/b/x/y") == ("/{a}/x/y", {"a": "b"})
    assert routes.match("GET", "/b/x/z") == ("/b/{c}/z", {"c": "x"})
    assert routes.match("GET", "/b/x/w") == ("/b/x/{d}", {"d": "w"})


def test_the_same_path_twice_is_told():
    twice = router("/a/{x}", "/a/{y}", "/b", "/b")
    assert [each.route for each in twice.shadowed] == ["/a/{y}", "/b"]


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "get", "BREW"])
def test_a_method_without_a_route_is_no_match(method):
    assert router("/a").match(method, "/a") is None


def test_the_methods_of_a_path_are_known():
    routes = router(("GET", "/a"), ("POST", "/{x}"), ("PUT", "/b"))
    assert routes.methods("/a") == ("GET", "POST")
    assert routes.methods("/a/b") == ()


@pytest.mark.parametrize(
    "path",
    [
        "/public/../admin",
        "/public/%2e%2E/admin",
        "/public/.",
        "/public/..",
        "/public/.%2e/x",
        "/public/..\\admin",
        "/public/a\\..\\b",
    ],
)
def test_a_path_that_the_upstream_would_resolve_matches_nothing(path):
    assert router("/public/(.*)", "/:all(.*)", mode="url-pattern").match("GET", path) is None


@pytest.mark.parametrize("path", ["/.well-known/x", "/a/...", "/a/.b", "/a..b/c", "/a/..b"])
def test_dots_in_a_name_are_letters(path):
    assert router("/(.*)", mode="url-pattern").match("GET", path) is not None


def test_another_spelling_of_a_path_takes_the_same_route():
    routes = router("/admin", "/café/{x}", "/{rest}")
    assert routes.match("GET", "/%61dm%69n") == ("/admin", {})
    assert routes.match("GET", "/caf%c3%a9/1") == ("/café/{x}", {"x": "1"})
    assert routes.match("GET", "/caf%C3%A9/1") == ("/café/{x}", {"x": "1"})


URL_PATTERNS = [
    ("/cars/:maker", "/cars/ford", {"maker": "ford"}),
    ("/cars/:maker", "/cars/ford/", None),
    ("/cars/:maker{/}?", "/cars/ford/", {"maker": "ford"}),
    ("/cars/:maker{/}?", "/cars/ford", {"maker": "ford"}),
    ("/products/:product/sizes/:size", "/products/pizza/sizes/small", {"product": "pizza", "size": "small"}),
    ("/(.*)", "/any/thing", {"0": "any/thing"}),
    ("/(.*)", "/", {"0": ""}),
    ("/*", "/any/thing", {"0": "any/thing"}),
    ("/(a?b)", "/ab", {"0": "ab"}),
    ("/(a?b)", "/c", None),
    ("/main/(a|b)", "/main/b", {"0": "b"}),
    (r"/icon-(\d++).png", "/icon-1234.png", {"0": "1234"}),
    (r"/p/:id/icon-:n(\d+).png", "/p/x/icon-2.png", {"id": "x", "n": "2"}),
    (r"/p/:id/icon-:n(\d+).png", "/p/x/icon-2xpng", None),
    ("/foo/bar:path(/.*)", "/foo/bar/apple/banana", {"path": "/apple/banana"}),
    ("/files/:path*", "/files/a/b/c", {"path": "a/b/c"}),
    ("/files/:path*", "/files", {}),
    ("/files/:path+", "/files", None),
    ("/files/:path+", "/files/a", {"path": "a"}),
    ("/v/:name?", "/v", {}),
    ("/v/:name?", "/v/x", {"name": "x"}),
    ("/a{/b}?/c", "/a/c", {}),
    ("/a{/b}?/c", "/a/b/c", {}),
    ("/a{/b}*", "/a/b/b", {}),
    ("/{v:major(\\d)}?x", "/v1x", {"major": "1"}),
    ("/{v:major(\\d)}?x", "/x", {}),
    ("/{:a-}+end", "/1-2-end", {"a": "1-2"}),
    (r"/lit\:eral", "/lit:eral", {}),
    ("/:a.:b", "/x.y.z", {"a": "x", "b": "y.z"}),
    ("/(.*)/x/(.*)", "/1/2/x/3", {"0": "1/2", "1": "3"}),
]


@pytest.mark.parametrize(("pattern", "path", "params"), URL_PATTERNS)
def test_url_patterns_match_as_the_web_standard_says(pattern, path, params):
    found = router(pattern, mode="url-pattern").match("GET", path)
    assert found == (None if params is None else (pattern, params))


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/users/get({id})", "/users/get(5)", {"id": "5"}),
        ("/a.b/{x}.json", "/a.b/1.json", {"x": "1"}),
        ("/a.b/{x}.json", "/aXb/1.json", None),
        ("/{a}-{b}", "/1-2-3", {"a": "1", "b": "2-3"}),
        ("/x/:y", "/x/:y", {}),
        ("/x/(.*)", "/x/1", None),
        ("/{user-id}", "/7", {"user-id": "7"}),
        ("/", "/", {}),
        ("/a//b", "/a//b", {}),
    ],
)
def test_in_open_api_paths_only_braces_have_a_meaning(pattern, path, params):
    found = router(pattern).match("GET", path)
    assert found == (None if params is None else (pattern, params))


# --- against a slow matcher -----------------------------------------------------------------------------------

SEGMENTS = st.sampled_from(["a", "b", "{x}", "{y}", "p{z}", "{w}.j", ""])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda each: "/" + "/".join(each))
WILD = st.sampled_from(["/(.*)", "/a/:r(.*)", "/:x?", "/a{/b}?", r"/:n(\d+)", "/a/*", "/:p+", "/b/:q*/a"])
REQUESTS = st.lists(st.sampled_from(["a", "b", "pq", "1.j", "12", "", "%2F", "%61"]), max_size=4).map(
    lambda each: "/" + "/".join(each)
)


def parse(path: str, mode: PathMode):
    names = re.findall(r"\{(\w)\}", path)
    return parse_pattern(path, mode) if len(names) == len(set(names)) else parse_pattern("/a", mode)


def reference(routes, method: str, path: str):
    """One regex after the other, in order."""
    for each_method, pattern, route in routes:
        found = re.fullmatch(pattern.regex, normal_path(path))
        if each_method == method and found:
            values = zip(pattern.names, found.groups(), strict=True)
            return route, {name: unquote(value) for name, value in values if value is not None}
    return None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST"]),
            st.tuples(PATHS, st.just("open-api")) | st.tuples(WILD, st.just("url-pattern")),
        ),
        max_size=12,
    ),
    st.lists(REQUESTS, min_size=1, max_size=8),
)
def test_the_fast_matcher_finds_what_a_slow_one_finds(specifications, requests):
    routes = [
        (method, parse(path, mode), index) for index, (method, (path, mode)) in enumerate(specifications)
    ]
    fast = Matcher(routes)
    for path in requests:
        assert fast.match("GET", path) == reference(routes, "GET", path)
    for shadowed in fast.shadowed:
        assert shadowed.winner < shadowed.route
        assert all(
            found is None or found[0] != shadowed.route for found in (fast.match("GET", p) for p in requests)
        )


@given(st.text(), st.text())
def test_no_path_of_a_client_breaks_matching(method, path):
    routes = router("/a/{b}", "/{c}.{d}", "/")
    assert routes.match(method, path) is None or method == "GET"
