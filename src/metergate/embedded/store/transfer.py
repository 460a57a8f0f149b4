"""All events in the order in which they were stored, page by page, as JSON lines of CloudEvents."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from metergate.embedded.domain.moments import format_rfc3339, from_database
from metergate.embedded.store.database import Cursor, Row

PAGE = 20_000
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Page:
    """``lines`` are the events with numbers above the one asked for, up to ``upto``; ``last`` is the highest there is."""

    lines: list[bytes]
    upto: int
    last: int


def read_page(cursor: Cursor, after: int, size: int = PAGE) -> Page:
    """The page behind this number, -1 being before the first. It may be empty in the midst of the events.

    ``upto`` is ``last`` at the end.
    """
    row = cursor.execute("SELECT min(seq), max(seq) FROM events WHERE seq > ?", [after]).fetchone()
    if row is None or row[0] is None:
        return Page([], after, after)
    first, last = row
    upto = min(first + size - 1, last)
    rows = cursor.execute(
        "SELECT id, source, type, subject, time, data FROM events WHERE seq >= ? AND seq <= ? ORDER BY seq",
        [first, upto],
    ).fetchall()
    return Page([_line(row) for row in rows], upto, last)


def _line(row: Row) -> bytes:
    event = {
        "specversion": "1.0",
        "id": row[0],
        "source": row[1],
        "type": row[2],
        "subject": row[3],
        "time": format_rfc3339(from_database(row[4])),
    }
    if row[5] is not None:
        event["data"] = msgspec.Raw(row[5].encode())
    return _encode(event)
