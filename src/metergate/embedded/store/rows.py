"""Rows on their way into tables. A statement costs DuckDB as much as hundreds of rows do, so those of a whole group of
writes go in together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import duckdb


class Rows:
    """What the writer thread puts in, on its cursor."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._appenders: dict[str, duckdb.Appender] = {}
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}

    def append(self, table: str, row: tuple[Any, ...]) -> None:
        """Put the row in before the next statement."""
        self._waiting.setdefault(table, []).append(row)

    def put(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Put the rows in now."""
        appender = self._appenders.get(table)
        if appender is None:
            appender = self._appenders[table] = self._cursor.appender(table)
        self._cursor.complete()  # a statement whose rows were not all fetched would be in the way
        try:
            appender.append_rows(rows)
            appender.flush()
        except BaseException:
            appender.clear()
            raise

    def flush(self) -> None:
        """Put in what waits."""
        while self._waiting:
            table, rows = self._waiting.popitem()
            self.put(table, rows)

    def clear(self) -> None:
        """Nothing waits any more: its transaction was rolled back."""
        self._waiting.clear()


class FlushingCursor:
    """The cursor, but that its statements see what was appended before them."""

    __slots__ = ("_cursor", "_flush")

    def __init__(self, cursor: duckdb.DuckDBPyConnection, flush: Callable[[], None]) -> None:
        self._cursor = cursor
        self._flush = flush

    def __getattr__(self, name: str) -> Any:
        self._flush()
        return getattr(self._cursor, name)
