"""``/api/v3/openmeter/features``: the same features, under the names of version 3. Paths take ids only.

A feature names its meter by id, with filters of its dimensions beside it (api/v3/handlers/features).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import present
from metergate.embedded.api.meters import Description, Name
from metergate.embedded.api.problems import Issue
from metergate.embedded.api.requests import json_body, json_response, parameter_error, without_nulls
from metergate.embedded.api.v3.filters import in_version_1, in_version_3
from metergate.embedded.api.v3.meters import Labels
from metergate.embedded.api.v3.parameters import filters, page_of, sorting, text_filter
from metergate.embedded.domain.features import Feature, FeatureInput, Key, ManualCost, ModelCost
from metergate.embedded.domain.filters import matches
from metergate.embedded.domain.identifiers import is_id
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services

PATH = "/api/v3/openmeter/features"
_ORDERS: dict[str, Callable[[Feature], Any]] = {
    "key": lambda feature: feature.key,
    "name": lambda feature: feature.name,
    "created_at": lambda feature: feature.created_at,
    "updated_at": lambda feature: feature.updated_at,
}
_COST = ("provider_property", "provider", "model_property", "model", "token_type_property", "token_type")


class MeterReference(Struct, frozen=True, forbid_unknown_fields=True):
    """A meter, or the part of its usage that the filters let through."""

    id: str
    filters: dict[str, dict[str, Any]] | UnsetType = UNSET


class ModelCostInput(Struct, frozen=True, tag_field="type", tag="llm"):
    """A price that is looked up by language model."""

    provider_property: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    model_property: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    token_type_property: str | UnsetType = UNSET
    token_type: str | UnsetType = UNSET


CostInput = ManualCost | ModelCostInput


class CreateInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says of a new feature."""

    name: Name
    key: Key
    description: Description | None = None
    labels: Labels | None = None
    meter: MeterReference | None = None
    unit_cost: CostInput | None = None


class UpdateInput(Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed. Null takes the price away, what is left out stays."""

    unit_cost: CostInput | UnsetType | None = UNSET


_read_create = without_nulls(msgspec.json.Decoder(CreateInput).decode)
_read_update = msgspec.json.Decoder(UpdateInput).decode


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    one = f"{PATH}/{{feature}}"
    return [
        Route(PATH, partial(_list, services), methods=["GET"]),
        Route(PATH, partial(_create, services), methods=["POST"]),
        Route(one, partial(_get, services), methods=["GET"]),
        Route(one, partial(_update, services), methods=["PATCH"]),
        Route(one, partial(_delete, services), methods=["DELETE"]),
    ]


def _find(services: Services, request: Request) -> Feature:
    given = request.path_params["feature"]
    if not is_id(given):
        raise parameter_error("featureId", "string doesn't match the regular expression of a ULID", "path")
    return services.catalog.features.find(given)


async def _list(services: Services, request: Request) -> Response:
    given = filters(request, ("meter_id", "key", "name"))
    by, descending = sorting(request, ("created_at", "key", "name", "updated_at"), descending=False)
    wanted = {name: text_filter(name, given[name]) for name in given}

    def value(feature: Feature, name: str) -> str | None:
        if name == "meter_id":
            return _meter_id(services, feature)
        return feature.key if name == "key" else feature.name

    found = [
        feature
        for feature in services.catalog.features.all()
        if feature.archived_at is None
        and all(matches(condition, value(feature, name)) for name, condition in wanted.items())
    ]
    found.sort(key=_ORDERS[by], reverse=descending)
    return json_response(page_of(request, found, partial(feature_view, services)))


async def _create(services: Services, request: Request) -> Response:
    given = await json_body(request, _read_create)
    feature = await services.catalog.features.create(_in_version_1(services, given), services.clock())
    return json_response(feature_view(services, feature), 201)


def _in_version_1(services: Services, given: CreateInput) -> FeatureInput:
    meter = services.meters.find(given.meter.id) if given.meter else None
    conditions = (given.meter.filters or {}) if given.meter else {}
    try:
        kept = {name: in_version_1(condition) for name, condition in conditions.items()}
    except ValueError as exception:
        raise Issue("invalid_filter", str(exception), "meter.filters") from exception
    return FeatureInput(
        key=given.key,
        name=given.name,
        description=given.description or UNSET,
        metadata=given.labels or UNSET,
        meter_slug=meter.slug if meter else UNSET,
        advanced_meter_group_by_filters=kept or UNSET,
        unit_cost=_cost(given.unit_cost) or UNSET,
    )


def _cost(given: CostInput | None) -> ManualCost | ModelCost | None:
    if isinstance(given, ModelCostInput):
        return ModelCost(**{name: getattr(given, name) for name in _COST})
    return given


async def _get(services: Services, request: Request) -> Response:
    return json_response(feature_view(services, _find(services, request)))


async def _update(services: Services, request: Request) -> Response:
    given, feature = await json_body(request, _read_update), _find(services, request)
    if not isinstance(given.unit_cost, UnsetType):
        cost = _cost(given.unit_cost)
        feature = await services.catalog.features.price(feature.id, cost, services.clock())
    return json_response(feature_view(services, feature))


async def _delete(services: Services, request: Request) -> Response:
    await services.catalog.features.archive(_find(services, request).id, services.clock())
    return Response(status_code=204)


def _meter_id(services: Services, feature: Feature) -> str | None:
    meter = services.meters.by_slug(feature.meter_slug or "")
    return None if meter is None else meter.id


def feature_view(services: Services, feature: Feature) -> dict[str, Any]:
    """The feature as version 3 shows it."""
    meter = present(
        id=_meter_id(services, feature),
        filters={name: in_version_3(condition) for name, condition in feature.filters.items()},
    )
    return {"labels": feature.metadata or {}} | present(
        id=feature.id,
        key=feature.key,
        name=feature.name,
        description=feature.description,
        meter=meter,
        unit_cost=feature.unit_cost and _cost_view(feature.unit_cost),
        created_at=format_rfc3339(feature.created_at),
        updated_at=format_rfc3339(feature.updated_at),
        deleted_at=feature.archived_at and format_rfc3339(feature.archived_at),
    )


def _cost_view(cost: ManualCost | ModelCost) -> dict[str, Any]:
    if isinstance(cost, ManualCost):
        return {"type": "manual", "amount": cost.amount}
    return {"type": "llm"} | present(**{name: getattr(cost, name) for name in _COST})
