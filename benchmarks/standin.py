"""In place of the HTTP client: answers at once, so that what is left of a request is the gateway's own Python."""

from __future__ import annotations

from typing import Any, Self

from benchmarks.servers import ANSWER

_BODY = ANSWER.encode()
_HEADERS = (
    ("server", "nginx"),
    ("date", "Sat, 31 Jan 2026 12:00:00 GMT"),
    ("content-type", "application/json"),
    ("content-length", str(len(_BODY))),
    ("connection", "keep-alive"),
)


class _Chunk:
    """A piece of a body."""

    def to_bytes(self) -> bytes:
        return _BODY

    def __bytes__(self) -> bytes:
        return _BODY


class _Fields:
    """An answer's header fields."""

    def items(self) -> tuple[tuple[str, str], ...]:
        return _HEADERS


class StandIn:
    """Client, request, answer and the reader of its body in one: its own cost is to be small.

    The body comes as one chunk, as a short one does. Nothing is kept of a request but whether its body was read.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: Any = _Fields()
        self._left = 1

    @property
    def body_reader(self) -> Self:
        return self

    def request(self, method: str, url: str) -> _Request:
        return _Request()

    async def read_chunk(self) -> _Chunk | None:
        self._left -= 1
        return None if self._left < 0 else _Chunk()

    async def close(self) -> None:
        return


class _Request:
    """Takes what a request is made of."""

    def headers(self, items: list[tuple[str, str]]) -> Self:
        return self

    def streamed_read_buffer_limit(self, size: int) -> Self:
        return self

    def build_streamed(self) -> Self:
        return self

    async def __aenter__(self) -> StandIn:
        return StandIn()

    async def __aexit__(self, *args: object) -> None:
        return
