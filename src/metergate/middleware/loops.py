"""An event loop on a thread of its own, for hosts that have none: entitlements are asked for there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

LAST_SECONDS = 2.0

_T = TypeVar("_T")


class LoopThread:
    """Begins with the first call of a process; a forked child begins its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began_in: int | None = None

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What it gives, or raises. Blocks. Not from the loop itself."""
        return asyncio.run_coroutine_threadsafe(work, self._running()).result()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End the thread of this process, if there is one, when ``last`` is done there."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._began_in == os.getpid():
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(last(), loop).result(LAST_SECONDS)
            loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._began_in != os.getpid():
            with self._lock:
                if self._loop is None or self._began_in != os.getpid():
                    loop = asyncio.new_event_loop()
                    threading.Thread(target=_serve, args=(loop,), name="metergate-loop", daemon=True).start()
                    self._loop, self._began_in = loop, os.getpid()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
