"""``/api/v1/portal``: tokens for consumers, and the query that such a token opens, for its subject only."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.app import PORTAL
from metergate.embedded.api.listing import present
from metergate.embedded.api.problems import Invalid, Problem, Unauthorized
from metergate.embedded.api.query import answer, read_parameters
from metergate.embedded.api.requests import integer, json_body, json_response, without_nulls
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.moments import format_rfc3339, in_utc
from metergate.embedded.domain.portal import LIFE, InvalidToken, PortalToken, sign, verify
from metergate.embedded.services import Services


class TokenInput(Struct, frozen=True, rename="camel"):
    """What a client says of a new token."""

    subject: str
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    allowed_meter_slugs: list[str] | None = None


class Invalidation(Struct, frozen=True):
    """Which tokens to invalidate."""

    id: str | None = None
    subject: str | None = None


_read_token = without_nulls(msgspec.json.Decoder(TokenInput).decode)
_read_invalidation = without_nulls(msgspec.json.Decoder(Invalidation).decode)


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    tokens = "/api/v1/portal/tokens"
    return [
        Route(tokens, partial(_create, services), methods=["POST"]),
        Route(tokens, _list, methods=["GET"]),
        Route(f"{tokens}/invalidate", _invalidate, methods=["POST"]),
        Route(f"{PORTAL}{{meter}}/query", partial(_query, services), methods=["GET"]),
    ]


async def _create(services: Services, request: Request) -> Response:
    given = await json_body(request, _read_token)
    allowed = given.allowed_meter_slugs
    if allowed == []:
        raise Invalid("slug filter cannot be an empty array when provided")
    if not given.subject:
        raise Invalid("subject is required")
    for slug in allowed or ():
        services.meters.find(slug)
    now = services.clock()
    expires_at = in_utc(given.expires_at) if given.expires_at else now + LIFE
    token = PortalToken(new_id(now), given.subject, expires_at, tuple(allowed or ()))
    signed = sign(token, await services.catalog.portal.get(), now)
    return json_response(_view(token, signed, now))


def _view(token: PortalToken, signed: str, now: datetime) -> dict[str, Any]:
    return present(
        id=token.id,
        subject=token.subject,
        expiresAt=format_rfc3339(token.expires_at),
        createdAt=format_rfc3339(now),
        expired=token.expires_at <= now,
        token=signed,
        allowedMeterSlugs=token.allowed_meters or None,
    )


async def _list(request: Request) -> Response:
    integer(request, "limit", 25, least=1, most=100)
    raise _NOT_KEPT


async def _invalidate(request: Request) -> Response:
    await json_body(request, _read_invalidation)
    raise _NOT_KEPT


_NOT_KEPT = Problem("not implemented: portal tokens are signed, not kept; let them expire", status=501)


async def _query(services: Services, request: Request) -> Response:
    token = await _token(services, request)
    slug = request.path_params["meter"]
    if token.allowed_meters and slug not in token.allowed_meters:
        raise Unauthorized("meter slug not allowed")
    question = msgspec.structs.replace(read_parameters(request), subject=[token.subject])
    return await answer(services, request, question)


async def _token(services: Services, request: Request) -> PortalToken:
    scheme, _, text = request.headers.get("authorization", "").strip().partition(" ")
    if scheme != "Bearer" or not text:
        raise Unauthorized("missing or invalid authorization header")
    try:
        return verify(text, await services.catalog.portal.get(), services.clock())
    except InvalidToken as exception:
        raise Unauthorized(str(exception)) from exception
