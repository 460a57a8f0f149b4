"""Events that are seen late, for trying things out: OpenMeter acknowledges an event one to three seconds before any
query or entitlement value holds it, and who depends on its answers has to live with that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.moments import Clock
from metergate.embedded.store.database import Database
from metergate.embedded.store.events import EventStore


class LateEventStore(EventStore):
    """Acknowledges events at once and stores them some time later. What waits then is in memory alone: not for use."""

    def __init__(self, database: Database, clock: Clock, seconds: float) -> None:
        super().__init__(database, clock)
        self._seconds = seconds
        self._late: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Event()
        self.used: Callable[[Iterable[str]], None] = lambda subjects: None
        """Told whose events were stored, each time."""

    async def append(self, events: Sequence[Event], received: datetime) -> None:
        """Return at once."""
        task = asyncio.get_running_loop().create_task(self._append_later(events, received))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def flush(self) -> None:
        """Store all that waits."""
        self._at_once.set()
        await asyncio.gather(*self._late)

    async def _append_later(self, events: Sequence[Event], received: datetime) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._at_once.wait(), self._seconds)
        await super().append(events, received)
        self.used(event.subject for event in events)
