"""What a model's response used, in the same words for every provider."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

CHARACTERS_PER_TOKEN = 4
"""The rule of an estimate: so many characters of what the model wrote are one token, a started one counts."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one response. None where the provider did not say; 0 where it said 0.

    ``input`` is all that went in: also what came from a cache (``cached``) and what was written to one
    (``cache_write``). ``output`` is all that came out: also ``reasoning``. So the other three are parts, never to be
    added. ``total`` is what the provider says, else input and output together where both are known.
    ``partial``: the response broke off before its last figures, and these are what was seen. ``estimated``: output is
    not the provider's figure but reckoned from what the model wrote, by `CHARACTERS_PER_TOKEN`.
    """

    model: str | None = None
    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    total: int | None = None
    partial: bool = False
    estimated: bool = False


class Counts(NamedTuple):
    """A provider's figures in the words of `Usage`."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    total: int | None = None


class Tally:
    """What has been seen so far of one response.

    ``said`` holds the provider's latest figures under its own names. ``characters`` is the length of what the model
    wrote. ``ended``: the model has stopped. ``final``: these are the last figures, whatever else may still come.
    """

    __slots__ = ("characters", "ended", "final", "model", "said")

    def __init__(self) -> None:
        self.model: str | None = None
        self.said: dict[str, int] = {}
        self.characters = 0
        self.ended = False
        self.final = False

    def name(self, model: Any) -> None:
        """Note the model, where ``model`` names one."""
        if model and isinstance(model, str):
            self.model = model

    def say(self, name: str, value: Any) -> None:
        """Note a figure, where ``value`` is one. A later figure replaces an earlier one."""
        if (count := counted(value)) is not None:
            self.said[name] = count

    def write(self, text: Any) -> None:
        """Note what the model wrote, where ``text`` is text."""
        if isinstance(text, str):
            self.characters += len(text)


class Provider(NamedTuple):
    """How one provider's responses are read.

    ``read`` takes one JSON document of a response (its body, or one event's data) into a tally; it raises
    `msgspec.MsgspecError` where that is not what the provider sends. ``counts`` puts the figures into our words.
    """

    read: Callable[[bytes, Tally], None]
    counts: Callable[[dict[str, int]], Counts]


def counted(value: Any) -> int | None:
    """``value`` as a number of tokens: whole, not negative. None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def added(*counts: int | None) -> int | None:
    """The sum of those that are known; None where none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def summed_up(tally: Tally, counts: Counts, *, partial: bool, estimate: bool) -> Usage | None:
    """The usage of a response that has ended. None where the provider said nothing that could be counted.

    With ``estimate``, output is reckoned from the characters where no final figure came, unless the figure that was
    seen is higher.
    """
    output, estimated = counts.output, False
    if estimate and tally.characters and (output is None or partial):
        reckoned = math.ceil(tally.characters / CHARACTERS_PER_TOKEN)
        if output is None or reckoned > output:
            output, estimated = reckoned, True
    if output is None and all(count is None for count in counts):
        return None
    total = counts.total
    if (total is None or estimated) and counts.input is not None and output is not None:
        total = counts.input + output
    return Usage(
        tally.model,
        counts.input,
        output,
        counts.cached,
        counts.cache_write,
        counts.reasoning,
        total,
        partial,
        estimated,
    )
