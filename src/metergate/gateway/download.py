"""An upstream's body on its way to the client, chunk by chunk, at the pace of the client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pyreqwest.exceptions import PyreqwestError

from metergate.errors import MetergateError
from metergate.gateway.failures import reason
from metergate.gateway.patience import was_cancelled

if TYPE_CHECKING:
    from pyreqwest.response import ResponseBodyReader

    from metergate.gateway.patience import Wait
    from metergate.gateway.upload import Upload

_LOOKS = 4
_AHEAD = 64


class UpstreamBroke(MetergateError):
    """The upstream's answer broke off after it had begun."""


class Download:
    """The rest of an answer's body, after the chunk that came with its head.

    ``wait`` limits the upstream's silence where the HTTP client does not, ``upload`` is the request's body, if it is still
    under way. Iterate over it once, then `close`.
    """

    __slots__ = (
        "_ahead",
        "_downloads",
        "_nudge",
        "_reader",
        "_reading",
        "_reads",
        "_seen",
        "_upload",
        "_wait",
    )

    def __init__(
        self,
        reader: ResponseBodyReader,
        downloads: Downloads,
        *,
        wait: Wait | None = None,
        upload: Upload | None = None,
    ) -> None:
        self._reader = reader
        self._downloads = downloads
        self._wait = wait
        self._upload = upload
        self._ahead: deque[bytes | BaseException | None] = deque()
        self._nudge: asyncio.Task[None] | None = None
        self._reading = False
        self._reads = 0
        self._seen = -1

    async def chunks(self, first: bytes = b"") -> AsyncIterator[bytes]:
        """``first``, then what comes. Raises `UpstreamBroke`, or what the upload failed by."""
        self._downloads.watch(self)
        if first:
            yield first
        while (chunk := await self._next()) is not None:
            yield chunk

    async def _next(self) -> bytes | None:
        self._reads += 1
        self._reading = True
        try:
            if self._nudge is not None:
                await asyncio.wait([self._nudge])
                self._nudge = None
            if not self._ahead:
                return await self._read()
        finally:
            self._reading = False
        kept = self._ahead.popleft()
        if isinstance(kept, BaseException):
            raise kept
        return kept

    async def _read(self) -> bytes | None:
        wait = self._wait
        if wait is not None:
            wait.begin()
        try:
            chunk = await self._reader.read_chunk()
            if was_cancelled() and (wait is None or not wait.expired()):
                raise asyncio.CancelledError
        except PyreqwestError as failure:
            if self._upload is not None and self._upload.failure is not None:
                raise self._upload.failure from failure
            raise UpstreamBroke(reason(failure)) from failure
        except asyncio.CancelledError:
            if wait is None or not wait.expired():
                raise
            raise UpstreamBroke("the upstream was silent for too long") from None
        finally:
            if wait is not None:
                wait.end()
        return None if chunk is None else chunk.to_bytes()

    def look(self) -> None:
        """Read one chunk ahead where nobody has read since the last look; for `Downloads`."""
        idle = not self._reading and self._seen == self._reads
        self._seen = self._reads
        if self._nudge is not None and not self._nudge.done():
            return
        if idle and len(self._ahead) < _AHEAD and None not in self._ahead:
            self._nudge = asyncio.get_running_loop().create_task(self._read_ahead())

    async def _read_ahead(self) -> None:
        try:
            self._ahead.append(await self._read())
        except Exception as failure:  # noqa: BLE001  # it is for whoever reads on
            self._ahead.append(failure)

    def close(self) -> None:
        """Nobody reads any more."""
        self._downloads.forget(self)
        if self._nudge is not None:
            self._nudge.cancel()


class Downloads:
    """All downloads of an event loop, and a timer that keeps those alive whose client makes a pause.

    The HTTP client ends a body that was not read from for ``seconds``, as if the upstream had been silent. A client that
    reads slowly, or pauses a download, would lose the rest of it. So of a body that nobody reads, one chunk is taken now
    and then; at most `_AHEAD` of them, which is half an hour at a minute's timeout.
    """

    __slots__ = ("_every", "_open", "_timer")

    def __init__(self, seconds: float) -> None:
        self._every = seconds / _LOOKS
        self._open: set[Download] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, download: Download) -> None:
        self._open.add(download)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._look)

    def forget(self, download: Download) -> None:
        self._open.discard(download)

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        for download in self._open:
            download.look()
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._look)

    def __len__(self) -> int:
        return len(self._open)
