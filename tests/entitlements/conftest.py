import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

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
    """An OpenMeter in memory: ``answer`` is what it says or raises. While ``held``, requests wait for ``let_go``."""

    answer: SubjectAccess | Exception = field(
        default_factory=lambda: SubjectAccess("found", (FeatureValue("api", True),))
    )
    held: bool = False
    asked: list[str] = field(default_factory=list)
    cancelled: int = 0
    closed: bool = False
    on_ask: Callable[[str], None] = lambda subject: None
    _gate: asyncio.Event | None = None

    async def access(self, subject: str) -> SubjectAccess:
        self.asked.append(subject)
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

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()
