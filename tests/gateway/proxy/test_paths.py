"""However a path is spelt: what is matched is what is sent on, so no spelling reaches another route's upstream."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HOST = b" HTTP/1.1\r\nHost: gateway.test\r\n\r\n"

TRAVERSALS = [
    "/public/../admin/x",
    "/public/%2e%2e/admin/x",
    "/public/%2E%2e/admin/x",
    "/public/.%2e/admin/x",
    "/public/%2e./admin/x",
    "/public/./../admin/x",
    "/public/a/../../admin/x",
    "/public/a/b/%2e%2e/%2e%2e/../admin/x",
    "/../admin/x",
    "/%2e%2e/admin/x",
    "/./admin/x",
]
HARMLESS = [
    "/public/..;/../admin/x",
    "/public/..%2fadmin/x",
    "/public/%2e%2e%2fadmin/x",
    "/public/..%5cadmin/x",
    "/public/..;/admin/x",
    "/public/...%2fadmin",
    "/public/.../admin/x",
    "/public//admin/x",
    "/public/%252e%252e/admin/x",
    "/public/%c0%ae%c0%ae/admin/x",
    "/public/%00/admin",
    "/public/..%00/admin/x",
]


def asked(proxy, target):
    return json.loads(proxy.send(b"GET " + target.encode("latin-1") + HOST).body)


@pytest.mark.parametrize("target", TRAVERSALS)
def test_dots_are_resolved_before_a_route_is_looked_for(proxy, target):
    found = asked(proxy, target)
    assert (found["route"], found["path"]) == ("GET /admin/(.*)", "/admin/x")


@pytest.mark.parametrize("target", HARMLESS)
def test_what_is_no_dot_segment_stays_in_its_route(proxy, target):
    assert asked(proxy, target)["route"] == "GET /public/(.*)"


@pytest.mark.parametrize("target", [*TRAVERSALS, *HARMLESS, "/a/%2e%2e", "/%2e", "/a/b/.."])
def test_the_upstream_gets_no_dots_to_resolve(proxy, target):
    """A prefix route: whatever is below it arrives below it."""
    response = proxy.send(b"GET /raw" + target.encode() + HOST)
    if response.status == 200:
        sent = proxy.api.targets[-1]
        assert sent.startswith("/raw/")
        assert not {".", ".."} & set(sent.lower().replace("%2e", ".").split("/"))
    else:
        assert response.status == 404


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/raw/a%2Fb", "/raw/a%2Fb"),
        ("/raw/a%2fb", "/raw/a%2fb"),
        ("/raw//a///b/", "/raw//a///b/"),
        ("/raw/%C3%A9", "/raw/%C3%A9"),
        ("/raw/é", "/raw/%C3%A9"),
        ("/raw/日本", "/raw/%E6%97%A5%E6%9C%AC"),
        ("/raw/%E9", "/raw/%E9"),
        ("/raw/%", "/raw/%25"),
        ("/raw/%zz%4", "/raw/%25zz%254"),
        ("/raw/%00", "/raw/%00"),
        ("/raw/a;b=c,d", "/raw/a;b=c,d"),
        ("/raw/:@!$&'()*+,;=-._~", "/raw/:@!$&'()*+,;=-._~"),
        ("/raw/[x]", "/raw/[x]"),
        ("/raw/[x]|^{}", "/raw/[x]%7C%5E%7B%7D"),
        ("/raw/a\\..\\b", "/raw/a%5C..%5Cb"),
        ("/raw/?", "/raw/"),
        ("/raw/x?a=b?c=/../d", "/raw/x?a=b?c=/../d"),
        ("/raw/x?q=é&r=%20+%2B", "/raw/x?q=%C3%A9&r=%20+%2B"),
        ("/raw/x?a=1&a=2&b", "/raw/x?a=1&a=2&b"),
        ("/raw/x?a[]=1|2", "/raw/x?a[]=1|2"),
        ("/raw/a#fragment", "/raw/a"),
    ],
)
def test_the_upstream_is_asked_for_just_what_the_client_asked_for(proxy, target, sent):
    assert proxy.send(b"GET " + target.encode() + HOST).status == 200
    assert proxy.api.targets[-1] == sent


@pytest.mark.parametrize(
    "target", ["/raw/<x>", "/raw/`x`", "/raw/\x7f", "/raw/\0", "/raw/a\tb", "/raw/x?<", '/raw/x?"']
)
def test_what_no_target_may_hold_is_refused(proxy, target):
    assert proxy.send(b"GET " + target.encode() + HOST).status == 400


def test_bytes_that_are_no_utf_8_are_refused(proxy):
    assert proxy.send(b"GET /raw/\xe9" + HOST).status == 400


def test_an_encoded_slash_is_data_of_its_segment(proxy):
    found = asked(proxy, "/files/a%2Fb")
    assert (found["route"], found["path"]) == ("GET /files/:name", "/files/a%2Fb")
    assert proxy.send(b"GET /files/a/b" + HOST).status == 404


SEGMENT = st.text(st.sampled_from("a.%2eE5cCfF/;:~-_\\?&=é\x00 +'\"<>"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=st.lists(SEGMENT, min_size=1, max_size=4))
def test_whatever_the_spelling_nothing_leaves_its_route_s_prefix(proxy, segments):
    target = ("/raw/" + "/".join(segments)).encode()
    before = len(proxy.api.targets)
    response = proxy.send(b"GET " + target + HOST)
    assert response.status in (200, 400, 404)
    for sent in proxy.api.targets[before:]:
        assert sent.startswith("/raw/")
        assert not {".", ".."} & set(sent.partition("?")[0].lower().replace("%2e", ".").split("/"))
