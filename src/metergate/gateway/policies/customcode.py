"""Policies of the project's own code.

An inbound one is ``(request, context, options, policy_name)`` and returns a `Request` (go on with that one) or a
`Response` (stop here); an outbound one is ``(response, request, context, options, policy_name)`` and returns a
`Response`. Plain functions run on the worker's event loop, as an ``async def`` does: what blocks holds up every request
of the worker. ``options`` is the same object for every request: read it, do not change it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from metergate.gateway.http import Request, Response
from metergate.gateway.model import NamedPolicy
from metergate.gateway.options import Options
from metergate.policy.fields import Unset

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Site

Function = Callable[..., Any]


def inbound(function: Function, options: Any, name: str) -> NamedPolicy:
    """The inbound policy of a project's callable."""
    given = without_unset(options)

    def run(request: Request, context: Context) -> Request | Response | Awaitable[Request | Response]:
        result = function(request, context, given, name)
        if isinstance(result, Request | Response):
            return result
        return _request_or_response(result, name)

    return NamedPolicy(name, inbound=run)


def outbound(function: Function, options: Any, name: str) -> NamedPolicy:
    """The outbound policy of a project's callable."""
    given = without_unset(options)

    def run(response: Response, request: Request, context: Context) -> Response | Awaitable[Response]:
        result = function(response, request, context, given, name)
        return result if isinstance(result, Response) else _response(result, name)

    return NamedPolicy(name, outbound=run)


def build_inbound(options: Any, site: Site) -> NamedPolicy | None:
    """``CustomCodeInboundPolicy``: options ``module`` (``$import(./modules/x)``), ``export``, ``options``."""
    found = _load(options, site)
    return None if found is None else inbound(*found, site.name)


def build_outbound(options: Any, site: Site) -> NamedPolicy | None:
    """``CustomCodeOutboundPolicy``: the same options."""
    found = _load(options, site)
    return None if found is None else outbound(*found, site.name)


def _load(options: Any, site: Site) -> tuple[Function, Any] | None:
    read = Options(options)
    module = read.required("module", "$import(./modules/my-policy)")
    export = read.text("export", "default")
    given = dict(read.object("options").values)
    if not read.report(site):
        return None
    function = site.load(module, export)
    return None if function is None else (function, given)


def without_unset(value: Any) -> Any:
    """Options as project code reads them: a member whose variable is not set is not there, a list item is None."""
    if isinstance(value, dict):
        return {key: without_unset(item) for key, item in value.items() if not isinstance(item, Unset)}
    if isinstance(value, list):
        return [without_unset(item) for item in value]
    return None if isinstance(value, Unset) else value


async def _request_or_response(result: Any, name: str) -> Request | Response:
    value = await result if inspect.isawaitable(result) else result
    if isinstance(value, Request | Response):
        return value
    raise TypeError(
        f"policy {name} returned {type(value).__name__}: return the request to go on, or a Response to stop"
    )


async def _response(result: Any, name: str) -> Response:
    value = await result if inspect.isawaitable(result) else result
    if isinstance(value, Response):
        return value
    raise TypeError(f"policy {name} returned {type(value).__name__}: return a Response")
