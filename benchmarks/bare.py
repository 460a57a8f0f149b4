"""The least that Granian in front and pyreqwest behind can do for a request: the yardstick of the gateway.

Run by Granian as ``benchmarks.bare:rsgi`` and ``benchmarks.bare:asgi``; BENCH_UPSTREAM names the upstream. Bodies
of requests are not forwarded, chunks of responses are. The read buffer of 64 KiB that pyreqwest fills by default
before it gives an answer is off, because a gateway may not hold an event stream back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from granian._granian import RSGIHTTPProtocol
from granian.rsgi import Scope
from pyreqwest.client import Client, ClientBuilder

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HOP_BY_HOP_BYTES = frozenset(name.encode() for name in _HOP_BY_HOP)

_upstream = os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:8080")


def _client() -> Client:
    plain = ClientBuilder().follow_redirects(False).referer(False)
    return plain.gzip(False).brotli(False).zstd(False).deflate(False).build()


class BareRSGI:
    """Forwards; a response of one chunk goes out in one piece, others chunk by chunk."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._client = _client()

    async def __rsgi__(self, scope: Scope, protocol: RSGIHTTPProtocol) -> None:
        headers = [item for item in scope.headers.items() if item[0] not in _HOP_BY_HOP]
        query = scope.query_string
        url = f"{_upstream}{scope.path}?{query}" if query else _upstream + scope.path
        request = (
            self._client.request(scope.method, url)
            .headers(headers)
            .streamed_read_buffer_limit(1)
            .build_streamed()
        )
        async with request as response:
            answered = [item for item in response.headers.items() if item[0] not in _HOP_BY_HOP]
            if (length := response.headers.get("content-length")) is not None and int(length) < 65_536:
                chunk = await response.body_reader.read_chunk()
                if chunk is None or len(chunk) == int(length):
                    protocol.response_bytes(response.status, answered, bytes(chunk or b""))
                    return
            else:
                chunk = await response.body_reader.read_chunk()
            transport = protocol.response_stream(response.status, answered)
            while chunk is not None:
                await transport.send_bytes(bytes(chunk))
                chunk = await response.body_reader.read_chunk()


class BareASGI:
    """The same as an ASGI application."""

    def __init__(self) -> None:
        self._client: Client | None = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._client is not None
        headers = [
            (k.decode("latin-1"), v.decode("latin-1"))
            for k, v in scope["headers"]
            if k not in _HOP_BY_HOP_BYTES
        ]
        query = scope["query_string"]
        target = scope["raw_path"] + b"?" + query if query else scope["raw_path"]
        url = _upstream + target.decode("latin-1")
        async with (
            self._client.request(scope["method"], url)
            .headers(headers)
            .streamed_read_buffer_limit(1)
            .build_streamed() as response
        ):
            answered = [
                (k.encode("latin-1"), v.encode("latin-1"))
                for k, v in response.headers.items()
                if k not in _HOP_BY_HOP
            ]
            await send({"type": "http.response.start", "status": response.status, "headers": answered})
            chunk = await response.body_reader.read_chunk()
            while chunk is not None:
                following = await response.body_reader.read_chunk()
                await send(
                    {"type": "http.response.body", "body": bytes(chunk), "more_body": following is not None}
                )
                chunk = following

    async def _live(
        self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._client = _client()
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})


rsgi = BareRSGI()
asgi = BareASGI()
