"""What entitlements come to: the questions of the domain, asked of the meters and answered, in one read.

A value counts every event that was acknowledged before it was asked for: usage is read from the events, or
from the roll-ups of what was read before and the events since.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal

from metergate.embedded.domain.entitlements import (
    NO_ACCESS,
    Entitlement,
    Question,
    Value,
    ask,
    plain_value,
)
from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.grants import ZERO, Phase
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.windows import WindowSize
from metergate.embedded.store.customers import CustomerStore
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.entitlements import EntitlementStore
from metergate.embedded.store.features import FeatureStore
from metergate.embedded.store.marks import Marks
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.rollups import Rollups
from metergate.embedded.store.usage import measured, query, read_usage

FEW_PHASES = 6
"""Up to so many phases, one query each is quicker than one for all by the minute."""


class Usage:
    """The usage of some subjects on a meter, as far as a feature's filters let it through."""

    def __init__(
        self,
        cursor: Cursor,
        meter: Meter,
        filters: Mapping[str, StringFilter],
        subjects: Collection[str],
        rollups: Rollups | None = None,
        upto: int = -1,
    ) -> None:
        self._cursor = cursor
        self._meter = meter
        self._filters = filters
        self._subjects = tuple(subjects)
        self._rollups = rollups
        self._upto = upto

    @property
    def gauge(self) -> bool:
        """Whether the meter measures a level (LATEST), not a flow."""
        return self._meter.aggregation is Aggregation.LATEST

    def by_window(
        self, start: datetime, end: datetime, size: WindowSize, zone: tzinfo
    ) -> dict[datetime, Decimal]:
        """The usage of each window that has any, by its start; only what is from ``start`` to ``end``."""
        if not self._subjects:
            return {}
        question = MeterQuery(
            start=start,
            end=end,
            window=size,
            zone=zone,
            filters=self._filters,
            subjects=self._subjects,
        )
        return {row.start: measured(row.value) for row in query(self._cursor, self._meter, question)}

    def of(self, phases: Sequence[Phase]) -> list[Decimal]:
        """The usage of each phase; of a LATEST meter the level at its end."""
        last = len(phases) - 1
        if self._meter.aggregation is Aggregation.UNIQUE_COUNT:
            return [
                self._total(phase.period_start, phase.end, fixed=number < last)
                - self._total(phase.period_start, phase.start, fixed=True)
                for number, phase in enumerate(phases)
            ]
        gauge = self.gauge
        spans = [(phase.period_start if gauge else phase.start, phase.end) for phase in phases]
        if len(phases) <= FEW_PHASES:
            return [self._total(*span, fixed=number < last) for number, span in enumerate(spans)]
        return self._by_minute(spans, gauge=gauge)

    def _total(self, start: datetime, end: datetime, *, fixed: bool) -> Decimal:
        if self._rollups is not None:
            rolled = self._rollups.total(
                self._cursor,
                self._meter,
                self._filters,
                self._subjects,
                start,
                end,
                self._upto,
                fixed=fixed,
            )
            if rolled is not None:
                return rolled
        return measured(read_usage(self._cursor, self._meter, self._filters, self._subjects, start, end))

    def _by_minute(self, spans: Sequence[tuple[datetime, datetime]], *, gauge: bool) -> list[Decimal]:
        if not self._subjects:
            return [ZERO] * len(spans)
        question = MeterQuery(
            start=spans[0][0],
            end=spans[-1][1],
            window=WindowSize.MINUTE,
            filters=self._filters,
            subjects=self._subjects,
        )
        rows = query(self._cursor, self._meter, question)
        minutes, values = [row.start for row in rows], [measured(row.value) for row in rows]
        usages = []
        for start, end in spans:
            within = values[bisect_left(minutes, start) : bisect_left(minutes, end)]
            usages.append((within[-1] if within else ZERO) if gauge else sum(within, ZERO))
        return usages


class Balances:
    """Values of entitlements, at any time."""

    def __init__(
        self,
        database: Database,
        meters: MeterStore,
        customers: CustomerStore,
        features: FeatureStore,
        entitlements: EntitlementStore,
        marks: Marks,
    ) -> None:
        self._database = database
        self._meters = meters
        self._customers = customers
        self._features = features
        self._entitlements = entitlements
        self.rollups = Rollups(marks)

    async def value(self, entitlement: Entitlement, time: datetime) -> Value:
        """The value at ``time``. Raises TooManyPhases."""
        return (await self.values([entitlement], time))[0]

    async def values(self, entitlements: Sequence[Entitlement], time: datetime) -> list[Value]:
        """The value of each at ``time``, the meters asked in one read. Raises TooManyPhases."""
        if any(entitlement.metering for entitlement in entitlements):
            upto = self.rollups.marks.committed  # before the reading begins, which therefore sees all of it
            return await self._database.reading(
                lambda cursor: [self._value(cursor, entitlement, time, upto) for entitlement in entitlements]
            )
        return [_unmetered(entitlement, time) for entitlement in entitlements]

    def _value(self, cursor: Cursor, entitlement: Entitlement, time: datetime, upto: int) -> Value:
        if entitlement.metering is None or not entitlement.active_at(time):
            return _unmetered(entitlement, time)
        usage = self.usage_of(cursor, entitlement, upto)
        gauge = usage is not None and usage.gauge
        question: Question = ask(entitlement, self._entitlements.grants(entitlement.id), time, gauge=gauge)
        if usage is None:
            return question.answer([ZERO] * len(question.phases))
        return question.answer(usage.of(question.phases))

    def usage_of(self, cursor: Cursor, entitlement: Entitlement, upto: int) -> Usage | None:
        """Where to ask for the entitlement's usage; None when its meter is gone."""
        feature = self._features.find(entitlement.feature_id)
        meter = self._meters.by_slug(feature.meter_slug or "")
        if meter is None:
            return None
        subjects = self._customers.find(entitlement.customer_id).subjects
        return Usage(cursor, meter, feature.conditions, subjects, self.rollups, upto)


def _unmetered(entitlement: Entitlement, time: datetime) -> Value:
    return plain_value(entitlement) if entitlement.active_at(time) else NO_ACCESS
