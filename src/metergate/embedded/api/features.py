"""``/api/v1/features``"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import listing, ordered, present, segment
from metergate.embedded.api.requests import boolean, json_body, json_response
from metergate.embedded.domain.features import Feature, FeatureInput
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services

_ORDERS = {
    "id": lambda feature: feature.id,
    "key": lambda feature: feature.key,
    "name": lambda feature: feature.name,
    "createdAt": lambda feature: feature.created_at,
    "updatedAt": lambda feature: feature.updated_at,
}
_read = msgspec.json.Decoder(FeatureInput).decode


def routes(services: Services) -> list[Route]:
    """List, create, show and archive features."""
    store, clock = services.catalog.features, services.clock

    async def list_features(request: Request) -> Response:
        archived, slugs = boolean(request, "includeArchived"), request.query_params.getlist("meterSlug")
        found = [
            feature
            for feature in store.all()
            if (archived or feature.archived_at is None) and (not slugs or feature.meter_slug in slugs)
        ]
        return json_response(listing(request, ordered(request, found, _ORDERS, "key"), feature_view))

    async def create_feature(request: Request) -> Response:
        given = await json_body(request, _read)
        return json_response(feature_view(await store.create(given, clock())), 201)

    async def get_feature(request: Request) -> Response:
        return json_response(feature_view(store.find(segment(request, "feature"))))

    async def delete_feature(request: Request) -> Response:
        await store.archive(segment(request, "feature"), clock())
        return Response(status_code=204)

    return [
        Route("/api/v1/features", list_features, methods=["GET"]),
        Route("/api/v1/features", create_feature, methods=["POST"]),
        Route("/api/v1/features/{feature}", get_feature, methods=["GET"]),
        Route("/api/v1/features/{feature}", delete_feature, methods=["DELETE"]),
    ]


def feature_view(feature: Feature) -> dict[str, Any]:
    """The feature as the API shows it: its filters in both forms, the older one as far as it can say them."""
    return present(
        id=feature.id,
        key=feature.key,
        name=feature.name,
        createdAt=format_rfc3339(feature.created_at),
        updatedAt=format_rfc3339(feature.updated_at),
        archivedAt=feature.archived_at and format_rfc3339(feature.archived_at),
        metadata=feature.metadata,
        meterSlug=feature.meter_slug,
        meterGroupByFilters=feature.simple_filters,
        advancedMeterGroupByFilters=feature.filters,
        unitCost=feature.unit_cost,
    )
