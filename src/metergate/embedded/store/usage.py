"""What meters measured: a question (``domain.query``) as one statement over the events' table.

For entitlements ``figures`` and ``read_usage`` give the same exactly (see ``sums``). All are plain functions of a
cursor, for use inside ``Database.reading`` and ``Database.write``; they see every event acknowledged before.

Statements are put together from fixed fragments, see ``statements`` (hence noqa: S608).
All of them read the JSON of the events at query time: a meter made after its events counts them too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.moments import EPOCH, SECOND, from_database, truncate
from metergate.embedded.domain.query import CUSTOMER, SUBJECT, MeterQuery, Row
from metergate.embedded.domain.windows import MINUTE, WindowSize, from_local, offsets, window_end
from metergate.embedded.store import hours
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.statements import Statement, number_value, text_value, where_clause
from metergate.embedded.store.sums import Units, nearest, quotient, read_sum, sum_column, units

LONG = timedelta(days=1200)
Moment: TypeAlias = Literal["minute", "second"]
_SUMS = (Aggregation.SUM, Aggregation.AVG)
"""What is added up."""
_AGGREGATE = {
    Aggregation.SUM: "sum({0})",
    Aggregation.AVG: "avg({0})",
    Aggregation.MIN: "min({0})",
    Aggregation.MAX: "max({0})",
    Aggregation.LATEST: "arg_max({0}, (time, seq))",  # of several in one second the one stored last
}


class MeterUsage:
    """The reading half of the store, for everybody who asks meters."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def query(self, meter: Meter, question: MeterQuery) -> list[Row]:
        """The rows by window, without windows by subject from last to first."""
        return await self._database.reading(lambda cursor: query(cursor, meter, question))

    async def subjects(self, meter: Meter, start: datetime | None, end: datetime | None) -> list[str]:
        """Who has events on this meter, in order."""
        sql = Statement()
        where = where_clause(sql, meter, MeterQuery(start=start, end=end))
        statement = f"SELECT DISTINCT subject FROM events WHERE {where} ORDER BY subject"  # noqa: S608
        rows = await self._database.read(statement, sql.parameters)
        return [row[0] for row in rows]

    async def values(self, meter: Meter, dimension: str, start: datetime, end: datetime | None) -> list[str]:
        """The values of one dimension, in order; the empty one (missing in the event) left out."""
        sql = Statement()
        where = where_clause(sql, meter, MeterQuery(start=start, end=end))
        value = text_value(sql, meter.group_by[dimension])
        rows = await self._database.read(
            f"SELECT DISTINCT {value} AS value FROM events "  # noqa: S608
            f"WHERE {where} AND {value} <> '' ORDER BY value",
            sql.parameters,
        )
        return [row[0] for row in rows]


def read_usage(
    cursor: Cursor,
    meter: Meter,
    filters: Mapping[str, StringFilter],
    subjects: Collection[str],
    start: datetime,
    end: datetime,
) -> Decimal:
    """The meter's value for these subjects together; 0 when there is none."""
    if not subjects or start >= end:
        return Decimal(0)
    question = MeterQuery(start=start, end=end, filters=filters, subjects=tuple(subjects))
    return next((quotient(value) for _, value in figures(cursor, meter, question)), Decimal(0))


def query(cursor: Cursor, meter: Meter, question: MeterQuery) -> list[Row]:
    """The answer's rows; the question must have passed ``query_findings``. A sum beyond float64 is its largest number."""
    question = _with_known_range(cursor, meter, question)
    rows = _rows(cursor, meter, question)
    if any(row[-1] is not None and not math.isfinite(row[-1]) for row in rows):
        exact = _rows(cursor, meter, question, exact=True)
        rows = [(*row[:-1], _nearest(_exact(meter, row[-1]))) for row in exact]
    return [_row(question, row) for row in rows if row[-1] is not None]


def figures(cursor: Cursor, meter: Meter, question: MeterQuery) -> list[tuple[datetime, Units]]:
    """The start of each window and its exact value, of a question without groups."""
    question = _with_known_range(cursor, meter, question)
    values = ((row, _exact(meter, row[-1])) for row in _rows(cursor, meter, question, exact=True))
    return [(_bounds(question, row)[0], value) for row, value in values if value is not None]


def moments(
    cursor: Cursor, meter: Meter, question: MeterQuery, unit: Moment
) -> list[tuple[datetime, Units | list[str]]]:
    """The minutes or seconds with usage, in order, and what it is: a figure to add, of UNIQUE_COUNT the values.

    Of a question without windows and groups; the meter sums, counts, or counts values.
    """
    sql = Statement()
    if meter.value_property is None:
        reading, value = "NULL", "count(*)"
    elif meter.aggregation is Aggregation.UNIQUE_COUNT:
        reading = f"nullif({text_value(sql, meter.value_property)}, 'null')"
        value = "list(DISTINCT v) FILTER (v IS NOT NULL)"
    else:
        reading, value = number_value(sql, meter.value_property), sum_column("v")
    events = f"SELECT time, {reading} AS v FROM events WHERE {where_clause(sql, meter, question)}"  # noqa: S608
    statement = f"SELECT date_trunc('{unit}', time), {value} FROM ({events}) GROUP BY 1 ORDER BY 1"  # noqa: S608
    found = cursor.execute(statement, sql.parameters).fetchall()
    unique = meter.aggregation is Aggregation.UNIQUE_COUNT
    values = ((moment, column if unique else _exact(meter, column)) for moment, column in found)
    return [(from_database(moment), value) for moment, value in values if value is not None]


def _rows(
    cursor: Cursor, meter: Meter, question: MeterQuery, *, exact: bool = False
) -> list[tuple[Any, ...]]:
    """Window and groups where there are any, first and last time, and the value."""
    sql = Statement()
    chosen = _chosen(cursor, sql, meter, question, exact=exact and meter.aggregation in _SUMS)
    window = _window(sql, question)
    groups = {f"g{index}": text for index, text in enumerate(_groups(sql, meter, question, chosen))}
    keys = (["w"] if window else []) + list(groups)
    columns = ([f"{window} AS w"] if window else []) + [f"{text} AS {name}" for name, text in groups.items()]
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    selected = ", ".join([*columns, *chosen.values])
    statement = f"SELECT {selected} FROM {chosen.rows} {grouped} ORDER BY {_order(question)}"  # noqa: S608
    return cursor.execute(statement, sql.parameters).fetchall()


def _exact(meter: Meter, column: Any) -> Units | None:
    if meter.aggregation not in _SUMS:
        return None if column is None else units(float(column))
    if (added := read_sum(column)) is None:
        return None
    total, number = added
    return total if meter.aggregation is Aggregation.SUM else units(nearest(quotient(total, number)))


def _nearest(value: Units | None) -> float | None:
    return None if value is None else nearest(quotient(value))


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What to read: rows by the hour or single events; ``values`` are first and last time and the value."""

    rows: str
    values: tuple[str, str, str]
    by_hour: bool


def _chosen(cursor: Cursor, sql: Statement, meter: Meter, question: MeterQuery, *, exact: bool) -> _Chosen:
    """Exact sums need the single events: by the hour they are rounded."""
    rows = None if exact else hours.source(cursor, sql, meter, question)
    if rows is not None:
        return _Chosen(
            f"{rows} AS readings", ("min(first)", "max(last)", hours.VALUES[meter.aggregation]), True
        )
    where, times = where_clause(sql, meter, question), ("min(time)", "max(time)")
    if exact and meter.value_property is not None:
        number = number_value(sql, meter.value_property)
        readings = f"(SELECT *, {number} AS v FROM events WHERE {where}) AS readings"  # noqa: S608
        return _Chosen(readings, (*times, sum_column("v")), by_hour=False)
    return _Chosen(f"events WHERE {where}", (*times, _value(sql, meter)), by_hour=False)


def _with_known_range(cursor: Cursor, meter: Meter, question: MeterQuery) -> MeterQuery:
    """For windows by local time, the range in which there are events, where it may be long: only there do offsets
    from UTC matter, and a question may span all years of the calendar.
    """
    if question.window in (None, WindowSize.MINUTE) or question.zone is UTC:
        return question
    if question.start and question.end and question.end - question.start < LONG:
        return question
    sql = Statement()
    where = where_clause(sql, meter, question)
    statement = f"SELECT min(time), max(time) FROM events WHERE {where}"  # noqa: S608
    row = cursor.execute(statement, sql.parameters).fetchone()
    if row is None or row[0] is None:
        return replace(question, start=EPOCH, end=EPOCH)
    return replace(question, start=from_database(row[0]), end=from_database(row[1]) + SECOND)


def _value(sql: Statement, meter: Meter) -> str:
    if meter.value_property is None:
        return "count(*)"
    if meter.aggregation is Aggregation.UNIQUE_COUNT:
        return f"count(DISTINCT nullif({text_value(sql, meter.value_property)}, 'null'))"
    return _AGGREGATE[meter.aggregation].format(number_value(sql, meter.value_property))


def _window(sql: Statement, question: MeterQuery) -> str | None:
    """The start of an event's window: a moment for MINUTE and HOUR, the local date for DAY and MONTH."""
    if question.window is None:
        return None
    unit = question.window.lower()
    if question.window is WindowSize.MINUTE:
        return "date_trunc('minute', time)"
    offset = _offset(sql, question)
    local = f"date_trunc('{unit}', time + {offset})"
    return f"{local} - {offset}" if question.window is WindowSize.HOUR else local


def _offset(sql: Statement, question: MeterQuery) -> str:
    """What to add to a time to get the local time: an interval that depends on the time through the year."""
    if question.zone is UTC or question.start is None or question.end is None:
        return "INTERVAL 0 SECOND"
    pieces = offsets(question.zone, question.start, question.end)
    *earlier, last = [f"INTERVAL ({int(offset.total_seconds())}) SECOND" for _, offset in pieces]
    cases = [
        f"WHEN time < {sql.add(until)} THEN {interval}"
        for interval, (until, _) in zip(earlier, pieces[1:], strict=True)
    ]
    return f"(CASE {' '.join(cases)} ELSE {last} END)" if cases else last


def _groups(sql: Statement, meter: Meter, question: MeterQuery, chosen: _Chosen) -> list[str]:
    return [_group(sql, meter, question, key, by_hour=chosen.by_hour) for key in question.group_by]


def _group(sql: Statement, meter: Meter, question: MeterQuery, key: str, *, by_hour: bool) -> str:
    if key == SUBJECT:
        return "subject"
    if key == CUSTOMER:
        pairs = [(subject, customer) for customer, keys in question.customers.items() for subject in keys]
        subjects, customers = sql.add([pair[0] for pair in pairs]), sql.add([pair[1] for pair in pairs])
        return f"({customers}::VARCHAR[])[list_position({subjects}::VARCHAR[], subject)]"
    return hours.column_of(meter, key) if by_hour else text_value(sql, meter.group_by[key])


def _order(question: MeterQuery) -> str:
    groups = [f"g{index}" for index in range(len(question.group_by))]
    if question.window:
        return ", ".join(["w", *groups])
    by_subject = [f"g{index} DESC" for index, key in enumerate(question.group_by) if key == SUBJECT]
    return ", ".join([*by_subject, *groups]) or "1"


def _row(question: MeterQuery, row: tuple[Any, ...]) -> Row:
    start, end = _bounds(question, row)
    first = 1 if question.window else 0
    groups = dict(zip(question.group_by, row[first:], strict=False))
    subject, customer = groups.pop(SUBJECT, None), groups.pop(CUSTOMER, None)
    return Row(float(row[-1]), start, end, subject, customer, groups)


def _bounds(question: MeterQuery, row: tuple[Any, ...]) -> tuple[datetime, datetime]:
    if question.window is None:
        first, last = (EPOCH if moment is None else from_database(moment) for moment in row[-3:-1])
        return question.start or truncate(first, MINUTE), question.end or truncate(last, MINUTE) + MINUTE
    return _window_bounds(row[0], question.window, question.zone)


@lru_cache(4096)
def _window_bounds(shown: datetime, window: WindowSize, zone: tzinfo) -> tuple[datetime, datetime]:
    """Of the window that a row shows: the same for many rows where they are grouped."""
    local = window in (WindowSize.DAY, WindowSize.MONTH)
    start = from_local(shown, zone) if local else from_database(shown)
    return start, window_end(start, window, zone)
