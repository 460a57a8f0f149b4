"""The local count beside the answers of OpenMeter: what each allows, and what a request takes of it.

An answer says what was left when OpenMeter was asked; the count (`usage`) what this host has recorded that the
answer cannot hold. A request is let in where both agree, and holds what it may cost until it has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from metergate.entitlements.answers import Answers
from metergate.entitlements.snapshot import Snapshot, is_near_limit
from metergate.entitlements.usage.holds import Asked, Ceiling, Hold, UsedUp
from metergate.entitlements.usage.learning import CatalogSource, Learning
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.terms import EntitlementSource, Terms
from metergate.openmeter.values import SubjectAccess
from metergate.policy.model import EntitlementCheck

_NO_RESERVES: Mapping[str, float] = {}


VISIBILITY_MARGIN = 0.1
"""Seconds added to what a server says of itself: for clocks."""
_LOOK_SECONDS = 0.05
_MOST_SECONDS = 30.0
"""How long one looks who is waited for; nobody waits longer than their ``timeoutSeconds``."""


class CountSource(CatalogSource, EntitlementSource, Protocol):
    """What counting asks OpenMeter for: ``metergate.openmeter.access.AccessClient``."""

    @property
    def visibility_seconds(self) -> float | None:
        """How long after it acknowledged an event its answers may lack it, where it says so itself."""


class Counted:
    """One OpenMeter's answers with the local count. On the event loop."""

    def __init__(
        self,
        source: CountSource,
        local: LocalUsage,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        catalog_file: Path | None = None,
        answers: Answers | None = None,
    ) -> None:
        """``catalog_file`` keeps for the next start how events count, and ``answers`` what was answered, for the other
        processes of the host, too. ``wall_clock``: seconds since 1970.
        """
        self.local = local
        self.answers = answers
        self._source = source
        self._wall_clock = wall_clock
        self.learning = Learning(source, local, clock, catalog_file)
        self._terms = Terms(source, clock, wall_clock)
        # What a server says of itself tells nothing of its clock.
        self._clock_margin = local.ledger.visibility
        self._settling: dict[tuple[str, str], asyncio.Task[None]] = {}

    # --- asking

    async def read(
        self, subject: str, began: float, access: Callable[[str], Awaitable[SubjectAccess]]
    ) -> Snapshot:
        """OpenMeter's answer, asked for now by ``access``, with what it allows. ``began``: when the read did."""
        await self.learning.ready()
        self.local.ledger.tend(left_behind=True)
        since, asked = self._wall_clock(), self.local.ask(subject)
        answer = await access(subject)
        snapshot = Snapshot(began, answer)
        self._learn_visibility()
        if asked:
            early = await self._find_early(subject, asked, answer, since)
            snapshot.ceilings = self._hard(subject, self.local.ceilings(asked, answer.features, early))
            self._ask_in_time(subject, snapshot)
        return snapshot

    async def _find_early(
        self, subject: str, asked: tuple[Asked, ...], answer: SubjectAccess, since: float
    ) -> frozenset[str]:
        """The features of which an answer tells what is granted only from a later moment on."""
        terms, early, new = self._terms, set[str](), set[str]()
        # Again, because meanwhile another answer may have shown that this one tells of more.
        while more := self.local.tells_of_more(asked, answer.features, but=early | new):
            for one in asked:
                if one.feature not in more:
                    continue
                if not await terms.is_early(subject, one.feature, since):
                    new.add(one.feature)
                    continue
                early.add(one.feature)
                allowed = terms.in_force(subject, one.feature, since, more[one.feature])
                if allowed is not None:
                    self.local.ledger.rise_to(one.place, allowed)
        for one in asked:
            if one.feature not in early:
                # Of another kind each answer may tell of more, and would cost two requests.
                terms.settle(subject, one.feature, has_changed=one.feature in new and one.kind == "flow")
        return frozenset(early)

    async def ask_many(self, subjects: Iterable[str]) -> dict[str, tuple[Asked, ...]]:
        """What an answer will surely hold for each of these, of whom nothing is known. Just before they are asked for."""
        await self.learning.ready()
        self.local.ledger.tend(left_behind=True)
        return {subject: self.local.ask(subject) for subject in subjects}

    def provide(self, subject: str, snapshot: Snapshot | None, asked: tuple[Asked, ...]) -> Snapshot | None:
        """A provisional answer with its ceilings; None where there is none that may serve."""
        if snapshot is None:
            return None
        self._learn_visibility()
        ceilings = self.local.least_ceilings(asked, [value.feature for value in snapshot.values])
        if ceilings is None:
            return None
        snapshot.ceilings = self._hard(subject, ceilings)
        return snapshot

    def _hard(self, subject: str, ceilings: Iterable[Ceiling]) -> tuple[Ceiling, ...]:
        """Those that are not known to be of soft limits."""
        known = self._terms.soft.known
        return tuple(one for one in ceilings if known(subject, one.feature) is not True)

    def _learn_visibility(self) -> None:
        said = self._source.visibility_seconds
        if said is not None:
            self.local.ledger.visibility = said + VISIBILITY_MARGIN
        self._terms.margin = max(self._clock_margin, self.local.ledger.visibility)

    def _ask_in_time(self, subject: str, snapshot: Snapshot) -> None:
        """Whether a limit is soft should be known before it is reached: then OpenMeter may be away."""
        for ceiling in snapshot.ceilings:
            feature = ceiling.feature
            if (
                is_near_limit(snapshot, (feature,), self.left)
                and self._terms.soft.known(subject, feature) is None
            ):
                self._terms.soft.begin(subject, feature)

    async def make_sure(
        self,
        subject: str,
        snapshot: Snapshot,
        features: tuple[str, ...],
        check: EntitlementCheck,
        read_again: Callable[[], Awaitable[Snapshot | None]],
        beside: tuple[Hold, ...] = (),
    ) -> Snapshot:
        """An answer that the local count leaves nothing of is not denied on before it is known whether the limit is
        soft, and, where that can be known in time, whether the answer holds what was recorded here.

        Waits; the caller sees to it that it does not do so for too long.
        """
        while isinstance(held := self.take(snapshot, features, check, beside), UsedUp):
            if await self._terms.soft.find_out(subject, held.feature):
                snapshot.ceilings = tuple(one for one in snapshot.ceilings if one.feature != held.feature)
                continue
            if self.is_sure(subject, snapshot, held.feature, check):
                return snapshot
            await self._settled(subject, held.feature, snapshot)
            again = await read_again()
            if again is None:
                return snapshot
            snapshot = again
        held.release()
        return snapshot

    def close(self) -> None:
        """Give up what is under way."""
        self.learning.close()
        self._terms.close()
        if self.answers is not None:
            self.answers.close()

    async def _settled(self, subject: str, feature: str, snapshot: Snapshot) -> None:
        """Wait until an answer would hold all that was recorded here: one looks, for all who wait."""
        waiting = self._settling.get((subject, feature))
        if waiting is None:
            waiting = asyncio.get_running_loop().create_task(self._look(snapshot, feature))
            self._settling[subject, feature] = waiting
            waiting.add_done_callback(lambda _: self._settling.pop((subject, feature), None))
        await asyncio.shield(waiting)

    async def _look(self, snapshot: Snapshot, feature: str) -> None:
        looks = int(_MOST_SECONDS / _LOOK_SECONDS)
        while looks and not self.local.is_settled(snapshot.ceilings, feature):
            looks -= 1
            await asyncio.sleep(_LOOK_SECONDS)
            self.local.ledger.tend(left_behind=True)

    def is_sure(self, subject: str, snapshot: Snapshot, feature: str, check: EntitlementCheck) -> bool:
        """Whether `make_sure` would find out nothing: the limit is hard, and doubts would last too long."""
        if self._terms.soft.known(subject, feature) is not False:
            return False
        lasting = self.local.ledger.visibility >= check.timeout_seconds
        return lasting or not self.local.doubts(snapshot.ceilings, feature)

    # --- deciding

    def take(
        self,
        snapshot: Snapshot,
        features: tuple[str, ...],
        check: EntitlementCheck,
        beside: tuple[Hold, ...] = (),
    ) -> Hold | UsedUp:
        """Hold what a request may cost, or say of what there is not enough left; see `LocalUsage.take`."""
        return self.local.take(snapshot.ceilings, features, reserves(features, check), beside)

    def left(self, snapshot: Snapshot, feature: str) -> float | None:
        """What is left of a feature's balance as of now; None where it has none."""
        for ceiling in snapshot.ceilings:
            if ceiling.feature == feature:
                return self.local.left(ceiling)
        value = snapshot.feature(feature)
        return None if value is None else value.balance

    def lacks(
        self,
        snapshot: Snapshot,
        features: tuple[str, ...],
        check: EntitlementCheck,
        beside: tuple[Hold, ...] = (),
    ) -> bool:
        """Whether there is not enough left for a request, as of now."""
        if not snapshot.ceilings:
            return False
        held = self.take(snapshot, features, check, beside)
        if isinstance(held, UsedUp):
            return True
        held.release()
        return False

    def is_quiet(self, snapshot: Snapshot) -> bool:
        """Whether a new answer would hold all that was recorded here, and nothing is held."""
        with self.local.lock:
            return all(self.local.ledger.is_quiet(ceiling.place) for ceiling in snapshot.ceilings)


def reserves(features: tuple[str, ...], check: EntitlementCheck) -> Mapping[str, float]:
    """What of these has to be left whole for a request, as the policy says."""
    if check.reserve is None and not check.features:
        return _NO_RESERVES
    configured = ((feature, check.of(feature).reserve) for feature in features)
    return {feature: reserve for feature, reserve in configured if reserve is not None}
