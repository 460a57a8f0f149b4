"""Which limits are soft. A balance does not say; so it is asked for before anybody is denied on our count alone."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from metergate.errors import OpenMeterError
from metergate.openmeter.values import MeteredEntitlement

SOFT_SECONDS = 300.0
UNKNOWN_SECONDS = 10.0
"""How long a limit counts as what it was, and as hard where that is not known, after OpenMeter could not say."""
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
        self._asking: dict[tuple[str, str], asyncio.Task[bool]] = {}
        self._known: OrderedDict[tuple[str, str], tuple[float, bool]] = OrderedDict()

    def known(self, subject: str, feature: str) -> bool | None:
        """Whether the limit is soft; None where that was not asked for lately."""
        until, soft = self._known.get((subject, feature), (float("-inf"), False))
        return soft if self._clock() < until else None

    async def find_out(self, subject: str, feature: str) -> bool:
        """Whether the limit is soft; a hard one where OpenMeter cannot say. Asked once for all who want to know."""
        known = self.known(subject, feature)
        if known is not None:
            return known
        key = subject, feature
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(subject, feature))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, subject: str, feature: str) -> bool:
        try:
            entitlement = await self._source.entitlement(subject, feature)
        except OpenMeterError:
            _, last = self._known.get((subject, feature), (0.0, False))
            return self._remember(subject, feature, last, UNKNOWN_SECONDS)
        soft = entitlement is not None and entitlement.is_soft_limit
        return self._remember(subject, feature, soft, SOFT_SECONDS)

    def _remember(self, subject: str, feature: str, soft: bool, seconds: float) -> bool:
        self._known[subject, feature] = self._clock() + seconds, soft
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return soft
