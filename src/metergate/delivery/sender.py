"""The sender: a thread that turns what is recorded into acknowledged batches. Its decisions are in ``response``."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field
from typing import Protocol

from metergate.delivery.batch import Batch, Limits, split
from metergate.delivery.dead_letters import new_letter
from metergate.delivery.health import Health
from metergate.delivery.response import Action, Standing, after_response, backoff
from metergate.delivery.source import Source
from metergate.delivery.store import Store
from metergate.delivery.wake import Wake
from metergate.openmeter.ingest import IngestAnswer

log = logging.getLogger("metergate.delivery")

TEND_SECONDS = 1.0


class Client(Protocol):
    """What the sender needs of ``IngestClient``."""

    def send(self, body: bytes, timeout: float | None = None) -> IngestAnswer: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Feed:
    """A source and how its next events go out: ``plan`` is the sizes of the parts that a refused batch was split into.

    ``rests_until``: the disk failed on it ``errors`` times in a row.
    """

    source: Source
    plan: deque[int] = field(default_factory=deque)
    refusals: int = 0
    errors: int = 0
    rests_until: float = float("-inf")


@dataclass(slots=True)
class Tally:
    """What the sender counts; see ``DeliveryStatistics``. ``dead_letters`` as of the last look."""

    delivered: int = 0
    buried: int = 0
    batches: int = 0
    retries: int = 0
    splits: int = 0
    dead_letters: int = 0


class Sender:
    """Sends what a store keeps, batch after batch, until it is told to stop.

    One batch is in flight at a time: what is behind the cursor is settled, what is before it is not, and a crash can only
    repeat one batch. Runs in a thread of its own; ``flush`` and ``stop`` may be called from any other.

    Args:
        open_client: called in the thread, so that nothing of the client is older than a fork.
        jitter: a random number from 0 to 1.
        counts: the second and third of these numbers are kept equal to what was delivered and buried.
    """

    def __init__(
        self,
        store: Store,
        open_client: Callable[[], Client],
        *,
        limits: Limits,
        max_delay: float,
        wake: Wake,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        jitter: Callable[[], float],
        health: Health,
        counts: MutableSequence[float],
    ) -> None:
        self.tally = Tally()
        self._counts = counts
        self._store = store
        self._open_client = open_client
        self._limits = limits
        self._max_delay = max_delay
        self._wake = wake
        self._clock = clock
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._health = health
        self._client: Client | None = None
        self._feeds: dict[int, _Feed] = {}
        self._tend_at = self._retry_at = float("-inf")
        self._due_at: float | None = None
        self._visit = True
        self._failures = 0
        self._buried_in_a_row = 0
        self._flush_to = 0
        self._deadline: float | None = None
        self._settled = threading.Condition()

    def run(self) -> None:
        """The thread's life."""
        while not self._is_done():
            try:
                self._turn()
            except OSError as error:
                self._blocked(error)
            except Exception:
                log.exception(
                    "The sender of billing events hit an error of its own; nothing is lost, it goes on."
                )
                self._pause(backoff(self._failures, self._jitter()))
                self._failures += 1
        self._close()

    def flush(self, timeout: float) -> bool:
        """Sends what is recorded by now without waiting for a full batch. True when all of it is settled in time."""
        target = self._store.recorded
        self._flush_to = max(self._flush_to, target)
        self._wake.now()
        with self._settled:
            return self._settled.wait_for(lambda: self._store.own_settled >= target, timeout)

    def stop(self, deadline: float) -> None:
        """Lets the thread end: when all is sent, or at ``deadline`` (of the clock handed in)."""
        self._deadline = deadline
        self._tend_at = float("-inf")
        self._wake.now()

    def _turn(self) -> None:
        now = self._clock()
        if now >= self._tend_at:
            self._tend(now)
        if now < self._retry_at:
            if self._deadline is not None and self._retry_at >= self._deadline:
                self._deadline = now  # there will be no further try in time
            self._sleep(self._retry_at)
        elif not self._send_some(now):
            if self._deadline is not None:
                self._deadline = now  # all is sent
            else:
                self._wait_for_events()

    def _tend(self, now: float) -> None:
        self._tend_at = now + TEND_SECONDS
        self._store.tend()
        if self._deadline is not None:
            self._store.close_segment()
        self.tally.dead_letters = self._store.dead_letters()
        own = self._store.own_source()
        sources = [own] if own is not None else []
        sources += self._store.adopted_sources()
        self._feeds = {id(source): self._feeds.get(id(source)) or _Feed(source) for source in sources}
        self._visit = True
        self._health.note_pending(self._store.recorded, self._store.own_settled, now)
        if self._store.recorded <= self._store.own_settled:
            self._health.unblocked(now)

    def _send_some(self, now: float) -> bool:
        """One batch of every source that is due. False where there was nothing to send.

        A source that the disk fails on holds up no other. An adopted one rests for a while; if it is our own, all pause.
        """
        own = self._store.own_source()
        sent, failure = False, None
        for feed in list(self._feeds.values()):
            due = self._is_due(now) if feed.source is own else now >= feed.rests_until
            if not due or self._clock() < self._retry_at:
                continue
            try:
                sent |= self._send_batch(feed)
                feed.errors = 0
            except OSError as error:
                if feed.source is own:
                    failure = error
                else:
                    self._let_rest(feed, error)
        self._visit = False
        if failure is not None:
            raise failure
        return sent

    def _let_rest(self, feed: _Feed, error: OSError) -> None:
        feed.rests_until = self._clock() + backoff(feed.errors, self._jitter())
        feed.errors += 1
        self._health.blocked(error, self._clock())

    def _is_due(self, now: float) -> bool:
        pending = self._store.recorded - self._store.own_settled
        if self._deadline is not None or self._flush_to > self._store.own_settled:
            return True
        if pending <= 0:
            self._due_at = None
            return self._visit  # to retire a segment that was closed after all of it was settled
        if self._due_at is None:
            self._due_at = now + self._max_delay
        if pending < self._limits.events and now < self._due_at:
            return False
        self._due_at = now + self._max_delay
        return True

    def _wait_for_events(self) -> None:
        recorded, now = self._store.recorded, self._clock()
        if recorded <= self._store.own_settled:
            self._wake.at, until = recorded + 1, self._tend_at
        else:
            # Whatever is recorded could not be sent just now: it is not due, so only more of it matters.
            self._wake.at = max(self._store.own_settled + self._limits.events, recorded + 1)
            if self._due_at is None or self._due_at <= now:
                self._due_at = now + self._max_delay
            until = self._due_at
        if self._store.recorded < self._wake.at:
            self._sleep(until)

    def _sleep(self, until: float) -> None:
        wake_at = (
            min(until, self._tend_at) if self._deadline is None else min(until, self._tend_at, self._deadline)
        )
        self._wake.sleep(wake_at - self._clock())

    def _send_batch(self, feed: _Feed) -> bool:
        limits = Limits(feed.plan[0], self._limits.body_bytes) if feed.plan else self._limits
        batch = feed.source.next_batch(limits)
        if batch is None:
            feed.plan.clear()
            return False
        if not batch.sound:
            self._bury(feed, batch, IngestAnswer(0, "a damaged line, not sent"))
            return True
        answer = self._post(batch)
        standing = Standing(self._failures, feed.refusals, self._buried_in_a_row)
        action = after_response(batch.events, answer, standing, self._jitter())
        self._apply(feed, batch, answer, action)
        return True

    def _post(self, batch: Batch) -> IngestAnswer:
        if self._client is None:
            self._client = self._open_client()
        timeout = None if self._deadline is None else max(0.05, self._deadline - self._clock())
        return self._client.send(batch.body, timeout)

    def _apply(self, feed: _Feed, batch: Batch, answer: IngestAnswer, action: Action) -> None:
        match action.verdict:
            case "delivered":
                self._settle(feed, batch)
                self.tally.delivered += batch.events
                self._counts[1] = self.tally.delivered
                self.tally.batches += 1
                self._buried_in_a_row = 0
            case "split":
                self.tally.splits += 1
                rest = (feed.plan.popleft() if feed.plan else batch.events) - batch.events
                feed.plan.extendleft(reversed([size for size in (*split(batch.events), rest) if size > 0]))
            case "bury":
                self._bury(feed, batch, answer)
                self._buried_in_a_row += 1
            case "retry":
                self.tally.retries += 1
                self._failures += 1
                feed.refusals += answer.status in (400, 422)
        self._pause(action.pause)
        self._health.after_answer(action, answer, self._clock())

    def _bury(self, feed: _Feed, batch: Batch, answer: IngestAnswer) -> None:
        """Into the dead letters first, on disk, and only then past the cursor."""
        letter = new_letter(batch.line, answer.status, answer.detail, feed.source.place, self._wall_clock())
        self._store.bury(letter)
        self.tally.buried += 1
        self._counts[2] = self.tally.buried
        self.tally.dead_letters += 1
        self._health.after_burial(letter, self._clock())
        self._settle(feed, batch)

    def _settle(self, feed: _Feed, batch: Batch) -> None:
        feed.source.settle(batch)
        if feed.plan:
            left = feed.plan.popleft() - batch.events
            if left > 0:
                feed.plan.appendleft(left)
        feed.refusals = self._failures = 0
        self._due_at = None
        self._health.note_pending(self._store.recorded, self._store.own_settled, self._clock())
        with self._settled:
            self._settled.notify_all()

    def _blocked(self, error: OSError) -> None:
        self._pause(backoff(self._failures, self._jitter()))
        self._failures += 1
        self._health.blocked(error, self._clock())

    def _pause(self, seconds: float) -> None:
        self._retry_at = self._clock() + seconds if seconds else float("-inf")

    def _is_done(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
        try:
            self._store.close(TEND_SECONDS)
        except OSError as error:
            self._health.blocked(error, self._clock())
