"""Points in time between RFC 3339 text, aware datetimes in UTC, and what the database keeps.

OpenMeter writes ``Z``, never ``+00:00``, and Go's shortest fraction: none for whole seconds, else without
trailing zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Gives the present time, aware, in UTC. Handed in, so that tests can move it."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt][0-2]\d:[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT[0-2]\d:[0-5]\d:[0-5]\d(?:\.\d+)?Z", re.ASCII)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - for moments that are in UTC anyway


def system_clock() -> datetime:
    """The present time of this machine."""
    return datetime.now(UTC)


def parse_rfc3339(text: str) -> datetime:
    """The moment in UTC, finer than microseconds cut. Raises ValueError for anything but RFC 3339.

    A leap second counts as the first second of the next minute.
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no RFC 3339 date-time such as 2026-01-31T09:30:00Z")
    leap = text[17:19] == "60"
    moment = datetime.fromisoformat((text[:17] + "59" + text[19:] if leap else text).upper())
    return in_utc(moment, SECOND if leap else timedelta(0))


def parse_seconds(text: str) -> int:
    """The same as whole seconds since 1970, a fraction is cut. In UTC, as nearly all are, it is quick."""
    if _USUAL.fullmatch(text) is None:
        return (parse_rfc3339(text) - EPOCH) // SECOND
    since = datetime.fromisoformat(text[:19]) - _NAIVE_EPOCH
    return since.days * 86_400 + since.seconds


def in_utc(moment: datetime, later: timedelta = timedelta(0)) -> datetime:
    """The aware moment in UTC, ``later`` added. Raises ValueError where UTC's calendar does not reach."""
    try:
        return moment.astimezone(UTC) + later
    except OverflowError as exception:
        raise ValueError(f"{moment.isoformat()} lies outside of the years 1 to 9999") from exception


def format_rfc3339(moment: datetime) -> str:
    """As Go's encoding/json writes it in UTC: ``2026-01-31T09:30:00Z``, ``…00.25Z``."""
    text = (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat().removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "Z"


def format_local(moment: datetime, zone: tzinfo) -> str:
    """The same on the clocks of ``zone``, with its offset: ``2026-01-31T10:30:00+01:00``; ``Z`` in UTC."""
    local = moment.astimezone(zone)
    if not local.utcoffset():
        return format_rfc3339(moment)
    text = local.replace(microsecond=0).isoformat()
    return text if len(text) == len("2026-01-31T10:30:00+01:00") else format_rfc3339(moment)


def truncate(moment: datetime, unit: timedelta) -> datetime:
    """The moment rounded down to a multiple of ``unit`` since 1970 in UTC."""
    return moment - (moment - EPOCH) % unit


def to_database(moment: datetime) -> datetime:
    """What goes into a TIMESTAMP column: naive, in UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def from_database(value: datetime) -> datetime:
    """What a TIMESTAMP column gave, as an aware moment."""
    return value.replace(tzinfo=UTC)
