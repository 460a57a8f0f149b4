"""The entitlement checks of one OpenMeter: snapshots, who asks for a new one and when, and what is decided
meanwhile.

``decide`` is on the way of every request and is a plain function call. It answers from a fresh snapshot
(younger than ``ttlSeconds``), and while it can:

* an older snapshot that *grants* serves up to ``GRACE`` times ``ttlSeconds`` while a new one is fetched in
  the background, so that a busy subject never waits;
* an older one that *denies* does not: the subject may have paid in the meantime, so it is asked for before
  it is denied;
* while OpenMeter fails, the last answer serves up to ``maxStaleSeconds``, then ``onError`` decides, both at
  once.

In all other cases it returns None and the host awaits ``ask``, which waits for OpenMeter up to
``timeoutSeconds``. There is one request in flight per subject for all who wait. It belongs to none of them:
it goes on when they are cancelled or out of time, and its answer serves the next.

Everything runs on one event loop and needs no lock. Nothing is opened or started before the first call.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Callable
from typing import Protocol

from metergate.entitlements.backoff import Backoff
from metergate.entitlements.complaints import KINDS, Complaints, kind_of
from metergate.entitlements.decision import (
    GRANTED,
    REASONS,
    Decision,
    decide,
    decide_without_answer,
    grants,
)
from metergate.entitlements.snapshot import Snapshot, Snapshots
from metergate.entitlements.statistics import EntitlementStatistics
from metergate.errors import OpenMeterError, OpenMeterOutage
from metergate.openmeter.values import SubjectAccess
from metergate.policy.model import EntitlementCheck

GRACE = 2.0
"""Times ``ttlSeconds`` that a grant may serve while it is refreshed. It bounds how late a limit is noticed:
without it a subject that comes back after an hour would be let in once on an answer an hour old."""

MOST_SUBJECTS = 200_000
MOST_IN_FLIGHT = 4096


class AccessSource(Protocol):
    """Where answers come from: ``metergate.openmeter.access.AccessClient``, or a stand-in of a test."""

    async def access(self, subject: str) -> SubjectAccess:
        """All features of a subject. Raises OpenMeterError."""

    async def close(self) -> None:
        """Close what is open."""


class _Flight:
    """One request for one subject. ``snapshot`` is None until it has landed well; ``overdue`` once somebody
    has waited for it as long as they may, so that nobody else does; ``expired`` where what it brings was
    changed after it began.
    """

    __slots__ = ("began", "expired", "overdue", "snapshot", "task")

    def __init__(self, began: float) -> None:
        self.began = began
        self.expired = False
        self.overdue = False
        self.snapshot: Snapshot | None = None
        self.task: asyncio.Task[None]


class Entitlements:
    """Decides who may use what. One per OpenMeter and key, shared by all policies that use it."""

    def __init__(
        self,
        source: AccessSource,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        most_subjects: int = MOST_SUBJECTS,
        most_in_flight: int = MOST_IN_FLIGHT,
    ) -> None:
        """
        Args:
            source: asked for answers, and closed with this.
            clock: seconds that never go back.
            jitter: numbers from 0 up to 1, for the pauses after failures.
            most_subjects: snapshots kept.
            most_in_flight: subjects asked for at once; beyond, decisions are made as if OpenMeter failed.
        """
        self._source = source
        self._clock = clock
        self._most_in_flight = most_in_flight
        self._snapshots = Snapshots(most_subjects)
        self._snapshot_of = self._snapshots.entries.get
        self._flights: dict[str, _Flight] = {}
        self._backoff = Backoff(jitter)
        self._complaints = Complaints()
        self._granted = 0
        self._decisions: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._failures: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._asked = self._refreshes = self._timeouts = self._turned_away = 0

    def __repr__(self) -> str:
        return f"<Entitlements snapshots={len(self._snapshots)} in_flight={len(self._flights)}>"

    def decide(self, subject: str, features: tuple[str, ...], check: EntitlementCheck) -> Decision | None:
        """The decision, where it needs no waiting; else None: await ``ask``. Call it on the event loop.

        Args:
            features: the feature keys that are all needed; best the same tuple each time.
        """
        snapshot = self._snapshot_of(subject)
        now = self._clock()
        if snapshot is not None and now - snapshot.fresh_from < check.ttl_seconds:
            if features in snapshot.granted:
                self._granted += 1
                return GRANTED
            return self._judge(snapshot, features, check, now)
        return self._decide_without_fresh(snapshot, subject, features, check, now)

    async def ask(self, subject: str, features: tuple[str, ...], check: EntitlementCheck) -> Decision:
        """The decision, after at most ``check.timeout_seconds``. Never raises but for the caller's
        cancellation.

        With ``ttl_seconds`` 0 the answer was asked for after the call: who finds a request already on its
        way waits for the next one, which all who wait share.
        """
        deadline = asyncio.get_running_loop().time() + check.timeout_seconds
        arrived = self._clock()
        snapshot = self._snapshot_of(subject)
        while snapshot is None or not _is_fresh(snapshot, arrived, check.ttl_seconds):
            flight = self._flight(subject)
            if flight is None or not await self._landed(subject, flight, deadline):
                return self._make_do(self._snapshot_of(subject), subject, features, check)
            snapshot = flight.snapshot
        return self._judge(snapshot, features, check, self._clock())

    def age(self, subject: str) -> float | None:
        """Seconds since OpenMeter was asked for what is known of a subject; None where nothing is."""
        snapshot = self._snapshot_of(subject)
        return None if snapshot is None else max(self._clock() - snapshot.asked_at, 0.0)

    def expire(self, subject: str) -> None:
        """OpenMeter has something new to say of a subject: the next decision asks it first.

        What is known stays for as long as OpenMeter cannot be asked. An answer that is on its way is one of
        before, and who waits for it waits for the next.
        """
        if (snapshot := self._snapshot_of(subject)) is not None:
            snapshot.expire()
        if (flight := self._flights.get(subject)) is not None:
            flight.expired = True

    async def close(self) -> None:
        """Give up the requests in flight and close the source."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._source.close()

    def statistics(self) -> EntitlementStatistics:
        """What was decided, asked and kept so far."""
        return EntitlementStatistics(
            decisions={**self._decisions, "granted": self._decisions["granted"] + self._granted},
            asked=self._asked,
            refreshes=self._refreshes,
            failures=dict(self._failures),
            timeouts=self._timeouts,
            in_flight=len(self._flights),
            turned_away=self._turned_away,
            snapshots=len(self._snapshots),
            evictions=self._snapshots.evictions,
            failing=self._backoff.is_failing,
        )

    # --- deciding

    def _decide_without_fresh(
        self,
        snapshot: Snapshot | None,
        subject: str,
        features: tuple[str, ...],
        check: EntitlementCheck,
        now: float,
    ) -> Decision | None:
        if self._is_unreachable(subject, now):
            return self._make_do(snapshot, subject, features, check)
        if snapshot is None or now - snapshot.fresh_from >= check.ttl_seconds * GRACE:
            return None
        if not grants(snapshot, features):
            return None
        if subject not in self._flights and self._flight(subject) is not None:
            self._refreshes += 1
        return self._judge(snapshot, features, check, now)

    def _judge(
        self, snapshot: Snapshot, features: tuple[str, ...], check: EntitlementCheck, now: float
    ) -> Decision:
        """Decide on a snapshot that may serve. The next issue hands the local usage in, here and in
        ``decide``.
        """
        decision = decide(snapshot, features, check, now=now)
        if decision is GRANTED:
            self._snapshots.remember_grant(snapshot, features)
        return self._count(decision)

    def _make_do(
        self, snapshot: Snapshot | None, subject: str, features: tuple[str, ...], check: EntitlementCheck
    ) -> Decision:
        """Decide without asking: on the last answer, or as ``onError`` says."""
        now = self._clock()
        if snapshot is not None and now - snapshot.asked_at < check.max_stale_seconds:
            return self._count(decide(snapshot, features, check, now=now, stale=True))
        wait = self._backoff.wait(subject, now)
        return self._count(decide_without_answer(features, check, retry_after=wait))

    def _count(self, decision: Decision) -> Decision:
        self._decisions[decision.reason] += 1
        return decision

    def _is_unreachable(self, subject: str, now: float) -> bool:
        """Whether it is known that asking, or waiting for who asks, leads to nothing."""
        flight = self._flights.get(subject)
        if flight is not None and not flight.task.done():
            return flight.overdue or self._backoff.doubts(subject)
        return self._backoff.blocks(subject, now)

    # --- asking

    def _flight(self, subject: str) -> _Flight | None:
        """The request for this subject, begun if there is none; None if nothing should be asked now."""
        now = self._clock()
        if self._is_unreachable(subject, now):
            return None
        flight = self._flights.get(subject)
        if flight is not None and not flight.task.done():
            return flight
        if len(self._flights) >= self._most_in_flight:
            self._turned_away += 1
            return None
        flight = _Flight(now)
        # In a context of its own: it is nobody's request, and must not keep what that request has open.
        flight.task = asyncio.get_running_loop().create_task(
            self._fly(subject, flight), context=contextvars.Context()
        )
        # Not at the end of the task's own code, which never runs if the task is cancelled before it starts.
        flight.task.add_done_callback(lambda _: self._end(subject, flight))
        self._flights[subject] = flight
        self._backoff.begin(subject)
        self._asked += 1
        return flight

    async def _landed(self, subject: str, flight: _Flight, deadline: float) -> bool:
        """Wait for a request until the deadline. Returns whether it brought an answer."""
        patience = max(deadline - asyncio.get_running_loop().time(), 0.0)
        await asyncio.wait((flight.task,), timeout=patience)
        if not flight.task.done():
            self._give_up_on(subject, flight)
        return flight.snapshot is not None

    def _give_up_on(self, subject: str, flight: _Flight) -> None:
        self._timeouts += 1
        if flight.overdue:
            return
        flight.overdue = True
        now = self._clock()
        error = OpenMeterOutage("OpenMeter did not answer within timeoutSeconds")
        self._backoff.slow(subject, flight.began, now, error)
        self._complaints.failed(error, now)

    async def _fly(self, subject: str, flight: _Flight) -> None:
        try:
            access = await self._source.access(subject)
        except OpenMeterError as error:
            self._fail(subject, error)
        except Exception as bug:  # noqa: BLE001  # nobody awaits this task's result: here it is heard, or never
            self._failures["bug"] += 1
            self._complaints.broke(bug, self._clock())
            self._backoff.fail(subject, self._clock(), OpenMeterOutage("a bug of ours"))
        else:
            flight.snapshot = Snapshot(flight.began, access)
            if flight.expired:
                flight.snapshot.expire()
            self._snapshots.put(subject, flight.snapshot)
            if self._backoff.succeed(subject, self._clock()):
                self._complaints.recovered()

    def _end(self, subject: str, flight: _Flight) -> None:
        if self._flights.get(subject) is flight:
            del self._flights[subject]
            self._backoff.end(subject)

    def _fail(self, subject: str, error: OpenMeterError) -> None:
        now = self._clock()
        self._failures[kind_of(error)] += 1
        self._backoff.fail(subject, now, error)
        self._complaints.failed(error, now)


def _is_fresh(snapshot: Snapshot, arrived: float, ttl: float) -> bool:
    """Whether an answer was asked for after ``arrived``, or is younger than ``ttl`` then."""
    return snapshot.fresh_from >= arrived or arrived - snapshot.fresh_from < ttl
