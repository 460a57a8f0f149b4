"""The history of a metered entitlement's balance, of a subject's (version 1) and a customer's (version 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import customer_key, key_or_id, segment
from metergate.embedded.api.problems import Invalid, NotFound
from metergate.embedded.api.requests import choice, json_response, moment, parameter_error, text
from metergate.embedded.domain.entitlements import Entitlement
from metergate.embedded.domain.grants import ZERO, Segment
from metergate.embedded.domain.issuance import number
from metergate.embedded.domain.moments import format_local, format_rfc3339
from metergate.embedded.domain.periods import Period, ceil_minute, floor_minute
from metergate.embedded.domain.usage_periods import usage_period_at
from metergate.embedded.domain.windows import WindowSize, find_zone
from metergate.embedded.services import Services
from metergate.embedded.store.history import Window

SIZES = (WindowSize.HOUR, WindowSize.DAY)
"""OpenMeter computes no others, though its description names them."""


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    catalog, clock = services.catalog, services.clock

    async def of_subject(request: Request) -> Response:
        customer = catalog.customers.of_subject(segment(request, "subject"))
        entitlement = catalog.entitlements.find(segment(request, "entitlement"))
        if entitlement.customer_id != customer.id:
            raise NotFound(f"entitlement not found: {entitlement.id}")
        return await answer(request, entitlement)

    async def of_customer(request: Request) -> Response:
        name = key_or_id(request, "entitlement", "entitlementIdOrFeatureKey")
        customer = catalog.customers.find_active(customer_key(request))
        return await answer(request, catalog.entitlements.find_of(customer.id, name, clock()))

    async def answer(request: Request, entitlement: Entitlement) -> Response:
        size, zone = _size(request), _zone(request)
        span = _span(request, entitlement, clock())
        try:
            windows, segments = await catalog.histories.of(entitlement, span.start, span.end, size, zone)
        except ValueError as exception:
            raise Invalid(str(exception)) from exception
        # on a thread, as a year of hours takes seconds to write
        return await asyncio.to_thread(lambda: json_response(_view(windows, segments, zone)))

    v1 = "/api/v1/subjects/{subject}/entitlements/{entitlement}/history"
    v2 = "/api/v2/customers/{customer}/entitlements/{entitlement}/history"
    return [Route(v1, of_subject, methods=["GET"]), Route(v2, of_customer, methods=["GET"])]


def _size(request: Request) -> WindowSize:
    given = choice(request, "windowSize", tuple(WindowSize))
    if given is None:
        raise parameter_error("windowSize", "value is required but missing")
    if given not in SIZES:
        raise Invalid(f"windowSize {given} is not supported; use HOUR or DAY")
    return WindowSize(given)


def _zone(request: Request) -> tzinfo:
    try:
        return find_zone(text(request, "windowTimeZone") or "UTC")
    except ValueError as exception:
        raise Invalid(f"invalid time zone: {exception}") from exception


def _span(request: Request, entitlement: Entitlement, now: datetime) -> Period:
    """From the last reset until now unless said otherwise, in full minutes, the running one with them."""
    period, metering = usage_period_at(entitlement, now), entitlement.metering
    if metering is None or period is None:
        raise Invalid(f"entitlement {entitlement.id} is {entitlement.type}; only metered ones have a history")
    start = moment(request, "from") or period.start
    if start < metering.measure_usage_from:
        least = format_rfc3339(metering.measure_usage_from)
        raise Invalid(f"from {format_rfc3339(start)} cannot be before {least}")
    end = moment(request, "to") or now + timedelta(microseconds=1)
    if end < start:
        raise Invalid(f"to {format_rfc3339(end)} cannot be before from {format_rfc3339(start)}")
    return Period(floor_minute(start), ceil_minute(end))


def _view(windows: Sequence[Window], segments: Sequence[Segment], zone: tzinfo) -> dict[str, Any]:
    return {
        "windowedHistory": [
            {
                "period": {
                    "from": format_local(window.period.start, zone),
                    "to": format_local(window.period.end, zone),
                },
                "usage": number(window.usage),
                "balanceAtStart": number(window.balance_at_start),
            }
            for window in windows
        ],
        "burndownHistory": [_segment_view(segment) for segment in segments],
    }


def _segment_view(segment: Segment) -> dict[str, Any]:
    opening = segment.opening.balances
    closing = {grant: balance - segment.burned.get(grant, ZERO) for grant, balance in opening.items()}
    return {
        "period": {
            "from": format_rfc3339(segment.phase.start),
            "to": format_rfc3339(segment.phase.end),
        },
        "usage": number(segment.usage),
        "overage": number(segment.overage),
        "balanceAtStart": number(segment.opening.balance),
        "grantBalancesAtStart": {grant: number(balance) for grant, balance in opening.items()},
        "balanceAtEnd": number(sum(closing.values(), ZERO)),
        "grantBalancesAtEnd": {grant: number(balance) for grant, balance in closing.items()},
        "grantUsages": [
            {"grantId": grant, "usage": number(used)} for grant, used in segment.burned.items() if used
        ],
    }
