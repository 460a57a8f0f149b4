"""Meters: which events they take and what they read from them (openmeter/meter/meter.go, parse.go)."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from metergate.embedded.domain.jsonpath import MISSING, look_up, parse_path

SLUG = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
"""OpenMeter knows the underscore only; the hyphen is ours, since many features and meters in the field carry
one.
"""
_DIMENSION = re.compile(r"[a-zA-Z_][0-9a-zA-Z_]*")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_GO_TYPES: dict[type, str] = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}


class Aggregation(StrEnum):
    """How the values of a meter's events become one."""

    SUM = "SUM"
    COUNT = "COUNT"
    UNIQUE_COUNT = "UNIQUE_COUNT"
    AVG = "AVG"
    MIN = "MIN"
    MAX = "MAX"
    LATEST = "LATEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """``value_property`` is None for COUNT; ``group_by`` maps a dimension to its JSONPath. Times are aware,
    in UTC.
    """

    id: str
    slug: str
    name: str
    aggregation: Aggregation
    event_type: str
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    event_from: datetime | None = None
    value_property: str | None = None
    group_by: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] | None = None
    deleted_at: datetime | None = None


def value_findings(aggregation: Aggregation, value_property: str | None) -> list[str]:
    """What is wrong with the value property for this aggregation, in OpenMeter's words."""
    if aggregation is Aggregation.COUNT:
        if value_property is not None:
            return ["meter value property is not allowed when the aggregation is count"]
        return []
    if value_property is None:
        return ["meter value property is required when the aggregation is not count"]
    if not value_property:
        return ["meter value property cannot be empty when the aggregation is not count"]
    return [f"meter value property {message}" for message in _path_findings(value_property)]


def group_by_findings(group_by: Mapping[str, str], value_property: str | None) -> list[str]:
    """What is wrong with the dimensions, in OpenMeter's words."""
    findings = []
    for key, path in group_by.items():
        if not _DIMENSION.fullmatch(key):
            findings.append(
                f"meter group by key {key} is invalid, "
                "only alphanumeric and underscore characters are allowed"
            )
        findings += [f"meter group by value {message} for key {key}" for message in _path_findings(path)]
        if path == value_property:
            findings.append(f"meter group by value {key} cannot be the same as value property")
    if len(set(group_by.values())) < len(group_by):
        findings.append("meter group by values must be unique")
    return findings


def _path_findings(path: str) -> list[str]:
    try:
        parse_path(path)
    except ValueError as exception:
        return [str(exception)]
    return []


def event_error(meter: Meter, data: str | None) -> str | None:
    """Why this meter finds no value in an event's data; None when it does (``validationError`` of the event
    list).
    """
    if meter.aggregation is Aggregation.COUNT:
        return None
    document = None if data is None else msgspec.json.decode(data)
    if document is None or meter.value_property is None:
        return "invalid event: null and missing value property"
    value = look_up(document, parse_path(meter.value_property))
    if value is MISSING:
        return f"invalid event: missing value property: {_quoted(meter.value_property)}"
    if value is None:
        return "invalid event: value cannot be null"
    if meter.aggregation is Aggregation.UNIQUE_COUNT:
        return None
    return _number_error(value)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _number_error(value: Any) -> str | None:
    if isinstance(value, str):
        number = read_number(value)
        if number is None:
            return f"invalid event: value cannot be parsed as float64: {value}"
        if math.isnan(number):
            return "invalid event: value cannot be NaN"
        return "invalid event: value cannot be infinity" if math.isinf(number) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "invalid event: value cannot be infinity" if abs(value) > sys.float_info.max else None
    return f"invalid event: unsupported value property type: {_GO_TYPES[type(value)]}"


def read_number(text: str) -> float | None:
    """The number in a text, as ClickHouse and Go read it: no spaces, no underscores; None when it is none."""
    if _NUMBER.fullmatch(text) or text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(text)
    return None
