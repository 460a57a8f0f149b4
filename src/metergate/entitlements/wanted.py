"""What a request wants, which snapshots can serve it, and which read it needs where none does. Pure."""

from __future__ import annotations

from typing import NamedTuple

from metergate.entitlements.budget import Urgency
from metergate.entitlements.confirmation import Confirmations
from metergate.entitlements.counted import Counted, reserves
from metergate.entitlements.decision import GRANTED, Decision, grants
from metergate.entitlements.snapshot import Snapshot, is_near_limit
from metergate.entitlements.usage.holds import Hold
from metergate.policy.model import EntitlementCheck

DENIAL_SECONDS = 1.0
"""How long an answer that denies serves, where ``ttlSeconds`` is not shorter."""


class Wanted(NamedTuple):
    """What a request wants to be let in for."""

    subject: str
    features: tuple[str, ...]
    check: EntitlementCheck
    beside: tuple[Hold, ...]


class Need(NamedTuple):
    """A read that is needed; see `Flights.seek`."""

    urgency: Urgency
    alone: bool
    blank: bool = False


def usable(snapshot: Snapshot | None, wanted: Wanted, now: float) -> Snapshot | None:
    """The snapshot, if it is young enough to serve and says something of what is wanted."""
    if snapshot is None or now - snapshot.asked_at >= wanted.check.max_stale_seconds:
        return None
    return None if snapshot.is_provisional and not grants(snapshot, wanted.features) else snapshot


def is_said(decision: Decision, snapshot: Snapshot) -> bool:
    """Whether the snapshot that this was decided on says so: a provisional one denies nobody."""
    return decision is GRANTED or not snapshot.is_provisional


def is_fresh(snapshot: Snapshot, arrived: float, wanted: Wanted) -> bool:
    """Whether an answer was asked for after ``arrived``, or is younger than it may be then."""
    if snapshot.fresh_from >= arrived:
        return True
    age, check = arrived - snapshot.fresh_from, wanted.check
    denies = check.mode == "enforce" and not grants(snapshot, wanted.features)
    return age < (min(check.ttl_seconds, DENIAL_SECONDS) if denies else check.ttl_seconds)


def need(
    wanted: Wanted, known: Snapshot | None, now: float, counted: Counted | None, confirmations: Confirmations
) -> Need:
    """The read that a request needs whom ``known``, the snapshot of its subject, does not serve as it is."""
    subject, features, _, _ = wanted
    serves = usable(known, wanted, now)
    if serves is None or serves.is_provisional:
        return _need_anything(wanted, known, serves, counted, confirmations)
    changed = serves.is_expired
    near = is_near_limit(serves, features, None if counted is None else counted.left)
    urgent = changed or near or not grants(serves, features)
    alone = changed or near or not confirmations.fit(subject, serves)
    return Need(Urgency.LIMIT if urgent else Urgency.STALE, alone)


def _need_anything(
    wanted: Wanted,
    known: Snapshot | None,
    serves: Snapshot | None,
    counted: Counted | None,
    confirmations: Confirmations,
) -> Need:
    """Where nothing is known of a balance. Who needs more than a provisional answer can grant is read alone."""
    subject, features, check, beside = wanted
    if counted is None or reserves(features, check) or not confirmations.fit(subject, None):
        return Need(Urgency.UNKNOWN, alone=True)
    if serves is None:
        denied = known is not None and known.is_provisional and not grants(known, features)
        return Need(Urgency.UNKNOWN, alone=denied, blank=True)
    if serves.is_expired:
        return Need(Urgency.LIMIT, alone=True)
    if not counted.lacks(serves, features, check, beside):
        return Need(Urgency.STALE, alone=False, blank=True)
    if counted.is_quiet(serves):
        return Need(Urgency.UNKNOWN, alone=False, blank=True)
    return Need(Urgency.LIMIT, alone=True)
