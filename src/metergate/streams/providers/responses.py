"""OpenAI's responses: JSON, or events of which the last one that has the whole response tells its usage."""

from __future__ import annotations

from typing import Any

import msgspec

from metergate.streams.providers.openai import Figures, count, take
from metergate.streams.usage import Provider, Tally

_LAST = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))
_STOPPED = frozenset(("completed", "incomplete", "failed", "cancelled"))


class _Content(msgspec.Struct, gc=False):
    text: Any = None
    refusal: Any = None


class _Item(msgspec.Struct, gc=False):
    content: list[_Content] | None = None
    summary: list[_Content] | None = None
    arguments: Any = None


class _Response(msgspec.Struct, gc=False):
    model: Any = None
    status: Any = None
    output: list[_Item] | None = None
    usage: Figures | None = None


class _Document(msgspec.Struct, gc=False):
    """One event of a stream, or a response that is the body itself."""

    type: Any = None
    response: _Response | None = None
    delta: Any = None
    object: Any = None
    model: Any = None
    status: Any = None
    output: Any = None
    usage: Figures | None = None


_decode = msgspec.json.Decoder(_Document).decode
_decode_body = msgspec.json.Decoder(_Response).decode


def _read(document: bytes, tally: Tally) -> None:
    read = _decode(document)
    if read.object == "response":
        _take(_decode_body(document), tally, written=True)
        return
    kind = read.type if isinstance(read.type, str) else ""
    if kind.endswith(".delta") and "audio.delta" not in kind:  # audio comes as base64, not as text
        tally.write(read.delta)
    if read.response is not None:
        _take(read.response, tally, written=False)
        tally.final |= kind in _LAST


def _take(response: _Response, tally: Tally, *, written: bool) -> None:
    """Note a response; what is ``written`` in it only where no events have told it before."""
    tally.name(response.model)
    if response.usage is not None:
        take(response.usage, tally)
    if not written:
        return
    tally.final |= response.status in _STOPPED
    for item in response.output or ():
        tally.write(item.arguments)
        for content in (*(item.content or ()), *(item.summary or ())):
            tally.write(content.text)
            tally.write(content.refusal)


PROVIDER = Provider(_read, count)
