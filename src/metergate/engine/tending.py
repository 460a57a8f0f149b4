"""What has to be done some times a second for as long as there is something to do: on the event loop, else on a thread."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable


class Tending:
    """Calls ``tend`` again and again until it says that there is nothing more to do.

    Where no event loop runs it is called on a thread, which ends with that, with `close`, or with whoever would be
    tended.
    """

    def __init__(self, tend: Callable[[], bool], lock: threading.RLock, seconds: float) -> None:
        """
        Args:
            tend: whether to come again. Called with the lock held.
            lock: held by who calls `wake`, too, where there may be several threads.
            seconds: between two calls.
        """
        self._tend = tend
        self._lock = lock
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def wake(self) -> None:
        """Begin, unless it has begun."""
        if self._timer is not None and self._loop is not None and not self._loop.is_closed():
            return
        if self._thread is not None or self._closed.is_set():
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            arguments = (weakref.ref(self), self._closed, self._seconds)
            self._thread = threading.Thread(target=_run, args=arguments, name="metergate-count", daemon=True)
            self._thread.start()
        else:
            self._timer = self._loop.call_later(self._seconds, self._on_the_loop)

    def close(self) -> None:
        """End, and begin no more."""
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()

    def on_the_thread(self) -> bool:
        """One call; whether another has to follow."""
        with self._lock:
            self._thread = None
            if self._closed.is_set() or not self._tend():
                return False
            self._thread = threading.current_thread()
            return True

    def _on_the_loop(self) -> None:
        with self._lock:
            self._timer = None
            if not self._closed.is_set() and self._tend():
                self.wake()


def _run(reference: weakref.ref[Tending], closed: threading.Event, seconds: float) -> None:
    more = True
    while more:
        closed.wait(seconds)
        tending = reference()
        more = tending is not None and tending.on_the_thread()
        del tending
