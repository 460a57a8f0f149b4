"""What customers may use, as gateways ask it: of one customer, and of up to a hundred at once.

Rules: OpenMeter's openmeter/entitlementaccess and api/v3/handlers/customers/entitlementaccess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.access import values_at
from metergate.embedded.api.listing import present
from metergate.embedded.api.problems import NotFound, Problem
from metergate.embedded.api.requests import json_body, json_response, parameter_error, without_nulls
from metergate.embedded.api.v3.customers import customer_view, find_customer
from metergate.embedded.api.v3.parameters import MAX_SIZE, page_member, page_number
from metergate.embedded.domain.cursors import IdCursor, decode_id_cursor
from metergate.embedded.domain.customers import Customer
from metergate.embedded.domain.entitlements import Entitlement, Value
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services

Keys = Annotated[list[str], Meta(min_length=1, max_length=100)]
LIMIT_REACHED = ("usage_limit_reached", "the usage limit of the feature has been reached")
UNAVAILABLE = ("feature_unavailable", "the feature is not available for the customer")
UNKNOWN_FEATURE = ("feature_not_found", "the feature was not found")


class KeysInput(Struct, frozen=True, forbid_unknown_fields=True):
    """Of whom, or of what."""

    keys: Keys


class AccessQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which customers (by key or subject), and which features; all of them where none is named."""

    customer: KeysInput
    feature: KeysInput | None = None
    include_credits: bool = False


@dataclass(frozen=True, slots=True)
class Matched:
    """A customer and by which of the identifiers it was found."""

    customer: Customer
    by: tuple[str, ...]

    @property
    def cursor(self) -> IdCursor:
        """Where the list is at this customer: customers are listed as they were made."""
        return IdCursor(self.customer.created_at.replace(microsecond=0), self.customer.id)


_read = without_nulls(msgspec.json.Decoder(AccessQuery).decode)


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    one = "/api/v3/openmeter/customers/{customer}/entitlement-access"
    several = "/api/v3/openmeter/entitlement-access/query"
    return [
        Route(one, partial(_of_customer, services), methods=["GET"]),
        Route(several, partial(_of_several, services), methods=["POST"]),
    ]


async def _of_customer(services: Services, request: Request) -> Response:
    customer = services.catalog.customers.find_active(find_customer(services, request).id)
    (values,) = await _values(services, [customer])
    shown = [
        present(
            type=entitlement.type,
            feature_key=entitlement.feature_key,
            has_access=value.has_access,
            config=value.config,
        )
        for entitlement, value in values
    ]
    return json_response({"data": sorted(shown, key=lambda each: str(each["feature_key"]))})


async def _of_several(services: Services, request: Request) -> Response:
    given = await json_body(request, _read)
    if given.include_credits:
        raise Problem("include_credits is not implemented", status=501)
    size = page_number(request, "size", MAX_SIZE, MAX_SIZE)
    matched, unknown = _resolve(services, given.customer.keys)
    page, more_before, more_after = _cut(matched, size, *_cursors(request))
    now = format_rfc3339(services.clock())
    values = await _values(services, [each.customer for each in page])
    data = [
        {
            "matched": each.by,
            "customer": customer_view(each.customer),
            "features": _features(services, given.feature, found),
            "updated_at": now,
        }
        for each, found in zip(page, values, strict=True)
    ]
    errors = [
        {"code": "customer_not_found", "message": "customer not found", "customer": key} for key in unknown
    ]
    meta: dict[str, Any] = {"next": None, "previous": None, "size": size}
    if page:
        meta |= {"first": page[0].cursor.encode(), "last": page[-1].cursor.encode()}
        meta["next"] = meta["last"] if more_after else None
        meta["previous"] = meta["first"] if more_before else None
    return json_response({"data": data, "errors": errors, "meta": {"page": meta}})


def _resolve(services: Services, keys: Sequence[str]) -> tuple[list[Matched], list[str]]:
    """The customers in the order they were made, and the identifiers that are nobody's."""
    found: dict[str, list[str]] = {}
    unknown = []
    for key in keys:
        try:
            customer = services.catalog.customers.of_subject(key)
        except NotFound:
            unknown.append(key)
        else:
            found.setdefault(customer.id, []).append(key)
    customers = services.catalog.customers
    matched = [Matched(customers.find(identifier), tuple(by)) for identifier, by in found.items()]
    return sorted(matched, key=lambda each: each.cursor), unknown


def _cursors(request: Request) -> tuple[IdCursor | None, IdCursor | None]:
    given = {name: page_member(request, name) for name in ("after", "before")}
    if None not in given.values():
        raise parameter_error("page[after]", "cannot be combined with page[before]")
    decoded: dict[str, IdCursor | None] = {}
    for name, text in given.items():
        try:
            decoded[name] = None if text is None else decode_id_cursor(text)
        except ValueError as exception:
            raise parameter_error(f"page[{name}]", str(exception)) from exception
    return decoded["after"], decoded["before"]


def _cut(
    matched: Sequence[Matched], size: int, after: IdCursor | None, before: IdCursor | None
) -> tuple[Sequence[Matched], bool, bool]:
    """The page behind one cursor or before the other, and whether there are more before and behind it."""
    if before is not None:
        end = sum(each.cursor < before for each in matched)
        start = max(end - size, 0)
    else:
        start = 0 if after is None else sum(each.cursor <= after for each in matched)
        end = min(start + size, len(matched))
    return matched[start:end], start > 0, end < len(matched)


async def _values(services: Services, customers: Sequence[Customer]) -> list[list[tuple[Entitlement, Value]]]:
    """For each customer the entitlements that hold now, with their values, all read at once."""
    now = services.clock() + timedelta(microseconds=1)  # what was acknowledged in this very second counts
    held = [services.catalog.entitlements.of_customer(customer.id, now) for customer in customers]
    flat = [entitlement for each in held for entitlement in each]
    values = iter(await values_at(services.catalog, flat, now))
    return [[(entitlement, next(values)) for entitlement in each] for each in held]


def _features(
    services: Services, wanted: KeysInput | None, found: Sequence[tuple[Entitlement, Value]]
) -> Mapping[str, Any]:
    """Each feature that was asked for, those without an entitlement too."""
    by_key = {entitlement.feature_key: (entitlement, value) for entitlement, value in found}
    known = {feature.key for feature in services.catalog.features.all() if feature.archived_at is None}
    keys = wanted.keys if wanted else sorted(known | by_key.keys())
    return {key: _feature_access(by_key.get(key), known=key in known) for key in keys}


def _feature_access(held: tuple[Entitlement, Value] | None, *, known: bool) -> dict[str, Any]:
    if held is None:
        code, message = UNAVAILABLE if known else UNKNOWN_FEATURE
    elif held[1].has_access:
        return {"has_access": True}
    else:
        code, message = LIMIT_REACHED if held[0].type == "metered" else UNAVAILABLE
    return {"has_access": False, "reason": {"code": code, "message": message}}
