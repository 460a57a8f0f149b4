"""``/api/v1/customers``"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import customer_key, ordered, present, read_page
from metergate.embedded.api.requests import boolean, choice, json_body, json_response, text
from metergate.embedded.domain.customers import Customer, CustomerFilters, CustomerInput
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services

_ORDERS = {
    "id": lambda customer: customer.id,
    "name": lambda customer: customer.name,
    "createdAt": lambda customer: customer.created_at,
}
_read = msgspec.json.Decoder(CustomerInput).decode


def routes(services: Services) -> list[Route]:
    """List, create, show, replace and delete customers."""
    catalog, clock = services.catalog, services.clock
    store = catalog.customers

    async def list_customers(request: Request) -> Response:
        choice(request, "expand", ("subscriptions",))
        wanted = CustomerFilters(
            key=text(request, "key") or "",
            name=text(request, "name") or "",
            primary_email=text(request, "primaryEmail") or "",
            subject=text(request, "subject") or "",
            plan_key=text(request, "planKey") or "",
            include_deleted=boolean(request, "includeDeleted"),
        )
        found = ordered(request, list(filter(wanted, store.all())), _ORDERS, "name")
        return json_response(read_page(request).of(found, customer_view))

    async def create_customer(request: Request) -> Response:
        given = await json_body(request, _read)
        return json_response(customer_view(await store.create(given, clock())), 201)

    async def get_customer(request: Request) -> Response:
        choice(request, "expand", ("subscriptions",))
        return json_response(customer_view(store.find(customer_key(request))))

    async def replace_customer(request: Request) -> Response:
        given = await json_body(request, _read)
        return json_response(customer_view(await store.replace(customer_key(request), given, clock())))

    async def delete_customer(request: Request) -> Response:
        now = clock()

        def in_use(customer: Customer) -> bool:
            return bool(catalog.entitlements.of_customer(customer.id, now))

        await store.delete(customer_key(request), now, in_use)
        return Response(status_code=204)

    return [
        Route("/api/v1/customers", list_customers, methods=["GET"]),
        Route("/api/v1/customers", create_customer, methods=["POST"]),
        Route("/api/v1/customers/{customer}", get_customer, methods=["GET"]),
        Route("/api/v1/customers/{customer}", replace_customer, methods=["PUT"]),
        Route("/api/v1/customers/{customer}", delete_customer, methods=["DELETE"]),
    ]


def customer_view(customer: Customer) -> dict[str, Any]:
    """The customer as the API shows it."""
    return present(
        id=customer.id,
        key=customer.key,
        name=customer.name,
        description=customer.description,
        createdAt=format_rfc3339(customer.created_at),
        updatedAt=format_rfc3339(customer.updated_at),
        deletedAt=customer.deleted_at and format_rfc3339(customer.deleted_at),
        usageAttribution=customer.usage_attribution,
        primaryEmail=customer.primary_email,
        currency=customer.currency,
        billingAddress=customer.billing_address,
        metadata=customer.metadata,
    )
