"""Being asked to stop, without breaking off what must not be broken off."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While open, SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) raise KeyboardInterrupt, once, and only inside
    of `interruptible`. One that comes earlier is remembered, a later one ignored: neither starting a server nor taking all
    down is cut in half. What is ignored from outside (``nohup``) stays ignored, but for SIGTERM.
    """

    def __init__(self) -> None:
        self.asked = False
        self._may_interrupt = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _STOPPING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN or number == signal.SIGTERM:
                self._before[number] = before
                signal.signal(number, self._ask)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Where being asked to stop raises KeyboardInterrupt, at once if it was asked before."""
        self._may_interrupt = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._may_interrupt = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._may_interrupt:
            self._may_interrupt = False
            raise KeyboardInterrupt
