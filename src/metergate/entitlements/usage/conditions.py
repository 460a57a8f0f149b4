"""Whether a text meets a feature's filter (OpenMeter's FilterString). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from metergate.openmeter.catalog import Filter


@lru_cache(maxsize=1024)
def _like(pattern: str, flags: int) -> re.Pattern[str]:
    """SQL's LIKE: ``%`` is any text, ``_`` any character, a backslash takes their meaning away."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(part) or re.escape(part[-1]) for part in parts), flags | re.DOTALL)


_CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "eq": lambda text, other: text == other,
    "ne": lambda text, other: text != other,
    "in_": lambda text, others: text in others,
    "nin": lambda text, others: text not in others,
    "like": lambda text, pattern: _like(pattern, 0).fullmatch(text) is not None,
    "nlike": lambda text, pattern: _like(pattern, 0).fullmatch(text) is None,
    "ilike": lambda text, pattern: _like(pattern, re.IGNORECASE).fullmatch(text) is not None,
    "nilike": lambda text, pattern: _like(pattern, re.IGNORECASE).fullmatch(text) is None,
    "contains": lambda text, part: part.casefold() in text.casefold(),
    "ncontains": lambda text, part: part.casefold() not in text.casefold(),
    "gt": lambda text, other: text > other,
    "gte": lambda text, other: text >= other,
    "lt": lambda text, other: text < other,
    "lte": lambda text, other: text <= other,
    "exists": lambda text, there: bool(text) == there,
    "and_": lambda text, filters: all(holds(each, text) for each in filters),
    "or_": lambda text, filters: any(holds(each, text) for each in filters),
}


def holds(condition: Filter, text: str) -> bool:
    """Whether all that a filter says is true of a text. What it says in words that we do not know, is."""
    said = ((name, getattr(condition, name)) for name in _CHECKS)
    return all(_CHECKS[name](text, operand) for name, operand in said if operand is not None)
