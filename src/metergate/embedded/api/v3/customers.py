"""``/api/v3/openmeter/customers``: the same customers, under the names of version 3. Paths take ids only.

A customer is made with a key, which stays; everything else is replaced as a whole (api/v3/handlers/customers).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import present
from metergate.embedded.api.requests import json_body, json_response, parameter_error, without_nulls
from metergate.embedded.api.v3.meters import Labels
from metergate.embedded.api.v3.parameters import filters, page_of, sorting, text_filter
from metergate.embedded.domain.customers import Address, Customer, CustomerInput, Key, UsageAttribution
from metergate.embedded.domain.filters import matches
from metergate.embedded.domain.identifiers import is_id
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services

PATH = "/api/v3/openmeter/customers"
_ORDERS: dict[str, Callable[[Customer], Any]] = {
    "id": lambda customer: customer.id,
    "name": lambda customer: customer.name,
    "created_at": lambda customer: customer.created_at,
}
_FILTERS: dict[str, Callable[[Customer], str | None]] = {
    "key": lambda customer: customer.key or None,
    "name": lambda customer: customer.name,
    "primary_email": lambda customer: customer.primary_email or None,
}


class AddressInput(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a customer's bills go."""

    country: str | UnsetType = UNSET
    postal_code: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    city: str | UnsetType = UNSET
    line1: str | UnsetType = UNSET
    line2: str | UnsetType = UNSET
    phone_number: str | UnsetType = UNSET


class AttributionInput(Struct, frozen=True, forbid_unknown_fields=True):
    """The subjects whose usage is the customer's."""

    subject_keys: list[Annotated[str, Meta(min_length=1)]]


class UpdateInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says of a customer when it replaces it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET
    labels: Labels | None = None
    usage_attribution: AttributionInput | UnsetType = UNSET
    primary_email: str | UnsetType = UNSET
    currency: str | UnsetType = UNSET
    billing_address: AddressInput | UnsetType = UNSET

    def in_version_1(self, key: str | UnsetType) -> CustomerInput:
        """The same under the names of version 1."""
        attribution, address = self.usage_attribution, self.billing_address
        return CustomerInput(
            name=self.name,
            key=key,
            description=self.description,
            usage_attribution=UsageAttribution(tuple(attribution.subject_keys)) if attribution else UNSET,
            primary_email=self.primary_email,
            currency=self.currency,
            billing_address=Address(**msgspec.structs.asdict(address)) if address else UNSET,
            metadata=self.labels,
        )


class CreateInput(UpdateInput, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says of a new customer."""

    key: Key


_read_create = without_nulls(msgspec.json.Decoder(CreateInput).decode)
_read_update = without_nulls(msgspec.json.Decoder(UpdateInput).decode)


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    one = f"{PATH}/{{customer}}"
    return [
        Route(PATH, partial(_list, services), methods=["GET"]),
        Route(PATH, partial(_create, services), methods=["POST"]),
        Route(one, partial(_get, services), methods=["GET"]),
        Route(one, partial(_update, services), methods=["PUT"]),
        Route(one, partial(_delete, services), methods=["DELETE"]),
    ]


def find_customer(services: Services, request: Request) -> Customer:
    """The customer that the path names by its id, a deleted one too. Raises 404, and 400 for what is no id."""
    given = request.path_params["customer"]
    if not is_id(given):
        raise parameter_error("customerId", "string doesn't match the regular expression of a ULID", "path")
    return services.catalog.customers.find(given)


async def _list(services: Services, request: Request) -> Response:
    given = filters(request, _FILTERS)
    by, descending = sorting(request, ("name", "id", "created_at"), descending=False)
    wanted = {name: text_filter(name, given[name]) for name in given}
    found = [
        customer
        for customer in services.catalog.customers.all()
        if customer.deleted_at is None
        and all(matches(condition, _FILTERS[name](customer)) for name, condition in wanted.items())
    ]
    found.sort(key=_ORDERS[by], reverse=descending)
    return json_response(page_of(request, found, customer_view))


async def _create(services: Services, request: Request) -> Response:
    given = await json_body(request, _read_create)
    made = await services.catalog.customers.create(given.in_version_1(given.key), services.clock())
    return json_response(customer_view(made), 201)


async def _get(services: Services, request: Request) -> Response:
    return json_response(customer_view(find_customer(services, request)))


async def _update(services: Services, request: Request) -> Response:
    given, customer = await json_body(request, _read_update), find_customer(services, request)
    changed = given.in_version_1(customer.key)
    return json_response(
        customer_view(await services.catalog.customers.replace(customer.id, changed, services.clock()))
    )


async def _delete(services: Services, request: Request) -> Response:
    now, entitlements = services.clock(), services.catalog.entitlements

    def in_use(customer: Customer) -> bool:
        return bool(entitlements.of_customer(customer.id, now))

    await services.catalog.customers.delete(find_customer(services, request).id, now, in_use)
    return Response(status_code=204)


def customer_view(customer: Customer) -> dict[str, Any]:
    """The customer as version 3 shows it; one without a key with an empty one."""
    attribution = customer.usage_attribution
    return {"key": customer.key or ""} | present(
        id=customer.id,
        name=customer.name,
        description=customer.description,
        labels=customer.metadata,
        usage_attribution=attribution and {"subject_keys": attribution.subject_keys},
        primary_email=customer.primary_email,
        currency=customer.currency,
        billing_address=customer.billing_address and _address(customer),
        created_at=format_rfc3339(customer.created_at),
        updated_at=format_rfc3339(customer.updated_at),
        deleted_at=customer.deleted_at and format_rfc3339(customer.deleted_at),
    )


def _address(customer: Customer) -> dict[str, Any]:
    address = customer.billing_address
    return {} if not address else present(**msgspec.structs.asdict(address))
