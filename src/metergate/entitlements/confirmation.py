"""Snapshots confirmed many at a time: what the batch query's answer means for them, and when it may be used.

The batch query (``metergate.openmeter.batch``) says who has access to what, without balances. So it renews a
snapshot only where it says of every feature what the snapshot says; a subject of whom it says anything else is
read on its own. Of a subject of whom nothing was known it makes a provisional snapshot of what it grants. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from metergate.entitlements.snapshot import NEVER, Snapshot
from metergate.openmeter.access import fits_batch
from metergate.openmeter.batch import MOST_FEATURES
from metergate.openmeter.values import FeatureValue, SubjectAccess

LEAST_SUBJECTS = 3
"""Fewer are read one by one, which brings their balances, too."""

NOT_OFFERED_SECONDS = 3600.0
"""How long it is remembered that the server does not offer the query."""

FAILED_SECONDS = 60.0
"""The same where it offers it, and it failed."""

MOST_ALONE = 20_000


def confirm(
    snapshot: Snapshot | None, access: Mapping[str, bool] | None, features: tuple[str, ...], asked_at: float
) -> Snapshot | None:
    """The snapshot renewed, where the answer agrees with it in all of ``features``; else None.

    A feature that the answer does not mention agrees with nothing.
    """
    if snapshot is None or access is None:
        return None
    for feature in features:
        known = snapshot.feature(feature)
        if access.get(feature) is not (known is not None and known.has_access):
            return None
    return snapshot.confirmed(asked_at)


def provisional(
    access: Mapping[str, bool] | None, features: tuple[str, ...], asked_at: float
) -> Snapshot | None:
    """A snapshot of what the answer grants of ``features``; None where that is nothing.

    That there is no access it does not hold: the answer does not say whether a quota is used up.
    """
    values = tuple(FeatureValue(feature, True) for feature in features if access and access.get(feature))
    if not values:
        return None
    snapshot = Snapshot(asked_at, SubjectAccess("found", values))
    snapshot.balances_at = NEVER
    return snapshot


class Confirmations:
    """Which features and subjects the batch query is asked about, and whether it may be asked at all."""

    def __init__(self) -> None:
        self.features: tuple[str, ...] = ()
        """All that were required so far, in the order they came. Beyond what the query takes no more are added,
        and it is not made."""
        self._needed: set[tuple[str, ...]] = set()
        self._alone: set[str] = set()
        self._offered = False
        self._closed_until = float("-inf")

    def need(self, features: tuple[str, ...]) -> None:
        """These are required of somebody. Of more than the query takes it is enough to know that they are."""
        if features in self._needed or len(self.features) > MOST_FEATURES:
            return
        self._needed.add(features)
        self.features = tuple(dict.fromkeys((*self.features, *features)))

    def fit(self, subject: str, snapshot: Snapshot | None) -> bool:
        """Whether the query can find this subject, as far as is known."""
        found = snapshot is None or snapshot.state == "found"
        return found and subject not in self._alone and fits_batch(subject)

    def open(self, now: float) -> bool:
        """Whether the query may be made."""
        return now >= self._closed_until and 0 < len(self.features) <= MOST_FEATURES

    def begin(self) -> None:
        """The query is made. As long as it is not known to be offered, one is enough to find out."""
        if not self._offered:
            self._closed_until = float("inf")

    def succeed(self) -> None:
        """It was answered."""
        self._offered, self._closed_until = True, float("-inf")

    def close(self, until: float) -> None:
        """It was not: make none before that time, and then one to find out."""
        self._offered, self._closed_until = False, until

    def leave_alone(self, subject: str) -> None:
        """The query does not find this subject, who is known otherwise."""
        if len(self._alone) >= MOST_ALONE:
            self._alone.clear()  # each is then tried once more
        self._alone.add(subject)
