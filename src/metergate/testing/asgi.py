"""Calls an ASGI application as a server does, without sockets, and shows each message that it sends.

client = AsgiClient(application)
response = await client.call("/orders?x=1", "POST", headers=[("x-key", "1")], body=[b"two ", b"pieces"])
assert (response.status, response.complete) == (200, True)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


@dataclass
class Called:
    """What an application has sent. ``complete`` is False where it never said that its body was over."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def all(self, name: str) -> list[str]:
        """Every value of that name, in order."""
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: str) -> str | None:
        """The first value of that name."""
        return next(iter(self.all(name)), None)


class AsgiClient:
    """Requests to one application, each as a client of HTTP/1.1 would send it."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def call(
        self,
        target: str = "/",
        method: str = "GET",
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | asyncio.Queue[bytes | None] = b"",
        left: asyncio.Event | None = None,
        sent: Callable[[Message], None] = lambda message: None,
    ) -> Called:
        """One request and its response.

        ``body`` is whole, in pieces, or a queue of pieces, None being its end. The client leaves when ``left`` is
        set. ``sent`` is shown each message before it counts as sent.
        """
        called = Called()
        receive = _Receive(_queued(body), left or asyncio.Event())

        async def send(message: Message) -> None:
            sent(message)
            if message["type"] == "http.response.start":
                called.status = message["status"]
                called.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            else:
                called.chunks.append(message.get("body", b""))
                called.complete = not message.get("more_body", False)
            await asyncio.sleep(0)

        await self.application(_scope(target, method, headers, body), receive, send)
        return called


def _queued(body: bytes | Iterable[bytes] | asyncio.Queue[bytes | None]) -> asyncio.Queue[bytes | None]:
    if isinstance(body, asyncio.Queue):
        return body
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    for piece in [body] if isinstance(body, bytes) else body:
        queue.put_nowait(piece)
    queue.put_nowait(None)
    return queue


class _Receive:
    """The messages of the client: its body, then, when it leaves, that it has left."""

    def __init__(self, pieces: asyncio.Queue[bytes | None], left: asyncio.Event) -> None:
        self._pieces = pieces
        self._left = left
        self._ended = False

    async def __call__(self) -> Message:
        if self._ended:
            await self._left.wait()
            return {"type": "http.disconnect"}
        piece = asyncio.ensure_future(self._pieces.get())
        gone = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait([piece, gone], return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():
                return {"type": "http.disconnect"}
            self._ended = piece.result() is None
            return {"type": "http.request", "body": piece.result() or b"", "more_body": not self._ended}
        finally:
            piece.cancel()
            gone.cancel()


def _scope(target: str, method: str, headers: Iterable[tuple[str, str]], body: object) -> Message:
    path, _, query = target.partition("?")
    fields = [("host", "gateway.test"), *headers]
    names = {name.lower() for name, _ in fields}
    if isinstance(body, bytes):
        fields += [("content-length", str(len(body)))] if body and "content-length" not in names else []
    elif not names & {"content-length", "transfer-encoding"}:
        fields.append(("transfer-encoding", "chunked"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields],
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 9000),
    }
