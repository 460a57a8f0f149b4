"""Producers of usage that remember what was acknowledged: what OpenMeter must hold, may hold and must not hold.

The client's side of the promise that an acknowledged event is kept and counts once: put producers on an OpenMeter, let
bad things happen to it, and compare `Shipments` with what it lists, measures and grants.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from metergate.testing.load import encode_request
from metergate.testing.responses import BadResponse, ResponseReader

Key: TypeAlias = tuple[str, str]
"""Source and id: what OpenMeter tells events apart by."""
SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
EITHER = "application/json"
_SIZES = (1, 1, 1, 2, 5, 20, 80, 300)
_SOURCES = ("/producers/a", "/producers/b")
_REPEATED = 0.3
"""So many of the requests have events in them that were sent before."""
_KEPT = 2000
_RECONNECT_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """One event as it was sent first. ``time`` is in whole seconds since 1970; None lets OpenMeter choose."""

    source: str
    id: str
    type: str
    subject: str
    units: int
    time: int | None

    @property
    def key(self) -> Key:
        return self.source, self.id

    def cloud_event(self) -> dict[str, Any]:
        """As it travels; ``data.key`` is another for every event."""
        event = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "data": {"units": self.units, "key": f"{self.source}#{self.id}"},
        }
        if self.time is not None:
            event["time"] = f"{datetime.fromtimestamp(self.time, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return event


@dataclass(slots=True)
class Shipments:
    """All that was sent, and of it what was acknowledged; the sums of ``units`` of both by type and subject."""

    sent: dict[Key, Usage] = field(default_factory=dict)
    acknowledged: set[Key] = field(default_factory=set)
    sent_units: Counter[tuple[str, str]] = field(default_factory=Counter)
    acknowledged_units: Counter[tuple[str, str]] = field(default_factory=Counter)
    requests: int = 0
    repeats: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def send(self, usages: Sequence[Usage]) -> None:
        """Note that they are on their way; those sent before count as they were then."""
        self.requests += 1
        for usage in usages:
            if usage.key in self.sent:
                self.repeats += 1
            else:
                self.sent[usage.key] = usage
                self.sent_units[usage.type, usage.subject] += usage.units

    def acknowledge(self, usages: Sequence[Usage]) -> None:
        """Note that OpenMeter has them."""
        for key in {usage.key for usage in usages} - self.acknowledged:
            self.acknowledged.add(key)
            first = self.sent[key]
            self.acknowledged_units[first.type, first.subject] += first.units


class Producers:
    """``concurrency`` clients that send events to ``url``, each over one connection, one request at a time.

    Single events, small and large batches, through both versions of the API; some of them repeat what they or others
    sent before, acknowledged or not, and some claim other units for an event that was acknowledged.

    Args:
        types: of the events; subjects: whose usage it is; both are drawn evenly.
        past: seconds that an event may lie back.
        pause: seconds a client waits after an answer, at most (drawn evenly).
        patience: seconds until an answer is given up, in doubt.
        seed: makes the drawing repeatable.
    """

    def __init__(
        self,
        url: str,
        *,
        types: Sequence[str],
        subjects: Sequence[str],
        past: int = 3600,
        concurrency: int = 8,
        pause: float = 0.05,
        patience: float = 20.0,
        seed: int | None = None,
    ) -> None:
        self.shipments = Shipments()
        parts = urlsplit(url)
        self._url = url
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._types = types
        self._subjects = subjects
        self._past = past
        self._concurrency = concurrency
        self._pause = pause
        self._patience = patience
        self._random = random.Random(seed)  # noqa: S311  # chance, not secrecy
        self._made = 0
        self._recent: list[Usage] = []

    async def run(self, until: asyncio.Event) -> Shipments:
        """Send until ``until`` is set; what is under way then is waited for."""
        await asyncio.gather(*(self._send_on(until) for _ in range(self._concurrency)))
        return self.shipments

    async def _send_on(self, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                reader, writer = await asyncio.open_connection(*self._address)
            except OSError:
                self.shipments.failures["refused"] += 1
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            try:
                await self._use(reader, writer, until)
            finally:
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _use(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: asyncio.Event
    ) -> None:
        """Send over one connection until it fails."""
        responses = ResponseReader()
        while not until.is_set():
            usages = self._draw()
            self.shipments.send(usages)
            try:
                writer.write(self._encode(usages))
                async with asyncio.timeout(self._patience):
                    status = await _status(reader, responses)
            except (OSError, BadResponse, TimeoutError) as failure:
                self.shipments.failures[type(failure).__name__] += 1
                return
            if status is None:
                self.shipments.failures["cut"] += 1
                return
            self.shipments.statuses[status] += 1
            if status in (202, 204):
                self.shipments.acknowledge(usages)
            await asyncio.sleep(self._random.uniform(0, self._pause))

    def _draw(self) -> list[Usage]:
        usages = [self._new() for _ in range(self._random.choice(_SIZES))]
        if self._recent and self._random.random() < _REPEATED:
            usages += [self._again() for _ in range(self._random.choice(_SIZES[:-1]))]
            self._random.shuffle(usages)
        if len(usages) > 2:
            usages += usages[:2]  # twice in one batch
        self._recent = [*self._recent, *usages][-_KEPT:]
        return usages

    def _new(self) -> Usage:
        self._made += 1
        at = int(time.time()) - self._random.randrange(self._past)
        return Usage(
            source=self._random.choice(_SOURCES),
            id=f"event-{self._made}",
            type=self._random.choice(self._types),
            subject=self._random.choice(self._subjects),
            units=self._random.randrange(1, 10),
            time=at if self._random.random() < 0.6 else None,
        )

    def _again(self) -> Usage:
        """One sent lately; where it was acknowledged, OpenMeter has to pass over what is claimed now."""
        usage = self._random.choice(self._recent)
        if usage.key in self.shipments.acknowledged:
            return replace(usage, units=usage.units + 100)
        return usage

    def _encode(self, usages: Sequence[Usage]) -> bytes:
        events = [usage.cloud_event() for usage in usages]
        alone = len(events) == 1 and self._random.random() < 0.7
        kind = EITHER if self._random.random() < 0.2 else SINGLE if alone else BATCH
        path = "/api/v3/openmeter/events" if self._random.random() < 0.2 else "/api/v1/events"
        body = msgspec.json.encode(events[0] if alone else events)
        return encode_request(f"{self._url}{path}", "POST", {"Content-Type": kind}, body)


async def _status(reader: asyncio.StreamReader, responses: ResponseReader) -> int | None:
    """Of the next answer, when its last byte is here; None when the connection ended before."""
    while data := await reader.read(65_536):
        if answers := responses.feed(data):
            return answers[0].status
    answer = responses.at_end()
    return None if answer is None else answer.status
