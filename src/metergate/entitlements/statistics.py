"""What the entitlement checks of one process have done, for metrics and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metergate.entitlements.flights import Flights
from metergate.entitlements.snapshot import Snapshots
from metergate.entitlements.usage.local import LocalStatistics


@dataclass(frozen=True, slots=True)
class EntitlementStatistics:
    """Counters since the start, and gauges of this moment.

    ``decisions``: by reason, what would have been denied in shadow mode under the reason of the denial.
    ``asked``: reads of one subject begun; ``refreshes``: those wanted in the background. ``requests``: HTTP
    requests made, for those and everything else that is read. ``batches``: batch queries among them;
    ``confirmed``: snapshots that those renewed or began. ``failures``: reads and batch queries that failed, by
    ``outage``, ``misdirected``, ``blocked``, ``unauthorized``, ``throttled``, ``bug``. ``timeouts``: decisions
    that had waited as long as they may. ``in_flight``: subjects being asked for now; ``queued``: those that wait
    until the budget has a read for them; ``turned_away``: reads given up because too many waited.
    ``deferred``: decisions on an older answer because the budget had no read at once. ``snapshots``: subjects
    known; ``evictions``: those forgotten to make room. ``used_up``: denials on the usage recorded here alone.
    ``failing``: the latest read failed. ``local``: the local count, where there is one.
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
    requests: int = 0
    batches: int = 0
    confirmed: int = 0
    queued: int = 0
    deferred: int = 0
    used_up: int = 0
    local: LocalStatistics | None = None


def gather(
    flights: Flights,
    snapshots: Snapshots,
    *,
    decisions: Mapping[str, int],
    refreshes: int,
    deferred: int,
    used_up: int,
    local: LocalStatistics | None,
) -> EntitlementStatistics:
    """What is known of these as of now, with what was decided."""
    return EntitlementStatistics(
        decisions=decisions,
        asked=flights.asked,
        refreshes=refreshes,
        requests=flights.requests,
        batches=flights.batches,
        confirmed=flights.confirmed,
        failures=dict(flights.failures),
        timeouts=flights.timeouts,
        in_flight=flights.in_flight,
        queued=flights.queued,
        turned_away=flights.dropped,
        deferred=deferred,
        used_up=used_up,
        snapshots=len(snapshots),
        evictions=snapshots.evictions,
        failing=flights.failing,
        local=local,
    )
