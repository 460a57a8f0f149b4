"""OpenMeter's filters of a time: ``{"$gte": "2026-01-31T00:00:00Z"}``, ``{"$and": [{"$gt": …}, {"$lt": …}]}``.

Rules as for texts (``filters``, its pkg/filter/filter.go): exactly one operator per object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from metergate.embedded.domain.filters import GROUPS
from metergate.embedded.domain.moments import parse_rfc3339

Operand: TypeAlias = "datetime | tuple[TimeFilter, ...]"
COMPARISONS: Mapping[str, Callable[[datetime, datetime], bool]] = {
    "$eq": datetime.__eq__,
    "$gt": datetime.__gt__,
    "$gte": datetime.__ge__,
    "$lt": datetime.__lt__,
    "$lte": datetime.__le__,
}


@dataclass(frozen=True, slots=True)
class TimeFilter:
    """One operator and what stands beside it."""

    operator: str
    operand: Operand


def parse_time_filter(value: Any, *, depth: int) -> TimeFilter | None:
    """The filter written as JSON, None for ``{}``. Raises ValueError with OpenMeter's words."""
    if not isinstance(value, Mapping):
        raise ValueError("filter is invalid: must be an object")
    given = {operator: operand for operator, operand in value.items() if operand is not None}
    if not given:
        return None
    if unknown := sorted(given.keys() - COMPARISONS.keys() - set(GROUPS)):
        raise ValueError(f"filter is invalid: unknown operator {unknown[0]}")
    if len(given) > 1:
        raise ValueError("filter is invalid: multiple operators are set")
    ((operator, operand),) = given.items()
    if operator in COMPARISONS:
        if not isinstance(operand, str):
            raise ValueError(f"filter is invalid: {operator} needs an RFC 3339 date-time")
        return TimeFilter(operator, parse_rfc3339(operand))
    if depth < 1:
        raise ValueError("filter complexity exceeds maximum allowed depth")
    if not isinstance(operand, list) or not operand:
        raise ValueError(f"filter is invalid: {operator} needs a list of filters")
    parsed = (parse_time_filter(child, depth=depth - 1) for child in operand)
    return TimeFilter(operator, tuple(child for child in parsed if child is not None))


def matches(condition: TimeFilter, moment: datetime) -> bool:
    """Whether the moment passes: the meaning of a filter, of which the store's SQL is the fast form."""
    if isinstance(condition.operand, datetime):
        return COMPARISONS[condition.operator](moment, condition.operand)
    results = [matches(child, moment) for child in condition.operand]
    return all(results) if condition.operator == "$and" else not results or any(results)
