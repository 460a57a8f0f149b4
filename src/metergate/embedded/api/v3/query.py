"""``POST /api/v3/openmeter/meters/{meter}/query`` (api/v3/handlers/meters/query).

Values are decimal strings; subject and customer stand among the dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.csv import csv_response, to_second
from metergate.embedded.api.problems import Invalid, Issue
from metergate.embedded.api.requests import json_body, json_response, large_response, without_nulls
from metergate.embedded.api.v3.filters import in_version_1
from metergate.embedded.api.v3.meters import PATH, find_meter
from metergate.embedded.domain.filters import StringFilter, parse_filter
from metergate.embedded.domain.meters import Meter
from metergate.embedded.domain.moments import format_rfc3339, in_utc
from metergate.embedded.domain.query import CUSTOMER, SUBJECT, MeterQuery, Row, query_findings
from metergate.embedded.domain.windows import WindowSize, find_zone
from metergate.embedded.services import Services

SIZES = {
    "PT1M": WindowSize.MINUTE,
    "PT1H": WindowSize.HOUR,
    "P1D": WindowSize.DAY,
    "P1M": WindowSize.MONTH,
}
_DEPTH = 2
_ONLY_EQUALS = "only eq and in filter operators are supported for this field"


class QueryFilters(Struct, frozen=True, forbid_unknown_fields=True):
    """Conditions on at most ten dimensions."""

    dimensions: Annotated[dict[str, dict[str, Any]], Meta(max_length=10)] = {}


class QueryInput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The question as it comes."""

    start: Annotated[datetime, Meta(tz=True)] | None = msgspec.field(default=None, name="from")
    end: Annotated[datetime, Meta(tz=True)] | None = msgspec.field(default=None, name="to")
    granularity: Literal["PT1M", "PT1H", "P1D", "P1M"] | None = None
    time_zone: str = "UTC"
    group_by_dimensions: Annotated[list[str], Meta(max_length=100)] | None = None
    filters: QueryFilters | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if (moment := getattr(self, name)) is not None:
                msgspec.structs.force_setattr(self, name, in_utc(moment))


_read = without_nulls(msgspec.json.Decoder(QueryInput).decode)


def routes(services: Services) -> list[Route]:
    """The route of this module."""
    return [Route(f"{PATH}/{{meter}}/query", partial(_query, services), methods=["POST"])]


async def _query(services: Services, request: Request) -> Response:
    given = await json_body(request, _read)
    meter = find_meter(services, request)
    question = await _question(services, meter, given)
    if findings := query_findings(meter, question):
        raise Invalid("\n".join(findings))
    rows = await services.usage.query(meter, question)
    if request.headers.get("accept", "").partition(";")[0].strip().lower() == "text/csv":
        return _csv(services, meter, question.group_by, rows)
    result: dict[str, Any] = {}
    if given.start is not None:
        result["from"] = format_rfc3339(given.start)
    if given.end is not None:
        result["to"] = format_rfc3339(given.end)
    return await large_response(
        lambda: json_response(result | {"data": [_describe(row) for row in rows]}), len(rows)
    )


async def _question(services: Services, meter: Meter, given: QueryInput) -> MeterQuery:
    """Subjects and customers to filter by are grouped by as well."""
    conditions = dict(given.filters.dimensions if given.filters else {})
    subjects = _values(conditions.pop(SUBJECT, {}), SUBJECT)
    customers = await _customers(services, _values(conditions.pop(CUSTOMER, {}), CUSTOMER))
    group_by = _group_by(meter, given)
    for key, filtered in ((SUBJECT, subjects), (CUSTOMER, customers)):
        if filtered and key not in group_by:
            group_by.append(key)
    try:
        zone = find_zone(given.time_zone)
    except ValueError as exception:
        raise Issue(
            "invalid_time_zone", "invalid time zone", "time_zone", value=given.time_zone
        ) from exception
    return MeterQuery(
        start=given.start,
        end=given.end,
        window=SIZES[given.granularity] if given.granularity else None,
        zone=zone,
        subjects=subjects,
        customers=customers,
        filters=_filters(meter, conditions),
        group_by=tuple(group_by),
    )


def _group_by(meter: Meter, given: QueryInput) -> list[str]:
    keys = list(dict.fromkeys(given.group_by_dimensions or ()))
    for key in keys:
        if key not in (SUBJECT, CUSTOMER) and key not in meter.group_by:
            raise Issue("invalid_group_by", "invalid group by dimension", "group_by_dimensions", value=key)
    return keys


def _values(condition: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The values in ``{"eq": …}`` or ``{"in": […]}``; nothing else can be asked of these two."""
    field = f"filters.dimensions.{name}"
    parsed = _parse(condition, field)
    if parsed is None:
        return ()
    if parsed.operator == "$eq":
        return (str(parsed.operand),)
    if parsed.operator == "$in" and isinstance(parsed.operand, tuple):
        return tuple(str(each) for each in parsed.operand)
    raise Issue("unsupported_filter_operator", _ONLY_EQUALS, field)


async def _customers(services: Services, ids: Sequence[str]) -> Mapping[str, frozenset[str]]:
    known = await services.customers.subjects_of(ids) if ids else {}
    for identifier in ids:
        if identifier not in known:
            field = f"filters.dimensions.{CUSTOMER}"
            raise Issue("customer_not_found", "customer not found", field, status=404, customer_id=identifier)
    return known


def _filters(meter: Meter, conditions: Mapping[str, Mapping[str, Any]]) -> dict[str, StringFilter]:
    found = {}
    for name, condition in conditions.items():
        field = f"filters.dimensions.{name}"
        if name not in meter.group_by:
            raise Issue("invalid_dimension_filter", "invalid dimension filter", field)
        if (parsed := _parse(condition, field)) is not None:
            found[name] = parsed
    return found


def _parse(condition: Mapping[str, Any], field: str) -> StringFilter | None:
    try:
        return parse_filter(in_version_1(condition), depth=_DEPTH)
    except ValueError as exception:
        raise Issue("invalid_filter", str(exception), field) from exception


def _describe(row: Row) -> dict[str, Any]:
    dimensions = {key: value for key, value in row.group_by.items() if value is not None}
    if row.subject is not None:
        dimensions["subject"] = row.subject
    if row.customer is not None:
        dimensions["customer_id"] = row.customer
    return {
        "value": decimal_text(row.value),
        "from": format_rfc3339(row.start),
        "to": format_rfc3339(row.end),
        "dimensions": dimensions,
    }


def decimal_text(value: float) -> str:
    """The shortest decimal that means this number, without an exponent: ``0.1``, ``2000``."""
    return format(value, ".0f") if value.is_integer() else _without_exponent(repr(value))


def _without_exponent(text: str) -> str:
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    digits = len(mantissa.lstrip("-").replace(".", "")) - 1 - int(exponent)
    return format(float(text), f".{max(digits, 0)}f")


def _csv(services: Services, meter: Meter, group_by: Sequence[str], rows: Sequence[Row]) -> Response:
    dimensions = [key for key in group_by if key not in (SUBJECT, CUSTOMER)]
    header = ["from", "to", *([SUBJECT] if SUBJECT in group_by else [])]
    if CUSTOMER in group_by:
        header += ["customer_id", "customer_key", "customer_name"]
    lines = [[*header, *dimensions, "value"]]
    for row in rows:
        line = [to_second(row.start), to_second(row.end)]
        if SUBJECT in group_by:
            line.append(row.subject or "")
        if CUSTOMER in group_by:
            line += _customer_fields(services, row.customer)
        lines.append([*line, *((row.group_by.get(key) or "") for key in dimensions), decimal_text(row.value)])
    return csv_response(meter.slug, lines)


def _customer_fields(services: Services, identifier: str | None) -> list[str]:
    if identifier is None:
        return ["", "", ""]
    customer = services.catalog.customers.find(identifier)
    return [identifier, customer.key or "", customer.name]
