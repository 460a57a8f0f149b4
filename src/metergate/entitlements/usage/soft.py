"""Which limits are soft. A balance does not say; so it is asked for before anybody is denied on our count alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from metergate.errors import OpenMeterError
from metergate.openmeter.values import MeteredEntitlement

SOFT_SECONDS = 300.0
MOST_KNOWN = 20_000


class EntitlementSource(Protocol):
    """Where entitlements come from: ``metergate.openmeter.access.AccessClient``."""

    async def entitlement(self, subject: str, feature: str) -> MeteredEntitlement | None:
        """A metered entitlement. Raises OpenMeterError."""


class SoftLimits:
    """What is known of limits: soft, hard, or nothing."""

    def __init__(self, source: EntitlementSource, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, bool]] = OrderedDict()

    def known(self, subject: str, feature: str) -> bool | None:
        """Whether the limit is soft; None where that was not asked for lately."""
        until, soft = self._known.get((subject, feature), (float("-inf"), False))
        return soft if self._clock() < until else None

    async def find_out(self, subject: str, feature: str) -> bool:
        """Whether the limit is soft; a hard one where OpenMeter cannot say."""
        known = self.known(subject, feature)
        if known is not None:
            return known
        try:
            entitlement = await self._source.entitlement(subject, feature)
        except OpenMeterError:
            return False
        soft = entitlement is not None and entitlement.is_soft_limit
        self._known[subject, feature] = self._clock() + SOFT_SECONDS, soft
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return soft
