"""How far the events' table has grown, in memory: what lets ``rollups`` know without a query that nothing is new."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable

PLACES = 1 << 16


class Marks:
    """Written by the writer thread after each commit, read by all others.

    An event is marked before ``committed`` reaches its number. So who takes ``committed`` first and asks
    ``last`` then misses none up to it.
    """

    def __init__(self) -> None:
        self.committed = -1
        """Every event up to this number is decided: on disk, or never."""
        self._doubted = -1
        self._last = array("q", [-1]) * PLACES

    def note(self, events: Iterable[tuple[int, str, str]], committed: int) -> None:
        """These events (number, type, subject) are on disk, and with them all is decided up to ``committed``."""
        for number, event_type, subject in events:
            self._last[_place(event_type, subject)] = number
        self.committed = max(self.committed, committed)

    def doubt(self, number: int) -> None:
        """A commit failed and may have stored events up to this number nevertheless, of whomever."""
        self._doubted = max(self._doubted, number)

    def last(self, event_type: str, subjects: Collection[str]) -> int:
        """No event of this type and these subjects has a higher number; one with this number need not exist."""
        marks = (self._last[_place(event_type, subject)] for subject in subjects)
        return max(self._doubted, *marks, -1)


def _place(event_type: str, subject: str) -> int:
    """Two that share a place cost a query now and then, nothing else."""
    return hash((event_type, subject)) % PLACES
