"""What a meter reads from one event: the same as the store's SQL (``statements``), for events on their way in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from metergate.embedded.domain.filters import StringFilter, matches
from metergate.embedded.domain.jsonpath import MISSING, Steps, look_up, parse_path
from metergate.embedded.domain.meters import read_number

Test: TypeAlias = Callable[[Any], bool]
_FOLDING = frozenset({"$like", "$nlike", "$ilike", "$nilike", "$contains", "$ncontains"})
_EXPONENT = re.compile(r"(?:\.0)?e\+?(-?)0*")
_encode = msgspec.json.Encoder().encode


def text_at(document: Any, steps: Steps) -> str:
    """The value as ClickHouse's JSON_VALUE gives it: text; '' if missing or no scalar; 'null' if null."""
    value = look_up(document, steps)
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return _float_text(value)
    return "" if value is MISSING or isinstance(value, dict | list) else _encode(value).decode()


def _float_text(value: float) -> str:
    """The shortest text that gives the number again, as JavaScript writes it, whole ones without a fraction."""
    if value and not 1e-6 <= abs(value) < 1e21:
        return _EXPONENT.sub(r"e\1", repr(value))
    return f"{Decimal(repr(value)):f}".removesuffix(".0")


def number_at(document: Any, steps: Steps) -> float | None:
    """The value as a finite number, None where it is none."""
    value = look_up(document, steps)
    if isinstance(value, str):
        value = read_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def is_exact(condition: StringFilter) -> bool:
    """Whether the filter means the same here and in SQL for any text: patterns and upper case may differ."""
    if condition.operator in _FOLDING:
        return False
    operand = condition.operand
    children = operand if isinstance(operand, tuple) else ()
    return all(is_exact(child) for child in children if isinstance(child, StringFilter))


def passes(paths: Mapping[str, str], filters: Mapping[str, StringFilter]) -> Test:
    """The test whether a document passes all filters; ``paths`` are those of the dimensions."""
    tests = [(parse_path(paths[name]), condition) for name, condition in filters.items()]
    return lambda document: all(matches(condition, text_at(document, steps)) for steps, condition in tests)
