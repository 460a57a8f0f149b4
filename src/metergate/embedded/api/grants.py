"""Grants: issuing, listing and voiding them, of a subject's entitlement (version 1) and a customer's (version 2).

Where the two versions show the same grant differently: in version 1 every grant ends, so one without an
expiration is shown to end in a hundred years (openmeter/entitlement/driver/metered.go).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import (
    CUSTOMER,
    customer_key,
    key_or_id,
    listing,
    names,
    ordered,
    page_or_slice,
    present,
    segment,
)
from metergate.embedded.api.requests import boolean, json_body, json_response, moment
from metergate.embedded.domain.entitlements import Entitlement
from metergate.embedded.domain.issuance import Expiration, GrantInput, GrantInputV1, IssuedGrant, number
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.domain.periods import Recurrence
from metergate.embedded.services import Services
from metergate.embedded.store.catalog import Catalog

_SUBJECT = "/api/v1/subjects/{subject}/entitlements/{entitlement}/grants"
_CUSTOMER = "/api/v2/customers/{customer}/entitlements/{entitlement}/grants"
_ORDERS = {
    "id": lambda issued: issued.id,
    "createdAt": lambda issued: issued.grant.created_at,
    "updatedAt": lambda issued: issued.updated_at,
}
_ENDLESS = Expiration("YEAR", 100)
_read_v1 = msgspec.json.Decoder(GrantInputV1).decode
_read_v2 = msgspec.json.Decoder(GrantInput).decode


def routes(services: Services) -> list[Route]:
    """Issue, list and void grants."""
    return [*_subject_routes(services), *_customer_routes(services), *_all_routes(services)]


def _subject_routes(services: Services) -> list[Route]:
    catalog, clock = services.catalog, services.clock

    def owner(request: Request) -> Entitlement:
        customer = catalog.customers.of_subject(segment(request, "subject"))
        return catalog.entitlements.find_of(customer.id, segment(request, "entitlement"), clock())

    async def create(request: Request) -> Response:
        given = await json_body(request, _read_v1)
        issued = await _issue(services, owner(request), given.in_version_2())
        return json_response(grant_view_v1(issued, clock()), 201)

    async def list_them(request: Request) -> Response:
        found = _unvoided(request, catalog.grants.issued(owner(request).id))
        shown = ordered(request, found, _ORDERS, "createdAt")
        return json_response([grant_view_v1(issued, clock()) for issued in shown])

    return [Route(_SUBJECT, create, methods=["POST"]), Route(_SUBJECT, list_them, methods=["GET"])]


def _customer_routes(services: Services) -> list[Route]:
    catalog, clock = services.catalog, services.clock

    def owner(request: Request) -> Entitlement:
        name = key_or_id(request, "entitlement", "entitlementIdOrFeatureKey")
        customer = catalog.customers.find_active(customer_key(request))
        return catalog.entitlements.find_of(customer.id, name, clock())

    async def create(request: Request) -> Response:
        given = await json_body(request, _read_v2)
        issued = await _issue(services, owner(request), given)
        return json_response(grant_view_v2(issued, clock()), 201)

    async def list_them(request: Request) -> Response:
        found = _unvoided(request, catalog.grants.issued(owner(request).id))
        shown = ordered(request, found, _ORDERS, "createdAt")
        return json_response(page_or_slice(request, shown, _at(grant_view_v2, clock())))

    return [Route(_CUSTOMER, create, methods=["POST"]), Route(_CUSTOMER, list_them, methods=["GET"])]


def _all_routes(services: Services) -> list[Route]:
    catalog, clock = services.catalog, services.clock

    async def list_v1(request: Request) -> Response:
        found = ordered(request, _filtered(catalog, request), _ORDERS, "createdAt")
        return json_response(listing(request, found, _at(grant_view_v1, clock())))

    async def list_v2(request: Request) -> Response:
        found = ordered(request, _filtered(catalog, request), _ORDERS, "createdAt")
        return json_response(page_or_slice(request, found, _at(grant_view_v2, clock())))

    async def void(request: Request) -> Response:
        now = clock()
        issued = catalog.grants.find(segment(request, "grant"))
        entitlement = catalog.entitlements.find(issued.entitlement_id)
        await catalog.grants.void(issued.id, entitlement, moment(request, "at") or now, now)
        services.notifier.changed(entitlement)
        return Response(status_code=204)

    return [
        Route("/api/v1/grants", list_v1, methods=["GET"]),
        Route("/api/v2/grants", list_v2, methods=["GET"]),
        Route("/api/v1/grants/{grant}", void, methods=["DELETE"]),
    ]


async def _issue(services: Services, entitlement: Entitlement, given: GrantInput) -> IssuedGrant:
    issued = await services.catalog.grants.create(entitlement, given, services.clock())
    services.notifier.changed(entitlement)
    return issued


def _unvoided(request: Request, found: Sequence[IssuedGrant]) -> list[IssuedGrant]:
    """A void grant is shown as well, as in OpenMeter; deleted ones there are none."""
    boolean(request, "includeDeleted")
    return list(found)


def _filtered(catalog: Catalog, request: Request) -> list[IssuedGrant]:
    """The grants that the query asks for: of some features, of some subjects or customers."""
    query = request.query_params
    features, subjects = query.getlist("feature"), query.getlist("subject")
    customers, deleted = names(request, "customer", CUSTOMER), boolean(request, "includeDeleted")

    def wanted(issued: IssuedGrant) -> bool:
        entitlement = catalog.entitlements.ever(issued.entitlement_id)
        customer = catalog.customers.find(entitlement.customer_id)
        return (
            (deleted or entitlement.deleted_at is None)
            and _any(features, entitlement.feature_key, entitlement.feature_id)
            and _any(subjects, *customer.subjects)
            and _any(customers, customer.id, customer.key or "")
        )

    return list(filter(wanted, catalog.grants.all()))


def _any(wanted: Sequence[str], *values: str) -> bool:
    return not wanted or any(value in wanted for value in values)


def _at(
    view: Callable[[IssuedGrant, datetime], dict[str, Any]], now: datetime
) -> Callable[[IssuedGrant], dict[str, Any]]:
    return lambda issued: view(issued, now)


def grant_view_v1(issued: IssuedGrant, now: datetime) -> dict[str, Any]:
    """The grant as version 1 shows it, always with an end."""
    expires_at = issued.grant.expires_at or _ENDLESS.after(now)
    return _view(issued, now) | {
        "expiration": issued.expiration or _ENDLESS,
        "expiresAt": format_rfc3339(expires_at),
    }


def grant_view_v2(issued: IssuedGrant, now: datetime) -> dict[str, Any]:
    """The grant as version 2 shows it."""
    expires_at = issued.grant.expires_at
    return _view(issued, now) | present(
        expiration=issued.expiration, expiresAt=expires_at and format_rfc3339(expires_at)
    )


def _view(issued: IssuedGrant, now: datetime) -> dict[str, Any]:
    grant = issued.grant
    return present(
        id=issued.id,
        entitlementId=issued.entitlement_id,
        amount=number(grant.amount),
        priority=grant.priority,
        effectiveAt=format_rfc3339(grant.effective_at),
        minRolloverAmount=number(grant.min_rollover),
        maxRolloverAmount=number(grant.max_rollover),
        recurrence=grant.recurrence and recurrence_view(grant.recurrence),
        nextRecurrence=grant.recurrence and format_rfc3339(grant.recurrence.next_at(now)),
        voidedAt=grant.voided_at and format_rfc3339(grant.voided_at),
        metadata=issued.metadata,
        annotations=issued.annotations,
        createdAt=format_rfc3339(grant.created_at),
        updatedAt=format_rfc3339(issued.updated_at),
    )


def recurrence_view(recurrence: Recurrence) -> dict[str, Any]:
    """A recurrence as both versions show it."""
    return {
        "interval": recurrence.interval.name,
        "anchor": format_rfc3339(recurrence.anchor),
        "intervalISO": recurrence.interval.iso,
    }
