"""What the entitlement checks of one process have done, for metrics and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EntitlementStatistics:
    """Counters since the start, and gauges of this moment.

    ``decisions``: by reason, what would have been denied in shadow mode under the reason of the denial.
    ``asked``: requests for a subject begun, of them ``refreshes`` in the background. ``failures``: those
    that failed, by ``outage``, ``unauthorized``, ``throttled``, ``bug``. ``timeouts``: decisions that had
    waited as long as they may. ``in_flight``: subjects being asked for now. ``turned_away``: decisions
    without an answer because too many subjects were in flight. ``snapshots``: subjects known;
    ``evictions``: those forgotten to make room. ``failing``: the latest read
    failed.
    """

    decisions: Mapping[str, int]
    asked: int
    refreshes: int
    failures: Mapping[str, int]
    timeouts: int
    in_flight: int
    turned_away: int
    snapshots: int
    evictions: int
    failing: bool
