"""How ``record`` wakes the sender: one comparison when it need not, an Event when it must."""

from __future__ import annotations

import sys
import threading

NEVER = sys.maxsize


class Wake:
    """The sender says from which count of recorded events on it wants to be woken, and sleeps.

    ``at`` is that count. ``record`` compares and, at the count, calls ``now``, which resets it: so a burst wakes once.
    """

    __slots__ = ("_event", "at")

    def __init__(self) -> None:
        self.at = NEVER
        self._event = threading.Event()

    def now(self) -> None:
        """Ends the sender's sleep, or the next one before it begins."""
        self.at = NEVER
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Sleeps until woken, at most so long."""
        if seconds > 0:
            self._event.wait(min(seconds, 3600.0))
        self._event.clear()
        self.at = NEVER
