"""How a worker ends, and when it must not.

On SIGTERM the server accepts nothing more and waits for what is under way, for ever. A stream may have no end, and an
upstream no answer: after `GRACE_SECONDS` they are broken off, so that their events are recorded and there is time left to
send them, before `KILL_SECONDS` are over and the parent kills the worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_log = logging.getLogger("metergate.gateway")

GRACE_SECONDS = 1.25
BACKGROUND_SECONDS = 0.5
DRAIN_SECONDS = 1.25
KILL_SECONDS = 4
"""Of the 5 s in which everything has to be over."""

_PR_SET_PDEATHSIG = 1
_STARTED = "started"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN_SECONDS = 0.25
_STARTING_SECONDS = 1.0
"""After this the server serves, once its event loop has come to run anything after the start."""
_BURST = 5
_BURST_SECONDS = 10.0
_PAUSE_SECONDS = 1.0


def end_with_parent(parent: int) -> None:
    """Have the kernel end this worker when its parent is gone, also after `kill -9`: nobody would watch it or stop it.

    ``parent`` is the parent's process id; in a container that may be 1. To be called before anything is recorded: until
    the worker serves, its end is not an orderly one, since a signal that meets a server that is starting may be lost in
    it or hang it. Linux only; elsewhere an orphan serves on until it is ended.
    """
    for number in _STOP_SIGNALS:  # a fork has the parent's handlers, which do nothing here
        signal.signal(number, signal.SIG_DFL)
    _signal_at_end_of_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before


def _signal_at_end_of_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def end_in_order(break_off: Callable[[], int]) -> None:
    """From now on SIGTERM and SIGINT, and the parent's end, lead to ``break_off`` after `GRACE_SECONDS`.

    The server has handlers of its own in the event loop, which stay: those are woken by the signal's number, this one runs
    where Python handles signals. Call it in the event loop of a process's main thread. ``break_off`` says how many
    requests there were, and is called again until there is none: somebody's code may swallow a cancellation.
    """
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def end(first: bool = True) -> None:
        count = break_off()
        if count and first:
            _log.warning("requests broken off, because the gateway stops: %d", count)
        if count:
            loop.call_later(_AGAIN_SECONDS, end, False)

    def on_signal(number: int, frame: object) -> None:
        if not asked:
            asked.append(number)
            signal.alarm(KILL_SECONDS + 1)  # an orphan has no parent that would kill it
            loop.call_soon_threadsafe(lambda: loop.call_later(GRACE_SECONDS, end))

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    loop.call_later(_STARTING_SECONDS, _signal_at_end_of_parent, signal.SIGTERM)


def raise_file_limit() -> None:
    """As many open files as the system allows: each connection, to a client and to an upstream, is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS says "unlimited" and does not mean it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def say_started(figures: Path) -> None:
    """Tell the parent that a worker has come up; ``figures`` is the folder in which they meet."""
    (figures / _STARTED).touch()


def how_it_ended(exit_code: int) -> str:
    """A process's end in words; ``exit_code`` is negative for a signal."""
    if exit_code >= 0:
        return f"has ended with exit status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal
        name = f"signal {-exit_code}"
    why = " (out of memory?)" if exit_code == -signal.SIGKILL else ""
    return f"was ended by {name}{why}"


class Restarts(dict[int, float]):
    """Granian's record of when it replaced which worker, by which it ends the whole server when one dies twice in 5.5 s.

    A gateway goes on: the record stays empty, and after `_BURST` replacements within `_BURST_SECONDS` each waits for
    `_PAUSE_SECONDS`. Only where no worker has ever come up, the answer is "just now", and the gateway ends.
    Each replacement is said with how the worker ended; ``worker`` gives the process that is to be replaced.
    """

    def __init__(
        self,
        figures: Path,
        worker: Callable[[int], BaseProcess],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self._figures = figures
        self._worker = worker
        self._sleep = sleep
        self._recent: deque[float] = deque(maxlen=_BURST)

    def get(self, index: int, default: float = 0.0) -> float:  # type: ignore[override]  # as Granian calls it
        if (self._figures / _STARTED).exists():
            return float("-inf")
        _log.error("no worker came up; see above why")
        return time.monotonic()

    def __setitem__(self, index: int, at: float) -> None:
        worker = self._worker(index)
        if worker.exitcode is not None:  # otherwise it lives, and is replaced because somebody wants it to
            _log.warning(
                "a worker %s and is replaced; what it had recorded is sent by the others or its successor",
                how_it_ended(worker.exitcode),
                extra={"worker": worker.pid, "exit_code": worker.exitcode},
            )
        if len(self._recent) == _BURST and at - self._recent[0] < _BURST_SECONDS:
            self._sleep(_PAUSE_SECONDS)
        self._recent.append(at)
