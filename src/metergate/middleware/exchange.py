"""A request and its response as objects of a framework (Django's): let in, and settled when the response's body ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from metergate.engine import Metering
from metergate.engine.requestids import new_request_id
from metergate.middleware import asgi, wsgi
from metergate.middleware.current import KEY, current
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

    def admit(self, user: Any, requirement: Requirement | None) -> None:
        """Let it in by the application's policy or another, once. On any thread, below WSGI. Raises `denied.Denied`."""
        engine = self._metergate.engine if requirement is None else requirement.engine(self._metergate)
        if not self.metering.is_armed_by(engine):
            caller = self._metergate.caller(self._request, user, self._header)
            wsgi.admit(self._metergate, engine, caller, self._route, self.metering, self._add_header)

    async def admit_async(self, user: Any, requirement: Requirement | None) -> None:
        """As `admit`, on the event loop."""
        engine = self._metergate.engine if requirement is None else requirement.engine(self._metergate)
        if not self.metering.is_armed_by(engine):
            caller = self._metergate.caller(self._request, user, self._header)
            await asgi.let_in(engine, caller, self._route, self.metering, self._add_header)

    def give_up(self) -> None:
        """There will be no response."""
        wsgi.settle(self.metering, _GIVEN_UP)

    def end(self, response: Any) -> Any:
        """The response, metered, or as soon as its stream has ended."""
        self._tell(response)
        if _streams(response):
            response.streaming_content = _Stream(response.streaming_content, self, response.status_code)
        else:
            self.settle(response.status_code)
        return response

    async def end_async(self, response: Any) -> Any:
        """As `end`, on the event loop."""
        self._tell(response)
        if not _streams(response):
            await self.settle_async(response.status_code)
        elif response.is_async:
            response.streaming_content = _AsyncStream(response.streaming_content, self, response.status_code)
        else:
            response.streaming_content = _Stream(response.streaming_content, self, response.status_code)
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


class _Stream:
    """A body that streams, and settles its request as it ends: by itself, by a fault, or because its client has left."""

    def __init__(self, chunks: Iterator[bytes], exchange: Exchange, status: int) -> None:
        self._chunks = chunks
        self._exchange = exchange
        self._status = status

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        remembered = current.set(self._exchange.metering)
        try:
            return next(self._chunks)
        except BaseException:  # also its end
            self.close()
            raise
        finally:
            current.reset(remembered)

    def close(self) -> None:
        """The server is done with it."""
        self._exchange.settle(self._status)


class _AsyncStream:
    """As `_Stream`, on the event loop."""

    def __init__(self, chunks: AsyncIterator[bytes], exchange: Exchange, status: int) -> None:
        self._chunks = chunks
        self._exchange = exchange
        self._status = status

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        remembered = current.set(self._exchange.metering)
        try:
            return await anext(self._chunks)
        except BaseException:  # also its end
            await self._exchange.settle_async(self._status)
            raise
        finally:
            current.reset(remembered)

    def close(self) -> None:
        """The server is done with it; this comes on a thread."""
        self._exchange.settle(self._status)
