"""Metergate as a Quart extension: it lets in after what authenticates, and answers as the application does.

metergate = QuartMetergate(app, Metergate(meter={"type": "api-request"}, required_entitlements=["api"]))

@app.get("/chat")
@metergate.require("chat", meter={"type": "chat"})
async def chat(): ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from quart import Quart, Response, current_app, g, request

from metergate.middleware import asgi, denied
from metergate.middleware.current import metering_of
from metergate.middleware.host import Metergate
from metergate.middleware.requirements import Requirement

View = Callable[..., Any]


class QuartMetergate:
    """Meters a Quart application and lets in whom its entitlements allow.

    Who is calling is ``g.user``, unless the `Metergate` was told otherwise; its ``user=`` gets the scope. Make it *after*
    what authenticates with ``before_request``: Quart calls these in their order.
    """

    def __init__(self, app: Quart, metergate: Metergate) -> None:
        self.metergate = metergate
        around = asgi.MetergateMiddleware(app.asgi_app, metergate, admits=False)  # type: ignore[arg-type]
        app.asgi_app = around  # type: ignore[assignment,method-assign]
        app.before_request(_admit)
        app.register_error_handler(denied.Denied, _refuse)
        app.extensions["metergate"] = self

    def require(self, *features: str, **options: Any) -> Callable[[View], Callable[..., Awaitable[Any]]]:
        """Let a view be called only by who is entitled to these features, too; ``options`` as for `Metergate`: what else
        differs, such as ``meter``, which then counts beside the application's. Below the route's decorator.

        Raises:
            ConfigurationError: options that cannot be right.
        """
        requirement = Requirement(features, options)
        requirement.engine(self.metergate)

        def decorate(view: View) -> Callable[..., Awaitable[Any]]:
            @wraps(view)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                await _admit(requirement)
                return await current_app.ensure_async(view)(*args, **kwargs)

            return guarded

        return decorate


async def _admit(requirement: Requirement | None = None) -> None:
    route = request.url_rule.rule if request.url_rule is not None else None
    await asgi.admit(request.scope, requirement, g.get("user"), route)  # type: ignore[arg-type]  # a TypedDict


async def _refuse(refusal: denied.Denied) -> Response:
    denial = refusal.denial
    body = denied.problem(denial, request.path, metering_of(request).request_id)
    return Response(body, denial.status, dict(denied.headers(denial, len(body))))
