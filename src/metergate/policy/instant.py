"""Instants as events carry them: RFC 3339, UTC, milliseconds, ``Z`` (only ``Z`` reads as UTC in OpenMeter's
clients)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:)([0-9]{2})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MILLISECONDS = tuple(b".%03dZ" % number for number in range(1000))


def format_instant(time_ms: int) -> bytes:
    """``time_ms`` milliseconds after 1970, as ``2026-01-31T12:00:00.000Z``."""
    second, millisecond = divmod(time_ms, 1000)
    return _format_second(second) + _MILLISECONDS[millisecond]


@lru_cache(maxsize=16)
def _format_second(second: int) -> bytes:
    return (datetime(1970, 1, 1) + timedelta(seconds=second)).isoformat().encode()  # noqa: DTZ001 - UTC, without offset


def read_instant(value: Any) -> str:
    """An aware datetime or an RFC 3339 string as an event's time; what is below a millisecond is cut off.

    Raises ValueError for anything else.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError("a datetime without a time zone; give it one, such as datetime.UTC")
    elif not isinstance(value, str):
        raise ValueError(f"a Python {type(value).__name__}; give an aware datetime or an RFC 3339 string")
    try:
        moment = value if isinstance(value, datetime) else _parse(value)
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        raise ValueError("outside the years 1 to 9999 in UTC") from None


def _parse(text: str) -> datetime:
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:60]!r}, which is not RFC 3339, such as 2026-01-31T12:00:00Z")
    date, minute, second, fraction, zone = match.groups()
    leap = second == "60"  # RFC 3339 allows a leap second, datetime does not: it is the second after :59
    micro = (fraction or ".")[1:7].ljust(6, "0")
    offset = "+00:00" if zone in "Zz" else zone
    try:
        moment = datetime.fromisoformat(f"{date}T{minute}{'59' if leap else second}.{micro}{offset}")
    except ValueError as reason:
        raise ValueError(f"{text[:60]!r}, which is not a date and time: {reason}") from None
    return moment + timedelta(seconds=1) if leap else moment
