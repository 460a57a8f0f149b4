"""How far OpenMeter has acknowledged what this process recorded. Pure: counts and times in, a time out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

NEVER = float("-inf")


class Watermark:
    """All that was recorded before ``before`` is acknowledged.

    It keeps one question open at a time: what was recorded until then, and is all of it settled by now? So it
    lags behind the truth by the time between two calls of ``advance`` and never runs ahead of it.
    """

    def __init__(self, counts: Callable[[], Sequence[tuple[int, int]]]) -> None:
        """``counts``: of each delivery how many events were ever recorded, and how many of the first are settled.
        A longer sequence than before has the new deliveries at its end.
        """
        self.before = NEVER
        self._counts = counts
        self._asked_at = NEVER
        self._until: Sequence[tuple[int, int]] | None = None

    def advance(self, now: float) -> float:
        """Look again. On the thread that records, so that nothing is between being counted and being written."""
        counts = self._counts()
        if all(recorded == settled for recorded, settled in counts):
            self.before, self._until = now, None
        elif self._until is None:
            self._asked_at, self._until = now, counts
        elif all(settled >= until[0] for (_, settled), until in zip(counts, self._until, strict=False)):
            self.before, self._asked_at, self._until = self._asked_at, now, counts
        return self.before
