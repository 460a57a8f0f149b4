"""One request and its response between the gateway and a mounted ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from metergate.gateway.http import BytesBody, EmptyBody, HeaderItems, Headers, Request, Response, StreamedBody
from metergate.gateway.upstream import ClientGone

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.handlers.asgi import AsgiApplication, Message

# The server frames the message itself; what the application says about it would contradict that.
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})

_DISCONNECT = "http.disconnect"


class Exchange:
    """Runs the application for one request and turns what it sends into a `Response`.

    The response starts as soon as the application has sent its status. A body that comes in the same breath, whole,
    is bytes; otherwise it streams, at most one chunk ahead of the client. A client that leaves is told to the
    application as the specification says: ``receive`` gives ``http.disconnect``, ``send`` raises OSError. An
    application that goes on after its last byte (background work) goes on after the response, too.
    """

    def __init__(self, request: Request, context: Context) -> None:
        self._request = request
        self._context = context
        self._whole_request = isinstance(request.body, BytesBody | EmptyBody)
        self._incoming: AsyncIterator[bytes] | None = None if self._whole_request else request.stream()
        self._head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self._client_left = False
        self._gone: ClientGone | None = None
        self._ended = False
        self._whole: bytes | None = None
        self._status = 0
        self._headers: HeaderItems = []
        self._length: int | None = None

    async def response(self) -> Response:
        """The response, once the application has begun one. Raises what the application raised before that."""
        try:
            await self._head
        except asyncio.CancelledError:
            await self._leave()
            raise
        if self._whole is not None:
            return Response.trusted(self._status, self._headers, self._whole)
        body = StreamedBody(self._stream(), self._length, self._leave)
        return Response.trusted(self._status, self._headers, body)

    async def run(self, application: AsgiApplication, scope: Message) -> None:
        """Run the application to its end. Never raises: a failure becomes the response's, or a line in the log."""
        failure: Exception | None = None
        try:
            await application(scope, self._receive, self._send)
        except asyncio.CancelledError:
            failure = RuntimeError("the ASGI application was cancelled")
        except Exception as problem:  # noqa: BLE001  # the application's, whatever it is
            failure = problem
        if not self._ended and self._gone is not None:
            failure = self._gone
        if failure is None and not self._ended:
            failure = RuntimeError("the ASGI application returned before the end of its response")
        if failure is not None:
            self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        if not self._head.done():
            self._head.set_exception(failure)
        elif self._ended:
            self._context.log.error("the ASGI application failed after its response", exc_info=failure)
        elif not self._client_left:
            self._chunks.put_nowait(failure)

    async def _receive(self) -> Message:
        if self._whole_request:
            self._whole_request = False
            return {"type": "http.request", "body": await self._request.bytes(), "more_body": False}
        if self._incoming is not None and not self._over.is_set():
            try:
                chunk = await anext(self._incoming, None)
            except ClientGone as gone:
                self._gone = gone
                self._over.set()
                return {"type": _DISCONNECT}
            if chunk is None:
                self._incoming = None
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}
        await self._over.wait()
        return {"type": _DISCONNECT}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
        elif message["type"] == "http.response.body":
            await self._continue(message.get("body", b""), bool(message.get("more_body")))
        else:
            raise RuntimeError(f"the gateway offers no {message['type']!r} to ASGI applications")

    def _begin(self, message: Message) -> None:
        if self._status:
            raise RuntimeError("the ASGI application began its response twice")
        if message["status"] not in range(200, 600):
            raise RuntimeError(f"{message['status']!r} is not a status of a final response")
        pairs = message.get("headers", ())
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])
        length = headers.get("content-length")
        self._length = int(length) if length is not None and length.isdecimal() else None
        left_out = _FRAMING if self._request.method != "HEAD" else _FRAMING - {"content-length"}
        self._headers = [item for item in headers.items if item[0] not in left_out]
        self._status = message["status"]
        # Most applications send a whole body right after; once the loop has turned we know that this one did not.
        asyncio.get_running_loop().call_soon(self._announce)

    def _announce(self) -> None:
        if not self._head.done():
            self._head.set_result(None)

    async def _continue(self, data: bytes, more: bool) -> None:
        if not self._status or self._ended:
            raise RuntimeError("the ASGI application sent a body before or after its response")
        if self._client_left:
            raise OSError("the client is gone")
        self._ended = not more
        if self._ended:
            self._over.set()
        if self._ended and not self._head.done() and self._chunks.empty():
            self._whole = data
            self._announce()
            return
        if data:
            self._chunks.put_nowait(data)
        if self._ended:
            self._chunks.put_nowait(None)
        else:
            await self._until_taken()

    async def _until_taken(self) -> None:
        """Wait until the client is at most one chunk behind, or gone."""
        while self._chunks.qsize() > 1 and not self._client_left:
            self._room.clear()
            await self._room.wait()

    async def _stream(self) -> AsyncIterator[bytes]:
        while (item := await self._chunks.get()) is not None:
            self._room.set()
            if isinstance(item, Exception):
                raise item
            yield item

    async def _leave(self) -> None:
        """Nobody takes any more of the response: it is sent, or the client is gone."""
        self._client_left = True
        self._over.set()
        self._room.set()
