"""``/api/v3/openmeter/meters``: the same meters, under the names of version 3. Paths take ids only."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.meters import Description, MeterInput, Name, Slug, input_findings, new_meter
from metergate.embedded.api.problems import Invalid
from metergate.embedded.api.requests import json_body, json_response, parameter_error, without_nulls
from metergate.embedded.api.v3.parameters import filters, page_of, sorting, text_filter
from metergate.embedded.domain.filters import matches
from metergate.embedded.domain.identifiers import is_id
from metergate.embedded.domain.meters import Aggregation, Meter, group_by_findings
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.domain.query import CUSTOMER, SUBJECT
from metergate.embedded.services import Services

PATH = "/api/v3/openmeter/meters"
_ORDERS = {
    "created_at": lambda meter: meter.created_at,
    "key": lambda meter: meter.slug,
    "name": lambda meter: meter.name,
    "aggregation": lambda meter: meter.aggregation,
    "updated_at": lambda meter: meter.updated_at,
}
Labels = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=63, pattern="^(?!kong|konnect|mesh|kic|_)")],
        Annotated[
            str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9A-Z]{1}([a-z0-9A-Z-._]*[a-z0-9A-Z]+)?\Z")
        ],
    ],
    Meta(max_length=50),
]


class CreateInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says of a new meter."""

    name: Name
    key: Slug
    aggregation: Literal["sum", "count", "unique_count", "avg", "min", "max", "latest"]
    event_type: Annotated[str, Meta(min_length=1)]
    description: Description | None = None
    labels: Labels | None = None
    events_from: Annotated[datetime, Meta(tz=True)] | None = None
    value_property: Annotated[str, Meta(min_length=1)] | None = None
    dimensions: dict[str, str] | None = None

    def in_version_1(self) -> MeterInput:
        """The same under the names of version 1."""
        return MeterInput(
            slug=self.key,
            aggregation=Aggregation(self.aggregation.upper()),
            event_type=self.event_type,
            name=self.name,
            description=self.description,
            event_from=self.events_from,
            value_property=self.value_property,
            group_by=self.dimensions,
            metadata=self.labels,
        )


class UpdateInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be changed; what is left out is reset."""

    name: Name | None = None
    description: Description | None = None
    labels: Labels | None = None
    dimensions: dict[str, str] | None = None


_read_create = without_nulls(msgspec.json.Decoder(CreateInput).decode)
_read_update = without_nulls(msgspec.json.Decoder(UpdateInput).decode)


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    one = f"{PATH}/{{meter}}"
    return [
        Route(PATH, partial(_list, services), methods=["GET"]),
        Route(PATH, partial(_create, services), methods=["POST"]),
        Route(one, partial(_get, services), methods=["GET"]),
        Route(one, partial(_update, services), methods=["PUT"]),
        Route(one, partial(_delete, services), methods=["DELETE"]),
    ]


def find_meter(services: Services, request: Request) -> Meter:
    """The meter that the path names by its id. Raises 404, and 400 for what is no id."""
    given = request.path_params["meter"]
    if not is_id(given):
        raise parameter_error("meterId", "string doesn't match the regular expression of a ULID", "path")
    return services.meters.find(given)


async def _list(services: Services, request: Request) -> Response:
    given = filters(request, ("key", "name"))
    by, descending = sorting(request, _ORDERS, descending=False)
    wanted = {name: text_filter(name, given[name]) for name in given}
    found = [
        meter
        for meter in services.meters.all()
        if all(
            matches(condition, meter.slug if name == "key" else meter.name)
            for name, condition in wanted.items()
        )
    ]
    found.sort(key=_ORDERS[by], reverse=descending)
    return json_response(page_of(request, found, describe))


async def _create(services: Services, request: Request) -> Response:
    given = (await json_body(request, _read_create)).in_version_1()
    findings = [*input_findings(given), *_reserved(given.group_by)]
    if findings:
        raise Invalid("\n".join(findings))
    return json_response(describe(await services.meters.create(new_meter(given, services.clock()))), 201)


async def _get(services: Services, request: Request) -> Response:
    return json_response(describe(find_meter(services, request)))


async def _update(services: Services, request: Request) -> Response:
    given = await json_body(request, _read_update)
    meter = find_meter(services, request)
    group_by = given.dimensions or {}
    if findings := [*group_by_findings(group_by, meter.value_property), *_reserved(group_by)]:
        raise Invalid("\n".join(findings))
    changed = replace(
        meter,
        name=given.name or meter.slug,
        description=given.description or None,
        group_by=group_by,
        metadata=given.labels,
        updated_at=services.clock(),
    )
    return json_response(describe(await services.meters.update(changed)))


async def _delete(services: Services, request: Request) -> Response:
    await services.meters.delete(find_meter(services, request), services.clock())
    return Response(status_code=204)


def _reserved(dimensions: dict[str, str] | None) -> list[str]:
    return [f"dimension {name} is reserved" for name in (dimensions or {}) if name in (SUBJECT, CUSTOMER)]


def describe(meter: Meter) -> dict[str, Any]:
    """The meter as version 3 shows it; what it does not have is left out, but for its labels."""
    fields: dict[str, Any] = {
        "id": meter.id,
        "key": meter.slug,
        "name": meter.name,
        "description": meter.description,
        "labels": dict(meter.metadata or {}),
        "aggregation": meter.aggregation.lower(),
        "event_type": meter.event_type,
        "events_from": None if meter.event_from is None else format_rfc3339(meter.event_from),
        "value_property": meter.value_property,
        "dimensions": dict(meter.group_by) or None,
        "created_at": format_rfc3339(meter.created_at),
        "updated_at": format_rfc3339(meter.updated_at),
    }
    return {name: value for name, value in fields.items() if value is not None}
