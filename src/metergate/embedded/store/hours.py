"""What each meter measured by the hour, kept in tables of their own, so that a month of ten million events is not read
event by event.

A meter's table holds all events up to a number (``seq``); those with higher numbers are read one by one beside it, and so
are the parts of hours at both ends of a question. Both see one state of the database, so that every event counts exactly
once, late ones too. The tables are made in the background, and made anew for a meter whose dimensions were changed. A
meter that nobody made yet has none: its events are read one by one until then.

Where a question is not about whole hours (windows of minutes, zones off by half an hour) or about which values there
were (UNIQUE_COUNT), there is no answer here.
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
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.windows import HOUR, WindowSize, offsets
from metergate.embedded.store.database import Cursor, Database, Overloaded, Unavailable
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.statements import (
    Statement,
    filter_clause,
    number_value,
    range_clauses,
    text_value,
    where_clause,
)

SCHEMA = [
    """
    CREATE TABLE IF NOT EXISTS hourly (
        meter VARCHAR NOT NULL,
        definition VARCHAR NOT NULL,    -- what it reads from an event, as JSON
        number BIGINT NOT NULL,         -- of its table, hours_<number>
        upto BIGINT NOT NULL            -- the events up to this number are in it
    )
    """
]
log = logging.getLogger("metergate.embedded")

ENOUGH = 50_000
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
}
"""The value of a meter over rows of ``source``."""


@dataclass(frozen=True, slots=True)
class Table:
    """A meter's table and the last event that is in it."""

    number: int
    upto: int

    @property
    def name(self) -> str:
        """As SQL has it."""
        return f"hours_{self.number}"


def column_of(meter: Meter, dimension: str) -> str:
    """The column of a dimension in the rows of ``source``."""
    return f"d{sorted(meter.group_by).index(dimension)}"


def source(cursor: Cursor, sql: Statement, meter: Meter, question: MeterQuery) -> str | None:
    """What to select from in place of the events: rows with ``time``, ``first``, ``last``, ``subject``, the columns of the
    dimensions and those that ``VALUES`` reads. None where the events have to be read one by one.
    """
    if not _by_hours(meter, question) or (table := _find(cursor, meter)) is None:
        return None
    start = max(question.start or EPOCH, meter.event_from or EPOCH, EPOCH)
    first, last = -(-(start - EPOCH) // HOUR), _last_hour(question.end)
    if last is not None and first >= last:
        return None
    inner = replace(question, filters={})
    begin = EPOCH + first * HOUR
    whole = replace(inner, start=begin, end=None if last is None else EPOCH + last * HOUR)
    parts = [
        f"SELECT * FROM {table.name} WHERE {' AND '.join(['true', *range_clauses(sql, meter, whole)])}",  # noqa: S608
        _events(sql, meter, f"seq > {sql.add(table.upto)}", inner),
    ]
    if begin > start:
        parts.append(_events(sql, meter, f"seq <= {sql.add(table.upto)}", replace(inner, end=begin)))
    if whole.end is not None and question.end is not None and whole.end < question.end:
        parts.append(_events(sql, meter, f"seq <= {sql.add(table.upto)}", replace(inner, start=whole.end)))
    filters = [
        filter_clause(sql, column_of(meter, name), condition) for name, condition in question.filters.items()
    ]
    union = " UNION ALL ".join(parts)
    return f"(SELECT * FROM ({union}) WHERE {' AND '.join(['true', *filters])})"  # noqa: S608


def roll(cursor: Cursor, meter: Meter, size: int | None = None) -> bool:
    """Add the next events to the meter's table, which is made if it is missing; whether there may be more.

    For use inside ``Database.write``.
    """
    table = _find(cursor, meter) or _make(cursor, meter)
    row = cursor.execute("SELECT max(seq) FROM events").fetchone()
    last = -1 if row is None or row[0] is None else int(row[0])
    upto = min(table.upto + (size or STEP), last)
    if upto <= table.upto:
        return False
    sql = Statement()
    _insert(cursor, table, sql, meter, f"seq > {sql.add(table.upto)} AND seq <= {sql.add(upto)}")
    cursor.execute("UPDATE hourly SET upto = ? WHERE number = ?", [upto, table.number])
    return upto < last


def read_again(cursor: Cursor, meter: Meter, start: datetime, end: datetime) -> None:
    """Have in the meter's table what is there of the events between these full hours, after some of them were deleted.

    For use inside ``Database.write``.
    """
    if (table := _find(cursor, meter)) is not None:
        span = [to_database(start), to_database(end)]
        cursor.execute(f"DELETE FROM {table.name} WHERE time >= ? AND time < ?", span)  # noqa: S608
        sql = Statement()
        where = f"seq <= {sql.add(table.upto)} AND time >= {sql.add(start)} AND time < {sql.add(end)}"
        _insert(cursor, table, sql, meter, where)


def forget(cursor: Cursor, meters: Sequence[Meter] | None = None) -> None:
    """Drop the tables of all meters but these. For use inside ``Database.write``."""
    kept = {(meter.id, _definition(meter)) for meter in meters or ()}
    for identifier, definition, number in cursor.execute(
        "SELECT meter, definition, number FROM hourly"
    ).fetchall():
        if (identifier, definition) not in kept:
            cursor.execute(f"DROP TABLE hours_{number}")
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
        meters = [meter for meter in self._meters.all() if meter.aggregation in VALUES]
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


def _by_hours(meter: Meter, question: MeterQuery) -> bool:
    if meter.aggregation not in VALUES or question.window is WindowSize.MINUTE:
        return False
    if question.window is None or question.zone is UTC:
        return True
    if question.start is None or question.end is None:
        return False
    pieces = offsets(question.zone, question.start, question.end)
    return all(not offset % HOUR for _, offset in pieces) and all(
        not (since - EPOCH) % HOUR for since, _ in pieces[1:]
    )


def _last_hour(end: datetime | None) -> int | None:
    return None if end is None else (truncate(end, timedelta(seconds=1)) - EPOCH) // HOUR


def _definition(meter: Meter) -> str:
    read = [meter.event_type, meter.value_property, sorted(meter.group_by.items())]
    return msgspec.json.encode(read).decode()


def _find(cursor: Cursor, meter: Meter) -> Table | None:
    row = cursor.execute(
        "SELECT number, upto FROM hourly WHERE meter = ? AND definition = ?", [meter.id, _definition(meter)]
    ).fetchone()
    return None if row is None else Table(*row)


def _make(cursor: Cursor, meter: Meter) -> Table:
    row = cursor.execute("SELECT coalesce(max(number), 0) + 1 FROM hourly").fetchone()
    table = Table(1 if row is None else int(row[0]), -1)
    dimensions = "".join(f"d{index} VARCHAR, " for index in range(len(meter.group_by)))
    cursor.execute(
        f"CREATE TABLE {table.name} (time TIMESTAMP, first TIMESTAMP, last TIMESTAMP, subject VARCHAR, {dimensions}"
        "number BIGINT, total DOUBLE, valid BIGINT, least DOUBLE, most DOUBLE, "
        "latest DOUBLE, latest_time TIMESTAMP, latest_seq BIGINT)"
    )
    row_values = [meter.id, _definition(meter), table.number, table.upto]
    cursor.execute("INSERT INTO hourly VALUES (?, ?, ?, ?)", row_values)
    return table


def _insert(cursor: Cursor, table: Table, sql: Statement, meter: Meter, where: str) -> None:
    number = "NULL::DOUBLE" if meter.value_property is None else number_value(sql, meter.value_property)
    columns = _dimensions(sql, meter)
    keys = ", ".join(["subject", *(f"d{index}" for index in range(len(columns)))])
    chosen = "".join(f", {text} AS d{index}" for index, text in enumerate(columns))
    cursor.execute(
        f"INSERT INTO {table.name} "  # noqa: S608 - a name of ours
        f"SELECT hour, min(time), max(time), {keys}, count(*), sum(v), count(v), min(v), max(v), "
        "arg_max(v, (time, seq)), max(time) FILTER (WHERE v IS NOT NULL), "
        "arg_max(seq, (time, seq)) FILTER (WHERE v IS NOT NULL) "
        f"FROM (SELECT date_trunc('hour', time) AS hour, time, seq, subject, {number} AS v{chosen} "
        f"FROM events WHERE type = {sql.add(meter.event_type)} AND {where}) GROUP BY hour, {keys}",
        sql.parameters,
    )


def _dimensions(sql: Statement, meter: Meter) -> list[str]:
    return [text_value(sql, meter.group_by[name]) for name in sorted(meter.group_by)]


def _events(sql: Statement, meter: Meter, numbers: str, question: MeterQuery) -> str:
    """The same columns of single events."""
    number = "NULL::DOUBLE" if meter.value_property is None else number_value(sql, meter.value_property)
    columns = _dimensions(sql, meter)
    names = "".join(f"d{index}, " for index in range(len(columns)))
    chosen = "".join(f", {text} AS d{index}" for index, text in enumerate(columns))
    where = f"{numbers} AND {where_clause(sql, meter, question)}"
    return (
        f"SELECT time, time AS first, time AS last, subject, {names}1 AS number, v AS total, "  # noqa: S608
        "(v IS NOT NULL)::BIGINT AS valid, v AS least, v AS most, v AS latest, "
        "CASE WHEN v IS NOT NULL THEN time END AS latest_time, seq AS latest_seq "
        f"FROM (SELECT time, seq, subject, {number} AS v{chosen} FROM events WHERE {where})"
    )
