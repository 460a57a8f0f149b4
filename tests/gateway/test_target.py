"""The one form of a path and a query that is matched and sent on."""

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.target import resolve_path, resolve_query

RAW = st.text(st.characters(max_codepoint=255), max_size=40).map(lambda text: "/" + text)
TRICKY = st.lists(
    st.sampled_from(["/", ".", "..", "%2e", "%2E", "%2f", "\\", "%5c", "a", "é", "%", "%zz", " ", ";", "//"])
).map(lambda parts: "/" + "".join(parts))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b/", "/a//b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/%2e%2E/a", "/a"),
        ("/a/%2e", "/a/"),
        ("/a/.b/..c/...", "/a/.b/..c/..."),
        ("/a%2F..%2Fb", "/a%2F..%2Fb"),
        ("/a\\..\\b", "/a%5C..%5Cb"),
        ("/a b", "/a%20b"),
        ("/%", "/%25"),
        ("/%4", "/%254"),
        ("/%zz", "/%25zz"),
        ("/%41", "/%41"),
        ("/\xc3\xa9", "/%C3%A9"),
        ("/\xe9", "/%E9"),
        ("/a?b#c", "/a%3Fb%23c"),
        ("/[x]", "/[x]"),
        ("/[x]|", "/[x]%7C"),
    ],
)
def test_a_path_has_one_form(raw, path):
    assert resolve_path(raw) == path


@pytest.mark.parametrize("raw", ["", "*", "a/b", "http://a/b", "example.com:443", "\\a"])
def test_what_does_not_begin_with_a_slash_is_no_path(raw):
    assert resolve_path(raw) is None


@given(RAW | TRICKY)
def test_the_form_is_stable_ascii_and_has_no_dot_segment(raw):
    path = resolve_path(raw)
    assert path is not None
    assert resolve_path(path) == path
    assert path.isascii()
    assert path.isprintable()
    assert path.startswith("/")
    segments = path.lower().replace("%2e", ".").split("/")
    assert not {".", ".."} & set(segments)
    assert not set(path) & set(' "<>\\^`{|}#?')


@given(st.text(st.characters(max_codepoint=255, exclude_characters="./%\\"), max_size=30))
def test_the_form_stands_for_the_same_bytes(segment):
    path = resolve_path("/" + segment)
    assert path is not None
    assert unquote_to_bytes(path) == b"/" + segment.encode("latin-1")


@pytest.mark.parametrize(
    ("raw", "query"),
    [
        (b"", ""),
        (b"a=1&a=2&b", "a=1&a=2&b"),
        (b"a=%20+%zz'[]{}|", "a=%20+%zz'[]{}|"),
        ("q=é".encode(), "q=%C3%A9"),
        (b"q=\xe9%20", "q=%E9%20"),
    ],
)
def test_a_query_is_passed_as_it_is_but_for_bytes_that_no_url_may_hold(raw, query):
    assert resolve_query(raw) == query


@given(st.binary(max_size=40).filter(lambda raw: all(byte > 32 and byte != 127 for byte in raw)))
def test_a_query_stands_for_the_same_bytes(raw):
    query = resolve_query(raw)
    assert query.isascii()
    assert unquote_to_bytes(query) == unquote_to_bytes(raw)
