"""HTTP/1.1 responses out of the bytes of a connection, told apart as *complete* or not. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FRAMING = re.compile(rb"\r\n(?:content-length:[ \t]*(\d+)|transfer-encoding:[ \t]*(chunked))", re.IGNORECASE)
_BODILESS = frozenset({204, 304})
_HEAD_LIMIT = 64 * 1024


class BadResponse(ValueError):  # what it is
    """What arrived is not an HTTP/1.1 response that this reader knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that arrived whole: ``head`` is its status line and fields, ``size`` its body's bytes."""

    status: int
    head: bytes
    size: int

    def header(self, name: str) -> str | None:
        """The first field of that name, in any case."""
        wanted = name.lower().encode()
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == wanted:
                return value.strip().decode("latin-1")
        return None


class ResponseReader:
    """Reads the responses of one keep-alive connection. Bodies are counted, not kept.

    A body is whole at its ``content-length``, at its last chunk, or, with neither, when the connection ends
    (`at_end`). Interim responses (1xx) are skipped.
    """

    __slots__ = ("_buffer", "_chunked", "_head", "_missing", "_size", "_status", "_trailer")

    def __init__(self) -> None:
        self._buffer = b""
        self._status = 0
        self._head: bytes | None = None
        self._missing = 0
        self._size = 0
        self._chunked = False
        self._trailer = False

    @property
    def idle(self) -> bool:
        """Whether nothing of a further response has arrived."""
        return self._head is None and not self._buffer

    def feed(self, data: bytes) -> list[Answer]:
        """Take the next bytes; give the responses that they completed. Raises `BadResponse`."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        answers: list[Answer] = []
        while data:
            before = len(data)
            data = self._take_head(data) if self._head is None else self._take_body(data)
            if self._head is not None and self._missing == 0 and not self._chunked:
                answers.append(self._finish())
            elif len(data) == before:
                self._buffer = data
                break
        return answers

    def at_end(self) -> Answer | None:
        """The connection has ended: the response that this completes, if there is one."""
        if self._head is None or self._missing >= 0 or self._chunked:
            return None
        return self._finish()

    def _take_head(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _HEAD_LIMIT or not data.startswith(b"HTTP/1.1 "[: len(data)]):
                raise BadResponse(f"no HTTP/1.1 response head: {data[:60]!r}")
            return data
        status = data[9:12]
        if not data.startswith(b"HTTP/1.1 ") or not status.isdigit():
            raise BadResponse(f"no HTTP/1.1 status line: {data[:60]!r}")
        self._status = int(status)
        if self._status >= 200:
            self._head = data[:end]
            self._frame(_FRAMING.search(data, 0, end))
        return data[end + 4 :]

    def _frame(self, framing: re.Match[bytes] | None) -> None:
        self._size = 0
        self._missing, self._chunked = 0, False
        if self._status in _BODILESS:
            return
        if framing is None:
            self._missing = -1  # until the connection ends
        elif framing[1] is not None:
            self._missing = int(framing[1])
        else:
            self._chunked, self._trailer = True, False

    def _take_body(self, data: bytes) -> bytes:
        if self._missing < 0:
            self._size += len(data)
            return b""
        if self._missing:
            taken = min(self._missing, len(data))
            self._missing -= taken
            if not self._chunked:
                self._size += taken
            return data[taken:]
        return self._take_chunk_line(data)

    def _take_chunk_line(self, data: bytes) -> bytes:
        end = data.find(b"\r\n")
        if end < 0:
            return data
        line, rest = data[:end], data[end + 2 :]
        if self._trailer:
            self._chunked = bool(line)  # the empty line after the last chunk's trailers ends the body
            return rest
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise BadResponse(f"no chunk size: {line[:20]!r}") from None
        self._trailer = size == 0
        self._size += size
        self._missing = size + 2 if size else 0  # a chunk's data ends with CRLF
        return rest

    def _finish(self) -> Answer:
        answer = Answer(self._status, self._head or b"", self._size)
        self._head = None
        self._missing = 0
        return answer
