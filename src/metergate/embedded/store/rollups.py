"""What subjects used since some moment, kept in memory: a value then asks the database only for what is new.

Each question (a meter, a feature's filters, a customer's subjects, a start) gets a roll-up when it is first
asked. It holds all events up to a number (``seq``); events are never changed, so the next time only those with
higher numbers are read, by the same expressions of SQL. Where ``Marks`` knows of none, nothing is read.

Questions usually end at the present minute, so what lies before the end of the last one is one figure, and
only what lies behind it (events of the future) is kept by the minute. A question that ends earlier than the
one before it is read in full again, and so is one that was not asked for so long that ``MAX_ENTRIES`` entries
of others came in between.

Times are full minutes since 1970.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.grants import ZERO
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.moments import EPOCH
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.windows import MINUTE
from metergate.embedded.store.database import Cursor
from metergate.embedded.store.marks import Marks
from metergate.embedded.store.statements import Statement, number_value, text_value
from metergate.embedded.store.usage import measured, where_clause

MAX_ENTRIES = 500_000
"""Of all roll-ups together; one has an entry, and one more for each value of a UNIQUE_COUNT and for each minute
of the future. About 100 MB.
"""
Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RollupStatistics:
    """Counts since the start. ``evicted`` is what the bound on entries cost: as many had to be built again."""

    rollups: int
    entries: int
    max_entries: int
    built: int
    continued: int
    unchanged: int
    evicted: int


class Form(Protocol):
    """What is kept of events depends on how their meter aggregates."""

    def columns(self, sql: Statement, meter: Meter, minute: str) -> str:
        """The columns to read, grouped by the first; ``minute`` is that of an event, at least the last settled."""
        ...

    def merge(self, rows: Sequence[Row], end: int) -> None:
        """Take in what these columns gave; all of it was stored later than what is here."""
        ...

    def settle(self, end: int) -> None:
        """Make one figure of all before ``end``, which is never lower than before."""
        ...

    def value(self) -> Decimal:
        """That figure."""
        ...

    def __len__(self) -> int: ...


class Flow:
    """COUNT and SUM."""

    def __init__(self) -> None:
        self._settled = ZERO
        self._later: dict[int, Decimal] = {}

    def columns(self, sql: Statement, meter: Meter, minute: str) -> str:
        counted = meter.value_property is None
        return f"{minute}, {'count(*)' if counted else f'sum({number_value(sql, meter.value_property or str())})'}"

    def merge(self, rows: Sequence[Row], end: int) -> None:
        for minute, value in rows:
            if value is not None and math.isfinite(value):
                self._later[minute] = self._later.get(minute, ZERO) + measured(float(value))
        self.settle(end)

    def settle(self, end: int) -> None:
        for minute in [minute for minute in self._later if minute < end]:
            self._settled += self._later.pop(minute)

    def value(self) -> Decimal:
        return self._settled

    def __len__(self) -> int:
        return 1 + len(self._later)


class Level:
    """LATEST: the last value and its time, and for each later minute the same."""

    def __init__(self) -> None:
        self._settled: tuple[datetime, Decimal] | None = None
        self._later: dict[int, tuple[datetime, Decimal]] = {}

    def columns(self, sql: Statement, meter: Meter, minute: str) -> str:
        value = number_value(sql, meter.value_property or "")
        return f"{minute}, arg_max({value}, (time, seq)), max(time) FILTER (WHERE {value} IS NOT NULL)"

    def merge(self, rows: Sequence[Row], end: int) -> None:
        for minute, value, time in rows:
            if value is not None:
                known = self._settled if minute < end else self._later.get(minute)
                if known is None or time >= known[0]:  # of several in one second the one stored last
                    self._put(minute, end, (time, measured(value)))

    def _put(self, minute: int, end: int, level: tuple[datetime, Decimal]) -> None:
        if minute < end:
            self._settled = level
        else:
            self._later[minute] = level

    def settle(self, end: int) -> None:
        for minute in sorted(minute for minute in self._later if minute < end):
            self._settled = self._later.pop(minute)

    def value(self) -> Decimal:
        return ZERO if self._settled is None else self._settled[1]

    def __len__(self) -> int:
        return 1 + len(self._later)


class Firsts:
    """UNIQUE_COUNT: the values that were there, and when each other value comes first."""

    def __init__(self) -> None:
        self._settled: set[str] = set()
        self._later: dict[str, int] = {}

    def columns(self, sql: Statement, meter: Meter, minute: str) -> str:
        return f"nullif({text_value(sql, meter.value_property or '')}, 'null'), min({minute})"

    def merge(self, rows: Sequence[Row], end: int) -> None:
        for value, minute in rows:
            if value is not None and value not in self._settled:
                self._later[value] = min(minute, self._later.get(value, minute))
        self.settle(end)

    def settle(self, end: int) -> None:
        for value in [value for value, minute in self._later.items() if minute < end]:
            self._settled.add(value)
            del self._later[value]

    def value(self) -> Decimal:
        return Decimal(len(self._settled))

    def __len__(self) -> int:
        return 1 + len(self._settled) + len(self._later)


_FORMS: Mapping[Aggregation, type[Flow | Level | Firsts]] = {
    Aggregation.COUNT: Flow,
    Aggregation.SUM: Flow,
    Aggregation.LATEST: Level,
    Aggregation.UNIQUE_COUNT: Firsts,
}


class _Rollup:
    """The events with numbers up to ``upto``, settled before ``end``. ``kept``: it counts against the bound."""

    __slots__ = ("end", "entries", "form", "kept", "lock", "make", "upto")

    def __init__(self, make: type[Flow | Level | Firsts]) -> None:
        self.make = make
        self.entries = 0
        self.kept = True
        self.lock = threading.Lock()
        self.begin(0)

    def begin(self, end: int) -> None:
        self.form: Form = self.make()
        self.end = end
        self.upto = -1


class Rollups:
    """Used by the reading threads."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self._rollups: OrderedDict[Any, _Rollup] = OrderedDict()
        self._lock = threading.Lock()
        self._entries = self._built = self._continued = self._unchanged = self._evicted = 0

    def total(
        self,
        cursor: Cursor,
        meter: Meter,
        filters: Mapping[str, StringFilter],
        subjects: Collection[str],
        start: datetime,
        end: datetime,
        upto: int,
        *,
        fixed: bool = False,
    ) -> Decimal | None:
        """What ``usage.read_usage`` gives over all events with numbers up to ``upto`` and some later ones.

        With ``fixed`` the same question will be asked with the same end, else with one that moves on.
        ``upto`` was ``marks.committed`` before the cursor's transaction began. None where times are no full
        minutes or the meter's aggregation has no roll-up.
        """
        form = _FORMS.get(meter.aggregation)
        if form is None or (start - EPOCH) % MINUTE or (end - EPOCH) % MINUTE:
            return None
        if not subjects or start >= end:
            return ZERO
        conditions = tuple((name, meter.group_by[name], filters[name]) for name in sorted(filters))
        rollup = self._find((meter.id, conditions, frozenset(subjects), start, end if fixed else None), form)
        until = (end - EPOCH) // MINUTE
        with rollup.lock:
            if rollup.upto < 0 or until < rollup.end:
                rollup.begin(until)
            self._continue(
                cursor,
                rollup,
                meter,
                MeterQuery(start=start, filters=filters, subjects=tuple(subjects)),
                upto,
            )
            if until > rollup.end:
                rollup.form.settle(until)
                rollup.end = until
            return rollup.form.value()

    def statistics(self) -> RollupStatistics:
        """A look at the counters, without a lock."""
        return RollupStatistics(
            len(self._rollups),
            self._entries,
            MAX_ENTRIES,
            self._built,
            self._continued,
            self._unchanged,
            self._evicted,
        )

    def _find(self, key: Any, form: type[Flow | Level | Firsts]) -> _Rollup:
        with self._lock:
            rollup = self._rollups.get(key)
            if rollup is None:
                rollup = self._rollups[key] = _Rollup(form)
            self._rollups.move_to_end(key)
            return rollup

    def _continue(
        self, cursor: Cursor, rollup: _Rollup, meter: Meter, question: MeterQuery, upto: int
    ) -> None:
        """Read what is new up to ``upto``. The roll-up's lock is held."""
        built = rollup.upto >= 0
        if upto <= rollup.upto or (
            built and self.marks.last(meter.event_type, question.subjects) <= rollup.upto
        ):
            self._unchanged += 1
            rollup.upto = max(rollup.upto, upto)
            return
        sql = Statement()
        columns = rollup.form.columns(sql, meter, f"greatest(epoch_us(time) // 60000000, {rollup.end - 1})")
        numbers = f"seq > {sql.add(rollup.upto)} AND seq <= {sql.add(upto)}"
        where = f"{numbers} AND {where_clause(sql, meter, question)}"
        rows = cursor.execute(f"SELECT {columns} FROM events WHERE {where} GROUP BY 1", sql.parameters)  # noqa: S608
        rollup.form.merge(rows.fetchall(), rollup.end)
        rollup.upto = upto
        self._built += not built
        self._continued += built
        self._keep_bound(rollup)

    def _keep_bound(self, grown: _Rollup) -> None:
        with self._lock:
            if grown.kept:
                self._entries += len(grown.form) - grown.entries
                grown.entries = len(grown.form)
            while self._entries > MAX_ENTRIES:
                _, oldest = self._rollups.popitem(last=False)
                self._forget(oldest)
                self._evicted += 1

    def _forget(self, rollup: _Rollup) -> None:
        rollup.kept = False
        self._entries -= rollup.entries
