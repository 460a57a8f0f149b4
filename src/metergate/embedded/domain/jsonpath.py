"""The part of JSONPath that meters use: ``$.a.b``, ``$["a b"]``, ``$.list[0]``.

What OpenMeter hands to ClickHouse's ``JSON_VALUE``: one path to one value. Wildcards, slices and filters,
which can name several values, are turned down when the meter is made.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, TypeAlias

Steps: TypeAlias = tuple[str | int, ...]
"""Keys (str) and places in a list (int), from the root inwards."""

MAX_LENGTH = 512
_STEP = re.compile(
    r"""\.(?P<name>[^\s.\[\]'"*?@()$\\;,:]+)"""
    r"""|\["(?P<double>[^"\\\x00-\x1f$;]+)"\]"""
    r"""|\['(?P<single>[^'\\\x00-\x1f$;]+)'\]"""
    r"""|\[(?P<place>0|[1-9][0-9]{0,8})\]"""
)


class Missing:
    """The type of ``MISSING``: nothing is at that path, not even a null."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@lru_cache(4096)
def parse_path(text: str) -> Steps:
    """The steps of the path. Raises ValueError that says what may be written instead."""
    if not text.startswith("$"):
        raise ValueError("must start with $")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"must not be longer than {MAX_LENGTH} characters")
    steps: list[str | int] = []
    position = 1
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise ValueError(
                f'is not understood from character {position + 1} on; write $.name, $["a name"] or $.list[0]'
            )
        place = match["place"]
        steps.append(int(place) if place else match["name"] or match["double"] or match["single"])
        position = match.end()
    return tuple(steps)


def to_pointer(steps: Steps) -> str:
    """The same as an RFC 6901 JSON pointer, which is what DuckDB's JSON functions take for any key."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def look_up(document: Any, steps: Steps) -> Any:
    """The value at the path, ``MISSING`` when there is none."""
    for step in steps:
        if isinstance(document, dict) and str(step) in document:
            document = document[str(step)]
        elif isinstance(document, list) and (place := _place(step)) in range(len(document)):
            document = document[place]
        else:
            return MISSING
    return document


def _place(step: str | int) -> int:
    """Where in a list the step points to: a JSON pointer does not tell ``.0`` from ``[0]``."""
    if isinstance(step, int) or re.fullmatch("0|[1-9][0-9]*", step, re.ASCII):
        return int(step)
    return -1
