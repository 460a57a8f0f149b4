"""How often OpenMeter may be asked, and who is asked for next. Pure: the time is handed in.

`Budget` is a token bucket: it refills with ``rate`` tokens a second up to ``burst``, and every HTTP request takes
one. A read starts when there is a whole token, which pays its first request. What it needs beyond that is taken
as well, even where there is none, so that the next read waits longer. In any time ``t`` at most ``rate * t +
burst`` reads start, and no more requests are made, those beyond the first of a read that is under way excepted.

`ReadQueue` holds the subjects that wait for a token, each once, in three classes. The most urgent class goes
first and within a class the one that has waited longest, but of `TURNS` in a row each class has some of its own:
one that always has somebody waiting cannot starve the others. It is bounded: where it is full, the one that has
waited longest in the least urgent class makes room, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import IntEnum
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

BURST_SECONDS = 0.2
"""A bucket that has been idle holds what it gets in this time: 5 tokens at 25 a second. OpenMeter's cloud takes
30 reads in a second."""


class Urgency(IntEnum):
    """How urgent a read is; lower goes first."""

    UNKNOWN = 0
    """Nothing usable is known of the subject, so a request waits."""

    LIMIT = 1
    """The subject is being denied, or near a limit, or its answer is known to have changed."""

    STALE = 2
    """Its answer is old, and serves meanwhile."""


TURNS = (
    Urgency.UNKNOWN,
    Urgency.UNKNOWN,
    Urgency.LIMIT,
    Urgency.UNKNOWN,
    Urgency.UNKNOWN,
    Urgency.LIMIT,
    Urgency.UNKNOWN,
    Urgency.UNKNOWN,
    Urgency.LIMIT,
    Urgency.STALE,
)
"""Whose turn it is, again and again. A class that has nobody waiting gives its turn to the most urgent that has."""


class Budget:
    """The token bucket. ``now`` is seconds on any clock that does not go back, the same for all calls."""

    def __init__(self, rate: float, workers: int = 1) -> None:
        """
        Args:
            rate: requests a second of all worker processes together, above 0, as long as nothing else is allowed.
            workers: how many there are; this one gets its share, and a burst of at least one.
        """
        self._workers = max(workers, 1)
        self._allowed: float | None = None
        self._prepaid = 0
        self._refilled = float("-inf")
        self._set(rate)
        self._tokens = self.burst

    def __repr__(self) -> str:
        return f"<Budget {self.rate:g}/s tokens={self._tokens:.2f}>"

    def allow(self, rate: float) -> None:
        """Somebody who uses this may read so often: of all such rates the highest counts, in the place of that
        which this was made with.
        """
        if not self._allowed or rate > self._allowed:
            self._allowed = rate
            self._set(rate)

    def take(self, now: float) -> bool:
        """Start a read, if there is a token for it."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        self._prepaid += 1
        return True

    def spend(self, now: float) -> None:
        """A request is made: paid already by a read that started, or taken now, whether there is a token or not."""
        if self._prepaid:
            self._prepaid -= 1
            return
        self._refill(now)
        self._tokens -= 1.0

    def wait(self, now: float) -> float:
        """Seconds until a read may start; 0 if it may now."""
        self._refill(now)
        return max((1.0 - self._tokens) / self.rate, 0.0)

    def _set(self, rate: float) -> None:
        self.rate = max(rate, 0.001) / self._workers
        self.burst = max(self.rate * BURST_SECONDS, 1.0)

    def _refill(self, now: float) -> None:
        if now > self._refilled:
            # The first look is at a full bucket: minus infinity seconds have gone by.
            self._tokens = min(self._tokens + self.rate * (now - self._refilled), self.burst)
            self._refilled = now


class Queued(Protocol):
    """What a queue holds: something for one subject."""

    @property
    def subject(self) -> str:
        """Whom it is for."""


_Q = TypeVar("_Q", bound=Queued)


class ReadQueue(Generic[_Q]):
    """Who waits to be read, at most ``limit`` subjects."""

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 1)
        self.dropped = 0
        self._classes: dict[Urgency, OrderedDict[str, _Q]] = {each: OrderedDict() for each in Urgency}
        self._turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._classes.values()))

    def urgency(self, subject: str) -> Urgency | None:
        """The class in which a subject waits; None if it does not."""
        return next((urgency for urgency, waiting in self._classes.items() if subject in waiting), None)

    def push(self, item: _Q, urgency: Urgency) -> _Q | None:
        """Let somebody wait who does not yet. Returns who had to make room: perhaps this very one."""
        self._classes[urgency][item.subject] = item
        if len(self) <= self.limit:
            return None
        self.dropped += 1
        least = max(urgency for urgency, waiting in self._classes.items() if waiting)
        return self._classes[least].popitem(last=False)[1]

    def move(self, subject: str, urgency: Urgency) -> None:
        """Change the class of who waits. In the new one it is the last."""
        current = self.urgency(subject)
        if current is not None and current != urgency:
            self._classes[urgency][subject] = self._classes[current].pop(subject)

    def pop(self) -> _Q | None:
        """Whose turn it is, taken out; None where nobody waits."""
        waiting = self._next()
        if waiting is None:
            return None
        self._turn = (self._turn + 1) % len(TURNS)
        return waiting.popitem(last=False)[1]

    def first(
        self, fits: Callable[[_Q], bool], classes: Iterable[Urgency], most: int, looked_at: int
    ) -> list[_Q]:
        """At most ``most`` of these classes that fit; of each class only so many are looked at. Those for whom somebody
        waits newest first: where there are too many for all, who has waited longest is out of time before an answer comes.
        """
        waiting = chain.from_iterable(islice(self._in_order(urgency), looked_at) for urgency in classes)
        return list(islice(filter(fits, waiting), most))

    def _in_order(self, urgency: Urgency) -> Iterable[_Q]:
        waiting = self._classes[urgency].values()
        return reversed(waiting) if urgency is Urgency.UNKNOWN else waiting

    def remove(self, subject: str) -> None:
        """Let a subject wait no more."""
        for waiting in self._classes.values():
            waiting.pop(subject, None)

    def _next(self) -> OrderedDict[str, _Q] | None:
        own = self._classes[TURNS[self._turn]]
        return own or next((waiting for waiting in self._classes.values() if waiting), None)
