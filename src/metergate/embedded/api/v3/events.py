"""``/api/v3/openmeter/events``: ingest, which answers 202, and the list page by page.

Unlike version 1 it takes parameters of the Content-Type, and refuses attributes that it does not know.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.event_pages import cursor_of
from metergate.embedded.api.events import cloud_event, ingest, subjects_of, validation_errors
from metergate.embedded.api.problems import InvalidParameter
from metergate.embedded.api.requests import body_error, json_response, media_type, parameter_error
from metergate.embedded.api.v3.parameters import (
    DEFAULT_SIZE,
    MAX_SIZE,
    filters,
    ids,
    page_member,
    page_number,
    sorting,
    text_filter,
    time_filter,
)
from metergate.embedded.domain.cloudevents import CONTENT_TYPES, InvalidEvents
from metergate.embedded.domain.cursors import Cursor, decode_cursor
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.services import Services
from metergate.embedded.store.listing import PageFilter, StoredEvent, TimeColumn

PATH = "/api/v3/openmeter/events"
_TEXTS = ("id", "source", "subject", "type")
_TIMES: tuple[TimeColumn, ...] = ("time", "ingested_at", "stored_at")
_PLACE = re.compile(r'.*?Error at "/([^"]*)": (.*)', re.DOTALL)


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    alone = asyncio.Lock()
    return [
        Route(PATH, partial(_ingest, services, alone), methods=["POST"]),
        Route(PATH, partial(_list, services), methods=["GET"]),
    ]


async def _ingest(services: Services, alone: asyncio.Lock, request: Request) -> Response:
    content_type = media_type(request)
    if content_type not in CONTENT_TYPES:
        raise body_error(f"invalid content type: use one of {', '.join(CONTENT_TYPES)}", "Content-Type")
    try:
        await ingest(services, alone, request, content_type, strict=True)
    except InvalidEvents as exception:
        raise _misfit(str(exception)) from exception
    return Response(status_code=202)


def _misfit(message: str) -> InvalidParameter:
    """The problem that names the attribute, with its place in the batch (``3.subject``)."""
    match = _PLACE.fullmatch(message)
    if match is None:
        return InvalidParameter("body", message, "body")
    return InvalidParameter(match[1].replace("/", "."), match[2], "body")


async def _list(services: Services, request: Request) -> Response:
    size = page_number(request, "size", DEFAULT_SIZE, MAX_SIZE)
    condition = await _condition(services, request, size)
    events = await services.listing.page(condition)
    return json_response(
        {"data": await _described(services, events), "meta": {"page": _page(condition, events, size)}}
    )


async def _condition(services: Services, request: Request, size: int) -> PageFilter:
    given = filters(request, (*_TEXTS, *_TIMES, "customer_id"))
    by, descending = sorting(request, _TIMES, descending=True)
    customers = ids("customer_id", given["customer_id"]) if "customer_id" in given else None
    return PageFilter(
        texts={name: text_filter(name, given[name]) for name in _TEXTS if name in given},
        times={name: time_filter(name, given[name]) for name in _TIMES if name in given},
        by=cast("TimeColumn", by),
        descending=descending,
        subjects=None if customers is None else tuple(sorted(await subjects_of(services, customers))),
        after=_cursor(request),
        limit=size,
    )


def _cursor(request: Request) -> Cursor | None:
    if page_member(request, "before") is not None:
        raise parameter_error("page[before]", "backward pagination is not supported")
    given = page_member(request, "after")
    try:
        return None if given is None else decode_cursor(given)
    except ValueError as exception:
        raise parameter_error("page[after]", str(exception)) from exception


def _page(condition: PageFilter, events: Sequence[StoredEvent], size: int) -> dict[str, Any]:
    page: dict[str, Any] = {"next": None, "previous": None, "size": size}
    if events:
        page["first"] = cursor_of(events[0], condition.by).encode()
        page["last"] = cursor_of(events[-1], condition.by).encode()
    if len(events) == size:
        page["next"] = page["last"]
    return page


async def _described(services: Services, events: Sequence[StoredEvent]) -> list[dict[str, Any]]:
    owners = await services.customers.customers_of({event.subject for event in events})
    return [_describe(services, event, owners.get(event.subject)) for event in events]


def _describe(services: Services, event: StoredEvent, customer: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"event": cloud_event(event)}
    if customer is not None:
        answer["customer"] = {"id": customer}
    if errors := validation_errors(services, event, customer):
        answer["validation_errors"] = [{"code": "validation_error", "message": error} for error in errors]
    answer["ingested_at"] = format_rfc3339(event.ingested_at)
    answer["stored_at"] = format_rfc3339(event.stored_at)
    return answer
