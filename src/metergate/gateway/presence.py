"""Whether the client is still there while its response is streamed: only ``receive`` tells."""

from __future__ import annotations

import asyncio
from typing import Final

from metergate.gateway.clientbody import ClientBody, Receive
from metergate.gateway.http import RequestBody

_AGAIN_SECONDS: Final = 0.5


class Presence:
    """Watches for the client's leaving while its response is streamed, and cancels the task that sends it.

    The server takes chunks for a closed connection without a word. Somebody's code may swallow a cancellation: it is
    repeated until the task has ended.
    """

    __slots__ = ("_sender", "_watch", "left")

    def __init__(self, body: RequestBody, receive: Receive) -> None:
        self.left = False
        self._sender = asyncio.current_task()
        self._watch = asyncio.ensure_future(self._run(body, receive))

    async def _run(self, body: RequestBody, receive: Receive) -> None:
        if isinstance(body, ClientBody):
            await body.gone()
        else:
            while (await receive())["type"] != "http.disconnect":
                pass
        self.left = True
        while self._sender is not None:
            self._sender.cancel()
            await asyncio.sleep(_AGAIN_SECONDS)

    def forget(self) -> None:
        """The response is over."""
        self._watch.cancel()
