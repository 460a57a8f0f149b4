"""Counts answered requests, in one worker, as cheaply as Python can."""

from __future__ import annotations

from bisect import bisect_left

from metergate.gateway.metrics.ledger import Ledger

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the histogram's buckets, in seconds; the last one of all is infinity."""

ROW_LIMIT = 2_000
"""So many pairs of route and method have figures of their own; what comes later is counted under ``other``."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx")
"""Statuses above 599 are none, but there are servers that send them."""

_BUCKETS = len(BOUNDS) + 1
_BY_TIME = len(_CLASSES)
_SECONDS = _BY_TIME + _BUCKETS
NUMBERS = (ROW_LIMIT + 1) * (_SECONDS + 1)
"""So many numbers does it take to count at most that many rows, and what comes later."""


class RequestCounts:
    """Requests by route, method and class of status, and how long they took, counted in a `Ledger`."""

    __slots__ = ("_ledger", "_limit", "_overflowed", "_rows")

    def __init__(self, ledger: Ledger, limit: int = ROW_LIMIT) -> None:
        self._ledger = ledger
        self._limit = limit
        self._rows: dict[tuple[str, str], int] = {}  # the first slot of each
        self._overflowed = 0

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. ``route`` is the route's label, "" where none matched; ``status`` below 1000."""
        row = self._rows.get((route, method)) or self._row(route, method)
        values = self._ledger.values
        values[row + status // 100] += 1
        values[row + _BY_TIME + bisect_left(BOUNDS, seconds)] += 1
        values[row + _SECONDS] += seconds

    def _row(self, route: str, method: str) -> int:
        """The row for a pair that has none under this name; a client cannot make more rows than the bound."""
        known = method if method in _METHODS else "other"
        if (route, known) not in self._rows and len(self._rows) >= self._limit:
            self._count_overflow()
            route, known = "other", "other"
        row = self._rows.get((route, known))
        if row is None:
            row = self._rows[route, known] = self._new_row(route, known)
        return row

    def _new_row(self, route: str, method: str) -> int:
        first, _, path = route.partition(" ")
        labels = (("method", method), ("route", path if first in _METHODS else route))
        slots = [self._ledger.counter("metergate_requests", (*labels, ("status", name))) for name in _CLASSES]
        self._ledger.histogram("metergate_request_seconds", labels, _BUCKETS)
        return slots[0]

    def _count_overflow(self) -> None:
        if not self._overflowed:
            self._overflowed = self._ledger.counter("metergate_routes_overflowed")
        self._ledger.values[self._overflowed] += 1
