"""Features and meters: what OpenMeter counts, and for which feature. Read as lists, all pages.

From ``GET /api/v1/features`` and ``GET /api/v1/meters``. Archived features and deleted meters are left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from metergate.errors import OpenMeterOutage
from metergate.openmeter.problems import Lack
from metergate.openmeter.values import decode_list, misshapen, read_timestamp

PAGE_SIZE = 1000
"""The most that OpenMeter takes."""

MOST_PAGES = 100

_Get = Callable[[str, str], Awaitable[bytes | Lack]]


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A condition on a text (OpenMeter's FilterString). What is None says nothing; all that is said must hold.

    ``unknown`` holds operators that are not among these, or whose operand is not as documented: a filter that
    has some cannot be evaluated, and must not count as one that lets everything through.
    """

    eq: str | None = None
    ne: str | None = None
    in_: tuple[str, ...] | None = None
    nin: tuple[str, ...] | None = None
    like: str | None = None
    nlike: str | None = None
    ilike: str | None = None
    nilike: str | None = None
    contains: str | None = None
    ncontains: str | None = None
    gt: str | None = None
    gte: str | None = None
    lt: str | None = None
    lte: str | None = None
    exists: bool | None = None
    and_: tuple[Filter, ...] | None = None
    or_: tuple[Filter, ...] | None = None
    unknown: tuple[str, ...] = ()


class Feature(msgspec.Struct, frozen=True):
    """A feature. ``meter_slug`` None: it is not metered.

    ``simple_filters`` are ``meterGroupByFilters`` as they were sent: dimension of the meter and its value.
    ``filters`` are ``advancedMeterGroupByFilters``, which say all that the simple ones say; on a server that
    does not send them, made from the simple ones.
    """

    key: str
    id: str
    meter_slug: str | None = None
    simple_filters: dict[str, str] = {}
    filters: dict[str, Filter] = {}


class Meter(msgspec.Struct, frozen=True):
    """A meter. ``aggregation`` in capitals: SUM, COUNT, UNIQUE_COUNT, AVG, MIN, MAX, LATEST.

    ``value_property`` and the values of ``group_by`` are JSONPaths into an event's ``data``; COUNT has no
    ``value_property``. ``event_from``: earlier events do not count; seconds since 1970.
    """

    slug: str
    id: str
    event_type: str
    aggregation: str
    value_property: str | None = None
    group_by: dict[str, str] = {}
    event_from: float | None = None


class Catalog(msgspec.Struct, frozen=True):
    """All features and meters of an OpenMeter, in its order."""

    features: tuple[Feature, ...] = ()
    meters: tuple[Meter, ...] = ()

    def feature(self, key: str) -> Feature | None:
        """The feature with that key."""
        return next((feature for feature in self.features if feature.key == key), None)

    def meter(self, slug_or_id: str) -> Meter | None:
        """The meter with that slug or id."""
        return next((meter for meter in self.meters if slug_or_id in (meter.slug, meter.id)), None)


async def read_catalog(get: _Get) -> Catalog:
    """Read both lists. ``get`` takes a path and how an error names it.

    Raises:
        OpenMeterError: what ``get`` raises; OpenMeterOutage also where a list is missing or not as documented.
    """
    endpoint = "GET /api/v1/features"
    features = await _pages(get, "/api/v1/features", endpoint)
    found = tuple(_feature(item, endpoint) for item in features if item.get("archivedAt") is None)
    endpoint = "GET /api/v1/meters"
    meters = await _pages(get, "/api/v1/meters", endpoint)
    return Catalog(found, tuple(_meter(item, endpoint) for item in meters if item.get("deletedAt") is None))


async def _pages(get: _Get, path: str, endpoint: str) -> list[dict[str, Any]]:
    """All items, each once. A server may ignore ``page`` and send the same list again: nothing new is the end."""
    items: dict[str, dict[str, Any]] = {}
    for page in range(1, MOST_PAGES + 1):
        body = await get(f"{path}?page={page}&pageSize={PAGE_SIZE}", endpoint)
        if isinstance(body, Lack):
            raise OpenMeterOutage(f"{endpoint} answered that it has none: {body.value}")
        known, found = len(items), decode_list(body, endpoint)
        items.update((_text(item, "id", endpoint), item) for item in found)
        if len(found) < PAGE_SIZE or len(items) == known:
            return list(items.values())
    raise OpenMeterOutage(f"{endpoint} has more than {MOST_PAGES} pages of {PAGE_SIZE}")


def _feature(item: dict[str, Any], endpoint: str) -> Feature:
    slug = item.get("meterSlug")
    simple = _texts(item, "meterGroupByFilters", endpoint)
    advanced = item.get("advancedMeterGroupByFilters") or {}
    if not isinstance(advanced, dict):
        raise misshapen(endpoint, "has advancedMeterGroupByFilters that are no object")
    filters = {name: Filter(eq=value) for name, value in simple.items()}
    filters.update((name, read_filter(condition)) for name, condition in advanced.items())
    return Feature(
        _text(item, "key", endpoint),
        _text(item, "id", endpoint),
        slug if isinstance(slug, str) and slug else None,
        simple,
        filters,
    )


def _meter(item: dict[str, Any], endpoint: str) -> Meter:
    value_property = item.get("valueProperty")
    return Meter(
        _text(item, "slug", endpoint),
        _text(item, "id", endpoint),
        _text(item, "eventType", endpoint),
        _text(item, "aggregation", endpoint).upper(),
        value_property if isinstance(value_property, str) and value_property else None,
        _texts(item, "groupBy", endpoint),
        read_timestamp(item, "eventFrom", endpoint),
    )


def read_filter(condition: Any) -> Filter:
    """A filter from its JSON form, ``{"$in": ["a", "b"]}``. An operator with null says nothing."""
    if not isinstance(condition, dict):
        return Filter(unknown=(type(condition).__name__,))
    said: dict[str, Any] = {}
    unknown: list[str] = []
    for operator, operand in condition.items():
        if operand is None:
            continue
        read = _OPERANDS.get(operator, _unreadable)(operand)
        if read is None:
            unknown.append(operator)
        else:
            said[_field(operator)] = read
    return msgspec.structs.replace(Filter(unknown=tuple(unknown)), **said)


def _field(operator: str) -> str:
    name = operator.removeprefix("$")
    return f"{name}_" if name in ("in", "and", "or") else name


def _read_text(operand: Any) -> str | None:
    return operand if isinstance(operand, str) else None


def _read_list(operand: Any) -> tuple[str, ...] | None:
    listed = isinstance(operand, list) and all(isinstance(each, str) for each in operand)
    return tuple(operand) if listed else None


def _read_flag(operand: Any) -> bool | None:
    return operand if isinstance(operand, bool) else None


def _read_filters(operand: Any) -> tuple[Filter, ...] | None:
    return tuple(read_filter(each) for each in operand) if isinstance(operand, list) else None


def _unreadable(operand: Any) -> Any:
    return None


_OPERANDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("$eq", "$ne", "$like", "$nlike", "$ilike", "$nilike", "$contains", "$ncontains"), _read_text
    ),
    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), _read_text),
    **dict.fromkeys(("$in", "$nin"), _read_list),
    **dict.fromkeys(("$and", "$or"), _read_filters),
    "$exists": _read_flag,
}


def _text(item: dict[str, Any], name: str, endpoint: str) -> str:
    text = item.get(name)
    if not isinstance(text, str):
        raise misshapen(endpoint, f"has an item without {name}")
    return text


def _texts(item: dict[str, Any], name: str, endpoint: str) -> dict[str, str]:
    texts = item.get(name) or {}
    if not (isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())):
        raise misshapen(endpoint, f"has a {name} that is no object of texts")
    return texts
