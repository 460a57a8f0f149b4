"""Expressions in a meter's data: what they read, what is said of wrong ones, and what a plain string stays."""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import Finding
from metergate.policy import Secret
from metergate.policy.expressions import Expression, Facts, Needs, Template, read_data, read_expression

KEY = Secret("a key to hash with")


@dataclass
class User:
    sub: Any = "acme"
    data: Any = field(default_factory=lambda: {"plan": "pro", "org": {"id": 7, "a.b": True}, "tags": ["x"]})


FACTS = Facts(
    method="POST",
    path="/v1/orders/17",
    query={"page": "2", "q.x": "y"},
    request_headers={"x-plan": "gold", "authorization": "Bearer s3cret"},
    request_bytes=0,
    status=201,
    response_headers={"x-cost": "3"},
    response_bytes=512,
    body={
        ("model",): "m1",
        ("usage", "total_tokens"): 0,
        ("odd.key", "in it"): 1.5,
        ("list",): [1],
        ("all",): {"a": 1},
    },
    route="/v1/orders/{id}",
    user=User(),
    duration_ms=12.34567,
)


def read(text: str, facts: Facts = FACTS) -> Any:
    expression, findings = read_expression(text, KEY)
    assert not findings
    assert isinstance(expression, Expression)
    return expression.read(facts)


def hashed(text: str) -> str:
    return hmac.new(b"a key to hash with", text.encode(), hashlib.sha256).hexdigest()[:32]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$request.method", "POST"),
        ("$request.path", "/v1/orders/17"),
        ("$request.query.page", "2"),
        ("$request.query.'q.x'", "y"),
        ("$request.headers.x-plan", "gold"),
        ("$request.headers.X-Plan", "gold"),
        ("$request.bytes", 0),
        ("$response.status", 201),
        ("$response.headers.X-Cost", "3"),
        ("$response.bytes", 512),
        ("$response.body.model", "m1"),
        ("$response.body.usage.total_tokens", 0),
        ("$response.body.'odd.key'.\"in it\"", 1.5),
        ("$route.path", "/v1/orders/{id}"),
        ("$user.sub", "acme"),
        ("$user.data.plan", "pro"),
        ("$user.data.org.id", 7),
        ("$user.data.org.'a.b'", True),
        ("$durationMs", 12.346),
        ("$hash:user.sub", hashed("acme")),
        ("$hash:user.data.org.id", hashed("7")),
        ("$hash:user.data.org.'a.b'", hashed("true")),
        ("$hash:request.headers.Authorization", hashed("Bearer s3cret")),
        ("$hash:durationMs", hashed("12.34567")),
    ],
)
def test_an_expression_reads_its_value(text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "$request.query.absent",
        "$request.headers.absent",
        "$response.headers.x-plan",
        "$response.body.absent",
        "$response.body.list",
        "$response.body.all",
        "$user.data.absent",
        "$user.data.org",
        "$user.data.tags",
        "$user.data.plan.more",
        "$hash:response.body.all",
        "$hash:user.data.absent",
    ],
)
def test_what_is_not_there_or_is_no_single_value_is_missing(text):
    assert read(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "$request.method",
        "$request.bytes",
        "$response.status",
        "$route.path",
        "$user.sub",
        "$user.data.a",
        "$durationMs",
    ],
)
def test_of_nothing_everything_is_missing(text):
    assert read(text, Facts()) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, "x" * 1025, None, {}, [], b"bytes"])
def test_what_an_event_cannot_or_should_not_hold_is_missing(value):
    assert read("$user.data.value", Facts(user=User(data={"value": value}))) is None


def test_a_long_text_may_be_hashed():
    assert read("$hash:user.sub", Facts(user=User("x" * 5000))) == hashed("x" * 5000)
    assert read("$user.sub", Facts(user=User("x" * 1024))) == "x" * 1024


def test_a_hash_depends_on_its_key_and_hides_the_value():
    one, _ = read_expression("$hash:user.sub", Secret("one"))
    two, _ = read_expression("$hash:user.sub", Secret("two"))
    assert isinstance(one, Expression)
    assert isinstance(two, Expression)
    assert one.read(FACTS) != two.read(FACTS)
    assert one.read(FACTS) == one.read(Facts(user=User()))
    assert read("$hash:user.sub", Facts(user=User("\ud800"))) == read(
        "$hash:user.sub", Facts(user=User("\ud800"))
    )


KEYS = " Write keys after dots; put one with odd characters in quotes: .'a b'."
WHOLE = " names all of it; a meter takes one value. Write {}, with the name of what you want."
SECRET = " would send a credential to OpenMeter in the clear. Write {}, or leave it out."
NO_PARTS = " goes on behind a value that has no parts. Write {}."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$request.metod", ': "request" has no "metod". Did you mean "method"?'),
        ("$response.code", ': "response" has no "code". Known are status, bytes, headers, body.'),
        ("$user.plan.tier", ': "user" has no "plan". Write "$user.data.plan.tier".'),
        ("$request.headers", WHOLE.format('"$request.headers.content-type"')),
        ("$request.query", WHOLE.format('"$request.query.page"')),
        ("$response.body", WHOLE.format('"$response.body.usage.total_tokens"')),
        ("$user.data", WHOLE.format('"$user.data.plan"')),
        (
            "$request.query.a.b",
            " has 2 names where one belongs. Put a name with dots in quotes: \"$request.query.'a.b'\".",
        ),
        ("$response.status.x", NO_PARTS.format('"$response.status"')),
        ("$user.sub.id", NO_PARTS.format('"$user.sub"')),
        ("$durationMs.x", NO_PARTS.format('"$durationMs"')),
        ("$response.body.a[0].b", ' cannot be read from "[0].b" on.' + KEYS),
        ("$user.data.", ' cannot be read from "." on.' + KEYS),
        ("$user.data.'a", ' cannot be read from ".\'a" on.' + KEYS),
        ("$request.headers.Cookie", SECRET.format('"$hash:request.headers.Cookie"')),
        ("$response.headers.set-cookie", SECRET.format('"$hash:response.headers.set-cookie"')),
        ("$hash:usr.sub", ' hashes nothing that is known. Did you mean "$hash:user.sub"?'),
    ],
)
def test_a_wrong_expression_is_refused_with_what_to_write_instead(text, said):
    read, findings = read_expression(text, KEY)
    assert read is None
    expected = [("error", f'"{text}"{said}')]
    assert [(finding.severity, f"{finding.message} {finding.fix}") for finding in findings] == expected


def test_without_a_key_nothing_can_be_hashed():
    read, (finding,) = read_expression("$hash:user.sub")
    assert read is None
    assert str(finding) == (
        'error: $: "$hash:user.sub" needs a key to hash with, and there is none. '
        'Write "hashKey": "$env(METERGATE_HASH_KEY)" beside "meter".'
    )


def test_an_index_is_warned_of_because_no_list_is_looked_into():
    read, (finding,) = read_expression("$response.body.choices.0.text")
    assert isinstance(read, Expression)
    assert finding.severity == "warning"
    assert finding.message.startswith('"$response.body.choices.0.text" takes "0" for a key of an object')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "$5",
        "$ 5",
        "5$",
        "costs $request.method",
        "$(x)",
        "${x}",
        "$env(PLAN)",
        "$import(./x)",
        "hash:abc",
    ],
)
def test_any_other_string_is_itself_as_before_there_were_expressions(text):
    assert read_expression(text) == (text, [])


BEGINNINGS = "Expressions begin with $request, $response, $route, $user, $durationMs."


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("$reqest.method", 'Did you mean "$request.method"? Write "$$reqest.method" to send this text.'),
        ("$request", 'Did you mean "$request.method"? Write "$$request" to send this text.'),
        ("$durationms", 'Did you mean "$durationMs"? Write "$$durationms" to send this text.'),
        ("hash:$user.sub", 'Did you mean "$hash:user.sub"?'),
        ("$tier", f'{BEGINNINGS} Write "$$tier" to send this text.'),
    ],
)
def test_what_looks_like_a_slip_is_sent_as_it_is_with_a_warning(text, fix):
    message = f'"{text}" is no expression and is sent as it is.'
    assert read_expression(text) == (text, [Finding("warning", "$", message, fix)])


@pytest.mark.parametrize(
    ("text", "sent"), [("$$request.method", "$request.method"), ("$$", "$"), ("$$$x", "$$x")]
)
def test_two_dollars_are_one_and_no_expression(text, sent):
    assert read_expression(text) == (sent, [])


@given(
    st.text() | st.from_regex(r"\$(hash:)?(request|response|user|durationMs)[.a-z'\"\[ 0]*", fullmatch=True)
)
def test_whatever_a_string_is_it_is_read_or_refused_and_nothing_is_raised(text):
    read, findings = read_expression(text, KEY)
    assert (read is None) == any(finding.severity == "error" for finding in findings)
    if isinstance(read, Expression):
        assert read.read(Facts()) is None


@given(st.lists(st.text(alphabet="ab. $[]*é0", min_size=1, max_size=4), min_size=1, max_size=3))
def test_any_key_can_be_written_in_quotes(keys):
    text = "$response.body" + "".join(f".'{key}'" for key in keys)
    expression, _ = read_expression(text)
    assert isinstance(expression, Expression)
    assert expression.needs == Needs(members=frozenset((tuple(keys),)))
    assert expression.read(Facts(body={tuple(keys): "here"})) == "here"


names = st.text(alphabet="ab.$", max_size=3)
plain = st.recursive(
    st.none() | st.integers() | st.text(alphabet="ab 5", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def template(data: dict[str, Any]) -> Template:
    made, findings = read_data(data, KEY)
    assert not findings
    assert made is not None
    return made


def test_data_is_filled_at_every_depth_in_the_order_it_was_written():
    made = template(
        {"b": "$request.method", "a": {"x": [1, "$response.status", {"y": "$user.sub"}]}, "c": "$$c"}
    )
    data, missing = made.fill(FACTS)
    assert data == {"b": "POST", "a": {"x": [1, 201, {"y": "acme"}]}, "c": "$c"}
    assert list(data) == ["b", "a", "c"]
    assert missing == ()
    assert made.varies


def test_a_missing_value_drops_its_key_and_is_named_as_openmeter_names_a_value():
    made = template(
        {"tokens": "$response.body.n", "in": {"a b": "$user.data.x", "ok": 1}, "list": ["$route.path", 2]}
    )
    assert made.fill(Facts()) == ({"in": {"ok": 1}, "list": [2]}, ("$.tokens", '$.in["a b"]', "$.list[0]"))


def test_one_request_leaves_nothing_behind_for_the_next():
    made = template({"plan": "$user.data.plan", "in": {"s": "$response.status"}, "list": ["$user.sub"]})
    first = made.fill(FACTS).data
    first["in"]["s"] = first["list"] = None
    assert made.fill(Facts()).data == {"in": {}, "list": []}
    second = made.fill(FACTS).data
    assert made.fill(Facts()).data == {"in": {}, "list": []}
    assert second == {"plan": "pro", "in": {"s": 201}, "list": ["acme"]}


@given(st.dictionaries(names, plain, max_size=3))
def test_data_without_expressions_is_constant_and_needs_nothing(data):
    made = template(data)
    assert not made.varies
    assert made.constant == made.fill(FACTS).data == data
    assert made.needs == Needs()


def test_a_template_says_which_facts_it_needs_and_no_more():
    made = template(
        {
            "a": "$request.method",
            "b": ["$request.query.page", {"c": "$request.headers.X-A"}],
            "d": "$hash:response.headers.x-b",
            "e": "$response.body.usage.total",
            "f": "$response.bytes",
            "g": "$user.data.plan",
        }
    )
    assert made.needs == Needs(
        query=frozenset({"page"}),
        request_headers=frozenset({"x-a"}),
        response_headers=frozenset({"x-b"}),
        members=frozenset({("usage", "total")}),
        response_bytes=True,
    )
    assert made.needs.response_body
    others = template({"a": "$request.bytes", "b": "$durationMs", "c": "$response.status"}).needs
    assert others == Needs(request_bytes=True, duration=True)
    assert not others.response_body
    assert (made.needs | others).request_bytes
    assert (made.needs | others).members == made.needs.members


def test_all_that_is_wrong_is_said_at_once_with_its_place():
    made, findings = read_data({"a": "$request.nope", "b": {"c d": ["x", "$user.data"]}, "e": "$reqest.path"})
    assert made is None
    assert [(finding.severity, finding.path) for finding in findings] == [
        ("error", "$.a"),
        ("error", '$.b["c d"][1]'),
        ("warning", "$.e"),
    ]
