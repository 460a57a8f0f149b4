"""The loop that watches entitlements for what a rule is about, and sees to it that it is delivered.

It runs only while there is a rule or something to deliver. What changed is noted by who changes it: subjects that
used something, entitlements that were changed. The ends of usage periods it finds by the server's clock, at which
it looks every ``POLL_SECONDS``, since that clock may be a test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from metergate.embedded.api.problems import NotFound
from metergate.embedded.domain.entitlements import Entitlement, Value
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.notifications import (
    RESET,
    THRESHOLD,
    Mark,
    NotificationEvent,
    Rule,
    Threshold,
    after_attempt,
    first_deliveries,
    reached,
)
from metergate.embedded.domain.usage_periods import last_reset, usage_period_at
from metergate.embedded.notifications.delivery import Deliverer
from metergate.embedded.notifications.payload import payload, subject_key
from metergate.embedded.services import Services

log = logging.getLogger("metergate.embedded")

POLL_SECONDS = 0.05
PAUSE_SECONDS = 1.0
"""After something went wrong."""
MAX_SENDING = 16


class Notifier:
    """``start`` it once the server runs, ``stop`` it before its folder is closed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.catalog.notifications
        self._deliverer = Deliverer(services.clock)
        self._subjects: set[str] = set()
        self._entitlements: set[str] = set()
        self._ends: list[tuple[datetime, str]] = []
        self._end_of: dict[str, datetime] = {}
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._started = False

    def start(self) -> None:
        """Run if there is anything to do, now or from when there is."""
        self._started = True
        self.resume()

    def resume(self) -> None:
        """Run on, as there may be something to do: a new rule, an event to send again."""
        self._wake.set()
        if self._started and self._task is None and not self._store.idle:
            self._watch_all()
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send no more; what was not delivered is tried again at the next start."""
        self._started = False
        tasks = [*self._sending.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None
        await self._deliverer.close()

    def used(self, subjects: Iterable[str]) -> None:
        """These subjects have new events."""
        if self._task is not None:
            self._subjects.update(subjects)
            self._wake.set()

    def changed(self, entitlement: Entitlement) -> None:
        """It is new, or has a new grant, one less, a new usage period."""
        if self._task is not None:
            self._entitlements.add(entitlement.id)
            self._wake.set()

    async def _run(self) -> None:
        while not self._store.idle or self._sending:
            self._wake.clear()
            try:
                await self._look()
                self._deliver()
            except Exception:
                log.exception("notifications stand still for a moment")
                await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        self._task = None

    def _watch_all(self) -> None:
        """Look at every entitlement once: rules are new, or the server was away when a period ended."""
        self._entitlements.update(each.id for each in self._services.catalog.entitlements.all())

    async def _look(self) -> None:
        """Compare what changed with what the rules are about. What could not be looked at is looked at later."""
        now = self._services.clock()
        while self._ends and self._ends[0][0] <= now:
            self._entitlements.add(heapq.heappop(self._ends)[1])
        subjects, self._subjects = self._subjects, set()
        noted, self._entitlements = self._entitlements | self._held_by(subjects, now), set()
        try:
            await self._look_at(self._metered(noted, now), now)
        except BaseException:
            self._entitlements |= noted
            raise

    def _held_by(self, subjects: Iterable[str], now: datetime) -> set[str]:
        catalog, found = self._services.catalog, set()
        for subject in subjects:
            with contextlib.suppress(NotFound):
                customer = catalog.customers.of_subject(subject)
                found |= {each.id for each in catalog.entitlements.of_customer(customer.id, now)}
        return found

    def _metered(self, identifiers: Iterable[str], now: datetime) -> list[Entitlement]:
        entitlements = map(self._services.catalog.entitlements.ever, sorted(identifiers))
        return [each for each in entitlements if each.metering is not None and each.active_at(now)]

    async def _look_at(self, entitlements: list[Entitlement], now: datetime) -> None:
        if not entitlements:
            return
        at = now + timedelta(microseconds=1)  # what was acknowledged in this very second counts
        values = await self._services.catalog.balances.values(entitlements, at)
        rules = [rule for rule in self._store.rules() if rule.active]
        for entitlement, value in zip(entitlements, values, strict=True):
            for rule in rules:
                if rule.about(entitlement.feature_id):
                    await self._apply(rule, entitlement, value, now)
        for entitlement in entitlements:
            period = usage_period_at(entitlement, now)
            if period is not None and self._end_of.get(entitlement.id) != period.end:
                self._end_of[entitlement.id] = period.end
                heapq.heappush(self._ends, (period.end, entitlement.id))

    async def _apply(self, rule: Rule, entitlement: Entitlement, value: Value, now: datetime) -> None:
        period = usage_period_at(entitlement, now)
        if period is None or value.ledger is None:
            return
        if rule.type == THRESHOLD:
            for threshold in reached(rule.thresholds, value.ledger):
                name = f"{rule.id}/{entitlement.id}/{threshold.kind}"
                await self._tell(rule, entitlement, value, Mark(name, period.start, threshold), now)
        elif rule.type == RESET:
            reset = last_reset(entitlement, now)
            if reset is not None and reset.at >= rule.created_at.replace(second=0, microsecond=0):
                name = f"{rule.id}/{entitlement.id}/reset"
                await self._tell(rule, entitlement, value, Mark(name, reset.at), now)

    async def _tell(
        self, rule: Rule, entitlement: Entitlement, value: Value, mark: Mark, now: datetime
    ) -> None:
        """Make an event of it, unless that has been said already."""
        if self._store.mark(mark.id) != mark:
            await self._store.add(self.make_event(rule, entitlement, value, mark.threshold, now), [mark])

    def make_event(
        self, rule: Rule, entitlement: Entitlement, value: Value, threshold: Threshold | None, now: datetime
    ) -> NotificationEvent:
        """The event for the rule's channels."""
        identifier = new_id(now)
        customer = self._services.catalog.customers.find(entitlement.customer_id)
        return NotificationEvent(
            id=identifier,
            type=rule.type,
            created_at=now,
            rule=rule.id,
            payload=payload(self._services, identifier, rule, entitlement, value, threshold, now),
            deliveries=first_deliveries(list(map(self._store.ever_channel, rule.channels)), now),
            feature=(entitlement.feature_id, entitlement.feature_key),
            subject=(subject_key(customer), *sorted(customer.subjects)),
        )

    def _deliver(self) -> None:
        """Begin to send what is due, one at a time to each channel of an event."""
        for event, channel in self._store.due(self._services.clock()):
            if len(self._sending) >= MAX_SENDING:
                return
            if (event.id, channel) not in self._sending:
                task = asyncio.create_task(self._send(event.id, channel))
                self._sending[event.id, channel] = task

    async def _send(self, identifier: str, channel: str) -> None:
        try:
            event = self._store.event(identifier)
            attempt = await self._deliverer.attempt(event, self._store.ever_channel(channel))
            await self._store.change(after_attempt(self._store.event(identifier), channel, attempt))
        except NotFound:
            log.debug("an event was forgotten while it was sent", extra={"event": identifier})
        except Exception:
            log.exception("what became of a notification is not known", extra={"event": identifier})
            await asyncio.sleep(PAUSE_SECONDS)
        finally:
            del self._sending[identifier, channel]
            self._wake.set()
