"""The local count beside the answers of OpenMeter: what each allows, and what a request takes of it.

An answer says what was left when OpenMeter was asked; the count (`usage`) what this host has recorded that the
answer cannot hold. A request is let in where both agree, and holds what it may cost until it has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from metergate.entitlements.snapshot import Snapshot
from metergate.entitlements.usage.learning import CatalogSource, Learning
from metergate.entitlements.usage.local import Asked, Hold, LocalUsage, UsedUp
from metergate.entitlements.usage.soft import EntitlementSource, SoftLimits
from metergate.openmeter.values import SubjectAccess
from metergate.policy.model import EntitlementCheck

_NO_RESERVES: Mapping[str, float] = {}


class CountSource(CatalogSource, EntitlementSource, Protocol):
    """What counting asks OpenMeter for: ``metergate.openmeter.access.AccessClient``."""


class Counted:
    """One OpenMeter's answers with the local count. On the event loop."""

    def __init__(
        self,
        source: CountSource,
        local: LocalUsage,
        *,
        clock: Callable[[], float] = time.monotonic,
        catalog_file: Path | None = None,
    ) -> None:
        """``catalog_file`` keeps for the next start how events count."""
        self.local = local
        self.learning = Learning(source, local, clock, catalog_file)
        self._soft = SoftLimits(source, clock)

    # --- asking

    async def before(self, subject: str) -> tuple[Asked, ...]:
        """What has to be known before OpenMeter is asked for a subject."""
        await self.learning.ready()
        return self.local.ask(subject)

    def after(self, began: float, asked: tuple[Asked, ...], subject: str, access: SubjectAccess) -> Snapshot:
        """The answer, with what it allows."""
        snapshot = Snapshot(began, access)
        if asked:
            ceilings = self.local.ceilings(asked, access.features)
            snapshot.ceilings = tuple(
                ceiling for ceiling in ceilings if self._soft.known(subject, ceiling.feature) is not True
            )
        return snapshot

    async def find_out_softness(self, subject: str, feature: str, snapshot: Snapshot) -> bool:
        """Whether a limit is soft, and nothing uses it up; then it is taken out of the answer's ceilings."""
        soft = await self._soft.find_out(subject, feature)
        if soft:
            snapshot.ceilings = tuple(one for one in snapshot.ceilings if one.feature != feature)
        return soft

    def is_hard(self, subject: str, feature: str) -> bool:
        """Whether it was found out lately that a limit is hard."""
        return self._soft.known(subject, feature) is False

    # --- deciding

    def take(self, snapshot: Snapshot, features: tuple[str, ...], check: EntitlementCheck) -> Hold | UsedUp:
        """Hold what a request may cost, or say of what there is not enough left."""
        return self.local.take(snapshot.ceilings, features, _reserves(features, check))

    def left(self, snapshot: Snapshot, feature: str) -> float | None:
        """What is left of a feature's balance as of now; None where it has none."""
        for ceiling in snapshot.ceilings:
            if ceiling.feature == feature:
                return self.local.left(ceiling)
        value = snapshot.feature(feature)
        return None if value is None else value.balance

    def lacks(self, snapshot: Snapshot, features: tuple[str, ...], check: EntitlementCheck) -> bool:
        """Whether there is not enough left for a request, as of now."""
        if not snapshot.ceilings:
            return False
        held = self.take(snapshot, features, check)
        if isinstance(held, UsedUp):
            return True
        held.release()
        return False


def _reserves(features: tuple[str, ...], check: EntitlementCheck) -> Mapping[str, float]:
    if check.reserve is None and not check.features:
        return _NO_RESERVES
    reserves = ((feature, check.of(feature).reserve) for feature in features)
    return {feature: reserve for feature, reserve in reserves if reserve is not None}
