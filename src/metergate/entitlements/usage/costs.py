"""What an event costs a feature: the feature's meter, read so far that an event can be counted here. Pure.

Where OpenMeter's rule cannot be followed to the letter, an event counts rather than not: what counts too much
is corrected as soon as OpenMeter has seen the event.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metergate.entitlements.usage.conditions import holds
from metergate.openmeter.catalog import Catalog, Feature, Filter, Meter

Kind = Literal["flow", "unique", "level"]
"""How costs go together: ``flow`` (COUNT, SUM) adds up, ``unique`` (UNIQUE_COUNT) adds up values that are new,
``level`` (LATEST, MAX) does not add up.
"""
_KINDS: Mapping[str, Kind] = {
    "COUNT": "flow",
    "SUM": "flow",
    "UNIQUE_COUNT": "unique",
    "LATEST": "level",
    "MAX": "level",
}
_STEP = re.compile(r"""\.([^.\[\]'"*?@]+)|\['([^']+)'\]|\["([^"]+)"\]|\[(\d+)\]""")

_MISSING = object()
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class FeatureCost:
    """How events of one type count for one feature. ``value`` is where the number is, None where each is 1."""

    feature: str
    kind: Kind
    value: _Path | None = None
    conditions: tuple[tuple[_Path | None, Filter], ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether every event of the type costs 1."""
        return self.kind == "flow" and self.value is None and not self.conditions

    def counts(self, data: Mapping[str, Any] | None) -> bool:
        """Whether the feature's filters let an event with this data through."""
        return all(
            path is None or holds(condition, as_text(data, path)) for path, condition in self.conditions
        )

    def amount(self, data: Mapping[str, Any] | None) -> float:
        """The number that an event with this data adds, or sets where it is a level; never below 0."""
        return 1.0 if self.value is None else max(_number(_look(data, self.value)), 0.0)

    def key(self, data: Mapping[str, Any] | None) -> str | None:
        """What makes an event another one for ``unique``; None where it does not count."""
        text = as_text(data, self.value or ())
        return None if text == "null" else text


@dataclass(frozen=True, slots=True)
class Costs:
    """The features that events count for, by event type; and why those of ``unknown`` count nothing."""

    by_type: Mapping[str, tuple[FeatureCost, ...]]
    kinds: Mapping[str, Kind]
    unknown: Mapping[str, str]

    def of(self, event_type: str) -> tuple[FeatureCost, ...]:
        """The features for which events of this type count."""
        return self.by_type.get(event_type, ())


NONE = Costs({}, {}, {})


def read_costs(catalog: Catalog, features: Iterable[str]) -> Costs:
    """How events count for these features. One without a meter counts nothing, as does one that is not there."""
    by_type: dict[str, tuple[FeatureCost, ...]] = {}
    kinds: dict[str, Kind] = {}
    unknown: dict[str, str] = {}
    for key in sorted(set(features)):
        feature = catalog.feature(key)
        if feature is None or feature.meter_slug is None:
            continue
        meter = catalog.meter(feature.meter_slug)
        cost = f"its meter {feature.meter_slug} is not there" if meter is None else _cost(feature, meter)
        if meter is None or isinstance(cost, str):
            unknown[key] = str(cost)
            continue
        by_type[meter.event_type] = (*by_type.get(meter.event_type, ()), cost)
        kinds[key] = cost.kind
    return Costs(by_type, kinds, unknown)


def _cost(feature: Feature, meter: Meter) -> FeatureCost | str:
    """How events count for a feature, or why that is not known."""
    kind = _KINDS.get(meter.aggregation)
    if kind is None:
        return f"its meter {meter.slug} aggregates by {meter.aggregation}, which no balance can be counted by"
    value = None if meter.value_property is None else read_path(meter.value_property)
    if value is None and meter.aggregation != "COUNT":
        return f"the valueProperty {meter.value_property} of its meter {meter.slug} is more than a plain path"
    conditions = tuple(
        (read_path(meter.group_by.get(name, "")), condition) for name, condition in feature.filters.items()
    )
    return FeatureCost(feature.key, kind, value, conditions)


def read_path(path: str) -> _Path | None:
    """The steps of a JSONPath that names one value, such as ``$.usage.tokens`` or ``$['a b'][0]``; else None."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            return None
        name = found[1] or found[2] or found[3]
        steps.append(int(found[4]) if name is None else name)
        at = found.end()
    return tuple(steps) or None


def as_text(data: Mapping[str, Any] | None, path: _Path) -> str:
    """A value as OpenMeter compares it: a text as it is, a missing one as the empty text, others as in JSON."""
    value = _look(data, path)
    if isinstance(value, str):
        return value
    if value is _MISSING:
        return ""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _look(data: Any, path: _Path) -> Any:
    for step in path:
        if isinstance(step, int):
            found = isinstance(data, list | tuple) and step < len(data)
        else:
            found = isinstance(data, Mapping) and step in data
        if not found:
            return _MISSING
        data = data[step]
    return data


def _number(value: Any) -> float:
    """A number or a text of one; 0 for what OpenMeter would skip."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0
