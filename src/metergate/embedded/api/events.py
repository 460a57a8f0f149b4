"""``/api/v1/events``: taking events in and listing them (openmeter/ingest/httpdriver, openmeter/meterevent)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.problems import BadRequest, Invalid, Misfit
from metergate.embedded.api.requests import (
    body_bytes,
    integer,
    json_response,
    media_type,
    moment,
    parameter_error,
    text,
    texts,
)
from metergate.embedded.domain.cloudevents import BATCH, CONTENT_TYPES, InvalidEvents, read_events
from metergate.embedded.domain.identifiers import is_id
from metergate.embedded.domain.meters import event_error
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services
from metergate.embedded.store.listing import EventFilter, StoredEvent

OLDEST = timedelta(days=32)
"""How far back the list reaches."""
MAX_BODY = 128 * 1024 * 1024
"""Bytes of events in one request. OpenMeter has no bound of its own; this much needs about 1 GB of memory."""
_LARGE = 256 * 1024
"""Bytes of a body that is read on a thread, so that the event loop stays free meanwhile."""
_HUGE = 16 * 1024 * 1024
"""Bytes of a body that is dealt with alone, so that several of them do not need their memory at once."""


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    alone = asyncio.Lock()
    return [
        Route("/api/v1/events", partial(_ingest, services, alone), methods=["POST"]),
        Route("/api/v1/events", partial(_list, services), methods=["GET"]),
    ]


async def _ingest(services: Services, alone: asyncio.Lock, request: Request) -> Response:
    """204 once the events are on disk. The header is compared as it stands, with its parameters, as OpenMeter
    does.
    """
    content_type = request.headers.get("content-type", "")
    if content_type not in CONTENT_TYPES:
        if media_type(request) in CONTENT_TYPES:
            raise BadRequest(f"invalid content type: {content_type}", contentType=content_type)
        raise Misfit(
            f'request body has an error: header Content-Type has unexpected value "{content_type}" '
            f"(invalid content type: use one of {', '.join(CONTENT_TYPES)})"
        )
    try:
        await ingest(services, alone, request, content_type)
    except InvalidEvents as exception:
        kind = Misfit if str(exception).startswith("request body") else BadRequest
        raise kind(str(exception)) from exception
    return Response(status_code=204)


async def ingest(
    services: Services, alone: asyncio.Lock, request: Request, content_type: str, *, strict: bool = False
) -> None:
    """Store the request's events; returns once they are on disk. Raises InvalidEvents, and what storing raises.

    ``alone`` is held while a body is dealt with that is so large that two of them are too much.
    """
    received = services.clock()
    body = await body_bytes(request, MAX_BODY)
    async with alone if len(body) > _HUGE else nullcontext():
        if len(body) < _LARGE:
            events = read_events(body, content_type, strict=strict)
        else:
            events = await asyncio.to_thread(read_events, body, content_type, strict=strict)
        if not events and content_type != BATCH:
            raise InvalidEvents("invalid event: no events found")
        await services.events.append(events, received)
    services.notifier.used(event.subject for event in events)


async def _list(services: Services, request: Request) -> Response:
    condition, customers = _read_filter(services, request)
    if customers:
        condition = await _of_customers(services, condition, customers)
    events = await services.listing.find(condition)
    return json_response(await described(services, events))


def _read_filter(services: Services, request: Request) -> tuple[EventFilter, tuple[str, ...]]:
    text(request, "clientId", longest=36)
    customers = texts(request, "customerId") or ()
    for customer in customers:
        if not is_id(customer):
            raise parameter_error("customerId", "string doesn't match the regular expression of a ULID")
    oldest = services.clock() - OLDEST
    subject = text(request, "subject")
    condition = EventFilter(
        start=moment(request, "from") or oldest + timedelta(seconds=1),
        end=moment(request, "to"),
        ingested_start=moment(request, "ingestedAtFrom"),
        ingested_end=moment(request, "ingestedAtTo"),
        id=text(request, "id"),
        subjects=None if subject is None else (subject,),
        limit=integer(request, "limit", 100, least=1, most=100),
    )
    findings = _range_findings(condition, oldest)
    if findings:
        raise Invalid("validate input: " + "\n".join(findings))
    return condition, customers


def _range_findings(condition: EventFilter, oldest: datetime) -> list[str]:
    findings = []
    start, end = condition.start, condition.end
    first, last = condition.ingested_start, condition.ingested_end
    if start < oldest:
        findings.append(
            f"from date is too old: {format_rfc3339(start)}, must be after {format_rfc3339(oldest)}"
        )
    if end is not None and end < start:
        findings.append(f"to date is before from date: {format_rfc3339(end)} < {format_rfc3339(start)}")
    if first is not None and first < oldest:
        findings.append(
            f"ingestedAtFrom date is too old: {format_rfc3339(first)}, must be after {format_rfc3339(oldest)}"
        )
    if first is not None and last is not None and last < first:
        findings.append(
            f"ingestedAtTo date is before ingestedAtFrom date: {format_rfc3339(last)} < {format_rfc3339(first)}"
        )
    return findings


async def _of_customers(
    services: Services, condition: EventFilter, customers: tuple[str, ...]
) -> EventFilter:
    subjects = await subjects_of(services, customers)
    if condition.subjects is not None:
        subjects = subjects.intersection(condition.subjects)
    return replace(condition, subjects=tuple(sorted(subjects)))


async def subjects_of(services: Services, customers: Sequence[str]) -> frozenset[str]:
    """All subjects of these customers. Raises 400 where one of them is unknown."""
    known = await services.customers.subjects_of(customers)
    if unknown := [customer for customer in customers if customer not in known]:
        raise Invalid(f"customers not found in namespace default: {', '.join(unknown)}")
    return frozenset[str]().union(*known.values())


async def described(services: Services, events: Sequence[StoredEvent]) -> list[dict[str, Any]]:
    """The events with whom they belong to and why a meter finds nothing in them, both as of now."""
    owners = await services.customers.customers_of({event.subject for event in events})
    return [_describe(services, event, owners.get(event.subject)) for event in events]


def _describe(services: Services, event: StoredEvent, customer: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"event": cloud_event(event)}
    if customer is not None:
        answer["customerId"] = customer
    if errors := validation_errors(services, event, customer):
        answer["validationError"] = "\n".join(errors)
    answer["ingestedAt"] = format_rfc3339(event.ingested_at)
    answer["storedAt"] = format_rfc3339(event.stored_at)
    return answer


def cloud_event(event: StoredEvent) -> dict[str, Any]:
    """The event as it is made again from what was kept of it."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": format_rfc3339(event.time),
    }
    if event.data is not None:
        attributes["datacontenttype"] = "application/json"
        attributes["data"] = msgspec.Raw(event.data.encode())
    return attributes


def validation_errors(services: Services, event: StoredEvent, customer: str | None) -> list[str]:
    """Why no meter counts the event for anybody; empty when one does."""
    meters = services.meters.of_type(event.type)
    found = [event_error(meter, event.data) for meter in meters]
    errors = [error for error in found if error is not None]
    if not meters:
        errors.append(f"no meter found for event type: {event.type}")
    if customer is None:
        errors.append(f"no customer found for event subject: {event.subject}")
    return errors
