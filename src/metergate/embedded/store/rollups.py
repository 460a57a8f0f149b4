"""What subjects used since some moment, kept in memory and carried on by every event that is stored: a value that
is asked for again needs no query.

Each question (a meter, a feature's filters, a customer's subjects, a start) gets a roll-up when it is first asked.
It begins with one scan of the events that were stored by then; those stored since are added by the writer thread
once they are on disk and before anybody is told so. So a value counts every event that was acknowledged before it
was asked for, late events and events of the future at their own time.

Questions usually end at the present minute, so all but the last minutes are one figure (see ``forms``). A question
that ends earlier than those, or within a minute, is left to a scan. Roll-ups that nobody asked for in an hour are
dropped, and the oldest where all of them together have more than ``MAX_ENTRIES`` entries.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.grants import ZERO
from metergate.embedded.domain.meters import Meter
from metergate.embedded.domain.moments import EPOCH, SECOND, Clock, to_database, truncate
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.reading import is_exact, passes
from metergate.embedded.domain.windows import MINUTE
from metergate.embedded.store.database import Cursor
from metergate.embedded.store.forms import FORMS, Form
from metergate.embedded.store.statements import Statement, where_clause

MAX_ENTRIES = 500_000
"""Of all roll-ups together; one has an entry, and one more for each value of a UNIQUE_COUNT and for each of its last
minutes with usage. About 100 MB.
"""
KEPT = 5
"""So many minutes before the present one are kept one by one, for questions that were asked a little earlier."""
IDLE = timedelta(hours=1)
MAX_WAITING = 20_000
"""Events that one roll-up puts aside while it is built; with more it is dropped, and built when it is asked for again."""

Stored: TypeAlias = tuple[int, str, str, datetime, str | None]
"""Of a stored event: its number, type, subject, time (naive, UTC), data."""
_EPOCH = to_database(EPOCH)
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class RollupStatistics:
    """Counts since the start. ``evicted`` is what the bound on entries cost: as many had to be built again."""

    rollups: int
    entries: int
    max_entries: int
    built: int
    answered: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured: the usage of some subjects on a meter, as far as a feature's filters let it through."""

    meter: Meter
    filters: Mapping[str, StringFilter]
    subjects: tuple[str, ...]

    @property
    def can_be_rolled_up(self) -> bool:
        """Whether an event can be added without asking the database."""
        return all(is_exact(condition) for condition in self.filters.values())


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, ``end`` exclusive. ``closed``: it will be asked for with this end again, not a later one."""

    start: datetime
    end: datetime
    closed: bool = False


@dataclass(slots=True, eq=False)
class _Rollup:
    """``upto`` is the number of the last event that the scan reads; ``waiting`` holds those stored since, while it
    lasts. ``floor``: before it lies one figure.
    """

    key: Any
    measure: Measure
    span: Span
    upto: int
    form: Form
    floor: int
    asked: datetime
    waiting: list[tuple[int, datetime, Any]] | None = field(default_factory=list)
    entries: int = 0
    building: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        starts = [start for start in (self.span.start, self.measure.meter.event_from) if start is not None]
        self.start = to_database(truncate(max(starts), SECOND))
        self.end = to_database(self.span.end) if self.span.closed else None
        self.passes = passes(self.measure.meter.group_by, self.measure.filters)

    start: datetime = field(init=False)
    end: datetime | None = field(init=False)
    passes: Any = field(init=False)

    def add(self, minute: int, time: datetime, document: Any) -> None:
        if self.start <= time and (self.end is None or time < self.end) and self.passes(document):
            self.form.add(minute, time, document)


class Rollups:
    """Asked by the event loop, built by the reading threads, carried on by the writer thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rollups: OrderedDict[Any, _Rollup] = OrderedDict()
        self._watched: defaultdict[tuple[str, str], list[_Rollup]] = defaultdict(list)
        self._committed = -1
        self._entries = self._built = self._answered = self._evicted = 0

    def totals(self, measure: Measure, spans: Sequence[Span]) -> list[Decimal] | None:
        """The usage of each span, all at one moment; None where ``build`` or a scan is needed first.

        What is missing is prepared: a reading that begins later may build it.
        """
        if not measure.subjects:
            return [ZERO] * len(spans)
        if not measure.can_be_rolled_up or any(not _whole_minutes(span) for span in spans):
            return None
        now = self._clock()
        with self._lock:
            rollups = [self._find(measure, span, now) for span in spans]
            values = [_value(rollup, span, now) for rollup, span in zip(rollups, spans, strict=True)]
            known = [value for value in values if value is not None]
            self._answered += len(known)
            return known if len(known) == len(spans) else None

    def build(self, cursor: Cursor, measure: Measure, spans: Sequence[Span]) -> None:
        """Read what is missing of these; the cursor's reading began after ``totals`` was asked for them."""
        for span in spans:
            rollup = self._rollups.get(_key(measure, span))
            if rollup is not None:
                with rollup.building:
                    if rollup.waiting is not None and _sees(cursor, rollup):
                        self._fill(rollup, _scan(cursor, rollup))

    def prepare(self, asked: Iterable[tuple[Measure, Sequence[Span]]]) -> list[list[_Rollup]]:
        """What is missing of these, to be built by ``build_all`` in a reading that begins later: a list for each scan."""
        now = self._clock()
        groups: defaultdict[Any, list[_Rollup]] = defaultdict(list)
        with self._lock:
            for measure, spans in asked:
                if not measure.subjects or not measure.can_be_rolled_up:
                    continue
                for span in spans:
                    if _whole_minutes(span) and _key(measure, span) not in self._rollups:
                        rollup = self._find(measure, span, now)
                        identifier, conditions, _, start, end = rollup.key
                        groups[identifier, conditions, start, end, rollup.floor].append(rollup)
        return list(groups.values())

    def build_all(self, cursor: Cursor, rollups: Sequence[_Rollup]) -> None:
        """Read what is missing of all of these with one scan; they are one of the lists that ``prepare`` gave."""
        rollups = [
            rollup for rollup in rollups if rollup.form.joins_subjects or len(rollup.measure.subjects) == 1
        ]
        if not rollups or not _sees(cursor, rollups[0]):
            return
        rows: defaultdict[str, list[Any]] = defaultdict(list)
        subjects = {subject for rollup in rollups for subject in rollup.measure.subjects}
        for subject, *row in _scan(cursor, rollups[0], subjects):
            rows[subject].append(row)
        for rollup in rollups:
            self._fill(rollup, [row for subject in rollup.measure.subjects for row in rows[subject]])

    def take(self, events: Iterable[Stored], committed: int) -> None:
        """These events are on disk, and with them is decided what happened to all up to number ``committed``."""
        with self._lock:
            for number, event_type, subject, time, data in events:
                if rollups := self._watched.get((event_type, subject)):
                    self._add(rollups, number, time, None if data is None else _decode(data))
            self._committed = max(self._committed, committed)
            self._keep_bounds()

    def forget(self, committed: int) -> None:
        """Begin anew with every roll-up: events went, or came in an unknown way. All up to ``committed`` is decided."""
        with self._lock:
            self._rollups.clear()
            self._watched.clear()
            self._entries = 0
            self._committed = max(self._committed, committed)

    def forget_before(self, moment: datetime) -> None:
        """Begin anew with every roll-up that starts before this: events of that time went."""
        start = to_database(moment)
        with self._lock:
            for rollup in [each for each in self._rollups.values() if each.start < start]:
                self._drop(rollup)

    def statistics(self) -> RollupStatistics:
        """A look at the counters, without a lock."""
        return RollupStatistics(
            len(self._rollups), self._entries, MAX_ENTRIES, self._built, self._answered, self._evicted
        )

    def _find(self, measure: Measure, span: Span, now: datetime) -> _Rollup:
        key = _key(measure, span)
        rollup = self._rollups.get(key)
        if rollup is None:
            form = FORMS[measure.meter.aggregation](measure.meter)
            floor = _floor(span, now)
            rollup = self._rollups[key] = _Rollup(key, measure, span, self._committed, form, floor, now)
            for subject in measure.subjects:
                self._watched[measure.meter.event_type, subject].append(rollup)
        rollup.asked = now
        self._rollups.move_to_end(key)
        return rollup

    def _fill(self, rollup: _Rollup, rows: Sequence[Any]) -> None:
        with self._lock:
            if rollup.waiting is None:
                return  # somebody else was quicker
            rollup.form.merge(rows)
            for event in rollup.waiting:
                rollup.add(*event)
            rollup.waiting = None
            rollup.form.settle(rollup.floor)
            self._built += 1
            self._count(rollup)
            self._keep_bounds()

    def _add(self, rollups: Sequence[_Rollup], number: int, time: datetime, document: Any) -> None:
        minute = (time - _EPOCH) // MINUTE
        for rollup in tuple(rollups):
            if rollup.waiting is None:
                rollup.add(minute, time, document)
                self._count(rollup)
            elif len(rollup.waiting) >= MAX_WAITING:
                self._drop(rollup)
            elif number > rollup.upto:
                rollup.waiting.append((minute, time, document))

    def _count(self, rollup: _Rollup) -> None:
        """Count its entries against the bound, unless it was dropped while it was built."""
        if self._rollups.get(rollup.key) is rollup:
            self._entries += len(rollup.form) - rollup.entries
            rollup.entries = len(rollup.form)

    def _keep_bounds(self) -> None:
        oldest_kept = self._clock() - IDLE
        while self._rollups:
            oldest = next(iter(self._rollups.values()))
            if self._entries <= MAX_ENTRIES and oldest.asked >= oldest_kept:
                break
            self._evicted += self._entries > MAX_ENTRIES
            self._drop(oldest)

    def _drop(self, rollup: _Rollup) -> None:
        del self._rollups[rollup.key]
        self._entries -= rollup.entries
        for subject in rollup.measure.subjects:
            place = rollup.measure.meter.event_type, subject
            self._watched[place].remove(rollup)
            if not self._watched[place]:
                del self._watched[place]


def _key(measure: Measure, span: Span) -> Any:
    meter = measure.meter
    conditions = tuple((meter.group_by[name], measure.filters[name]) for name in sorted(measure.filters))
    return meter.id, conditions, frozenset(measure.subjects), span.start, span.end if span.closed else None


def _minutes(moment: datetime) -> int:
    return (moment - EPOCH) // MINUTE


def _whole_minutes(span: Span) -> bool:
    return not ((span.start - EPOCH) % MINUTE or (span.end - EPOCH) % MINUTE)


def _floor(span: Span, now: datetime) -> int:
    return _minutes(span.end) if span.closed else min(_minutes(span.end), _minutes(now) - KEPT)


def _value(rollup: _Rollup, span: Span, now: datetime) -> Decimal | None:
    """None where it is not built yet, and where the span ends before the floor."""
    if span.start >= span.end:
        return ZERO
    end = _minutes(span.end)
    if rollup.waiting is not None or end < rollup.floor:
        return None
    if (floor := _floor(span, now)) > rollup.floor:
        rollup.form.settle(floor)
        rollup.floor = floor
    return rollup.form.value(end)


def _sees(cursor: Cursor, rollup: _Rollup) -> bool:
    """Whether the reading began late enough: the roll-up may have been dropped and prepared anew meanwhile."""
    row = cursor.execute("SELECT max(seq) FROM events").fetchone()
    return rollup.upto < 0 or (row is not None and row[0] is not None and row[0] >= rollup.upto)


def _scan(cursor: Cursor, rollup: _Rollup, subjects: Collection[str] = ()) -> list[Any]:
    """All events up to its number, those before the floor as of the last minute before it; with ``subjects`` those of
    each of them, the subject first.
    """
    measure, span = rollup.measure, rollup.span
    sql = Statement()
    columns = rollup.form.columns(f"greatest(epoch_us(time) // 60000000, {rollup.floor - 1})")
    question = MeterQuery(
        start=span.start,
        end=span.end if span.closed else None,
        filters=measure.filters,
        subjects=tuple(subjects or measure.subjects),
    )
    where = f"seq <= {sql.add(rollup.upto)} AND {where_clause(sql, measure.meter, question)}"
    first, keys = ("subject, ", "1, 2") if subjects else ("", "1")
    events = f"SELECT *, {rollup.form.reading(sql)} AS v FROM events WHERE {where}"  # noqa: S608
    statement = f"SELECT {first}{columns} FROM ({events}) GROUP BY {keys}"  # noqa: S608
    return cursor.execute(statement, sql.parameters).fetchall()
