"""Where an application of a test waits for the test: `allow` lets what `wait` waits for go one step on."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict

CHUNKS = 4
LONGEST = 20.0

_allowed: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
_made: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def allow(name: str, steps: int = 1) -> None:
    """``name`` may go on by so many steps."""
    _allowed[name].release(steps)


def wait(name: str) -> None:
    """Wait for `allow`. Blocks."""
    assert _allowed[name].acquire(timeout=LONGEST), f"nobody has let {name} go on"


async def wait_async(name: str) -> None:
    """As `wait`, for an event loop."""
    await asyncio.to_thread(wait, name)


def done(name: str) -> threading.Event:
    """What the application sets when it is done with something of that name."""
    return _made[name]


async def work(name: str) -> None:
    """A task for the background: one step, then it is done."""
    await wait_async(name)
    done(name).set()


async def chunks(name: str):
    """A body, chunk by chunk: the first at once, each other when it is allowed."""
    yield b"chunk 0\n"
    for number in range(1, CHUNKS):
        await wait_async(name)
        yield f"chunk {number}\n".encode()


def chunks_sync(name: str):
    """As `chunks`, for a server with threads."""
    yield b"chunk 0\n"
    for number in range(1, CHUNKS):
        wait(name)
        yield f"chunk {number}\n".encode()
