"""What a balance does not say of a limit: whether it is soft, and when more will be granted by itself.

Asked for only where it matters, once for all who want to know, and remembered for a while.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from metergate.errors import OpenMeterError
from metergate.openmeter.values import MeteredEntitlement

KNOWN_SECONDS = 300.0
UNKNOWN_SECONDS = 10.0
"""How long what was known last counts, and the default where nothing was, after OpenMeter could not say."""
RISES_SECONDS = 10.0
"""How long it counts when more will be granted. Meanwhile somebody may have made a grant that begins sooner."""
MOST_KNOWN = 20_000
MINUTE = 60.0

_T = TypeVar("_T")


class EntitlementSource(Protocol):
    """Where entitlements come from: ``metergate.openmeter.access.AccessClient``."""

    async def entitlement(self, subject: str, feature: str) -> MeteredEntitlement | None:
        """A metered entitlement. Raises OpenMeterError."""

    async def rises(self, subject: str, feature: str) -> tuple[float, ...]:
        """When its balance changes by itself, seconds since 1970. Raises OpenMeterError."""


class Remembered(Generic[_T]):
    """Something that is asked of a feature of a subject, and remembered."""

    def __init__(
        self,
        ask: Callable[[str, str], Awaitable[_T]],
        default: _T,
        clock: Callable[[], float],
        seconds: float = KNOWN_SECONDS,
    ) -> None:
        """``default``: what counts where it was never known and OpenMeter cannot say. ``seconds``: how long it counts."""
        self._ask_for = ask
        self._default = default
        self._clock = clock
        self._seconds = seconds
        self._asking: dict[tuple[str, str], asyncio.Task[_T]] = {}
        self._known: OrderedDict[tuple[str, str], tuple[float, _T]] = OrderedDict()

    def known(self, subject: str, feature: str) -> _T | None:
        """What is known of it; None where that was not asked for lately."""
        until, known = self._known.get((subject, feature), (float("-inf"), self._default))
        return known if self._clock() < until else None

    def begin(self, subject: str, feature: str) -> asyncio.Task[_T]:
        """Ask, unless that is being asked already."""
        key = subject, feature
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return task

    async def find_out(self, subject: str, feature: str) -> _T:
        """What is known of it, or OpenMeter says."""
        known = self.known(subject, feature)
        return known if known is not None else await asyncio.shield(self.begin(subject, feature))

    def forget(self, subject: str, feature: str) -> None:
        """Ask anew the next time."""
        self._known.pop((subject, feature), None)

    def close(self) -> None:
        """Give up what is being asked."""
        for task in self._asking.values():
            task.cancel()

    async def _ask(self, key: tuple[str, str]) -> _T:
        try:
            said, seconds = await self._ask_for(*key), self._seconds
        except OpenMeterError:
            said, seconds = self._known.get(key, (0.0, self._default))[1], UNKNOWN_SECONDS
        self._known[key] = self._clock() + seconds, said
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return said


class _Unknown:
    """OpenMeter could not say."""


_UNKNOWN = _Unknown()


class Terms:
    """What is known of limits beside their balances."""

    def __init__(
        self, source: EntitlementSource, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        """``wall_clock``: seconds since 1970."""
        self.margin = 0.0
        """Seconds by which OpenMeter's clock may differ from ours."""
        self._source = source
        self._wall_clock = wall_clock
        self.soft = Remembered(self._is_soft, False, clock)
        """Whether a limit is soft; a hard one where OpenMeter cannot say."""
        self._rises: Remembered[tuple[float, ...] | _Unknown] = Remembered(
            self._find_rises, _UNKNOWN, clock, RISES_SECONDS
        )
        self._told: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    async def is_early(self, subject: str, feature: str, since: float) -> bool:
        """Whether an answer that was asked for at ``since`` may tell of what is granted only from a later moment on.

        OpenMeter reckons with the next full minute. Where it cannot say when more is granted, any answer may.
        """
        until, margin = self._wall_clock(), self.margin
        rises = self._rises.known(subject, feature)
        if isinstance(rises, tuple) and any(rise <= since - margin for rise in rises):
            self._rises.forget(subject, feature)
        rises = await self._rises.find_out(subject, feature)
        if not isinstance(rises, tuple):
            return True
        return any(since - margin < rise <= until + MINUTE + margin for rise in rises)

    def in_force(self, subject: str, feature: str, since: float, amount: float) -> float | None:
        """What is allowed by now, of what early answers allow: the newest, asked for at ``since``, this ``amount``.

        Also an early answer tells of nothing later than the next full minute. So once that is over for sure, what it
        allowed holds, if the newest still allows as much. None where none is that old. Without this, who is granted a
        little every minute would never get anything.
        """
        told_at, told = self._told.setdefault((subject, feature), (since, amount))
        if len(self._told) > MOST_KNOWN:
            self._told.popitem(last=False)
        if since - told_at < MINUTE + 2 * self.margin:
            return None
        self._told[subject, feature] = since, amount
        return min(told, amount)

    def settle(self, subject: str, feature: str, *, has_changed: bool) -> None:
        """An answer is not early. ``has_changed``: it tells of something new; so may what will be granted be."""
        self._told.pop((subject, feature), None)
        if has_changed:
            self._rises.forget(subject, feature)

    def close(self) -> None:
        """Give up what is being asked."""
        self.soft.close()
        self._rises.close()

    async def _is_soft(self, subject: str, feature: str) -> bool:
        entitlement = await self._source.entitlement(subject, feature)
        return entitlement is not None and entitlement.is_soft_limit

    async def _find_rises(self, subject: str, feature: str) -> tuple[float, ...] | _Unknown:
        """Those that are still to come, also by a clock that is behind. What was known of them before is no answer."""
        since = self._wall_clock() - self.margin
        try:
            return tuple(rise for rise in await self._source.rises(subject, feature) if rise > since)
        except OpenMeterError:
            return _UNKNOWN
