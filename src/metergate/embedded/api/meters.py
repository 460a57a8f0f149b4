"""``/api/v1/meters``: making, changing and listing meters (openmeter/meter/httphandler/meter.go).

``POST`` answers 200, as OpenMeter's code does (its description says 201).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import key_or_id
from metergate.embedded.api.problems import Invalid
from metergate.embedded.api.requests import (
    boolean,
    choice,
    integer,
    json_body,
    json_response,
    without_nulls,
)
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.meters import (
    SLUG,
    Aggregation,
    Meter,
    group_by_findings,
    value_findings,
)
from metergate.embedded.domain.moments import format_rfc3339, in_utc
from metergate.embedded.services import Services

Slug = Annotated[str, Meta(min_length=1, max_length=64, pattern=rf"^{SLUG.pattern}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Description = Annotated[str, Meta(max_length=1024)]
_ORDERS = {
    "key": lambda meter: meter.slug,
    "name": lambda meter: meter.name,
    "aggregation": lambda meter: meter.aggregation,
    "createdAt": lambda meter: meter.created_at,
    "updatedAt": lambda meter: meter.updated_at,
}


class MeterInput(Struct, frozen=True, rename="camel", kw_only=True):
    """What is said of a new meter, over the API and in a configuration."""

    slug: Slug
    aggregation: Aggregation
    event_type: Annotated[str, Meta(min_length=1)]
    name: Name | None = None
    description: Description | None = None
    event_from: Annotated[datetime, Meta(tz=True)] | None = None
    value_property: Annotated[str, Meta(min_length=1)] | None = None
    group_by: dict[str, str] | None = None
    metadata: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.event_from is not None:
            msgspec.structs.force_setattr(self, "event_from", in_utc(self.event_from))


class MeterChange(Struct, frozen=True, rename="camel", kw_only=True):
    """What may be changed; what is left out is reset."""

    name: Name | None = None
    description: Description | None = None
    group_by: dict[str, str] | None = None
    metadata: dict[str, str] | None = None


_read_input = without_nulls(msgspec.json.Decoder(MeterInput).decode, but=("metadata",))
_read_change = without_nulls(msgspec.json.Decoder(MeterChange).decode, but=("metadata",))


def input_findings(given: MeterInput) -> list[str]:
    """What is wrong with a new meter beyond the form of its fields, in OpenMeter's words."""
    findings = [
        f"invalid meter aggregation: {message}"
        for message in value_findings(given.aggregation, given.value_property)
    ]
    findings += [
        f"invalid meter group by: {message}"
        for message in group_by_findings(given.group_by or {}, given.value_property)
    ]
    if given.description == "":
        findings.append("description must not be empty string")
    return findings


def new_meter(given: MeterInput, now: datetime) -> Meter:
    """The meter to keep."""
    return Meter(
        id=new_id(now),
        slug=given.slug,
        name=given.name or given.slug,
        description=given.description,
        aggregation=given.aggregation,
        event_type=given.event_type,
        event_from=given.event_from,
        value_property=given.value_property,
        group_by=given.group_by or {},
        metadata=given.metadata,
        created_at=now,
        updated_at=now,
    )


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    one = "/api/v1/meters/{meter}"
    return [
        Route("/api/v1/meters", partial(_list, services), methods=["GET"]),
        Route("/api/v1/meters", partial(_create, services), methods=["POST"]),
        Route(one, partial(_get, services), methods=["GET"]),
        Route(one, partial(_update, services), methods=["PUT"]),
        Route(one, partial(_delete, services), methods=["DELETE"]),
    ]


def find_meter(services: Services, request: Request) -> Meter:
    """The meter that the path names by its id or slug. Raises 404, and 400 for what can be neither."""
    return services.meters.find(key_or_id(request, "meter", "meterIdOrSlug"))


async def _list(services: Services, request: Request) -> Response:
    order = _ORDERS[choice(request, "orderBy", tuple(_ORDERS)) or "key"]
    descending = choice(request, "order", ("ASC", "DESC")) == "DESC"
    integer(request, "page", 1, least=1, most=1 << 31)  # checked, but there is one page, as in OpenMeter
    integer(request, "pageSize", 100, least=1, most=1000)
    meters = services.meters.all(deleted=boolean(request, "includeDeleted"))
    return json_response([describe(meter) for meter in sorted(meters, key=order, reverse=descending)])


async def _create(services: Services, request: Request) -> Response:
    given = await json_body(request, _read_input)
    if findings := input_findings(given):
        raise Invalid("\n".join(findings))
    meter = await services.meters.create(new_meter(given, services.clock()))
    return json_response(describe(meter))


async def _get(services: Services, request: Request) -> Response:
    return json_response(describe(find_meter(services, request)))


async def _update(services: Services, request: Request) -> Response:
    change = await json_body(request, _read_change)
    meter = find_meter(services, request)
    group_by = change.group_by or {}
    findings = group_by_findings(group_by, meter.value_property)
    if change.description == "":
        findings.append("description must not be empty string")
    if findings:
        raise Invalid("\n".join(findings))
    changed = replace(
        meter,
        name=change.name or meter.slug,
        description=change.description,
        group_by=group_by,
        metadata=change.metadata,
        updated_at=services.clock(),
    )
    return json_response(describe(await services.meters.update(changed)))


async def _delete(services: Services, request: Request) -> Response:
    await services.meters.delete(find_meter(services, request), services.clock())
    return Response(status_code=204)


def describe(meter: Meter) -> dict[str, Any]:
    """The meter as the API shows it; what it does not have is left out."""
    fields: Mapping[str, Any] = {
        "id": meter.id,
        "createdAt": format_rfc3339(meter.created_at),
        "updatedAt": format_rfc3339(meter.updated_at),
        "deletedAt": None if meter.deleted_at is None else format_rfc3339(meter.deleted_at),
        "slug": meter.slug,
        "name": meter.name,
        "description": meter.description,
        "aggregation": meter.aggregation,
        "eventType": meter.event_type,
        "eventFrom": None if meter.event_from is None else format_rfc3339(meter.event_from),
        "valueProperty": meter.value_property,
        "groupBy": dict(meter.group_by) or None,
        "metadata": None if meter.metadata is None else dict(meter.metadata),
    }
    return {name: value for name, value in fields.items() if value is not None}


def differences(present: Meter, wanted: Meter) -> list[str]:
    """The fields, by their names in the API, in which two meters of one slug are not the same."""
    one, other = describe(present), describe(wanted)
    ignored = ("id", "createdAt", "updatedAt")
    return sorted(
        name for name in one.keys() | other.keys() if name not in ignored and one.get(name) != other.get(name)
    )
