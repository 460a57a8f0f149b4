"""Ends what waits for a silent peer: one coarse timer for all waits of an event loop, so that a wait costs next to nothing.

    wait = patience.begin()
    try:
        answer = await something
    except asyncio.CancelledError:
        if not wait.expired():
            raise
        ...  # it took too long
    finally:
        wait.end()

The HTTP client's own read timeout is of no use here. It runs on while nobody reads, so a client that pauses a download
would lose the rest of it, and it begins with the request, so an upload could not take longer than an answer may.
"""

from __future__ import annotations

import asyncio

_LONGEST_TICK = 1.0
_TICKS = 8


def was_cancelled() -> bool:
    """Whether somebody has asked the task that calls to end.

    The HTTP client loses a cancellation that comes together with what it waits for: ask after each of its awaits.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Wait:
    """One wait of one task. While ``paused``, somebody else is the one to wait for, and no time passes."""

    __slots__ = ("_expired", "_patience", "_task", "age", "paused")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._task: asyncio.Task[object] | None = None
        self._expired = False
        self.age = 0.0
        self.paused = False

    def begin(self) -> None:
        """Count from now on, for the task that calls."""
        self.age = 0.0
        self._expired = False
        self._task = asyncio.current_task()
        self._patience.watch(self)

    def moved(self) -> None:
        """Something has come, or has been taken: count from now on again."""
        self.age = 0.0

    def end(self) -> None:
        """It is over; may be called again."""
        self._patience.forget(self)

    def expired(self) -> bool:
        """Whether the CancelledError at hand is this wait's; it is taken back from the task then."""
        if self._expired and self._task is not None:
            self._task.uncancel()
        return self._expired

    def give_up(self) -> None:
        """Cancel the task that waits; for `Patience`."""
        self._expired = True
        if self._task is not None:
            self._task.cancel()


class Patience:
    """Waits may take ``seconds``, and at most an eighth of that or one second more. Of one event loop."""

    __slots__ = ("_tick", "_timer", "_waits", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._tick = min(_LONGEST_TICK, seconds / _TICKS)
        self._waits: set[Wait] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Wait:
        """A wait of the task that calls, begun."""
        wait = Wait(self)
        wait.begin()
        return wait

    def watch(self, wait: Wait) -> None:
        self._waits.add(wait)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._look)

    def forget(self, wait: Wait) -> None:
        self._waits.discard(wait)

    def stop(self) -> None:
        """End the timer; waits that go on are not ended any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        late = []
        for wait in self._waits:
            if not wait.paused:
                wait.age += self._tick
                if wait.age > self.seconds:
                    late.append(wait)
        for wait in late:
            self._waits.discard(wait)
            wait.give_up()
        if self._waits:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._look)

    def __len__(self) -> int:
        return len(self._waits)

    def __repr__(self) -> str:
        return f"<Patience of {self.seconds:g} s, {len(self)} waits>"
