"""A timer of whichever event loop runs now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SHORTEST_PAUSE = 0.001


class Alarm:
    """Calls ``ring`` once, at the earliest of the times that were wanted."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def ring_in(self, pause: float) -> None:
        """Ring after so many seconds at the latest; an infinite pause wants nothing."""
        if pause == float("inf"):
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + max(pause, _SHORTEST_PAUSE)
        if self._timer is not None:
            if self._loop is loop and self._timer.when() <= due:
                return
            self._timer.cancel()  # it may be that of a loop that is no more
        self._timer, self._loop = loop.call_at(due, self._wake), loop

    def stop(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        self._timer = None
        self._ring()
