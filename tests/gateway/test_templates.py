"""`metergate.gateway.templates`: a URL out of a request's parts, with nothing run as code and nobody led astray."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.http import Headers, Request, User
from metergate.gateway.matcher import Matcher as Router
from metergate.gateway.paths import Params, parse_pattern
from metergate.gateway.templates import Template, UnsafeValueError, encode_uri_component, parse

ENV = {"BASE_URL": "https://up.example.com/base", "KEY": "a b", "EMPTY": ""}


def request(path="/v1/items/7", query="", params=None, headers=None, user=None, scheme="https") -> Request:
    fields = Headers({"host": "api.example.com:8080", **(headers or {})})
    return Request("GET", path, query, fields, params=params or {}, user=user, scheme=scheme)


def template(source: str) -> Template:
    parsed, findings = parse(source, ENV)
    assert findings == []
    assert parsed is not None
    return parsed


def findings_of(source: str) -> list[str]:
    parsed, findings = parse(source, ENV, "$.x")
    assert parsed is None
    return [str(finding).removeprefix("error: $.x: ") for finding in findings]


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("https://up.example.com", "https://up.example.com"),
        ("${env.BASE_URL}${pathname}${search}", "https://up.example.com/base/v1/items/7?a=1&b=c%20d"),
        ("https://x/${method}/${params.id}", "https://x/GET/7"),
        ("https://${host}/", "https://api.example.com:8080/"),
        ("https://${hostname}:9/", "https://api.example.com:9/"),
        ("https://x:${port}/", "https://x:8080/"),
        ("${origin}/y", "https://api.example.com:8080/y"),
        ("${protocol}//x/", "https://x/"),
        ("${url}", "https://api.example.com:8080/v1/items/7?a=1&b=c%20d"),
        (
            "https://x/?next=${url}",
            "https://x/?next=https%3A%2F%2Fapi.example.com%3A8080%2Fv1%2Fitems%2F7%3Fa%3D1%26b%3Dc%2520d",
        ),
        ("https://x/${query.b}?q=${query.b}", "https://x/c%20d?q=c%20d"),
        ('https://x/${headers.get("x-tenant")}', "https://x/acme"),
        ("https://${headers.get('X-Tenant')}.example.com/", "https://acme.example.com/"),
        ("https://x/${request.user.sub}/${request.user.data.plan}", "https://x/u1/pro"),
        ('https://x/${request.params.id}${request.headers.get("x-tenant")}', "https://x/7acme"),
        ("https://x/${e(query.b)}${encodeURIComponent( params.id )}", "https://x/c%20d7"),
        ("https://x/${params['id']}/${params[\"id\"]}", "https://x/7/7"),
        ("https://x/${query.none}-${params.none}-${request.user.data.none.deeper}", "https://x/--"),
        ("${env.EMPTY}https://x/é", "https://x/%C3%A9"),
        (" ${ env.BASE_URL } ", "https://up.example.com/base"),
    ],
)
def test_every_name_of_the_grammar_is_put_in(source, url):
    given_request = request(
        query="a=1&b=c%20d",
        params={"id": "7"},
        headers={"x-tenant": "acme"},
        user=User("u1", {"plan": "pro"}),
    )
    assert template(source).render(given_request) == url


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("$env(BASE_URL)/x", "$env(BASE_URL) has another form in a template. Write ${env.BASE_URL}."),
        ("${$env(BASE_URL)}", "$env(BASE_URL) has another form in a template. Write ${env.BASE_URL}."),
        ("${env.BASE_ULR}", 'The environment variable BASE_ULR is not set. Did you mean "BASE_URL"?'),
        ("${env.KEY}", "The environment variable KEY holds white space or a control character."),
        ("${param.id}", 'param.id is not known in a template. Did you mean "params"?'),
        ("${request.boddy}", "request.boddy is not known in a template. "),
        ("${host.name}", "host has no member name. Write ${host}."),
        (
            "${headers.authorization}",
            'headers.authorization is not how a header is read. Write headers.get("authorization").',
        ),
        ("${params.a.b}", "params is read by one name. Write ${params.name}."),
        (
            "${encodeUriComponent(params.a)}",
            'encodeUriComponent is not a function of a template. Did you mean "encodeURIComponent"?',
        ),
        ("${params.a + 1}", "${params.a + 1} is not an expression of a template. "),
        ("${}", "${} is not an expression of a template. "),
        ("https://x/${params.a", "${params.a is not closed. Write }."),
        ("https://x/ y", "A template holds white space or a control character. Encode it: %20 is a space."),
        (
            "https://x/\r\nHost: y",
            "A template holds white space or a control character. Encode it: %20 is a space.",
        ),
        ("${process.exit()}", "${process.exit()} is not an expression of a template."),
        ("${request.user.name}", "request.user has sub and data. Write ${request.user.sub}"),
        ("${context.requestId}", "context.requestId is not known in a template. "),
        ("  ", 'A template has to be a non-empty string. Write "https://example.com/…".'),
    ],
)
def test_what_is_not_in_the_grammar_is_explained(source, message):
    (found,) = findings_of(source)
    assert found.startswith(message)


def test_all_that_is_wrong_is_said_at_once():
    assert len(findings_of("$env(A)${env.NONE}${nope}")) == 3


def test_a_template_without_requests_in_it_is_a_constant():
    assert template("${env.BASE_URL}/x").constant == "https://up.example.com/base/x"


# --- nobody is led astray -------------------------------------------------------------------------------------


def routed(pattern: str, path: str, mode="open-api") -> Request:
    _, params = Router([("GET", parse_pattern(pattern, mode), 0)]).match("GET", path)
    return request(path, params=params)


def test_an_encoded_slash_stays_encoded_and_a_captured_slash_a_slash():
    target = template("https://x/y/${params.rest}")
    assert target.render(routed("/a/{rest}", "/a/b%2Fc")) == "https://x/y/b%2Fc"
    assert target.render(routed("/a/:rest(.*)", "/a/b/c%20d", "url-pattern")) == "https://x/y/b/c%20d"
    assert (
        template("https://x${params.rest}").render(routed("/a:rest(/.*)", "/a/b", "url-pattern"))
        == "https://x/b"
    )


def test_a_parameter_in_the_query_cannot_add_another():
    target = template("https://x/?id=${params.id}&admin=no")
    assert target.render(routed("/a/{id}", "/a/1&admin=yes")) == "https://x/?id=1%26admin%3Dyes&admin=no"


def test_a_parameter_that_a_policy_set_is_encoded():
    target = template("https://x/${params.id}")
    assert target.render(request(params={"id": "a b?c#d%41"})) == "https://x/a%20b%3Fc%23d%2541"


@pytest.mark.parametrize(
    "value", ["evil.com", "evil.com/", "a@evil.com", "a:80", "a?b", "a#b", "a\\b", "a b"]
)
@pytest.mark.parametrize(
    "source", ["https://${query.v}.example.com/", "https://example.com${query.v}", "https://a${params.v}/"]
)
def test_a_value_cannot_choose_the_host(source, value):
    with pytest.raises(UnsafeValueError):
        template(source).render(
            request(query=f"v={encode_uri_component(value)}", params=Params({"v": value}))
        )


@pytest.mark.parametrize("value", ["..", "../admin", ".", "a/../../b", "%2e%2e/x"])
def test_a_value_cannot_climb_out_of_the_path(value):
    for source in ("https://x/y/${query.v}", "https://x/y/${e(query.v)}", "https://x/y/${headers.get('v')}"):
        with_value = request(query=f"v={encode_uri_component(value)}", headers={"v": value})
        try:
            url = template(source).render(with_value)
        except UnsafeValueError:
            continue
        assert "/../" not in url + "/"
        assert "/./" not in url + "/"
        assert "%2e%2e/" not in url.lower() + "/"


@given(st.text(max_size=20) | st.sampled_from(["\ud800", "../x", "@evil"]))
def test_whatever_a_client_sends_the_url_keeps_its_host_and_is_printable(value):
    with_value = request(
        query=f"v={quote(value, errors='replace')}", params={"v": value}, user=User(value, {"v": value})
    )
    for source in (
        "https://up.example.com/a/${query.v}/${params.v}?x=${params.v}&y=${request.user.sub}",
        "https://up.example.com/${e(query.v)}/${request.user.data.v}",
        "https://${query.v}.example.com/",
    ):
        try:
            url = template(source).render(with_value)
        except UnsafeValueError:
            continue
        assert url.isascii()
        assert not any(character <= " " or character == "\x7f" for character in url)
        host = url.removeprefix("https://").partition("/")[0]
        assert host.endswith("example.com")
        assert "\\" not in url
        assert "#" not in url


@given(st.text(alphabet="${}()env.paramsqueryhdi \"'/:?[]\n", max_size=30))
def test_any_text_is_a_template_or_is_explained(source):
    parsed, findings = parse(source, ENV)
    assert (parsed is None) == bool(findings)
    if parsed is not None:
        try:
            assert parsed.render(request()).isascii()
        except UnsafeValueError:
            assert parsed.constant is None


@given(st.text())
def test_components_are_encoded_as_javascript_does(text):
    encoded = encode_uri_component(text)
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()%")
