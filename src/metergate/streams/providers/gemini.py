"""Google's Gemini: JSON, events (``alt=sse``), or one JSON array that grows. Every part has ``usageMetadata``.

Its figures are those of the whole response so far; early parts may have only some of them. Thoughts are not in the
candidates' tokens, and tool results not in the prompt's; the total has both.
"""

from __future__ import annotations

from typing import Any

import msgspec

from metergate.streams.usage import Counts, Provider, Tally, added


class _Figures(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None
    tool_use_prompt_token_count: Any = None
    cached_content_token_count: Any = None
    total_token_count: Any = None


class _Part(msgspec.Struct, gc=False):
    text: Any = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: Any = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: Any = None


class _Response(msgspec.Struct, gc=False, rename="camel"):
    model_version: Any = None
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Figures | None = None


_decode = msgspec.json.Decoder(_Response).decode


def _read(document: bytes, tally: Tally) -> None:
    response = _decode(document)
    tally.name(response.model_version)
    for candidate in response.candidates or ():
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                tally.write(part.text)
    tally.ended |= _stopped(response)
    if response.usage_metadata is not None:
        _take(response.usage_metadata, tally)
        tally.final |= tally.ended


def _stopped(response: _Response) -> bool:
    """Whether this part is the last: all its candidates have ended, or the prompt was blocked."""
    candidates = response.candidates or ()
    if candidates:
        return all(candidate.finish_reason for candidate in candidates)
    return response.prompt_feedback is not None and bool(response.prompt_feedback.block_reason)


def _take(figures: _Figures, tally: Tally) -> None:
    tally.say("prompt", figures.prompt_token_count)
    tally.say("candidates", figures.candidates_token_count)
    tally.say("thoughts", figures.thoughts_token_count)
    tally.say("tools", figures.tool_use_prompt_token_count)
    tally.say("cached", figures.cached_content_token_count)
    tally.say("total", figures.total_token_count)


def _count(said: dict[str, int]) -> Counts:
    return Counts(
        input=added(said.get("prompt"), said.get("tools")),
        output=added(said.get("candidates"), said.get("thoughts")),
        cached=said.get("cached"),
        reasoning=said.get("thoughts"),
        total=said.get("total"),
    )


PROVIDER = Provider(_read, _count)
