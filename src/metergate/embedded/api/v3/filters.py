"""Filters of a dimension as version 3 writes them, ``{"eq": "gpt-4"}``, and as they are kept, ``{"$eq": "gpt-4"}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPERATORS = {
    "eq": "$eq",
    "neq": "$ne",
    "in": "$in",
    "nin": "$nin",
    "contains": "$contains",
    "ncontains": "$ncontains",
    "exists": "$exists",
    "and": "$and",
    "or": "$or",
}
_NAMES = {kept: name for name, kept in _OPERATORS.items()}


def in_version_1(condition: Any) -> Any:
    """The filter as it is kept. Raises ValueError for an operator that version 3 does not have."""
    if not isinstance(condition, Mapping):
        return condition
    renamed = {}
    for operator, operand in condition.items():
        if operator not in _OPERATORS:
            raise ValueError(f"unknown filter operator {operator}")
        if operator in ("and", "or") and isinstance(operand, list):
            operand = [in_version_1(each) for each in operand]
        renamed[_OPERATORS[operator]] = operand
    return renamed


def in_version_3(condition: Mapping[str, Any]) -> dict[str, Any]:
    """The filter as version 3 shows it; operators that it does not have are left out."""
    shown = {}
    for operator, operand in condition.items():
        if operator in ("$and", "$or"):
            operand = [in_version_3(each) for each in operand]
        if operator in _NAMES:
            shown[_NAMES[operator]] = operand
    return shown
