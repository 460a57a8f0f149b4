"""Makes a handler of a project's own callable, ``(request, context)``.

What it returns is sent: a `Response` as it is, bytes or an async iterator of bytes as a body, anything else as JSON
(text too, as the original does). An ``async def`` runs on the worker's event loop, and so does a plain function: one
that blocks holds up every request of its worker, so what waits has to be awaited (``asyncio.to_thread`` for a
library that cannot).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from metergate.gateway.http import HeaderItems, Request, Response, StreamedBody

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Handler

_encode = msgspec.json.Encoder(decimal_format="number").encode


def wrap(function: Callable[[Request, Context], Any]) -> Handler:
    """The handler. Whether the callable is async is seen from what it returns, so any callable object will do."""
    if inspect.iscoroutinefunction(function):

        async def answer_later(request: Request, context: Context) -> Response:
            return as_response(await function(request, context))

        return answer_later

    def answer(request: Request, context: Context) -> Response | Awaitable[Response]:
        result = function(request, context)
        return _awaited(result) if inspect.isawaitable(result) else as_response(result)

    return answer


async def _awaited(result: Awaitable[Any]) -> Response:
    return as_response(await result)


def as_response(value: Any) -> Response:
    """What a project's handler returned, as a response. Raises TypeError where JSON cannot hold it."""
    if isinstance(value, Response):
        return value
    if isinstance(value, bytes | StreamedBody) or hasattr(value, "__aiter__"):
        return Response(value, headers={"content-type": "application/octet-stream"})
    items: HeaderItems = [("content-type", "application/json")]
    return Response.trusted(200, items, _encode(value))
