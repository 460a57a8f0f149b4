"""Counts answered requests, in one worker, as cheaply as Python can."""

from __future__ import annotations

from bisect import bisect_left

from metergate.gateway.metrics.samples import Histogram, Sample

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the histogram's buckets, in seconds; the last one of all is infinity."""

ROW_LIMIT = 2_000
"""So many pairs of route and method have figures of their own; what comes later is counted under ``other``."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx")
"""Statuses above 599 are none, but there are servers that send them."""


class _Row:
    """The figures of one route and method."""

    __slots__ = ("buckets", "classes", "method", "route", "seconds")

    def __init__(self, route: str, method: str) -> None:
        self.route = route
        self.method = method
        self.classes = [0] * len(_CLASSES)
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0


class RequestCounts:
    """Requests by route, method and class of status, and how long they took."""

    __slots__ = ("_limit", "_rows", "overflowed")

    def __init__(self, limit: int = ROW_LIMIT) -> None:
        self._limit = limit
        self._rows: dict[tuple[str, str], _Row] = {}
        self.overflowed = 0

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. ``route`` is the route's label, "" where none matched; ``status`` below 1000."""
        row = self._rows.get((route, method)) or self._row(route, method)
        row.classes[status // 100] += 1
        row.buckets[bisect_left(BOUNDS, seconds)] += 1
        row.seconds += seconds

    def _row(self, route: str, method: str) -> _Row:
        """The row for a pair that has none under this name; a client cannot make more rows than the bound."""
        known = method if method in _METHODS else "other"
        if (route, known) not in self._rows and len(self._rows) >= self._limit:
            self.overflowed += 1
            route, known = "other", "other"
        row = self._rows.get((route, known))
        if row is None:
            first, _, path = route.partition(" ")
            row = self._rows[route, known] = _Row(path if first in _METHODS else route, known)
        return row

    def samples(self) -> tuple[list[Sample], list[Histogram]]:
        """What was counted so far."""
        samples: list[Sample] = []
        histograms: list[Histogram] = []
        for row in list(self._rows.values()):
            labels = (("method", row.method), ("route", row.route))
            histograms.append(Histogram("metergate_request_seconds", labels, row.buckets.copy(), row.seconds))
            for name, count in zip(_CLASSES, row.classes, strict=True):
                if count:
                    labelled = (*labels, ("status", name))
                    samples.append(Sample("metergate_requests", labelled, count, "counter"))
        if self.overflowed:
            samples.append(Sample("metergate_routes_overflowed", (), self.overflowed, "counter"))
        return samples, histograms
