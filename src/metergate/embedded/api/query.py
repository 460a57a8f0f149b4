"""``/api/v1/meters/{meter}/query`` and the lists beside it (openmeter/meter/httphandler/query.go,
mapping.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.csv import csv_response, to_second
from metergate.embedded.api.meters import find_meter
from metergate.embedded.api.problems import Invalid, NotFound
from metergate.embedded.api.requests import (
    choice,
    json_body,
    json_response,
    large_response,
    members,
    moment,
    parameter_error,
    text,
    texts,
    without_nulls,
)
from metergate.embedded.domain.filters import StringFilter, one_of, parse_filter
from metergate.embedded.domain.meters import Meter
from metergate.embedded.domain.moments import format_rfc3339, in_utc
from metergate.embedded.domain.query import CUSTOMER, SUBJECT, MeterQuery, Row, query_findings
from metergate.embedded.domain.windows import WindowSize, find_zone
from metergate.embedded.services import Services

Texts = Annotated[list[str], Meta(max_length=100)]
_WINDOWS = tuple(WindowSize)


class QueryBody(Struct, frozen=True, rename="camel", kw_only=True):
    """The question as it comes in a POST; that of a GET is brought into the same form."""

    client_id: Annotated[str, Meta(min_length=1, max_length=36)] | None = None
    start: Annotated[datetime, Meta(tz=True)] | None = msgspec.field(default=None, name="from")
    end: Annotated[datetime, Meta(tz=True)] | None = msgspec.field(default=None, name="to")
    window_size: WindowSize | None = None
    window_time_zone: str | None = None
    subject: Texts | None = None
    filter_customer_id: Texts | None = None
    filter_group_by: dict[str, list[str]] | None = None
    advanced_meter_group_by_filters: dict[str, Any] | None = None
    group_by: Texts | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if (moment := getattr(self, name)) is not None:
                msgspec.structs.force_setattr(self, name, in_utc(moment))


_read = without_nulls(msgspec.json.Decoder(QueryBody).decode)


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    one = "/api/v1/meters/{meter}"
    return [
        Route(f"{one}/query", partial(_get, services), methods=["GET"]),
        Route(f"{one}/query", partial(_post, services), methods=["POST"]),
        Route(f"{one}/subjects", partial(_subjects, services), methods=["GET"]),
        Route(f"{one}/group-by/{{dimension}}/values", partial(_values, services), methods=["GET"]),
    ]


async def _get(services: Services, request: Request) -> Response:
    return await answer(services, request, read_parameters(request))


async def _post(services: Services, request: Request) -> Response:
    body = await json_body(request, _read)
    return await answer(services, request, body)


def read_parameters(request: Request) -> QueryBody:
    """The question of a GET."""
    window = choice(request, "windowSize", _WINDOWS)
    filters = {key: [value] for key, value in members(request, "filterGroupBy", bare=True).items()}
    return QueryBody(
        client_id=text(request, "clientId", longest=36),
        start=moment(request, "from"),
        end=moment(request, "to"),
        window_size=None if window is None else WindowSize(window),
        window_time_zone=text(request, "windowTimeZone"),
        subject=_list_of(request, "subject"),
        filter_customer_id=_list_of(request, "filterCustomerId"),
        filter_group_by=filters or None,
        advanced_meter_group_by_filters=_read_advanced(request),
        group_by=_list_of(request, "groupBy"),
    )


def _list_of(request: Request, name: str) -> list[str] | None:
    values = texts(request, name)
    if values is not None and len(values) > 100:
        raise parameter_error(name, "maximum number of items is 100")
    return None if values is None else list(values)


def _read_advanced(request: Request) -> dict[str, Any] | None:
    name = "advancedMeterGroupByFilters"
    value = text(request, name)
    try:
        return None if value is None else msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as exception:
        raise parameter_error(name, f"it must be a JSON object: {exception}") from exception


async def answer(services: Services, request: Request, body: QueryBody) -> Response:
    """What the meter of the path has to say, in JSON or CSV."""
    meter = find_meter(services, request)
    question = await _question(services, meter, body)
    if findings := query_findings(meter, question):
        raise Invalid("\n".join(findings))
    rows = await services.usage.query(meter, question)
    if request.headers.get("accept", "").partition(";")[0].strip().lower() == "text/csv":
        return await _csv_response(services, meter, question.group_by, rows)
    return await large_response(lambda: json_response(_result(body, rows)), len(rows))


async def _question(services: Services, meter: Meter, body: QueryBody) -> MeterQuery:
    """Subjects and customers to filter by are grouped by as well."""
    customers = await _customers(services, body.filter_customer_id or [])
    group_by = list(dict.fromkeys(body.group_by or []))
    for key, filtered in ((SUBJECT, body.subject), (CUSTOMER, customers)):
        if filtered and key not in group_by:
            group_by.append(key)
    try:
        zone = find_zone(body.window_time_zone or "UTC")
    except ValueError as exception:
        raise Invalid(f"invalid time zone: {exception}") from exception
    return MeterQuery(
        start=body.start,
        end=body.end,
        window=body.window_size,
        zone=zone,
        subjects=tuple(body.subject or ()),
        customers=customers,
        filters=_filters(body),
        group_by=tuple(group_by),
    )


async def _customers(services: Services, ids: Sequence[str]) -> Mapping[str, frozenset[str]]:
    known = await services.customers.subjects_of(ids) if ids else {}
    if unknown := [f"customer with id {id} not found" for id in ids if id not in known]:  # noqa: A001
        raise NotFound("\n".join(unknown))
    return known


def _filters(body: QueryBody) -> dict[str, StringFilter]:
    if body.filter_group_by and body.advanced_meter_group_by_filters:
        raise Invalid("advanced meter group by filters and filter group by cannot be used together")
    filters = {key: one_of(*values) for key, values in (body.filter_group_by or {}).items() if values}
    for key, given in (body.advanced_meter_group_by_filters or {}).items():
        try:
            condition = parse_filter(given)
        except ValueError as exception:
            raise Invalid(f"invalid filter for group by {key}: {exception}") from exception
        if condition is not None:
            filters[key] = condition
    return filters


def _result(body: QueryBody, rows: Sequence[Row]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if body.start is not None:
        result["from"] = format_rfc3339(body.start)
    if body.end is not None:
        result["to"] = format_rfc3339(body.end)
    if body.window_size is not None:
        result["windowSize"] = body.window_size
    result["data"] = [_describe(row) for row in rows]
    return result


def _describe(row: Row) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "value": _go_number(row.value),
        "windowStart": format_rfc3339(row.start),
        "windowEnd": format_rfc3339(row.end),
        "subject": row.subject,
        "groupBy": row.group_by,
    }
    if row.customer is not None:
        shown["customerId"] = row.customer
    return shown


def _go_number(value: float) -> float | int:
    """Go writes a whole float64 without a fraction, up to 1e21."""
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


async def _csv_response(
    services: Services, meter: Meter, group_by: Sequence[str], rows: Sequence[Row]
) -> Response:
    subjects = {row.subject for row in rows if row.subject is not None}
    names = await services.customers.display_names_of(subjects) if subjects else {}
    dimensions = [key for key in group_by if key != SUBJECT]
    subject_columns = ["subject"] if SUBJECT in group_by else []
    if subject_columns and names:
        subject_columns.append("subject_display_name")
    lines = [["window_start", "window_end", *subject_columns, *dimensions, "value"]]
    for row in rows:
        subject = row.subject or ""
        named = [subject, names.get(subject, "")][: len(subject_columns)]
        groups = [_csv_group(row, key) for key in dimensions]
        lines.append([to_second(row.start), to_second(row.end), *named, *groups, f"{row.value:f}"])
    return csv_response(meter.slug, lines)


def _csv_group(row: Row, key: str) -> str:
    return (row.customer if key == CUSTOMER else row.group_by.get(key)) or ""


async def _subjects(services: Services, request: Request) -> Response:
    meter = find_meter(services, request)
    found = await services.usage.subjects(meter, moment(request, "from"), moment(request, "to"))
    return json_response(found)


async def _values(services: Services, request: Request) -> Response:
    """Of the last 24 hours unless said otherwise; from at most 90 days ago, over at most 30 days."""
    meter = find_meter(services, request)
    dimension = request.path_params["dimension"]
    if dimension not in meter.group_by:
        raise Invalid(f"invalid group by: {dimension}")
    now = services.clock()
    oldest = now - timedelta(days=90)
    end = moment(request, "to")
    start = moment(request, "from") or max(end or now, oldest) - timedelta(days=1)
    if start < oldest:
        raise Invalid("from date is too old: it must be within the last 90 days")
    if end is not None and end <= start:
        raise Invalid("from must be before to")
    if (end or now) - start > timedelta(days=30):
        raise Invalid("the range from from to to must not be longer than 30 days")
    return json_response(await services.usage.values(meter, dimension, start, end))
