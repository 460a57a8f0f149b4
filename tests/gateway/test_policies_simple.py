"""Policies that edit headers, run a project's code, or join others."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.handlers import BUILTIN as HANDLERS
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.model import NamedPolicy
from metergate.gateway.policies import BUILTIN, POLICY_TYPES, customcode
from metergate.gateway.policies.headers import setting
from metergate.policy.fields import Unset


def finish(outcome):
    async def wait():
        return await outcome

    return outcome if isinstance(outcome, Request | Response) else asyncio.run(wait())


# --- headers


def inbound_headers(parts, name, options, given_headers):
    policy = BUILTIN[name](options, parts.named())
    request = Request("GET", "/", headers=Headers(given_headers))
    assert policy.inbound(request, None) is request
    return request.headers.items


def test_a_header_is_replaced_unless_it_is_only_a_default(parts):
    options = {
        "headers": [
            {"name": "X-Version", "value": "2"},
            {"name": "X-Tier", "value": "free", "overwrite": False},
            {"name": "X-Region", "value": "eu", "overwrite": "false"},
        ]
    }
    before = [("x-version", "1"), ("x-version", "1b"), ("x-tier", "gold"), ("a", "b")]
    items = inbound_headers(parts, "SetHeadersInboundPolicy", options, before)
    assert items == [("x-tier", "gold"), ("a", "b"), ("x-region", "eu"), ("x-version", "2")]
    assert parts.findings == []


def test_response_headers_are_set_and_removed(parts):
    response = Response("x", headers={"server": "up", "x-powered-by": "php"})
    settings = {"headers": [{"name": "server", "value": "mine"}]}
    BUILTIN["SetHeadersOutboundPolicy"](settings, parts.named()).outbound(response, None, None)
    BUILTIN["RemoveHeadersOutboundPolicy"]({"headers": ["X-Powered-By"]}, parts.named()).outbound(
        response, None, None
    )
    assert dict(response.headers.items) == {"content-type": "text/plain; charset=utf-8", "server": "mine"}


def test_request_headers_are_removed(parts):
    items = inbound_headers(
        parts, "RemoveHeadersInboundPolicy", {"headers": ["Cookie"]}, [("cookie", "a"), ("b", "c")]
    )
    assert items == [("b", "c")]


@pytest.mark.parametrize(
    ("options", "path", "said"),
    [
        ({}, "$.headers", "missing"),
        ({"headers": []}, "$.headers", "empty list"),
        ({"headers": [{"value": "1"}]}, "$.headers[0].name", "missing"),
        ({"headers": [{"name": "a b", "value": "1"}]}, "$.headers[0].name", "not a header name"),
        ({"headers": [{"name": "a", "value": "1\n2"}]}, "$.headers[0].value", "control character"),
        ({"headers": [{"name": "a", "value": Unset("KEY")}]}, "$.headers[0].value", "KEY is not set"),
        ({"headers": [{"name": "Content-Length", "value": "1"}]}, "$.headers[0].name", "server itself"),
        ({"headers": ["x"]}, "$.headers[0]", "object"),
    ],
)
def test_what_is_wrong_with_headers_is_found_at_start(parts, options, path, said):
    assert BUILTIN["SetHeadersInboundPolicy"](options, parts.named()) is None
    assert parts.said[0].startswith(f"error {path} ")
    assert said in parts.said[0]


def test_a_value_never_stands_in_a_finding(parts):
    options = {"headers": [{"name": "authorization", "value": "Bearer s3cret\n"}]}
    assert BUILTIN["SetHeadersInboundPolicy"](options, parts.named()) is None
    assert "s3cret" not in " ".join(parts.said)


def test_all_findings_of_all_headers_are_said_at_once(parts):
    rows = [{"name": 1, "valeu": "x"}, {"name": "a b", "value": "1", "overwrite": "maybe"}]
    assert BUILTIN["SetHeadersInboundPolicy"]({"headers": rows, "header": 1}, parts.named()) is None
    assert {(one.severity, one.path) for one in parts.findings} == {
        ("error", "$.headers[0].name"),
        ("error", "$.headers[0].value"),
        ("warning", "$.headers[0].valeu"),
        ("error", "$.headers[1].name"),
        ("error", "$.headers[1].overwrite"),
        ("warning", "$.header"),
    }


NAMES = st.sampled_from(["a", "b", "c", "d"])
ITEMS = st.lists(st.tuples(NAMES, st.sampled_from("123")), max_size=6)


@given(ITEMS, st.dictionaries(NAMES, st.just("new")), st.dictionaries(NAMES, st.just("default")))
def test_setting_headers_is_what_setting_them_one_by_one_would_be(items, replaced, defaults):
    headers, expected = Headers(items), Headers(items)
    setting(list(replaced.items()), list(defaults.items()))(headers)
    for name, value in replaced.items():
        expected.set(name, value)
    for name, value in defaults.items():
        if name not in expected:
            expected.append(name, value)
    assert {name: headers.get_all(name) for name in headers} == {
        name: expected.get_all(name) for name in expected
    }


# --- custom code

REQUEST = Request("GET", "/")


def test_an_inbound_function_gets_request_context_options_and_name_and_decides(context):
    seen = []

    def go_on(*arguments):
        seen.append(arguments)
        return arguments[0]

    policy = customcode.inbound(go_on, {"limit": 1, "gone": Unset("X"), "list": [Unset("X")]}, "mine")
    assert policy.inbound(REQUEST, context) is REQUEST
    assert seen == [(REQUEST, context, {"limit": 1, "list": [None]}, "mine")]


def test_an_inbound_function_may_be_async_and_may_stop_the_request(context):
    async def stop(request, context, options, name):
        return Response(name, 403)

    outcome = finish(customcode.inbound(stop, None, "mine").inbound(REQUEST, context))
    assert (outcome.status, outcome.body) == (403, b"mine")


def test_an_outbound_function_gets_the_response_first(context):
    async def tag(response, request, context, options, name):
        response.headers.set("x-tag", options["tag"])
        return response

    plain = customcode.outbound(lambda response, *rest: Response("other"), {}, "mine")
    assert plain.outbound(Response(), REQUEST, context).body == b"other"
    tagged = finish(customcode.outbound(tag, {"tag": "t"}, "mine").outbound(Response(), REQUEST, context))
    assert tagged.headers["x-tag"] == "t"


@pytest.mark.parametrize("result", [None, "ok", {"a": 1}])
def test_a_function_that_returns_neither_is_told_what_to_return(context, result):
    with pytest.raises(TypeError, match=r"policy mine returned .*return the request to go on, or a Response"):
        finish(customcode.inbound(lambda *_: result, None, "mine").inbound(REQUEST, context))
    with pytest.raises(TypeError, match=r"policy mine returned .*return a Response"):
        finish(customcode.outbound(lambda *_: result, None, "mine").outbound(Response(), REQUEST, context))


def test_custom_code_can_be_named_in_the_options_too(parts, context):
    parts.exports["$import(./modules/x)", "default"] = lambda request, *rest: request
    options = {"module": "$import(./modules/x)", "options": {"a": 1}}
    assert BUILTIN["CustomCodeInboundPolicy"](options, parts.named()).inbound(REQUEST, context) is REQUEST
    assert BUILTIN["CustomCodeOutboundPolicy"]({}, parts.named()) is None
    assert "$.module" in parts.said[0]


# --- composites


def tagging(name, *, later=False):
    def now(request, context):
        request.headers.append("x-tags", name)
        return request

    async def async_tag(request, context):
        return now(request, context)

    return NamedPolicy(name, inbound=async_tag if later else now)


def blocking(name, *, later=False):
    async def block_later(request, context):
        return Response(name, 403)

    return NamedPolicy(name, inbound=block_later if later else lambda request, context: Response(name, 403))


def composite(parts, members, name="mine"):
    for member in members:
        parts.policies.setdefault(member.name, lambda member=member: member)
    return BUILTIN["CompositeInboundPolicy"](
        {"policies": [member.name for member in members]}, parts.named(name)
    )


@pytest.mark.parametrize("asynchronous", [(), ("a",), ("b",), ("c",), ("a", "b", "c")])
def test_a_composite_runs_its_members_in_order(parts, context, asynchronous):
    policy = composite(parts, [tagging(name, later=name in asynchronous) for name in "abc"])
    request = finish(policy.inbound(Request("GET", "/"), context))
    assert request.headers.get_all("x-tags") == ["a", "b", "c"]


@pytest.mark.parametrize("later", [(False, False), (True, False), (False, True), (True, True)])
def test_a_response_of_a_member_ends_a_composite(parts, context, later):
    request = Request("GET", "/")
    members = [tagging("a", later=later[0]), blocking("b", later=later[1]), tagging("c")]
    response = finish(composite(parts, members).inbound(request, context))
    assert (response.status, response.body) == (403, b"b")
    assert request.headers.get_all("x-tags") == ["a"]


@pytest.mark.parametrize("later", [(), ("a",), ("b",), ("a", "b")])
def test_an_outbound_composite_hands_the_response_from_member_to_member(parts, context, later):
    def member(name):
        def now(response, request, context):
            return Response(response.body + name.encode())

        async def async_now(*arguments):
            return now(*arguments)

        return NamedPolicy(name, outbound=async_now if name in later else now)

    parts.policies.update({name: lambda name=name: member(name) for name in "ab"})
    policy = BUILTIN["CompositeOutboundPolicy"]({"policies": ["a", "b"]}, parts.named())
    assert finish(policy.outbound(Response(b"-"), REQUEST, context)).body == b"-ab"


def test_a_composite_in_a_composite_is_flattened(parts):
    inner = composite(parts, [tagging("a"), tagging("b")], "inner")
    outer = composite(parts, [inner, tagging("c")], "outer")
    assert [type(member).__name__ for member in outer.inbound.members] == ["function"] * 3


def test_a_composite_that_contains_itself_is_found_with_the_way_round(parts):
    def build(name, *others):
        parts.policies[name] = lambda: BUILTIN["CompositeInboundPolicy"](
            {"policies": [*others]}, parts.named(name)
        )

    build("a", "b")
    build("b", "c")
    build("c", "a")
    assert parts.policies["a"]() is None
    errors = [one for one in parts.said if one.startswith("error")]
    assert errors == ['error $.policies A composite cannot contain itself: a → b → c → a. Leave "a" out.']


def test_a_member_of_the_other_direction_is_refused(parts):
    parts.policies["out"] = lambda: NamedPolicy("out", outbound=lambda response, request, context: response)
    assert BUILTIN["CompositeInboundPolicy"]({"policies": ["out"]}, parts.named()) is None
    assert '"out", is an outbound policy' in parts.said[0]


@pytest.mark.parametrize("value", [None, [], "a", [1], [""]])
def test_the_members_have_to_be_a_list_of_names(parts, value):
    assert BUILTIN["CompositeInboundPolicy"]({"policies": value}, parts.named()) is None
    assert parts.said[0].startswith("error $.policies")


def test_every_policy_type_names_a_builtin():
    assert set(POLICY_TYPES.values()) <= set(BUILTIN)


@pytest.mark.parametrize("name", [*BUILTIN, *HANDLERS])
def test_every_builtin_is_there_and_reports_instead_of_raising(parts, name):
    factory = BUILTIN.get(name) or HANDLERS[name]
    assert factory({}, parts.named()) is not None or any(one.severity == "error" for one in parts.findings)
