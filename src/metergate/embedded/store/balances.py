"""What entitlements come to: the questions of the domain, asked of the meters and answered.

A value counts every event that was acknowledged before it was asked for: usage comes from roll-ups, which are in
memory, or where they do not know it from a scan of the events.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal
from itertools import islice
from typing import Any

from metergate.embedded.api.problems import NotFound
from metergate.embedded.domain.entitlements import (
    NO_ACCESS,
    Entitlement,
    Question,
    Value,
    ask,
    counts_since,
    plain_value,
)
from metergate.embedded.domain.grants import ZERO, Ledger, Phase, TooManyPhases
from metergate.embedded.domain.meters import Aggregation
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.sparse import SparseQuestion, ask_sparsely
from metergate.embedded.domain.windows import WindowSize
from metergate.embedded.store.customers import CustomerStore
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.entitlements import EntitlementStore
from metergate.embedded.store.features import FeatureStore
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.rollups import Measure, Rollups, Span
from metergate.embedded.store.sums import Units, quotient
from metergate.embedded.store.usage import Moment, figures, moments

FEW_PHASES = 6
"""Up to so many phases, one query each is quicker than one for all by the minute."""
_ADDITIVE = (Aggregation.SUM, Aggregation.COUNT, Aggregation.LATEST)
"""Whose usage of a phase can be told from that of its minutes."""
AT_ONCE = 5_000
"""The usage of so many entitlements is read with one scan for each meter and start."""


@dataclass(frozen=True, slots=True)
class Need:
    """The events of this type and subject are needed from ``since`` on."""

    type: str
    subject: str
    since: datetime


class Usage:
    """What is measured of one entitlement, phase by phase or by window."""

    def __init__(self, measure: Measure, rollups: Rollups) -> None:
        self._measure = measure
        self._rollups = rollups

    @property
    def gauge(self) -> bool:
        """Whether the meter measures a level (LATEST), not a flow."""
        return self._measure.meter.aggregation is Aggregation.LATEST

    @property
    def event_type(self) -> str:
        """The events that are measured."""
        return self._measure.meter.event_type

    @property
    def subjects(self) -> Sequence[str]:
        """Whose usage it is."""
        return self._measure.subjects

    def asked(self, phases: Sequence[Phase]) -> tuple[Measure, Sequence[Span]] | None:
        """What is remembered of these phases; None where nothing is."""
        return (self._measure, self._spans(phases)) if len(phases) <= FEW_PHASES else None

    def known(self, phases: Sequence[Phase]) -> list[Decimal] | None:
        """The usage of each phase; of a LATEST meter the level at its end. None where it has to be read."""
        if len(phases) > FEW_PHASES:
            return None
        totals = self._rollups.totals(self._measure, self._spans(phases))
        return None if totals is None else self._by_phase(totals)

    def read(self, cursor: Cursor, phases: Sequence[Phase]) -> list[Decimal]:
        """The same, remembered for the next time; ``known`` must have been asked before the reading began."""
        if len(phases) <= FEW_PHASES:
            self._rollups.build(cursor, self._measure, self._spans(phases))
            if (known := self.known(phases)) is not None:
                return known
        return self.scan(cursor, phases)

    def scan(self, cursor: Cursor, phases: Sequence[Phase]) -> list[Decimal]:
        """The same, out of the events alone."""
        spans = self._spans(phases)
        if len(phases) > FEW_PHASES and self._measure.meter.aggregation in _ADDITIVE:
            return self._scan_by_minute(cursor, spans)
        return self._by_phase([self._scan(cursor, span) for span in spans])

    def by_window(
        self, cursor: Cursor, start: datetime, end: datetime, size: WindowSize, zone: tzinfo
    ) -> dict[datetime, Decimal]:
        """The usage of each window that has any, by its start; only what is from ``start`` to ``end``."""
        if not self._measure.subjects:
            return {}
        question = replace(self._question(start, end), window=size, zone=zone)
        rows = figures(cursor, self._measure.meter, question)
        return {start: quotient(value) for start, value in rows}

    def moments(
        self, cursor: Cursor, start: datetime, end: datetime, unit: Moment
    ) -> list[tuple[datetime, Any]]:
        """The minutes or seconds with usage, in order, and what it is: see ``of_moments``."""
        if not self._measure.subjects:
            return []
        return moments(cursor, self._measure.meter, self._question(start, end), unit)

    def of_moments(self) -> Callable[[datetime, Sequence[Any]], Decimal]:
        """What the moments of a phase come to, given when its usage period began; asked in order of the phases."""
        if self._measure.meter.aggregation is Aggregation.UNIQUE_COUNT:
            return _FirstValues().add
        return lambda _, amounts: quotient(sum(amounts))

    def _spans(self, phases: Sequence[Phase]) -> list[Span]:
        """What to ask for: of UNIQUE_COUNT two for each phase, up to its start and up to its end."""
        unique = self._measure.meter.aggregation is Aggregation.UNIQUE_COUNT
        spans = []
        for number, phase in enumerate(phases, 1):
            if unique:
                spans.append(Span(phase.period_start, phase.start, closed=True))
            start = phase.period_start if unique or self.gauge else phase.start
            spans.append(Span(start, phase.end, closed=number < len(phases)))
        return spans

    def _by_phase(self, totals: Sequence[Decimal]) -> list[Decimal]:
        if self._measure.meter.aggregation is not Aggregation.UNIQUE_COUNT:
            return list(totals)
        return [until - before for before, until in zip(totals[::2], totals[1::2], strict=True)]

    def _question(self, start: datetime, end: datetime) -> MeterQuery:
        return MeterQuery(
            start=start, end=end, filters=self._measure.filters, subjects=self._measure.subjects
        )

    def _scan(self, cursor: Cursor, span: Span) -> Decimal:
        if not self._measure.subjects or span.start >= span.end:
            return ZERO
        rows = figures(cursor, self._measure.meter, self._question(span.start, span.end))
        return quotient(rows[0][1]) if rows else ZERO

    def _scan_by_minute(self, cursor: Cursor, spans: Sequence[Span]) -> list[Decimal]:
        minutes, values = self._minutes(cursor, spans[0].start, spans[-1].end)
        usages = []
        for span in spans:
            within = values[bisect_left(minutes, span.start) : bisect_left(minutes, span.end)]
            usages.append(quotient(within[-1] if self.gauge and within else sum(within)))
        return usages

    def _minutes(self, cursor: Cursor, start: datetime, end: datetime) -> tuple[list[datetime], list[Units]]:
        """The minutes with usage, in order, and the exact usage of each."""
        if not self._measure.subjects:
            return [], []
        question = replace(self._question(start, end), window=WindowSize.MINUTE)
        rows = figures(cursor, self._measure.meter, question)
        return [minute for minute, _ in rows], [value for _, value in rows]


class _FirstValues:
    """The values that are there for the first time in their usage period."""

    def __init__(self) -> None:
        self._period_start: datetime | None = None
        self._seen: set[str] = set()

    def add(self, period_start: datetime, values: Sequence[Sequence[str]]) -> Decimal:
        """How many of these are."""
        if period_start != self._period_start:
            self._period_start, self._seen = period_start, set()
        before = len(self._seen)
        self._seen.update(*values)
        return Decimal(len(self._seen) - before)


class Balances:
    """Values of entitlements, at any time."""

    def __init__(
        self,
        database: Database,
        meters: MeterStore,
        customers: CustomerStore,
        features: FeatureStore,
        entitlements: EntitlementStore,
        rollups: Rollups,
    ) -> None:
        self._database = database
        self._meters = meters
        self._customers = customers
        self._features = features
        self._entitlements = entitlements
        self.rollups = rollups

    async def value(self, entitlement: Entitlement, time: datetime) -> Value:
        """The value at ``time``. Raises TooManyPhases."""
        return (await self.values([entitlement], time))[0]

    async def values(self, entitlements: Sequence[Entitlement], time: datetime) -> list[Value]:
        """The value of each at ``time``, the meters asked in at most one read. Raises TooManyPhases."""
        known = [self._value(None, entitlement, time) for entitlement in entitlements]
        values = [value for value in known if value is not None]
        if len(values) == len(known):
            return values
        read = await self._database.reading(
            lambda cursor: [self._value(cursor, entitlement, time) for entitlement in entitlements]
        )
        return [value for value in read if value is not None]

    async def prepare(self, time: datetime) -> None:
        """Have the usage of all entitlements at ``time`` ready, with a scan for many instead of one for each.

        Raises Unavailable.
        """
        entitlements = iter(self._entitlements.all())
        while chunk := list(islice(entitlements, AT_ONCE)):
            asked = []
            for number, entitlement in enumerate(chunk, 1):
                if (each := self._asked(entitlement, time)) is not None:
                    asked.append(each)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            for rollups in self.rollups.prepare(asked):
                await self._database.reading(
                    lambda cursor, rollups=rollups: self.rollups.build_all(cursor, rollups)  # type: ignore[misc]
                )

    async def needs(self, now: datetime, before: datetime) -> list[Need]:
        """The events before a time that living entitlements count still, one entry for each type and subject."""
        since: dict[tuple[str, str], datetime] = {}
        for number, entitlement in enumerate(self._entitlements.all(), 1):
            for need in self._needs_of(entitlement, now):
                if need.since < before:
                    key = need.type, need.subject
                    since[key] = min(need.since, since.get(key, need.since))
            if number % 100 == 0:
                await asyncio.sleep(0)
        return [Need(*key, moment) for key, moment in since.items()]

    def _needs_of(self, entitlement: Entitlement, now: datetime) -> Iterator[Need]:
        with contextlib.suppress(NotFound):
            if entitlement.metering is not None and (usage := self.usage_of(entitlement)) is not None:
                grants = self._entitlements.grants(entitlement.id)
                since = counts_since(entitlement, grants, now, gauge=usage.gauge)
                if since is not None:
                    yield from (Need(usage.event_type, subject, since) for subject in usage.subjects)

    def _asked(self, entitlement: Entitlement, time: datetime) -> tuple[Measure, Sequence[Span]] | None:
        """What a value asks for, where that is remembered."""
        if entitlement.metering is None or not entitlement.active_at(time):
            return None
        with contextlib.suppress(NotFound, TooManyPhases):
            if (usage := self.usage_of(entitlement)) is not None:
                grants = self._entitlements.grants(entitlement.id)
                if usage.gauge or ask_sparsely(entitlement, grants, time) is None:
                    return usage.asked(ask(entitlement, grants, time, gauge=usage.gauge).phases)
        return None

    def usage_of(self, entitlement: Entitlement) -> Usage | None:
        """Where to ask for the entitlement's usage; None when its meter is gone."""
        feature = self._features.find(entitlement.feature_id)
        meter = self._meters.by_slug(feature.meter_slug or "")
        if meter is None:
            return None
        subjects = self._customers.find(entitlement.customer_id).subjects
        return Usage(Measure(meter, feature.conditions, tuple(subjects)), self.rollups)

    def _value(self, cursor: Cursor | None, entitlement: Entitlement, time: datetime) -> Value | None:
        """None where it has to be read and there is no cursor."""
        if entitlement.metering is None or not entitlement.active_at(time):
            return _unmetered(entitlement, time)
        usage, grants = self.usage_of(entitlement), self._entitlements.grants(entitlement.id)
        gauge = usage is not None and usage.gauge
        if not gauge and (sparse := ask_sparsely(entitlement, grants, time)) is not None:
            if cursor is None and usage is not None:
                return None
            return sparse.answer(*self._sparse_usage(cursor, usage, sparse))
        question: Question = ask(entitlement, grants, time, gauge=gauge)
        if usage is None:
            return question.answer([ZERO] * len(question.phases))
        usages = usage.known(question.phases) if cursor is None else usage.read(cursor, question.phases)
        return None if usages is None else question.answer(usages)

    def ledger_before(self, cursor: Cursor, entitlement: Entitlement, time: datetime) -> Ledger | None:
        """The ledger at a full minute, where so many phases lie before it that they are not to be run one by one."""
        usage, grants = self.usage_of(entitlement), self._entitlements.grants(entitlement.id)
        if usage is not None and usage.gauge:
            return None
        sparse = ask_sparsely(entitlement, grants, time)
        return None if sparse is None else sparse.run(*self._sparse_usage(cursor, usage, sparse))

    def _sparse_usage(
        self, cursor: Cursor | None, usage: Usage | None, question: SparseQuestion
    ) -> tuple[list[tuple[datetime, Any]], Callable[[datetime, Sequence[Any]], Decimal]]:
        """The moments with usage, and what those of a phase come to."""
        if cursor is None or usage is None:
            return [], lambda _, __: ZERO
        unit: Moment = "minute" if question.whole_minutes else "second"
        return usage.moments(cursor, question.ledger.at, question.until, unit), usage.of_moments()


def _unmetered(entitlement: Entitlement, time: datetime) -> Value:
    return plain_value(entitlement) if entitlement.active_at(time) else NO_ACCESS
