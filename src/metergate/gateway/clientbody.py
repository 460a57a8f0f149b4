"""The body of a client's request, read from an ASGI server as it comes; and how to notice that the client has left.

An ASGI server tells both by one channel, ``receive``: it may have one reader at a time. That is whoever streams the
body. While the response is streamed and nobody reads, `ClientBody.gone` does: it keeps what it finds for the reader,
up to `READ_AHEAD` bytes, and drops it where the reader has given up. A client that leaves with more than that unread
is not noticed before somebody reads on, or the response ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from metergate.errors import MetergateError
from metergate.gateway.http import BodyConsumed, BodyTooLarge
from metergate.gateway.patience import Patience

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

READ_AHEAD = 64 * 1024


class ClientGone(MetergateError):
    """The client closed its connection before its request was all there, or sent what is no body."""


class ClientSilent(MetergateError):
    """The client sent nothing for too long in the middle of its request."""


class ClientBody:
    """The body, readable once, at most ``limit`` bytes; ``patience`` is how long the client may be silent in it.

    ``received`` is how many bytes of it have been read so far.
    """

    __slots__ = (
        "_ahead",
        "_ahead_bytes",
        "_begun",
        "_limit",
        "_patience",
        "_receive",
        "_room",
        "_turn",
        "_unwanted",
        "received",
    )

    def __init__(self, receive: Receive, limit: int, patience: Patience) -> None:
        self._receive = receive
        self._limit = limit
        self._patience = patience
        self.received = 0
        self._begun = False
        self._unwanted = False
        self._ahead: deque[Message] = deque()
        self._ahead_bytes = 0
        self._turn = asyncio.Lock()
        self._room: asyncio.Event | None = None

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.stream()])

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `BodyConsumed`, `BodyTooLarge`, `ClientGone`, `ClientSilent`."""
        if self._begun:
            raise BodyConsumed("the body of this request was read already; read it once with request.bytes()")
        self._begun = True
        more = True
        try:
            while more:
                message = await self._next()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client closed its connection before its body was complete")
                more = message.get("more_body", False)
                chunk = message.get("body", b"")
                if not chunk:
                    continue
                self.received += len(chunk)
                if self.received > self._limit:
                    raise BodyTooLarge(self._limit)
                yield chunk
        finally:
            if more:
                self._unwanted = True
                self._make_room()

    async def _next(self) -> Message:
        if not self._ahead:
            wait = self._patience.begin()
            try:
                async with self._turn:
                    if not self._ahead:
                        return await self._receive()
            except asyncio.CancelledError:
                if not wait.expired():
                    raise
                raise ClientSilent("the client sent nothing of its body for too long") from None
            finally:
                wait.end()
        message = self._ahead.popleft()
        self._ahead_bytes -= len(message.get("body", b""))
        self._make_room()
        return message

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

    async def gone(self) -> None:
        """Wait until the client has left."""
        self._room = asyncio.Event()
        while True:
            async with self._turn:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._ahead.append(message)
                    return
                if not self._unwanted:
                    self._ahead.append(message)
                    self._ahead_bytes += len(message.get("body", b""))
            while self._ahead_bytes > READ_AHEAD and not self._unwanted:
                self._room.clear()
                await self._room.wait()
