"""Metergate in FastAPI's manner: what a route needs and what is metered there are dependencies.

    app.add_middleware(MetergateMiddleware, metergate=gate, admits=False)

    @app.get("/chat", dependencies=[Depends(require_entitlement("ai_tokens", user=current_user))], responses=DENIALS)
    def chat(): ...

``user=`` is the dependency that authenticates: it is solved first, and once for a request. Without it who is calling is
what a middleware before has left in ``request.state.user`` or the scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Depends, Request

from metergate.middleware import asgi
from metergate.middleware.current import add_meters, set_meters
from metergate.middleware.denied import CONTENT_TYPE
from metergate.middleware.requirements import Requirement

__all__ = ["DENIALS", "add_meters", "metered", "require_entitlement", "set_meters"]

Dependency = Callable[..., Awaitable[None]]

_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "instance": {"type": "string"},
        "features": {"type": "array", "items": {"type": "object"}},
    },
}


def _described(description: str) -> dict[str, Any]:
    return {"description": description, "content": {CONTENT_TYPE: {"schema": _PROBLEM}}}


DENIALS: Final[dict[int | str, dict[str, Any]]] = {
    401: _described("Nobody is authenticated"),
    403: _described("No access to the feature, or its quota is used up"),
    503: _described("It could not be found out whether there is access"),
}
"""What may be answered to who is not let in, for the OpenAPI document: ``responses=DENIALS`` of a route, router or app."""


def require_entitlement(*features: str, user: Callable[..., Any] | None = None, **options: Any) -> Dependency:
    """A dependency that lets a request in only where its user is entitled to these features.

    Args:
        features: keys of features in OpenMeter.
        user: the dependency that gives who is calling.
        options: as for `Metergate`, what differs from the application's: ``entitlement_check``, or ``meter``, which is
            then counted beside the application's own; none by default.

    Raises:
        ConfigurationError: options that cannot be right.
    """
    return _dependency(Requirement(features, options), user)


def metered(*meters: Any, user: Callable[..., Any] | None = None, **options: Any) -> Dependency:
    """A dependency that meters a request by these meters, beside the application's own.

    With no meter and no option it lets in and meters by the application's own policy: for the whole of an application
    whose users are authenticated by dependencies. Arguments as for `require_entitlement`.

    Raises:
        ConfigurationError: meters or options that cannot be right.
    """
    if not meters and not options:
        return _dependency(None, user)
    return _dependency(Requirement((), {"meter": [*meters], **options}), user)


def _dependency(requirement: Requirement | None, user: Callable[..., Any] | None) -> Dependency:
    if user is None:

        async def admit(request: Request) -> None:
            await asgi.admit(request.scope, requirement)

        return admit

    authenticated = Depends(user)

    async def admit_user(request: Request, found: Any = authenticated) -> None:
        await asgi.admit(request.scope, requirement, found)

    return admit_user
