"""Where a list of events was left off: the time and the number of the last event that was shown.

Written as OpenMeter's (its pkg/pagination/v2): base 64 of ``<RFC 3339>,<row id>``. Clients only hand it back.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime

from metergate.embedded.domain.moments import format_rfc3339, parse_rfc3339

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Cursor:
    """``number`` counts events in the order in which they were stored."""

    time: datetime
    number: int

    def encode(self) -> str:
        """What a client gets."""
        return base64.b64encode(f"{format_rfc3339(self.time)},{self.number}".encode()).decode()


@dataclass(frozen=True, slots=True, order=True)
class IdCursor:
    """Where a list of things was left off that have an id instead of a number."""

    time: datetime
    id: str

    def encode(self) -> str:
        """What a client gets."""
        return base64.b64encode(f"{format_rfc3339(self.time)},{self.id}".encode()).decode()


def decode_cursor(text: str) -> Cursor:
    """What a client gave back. Raises ValueError that says what is wrong with it."""
    moment, number = _decode(text)
    if not _NUMBER.fullmatch(number):
        raise ValueError("cursor is invalid: its id is not one of this server")
    return Cursor(moment, int(number))


def decode_id_cursor(text: str) -> IdCursor:
    """The same for a list of things with ids."""
    return IdCursor(*_decode(text))


def _decode(text: str) -> tuple[datetime, str]:
    if not text:
        raise ValueError("text is empty")
    try:
        time, separator, number = base64.b64decode(text, validate=True).decode().partition(",")
    except (binascii.Error, ValueError) as exception:
        raise ValueError(f"decode cursor: {exception}") from exception
    if not separator:
        raise ValueError("cursor is invalid: no delimiter found")
    try:
        return parse_rfc3339(time), number
    except ValueError as exception:
        raise ValueError(f"parse cursor timestamp: {exception}") from exception
