"""The reads of OpenMeter: who waits to be read, who is being read, and what comes of it.

A *flight* is one read of one subject, from the moment somebody wants it until its answer is kept or it has failed.
There is at most one per subject. It is queued until the budget has a token for it, and belongs to nobody: it goes
on when those who wait for it are cancelled or out of time, and its answer serves the next.

Where the budget lets many wait, those whose snapshot only needs confirming may fly together, and those of whom
nothing is known: one batch query for up to a hundred of them (``confirmation.py``). Whom it neither confirms nor
grants anything is read alone, urgently.

Everything runs on one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from metergate.entitlements.alarm import Alarm
from metergate.entitlements.backoff import Backoff
from metergate.entitlements.batches import Batches
from metergate.entitlements.budget import Budget, ReadQueue, Urgency
from metergate.entitlements.complaints import KINDS, Complaints, kind_of
from metergate.entitlements.confirmation import FAILED_SECONDS, LEAST_SUBJECTS
from metergate.entitlements.counted import Counted
from metergate.entitlements.flight import Flight
from metergate.entitlements.news import News
from metergate.entitlements.snapshot import Snapshot, Snapshots
from metergate.entitlements.source import AccessSource
from metergate.errors import OpenMeterError, OpenMeterOutage, OpenMeterThrottled

_LOOKED_AT = 400
"""Of each class, when companions for a batch query are looked for."""

_MOST_TOGETHER = 8
"""Batch queries under way at once."""

_BATCH = ""
"""In the place of a subject where a batch query was throttled; nobody is called that."""


class Flights:
    """All flights to one OpenMeter. What they bring is put into ``snapshots``."""

    def __init__(
        self,
        source: AccessSource,
        snapshots: Snapshots,
        budget: Budget,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        most_in_flight: int,
        most_queued: int,
    ) -> None:
        """``most_in_flight``: requests under way at once. ``most_queued``: subjects that wait to be read."""
        self.budget = budget
        self._batches = Batches(source, snapshots, clock)
        self.confirmations = self._batches.confirmations
        self.counted: Counted | None = None
        self._news: News | None = None
        self._source = source
        self._snapshots = snapshots
        self._clock = clock
        self._most_in_flight = most_in_flight
        self._queue: ReadQueue[Flight] = ReadQueue(most_queued)
        self._backoff = Backoff(jitter)
        self._complaints = Complaints()
        self._flights: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._together = 0
        self._alarm = Alarm(self._depart)
        self.failures: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.asked = self.timeouts = self.requests = self.batches = self.confirmed = 0
        source.count_requests(self._count_request)

    @property
    def queued(self) -> int:
        """Subjects that wait to be read."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """Reads given up because too many waited."""
        return self._queue.dropped

    @property
    def in_flight(self) -> int:
        """Subjects that are being read now."""
        return len(self._flights) - len(self._queue)

    @property
    def failing(self) -> bool:
        """Whether the latest read failed."""
        return self._backoff.is_failing

    # --- for who decides

    def find(self, subject: str) -> Flight | None:
        """The flight of a subject, queued or under way."""
        return self._flights.get(subject)

    def leads_nowhere(self, subject: str, now: float) -> bool:
        """Whether it is known that asking, or waiting for who asks, leads to nothing."""
        flight = self._flights.get(subject)
        if flight is None or flight.began is None:
            return (flight is not None and flight.overdue) or self._backoff.blocks(subject, now)
        return flight.overdue or self._backoff.doubts(subject)

    def ready(self, now: float) -> bool:
        """Whether a read would start at once."""
        return not len(self._queue) and len(self._tasks) < self._most_in_flight and self._pause(now) <= 0

    def wait(self, subject: str, now: float) -> float:
        """Seconds until this subject may be asked for, as far as is known."""
        return self._backoff.wait(subject, now)

    def seek(
        self, subject: str, urgency: Urgency, now: float, *, alone: bool, blank: bool = False
    ) -> Flight | None:
        """The flight of this subject, begun or queued if there is none; None if nothing should be asked now.

        Args:
            alone: a batch query cannot confirm what is known of it.
            blank: nothing is known that it could confirm. With the local count it may bring a provisional answer.
        """
        if self.leads_nowhere(subject, now):
            return None
        flight = self._flights.get(subject)
        if flight is None:
            flight = self._flights[subject] = Flight(subject, urgency, alone=alone)
            flight.blank = blank
            self._wait_in_line(flight)
            self._depart()
            flight.deferred = flight.began is None or flight.together
        else:
            flight.alone = flight.alone or (alone and flight.began is None)
            self._hasten(flight, urgency)
        return flight

    def hasten(self, flight: Flight) -> None:
        """Its subject is being denied: read it before those who are not, if it still waits."""
        self._hasten(flight, Urgency.LIMIT)

    def count_by(self, counted: Counted) -> None:
        """Let answers have ceilings, and share them with the other processes of the host."""
        self.counted = self._batches.counted = counted
        self._news = News(counted.answers, self._snapshots, counted.local, self._clock)
        self._news.recall()

    def look(self) -> None:
        """Take what other processes were answered, also for who waits here. Costs little where that is nothing."""
        if self._news is None or self.counted is None or not (news := self._news.look()):
            return
        self.counted.learning.begin()  # who is told much reads seldom
        for subject, snapshot in news:
            flight = self._flights.get(subject)
            if flight is None or flight.began is not None or snapshot.is_expired:
                continue
            if not (snapshot.is_provisional and flight.alone):
                self._queue.remove(subject)
                flight.snapshot = snapshot
                self._end(flight)

    def expire(self, subject: str) -> None:
        """Something has changed: what is known is old, so is what is under way, and what waits is urgent."""
        if (snapshot := self._snapshots.entries.get(subject)) is not None:
            snapshot.expire()
            self._share([(subject, snapshot)])
        flight = self._flights.get(subject)
        if flight is None:
            return
        if flight.began is not None:
            flight.expired = True
        else:
            flight.alone = True
            self._hasten(flight, Urgency.LIMIT)

    async def landed(self, flight: Flight, deadline: float) -> bool:
        """Wait for a flight until the deadline, a time of the event loop. Returns whether it brought an answer."""
        loop = asyncio.get_running_loop()
        was_queued = flight.began is None
        if not flight.done:
            if flight.landing is None or flight.landing.get_loop() is not loop:
                flight.landing = loop.create_future()
                self._depart()  # the timer may have been that of a loop that is no more
            await asyncio.wait((flight.landing,), timeout=max(deadline - loop.time(), 0.0))
        if not flight.done:
            self._give_up_on(flight, was_queued)
        return flight.snapshot is not None

    async def brought(self, flight: Flight | None, deadline: float) -> Snapshot | None:
        """What a flight has brought by the deadline; None where it brought nothing, and where there is none."""
        return flight.snapshot if flight is not None and await self.landed(flight, deadline) else None

    async def close(self) -> None:
        """Give up the requests under way and who waits, and close the source."""
        self._alarm.stop()
        while (flight := self._queue.pop()) is not None:
            self._end(flight)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._source.close()

    # --- departing

    def _wait_in_line(self, flight: Flight) -> None:
        dropped = self._queue.push(flight, flight.urgency)
        if dropped is not None:
            self._end(dropped)

    def _hasten(self, flight: Flight, urgency: Urgency) -> None:
        if urgency < flight.urgency:
            self._move(flight, urgency)

    def _move(self, flight: Flight, urgency: Urgency) -> None:
        flight.urgency = urgency
        self._queue.move(flight.subject, urgency)

    def _depart(self) -> None:
        """Start what may start now; the timer, or the end of a request, sees to the others."""
        self.look()
        while len(self._queue) and len(self._tasks) < self._most_in_flight:
            now = self._clock()
            pause = self._pause(now)
            if pause > 0:
                self._alarm.ring_in(pause)
                return
            flight = self._queue.pop()
            if flight is None or self._backoff.blocks(flight.subject, now):
                self._end(flight)
                continue
            self.budget.take(now)
            companions = self._companions(flight, now)
            if companions:
                self._start_together([flight, *companions], now)
            else:
                self._start(flight, now)

    def _pause(self, now: float) -> float:
        """Seconds until a read may start, infinite where that hangs on the end of another."""
        return max(self.budget.wait(now), self._backoff.pause(now))

    def _companions(self, flight: Flight, now: float) -> list[Flight]:
        """Who else a batch query can confirm, or make a provisional snapshot of, where it is worth it."""
        if flight.alone or self._backoff.is_open or not self.confirmations.open(now):
            return []
        if self._together >= _MOST_TOGETHER:
            return []
        most = self._batches.most - 1
        unknown = flight.urgency is Urgency.UNKNOWN
        found = self._fit((Urgency.UNKNOWN,), most) if unknown else []
        if not unknown or len(found) + 1 >= LEAST_SUBJECTS:
            found += self._fit((Urgency.LIMIT, Urgency.STALE), most - len(found))
        if len(found) + 1 < LEAST_SUBJECTS:
            return []
        for companion in found:
            self._queue.remove(companion.subject)
        return found

    def _fit(self, classes: tuple[Urgency, ...], most: int) -> list[Flight]:
        return self._queue.first(lambda other: not other.alone, classes, most, _LOOKED_AT)

    def _start(self, flight: Flight, now: float) -> None:
        flight.began, flight.together = now, False
        self._backoff.begin(flight.subject)
        self.asked += 1
        self._run(self._fly(flight, now), [flight])

    def _start_together(self, flights: list[Flight], now: float) -> None:
        for flight in flights:
            flight.began, flight.together = now, True
        self.batches += 1
        self._together += 1
        self.confirmations.begin()
        self._run(self._fly_together(flights, self.confirmations.features, now), flights)

    def _run(self, request: Coroutine[Any, Any, None], flights: list[Flight]) -> None:
        # In a context of its own: it is nobody's request, and must not keep what that request has open.
        task = asyncio.get_running_loop().create_task(request, context=contextvars.Context())
        self._tasks.add(task)
        # Not at the end of the task's own code, which never runs if the task is cancelled before it starts.
        task.add_done_callback(lambda done: self._arrive(done, flights))

    # --- under way

    async def _fly(self, flight: Flight, began: float) -> None:
        try:
            snapshot = await self._read(flight.subject, began)
        except OpenMeterError as error:
            self._fail(flight.subject, error)
        except Exception as bug:  # noqa: BLE001  # nobody awaits this task's result: here it is heard, or never
            self._backoff.fail(flight.subject, self._clock(), OpenMeterOutage("a bug of ours"))
            self._broke(bug)
        else:
            self._keep(flight, snapshot)
            self._share([(flight.subject, snapshot)])
            if self._backoff.succeed(flight.subject, self._clock()):
                self._complaints.recovered()

    async def _read(self, subject: str, began: float) -> Snapshot:
        if self.counted is None:
            return Snapshot(began, await self._source.access(subject))
        return await self.counted.read(subject, began, self._source.access)

    async def _fly_together(self, flights: list[Flight], features: tuple[str, ...], began: float) -> None:
        """Confirm many. A failure of this query, a 429 apart, says nothing of the other reads, which go on."""
        blank = [flight.subject for flight in flights if flight.blank]
        try:
            found = await self._batches.read([flight.subject for flight in flights], blank, features, began)
        except OpenMeterThrottled as error:
            self._fail(_BATCH, error)
            self.confirmations.close(self._clock())
        except OpenMeterError as error:
            self.failures[kind_of(error)] += 1
            self._complaints.failed(error, self._clock())
            self.confirmations.close(self._clock() + FAILED_SECONDS)
        except Exception as bug:  # noqa: BLE001  # as above
            self._broke(bug)
            self.confirmations.close(self._clock() + FAILED_SECONDS)
        else:
            if found is None:
                return
            for flight in flights:
                flight.alone = flight.subject not in found
                if not flight.alone:
                    self._keep(flight, found[flight.subject])
            self.confirmed += len(found)
            self._share(found.items())

    def _keep(self, flight: Flight, snapshot: Snapshot) -> None:
        if flight.expired:
            snapshot.expire()
        flight.snapshot = snapshot
        self._snapshots.put(flight.subject, snapshot)

    def _share(self, answers: Iterable[tuple[str, Snapshot]]) -> None:
        if self._news is not None:
            self._news.share(answers)

    def _count_request(self) -> None:
        self.requests += 1
        self.budget.spend(self._clock())

    # --- over

    def _arrive(self, task: asyncio.Task[None], flights: list[Flight]) -> None:
        self._tasks.discard(task)
        self._together -= flights[0].together
        for flight in flights:
            if flight.together and flight.snapshot is None and not task.cancelled():
                flight.began, flight.together = None, False
                if flight.alone:
                    flight.urgency = min(flight.urgency, Urgency.LIMIT)
                self._wait_in_line(flight)
            else:
                self._end(flight)
        if not task.cancelled():
            self._depart()

    def _end(self, flight: Flight | None) -> None:
        if flight is None:
            return
        flight.done = True
        if self._flights.get(flight.subject) is flight:
            del self._flights[flight.subject]
            self._backoff.end(flight.subject)
        if flight.landing is not None and not flight.landing.done():
            flight.landing.set_result(None)

    def _give_up_on(self, flight: Flight, was_queued: bool) -> None:
        """Somebody has waited long enough. Where they waited in the queue that is not OpenMeter's doing."""
        self.timeouts += 1
        if flight.overdue:
            return
        flight.overdue = True
        if flight.began is None:
            self._move(flight, Urgency.STALE)
        elif not was_queued:
            now = self._clock()
            error = OpenMeterOutage("OpenMeter did not answer within timeoutSeconds")
            self._backoff.slow(flight.subject, flight.began, now, error)
            self._complaints.failed(error, now)
            self._depart()

    def _fail(self, subject: str, error: OpenMeterError) -> None:
        now = self._clock()
        self.failures[kind_of(error)] += 1
        self._backoff.fail(subject, now, error)
        self._complaints.failed(error, now)

    def _broke(self, bug: Exception) -> None:
        self.failures["bug"] += 1
        self._complaints.broke(bug, self._clock())
