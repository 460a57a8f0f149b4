"""The events as they are listed: the newest of them for version 1, page by page for version 2.

Statements are put together from fixed fragments, see ``statements`` (hence noqa: S608).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from metergate.embedded.domain.cursors import Cursor
from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.moments import from_database
from metergate.embedded.domain.time_filters import TimeFilter
from metergate.embedded.store.database import Cursor as DatabaseCursor
from metergate.embedded.store.database import Database, Row
from metergate.embedded.store.statements import Statement, filter_clause, subject_clause, time_clause

TimeColumn: TypeAlias = Literal["time", "ingested_at", "stored_at"]
_COLUMNS = "id, source, type, subject, time, data, ingested_at, stored_at, seq"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept. Times are aware, in UTC; ``data`` is JSON text; ``number`` counts up."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: str | None
    ingested_at: datetime
    stored_at: datetime
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """``start`` and ``ingested_start`` are inclusive, the ends exclusive; ``id`` is a part of the id."""

    start: datetime
    end: datetime | None = None
    ingested_start: datetime | None = None
    ingested_end: datetime | None = None
    id: str | None = None
    subjects: tuple[str, ...] | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFilter:
    """``texts`` are filters of ``id``, ``source``, ``subject``, ``type``, ``times`` those of the columns that
    are times; pages are ordered ``by`` one of these. ``after``: where the page before ended.
    """

    texts: Mapping[str, StringFilter] = field(default_factory=dict)
    times: Mapping[TimeColumn, TimeFilter] = field(default_factory=dict)
    by: TimeColumn = "time"
    descending: bool = True
    subjects: tuple[str, ...] | None = None
    after: Cursor | None = None
    limit: int = 100


class EventList:
    """The reading half of the events' table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, condition: EventFilter) -> list[StoredEvent]:
        """The newest events by their time, those stored last first among equals."""
        sql = Statement()
        clauses = [f"time >= {sql.add(condition.start)}"]
        for clause, moment in (
            ("time < ", condition.end),
            ("ingested_at >= ", condition.ingested_start),
            ("ingested_at < ", condition.ingested_end),
        ):
            if moment is not None:
                clauses.append(clause + sql.add(moment))
        if condition.id is not None:
            clauses.append(f"contains(id, {sql.add(condition.id)})")
        return await self._read(sql, clauses, condition.subjects, "time", condition.limit)

    async def page(self, condition: PageFilter) -> list[StoredEvent]:
        """The events behind the cursor, in the same order. Later events never shift a page."""
        sql = Statement()
        clauses = [filter_clause(sql, column, each) for column, each in sorted(condition.texts.items())]
        clauses += [time_clause(sql, column, each) for column, each in sorted(condition.times.items())]
        if condition.after is not None:
            time, number = sql.add(condition.after.time), sql.add(condition.after.number)
            by, beyond = condition.by, "<" if condition.descending else ">"
            clauses.append(f"{by} {beyond}= {time} AND ({by} {beyond} {time} OR seq {beyond} {number})")
        direction = "DESC" if condition.descending else "ASC"
        return await self._read(sql, clauses, condition.subjects, condition.by, condition.limit, direction)

    async def count_by_subject(self, start: datetime, end: datetime) -> list[tuple[str, int]]:
        """How many events each subject has from ``start`` to ``end``, by subject."""
        sql = Statement()
        where = f"time >= {sql.add(start)} AND time < {sql.add(end)}"
        statement = f"SELECT subject, count(*) FROM events WHERE {where} GROUP BY subject ORDER BY subject"  # noqa: S608
        return [(row[0], row[1]) for row in await self._database.read(statement, sql.parameters)]

    async def _read(
        self,
        sql: Statement,
        clauses: list[str],
        subjects: tuple[str, ...] | None,
        by: str,
        limit: int,
        direction: str = "DESC",
    ) -> list[StoredEvent]:
        if subjects is not None:
            clauses.append(subject_clause(sql, subjects))
        where = " AND ".join(clauses) or "true"
        order = f"ORDER BY {by} {direction}, seq {direction}"
        # numbers first: where times are in no order, all of them are looked at, but nothing else of the events is
        numbers = f"SELECT seq FROM events WHERE {where} {order} LIMIT {sql.add(limit)}"  # noqa: S608
        listed = f"SELECT {_COLUMNS} FROM events WHERE seq IN (SELECT unnest(?::BIGINT[])) {order}"  # noqa: S608

        def read(cursor: DatabaseCursor) -> list[Row]:
            found = [row[0] for row in cursor.execute(numbers, sql.parameters).fetchall()]
            return cursor.execute(listed, [found]).fetchall() if found else []

        return [_stored_event(row) for row in await self._database.reading(read)]


def _stored_event(row: Row) -> StoredEvent:
    time, ingested_at, stored_at = (from_database(moment) for moment in (row[4], row[6], row[7]))
    return StoredEvent(row[0], row[1], row[2], row[3], time, row[5], ingested_at, stored_at, row[8])
