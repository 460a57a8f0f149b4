"""``memory``: the same two sides without a disk. Bounded, and gone with the process, which is what was asked for."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import MutableSequence
from concurrent.futures import Future

from metergate.delivery.batch import Batch, Limits, plan_batch
from metergate.delivery.dead_letters import DeadLetter
from metergate.delivery.wake import Wake

_MOST_LETTERS = 1000


class MemorySpool:
    """A queue of records: ``record`` on one side, a ``Source`` on the other. At most ``max_bytes`` wait in it."""

    place = ("memory", 0)

    def __init__(self, max_bytes: int, wake: Wake) -> None:
        self.recorded = 0
        self.recorded_bytes = 0
        self.settled_bytes = 0
        self.counts: MutableSequence[float] = [0.0]
        self.settled_events = 0
        self.dropped: Counter[str] = Counter()
        self._max_bytes = max_bytes
        self._wake = wake
        self._mutex = threading.Lock()
        self._records: deque[bytes] = deque()
        self._chunk = b""
        self._closed = False

    def record(self, lines: bytes, count: int) -> Future[None] | None:
        """See ``Delivery.record``."""
        if lines[-1:] != b"\n":
            lines += b"\n"
        size = len(lines)
        with self._mutex:
            if self._closed or self.recorded_bytes - self.settled_bytes + size > self._max_bytes:
                self.dropped["closed" if self._closed else "spool_full"] += count
                return None
            self.recorded_bytes += size
            self.recorded += count
            self.counts[0] = self.recorded
            self._records.append(lines)
        if self.recorded >= self._wake.at:
            self._wake.now()
        return None

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not settled."""
        return self.recorded_bytes - self.settled_bytes

    def next_batch(self, limits: Limits) -> Batch | None:
        """See ``Source``."""
        batch = plan_batch(self._chunk, limits)
        while self._records and (batch is None or batch.size == len(self._chunk)):
            if batch is not None and (batch.events >= limits.events or batch.size >= limits.body_bytes):
                break
            self._refill(limits.body_bytes)
            batch = plan_batch(self._chunk, limits)
        return batch

    def settle(self, batch: Batch) -> None:
        """See ``Source``."""
        self._chunk = self._chunk[batch.size :]
        self.settled_bytes += batch.size  # first: who waits for events finds the bytes settled, too
        self.settled_events += batch.events

    def close(self) -> None:
        """What is not sent is lost, and counted."""
        with self._mutex:
            self._closed = True
            self.dropped["closed"] += self.recorded - self.settled_events
            self.recorded = self.settled_events
            self.counts[0] = self.recorded
            self.settled_bytes = self.recorded_bytes
            self._records.clear()
            self._chunk = b""

    def _refill(self, most: int) -> None:
        taken, size = [self._chunk], len(self._chunk)
        while self._records and size <= most:
            record = self._records.popleft()
            taken.append(record)
            size += len(record)
        self._chunk = b"".join(taken)


class DeadLettersInMemory:
    """The last thousand dead letters. ``forgotten`` counts the ones before."""

    def __init__(self) -> None:
        self.letters: deque[DeadLetter] = deque(maxlen=_MOST_LETTERS)
        self.forgotten = 0

    def bury(self, letter: DeadLetter) -> None:
        """See ``Graveyard``."""
        self.forgotten += len(self.letters) == _MOST_LETTERS
        self.letters.append(letter)

    def count(self) -> int:
        """See ``Graveyard``."""
        return len(self.letters)
