"""``/api/v2/events``: all events page by page, narrowed by a filter (openmeter/meterevent, event_query_v2.go).

Unlike the list of version 1 it reaches back to the first event, and its pages are exact: together they show
every event once that was there when the first of them was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.events import described, subjects_of
from metergate.embedded.api.problems import Invalid
from metergate.embedded.api.requests import integer, json_response, parameter_error, single, text
from metergate.embedded.domain.cursors import Cursor, decode_cursor
from metergate.embedded.domain.filters import parse_filter
from metergate.embedded.domain.identifiers import is_id
from metergate.embedded.domain.time_filters import parse_time_filter
from metergate.embedded.services import Services
from metergate.embedded.store.listing import PageFilter, StoredEvent, TimeColumn

T = TypeVar("T")
_TEXTS = ("id", "source", "subject", "type")
_DEPTH = 1
"""How deep ``$and`` and ``$or`` may be nested here."""


def routes(services: Services) -> list[Route]:
    """The route of this module."""
    return [Route("/api/v2/events", partial(_list, services), methods=["GET"])]


async def _list(services: Services, request: Request) -> Response:
    text(request, "clientId", longest=36)
    limit = integer(request, "limit", 100, least=1, most=100)
    condition = await _read(services, _filters(request), _cursor(request), limit)
    events = await services.listing.page(condition)
    answer: dict[str, Any] = {"items": await described(services, events)}
    if len(events) == limit:
        answer["nextCursor"] = cursor_of(events[-1], condition.by).encode()
    return json_response(answer)


def cursor_of(event: StoredEvent, by: TimeColumn) -> Cursor:
    """Where a list by this column is at this event."""
    return Cursor(getattr(event, by), event.number)


def _cursor(request: Request) -> Cursor | None:
    given = single(request, "cursor")
    try:
        return None if given is None else decode_cursor(given)
    except ValueError as exception:
        raise Invalid(str(exception)) from exception


def _filters(request: Request) -> Mapping[str, Any]:
    """The parameter ``filter``, without what is null."""
    given = single(request, "filter")
    try:
        decoded = {} if given is None else msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as exception:
        raise parameter_error("filter", f"it must be a JSON object: {exception}") from exception
    return {name: value for name, value in decoded.items() if value is not None}


async def _read(services: Services, given: Mapping[str, Any], after: Cursor | None, limit: int) -> PageFilter:
    findings: list[str] = []

    def parse(name: str, parser: Callable[..., T | None]) -> T | None:
        try:
            return parser(given[name], depth=_DEPTH) if name in given else None
        except ValueError as exception:
            findings.append(f"{name}: {exception}")
            return None

    texts = {name: parse(name, parse_filter) for name in _TEXTS}
    time, ingested_at = parse("time", parse_time_filter), parse("ingestedAt", parse_time_filter)
    customers = parse("customerId", _customer_ids)
    if time and ingested_at:
        findings.append("time and ingested_at cannot both be set")
    if findings:
        raise Invalid("validate input: " + "\n".join(findings))
    return PageFilter(
        texts={name: condition for name, condition in texts.items() if condition is not None},
        times={"ingested_at": ingested_at} if ingested_at else {"time": time} if time else {},
        by="ingested_at" if ingested_at else "time",
        subjects=None if customers is None else tuple(sorted(await subjects_of(services, customers))),
        after=after,
        limit=limit,
    )


def _customer_ids(value: Any, *, depth: int) -> tuple[str, ...] | None:
    """The ids in ``{"$in": [...]}`` or ``{"$eq": …}``."""
    condition = parse_filter(value, depth=depth)
    if condition is None:
        return None
    if condition.operator not in ("$eq", "$in"):
        raise ValueError("customer id filter supports only eq or in")
    operand = condition.operand
    ids = [str(each) for each in operand] if isinstance(operand, tuple) else [str(operand)]
    if not all(map(is_id, ids)):
        raise ValueError("filter is invalid: format mismatch")
    return tuple(ids)
