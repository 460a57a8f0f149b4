"""What a customer may do now: the values of entitlements, one by one and all at once.

*Not found differs*: where the customer exists but has no such entitlement, version 1 by subject answers 404
and the customer paths answer 200 with ``hasAccess: false`` (openmeter/entitlement, customer/httpdriver).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import customer_key, key_or_id, present, segment
from metergate.embedded.api.problems import Invalid, NotFound
from metergate.embedded.api.requests import json_response, moment
from metergate.embedded.domain.customers import Customer
from metergate.embedded.domain.entitlements import NO_ACCESS, Entitlement, Value
from metergate.embedded.domain.grants import TooManyPhases
from metergate.embedded.domain.issuance import number
from metergate.embedded.domain.moments import Clock
from metergate.embedded.services import Services
from metergate.embedded.store.catalog import Catalog


def routes(services: Services) -> list[Route]:
    """``/value`` by subject and by customer in both versions, and ``/access`` of a customer."""
    catalog, clock = services.catalog, services.clock

    async def subject_value(request: Request) -> Response:
        time = _time(request, clock)
        customer = catalog.customers.of_subject(segment(request, "subject"))
        entitlement = catalog.entitlements.find_ever_of(customer.id, segment(request, "entitlement"), time)
        (value,) = await values_at(catalog, [entitlement], time)
        return json_response(value_view(value))

    async def customer_value(request: Request) -> Response:
        return json_response(value_view(await value_of(request, "featureKey")))

    async def customer_value_v2(request: Request) -> Response:
        return json_response(value_view_v2(await value_of(request, "entitlementIdOrFeatureKey")))

    async def value_of(request: Request, shown: str) -> Value:
        time = _time(request, clock)
        name = key_or_id(request, "entitlement", shown)
        customer = catalog.customers.find_active(customer_key(request))
        try:
            entitlement = catalog.entitlements.find_ever_of(customer.id, name, time)
        except NotFound:
            return NO_ACCESS
        return (await values_at(catalog, [entitlement], time))[0]

    async def access(request: Request) -> Response:
        customer = catalog.customers.find_active(customer_key(request))
        return json_response({"entitlements": await _access(catalog, customer, _time(request, clock))})

    return [
        Route("/api/v1/subjects/{subject}/entitlements/{entitlement}/value", subject_value, methods=["GET"]),
        Route(
            "/api/v1/customers/{customer}/entitlements/{entitlement}/value", customer_value, methods=["GET"]
        ),
        Route(
            "/api/v2/customers/{customer}/entitlements/{entitlement}/value",
            customer_value_v2,
            methods=["GET"],
        ),
        Route("/api/v1/customers/{customer}/access", access, methods=["GET"]),
    ]


def _time(request: Request, clock: Clock) -> datetime:
    """The time asked for, else the next moment.

    So what was acknowledged in this very second counts, even when the clock shows a full minute.
    """
    return moment(request, "time") or clock() + timedelta(microseconds=1)


async def _access(catalog: Catalog, customer: Customer, now: datetime) -> dict[str, Any]:
    """The value of each entitlement that holds, by its feature's key."""
    entitlements = catalog.entitlements.of_customer(customer.id, now)
    values = await values_at(catalog, entitlements, now)
    return {
        entitlement.feature_key: value_view(value)
        for entitlement, value in zip(entitlements, values, strict=True)
    }


async def values_at(catalog: Catalog, entitlements: Sequence[Entitlement], time: datetime) -> list[Value]:
    """The value of each at ``time``. Raises 400 where the time is too far away."""
    try:
        return await catalog.balances.values(entitlements, time)
    except TooManyPhases as exception:
        raise Invalid(str(exception)) from exception


def value_view(value: Value) -> dict[str, Any]:
    """The value as version 1 shows it."""
    shown = present(hasAccess=value.has_access, config=value.config)
    if (ledger := value.ledger) is not None:
        shown["balance"] = number(ledger.balance)
        shown["usage"] = number(ledger.usage)
        shown["overage"] = number(ledger.overage)
        shown["totalAvailableGrantAmount"] = number(ledger.available)
    return shown


def value_view_v2(value: Value) -> dict[str, Any]:
    """The value as version 2 shows it: with what is left of each active grant."""
    shown = value_view(value)
    if value.ledger is not None:
        shown["grantBalances"] = {key: number(left) for key, left in value.ledger.balances.items()}
    return shown
