"""The ASGI application: routes of all modules, the bearer token, and every error as OpenMeter's problem.

A new module of routes is added to ``MODULES`` in ``server.py``; it offers ``routes(services: Services) ->
list[Route]`` with handlers ``async def handler(request: Request) -> Response`` and raises the exceptions of
``problems`` for anything else.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metergate.embedded.api.problems import Misfit, Problem, Unauthorized, problem_response
from metergate.embedded.store.database import Overloaded, Unavailable

log = logging.getLogger("metergate.embedded")

POWERED_BY = "OpenMeter by Kong, Inc."
VISIBILITY_HEADER = "Metergate-Visibility-Seconds"
"""Tells a gateway that it need not assume OpenMeter's usual delay before usage is seen."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
PORTAL = "/api/v1/portal/meters/"
"""There the token is that of a consumer, and ``portal.py`` looks at it."""
_ROUTING_DETAILS = {404: "no matching operation was found", 405: "method not allowed"}

Hook = Callable[[], Awaitable[None]]


class Application:
    """``await startup()`` and ``await shutdown()`` frame its life; an ASGI server does so by its lifespan
    messages.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        *,
        token: str | None = None,
        visibility_delay: float = 0.0,
        startup: Hook,
        shutdown: Hook,
    ) -> None:
        """``visibility_delay``: seconds after which an event that was acknowledged is seen; every answer tells."""
        self._router = Router(routes, redirect_slashes=False)
        self._token = None if token is None else f"Bearer {token}".encode()
        self._brand = [
            (b"x-powered-by", POWERED_BY.encode()),
            (VISIBILITY_HEADER.lower().encode(), f"{visibility_delay:g}".encode()),
        ]
        self.startup = startup
        self.shutdown = shutdown
        self._in_flight: set[asyncio.Task[None] | None] = set()
        self._portal = _for_browsers(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            task = asyncio.current_task()
            self._in_flight.add(task)
            try:
                answer = self._portal if scope["path"].startswith(PORTAL) else self._answer
                await answer(scope, receive, send)
            finally:
                self._in_flight.discard(task)

    def abort(self) -> int:
        """Cancel the requests in flight; how many there were."""
        for task in tuple(self._in_flight):
            if task is not None:
                task.cancel()
        return len(self._in_flight)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.startup()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        started = False

        async def branded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *self._brand]
            await send(message)

        try:
            self._authorize(scope["path"], headers)
            scope["app"] = (
                self  # with it the router raises for a wrong method instead of answering in plain text
            )
            scope["path"] = _routed_path(scope)
            await self._router(scope, receive, branded)
        except ClientDisconnect:
            extra = {"request_id": _request_id(headers)}
            log.debug("the client left before its request was read", extra=extra)
        except Exception as exception:
            request_id = _request_id(
                headers
            )  # not earlier: random bytes cost as much as all else of a small request
            problem = as_problem(exception)
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            if started:
                raise
            version_3 = scope["path"].startswith("/api/v3/")
            response = problem_response(problem, request_id, version_3=version_3)
            if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
                response.headers["Allow"] = self._allowed(scope)
            await response(scope, receive, branded)

    def _allowed(self, scope: Scope) -> str:
        """The methods that the path has."""
        routes = (route for route in self._router.routes if isinstance(route, Route))
        fitting = (route.methods or () for route in routes if route.matches(scope)[0] is Match.PARTIAL)
        return ", ".join(sorted({method for methods in fitting for method in methods}))

    def _authorize(self, path: str, headers: Headers) -> None:
        if self._token is None or path.startswith(PORTAL):
            return
        given = headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._token):
            raise Unauthorized("missing or wrong bearer token")


def as_problem(exception: Exception) -> Problem:
    """The problem that the client is told of; anything unforeseen is a 500 without detail."""
    if isinstance(exception, Problem):
        return exception
    if isinstance(exception, HTTPException):
        detail = _ROUTING_DETAILS.get(exception.status_code, exception.detail)
        return Misfit(detail, status=exception.status_code)
    if isinstance(exception, Overloaded | Unavailable):
        return Problem(str(exception), status=503)
    return Problem(status=500)


def _for_browsers(app: ASGIApp) -> ASGIApp:
    """The app for pages of any origin, as OpenMeter lets them ask the portal: the token tells who asks."""
    cors = CORSMiddleware(
        app,
        allow_origin_regex=".*",
        allow_methods=("GET", "OPTIONS"),
        allow_headers=("Authorization",),
        allow_credentials=True,
        allow_private_network=True,
        max_age=1728000,
    )
    cors.preflight_headers["X-Powered-By"] = POWERED_BY
    return cors


def _routed_path(scope: Scope) -> str:
    """The decoded path, an encoded slash in it as NUL, so that a subject named ``a/b`` is one segment still."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw:
        return path
    return unquote(raw.decode("latin-1").replace("%2F", "%00").replace("%2f", "%00"))


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(10).hex()
