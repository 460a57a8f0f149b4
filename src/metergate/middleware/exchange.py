"""A request and its response as objects of a framework (Django's): let in, and settled when the response's body ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync

from metergate.engine import Engine, Metering
from metergate.engine.requestids import new_request_id
from metergate.middleware import asgi, wsgi
from metergate.middleware.bodies import AsyncBody, Body
from metergate.middleware.callers import Caller
from metergate.middleware.current import KEY
from metergate.middleware.host import Metergate
from metergate.middleware.requirements import Requirement

_GIVEN_UP = 499


class Exchange:
    """One request, from its admission to the last byte of its response.

    A response is metered before it is handed on; one that streams when its body has ended, or its client has left.
    """

    __slots__ = ("_headers", "_metergate", "_request", "metering")

    def __init__(self, metergate: Metergate, request: Any) -> None:
        self._metergate = metergate
        self._request = request
        self._headers: list[tuple[str, str]] = []
        self.metering = Metering(new_request_id())
        around = getattr(request, "scope", None) or request.environ
        around[KEY] = self.metering

    def admit(self, requirement: Requirement | None = None) -> None:
        """Let it in by the application's policy or another, once. On any thread. Raises `denied.Denied`.

        Entitlements are asked for on one event loop of a process: below ASGI on the server's.
        """
        if hasattr(self._request, "scope"):
            async_to_sync(self.admit_async)(requirement)
            return
        engine = self._engine(requirement)
        if not self.metering.is_armed_by(engine):
            caller = self._caller(getattr(self._request, "user", None))
            wsgi.admit(self._metergate, engine, caller, self._route, self.metering, self._add_header)

    async def admit_async(self, requirement: Requirement | None = None) -> None:
        """As `admit`, on the event loop."""
        engine = self._engine(requirement)
        if not self.metering.is_armed_by(engine):
            find: Callable[[], Awaitable[Any]] | None = getattr(self._request, "auser", None)
            user = getattr(self._request, "user", None) if find is None else await find()
            await asgi.let_in(engine, self._caller(user), self._route, self.metering, self._add_header)

    def give_up(self) -> None:
        """There will be no response."""
        wsgi.settle(self.metering, _GIVEN_UP)

    def end(self, response: Any) -> Any:
        """The response, metered, or as soon as its stream has ended."""
        self._tell(response)
        if _streams(response):
            response.streaming_content = Body(response.streaming_content, self, response.status_code)
        else:
            self.settle(response.status_code)
        return response

    async def end_async(self, response: Any) -> Any:
        """As `end`, on the event loop."""
        self._tell(response)
        if not _streams(response):
            await self.settle_async(response.status_code)
        elif response.is_async:
            response.streaming_content = AsyncBody(response.streaming_content, self, response.status_code)
        else:
            response.streaming_content = Body(response.streaming_content, self, response.status_code)
        return response

    def settle(self, status: int) -> None:
        """Record the events, once."""
        self.metering.route = self._route
        wsgi.settle(self.metering, status)

    async def settle_async(self, status: int) -> None:
        """As `settle`, on the event loop."""
        self.metering.route = self._route
        await asgi.settle(self.metering, status)

    def _tell(self, response: Any) -> None:
        for name, value in self._headers:
            response.headers[name] = value

    def _engine(self, requirement: Requirement | None) -> Engine:
        return self._metergate.engine if requirement is None else requirement.engine(self._metergate)

    def _caller(self, user: Any) -> Caller | None:
        return self._metergate.caller(self._request, user, self._header)

    @property
    def _route(self) -> str:
        match = self._request.resolver_match
        return str(self._request.path) if match is None else f"/{match.route}"

    def _header(self, name: bytes) -> str | None:
        return wsgi.read_header(self._request.META, name)

    def _add_header(self, name: str, value: str) -> None:
        self._headers.append((name, value))


def _streams(response: Any) -> bool:
    """Whether its body is still to be made. A file is there, and the server has ways of its own to send it."""
    return bool(response.streaming) and getattr(response, "file_to_stream", None) is None
