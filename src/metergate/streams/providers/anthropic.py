"""Anthropic's messages: JSON, or events from ``message_start`` (input) to ``message_delta`` (output so far).

Figures are cumulative. They never fall, so the highest counts: servers that speak this format repeat some as 0.
Where the conversation was compacted on the way, that was billed too but is in no sum, only among the iterations.
"""

from __future__ import annotations

from typing import Any

import msgspec

from metergate.streams.usage import Counts, Provider, Tally, added, counted


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: Any = None


class _Figures(msgspec.Struct, gc=False):
    """``usage``, or one of the iterations in it, which have a type."""

    type: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    output_tokens_details: _Details | None = None
    iterations: list[_Figures] | None = None


class _Block(msgspec.Struct, gc=False):
    """A content block, or what is added to one; in ``message_delta`` why the model stopped."""

    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class _Message(msgspec.Struct, gc=False):
    model: Any = None
    usage: _Figures | None = None


class _Document(msgspec.Struct, gc=False):
    """One event of a stream, or a message that is the body itself."""

    type: Any = None
    message: _Message | None = None
    delta: _Block | None = None
    content_block: _Block | None = None
    model: Any = None
    content: list[_Block] | None = None
    usage: _Figures | None = None


_MEMBERS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
}

_decode = msgspec.json.Decoder(_Document).decode


def _read(document: bytes, tally: Tally) -> None:
    read = _decode(document)
    tally.name(read.model)
    if read.message is not None:
        tally.name(read.message.model)
        _take(read.message.usage, tally)
    _take(read.usage, tally)
    for block in (read.delta, read.content_block, *(read.content or ())):
        if block is not None:
            tally.write(block.text)
            tally.write(block.thinking)
            tally.write(block.partial_json)
    stopped = read.delta is not None and read.delta.stop_reason
    if stopped or read.type in ("message", "message_stop"):
        tally.final = True


def _take(figures: _Figures | None, tally: Tally) -> None:
    if figures is None:
        return
    compactions = [each for each in figures.iterations or () if each.type == "compaction"]
    for name, member in _MEMBERS.items():
        _raise(tally, name, getattr(figures, member))
        if compactions:
            _raise(
                tally, f"compaction {name}", added(*(counted(getattr(each, member)) for each in compactions))
            )
    if figures.output_tokens_details is not None:
        _raise(tally, "reasoning", figures.output_tokens_details.thinking_tokens)


def _raise(tally: Tally, name: str, value: Any) -> None:
    if (count := counted(value)) is not None:
        tally.said[name] = max(count, tally.said.get(name, 0))


def _count(said: dict[str, int]) -> Counts:
    """Anthropic's input leaves out what came from the cache and what went into it; ours does not."""
    fresh, output, cached, written = (
        added(said.get(name), said.get(f"compaction {name}")) for name in _MEMBERS
    )
    whole = added(fresh, cached, written) if "input" in said else None
    return Counts(whole, output, cached, written, said.get("reasoning"))


PROVIDER = Provider(_read, _count)
