"""Metergate around an ASGI application: Starlette, FastAPI, Litestar, Quart, Django, any.

What may happen to a response here:

1. its last chunk comes, or as many bytes as were announced: the events are recorded before that chunk leaves;
2. the application fails before there is one: it is metered with 500, which the server answers;
3. it breaks off, or the client leaves, after it has begun: it is metered with the status that was sent;
4. it is given up before it has begun: it is metered with 499, that is, by default not at all.

Chunks go on as they come, untouched. The middleware stands *behind* what authenticates, which it asks who is calling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Future
from typing import Any, Final

from metergate.engine import Admission, Engine, Metering
from metergate.engine.requestids import new_request_id
from metergate.errors import UsageError
from metergate.middleware import denied
from metergate.middleware.callers import Caller
from metergate.middleware.current import KEY, current
from metergate.middleware.host import Metergate
from metergate.middleware.requirements import Requirement
from metergate.middleware.routes import template

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("metergate.middleware")

ADMIT: Final = "metergate.admit"
"""Where in the scope is what lets a request in by another policy: `_Responder.admit`. None where a path is excluded."""

_LAST: Final = frozenset({"http.response.body", "http.response.pathsend"})
_GIVEN_UP = 499
_FAILED = 500


class MetergateMiddleware:
    """An ASGI application that meters another one, and lets in whom its entitlements allow.

    ``admits`` False: it meters only what is let in further inside, by `admit`, where it is known who is calling.
    """

    def __init__(self, app: Application, metergate: Metergate, *, admits: bool = True) -> None:
        self._app = app
        self._metergate = metergate
        self._admits = admits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and ADMIT not in scope:
            if self._metergate.is_excluded(scope["path"]):
                scope[ADMIT] = None
                await self._app(scope, receive, send)
            else:
                await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._app(scope, receive, self._ending_with(send))
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        metering = Metering(new_request_id())
        self._metergate.start()
        responder = _Responder(self._metergate, metering, scope, send)
        remembered = current.set(metering)
        scope[KEY] = metering
        scope[ADMIT] = responder.admit
        try:
            if self._admits:
                await responder.admit_first()
            await self._app(scope, receive, responder.send)
        except denied.Denied as refusal:
            await responder.refuse(refusal)
        except asyncio.CancelledError:
            await responder.settle(_GIVEN_UP)
            raise
        except BaseException:
            await responder.settle(_FAILED)
            raise
        else:
            await responder.settle(_FAILED)
        finally:
            scope.pop(
                ADMIT, None
            )  # it leads back to the scope, and would keep all of the request for the collector
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
    scope: Scope, requirement: Requirement | None = None, user: Any = None, route: str | None = None
) -> None:
    """Let a request in amid an application, and meter it by that.

    ``requirement`` is what is needed there, the application's own policy where None. ``user`` is whom the framework has
    found, None what it has left in the scope. ``route`` is the route's template, where the scope does not have it.

    Raises:
        denied.Denied: it is not let in; the middleware answers that.
        UsageError: there is no `MetergateMiddleware` around the application.
    """
    if ADMIT not in scope:
        raise UsageError("nothing can be required here: put MetergateMiddleware around the application first")
    if scope[ADMIT] is not None:
        await scope[ADMIT](requirement, user, route)


async def let_in(
    engine: Engine,
    caller: Caller | None,
    route: str,
    metering: Metering,
    add_header: Callable[[str, str], None],
) -> None:
    """Let a caller in by a policy, and meter the request by that; waits where OpenMeter has to be asked.

    Raises:
        denied.Denied: it is not let in.
    """
    admission = engine.admit(caller, route, metering.holds)
    if not isinstance(admission, Admission):
        admission = await admission
    if admission.explanation is not None and engine.explain_header is not None:
        add_header(engine.explain_header, admission.explanation)
    if admission.denial is not None:
        raise denied.Denied(admission.denial)
    metering.arm(engine, admission.subject, route, admission.hold)


async def settle(metering: Metering, status: int) -> None:
    """Record the events, once; with ``power`` durability wait until they are on disk. A fault of ours harms no response."""
    for durable in settled(metering, status):
        await asyncio.wrap_future(durable)


def settled(metering: Metering, status: int) -> tuple[Future[None], ...]:
    """As `settle`, and gives what has to be awaited."""
    try:
        return metering.settle(status)
    except Exception:  # noqa: BLE001  # said, with all there is to say
        _log.exception("the request could not be metered")
        return ()


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


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """What is announced of a body; -1 where nothing is."""
    announced = next((value for name, value in headers if name.lower() == b"content-length"), b"")
    return int(announced) if announced.isdigit() else -1


class _Responder:
    """Lets one request in, sends its response on, and settles its metering before its last byte."""

    __slots__ = (
        "_left",
        "_metergate",
        "_metering",
        "_more_headers",
        "_scope",
        "_send",
        "_settled",
        "_start",
        "_status",
    )

    def __init__(self, metergate: Metergate, metering: Metering, scope: Scope, send: Send) -> None:
        self._metergate = metergate
        self._metering = metering
        self._scope = scope
        self._send = send
        self._status = 0
        self._start: Message = {}
        self._left: int | None = None
        self._settled = False
        self._more_headers: list[tuple[bytes, bytes]] = []

    async def admit(
        self, requirement: Requirement | None = None, user: Any = None, route: str | None = None
    ) -> None:
        """Let the request in by a policy, once, and meter it by that. Raises `denied.Denied`."""
        metergate, metering, scope = self._metergate, self._metering, self._scope
        engine = metergate.engine if requirement is None else requirement.engine(metergate)
        if metering.is_armed_by(engine):
            return
        found = _found_user(scope) if user is None else user
        caller = metergate.caller(scope, found, self._header)
        await let_in(engine, caller, route or template(scope) or scope["path"], metering, self.add_header)
        if route is not None:
            metering.route = route

    async def admit_first(self) -> None:
        """As `admit`, by the application's own policy, before anything else: only Litestar has a route by then."""
        metergate, scope = self._metergate, self._scope
        caller = metergate.caller(scope, _found_user(scope), self._header)
        named = scope.get("path_template") or scope["path"]
        await let_in(metergate.engine, caller, named, self._metering, self.add_header)

    def _header(self, name: bytes) -> str | None:
        return _header(self._scope, name)

    def add_header(self, name: str, value: str) -> None:
        """A header field of the response, whatever it is."""
        self._more_headers.append((name.encode("latin-1"), value.encode("latin-1")))

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            if self._more_headers:
                message = {**message, "headers": [*message.get("headers", ()), *self._more_headers]}
            self._start = message
        elif kind in _LAST and (not message.get("more_body", False) or self._completes(message)):
            await self.settle(self._status)
        await self._send(message)

    def _completes(self, message: Message) -> bool:
        """Whether a client has all of the body with this chunk, though its application has not said that it is the last."""
        if self._left is None:
            self._left = _length(self._start.get("headers", ()))
        self._left -= len(message.get("body", b""))
        return self._left == 0

    async def settle(self, status: int) -> None:
        """Record the events, once: by the status that was sent, else by this one."""
        if not self._settled:
            self._settled = True
            if self._metering.route is None:
                self._metering.route = template(self._scope)
            for durable in settled(self._metering, self._status or status):
                await asyncio.wrap_future(durable)

    async def refuse(self, refusal: denied.Denied) -> None:
        """Answer a denial, unless an answer has begun already."""
        denial = refusal.denial
        await self.settle(denial.status)
        if self._status:
            raise refusal
        body = denied.problem(denial, self._scope["path"], self._metering.request_id)
        for name, value in denied.headers(denial, len(body)):
            self.add_header(name, value)
        await self.send({"type": "http.response.start", "status": denial.status, "headers": []})
        await self.send({"type": "http.response.body", "body": body})
