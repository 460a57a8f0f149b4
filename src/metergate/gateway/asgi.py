"""The gateway as an ASGI application: what Granian serves, what tests call and what another application can mount.

ASGI rather than Granian's own RSGI: that one hands out the path percent-decoded, so that an encoded slash is lost, and
drops header fields that are not ASCII; see docs/dependencies.md for what the choice costs.

What may happen to a response here:

1. its body is bytes: the events are recorded, then head and body leave together;
2. it has no body (HEAD, 204, 304): the same, before the head;
3. it streams with a known length: the events are recorded before the chunk that completes it leaves;
4. it streams without: before the end-of-stream signal, without which no client takes it for complete;
5. the client leaves, or the stream breaks: the events are recorded with the status that was produced, and the
   connection breaks, so that nobody mistakes a part for the whole.

Where a meter takes something from the body (see `traffic`), each chunk is shown to it once it has left, so that nothing
waits for that; the last one before it leaves, because the events that are recorded then are made of it.

A client that leaves before there is a response changes nothing: nobody looks for it, and what the upstream answers is
metered. Were the request broken off instead, a caller could have the work done by whoever does not notice, leave, and
never be billed. The upstream's own timeout ends it. Which end is metered with which status: see `pipeline`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from metergate.engine.requestids import new_request_id
from metergate.gateway import problems
from metergate.gateway.clientbody import ClientBody, ClientGone, Receive
from metergate.gateway.context import Context
from metergate.gateway.headfields import encode_headers, read_headers
from metergate.gateway.http import (
    EMPTY_BODY,
    NO_BODY_STATUSES,
    Headers,
    Request,
    RequestBody,
    Response,
    StreamedBody,
)
from metergate.gateway.patience import Patience
from metergate.gateway.presence import Presence
from metergate.gateway.target import resolve_path, resolve_query
from metergate.gateway.traffic import note_response
from metergate.gateway.upstream import HOP_BY_HOP

if TYPE_CHECKING:
    from metergate.engine import Look
    from metergate.gateway.pipeline import Pipeline

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

InternalPage = Callable[[Request, Context], Response | Awaitable[Response]]
Observe = Callable[[str, str, int, float], None]
"""``observe(route, method, status, seconds)``: takes note of one answered request."""

_log = logging.getLogger("metergate.gateway")

_NOT_SENT: Final = HOP_BY_HOP | {"content-length", "zp-rid"}
_LENGTH_KEPT: Final = HOP_BY_HOP | {"zp-rid"}


class Gateway:
    """The ASGI application around a `Pipeline`.

    ``pages`` are the gateway's own, by path (``/__metergate/health``); they pass no policies and are never metered.
    ``max_body_bytes`` bounds a request's body, ``client_timeout`` (seconds) how long a client may be silent in it.
    ``start`` and ``stop`` are awaited with the server's lifespan.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        observe: Observe,
        pages: dict[str, InternalPage] | None = None,
        max_body_bytes: int = 100 * 1024 * 1024,
        client_timeout: float = 60.0,
        start: Callable[[], Awaitable[None]] | None = None,
        stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._observe = observe
        self._pages = pages or {}
        self._max_body_bytes = max_body_bytes
        self._patience = Patience(client_timeout)
        self._start = start
        self._stop = stop
        self._on_start: list[Callable[[], object]] = []
        self._open: set[asyncio.Task[Any]] = set()
        self._ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if self._start is not None:
                await self._start()
            for call in self._on_start:
                call()
        except Exception as failure:  # noqa: BLE001  # whatever it is, the server has to be told
            _log.exception("the gateway could not start")
            await send({"type": "lifespan.startup.failed", "message": str(failure)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            if self._stop is not None:
                await self._stop()
        finally:
            await send({"type": "lifespan.shutdown.complete"})

    def on_start(self, call: Callable[[], object]) -> None:
        """Have ``call`` called in the event loop after ``start``."""
        self._on_start.append(call)

    def break_off(self) -> int:
        """End what is still under way, because the server stops: 503 where no response has begun, otherwise the
        connection breaks; its events are recorded. How many requests there were."""
        self._ending = True
        for task in tuple(self._open):
            task.cancel()
        return len(self._open)

    async def finish(self, timeout: float) -> None:
        """Wait until nothing is under way, ``timeout`` seconds at most; what takes longer is broken off."""
        for patience in (timeout, 1.0):
            if self._open and (await asyncio.wait(self._open, timeout=patience))[1]:
                self.break_off()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        task: Any = asyncio.current_task()
        self._open.add(task)
        context = Context(new_request_id(), pipeline=self._pipeline)
        request, refusal = self._read(scope, receive, context)
        client = request.body
        response: Response | None = None
        try:
            if refusal is not None:
                response = refusal
            elif (page := self._pages.get(request.raw_path)) is not None:
                shown = page(request, context)
                response = shown if isinstance(shown, Response) else await shown
            else:
                response, request = await self._pipeline.run(request, context)
                if context.final_hooks or self._pipeline.final_hooks:
                    self._pipeline.run_final_hooks(response, request, context)
            metering, look = context.begun_metering, None
            if metering is not None and metering.traffic is not None:
                look = note_response(metering.traffic, response, scope["method"], client, began)
            await self._send(response, scope["method"], context, client, look, receive, send)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            response = problems.service_unavailable(request, context, {"detail": "The gateway is stopping."})
            await _apologise(response, context, send)
        except Exception:
            context.log.exception("the response could not be sent")
            response = problems.internal_server_error(request, context)
            await _apologise(response, context, send)
        finally:
            self._open.discard(task)
            if context.begun_metering is not None:
                context.begun_metering.release()
            route = context.route
            status = response.status if response is not None else 499
            self._observe(
                route.label if route is not None else "", request.method, status, time.perf_counter() - began
            )

    def _read(self, scope: Scope, receive: Receive, context: Context) -> tuple[Request, Response | None]:
        """The request, and the answer where it cannot be let in at all."""
        headers, fields, wrong = read_headers(scope["headers"])
        context.incoming_request_id = fields.get("zp-rid")
        raw: str = scope["raw_path"].decode("latin-1")
        path = resolve_path(raw)
        length = fields.get("content-length", "0")
        body: RequestBody = EMPTY_BODY
        if length not in {"0", ""} or "transfer-encoding" in fields or _may_have_body(scope):
            body = ClientBody(receive, self._max_body_bytes, self._patience)
        client = scope.get("client")
        request = Request(
            scope["method"],
            raw if path is None else path,
            resolve_query(scope["query_string"]),
            Headers.trusted(headers),
            body,
            scheme=scope["scheme"],
            client=client[0] if client else "",
        )
        if path is None:
            wrong = "The path has to begin with /."
        if wrong:
            return request, problems.bad_request(request, context, {"detail": wrong})
        if body is not EMPTY_BODY and length.isdecimal() and int(length) > self._max_body_bytes:
            detail = f"The body is larger than the {self._max_body_bytes} bytes that are accepted."
            return request, problems.content_too_large(request, context, {"detail": detail})
        return request, None

    async def _send(
        self,
        response: Response,
        method: str,
        context: Context,
        client: RequestBody,
        look: Look | None,
        receive: Receive,
        send: Send,
    ) -> None:
        body, status = response.body, response.status
        if method == "HEAD" or status in NO_BODY_STATUSES:
            headers = await _head_alone(response, context)
            body = b""
        elif isinstance(body, StreamedBody):
            await self._send_stream(response, body, context, client, look, receive, send)
            return
        else:
            headers = encode_headers(response.headers.items, context.request_id, _NOT_SENT)
            headers.append((b"content-length", b"%d" % len(body)))
        if look is not None:
            look.feed(body)
            look.end()
        await _settle(context, status)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(
        self,
        response: Response,
        body: StreamedBody,
        context: Context,
        client: RequestBody,
        look: Look | None,
        receive: Receive,
        send: Send,
    ) -> None:
        """Chunks as they come. What breaks it off leaves the response visibly incomplete: no last message is sent."""
        headers = encode_headers(response.headers.items, context.request_id, _NOT_SENT)
        if body.length is not None:
            headers.append((b"content-length", b"%d" % body.length))
        presence = Presence(client, receive)
        try:
            if body.length == 0:
                await _settle_whole(context, response.status, look)
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            if not body.prompt:
                # The server holds the head back until something follows it.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            await _send_chunks(body, response.status, context, look, send)
        except asyncio.CancelledError:
            if presence.left:
                context.log.info("the client left before the response was complete")
            elif self._ending:
                context.log.info("the response is broken off, because the gateway stops")
            else:
                raise
        except ClientGone:
            context.log.info("the client left in the middle of its request, while it was answered")
        except Exception as failure:  # noqa: BLE001  # the head is out: breaking off is all that is left to say
            context.log.warning("the response broke off: %s: %s", type(failure).__name__, failure)
        finally:
            presence.forget()
            await _settle(context, response.status)
            await _close(body)


async def _head_alone(response: Response, context: Context) -> list[tuple[bytes, bytes]]:
    """The fields of a response whose body is not sent; their length is that of the body that a GET would have had."""
    body, status = response.body, response.status
    kept = _LENGTH_KEPT if status != 204 else _NOT_SENT
    headers = encode_headers(response.headers.items, context.request_id, kept)
    if isinstance(body, StreamedBody):
        await _close(body)
    elif body and "content-length" not in response.headers and status != 204:
        headers.append((b"content-length", b"%d" % len(body)))
    return headers


async def _send_chunks(
    body: StreamedBody, status: int, context: Context, look: Look | None, send: Send
) -> None:
    left = body.length
    async for chunk in body.chunks:
        if left is not None:
            left -= len(chunk)
            if left < 0:
                raise ValueError("more bytes came than were announced")
            if left == 0:
                await _settle_whole(context, status, look, chunk)
        if look is None or left == 0:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            continue
        try:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:  # whether or not the client took it: it was paid for
            look.feed(chunk)
    if left:
        raise ValueError(f"{left} bytes fewer came than were announced")
    await _settle_whole(context, status, look)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _settle_whole(context: Context, status: int, look: Look | None, last: bytes = b"") -> None:
    """Record the events of a response whose body is complete with this chunk, before that leaves."""
    if look is not None:
        look.feed(last)
        look.end()
    await _settle(context, status)


async def _settle(context: Context, status: int) -> None:
    """Record this response's events, once; with `power` durability wait until they are on disk."""
    metering = context.begun_metering
    if metering is not None:
        try:
            pending = metering.settle(status)
        except Exception:  # a fault of ours: the response is not the one to suffer
            context.log.exception("the request could not be metered")
            return
        for durable in pending:
            await asyncio.wrap_future(durable)


async def _apologise(response: Response, context: Context, send: Send) -> None:
    """Send a problem where nothing was sent so far; where something was, the server refuses it.

    Metered like any other final status, unless the response in its place was already.
    """
    await _settle(context, response.status)
    headers = encode_headers(response.headers.items, context.request_id, _NOT_SENT)
    body = await response.bytes()
    headers.append((b"content-length", b"%d" % len(body)))
    with suppress(Exception):
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _close(body: StreamedBody) -> None:
    """Have the iterator's own clean-up run, then the body's; the stream is over either way."""
    aclose = getattr(body.chunks, "aclose", None)
    for close in (aclose, body.close):
        if close is not None:
            with suppress(Exception):
                await close()


def _may_have_body(scope: Scope) -> bool:
    """HTTP/2 needs neither content-length nor transfer-encoding for a body."""
    return scope["http_version"] == "2" and scope["method"] not in {"GET", "HEAD", "OPTIONS"}
