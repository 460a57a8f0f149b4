"""Plain SQLite and plain DuckDB doing the least that is right: each event once and on disk at its commit, a month by the
hour and a subject's usage out of the JSON. No HTTP, no checks, no other requests to wait for: what the embedded OpenMeter
takes longer, all that costs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import msgspec

T = TypeVar("T")
Line = tuple[str, str, str, str, str, str]
"""Source, id, type, subject, time and data of an event."""
_COLUMNS = ("source", "id", "type", "subject", "time", "data")


class Plain(Protocol):
    """A database with one table of events."""

    name: str

    def store(self, lines: Sequence[Line]) -> None:
        """In one transaction, those known already left out."""
        ...

    def by_hour(self, start: datetime, end: datetime) -> list[Any]:
        """The sum of the tokens of each hour."""
        ...

    def used(self, subject: str, since: datetime) -> float:
        """The sum of the tokens of one subject."""
        ...

    def close(self) -> None: ...


class PlainSQLite:
    """With a log that is on disk at each commit, and an index for each question."""

    name = "plain SQLite"

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = wal",
            "PRAGMA synchronous = full",
            "CREATE TABLE events (source, id, type, subject, time, data, PRIMARY KEY (source, id)) WITHOUT ROWID",
            "CREATE INDEX by_type ON events (type, subject, time)",
        ):
            self._connection.execute(statement)

    def store(self, lines: Sequence[Line]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", lines)
        self._connection.execute("COMMIT")

    def by_hour(self, start: datetime, end: datetime) -> list[Any]:
        return self._connection.execute(
            "SELECT substr(time, 1, 13), sum(data ->> '$.tokens') FROM events "
            "WHERE type = 'llm-usage' AND time >= ? AND time < ? GROUP BY 1",
            [_text(start), _text(end)],
        ).fetchall()

    def used(self, subject: str, since: datetime) -> float:
        row = self._connection.execute(
            "SELECT sum(data ->> '$.tokens') FROM events WHERE type = 'llm-usage' AND subject = ? AND time >= ?",
            [subject, _text(since)],
        ).fetchone()
        return float(row[0] or 0)

    def close(self) -> None:
        self._connection.close()


class PlainDuckDB:
    """With the index that finds events that are known."""

    name = "plain DuckDB"

    def __init__(self, file: Path) -> None:
        self._connection = duckdb.connect(str(file))
        columns = ", ".join(
            f"{column} {'TIMESTAMP' if column == 'time' else 'VARCHAR'}" for column in _COLUMNS
        )
        self._connection.execute(f"CREATE TABLE events ({columns}, PRIMARY KEY (source, id))")
        values = ", ".join(f"unnest(${number}::VARCHAR[])" for number in range(1, 7))
        self._insert = f"INSERT OR IGNORE INTO events SELECT {values}"

    def store(self, lines: Sequence[Line]) -> None:
        self._connection.execute(self._insert, [list(column) for column in zip(*lines, strict=True)])

    def by_hour(self, start: datetime, end: datetime) -> list[Any]:
        return self._connection.execute(
            "SELECT date_trunc('hour', time), sum((data ->> '$.tokens')::DOUBLE) FROM events "
            "WHERE type = 'llm-usage' AND time >= ?::TIMESTAMP AND time < ?::TIMESTAMP GROUP BY 1",
            [_text(start), _text(end)],
        ).fetchall()

    def used(self, subject: str, since: datetime) -> float:
        row = self._connection.execute(
            "SELECT sum((data ->> '$.tokens')::DOUBLE) FROM events "
            "WHERE type = 'llm-usage' AND subject = ? AND time >= ?::TIMESTAMP",
            [subject, _text(since)],
        ).fetchone()
        return float(row[0] or 0) if row else 0.0

    def close(self) -> None:
        self._connection.close()


def plain_databases(folder: Path) -> list[Plain]:
    """New ones in the folder."""
    folder.mkdir(parents=True)
    return [PlainSQLite(folder / "plain.sqlite"), PlainDuckDB(folder / "plain.duckdb")]


def read_lines(body: bytes) -> list[Line]:
    """The events of a request's body."""
    return [
        (
            event["source"],
            event["id"],
            event["type"],
            event["subject"],
            event["time"],
            msgspec.json.encode(event["data"]).decode(),
        )
        for event in msgspec.json.decode(body)
    ]


def store_all(plain: Plain, bodies: Iterable[bytes]) -> tuple[float, float]:
    """One transaction for each body; seconds by the clock and of CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    for body in bodies:
        plain.store(read_lines(body))
    return time.perf_counter() - began, time.process_time() - cpu


def took_ms(function: Callable[[], T]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1e3


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
