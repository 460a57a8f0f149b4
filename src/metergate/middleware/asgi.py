"""Metergate around an ASGI application: Starlette, FastAPI, Litestar, Quart, Django, any.

What may happen to a response here:

1. its last chunk comes: the events are recorded before that chunk leaves;
2. the application fails before there is one: it is metered with 500, which the server answers;
3. it breaks off, or the client leaves, after it has begun: it is metered with the status that was sent;
4. it is given up before it has begun: it is metered with 499, that is, by default not at all.

Chunks go on as they come, untouched. The middleware stands *behind* what authenticates, which it asks who is calling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from metergate.engine import Admission, Engine, Metering
from metergate.engine.requestids import new_request_id
from metergate.middleware import denied
from metergate.middleware.current import current
from metergate.middleware.host import Metergate

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("metergate.middleware")

KEY: Final = "metergate"
"""Where in the scope a request's `Metering` is."""

_LAST: Final = frozenset({"http.response.body", "http.response.pathsend"})
_GIVEN_UP = 499
_FAILED = 500


class MetergateMiddleware:
    """An ASGI application that meters another one, and lets in whom its entitlements allow."""

    def __init__(self, app: Application, metergate: Metergate) -> None:
        self._app = app
        self._metergate = metergate
        self._engine = metergate.engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and KEY not in scope and not self._metergate.is_excluded(scope["path"]):
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._app(scope, receive, self._ending_with(send))
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        metering = Metering(new_request_id())
        self._metergate.start()
        responder = _Responder(metering, send)
        remembered = current.set(metering)
        scope[KEY] = metering
        try:
            await admit(self._metergate, self._engine, scope, metering, responder.add_header)
            await self._app(scope, receive, responder.send)
        except denied.Denied as refusal:
            await responder.refuse(refusal, scope)
        except asyncio.CancelledError:
            await responder.settle(_GIVEN_UP)
            raise
        except BaseException:
            await responder.settle(_FAILED)
            raise
        else:
            await responder.settle(_FAILED)
        finally:
            metering.release()
            current.reset(remembered)

    def _ending_with(self, send: Send) -> Send:
        """Sends on what the application says of its lifespan; at its end what is recorded is sent."""

        async def send_on(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._metergate.stop()
                await asyncio.to_thread(self._metergate.drain)
            await send(message)

        return send_on


async def admit(
    metergate: Metergate,
    engine: Engine,
    scope: Scope,
    metering: Metering,
    add_header: Callable[[str, str], None] | None = None,
) -> None:
    """Let this request in by a policy, and meter it by that. Raises `denied.Denied`."""
    caller = metergate.caller(scope, _found_user(scope), lambda name: _header(scope, name))
    route = scope["path"]
    admission = engine.admit(caller, route, metering.holds)
    if not isinstance(admission, Admission):
        admission = await admission
    if admission.explanation is not None and engine.explain_header is not None and add_header is not None:
        add_header(engine.explain_header, admission.explanation)
    if admission.denial is not None:
        raise denied.Denied(admission.denial)
    metering.arm(engine, admission.subject, route, admission.hold)


def _found_user(scope: Scope) -> Any:
    """What an authentication has left: in the scope, as Starlette's does, or in the request's state."""
    user = scope.get("user")
    if user is None and (state := scope.get("state")) is not None:
        user = state.get("user") if isinstance(state, dict) else getattr(state, "user", None)
    return user


def _header(scope: Scope, name: bytes) -> str | None:
    """A request header that stands there once; twice is nobody's, for who knows who added the other."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


class _Responder:
    """Sends one response on, and settles its metering before its last byte."""

    __slots__ = ("_metering", "_more_headers", "_send", "_status")

    def __init__(self, metering: Metering, send: Send) -> None:
        self._metering = metering
        self._send = send
        self._status = 0
        self._more_headers: list[tuple[bytes, bytes]] = []

    def add_header(self, name: str, value: str) -> None:
        """A header field of the response, whatever it is."""
        self._more_headers.append((name.encode("latin-1"), value.encode("latin-1")))

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            if self._more_headers:
                message = {**message, "headers": [*message.get("headers", ()), *self._more_headers]}
        elif kind in _LAST and not message.get("more_body", False):
            await self.settle(self._status)
        await self._send(message)

    async def settle(self, status: int) -> None:
        """Record the events, once: by the status that was sent, else by this one. A fault of ours harms no response."""
        try:
            pending = self._metering.settle(self._status or status)
        except Exception:  # noqa: BLE001  # said, with all there is to say
            _log.exception("the request could not be metered")
            return
        for durable in pending:
            await asyncio.wrap_future(durable)

    async def refuse(self, refusal: denied.Denied, scope: Scope) -> None:
        """Answer a denial, unless an answer has begun already."""
        denial = refusal.denial
        if self._status:
            raise refusal
        await self.settle(denial.status)
        body = denied.problem(denial, scope["path"], self._metering.request_id)
        for name, value in denied.headers(denial, len(body)):
            self.add_header(name, value)
        await self.send({"type": "http.response.start", "status": denial.status, "headers": []})
        await self.send({"type": "http.response.body", "body": body})
