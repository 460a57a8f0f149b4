"""OpenMeter's string filters: ``{"$eq": "gpt-4"}``, ``{"$or": [{"$like": "gpt-%"}, {"$in": ["a", "b"]}]}``.

Rules (its pkg/filter/filter.go): exactly one operator per object, no empty strings, ``$like`` is SQL's (``%``
any run, ``_`` one character, ``\\`` takes the next one literally), ``$contains`` does not look at case, order
is by bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Operand: TypeAlias = "str | bool | tuple[str, ...] | tuple[StringFilter, ...]"

COMPARISONS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
LIKES = ("$like", "$nlike", "$ilike", "$nilike")
PATTERNS = (*LIKES, "$contains", "$ncontains")
LISTS = ("$in", "$nin")
GROUPS = ("$and", "$or")
OPERATORS = (*COMPARISONS, *PATTERNS, *LISTS, *GROUPS, "$exists")


@dataclass(frozen=True, slots=True)
class StringFilter:
    """One operator and what stands beside it."""

    operator: str
    operand: Operand


def one_of(*values: str) -> StringFilter:
    """The filter that lets through exactly these values."""
    return StringFilter("$in", values)


def parse_filter(value: Any, *, depth: int = 8) -> StringFilter | None:
    """The filter written as JSON, None for ``{}`` (which filters nothing). Raises ValueError with OpenMeter's
    words.
    """
    if not isinstance(value, Mapping):
        raise ValueError("filter is invalid: must be an object")
    given = {operator: operand for operator, operand in value.items() if operand is not None}
    if not given:
        return None
    if unknown := sorted(given.keys() - set(OPERATORS)):
        raise ValueError(f"filter is invalid: unknown operator {unknown[0]}")
    if len(given) > 1:
        raise ValueError("filter is invalid: multiple operators are set")
    ((operator, operand),) = given.items()
    return StringFilter(operator, _operand(operator, operand, depth))


def _operand(operator: str, operand: Any, depth: int) -> Operand:
    if operator in GROUPS:
        if depth < 1:
            raise ValueError("filter complexity exceeds maximum allowed depth")
        if not isinstance(operand, list) or not operand:
            raise ValueError(f"filter is invalid: {operator} needs a list of filters")
        parsed = (parse_filter(child, depth=depth - 1) for child in operand)
        return tuple(child for child in parsed if child is not None)
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise ValueError("filter is invalid: $exists needs true or false")
        return operand
    if operator in LISTS:
        if not isinstance(operand, list) or not all(isinstance(item, str) for item in operand):
            raise ValueError(f"filter is invalid: {operator} needs a list of strings")
        return tuple(operand)
    if not isinstance(operand, str) or not operand:
        raise ValueError(f"filter is invalid: {operator} needs a string that is not empty")
    if operator in LIKES and (len(operand) - len(operand.rstrip("\\"))) % 2:
        raise ValueError(f"filter is invalid: {operator} ends with an escape character that escapes nothing")
    return operand


def contains_pattern(text: str) -> str:
    """The LIKE pattern for texts with ``text`` in them."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"


def matches(condition: StringFilter, value: str | None) -> bool:
    """Whether the value passes: the meaning of a filter, of which the store's SQL is the fast form.

    As in SQL, a value that is missing passes no comparison.
    """
    operator, operand = condition.operator, condition.operand
    if isinstance(operand, bool):
        return operand == (value is not None)
    if isinstance(operand, str):
        return value is not None and _compare(operator, operand, value)
    if operator in GROUPS:
        results = [matches(child, value) for child in operand if isinstance(child, StringFilter)]
        return all(results) if operator == "$and" else not results or any(results)
    return value is not None and (value in operand) == (operator == "$in")


def _compare(operator: str, operand: str, value: str) -> bool:
    if operator in PATTERNS:
        folded = operator not in ("$like", "$nlike")
        pattern = contains_pattern(operand) if "contains" in operator else operand
        found = _like(pattern.lower(), value.lower()) if folded else _like(pattern, value)
        return found != operator.startswith("$n")
    compare: Callable[[bytes, bytes], bool] = {
        "$eq": bytes.__eq__,
        "$ne": bytes.__ne__,
        "$gt": bytes.__gt__,
        "$gte": bytes.__ge__,
        "$lt": bytes.__lt__,
        "$lte": bytes.__le__,
    }[operator]
    return compare(value.encode(), operand.encode())


def _like(pattern: str, value: str) -> bool:
    parts = []
    literal = False
    for character in pattern:
        if literal or character not in "\\%_":
            parts.append(re.escape(character))
            literal = False
        elif character == "\\":
            literal = True
        else:
            parts.append(".*" if character == "%" else ".")
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None
