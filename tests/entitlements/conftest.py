import asyncio
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from metergate.openmeter.batch import BatchAccess
from metergate.openmeter.values import FeatureValue, SubjectAccess


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Source:
    """An OpenMeter in memory: ``answer`` is what it says or raises. While ``held``, requests wait for ``let_go``.

    ``batch`` answers the batch query, or is what that raises; None: it is not offered.
    """

    answer: SubjectAccess | Exception = field(
        default_factory=lambda: SubjectAccess("found", (FeatureValue("api", True),))
    )
    held: bool = False
    asked: list[str] = field(default_factory=list)
    cancelled: int = 0
    closed: bool = False
    on_ask: Callable[[str], None] = lambda subject: None
    batch: Callable[[Sequence[str], Sequence[str]], BatchAccess | None] | Exception | None = None
    queries: list[tuple[str, ...]] = field(default_factory=list)
    on_request: Callable[[], None] = lambda: None
    _gate: asyncio.Event | None = None

    async def access(self, subject: str) -> SubjectAccess:
        self.asked.append(subject)
        self.on_request()
        self.on_ask(subject)
        answer = self.answer
        try:
            if self.held:
                self._gate = self._gate or asyncio.Event()
                await self._gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def let_go(self) -> None:
        """Answer all that wait, as ``answer`` was when they asked."""
        self.held = False
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    async def query(self, subjects: Sequence[str], features: Sequence[str]) -> BatchAccess | None:
        self.queries.append(tuple(subjects))
        self.on_request()
        if callable(self.batch):
            return self.batch(subjects, features)
        if isinstance(self.batch, Exception):
            raise self.batch
        return None

    def count_requests(self, on_request: Callable[[], None]) -> None:
        self.on_request = on_request

    async def close(self) -> None:
        self.closed = True


class _Hurry(selectors.DefaultSelector):
    """Instead of waiting it lets the loop's time go by."""

    now = 1000.0

    def select(self, timeout=None):
        assert timeout is not None, "everybody waits for something that never happens"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes by at once when there is nothing to do."""

    def __init__(self):
        self._hurry = _Hurry()
        super().__init__(self._hurry)

    def time(self):
        return self._hurry.now


@pytest.fixture
def virtual():
    """Runs a coroutine function on a loop with virtual time; it is given ``loop.time``, a clock."""

    def run(scenario):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(scenario(runner.get_loop().time))

    return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()
