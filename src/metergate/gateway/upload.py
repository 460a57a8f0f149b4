"""A client's body on its way to the upstream: one piece where it came as one, otherwise chunk by chunk."""

from __future__ import annotations

from collections.abc import AsyncIterator

from metergate.gateway.http import BytesBody, HeaderItems, Request
from metergate.gateway.patience import Wait


class Upload:
    """``whole`` is the body where it was all there with its first chunk, None where it has to be streamed.

    ``failure`` is why it could not be read to its end; the HTTP client tells of a broken upload only.
    """

    __slots__ = ("_chunks", "_first", "_length", "_method", "failure", "whole")

    def __init__(self, chunks: AsyncIterator[bytes], first: bytes, length: int | None, method: str) -> None:
        self._chunks = chunks
        self._first = first
        self._length = length
        self._method = method
        self.whole = first if length is not None and len(first) == length else None
        self.failure: Exception | None = None

    @classmethod
    async def begin(cls, request: Request) -> Upload:
        """Wait for the first chunk. Raises what the client's body raises."""
        if isinstance(request.body, BytesBody):
            # Read, or replaced, by a policy: the length is its own, whatever the fields say.
            data = request.body.data
            return cls(request.stream(), data, len(data), request.method)
        headers = request.headers
        declared = headers.get("content-length") if "transfer-encoding" not in headers else None
        length = int(declared) if declared is not None and declared.isdecimal() else None
        chunks = request.stream()
        return cls(chunks, await anext(chunks, b""), length, request.method)

    def framing(self) -> HeaderItems:
        """The fields that a streamed body needs."""
        if self._length is not None:
            return [("content-length", str(self._length))]
        # Without it, the HTTP client would leave the body out.
        return [("transfer-encoding", "chunked")] if self._method in {"GET", "HEAD"} else []

    async def stream(self, wait: Wait) -> AsyncIterator[bytes]:
        """The chunks, for the HTTP client. While the client is the one to send, the upstream's silence does not count."""
        try:
            if self._first:
                yield self._first
            wait.paused = True
            async for chunk in self._chunks:
                wait.paused = False
                wait.moved()
                yield chunk
                wait.paused = True
        except Exception as failure:
            self.failure = failure
            raise
        finally:
            wait.paused = False
            wait.moved()
