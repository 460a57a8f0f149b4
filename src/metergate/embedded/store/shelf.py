"""A table of documents that is also wholly in memory: few are written, each is read with every request.

The document is the JSON of a msgspec Struct with an ``id``. Columns beside it are only those that statements
of other modules look at; they stand between number and document, in the order given. Whoever writes does so in two
steps: ``put`` inside ``Database.write``, ``keep`` after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from metergate.embedded.store.database import Cursor, Database


class Identified(Protocol):
    """What can lie on a shelf."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Identified)


class Shelf(Generic[T]):
    """All items of one type, by id, in the order in which they were made."""

    def __init__(
        self, table: str, item_type: type[T], columns: Mapping[str, Callable[[T], Any]] | None = None
    ) -> None:
        self._table = table
        self._columns = columns or {}
        self._decode = msgspec.json.Decoder(item_type).decode
        self._encode = msgspec.json.Encoder().encode
        self._numbers: dict[str, int] = {}
        self._next = 0
        self.items: dict[str, T] = {}

    def load(self, database: Database) -> None:
        """Read the whole table. Called once, before the first request."""
        self._database = database
        statement = f"SELECT number, document FROM {self._table} ORDER BY number"  # noqa: S608 - a constant
        rows = database.submit(lambda cursor: cursor.execute(statement).fetchall()).result()
        for number, document in rows:
            item = self._decode(document)
            self.items[item.id] = item
            self._numbers[item.id] = number
            self._next = number + 1

    def put(self, cursor: Cursor, item: T) -> None:
        """Write the item, in place of the one with its id if there is one."""
        if item.id in self._numbers:
            self.drop(cursor, item.id)
        else:
            self._numbers[item.id] = self._next
            self._next += 1
        beside = [read(item) for read in self._columns.values()]
        row = (item.id, self._numbers[item.id], *beside, self._encode(item).decode())
        self._database.append(self._table, row)

    def drop(self, cursor: Cursor, identifier: str) -> None:
        """Delete the row with this id."""
        cursor.execute(f"DELETE FROM {self._table} WHERE id = ?", [identifier])  # noqa: S608

    def keep(self, item: T) -> None:
        """Have the item in memory, now that it is on disk."""
        self.items[item.id] = item

    def forget(self, identifier: str) -> None:
        """Have the item no longer, now that its row is dropped."""
        del self.items[identifier]
        del self._numbers[identifier]
