"""OpenAI's chat completions, and all that speak their format: JSON, or events that end with ``[DONE]``.

In a stream, ``usage`` is null in all events but one near the end, whose ``choices`` are empty, and comes only where the
request had ``stream_options.include_usage``. Other servers send growing figures in every event, or the details in one
more event than the sums: so each figure is taken by itself, and the last one counts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from metergate.streams.usage import Counts, Provider, Tally

_DONE = b"[DONE]"


class Details(msgspec.Struct, gc=False):
    """The parts of input or output tokens."""

    cached_tokens: Any = None
    cache_write_tokens: Any = None
    reasoning_tokens: Any = None


class Figures(msgspec.Struct, gc=False):
    """``usage``, in the words of chat completions and in those of the newer endpoints."""

    prompt_tokens: Any = None
    input_tokens: Any = None
    completion_tokens: Any = None
    output_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


class _Function(msgspec.Struct, gc=False):
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None
    finish_reason: Any = None


class _Completion(msgspec.Struct, gc=False):
    model: Any = None
    choices: list[_Choice] | None = None
    usage: Figures | None = None


_decode = msgspec.json.Decoder(_Completion).decode


def _read(document: bytes, tally: Tally) -> None:
    if document == _DONE:
        tally.ended = tally.final = True
        return
    completion = _decode(document)
    tally.name(completion.model)
    for choice in completion.choices or ():
        tally.write(choice.text)
        if choice.delta is not None:
            _write(choice.delta, tally)
        if choice.message is not None:
            _write(choice.message, tally)
            tally.final = True  # the whole of a completion, not an event of a stream
        if choice.finish_reason:
            tally.ended = True
    if completion.usage is not None:
        take(completion.usage, tally)
        tally.final |= not completion.choices


def take(figures: Figures, tally: Tally) -> None:
    """Note what ``usage`` says."""
    tally.say("input", figures.prompt_tokens)
    tally.say("input", figures.input_tokens)
    tally.say("output", figures.completion_tokens)
    tally.say("output", figures.output_tokens)
    tally.say("total", figures.total_tokens)
    for details in (figures.prompt_tokens_details, figures.input_tokens_details):
        if details is not None:
            tally.say("cached", details.cached_tokens)
            tally.say("cache_write", details.cache_write_tokens)
    for details in (figures.completion_tokens_details, figures.output_tokens_details):
        if details is not None:
            tally.say("reasoning", details.reasoning_tokens)


def count(said: dict[str, int]) -> Counts:
    """OpenAI counts as we do: cached tokens are in the input, reasoning is in the output."""
    return Counts(**said)


def _write(message: _Message, tally: Tally) -> None:
    tally.write(message.content)
    tally.write(message.reasoning_content or message.reasoning)  # two names for the same text
    tally.write(message.refusal)
    for call in message.tool_calls or ():
        if call.function is not None:
            tally.write(call.function.arguments)


PROVIDER = Provider(_read, count)
