"""The client side of the gateway: a request goes on to the API behind it, its answer comes back, bodies streaming.

What may happen to one forwarded request:

1. the answer's body is there with its head: it is passed on whole;
2. it comes later or without a length: it is passed on chunk by chunk, as it arrives;
3. there is no connection, or it breaks before an answer, or that is no HTTP: 502;
4. no answer in time: 504. Time passes while the upstream is silent, not while the client sends or does not read;
5. the client's own body is larger than allowed, or the client is gone or silent: what its body raises;
6. the answer breaks off: the iterator raises, and the server must break off as well, so that the client can see it.

A request that is safe and has no body is sent once more when the connection ends without a word of answer: that is what a
kept-alive connection looks like that the upstream was just closing (RFC 9110 9.2.2). Redirects are the client's affair:
they are passed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, cast

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.response import ResponseBodyReader

from metergate.gateway import problems
from metergate.gateway.clientbody import ClientGone
from metergate.gateway.context import Context
from metergate.gateway.download import Download, Downloads, UpstreamBroke
from metergate.gateway.failures import ended_without_a_word, unreadable
from metergate.gateway.http import NO_BODY_STATUSES, HeaderItems, Request, Response, StreamedBody
from metergate.gateway.outages import Outages
from metergate.gateway.patience import Patience, Wait, was_cancelled
from metergate.gateway.upload import Upload

__all__ = ["HOP_BY_HOP", "ClientGone", "Upstream", "UpstreamBroke", "request_headers", "response_headers"]

_log = logging.getLogger("metergate.upstream")

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Header fields that concern one connection and are never passed on (RFC 9110 7.6.1)."""

_NOT_FORWARDED = HOP_BY_HOP | {
    "host",
    "content-length",
    "expect",
    "zp-rid",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
}
_NOT_RETURNED = HOP_BY_HOP | {"content-length"}

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_USUALLY_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Without a body they say so (RFC 9110 8.6); there are servers that insist."""
_EVENT_STREAM = ("accept", "text/event-stream")
_IDLE_SECONDS = 4.0
"""Widespread servers close idle connections after 5 s; a request that meets that has no answer and may not be repeated."""

_LONGEST_UPLOAD_SECONDS = 3600.0
"""A streamed upload is ended after this at the latest; its silence is watched apart from that."""


class Upstream:
    """HTTP connections to the APIs behind the gateway, kept alive; of one process and its event loop.

    ``timeout`` is how long the upstream may be silent, before its answer and within it; ``connect_timeout`` how long
    a connection may take. In seconds.
    """

    def __init__(self, timeout: float = 60.0, connect_timeout: float = 10.0) -> None:
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._patience = Patience(timeout)
        self._downloads = Downloads(timeout)
        self._outages = Outages()
        self._clients: dict[tuple[bool, bool], Client] = {}

    async def start(self) -> None:
        """Nothing to open before the first request; there for the life cycle's symmetry."""

    async def stop(self) -> None:
        """Close every connection."""
        self._patience.stop()
        self._downloads.stop()
        self._outages.stop()
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.close()

    def _build(self, follow_redirects: bool, streamed: bool) -> Client:
        """``streamed``: for bodies that are sent chunk by chunk. The client's own timeout counts from their first byte."""
        silence = max(_LONGEST_UPLOAD_SECONDS, self.timeout) if streamed else self.timeout
        return (
            ClientBuilder()
            .follow_redirects(follow_redirects)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .referer(False)
            .no_proxy()
            .user_agent(f"metergate/{problems.BUILD_ID}")
            .connect_timeout(timedelta(seconds=self.connect_timeout))
            .read_timeout(timedelta(seconds=silence))
            .pool_idle_timeout(timedelta(seconds=_IDLE_SECONDS))
            .http1_ignore_invalid_headers_in_responses(True)
            .build()
        )

    def _client(self, follow_redirects: bool, streamed: bool) -> Client:
        kind = (follow_redirects, streamed)
        client = self._clients.get(kind)
        if client is None:
            client = self._clients[kind] = self._build(*kind)
        return client

    async def forward(
        self, request: Request, context: Context, url: str, *, follow_redirects: bool = False
    ) -> Response:
        """Send the request to ``url`` (absolute, percent-encoded) and answer with what comes back.

        Hop-by-hop fields stay behind in both directions, ``x-forwarded-for``, ``-host`` and ``-proto`` say who asked
        whom, ``zp-rid`` carries the request id. 502 and 504 problems where there is no answer. Raises what the client's
        body raises.
        """
        headers = request_headers(request, context)
        upload = await Upload.begin(request) if request.has_body else None
        if upload is not None and upload.whole is None:
            return await self._stream_up(upload, headers, request, context, url, follow_redirects)
        # pyreqwest reads that much of the body ahead before it gives the answer: by default 64 KiB, so that an event
        # stream would come all at once at its end. One byte is the first chunk, which is waited for anyway, but for an
        # event stream, whose client may wait for the head alone.
        ahead = 0 if _EVENT_STREAM in headers else 1
        if upload is None and request.method in _USUALLY_WITH_BODY:
            headers.append(("content-length", "0"))
        client = self._client(follow_redirects, False)
        repeatable = upload is None and request.method in _SAFE
        while True:
            try:
                builder = client.request(request.method, url)
                if upload is not None:
                    builder = builder.body_bytes(upload.whole)  # type: ignore[arg-type]  # see above
                sent = builder.headers(headers).streamed_read_buffer_limit(ahead).build_streamed()
                answer = await sent.__aenter__()
            except ValueError as failure:
                return self._outages.not_sent(failure, url, request, context)
            except PyreqwestError as failure:
                if not repeatable or not ended_without_a_word(failure):
                    return self._outages.no_answer(failure, url, request, context)
                repeatable = False
            else:
                return await self._receive(sent, answer, request, context, url, prompt=ahead > 0)

    async def _stream_up(
        self,
        upload: Upload,
        headers: HeaderItems,
        request: Request,
        context: Context,
        url: str,
        follow_redirects: bool,
    ) -> Response:
        """A body that comes piece by piece. The HTTP client cannot be told to wait for the client's pace: we watch."""
        wait = self._patience.begin()
        try:
            builder = self._client(follow_redirects, True).request(request.method, url)
            builder = builder.headers([*headers, *upload.framing()]).body_stream(upload.stream(wait))
            sent = builder.streamed_read_buffer_limit(1).build_streamed()
            answer = await sent.__aenter__()
        except ValueError as failure:
            return self._outages.not_sent(failure, url, request, context)
        except PyreqwestError as failure:
            if upload.failure is not None:
                raise upload.failure from failure
            return self._outages.no_answer(failure, url, request, context)
        except asyncio.CancelledError:
            if not wait.expired():
                raise
            return self._outages.too_late(self.timeout, url, request, context)
        finally:
            wait.end()
        return await self._receive(sent, answer, request, context, url, wait=wait, upload=upload)

    async def _receive(
        self,
        sent: Any,
        answer: Any,
        request: Request,
        context: Context,
        url: str,
        *,
        prompt: bool = True,
        wait: Wait | None = None,
        upload: Upload | None = None,
    ) -> Response:
        """The response for an answer whose head is here; ``prompt``: with the first of its body, if it has one."""
        try:
            if was_cancelled():
                raise asyncio.CancelledError
            headers, length = response_headers(answer.headers)
            status = answer.status
            if status < 200:
                raise unreadable(f"it answered with status {status}, which nobody asked for")
            if request.method == "HEAD" or status in NO_BODY_STATUSES:
                await sent.__aexit__(None, None, None)
                if length is not None and status != 204:
                    headers.append(("content-length", str(length)))
                return Response.trusted(status, headers, b"")
            reader: ResponseBodyReader = answer.body_reader
            first = b""
            if prompt:
                chunk = await reader.read_chunk()
                if chunk is None and length:
                    raise unreadable(f"a body of {length} bytes was announced and none came")
                first = b"" if chunk is None else chunk.to_bytes()
                if chunk is None or length == len(first):
                    # Nothing is left to close, and closing costs another turn with the HTTP client's thread.
                    return Response.trusted(status, headers, first)
        except PyreqwestError as failure:
            await sent.__aexit__(None, None, None)
            return self._outages.no_answer(failure, url, request, context)
        except BaseException:
            await sent.__aexit__(None, None, None)
            raise
        download = Download(reader, self._downloads, wait=wait, upload=upload)

        def close() -> Awaitable[None]:
            download.close()
            return cast("Awaitable[None]", sent.__aexit__(None, None, None))

        body = StreamedBody(download.chunks(first), length, close, prompt=prompt)
        return Response.trusted(status, headers, body)


def request_headers(request: Request, context: Context) -> HeaderItems:
    """The fields that go to the upstream."""
    headers: HeaderItems = []
    host = forwarded = ""
    for item in request.headers.items:
        name = item[0]
        if name not in _NOT_FORWARDED:
            headers.append(item)
        elif name == "host":
            host = item[1]
        elif name == "x-forwarded-for":
            forwarded = f"{forwarded}{item[1]}, "
    headers.append(("x-forwarded-for", forwarded + request.client))
    if host:
        headers.append(("x-forwarded-host", host))
    headers += (("x-forwarded-proto", request.scheme), ("zp-rid", context.request_id))
    return headers


ORDINARY_CONNECTIONS = frozenset({"keep-alive", "close", "upgrade", "te", ""})
"""Values of ``connection`` that name no further field."""

_KEPT = frozenset({"host", "content-length", "transfer-encoding"})


def without_named(headers: HeaderItems, connection: str) -> HeaderItems:
    """``connection: x-secret`` makes ``x-secret`` a field of this hop. What frames the message is not up to it."""
    named = {name.strip().lower() for name in connection.split(",")} - _KEPT
    return [item for item in headers if item[0] not in named]


def response_headers(source: Any) -> tuple[HeaderItems, int | None]:
    """The fields that go to the client, and the announced length of the body."""
    try:
        items = list(source.items())
    except ValueError:
        items = _readable(source)
    length: int | None = None
    chunked = False
    named: list[str] = []
    headers: HeaderItems = []
    for item in items:
        name = item[0]
        if name not in _NOT_RETURNED:
            headers.append(item)
        elif name == "content-length":
            # Where there is no body, the HTTP client does not look at it.
            length = int(item[1]) if item[1].isdecimal() else None
        elif name == "transfer-encoding":
            chunked = True
        elif name == "connection" and item[1].lower() not in ORDINARY_CONNECTIONS:
            named.append(item[1])
    for connection in named:
        headers = without_named(headers, connection)
    return headers, None if chunked else length


def _readable(source: Any) -> HeaderItems:
    """The fields that are text. The HTTP client has no way to the bytes of the others: they are left out, and said."""
    items: HeaderItems = []
    for name in dict.fromkeys(source):
        try:
            items += [(name, value) for value in source.getall(name)]
        except ValueError:
            _log.warning("the upstream's header %s is not ASCII and is left out", name)
    return items
