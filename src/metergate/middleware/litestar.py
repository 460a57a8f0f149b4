"""Metergate in Litestar's manner: a plugin for the application, guards for what some routes need.

app = Litestar(handlers, plugins=[MetergatePlugin(metergate)], on_app_init=[auth.on_app_init])

@get("/chat", guards=[require_entitlement("ai_tokens")])
async def chat() -> str: ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.plugins import InitPlugin

from metergate.middleware import asgi, denied
from metergate.middleware.current import metering_of
from metergate.middleware.host import Metergate
from metergate.middleware.requirements import Requirement

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


class MetergatePlugin(InitPlugin):
    """Meters a Litestar application and lets in whom its entitlements allow; who is calling is ``connection.user``.

    The last of the application's middlewares: what authenticates comes before it. Litestar has none of them see a path
    that no route has, so such a request is neither let in nor metered. ``admits`` as of `asgi.MetergateMiddleware`.
    """

    def __init__(self, metergate: Metergate, *, admits: bool = True) -> None:
        self.metergate = metergate
        self._admits = admits

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the middleware, the answer to denials, and what sends the rest at the end."""
        around: Any = asgi.MetergateMiddleware  # of which it knows scopes and messages as dicts of its own
        app_config.middleware.append(DefineMiddleware(around, metergate=self.metergate, admits=self._admits))
        app_config.exception_handlers.setdefault(denied.Denied, _refuse)
        app_config.on_shutdown.append(self._end)
        return app_config

    async def _end(self) -> None:
        await self.metergate.stop()
        await asyncio.to_thread(self.metergate.drain)


def require_entitlement(*features: str, **options: Any) -> Guard:
    """A guard that lets a request in only where its user is entitled to these features.

    ``options`` as for `Metergate`: what differs from the application's, such as ``meter``, which then counts beside its own.

    Raises:
        ConfigurationError: options that cannot be right.
    """
    requirement = Requirement(features, options)

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        await asgi.admit(connection.scope, requirement)  # type: ignore[arg-type]  # a TypedDict of its own

    return guard


def _refuse(request: Request[Any, Any, Any], refusal: denied.Denied) -> Response[bytes]:
    denial = refusal.denial
    body = denied.problem(denial, request.url.path, metering_of(request).request_id)
    return Response(body, status_code=denial.status, headers=dict(denied.headers(denial, len(body))))
