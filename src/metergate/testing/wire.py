"""A client of raw bytes, for what no well-behaved HTTP client sends or shows.

with Wire(gateway.port) as wire:
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert wire.response().status == 400
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from metergate.testing.processes import HOST

_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class WireResponse:
    """A response as it came. ``complete`` is False where the connection ended before what the head had announced.

    ``framing`` is ``length``, ``chunked``, ``none`` (no body can follow) or ``close`` (until the connection ends).
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    complete: bool
    framing: str
    interim: tuple[int, ...] = ()

    def all(self, name: str) -> list[str]:
        """Every value of that name (lower case), in order."""
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: str) -> str | None:
        """The first value of that name (lower case)."""
        return next(iter(self.all(name)), None)


class ConnectionEnded(Exception):  # what happened
    """The peer closed the connection, or reset it, before a response's head was there. The message has what came."""


class Wire:
    """One TCP connection to a server on 127.0.0.1. ``timeout`` is how long each wait may take, in seconds."""

    def __init__(self, port: int, *, timeout: float = 10.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect((HOST, port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """All of it. Raises OSError where the peer does not take it any more."""
        self.socket.sendall(data)

    def request(
        self,
        target: str,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        """Send an ordinary request; with a body, its ``content-length``."""
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def receive(self) -> bytes:
        """What comes next; nothing once the connection is over, however it ended."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        try:
            return self.socket.recv(65_536)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    def receive_until(self, mark: bytes) -> bytes:
        """What comes up to the mark and with it. Raises `ConnectionEnded`."""
        data = b""
        while mark not in data:
            more = self.receive()
            if not more:
                raise ConnectionEnded(repr(data[:200]))
            data += more
        end = data.index(mark) + len(mark)
        self._buffer = data[end:] + self._buffer
        return data[:end]

    def receive_all(self) -> bytes:
        """What comes until the peer ends the connection."""
        data = bytearray()
        while more := self.receive():
            data += more
        return bytes(data)

    def head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """The next response's status and header fields, names in lower case. Raises `ConnectionEnded`."""
        first, *lines = self.receive_until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return int(first.split(" ")[1]), tuple((name.lower(), value.strip()) for name, _, value in pairs)

    def response(self, method: str = "GET") -> WireResponse:
        """The next final response, whole if it comes whole. Raises `ConnectionEnded`."""
        interim: list[int] = []
        status, headers = self.head()
        while status < 200:
            interim.append(status)
            status, headers = self.head()
        fields = dict(headers)
        if method == "HEAD" or status in _NO_BODY:
            body, complete, framing = b"", True, "none"
        elif "transfer-encoding" in fields:
            (body, complete), framing = self._chunked(), "chunked"
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body, framing = self.exactly(length), "length"
            complete = len(body) == length
        else:
            body, complete, framing = self.receive_all(), True, "close"
        return WireResponse(status, headers, body, complete, framing, tuple(interim))

    def exactly(self, length: int) -> bytes:
        """So many bytes; fewer where the connection ends before."""
        data = bytearray()
        while len(data) < length and (more := self.receive()):
            data += more
        self._buffer = bytes(data[length:]) + self._buffer
        return bytes(data[:length])

    def _chunked(self) -> tuple[bytes, bool]:
        body = bytearray()
        while True:
            try:
                size = int(self.receive_until(b"\r\n").partition(b";")[0], 16)
            except ConnectionEnded:
                return bytes(body), False
            data = self.exactly(size + 2)
            body += data[:size]
            if len(data) < size + 2:
                return bytes(body), False
            if size == 0:
                return bytes(body), True

    def half_close(self) -> None:
        """Say that nothing more will be sent; answers can still come."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """An orderly end."""
        self.socket.close()

    def reset(self) -> None:
        """End with a reset instead, as a crashed client does."""
        reset(self.socket)


def reset(connection: socket.socket) -> None:
    """Close a connection with RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
