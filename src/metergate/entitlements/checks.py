"""The entitlement checks of one OpenMeter: what is decided on which answer, and when a new one is sought.

``decide`` is on the way of every request and is a plain function call. It answers from a *fresh* snapshot: one
younger than ``ttlSeconds``, or than ``DENIAL_SECONDS`` where it denies, so that a subject that is being denied is
asked for again once a second and a top-up is seen within that. Else a read of the subject is sought, and:

* a snapshot that *grants* serves up to ``GRACE`` times ``ttlSeconds`` meanwhile, so that a busy subject never
  waits;
* one that denies, or is older, does not where a read can start at once: requests wait for it;
* any snapshot younger than ``maxStaleSeconds`` is *usable*: it serves where the budget of reads
  (``budget.py``) has none for it now, and the read is queued. So nobody waits for the budget but a subject of
  which nothing usable is known, with ``ttlSeconds`` 0 too;
* while OpenMeter fails, a usable snapshot serves; without one ``onError`` decides, both at once.

In all other cases ``decide`` returns None and the host awaits ``ask``, which waits up to ``timeoutSeconds``, then
decides as if OpenMeter failed. Once one request has waited for a read in vain nobody else waits for that read. It
still takes place, however long the queue is, unless the queue is full. Reads are shared by all who wait and
belong to none of them: ``flights.py``.

Everything runs on one event loop and needs no lock. Nothing is opened or started before the first call.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import msgspec

from metergate.entitlements.budget import Budget, Urgency
from metergate.entitlements.counted import Counted, reserves
from metergate.entitlements.decision import (
    GRANTED,
    REASONS,
    Decision,
    decide,
    decide_used_up,
    decide_without_answer,
    grants,
)
from metergate.entitlements.flight import Flight
from metergate.entitlements.flights import Flights
from metergate.entitlements.snapshot import Snapshot, Snapshots
from metergate.entitlements.source import AccessSource
from metergate.entitlements.statistics import EntitlementStatistics, gather
from metergate.entitlements.usage.holds import Hold
from metergate.entitlements.wanted import DENIAL_SECONDS, Wanted, is_fresh, is_said, need, usable
from metergate.policy.model import EntitlementCheck

GRACE = 2.0
"""Times ``ttlSeconds`` that a grant may serve while it is refreshed. It bounds how late a limit is noticed:
without it a subject that comes back after an hour would be let in once on an answer an hour old."""

MOST_SUBJECTS = 200_000
MOST_IN_FLIGHT = 4096
MOST_QUEUED = 20_000


class Entitlements:
    """Decides who may use what. One per OpenMeter and key, shared by all policies that use it."""

    def __init__(
        self,
        source: AccessSource,
        *,
        max_reads_per_second: float = 25.0,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        most_subjects: int = MOST_SUBJECTS,
        most_in_flight: int = MOST_IN_FLIGHT,
        most_queued: int = MOST_QUEUED,
    ) -> None:
        """
        Args:
            source: asked for answers, and closed with this.
            max_reads_per_second: HTTP requests to OpenMeter, of all worker processes together; above 0.
            workers: how many processes share that, each with the same part of it.
            clock: seconds that never go back.
            jitter: numbers from 0 up to 1, for the pauses after failures.
            most_subjects: snapshots kept.
            most_in_flight: requests under way at once; more wait.
            most_queued: subjects that wait to be read; beyond, the read that has waited longest of the least
                urgent is given up.
        """
        self._clock = clock
        self._snapshots = Snapshots(most_subjects)
        self._snapshot_of = self._snapshots.entries.get
        self._flights = Flights(
            source,
            self._snapshots,
            Budget(max_reads_per_second, workers),
            clock=clock,
            jitter=jitter,
            most_in_flight=most_in_flight,
            most_queued=most_queued,
        )
        self._counted: Counted | None = None
        self._granted = 0
        self._decisions: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._refreshes = self._deferred = self._used_up = 0

    def __repr__(self) -> str:
        size, reads = len(self._snapshots), self._flights
        return f"<Entitlements snapshots={size} in_flight={reads.in_flight} queued={reads.queued}>"

    def allow_reads(self, max_reads_per_second: float) -> None:
        """A policy uses this: of the budgets of all that do the highest counts, not that of the constructor."""
        self._flights.budget.allow(max_reads_per_second)

    @property
    def reads_per_second(self) -> float:
        """The budget of this process: its share of ``max_reads_per_second``."""
        return self._flights.budget.rate

    def decide(
        self,
        subject: str,
        features: tuple[str, ...],
        check: EntitlementCheck,
        beside: tuple[Hold, ...] = (),
    ) -> Decision | None:
        """The decision, where it needs no waiting; else None: await ``ask``. Call it on the event loop.

        Args:
            features: the feature keys that are all needed; best the same tuple each time.
            beside: what is held for the same request already. Of that it holds only what is more.
        """
        granted = self.grant(subject, features, check, beside)
        if granted is not None:
            return granted
        snapshot = self._snapshot_of(subject)
        wanted, now = Wanted(subject, features, check, beside), self._clock()
        if snapshot is not None and now - snapshot.fresh_from < check.ttl_seconds:
            decision = decide(snapshot, features, check, now=now)
            said = is_said(decision, snapshot)
            if said and (decision.allowed or now - snapshot.fresh_from < DENIAL_SECONDS):
                return self._settle(decision, wanted, snapshot, now)
        return self._decide_without_fresh(snapshot, wanted, now)

    def grant(
        self,
        subject: str,
        features: tuple[str, ...],
        check: EntitlementCheck,
        beside: tuple[Hold, ...] = (),
    ) -> Decision | None:
        """The usual decision: OpenMeter said yes a moment ago, and the local count leaves enough. None: see ``decide``.

        On any thread.
        """
        snapshot = self._snapshot_of(subject)
        if (
            snapshot is None
            or self._clock() - snapshot.fresh_from >= check.ttl_seconds
            or features not in snapshot.granted
        ):
            return None
        ceilings = snapshot.ceilings
        if not ceilings:
            self._granted += 1
            return GRANTED
        held = self._take(ceilings, features, reserves(features, check), beside)
        if not isinstance(held, Hold):
            return None
        self._granted += 1
        return Decision(True, "granted", hold=held)

    async def ask(
        self,
        subject: str,
        features: tuple[str, ...],
        check: EntitlementCheck,
        beside: tuple[Hold, ...] = (),
    ) -> Decision:
        """The decision, after at most ``check.timeout_seconds``. Never raises but for the caller's
        cancellation.

        With ``ttl_seconds`` 0 the answer was asked for after the call: who finds a request already on its
        way waits for the next one, which all who wait share. Where the budget has none, the last answer serves.
        """
        deadline = asyncio.get_running_loop().time() + check.timeout_seconds
        wanted = Wanted(subject, features, check, beside)
        arrived = self._clock()
        snapshot = self._snapshot_of(subject)
        while True:
            if snapshot is not None and self._serves(snapshot, arrived, wanted):
                decision = await self._judge(wanted, snapshot, deadline)
                if decision is not None:
                    return decision
            now = self._clock()
            flight = self._seek(snapshot, wanted, now)
            if flight is None:
                return self._make_do(snapshot, wanted)
            serves = usable(snapshot, wanted, now)
            if serves is not None and flight.deferred:
                deferred = self._defer(wanted, serves, now)
                if deferred is not None:
                    return deferred
            if not await self._flights.landed(flight, deadline):
                return self._make_do(self._snapshot_of(subject), wanted)
            snapshot = flight.snapshot

    async def check(self, subject: str, features: tuple[str, ...], check: EntitlementCheck) -> Decision:
        """What would be decided now, without letting anybody in: nothing is held."""
        decision = self.decide(subject, features, check) or await self.ask(subject, features, check)
        if decision.hold is None:
            return decision
        decision.hold.release()
        return msgspec.structs.replace(decision, hold=None)

    async def balance(self, subject: str, feature: str, check: EntitlementCheck) -> float | None:
        """What is left of a feature: of OpenMeter's balance what was not recorded here since, nor is held. None where
        there is no balance, and where OpenMeter cannot be asked.
        """
        await self.check(subject, (feature,), check)
        snapshot = self._snapshot_of(subject)
        if snapshot is not None and snapshot.is_provisional:
            flight = self._flights.seek(subject, Urgency.LIMIT, self._clock(), alone=True)
            deadline = asyncio.get_running_loop().time() + check.timeout_seconds
            snapshot = await self._flights.brought(flight, deadline)
        if snapshot is None:
            return None
        if self._counted is not None:
            return self._counted.left(snapshot, feature)
        value = snapshot.feature(feature)
        return None if value is None else value.balance

    @property
    def is_counted(self) -> bool:
        """Whether the local count decides, too."""
        return self._counted is not None

    def count_by(self, counted: Counted) -> None:
        """Let the local count decide too, and hold what requests may cost."""
        self._counted = counted
        self._flights.count_by(counted)
        self._take = counted.local.take

    def age(self, subject: str) -> float | None:
        """Seconds since OpenMeter was asked for what is known of a subject; None where nothing is."""
        snapshot = self._snapshot_of(subject)
        return None if snapshot is None else max(self._clock() - snapshot.asked_at, 0.0)

    def expire(self, subject: str) -> None:
        """OpenMeter has something new to say of a subject: the next decision asks it first.

        What is known stays for as long as OpenMeter cannot be asked. An answer that is on its way is one of
        before, and who waits for it waits for the next.
        """
        self._flights.expire(subject)

    async def close(self) -> None:
        """Give up the requests in flight and close the source."""
        await self._flights.close()

    def statistics(self) -> EntitlementStatistics:
        """What was decided, asked and kept so far."""
        return gather(
            self._flights,
            self._snapshots,
            decisions={**self._decisions, "granted": self._decisions["granted"] + self._granted},
            refreshes=self._refreshes,
            deferred=self._deferred,
            used_up=self._used_up,
            local=None if self._counted is None else self._counted.local.statistics(),
        )

    # --- deciding

    def _decide_without_fresh(self, snapshot: Snapshot | None, wanted: Wanted, now: float) -> Decision | None:
        subject, features, check, _ = wanted
        self._flights.look()
        if self._snapshot_of(subject) is not snapshot:
            return self.decide(*wanted)
        if self._flights.leads_nowhere(subject, now):
            return self._make_do(snapshot, wanted)
        snapshot = usable(snapshot, wanted, now)
        if snapshot is None:
            return None
        granted = features in snapshot.granted or grants(snapshot, features)
        serves = granted and now - snapshot.fresh_from < check.ttl_seconds * GRACE
        flight = self._flights.find(subject)
        if not serves and (self._flights.ready(now) if flight is None else not flight.deferred):
            return None
        if flight is None:
            self._refreshes += 1
            self._seek(snapshot, wanted, now)
        elif not granted:
            self._flights.hasten(flight)
        if not serves:
            return self._defer(wanted, snapshot, now)
        return self._settle(decide(snapshot, features, check, now=now), wanted, snapshot, now)

    async def _judge(self, wanted: Wanted, snapshot: Snapshot, deadline: float) -> Decision | None:
        """Decide on a snapshot that may serve, whatever the local count says of it. None where that leaves nothing
        of a provisional one.
        """
        counted = self._counted
        if snapshot.is_provisional:
            return self._settle(GRANTED, wanted, snapshot, self._clock())
        if counted is not None and snapshot.ceilings and wanted.check.mode == "enforce":
            snapshot = await self._make_sure(counted, wanted, snapshot, deadline)
        decision = decide(snapshot, wanted.features, wanted.check, now=self._clock())
        settled = self._settle(decision, wanted, snapshot, self._clock(), last=True)
        without = decide_without_answer(wanted.features, wanted.check, retry_after=1.0)
        return settled or self._count(without)

    def _settle(
        self, decision: Decision, wanted: Wanted, snapshot: Snapshot, now: float, *, last: bool = False
    ) -> Decision | None:
        """Remember what may serve for many, take what the request may cost, and count. None as for `_hold`."""
        self._flights.confirmations.need(wanted.features)
        if decision is GRANTED:
            self._snapshots.remember_grant(snapshot, wanted.features)
        return self._hold(decision, wanted, snapshot, now, last=last)

    def _hold(
        self, decision: Decision, wanted: Wanted, snapshot: Snapshot, now: float, *, last: bool = False
    ) -> Decision | None:
        """The decision with what is held for the request, or the denial where the local count leaves nothing.

        None: that would be a denial on our count alone, and OpenMeter was not asked for a second, or not yet
        whether the limit is soft. Where this is the ``last`` word only if it was not asked for a balance at all.
        """
        counted = self._counted
        if counted is None or not snapshot.ceilings or not decision.allowed or decision.shadowed:
            return self._count(decision)
        subject, features, check, beside = wanted
        held = counted.take(snapshot, features, check, beside)
        if isinstance(held, Hold):
            return self._count(Decision(True, decision.reason, age=decision.age, hold=held))
        if snapshot.is_provisional:
            return None
        sure = counted.is_sure(subject, snapshot, held.feature, check)
        sure = sure and now - snapshot.balances_at < DENIAL_SECONDS
        if not (last or sure or check.mode == "shadow" or self._flights.leads_nowhere(subject, now)):
            return None
        self._used_up += 1
        return self._count(decide_used_up(snapshot, held.feature, check, now=now))

    def _defer(self, wanted: Wanted, snapshot: Snapshot, now: float) -> Decision | None:
        """Decide on a usable snapshot because the budget has no read for it now. None as for `_hold`."""
        decision = decide(snapshot, wanted.features, wanted.check, now=now, stale=True)
        settled = self._hold(decision, wanted, snapshot, now)
        self._deferred += settled is not None
        return settled

    def _make_do(self, snapshot: Snapshot | None, wanted: Wanted) -> Decision:
        """Decide without asking: on the last answer, or as ``onError`` says."""
        subject, features, check, _ = wanted
        now = self._clock()
        snapshot = usable(snapshot, wanted, now)
        if snapshot is not None:
            decision = decide(snapshot, features, check, now=now, stale=True)
            settled = self._hold(decision, wanted, snapshot, now, last=True)
            if settled is not None:
                return settled
        wait = self._flights.wait(subject, now)
        return self._count(decide_without_answer(features, check, retry_after=wait))

    def _count(self, decision: Decision) -> Decision:
        self._decisions[decision.reason] += 1
        return decision

    # --- asking

    def _serves(self, snapshot: Snapshot, arrived: float, wanted: Wanted) -> bool:
        """Whether an answer is fresh, and its balances, too, where the local count leaves nothing of them."""
        if not is_fresh(snapshot, arrived, wanted):
            return False
        if snapshot.is_provisional:
            return grants(snapshot, wanted.features)
        if arrived - snapshot.balances_at < DENIAL_SECONDS or wanted.check.mode == "shadow":
            return True
        counted = self._counted
        return counted is None or not counted.lacks(snapshot, wanted.features, wanted.check, wanted.beside)

    async def _make_sure(
        self, counted: Counted, wanted: Wanted, snapshot: Snapshot, deadline: float
    ) -> Snapshot:
        async def read_again() -> Snapshot | None:
            return await self._flights.brought(self._seek(snapshot, wanted, self._clock()), deadline)

        subject, features, check, beside = wanted
        try:
            async with asyncio.timeout_at(deadline):
                return await counted.make_sure(subject, snapshot, features, check, read_again, beside)
        except TimeoutError:
            return snapshot

    def _seek(self, known: Snapshot | None, wanted: Wanted, now: float) -> Flight | None:
        """A read of this subject, as urgent as what is known of it makes it."""
        flights = self._flights
        flights.confirmations.need(wanted.features)
        needed = need(wanted, known, now, self._counted, flights.confirmations)
        return flights.seek(wanted.subject, needed.urgency, now, alone=needed.alone, blank=needed.blank)
