"""Meters from the traffic: what a configuration may say, and the events that come of a request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from metergate.policy import EventEncoder, Policy, RecordedEvent, read_options, runtime_meters
from metergate.policy.expressions import Facts
from metergate.policy.traffic import PROVIDERS, Demand, Seen, demand_of
from metergate.streams import PROVIDERS as READABLE
from metergate.streams import Usage

TIME_MS = 1_769_860_800_123
KEY = "a key of more than sixteen characters"
USAGE = Usage("gpt-large", 1211, 148, cached=1024, cache_write=0, reasoning=128, total=1359)


@dataclass(frozen=True)
class Caller:
    sub: str
    data: dict[str, Any]


def read(meter: Any, **options: Any) -> tuple[Policy | None, list[tuple[str, str, str]]]:
    policy, findings = read_options({"apiKey": "hush", "meter": meter, **options}, name="p")
    return policy, [(finding.path, finding.message, finding.fix) for finding in findings]


def policy_of(meter: Any, **options: Any) -> Policy:
    policy, findings = read(meter, **options)
    assert policy is not None
    assert findings == []
    return policy


def record(meter: Any, usage: Usage | None = None, facts: Facts | None = None, **more: Any) -> Any:
    policy = policy_of(meter)
    demand = demand_of(policy.meters)
    assert demand is not None
    seen = Seen(facts or Facts(), dict.fromkeys(demand.tokens, usage))
    return EventEncoder(policy).record("r", "acme", TIME_MS, more.pop("runtime", None), {}, seen, **more)


def events(recording: Any) -> list[tuple[str, Any]]:
    read = [json.loads(line) for line in recording.lines.splitlines()]
    assert len(read) == recording.count == len(recording.events)
    for event, counted in zip(read, recording.events, strict=True):
        assert counted == RecordedEvent(event["type"], event["subject"], event.get("data"))
    return [(event["id"].removeprefix("r-"), event.get("data")) for event in read]


def test_the_providers_that_a_meter_may_name_are_those_that_can_be_read():
    assert set(PROVIDERS) == set(READABLE)


# --- tokens


def test_each_kind_of_token_is_an_event_and_together_they_are_all_that_was_used():
    made = events(record({"type": "prompt", "from": "openai"}, USAGE))
    assert made == [
        ("prompt", {"model": "gpt-large", "type": "input", "tokens": 187}),
        ("prompt-2", {"model": "gpt-large", "type": "cached", "tokens": 1024}),
        ("prompt-3", {"model": "gpt-large", "type": "output", "tokens": 148}),
    ]
    assert sum(data["tokens"] for _, data in made) == USAGE.total


def test_one_event_has_every_figure_that_is_known():
    [(name, data)] = events(record({"type": "llm", "from": "openai", "tokens": "all"}, USAGE))
    assert (name, data) == (
        "llm",
        {
            "model": "gpt-large",
            "input_tokens": 1211,
            "output_tokens": 148,
            "cached_tokens": 1024,
            "cache_write_tokens": 0,
            "reasoning_tokens": 128,
            "total_tokens": 1359,
        },
    )


def test_an_explicit_zero_stays_and_what_is_not_known_is_left_out():
    usage = Usage(None, 0, 0, total=0)
    assert [data for _, data in events(record({"type": "t", "from": "gemini"}, usage))] == [
        {"type": "input", "tokens": 0},
        {"type": "output", "tokens": 0},
    ]
    all_of_it = events(record({"type": "t", "from": "gemini", "tokens": "all"}, Usage(output=0)))
    assert all_of_it == [("t", {"output_tokens": 0})]


def test_what_was_cut_off_or_reckoned_says_so_and_only_output_is_reckoned():
    usage = Usage("m", 10, 5, total=15, partial=True, estimated=True)
    assert [data for _, data in events(record({"type": "t", "from": "openai"}, usage))] == [
        {"model": "m", "type": "input", "tokens": 10, "partial": True},
        {"model": "m", "type": "output", "tokens": 5, "partial": True, "estimated": True},
    ]
    [(_, data)] = events(record({"type": "t", "from": "openai", "tokens": "all"}, usage))
    assert (data["partial"], data["estimated"]) == (True, True)


@pytest.mark.parametrize("usage", [None, Usage("m", total=9)], ids=["no usage", "a total of no kind"])
def test_without_usage_there_is_no_event_and_the_reason_is_said(usage):
    recording = record({"type": "t", "from": "openai"}, usage)
    assert (recording.count, [drop.reason for drop in recording.dropped]) == (0, ["no_usage"])


def test_data_stands_in_every_event_beside_the_tokens():
    meter = {"type": "t", "from": "openai", "data": {"plan": "$user.data.plan", "region": "eu"}}
    made = events(record(meter, Usage("m", 1, 2), Facts(user=Caller("acme", {"plan": "pro"}))))
    assert [data for _, data in made] == [
        {"plan": "pro", "region": "eu", "model": "m", "type": "input", "tokens": 1},
        {"plan": "pro", "region": "eu", "model": "m", "type": "output", "tokens": 2},
    ]


def test_run_time_meters_replace_those_of_their_type_as_ever():
    own = runtime_meters({"type": "t", "data": {"tokens": 7}})
    assert events(record({"type": "t", "from": "openai"}, USAGE, runtime=own)) == [("t", {"tokens": 7})]


# --- expressions


def test_a_meters_data_is_filled_from_the_request_and_its_response():
    meter = {"type": "call", "data": {"n": 1, "bytes": "$response.bytes", "at": {"path": "$route.path"}}}
    recording = record(meter, None, Facts(response_bytes=99, route="/orders/{id}"))
    assert events(recording) == [("call", {"n": 1, "bytes": 99, "at": {"path": "/orders/{id}"}})]


def test_a_value_that_is_missing_drops_its_key_alone():
    recording = record({"type": "call", "data": {"n": 1, "page": "$request.query.page"}})
    assert (events(recording), recording.dropped) == ([("call", {"n": 1})], ())


def test_where_a_value_is_required_the_event_is_dropped_with_it():
    meter = {"type": "call", "data": {"n": "$response.bytes", "m": {"x": "$request.query.x"}}}
    for required, missing in (("n", "$.n"), (["m"], "$.m.x")):
        recording = record({**meter, "required": required})
        assert recording.count == 0
        [drop] = recording.dropped
        assert drop.reason == "missing_value"
        assert drop.message == f'The event of the meter "call" was dropped: {missing} is missing in its data.'


def test_where_openmeters_meters_count_it_nowhere_the_event_is_dropped():
    asked = []

    def nowhere(event_type, missing):
        asked.append((event_type, missing))
        return True

    meter = {"type": "call", "data": {"n": "$response.bytes"}}
    assert [drop.reason for drop in record(meter, counts_nowhere=nowhere).dropped] == ["missing_value"]
    assert asked == [("call", ("$.n",))]
    assert record(meter, None, Facts(response_bytes=0), counts_nowhere=nowhere).count == 1
    assert len(asked) == 1, "asked although nothing was missing"


def test_constant_meters_beside_keep_their_bytes():
    constant = {"type": "call", "data": {"count": 1}}
    alone = EventEncoder(policy_of(constant)).record("r", "acme", TIME_MS, None, {}).lines
    both = record([constant, {"type": "t", "data": {"p": "$route.path"}}], None, Facts(route="/x"))
    assert both.lines.splitlines(keepends=True)[0] == alone


def test_a_text_without_an_expression_takes_nothing_and_two_dollars_are_one():
    policy = policy_of({"type": "call", "data": {"price": "$$request.path", "x": "costs $5"}})
    assert demand_of(policy.meters) is None
    assert policy.meters[0].data == {"price": "$request.path", "x": "costs $5"}


def test_what_is_collected_is_what_the_meters_take_together():
    policy = policy_of(
        [
            {"type": "a", "data": {"x": "$request.headers.x-one", "b": "$response.body.usage.total"}},
            {"type": "b", "from": "openai", "estimate": "true"},
            {"type": "c", "from": "openai"},
            {"type": "d", "data": {"ms": "$durationMs"}},
        ]
    )
    demand = demand_of(policy.meters)
    assert demand is not None
    assert demand.tokens == {("openai", True), ("openai", False)}
    assert demand.needs.request_headers == {"x-one"}
    assert demand.needs.members == {("usage", "total")}
    assert demand.needs.duration
    assert demand.response_body
    free = demand_of(policy_of({"type": "a", "data": {"m": "$request.method"}}).meters)
    assert isinstance(free, Demand)
    assert not free.response_body


# --- what is refused


@pytest.mark.parametrize(
    ("meter", "path", "message", "fix"),
    [
        (
            {"from": "opnai"},
            "$.meter.from",
            '"from" has to be one of "openai", "openai-responses", "anthropic", "gemini", not the string "opnai".',
            'Did you mean "openai"?',
        ),
        (
            {"from": "openai", "tokens": "both"},
            "$.meter.tokens",
            '"tokens" has to be "each" or "all", not the string "both".',
            "",
        ),
        (
            {"from": "openai", "estimate": "perhaps"},
            "$.meter.estimate",
            '"estimate" has to be true or false, not the string "perhaps".',
            "The default is false.",
        ),
        (
            {"tokens": "all"},
            "$.meter.tokens",
            '"tokens" has no effect without "from".',
            'Write "from": "openai", or whose responses they are.',
        ),
        (
            {"from": "openai", "data": {"tokens": 1}},
            "$.meter.data",
            '"tokens" is what "from" puts in.',
            'Give it another name in "data" than "tokens".',
        ),
        (
            {"data": {"count": 1}, "required": ["count"]},
            "$.meter.required",
            '"required" has no effect: nothing in the data can be missing.',
            'Leave it out, or write an expression: "$response.bytes".',
        ),
        (
            {"data": {"bytes": "$response.bytes"}, "required": ["byte"]},
            "$.meter.required[0]",
            '"byte" is no key of the data, so there would never be an event.',
            'Did you mean "bytes"?',
        ),
        (
            {"data": {"bytes": "$response.bytes"}, "required": 7},
            "$.meter.required",
            '"required" has to be a list of keys of the data, not the number 7.',
            'Write "required": ["bytes"].',
        ),
        (
            {"data": {"a": {"k": "$request.headers.authorization"}}},
            "$.meter.data.a.k",
            '"$request.headers.authorization" would send a credential to OpenMeter in the clear.',
            'Write "$hash:request.headers.authorization", or leave it out.',
        ),
        (
            {"data": {"who": "$hash:user.sub"}},
            "$.meter.data.who",
            '"$hash:user.sub" needs a key to hash with, and there is none.',
            'Write "hashKey": "$env(METERGATE_HASH_KEY)" beside "meter".',
        ),
    ],
)
def test_a_mistake_is_said_with_its_path_and_what_to_write(meter, path, message, fix):
    _, findings = read({"type": "t", **meter})
    assert findings == [(path, message, fix)]


@pytest.mark.parametrize("key", ["short", "  ", 7, "$env(KEY)", None])
def test_a_hash_key_that_is_none_is_refused_once_and_never_shown(key):
    policy, findings = read({"type": "t", "data": {"who": "$hash:user.sub"}}, hashKey=key)
    assert policy is None
    assert [path for path, _, _ in findings] == ["$.hashKey"]
    assert "short" not in str(findings[0][1].replace("too short", ""))


def test_a_hash_key_hashes_and_is_in_no_repr():
    policy = policy_of({"type": "t", "data": {"who": "$hash:user.sub"}}, hashKey=KEY)
    seen = Seen(Facts(user=Caller("acme", {})))
    [line] = EventEncoder(policy).record("r", "acme", TIME_MS, None, {}, seen).lines.splitlines()
    assert len(json.loads(line)["data"]["who"]) == 32
    assert json.loads(line)["data"]["who"] != "acme"
    assert KEY not in repr(policy)


def test_at_run_time_an_expression_is_text_and_from_is_named_as_out_of_place(caplog):
    [meter] = runtime_meters({"type": "t", "from": "openai", "data": {"p": "$request.path"}})
    assert (meter.data, meter.traffic) == ({"p": "$request.path"}, None)
    assert 'The meter key "from" has no effect. It is for meters of the configuration.' in caplog.text
