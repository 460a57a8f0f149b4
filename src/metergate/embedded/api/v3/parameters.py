"""Parameters as version 3 writes them: ``page[size]=20``, ``filter[subject][oeq]=a,b``, ``sort=time asc``.

Rules: OpenMeter's api/v3/filters (parse.go, convert.go) and api/v3/request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from starlette.requests import Request

from metergate.embedded.api.problems import InvalidParameter
from metergate.embedded.api.requests import members, parameter_error, single
from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.identifiers import is_id
from metergate.embedded.domain.moments import parse_rfc3339
from metergate.embedded.domain.time_filters import TimeFilter

DEFAULT_SIZE = 20
MAX_SIZE = 100
_PAGE = frozenset({"size", "number", "after", "before"})
_MAX_ITEMS = 50
_MAX_LENGTH = 1024
_FILTER = re.compile(r"filter\[([^\[\]]+)\](?:\[([^\[\]]+)\])?")
_TEXT_OPERATORS = {
    "eq": "$eq",
    "neq": "$ne",
    "gt": "$gt",
    "gte": "$gte",
    "lt": "$lt",
    "lte": "$lte",
    "contains": "$contains",
}
_TIME_OPERATORS = {name: f"${name}" for name in ("eq", "gt", "gte", "lt", "lte")}
Item = TypeVar("Item")
T = TypeVar("T", StringFilter, TimeFilter)


def page_number(request: Request, name: str, default: int, most: int) -> int:
    """``page[size]`` or ``page[number]``: from 1 to ``most``."""
    field = f"page[{name}]"
    given = page_member(request, name)
    if given is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", given) or not 1 <= int(given) <= most:
        raise parameter_error(field, f"must be between 1 and {most}")
    return int(given)


def page_member(request: Request, name: str) -> str | None:
    """``page[name]``, None when it is not given. Raises for a page that is not written so."""
    given = members(request, "page")
    if unknown := given.keys() - _PAGE:
        raise parameter_error("page", f"unknown: page[{min(unknown)}]")
    return given.get(name)


def page_of(request: Request, items: Sequence[Item], view: Callable[[Item], Any]) -> dict[str, Any]:
    """The page of these items that is asked for."""
    size, number = page_number(request, "size", DEFAULT_SIZE, 1000), page_number(request, "number", 1, 10**6)
    shown = [view(item) for item in items[(number - 1) * size : number * size]]
    return {"data": shown, "meta": {"page": {"size": size, "number": number, "total": len(items)}}}


def filters(request: Request, known: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """For each field that is filtered by: pairs of operator and value. Raises for fields that are not known."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, value in request.query_params.multi_items():
        if name != "filter" and not name.startswith("filter["):
            continue
        match = _FILTER.fullmatch(name)
        if match is None:
            raise parameter_error(name, "malformed filter; write filter[field][operator]=value")
        field, operator = match[1], match[2] or ("eq" if value else "exists")
        if field not in known:
            raise parameter_error("filter", f"unknown filter field(s): {field}")
        if len(value) > _MAX_LENGTH:
            raise parameter_error(name, f"must not be longer than {_MAX_LENGTH} characters")
        if any(operator == other for other, _ in found.get(field, ())):
            raise parameter_error(name, "repeated query parameter not allowed")
        found.setdefault(field, []).append((operator, value))
    return found


def text_filter(field: str, given: list[tuple[str, str]]) -> StringFilter:
    """What has to hold of a text; all of it where several operators are given."""
    return _all(StringFilter, [_text(field, operator, value) for operator, value in given])


def time_filter(field: str, given: list[tuple[str, str]]) -> TimeFilter:
    """What has to hold of a time."""
    conditions = []
    for operator, value in given:
        if operator not in _TIME_OPERATORS:
            raise _unsupported(field, operator)
        conditions.append(TimeFilter(_TIME_OPERATORS[operator], _time(field, operator, value)))
    return _all(TimeFilter, conditions)


def ids(field: str, given: list[tuple[str, str]]) -> tuple[str, ...]:
    """The ids in ``eq`` and ``oeq``."""
    found: list[str] = []
    for operator, value in given:
        if operator not in ("eq", "oeq"):
            raise parameter_error(f"filter[{field}]", "only eq and oeq operators are supported")
        found += _items(field, operator, value) if operator == "oeq" else [value]
    if wrong := [each for each in found if not is_id(each)]:
        raise parameter_error(f"filter[{field}]", f"{wrong[0]} is no ULID")
    return tuple(found)


def sorting(request: Request, fields: Collection[str], *, descending: bool) -> tuple[str, bool]:
    """The field to sort by, the first of ``fields`` where none is named, and whether descending.

    ``descending`` is what holds when no direction is named.
    """
    given = single(request, "sort") or next(iter(fields))
    field, _, direction = given.partition(" ")
    if field not in fields:
        raise parameter_error("sort", f'unsupported sort field: "{field}"')
    if direction not in ("", "asc", "desc"):
        raise parameter_error("sort", f'unsupported sort direction: "{direction}"')
    return field, direction == "desc" if direction else descending


def _text(field: str, operator: str, value: str) -> StringFilter:
    if operator in ("exists", "nexists"):
        return StringFilter("$exists", operator == "exists")
    if operator == "oeq":
        return StringFilter("$in", tuple(_items(field, operator, value)))
    if operator == "ocontains":
        items = _items(field, operator, value)
        return StringFilter("$or", tuple(StringFilter("$contains", item) for item in items))
    if operator not in _TEXT_OPERATORS:
        raise _unsupported(field, operator)
    if not value:
        raise parameter_error(f"filter[{field}][{operator}]", "must not be empty")
    return StringFilter(_TEXT_OPERATORS[operator], value)


def _time(field: str, operator: str, value: str) -> datetime:
    try:
        return parse_rfc3339(value)
    except ValueError as exception:
        raise parameter_error(f"filter[{field}][{operator}]", f"invalid datetime: {exception}") from exception


def _items(field: str, operator: str, value: str) -> Iterator[str]:
    items = [item for part in value.split(",") if (item := part.strip())]
    if len(items) > _MAX_ITEMS:
        raise parameter_error(
            f"filter[{field}][{operator}]", f"too many comma-separated items (max {_MAX_ITEMS})"
        )
    yield from items


def _all(kind: Callable[[str, tuple[T, ...]], T], conditions: list[T]) -> T:
    return conditions[0] if len(conditions) == 1 else kind("$and", tuple(conditions))


def _unsupported(field: str, operator: str) -> InvalidParameter:
    return parameter_error(f"filter[{field}][{operator}]", "unsupported operator")
