"""What each meter measured by the hour and subject, and by the minute all in all, kept in tables of their own, so that a
month of ten million events is not read event by event.

A meter's tables hold all events up to a number (``seq``); those with higher numbers are read one by one beside them, and
so are the parts of hours or minutes at both ends of a question. All see one state of the database, so that every event
counts exactly once, late ones too. The tables are made in the background, and made anew for a meter whose dimensions were
changed. A meter that nobody made yet has none: its events are read one by one until then.

The same goes for questions that fit into neither table: about subjects by the minute or in zones off by half an hour. Which
values there were (UNIQUE_COUNT) is kept by the hour, all in all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec

from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.moments import EPOCH, to_database, truncate
from metergate.embedded.domain.query import CUSTOMER, SUBJECT, MeterQuery
from metergate.embedded.domain.windows import HOUR, MINUTE, WindowSize, offsets
from metergate.embedded.store.database import Cursor, Database, Overloaded, Unavailable
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.statements import (
    Statement,
    filter_clause,
    number_value,
    range_clauses,
    text_value,
)

SCHEMA = [
    """
    CREATE TABLE IF NOT EXISTS hourly (
        meter VARCHAR NOT NULL,
        definition VARCHAR NOT NULL,    -- what it reads from an event, as JSON
        number BIGINT NOT NULL,         -- of its tables, hours_<number> and overall_<number>
        upto BIGINT NOT NULL            -- the events up to this number are in them
    )
    """
]
log = logging.getLogger("metergate.embedded")

FORM = 2
"""Of what the tables hold; those of another one are made anew. 1 had ``1.0`` in dimensions where it is ``1`` now."""
ENOUGH = 20_000
"""So many new events are waited for."""
STEP = 20_000
"""Numbers of events that are added in one write."""
SHARE = 5
"""Of the writer thread's time at most one in so many is taken from those who bring events."""
LOOK_SECONDS = 2.0
VALUES = {
    Aggregation.COUNT: "coalesce(sum(number), 0)",
    Aggregation.SUM: "sum(total)",
    Aggregation.AVG: "sum(total) / nullif(sum(valid), 0)",
    Aggregation.MIN: "min(least)",
    Aggregation.MAX: "max(most)",
    Aggregation.LATEST: "arg_max(latest, (latest_time, latest_seq))",
    Aggregation.UNIQUE_COUNT: "count(DISTINCT v)",
}
"""The value of a meter over rows of ``source``."""


_FIGURES = {
    "number BIGINT": ("count(*)", "1"),
    "total DOUBLE": ("sum(v)", "v"),
    "valid BIGINT": ("count(v)", "(v IS NOT NULL)::BIGINT"),
    "least DOUBLE": ("min(v)", "v"),
    "most DOUBLE": ("max(v)", "v"),
    "latest DOUBLE": ("arg_max(v, (time, seq))", "v"),
    "latest_time TIMESTAMP": (
        "max(time) FILTER (WHERE v IS NOT NULL)",
        "CASE WHEN v IS NOT NULL THEN time END",
    ),
    "latest_seq BIGINT": ("arg_max(seq, (time, seq)) FILTER (WHERE v IS NOT NULL)", "seq"),
}
"""Columns that ``VALUES`` reads: what they are of many events with the value ``v``, and of one."""
_LAYOUT = 2
"""Raised when the tables are to be made anew."""


@dataclass(frozen=True, slots=True)
class Table:
    """One of a meter's tables: a row for each unit of time, each subject where ``by_subject``, each group of dimensions,
    and of UNIQUE_COUNT each value.
    """

    meter: Meter
    by_subject: bool

    @property
    def unit(self) -> timedelta:
        """An hour or a minute. Which values there were differs little from minute to minute, so these would not be fewer."""
        return HOUR if self.by_subject or self.unique else MINUTE

    @property
    def unique(self) -> bool:
        """Whether it is about which values there were."""
        return self.meter.aggregation is Aggregation.UNIQUE_COUNT

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns whose values tell its rows of one time apart."""
        dimensions = (f"d{index}" for index in range(len(self.meter.group_by)))
        return (*(["subject"] if self.by_subject else []), *dimensions, *(["v"] if self.unique else []))

    @property
    def figures(self) -> dict[str, tuple[str, str]]:
        """The other columns."""
        return {} if self.unique else _FIGURES

    def name(self, number: int) -> str:
        """As SQL has it."""
        return f"{'hours' if self.by_subject else 'overall'}_{number}"


@dataclass(frozen=True, slots=True)
class _Kept:
    """The number of a meter's tables and the last event that is in them."""

    number: int
    upto: int


def tables_of(meter: Meter) -> list[Table]:
    """What is kept of the meter."""
    overall = Table(meter, by_subject=False)
    return [overall] if overall.unique else [Table(meter, by_subject=True), overall]


def column_of(meter: Meter, dimension: str) -> str:
    """The column of a dimension in the rows of ``source``."""
    return f"d{sorted(meter.group_by).index(dimension)}"


def source(cursor: Cursor, sql: Statement, meter: Meter, question: MeterQuery) -> str | None:
    """What to select from in place of the events: rows with ``time``, ``first``, ``last``, ``subject`` where it is asked
    about, the columns of the dimensions and those that ``VALUES`` reads. None where the events have to be read one by one.
    """
    table = _fitting(meter, question)
    if table is None or (kept := _find(cursor, meter)) is None:
        return None
    start = max(question.start or EPOCH, meter.event_from or EPOCH, EPOCH)
    first, last = -(-(start - EPOCH) // table.unit), _last(question.end, table.unit)
    if last is not None and first >= last:
        return None
    inner = replace(question, filters={})
    begin = EPOCH + first * table.unit
    whole = replace(inner, start=begin, end=None if last is None else EPOCH + last * table.unit)
    where = " AND ".join(["true", *range_clauses(sql, meter, whole)])
    parts = [
        f"SELECT {', '.join(_columns(table))} FROM {table.name(kept.number)} WHERE {where}",  # noqa: S608
        _events(sql, table, f"seq > {sql.add(kept.upto)}", inner),
    ]
    if begin > start:
        parts.append(_events(sql, table, f"seq <= {sql.add(kept.upto)}", replace(inner, end=begin)))
    if whole.end is not None and question.end is not None and whole.end < question.end:
        parts.append(_events(sql, table, f"seq <= {sql.add(kept.upto)}", replace(inner, start=whole.end)))
    filters = [
        filter_clause(sql, column_of(meter, name), condition) for name, condition in question.filters.items()
    ]
    union = " UNION ALL ".join(parts)
    return f"(SELECT * FROM ({union}) WHERE {' AND '.join(['true', *filters])})"  # noqa: S608


def roll(cursor: Cursor, meter: Meter, size: int | None = None) -> bool:
    """Add the next events to the meter's tables, which are made if they are missing; whether there may be more.

    For use inside ``Database.write``.
    """
    kept = _find(cursor, meter) or _make(cursor, meter)
    row = cursor.execute("SELECT max(seq) FROM events").fetchone()
    last = -1 if row is None or row[0] is None else int(row[0])
    upto = min(kept.upto + (size or STEP), last)
    if upto <= kept.upto:
        return False
    for table in tables_of(meter):
        sql = Statement()
        where = f"seq > {sql.add(kept.upto)} AND seq <= {sql.add(upto)}"
        _insert(cursor, table, kept.number, sql, where)
    cursor.execute("UPDATE hourly SET upto = ? WHERE number = ?", [upto, kept.number])
    return upto < last


def read_again(cursor: Cursor, meter: Meter, start: datetime, end: datetime) -> None:
    """Have in the meter's tables what is there of the events between these full hours, after some of them were deleted.

    For use inside ``Database.write``.
    """
    if (kept := _find(cursor, meter)) is None:
        return
    span = [to_database(start), to_database(end)]
    for table in tables_of(meter):
        name = table.name(kept.number)
        cursor.execute(f"DELETE FROM {name} WHERE time >= ? AND time < ?", span)  # noqa: S608
        sql = Statement()
        where = f"seq <= {sql.add(kept.upto)} AND time >= {sql.add(start)} AND time < {sql.add(end)}"
        _insert(cursor, table, kept.number, sql, where)


def forget(cursor: Cursor, meters: Sequence[Meter] | None = None) -> None:
    """Drop the tables of all meters but these. For use inside ``Database.write``."""
    kept = {(meter.id, _definition(meter)) for meter in meters or ()}
    for identifier, definition, number in cursor.execute(
        "SELECT meter, definition, number FROM hourly"
    ).fetchall():
        if (identifier, definition) not in kept:
            cursor.execute(f"DROP TABLE IF EXISTS hours_{number}")
            cursor.execute(f"DROP TABLE IF EXISTS overall_{number}")
            cursor.execute("DELETE FROM hourly WHERE number = ?", [number])


class Hours:
    """Keeps the tables of all meters up to date, in the background."""

    def __init__(self, database: Database, meters: MeterStore) -> None:
        self._database = database
        self._meters = meters

    async def keep(self) -> None:
        """Add what is new, now and then. Endless."""
        while True:
            try:
                await self.update()
            except (Unavailable, Overloaded) as exception:
                log.warning("what meters measured by the hour is not kept for now: %s", exception)
            await asyncio.sleep(LOOK_SECONDS)

    async def update(self) -> None:
        """Add what is new to the tables that lack many events. Raises Unavailable, Overloaded."""
        meters = self._meters.all()
        known = {
            (row[0], row[1]): row[2]
            for row in await self._database.read("SELECT meter, definition, upto FROM hourly")
        }
        if known.keys() - {(meter.id, _definition(meter)) for meter in meters}:
            await self._database.write(lambda cursor: forget(cursor, meters))
        ((last,),) = await self._database.read("SELECT coalesce(max(seq), -1) FROM events")
        for meter in meters:
            if last - known.get((meter.id, _definition(meter)), -1) >= ENOUGH:
                await self._update(meter)

    async def _update(self, meter: Meter) -> None:
        more = True
        while more:
            began = time.monotonic()
            more = await self._database.write(lambda cursor: roll(cursor, meter))
            await asyncio.sleep((SHARE - 1) * (time.monotonic() - began))


def _fitting(meter: Meter, question: MeterQuery) -> Table | None:
    """The table whose rows each lie within one window of the question."""
    by_subject = bool(question.subjects or question.customers or {SUBJECT, CUSTOMER} & {*question.group_by})
    for table in tables_of(meter):
        if table.by_subject == by_subject and _divides(table.unit, question):
            return table
    return None


def _divides(unit: timedelta, question: MeterQuery) -> bool:
    if question.window is None:
        return True
    if question.window is WindowSize.MINUTE:
        return unit == MINUTE
    if question.zone is UTC:
        return True
    if question.start is None or question.end is None:
        return False
    pieces = offsets(question.zone, question.start, question.end)
    return all(not offset % unit for _, offset in pieces) and all(
        not (since - EPOCH) % unit for since, _ in pieces[1:]
    )


def _last(end: datetime | None, unit: timedelta) -> int | None:
    return None if end is None else (truncate(end, timedelta(seconds=1)) - EPOCH) // unit


def _definition(meter: Meter) -> str:
    read = [_LAYOUT, meter.event_type, meter.value_property, sorted(meter.group_by.items())]
    return msgspec.json.encode(read).decode()


def _find(cursor: Cursor, meter: Meter) -> _Kept | None:
    row = cursor.execute(
        "SELECT number, upto FROM hourly WHERE meter = ? AND definition = ?", [meter.id, _definition(meter)]
    ).fetchone()
    return None if row is None else _Kept(*row)


def _make(cursor: Cursor, meter: Meter) -> _Kept:
    row = cursor.execute("SELECT coalesce(max(number), 0) + 1 FROM hourly").fetchone()
    kept = _Kept(1 if row is None else int(row[0]), -1)
    for table in tables_of(meter):
        columns = ["time TIMESTAMP", "first TIMESTAMP", "last TIMESTAMP"]
        columns += [*(f"{key} VARCHAR" for key in table.keys), *table.figures]
        cursor.execute(f"CREATE TABLE {table.name(kept.number)} ({', '.join(columns)})")
    row_values = [meter.id, _definition(meter), kept.number, kept.upto]
    cursor.execute("INSERT INTO hourly VALUES (?, ?, ?, ?)", row_values)
    return kept


def _columns(table: Table) -> list[str]:
    return ["time", "first", "last", *table.keys, *(column.split()[0] for column in table.figures)]


def _insert(cursor: Cursor, table: Table, number: int, sql: Statement, where: str) -> None:
    """Add the events to the table, which has this number."""
    keys = ["unit", *table.keys]
    figures = [of_many for of_many, _ in table.figures.values()]
    selected = ", ".join(["unit", "min(time)", "max(time)", *table.keys, *figures])
    unit = "hour" if table.unit == HOUR else "minute"
    events = _read(sql, table, f"date_trunc('{unit}', time) AS unit, ", where)
    cursor.execute(
        f"INSERT INTO {table.name(number)} SELECT {selected} FROM ({events}) GROUP BY {', '.join(keys)}",  # noqa: S608
        sql.parameters,
    )


def _events(sql: Statement, table: Table, numbers: str, question: MeterQuery) -> str:
    """The same columns of single events."""
    figures = [f"{of_one} AS {column.split()[0]}" for column, (_, of_one) in table.figures.items()]
    selected = ", ".join(["time", "time AS first", "time AS last", *table.keys, *figures])
    where = " AND ".join([numbers, *range_clauses(sql, table.meter, question)])
    return f"SELECT {selected} FROM ({_read(sql, table, '', where)})"  # noqa: S608


def _read(sql: Statement, table: Table, columns: str, where: str) -> str:
    """What the meter reads from each of its events: ``v`` and the dimensions; and these columns."""
    meter = table.meter
    value = "NULL::DOUBLE"
    if meter.value_property is not None:
        text = f"nullif({text_value(sql, meter.value_property)}, 'null')" if table.unique else ""
        value = text or number_value(sql, meter.value_property)
    paths = [meter.group_by[name] for name in sorted(meter.group_by)]
    dimensions = "".join(f", {text_value(sql, path)} AS d{index}" for index, path in enumerate(paths))
    return (
        f"SELECT {columns}time, seq, subject, {value} AS v{dimensions} "  # noqa: S608
        f"FROM events WHERE type = {sql.add(meter.event_type)} AND {where}"
    )
