"""Entitlements: of a subject and all of them (version 1), of a customer and all of them (version 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.grants import recurrence_view
from metergate.embedded.api.listing import (
    Form,
    customer_key,
    identifier,
    key_or_id,
    listing,
    names,
    ordered,
    page_or_slice,
    present,
    read_page,
    segment,
)
from metergate.embedded.api.problems import NotFound
from metergate.embedded.api.requests import boolean, json_body, json_response, without_nulls
from metergate.embedded.domain.customers import Customer
from metergate.embedded.domain.entitlements import (
    KINDS,
    Entitlement,
    EntitlementInput,
    EntitlementInputV2,
)
from metergate.embedded.domain.issuance import number
from metergate.embedded.domain.moments import Clock, format_rfc3339, in_utc
from metergate.embedded.domain.periods import Period
from metergate.embedded.domain.usage_periods import usage_period_at
from metergate.embedded.services import Services
from metergate.embedded.store.catalog import Catalog

_SUBJECT = "/api/v1/subjects/{subject}/entitlements"
_CUSTOMER = "/api/v2/customers/{customer}/entitlements"
_KIND = Form(lambda value: value in KINDS, f"value is not one of the allowed values {list(KINDS)}")
_ORDERS = {
    "createdAt": lambda entitlement: entitlement.created_at,
    "updatedAt": lambda entitlement: entitlement.updated_at,
}


class ResetInput(msgspec.Struct, frozen=True, rename="camel"):
    """How to reset usage; ``preserve_overage`` None is as the entitlement has it."""

    effective_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    retain_anchor: bool = False
    preserve_overage: bool | None = None

    def __post_init__(self) -> None:
        if self.effective_at is not None:
            msgspec.structs.force_setattr(self, "effective_at", in_utc(self.effective_at))


_read_reset = without_nulls(msgspec.json.Decoder(ResetInput).decode)
_read_v1 = msgspec.json.Decoder(EntitlementInput).decode
_read_v2 = msgspec.json.Decoder(EntitlementInputV2).decode


def routes(services: Services) -> list[Route]:
    """Create, list, show and delete entitlements."""
    return [*_subject_routes(services), *_customer_routes(services), *_all_routes(services)]


def _subject_routes(services: Services) -> list[Route]:
    catalog, clock = services.catalog, services.clock
    store, show, noted = catalog.entitlements, show_v1(catalog, clock), _noted(services)

    def owned(request: Request) -> Entitlement:
        """The entitlement named in the path, which must be the subject's and named by its id."""
        customer = catalog.customers.of_subject(segment(request, "subject"))
        entitlement = store.find(segment(request, "entitlement"))
        if entitlement.customer_id != customer.id:
            raise NotFound(f"entitlement not found: {entitlement.id}")
        return entitlement

    async def create(request: Request) -> Response:
        given = await json_body(request, _read_v1)
        customer = catalog.customers.of_subject(segment(request, "subject"))
        return json_response(show(noted(await store.create(customer.id, given, clock()))), 201)

    async def list_them(request: Request) -> Response:
        customer = catalog.customers.of_subject(segment(request, "subject"))
        return json_response([show(entitlement) for entitlement in _of(catalog, customer, request, clock)])

    async def get(request: Request) -> Response:
        return json_response(show(owned(request)))

    async def delete(request: Request) -> Response:
        await store.delete(owned(request).id, clock())
        return Response(status_code=204)

    async def override(request: Request) -> Response:
        given = await json_body(request, _read_v1)
        customer = catalog.customers.of_subject(segment(request, "subject"))
        old = store.find_of(customer.id, segment(request, "entitlement"), clock())
        return json_response(show(noted(await store.override(old, given, clock()))), 201)

    async def reset(request: Request) -> Response:
        return await _reset(services, owned(request), await json_body(request, _read_reset))

    return [
        Route(f"{_SUBJECT}/{{entitlement}}/override", override, methods=["PUT"]),
        Route(f"{_SUBJECT}/{{entitlement}}/reset", reset, methods=["POST"]),
        Route(_SUBJECT, create, methods=["POST"]),
        Route(_SUBJECT, list_them, methods=["GET"]),
        Route(f"{_SUBJECT}/{{entitlement}}", get, methods=["GET"]),
        Route(f"{_SUBJECT}/{{entitlement}}", delete, methods=["DELETE"]),
    ]


def _customer_routes(services: Services) -> list[Route]:
    catalog, clock = services.catalog, services.clock
    store, show, noted = catalog.entitlements, _show_v2(catalog, clock), _noted(services)

    def owner(request: Request) -> Customer:
        return catalog.customers.find_active(customer_key(request))

    def owned(request: Request) -> Entitlement:
        name = key_or_id(request, "entitlement", "entitlementIdOrFeatureKey")
        return store.find_of(owner(request).id, name, clock())

    async def create(request: Request) -> Response:
        given = await json_body(request, _read_v2)
        return json_response(show(noted(await store.create(owner(request).id, given, clock()))), 201)

    async def list_them(request: Request) -> Response:
        found = ordered(request, _of(catalog, owner(request), request, clock), _ORDERS, "createdAt")
        return json_response(read_page(request).of(found, show))

    async def get(request: Request) -> Response:
        return json_response(show(owned(request)))

    async def delete(request: Request) -> Response:
        await store.delete(owned(request).id, clock())
        return Response(status_code=204)

    async def override(request: Request) -> Response:
        given = await json_body(request, _read_v2)
        return json_response(show(noted(await store.override(owned(request), given, clock()))), 201)

    async def reset(request: Request) -> Response:
        return await _reset(services, owned(request), await json_body(request, _read_reset))

    return [
        Route(f"{_CUSTOMER}/{{entitlement}}/override", override, methods=["PUT"]),
        Route(f"{_CUSTOMER}/{{entitlement}}/reset", reset, methods=["POST"]),
        Route(_CUSTOMER, create, methods=["POST"]),
        Route(_CUSTOMER, list_them, methods=["GET"]),
        Route(f"{_CUSTOMER}/{{entitlement}}", get, methods=["GET"]),
        Route(f"{_CUSTOMER}/{{entitlement}}", delete, methods=["DELETE"]),
    ]


def _all_routes(services: Services) -> list[Route]:
    catalog, clock = services.catalog, services.clock
    in_v1, in_v2 = show_v1(catalog, clock), _show_v2(catalog, clock)

    async def list_v1(request: Request) -> Response:
        return json_response(listing(request, _filtered(catalog, request, clock), in_v1))

    async def list_v2(request: Request) -> Response:
        return json_response(page_or_slice(request, _filtered(catalog, request, clock), in_v2))

    async def get_v1(request: Request) -> Response:
        return json_response(in_v1(catalog.entitlements.find(identifier(request, "entitlement"))))

    async def get_v2(request: Request) -> Response:
        return json_response(in_v2(catalog.entitlements.find(identifier(request, "entitlement"))))

    return [
        Route("/api/v1/entitlements", list_v1, methods=["GET"]),
        Route("/api/v2/entitlements", list_v2, methods=["GET"]),
        Route("/api/v1/entitlements/{entitlement}", get_v1, methods=["GET"]),
        Route("/api/v2/entitlements/{entitlement}", get_v2, methods=["GET"]),
    ]


def _noted(services: Services) -> Callable[[Entitlement], Entitlement]:
    """Have notifications look at it."""

    def noted(entitlement: Entitlement) -> Entitlement:
        services.notifier.changed(entitlement)
        return entitlement

    return noted


async def _reset(services: Services, entitlement: Entitlement, given: ResetInput) -> Response:
    now = services.clock()
    changed = await services.catalog.entitlements.reset(
        entitlement.id,
        given.effective_at or now,
        now,
        retain_anchor=given.retain_anchor,
        preserve=given.preserve_overage,
    )
    services.notifier.changed(changed)
    return Response(status_code=204)


def _of(catalog: Catalog, customer: Customer, request: Request, clock: Clock) -> list[Entitlement]:
    """Those of the customer that hold now, with ``includeDeleted`` those that were deleted too."""
    now, deleted = clock(), boolean(request, "includeDeleted")
    return [
        entitlement
        for entitlement in catalog.entitlements.ever_of_customer(customer.id)
        if entitlement.active_at(now) or (deleted and entitlement.deleted_at is not None)
    ]


def _filtered(catalog: Catalog, request: Request, clock: Clock) -> list[Entitlement]:
    """All entitlements that the query asks for, in the order it asks for."""
    query = request.query_params
    kinds = names(request, "entitlementType", _KIND)
    features, subjects = query.getlist("feature"), query.getlist("subject")
    ids, keys = query.getlist("customerIds"), query.getlist("customerKeys")
    active, now = boolean(request, "excludeInactive"), clock()

    def wanted(entitlement: Entitlement) -> bool:
        customer = catalog.customers.find(entitlement.customer_id)
        return (
            entitlement.deleted_at is None
            and (not active or entitlement.active_at(now))
            and _any(kinds, entitlement.type)
            and _any(features, entitlement.feature_key, entitlement.feature_id)
            and _any(subjects, *customer.subjects)
            and _any(ids, customer.id)
            and _any(keys, customer.key or "")
        )

    return ordered(request, list(filter(wanted, catalog.entitlements.all())), _ORDERS, "createdAt")


def _any(wanted: Sequence[str], *values: str) -> bool:
    return not wanted or any(value in wanted for value in values)


def show_v1(catalog: Catalog, clock: Clock) -> Callable[[Entitlement], dict[str, Any]]:
    """How version 1 shows an entitlement."""

    def show(entitlement: Entitlement) -> dict[str, Any]:
        customer = catalog.customers.find(entitlement.customer_id)
        shown = _view(entitlement, clock)
        if entitlement.metering is not None:
            shown["isUnlimited"] = False
        return shown | {"subjectKey": customer.first_subject_key}

    return show


def _show_v2(catalog: Catalog, clock: Clock) -> Callable[[Entitlement], dict[str, Any]]:
    def show(entitlement: Entitlement) -> dict[str, Any]:
        customer = catalog.customers.find(entitlement.customer_id)
        shown = _view(entitlement, clock) | present(customerId=customer.id, customerKey=customer.key)
        if entitlement.metering is not None:
            shown["issue"] = present(
                amount=shown["issueAfterReset"], priority=shown.get("issueAfterResetPriority")
            )
        return shown

    return show


def _view(entitlement: Entitlement, clock: Clock) -> dict[str, Any]:
    """What both versions show. ``currentUsagePeriod`` and ``lastReset`` are those of the present time."""
    period = usage_period_at(entitlement, clock())
    return present(
        id=entitlement.id,
        type=entitlement.type,
        featureId=entitlement.feature_id,
        featureKey=entitlement.feature_key,
        createdAt=format_rfc3339(entitlement.created_at),
        updatedAt=format_rfc3339(entitlement.updated_at),
        deletedAt=entitlement.deleted_at and format_rfc3339(entitlement.deleted_at),
        activeFrom=format_rfc3339(entitlement.active_from),
        activeTo=entitlement.active_to and format_rfc3339(entitlement.active_to),
        metadata=entitlement.metadata,
        config=entitlement.config,
        usagePeriod=entitlement.usage_period and recurrence_view(entitlement.usage_period),
        currentUsagePeriod=period and _period_view(period),
        **_metered_view(entitlement, period),
    )


def _metered_view(entitlement: Entitlement, period: Period | None) -> dict[str, Any]:
    metering = entitlement.metering
    if metering is None or period is None:
        return {}
    return {
        "isSoftLimit": metering.is_soft_limit,
        "issueAfterReset": number(metering.issue_after_reset),
        "issueAfterResetPriority": metering.issue_after_reset_priority,
        "preserveOverageAtReset": metering.preserve_overage_at_reset,
        "measureUsageFrom": format_rfc3339(metering.measure_usage_from),
        "lastReset": format_rfc3339(period.start),
    }


def _period_view(period: Period) -> dict[str, Any]:
    return {"from": format_rfc3339(period.start), "to": format_rfc3339(period.end)}
