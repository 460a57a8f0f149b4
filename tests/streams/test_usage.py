"""The figures of a response: what the provider said, in words of our own, and an estimate where that is wanted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from metergate.streams import Usage

RECORDED = Path(__file__).parent / "recorded"


def body(value: object) -> list[bytes]:
    return [json.dumps(value).encode()]


@pytest.mark.parametrize(
    ("provider", "said", "usage"),
    [
        ("openai", {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, Usage(None, 0, 0, total=0)),
        ("openai", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(None, 8, total=8)),
        ("openai", {"usage": {"input_tokens": 3, "output_tokens": 4.0}}, Usage(None, 3, 4, total=7)),
        (
            "anthropic",
            {"type": "message", "usage": {"input_tokens": 0, "output_tokens": 0}},
            Usage(None, 0, 0, total=0),
        ),
        ("anthropic", {"type": "message", "usage": {"output_tokens": 5}}, Usage(None, None, 5)),
    ],
)
def test_an_explicit_zero_stays_zero_and_what_was_not_said_stays_none(provider, said, usage, read):
    assert read(provider, body(said), kind="json").usage == usage


@pytest.mark.parametrize("odd", [None, -1, True, 1.5, "7", [], {}])
def test_a_figure_that_is_no_number_of_tokens_was_not_said(odd, read):
    said = {"choices": [], "usage": {"prompt_tokens": odd, "completion_tokens": 2}}
    assert read("openai", body(said), kind="json").usage == Usage(None, None, 2)


@pytest.mark.parametrize(
    ("provider", "error"),
    [
        ("openai", {"error": {"message": "quota", "type": "insufficient_quota", "code": None}}),
        ("openai-responses", {"error": {"message": "no"}}),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ("gemini", {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}),
    ],
)
@pytest.mark.parametrize("estimate", [True, False])
def test_an_error_has_no_usage_not_even_an_estimate(provider, error, estimate, read):
    reading = read(provider, body(error), kind="json", estimate=estimate)
    assert (reading.usage, reading.not_read) == (None, {})


def test_figures_that_an_anthropic_server_repeats_as_zero_do_not_fall(read):
    events = [
        {
            "type": "message_start",
            "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 0}},
        },
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"input_tokens": 0, "output_tokens": 4},
        },
    ]
    chunks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    assert read("anthropic", chunks).usage == Usage("m", 9, 4, total=13)


def test_a_finish_reason_that_is_empty_is_none(read):
    event = b'data: {"model":"m","choices":[{"finish_reason":""}],"usage":{"completion_tokens":1}}\n\n'
    usage = read("openai", [event]).usage
    assert usage == Usage("m", None, 1, partial=True)


def test_an_anthropic_stream_that_ends_with_an_error_is_partial(read):
    recorded = (RECORDED / "anthropic.sse").read_bytes()
    start = recorded[: recorded.index(b"event: content_block_start")]
    fault = (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )
    usage = read("anthropic", [start, fault]).usage
    assert usage is not None
    assert usage.partial


def test_a_gemini_prompt_that_was_blocked_has_its_input_and_no_output(read):
    said = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7},
    }
    assert read("gemini", body(said), kind="json").usage == Usage(None, 7, total=7)


def test_without_usage_in_the_stream_there_is_an_estimate_only_where_it_is_wanted(read):
    stream = [(RECORDED / "openai-no-usage.sse").read_bytes()]
    assert read("openai", stream).usage is None
    assert read("openai", stream, estimate=True).usage == Usage("gpt-small", None, 5, estimated=True), (
        "17 / 4, rounded up"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openai.sse", 'A litre of "water" weighs {one} kg – über 4 °C a little less.\n\n'),
        ("openai-responses.sse", "Twelve is a dozen."),
        ("anthropic.sse", 'A short one will do.Grüezi, "Welt"!\n'),
        ("gemini.sse", "**Plan**Four\r\nlegs."),
    ],
)
def test_an_estimate_is_reckoned_from_what_the_model_had_written_when_the_stream_broke(name, text, read):
    recorded = (RECORDED / name).read_bytes()
    ends = {"anthropic.sse": b"event: message_delta", "openai-responses.sse": b"event: response.completed"}
    cut = recorded[: recorded.index(ends[name])] if name in ends else recorded[: recorded.rindex(b'"usage')]
    usage = read(name.partition(".")[0], [cut], whole=False, estimate=True).usage
    assert usage is not None
    assert usage.partial
    if name == "gemini.sse":
        assert (usage.output, usage.estimated) == (89, False), "what was said is more than the estimate"
    else:
        assert (usage.output, usage.estimated) == (math.ceil(len(text) / 4), True)


def test_figures_that_are_final_are_not_estimated(read):
    stream = [(RECORDED / "anthropic.sse").read_bytes()]
    assert read("anthropic", stream, estimate=True) == read("anthropic", stream)


def test_a_body_without_usage_is_estimated_from_the_text_in_it(read):
    said = {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": "12345678"}, "finish_reason": "stop"}],
    }
    assert read("openai", body(said), kind="json", estimate=True).usage == Usage("m", None, 2, estimated=True)
    said = {
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "1234"}],
        "usage": {"input_tokens": 3},
    }
    assert read("anthropic", body(said), kind="json", estimate=True).usage == Usage(
        "m", 3, 1, total=4, estimated=True
    )
    said = {
        "object": "response",
        "status": "completed",
        "output": [{"content": [{"text": "123"}], "arguments": None}],
    }
    assert read("openai-responses", body(said), kind="json", estimate=True).usage == Usage(
        None, None, 1, estimated=True
    )
