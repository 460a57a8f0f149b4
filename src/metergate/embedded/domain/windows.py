"""Windows of time in a time zone: which local offset holds when, where a window begins and ends.

Rules as in OpenMeter's ClickHouse queries: MINUTE and HOUR have their fixed length; DAY and MONTH end one
calendar day or month later by the local clock, so a day of a change to or from summer time has 23 or 25
hours.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from metergate.embedded.domain.periods import Period

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MAX_WINDOWS = 10_000
_STRIDE = timedelta(days=7)
"""No zone has changed its offset and changed it back within less."""


class WindowSize(StrEnum):
    """How long a window is."""

    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


def find_zone(name: str) -> tzinfo:
    """The zone of this IANA name; UTC for ``UTC`` and the empty name, as Go's time.LoadLocation. Raises
    ValueError.
    """
    if name in ("UTC", ""):
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as exception:
        raise ValueError(f"unknown time zone {name}") from exception


def offsets(zone: tzinfo, start: datetime, end: datetime) -> list[tuple[datetime, timedelta]]:
    """The offsets from UTC that hold between two moments: pairs of since when (UTC) and offset, the first at
    ``start``.
    """
    pieces = [(start, _offset(zone, start))]
    year = start.year
    while year <= end.year:
        pieces += [piece for piece in _transitions(zone, year) if start < piece[0] <= end]
        year += 1
    return pieces


@lru_cache(1024)
def _transitions(zone: tzinfo, year: int) -> tuple[tuple[datetime, timedelta], ...]:
    """The changes of offset within one year of UTC."""
    found = []
    moment = datetime(year, 1, 1, tzinfo=UTC)
    last = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    before = _offset(zone, moment - timedelta(seconds=1)) if year > 1 else _offset(zone, moment)
    if before != _offset(zone, moment):
        found.append((moment, _offset(zone, moment)))
    while moment < last:
        following = moment + min(_STRIDE, last - moment)
        if _offset(zone, following) != _offset(zone, moment):
            change = _first_change(zone, moment, following)
            found.append((change, _offset(zone, change)))
        moment = following
    return tuple(found)


def _first_change(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """The first second with the offset of ``after``, found by halving."""
    old = _offset(zone, before)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if _offset(zone, middle) == old:
            before = middle
        else:
            after = middle
    return after


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    try:
        return moment.astimezone(zone).utcoffset() or timedelta(0)
    except OverflowError:  # the local time would lie outside of the years 1 to 9999
        return timedelta(0)


def window_start(moment: datetime, size: WindowSize, zone: tzinfo) -> datetime:
    """Where the window of this moment begins, in UTC: what the store's SQL does in its own fast way."""
    if size is WindowSize.MINUTE:
        return moment.replace(second=0, microsecond=0)
    offset = _offset(zone, moment)
    local = (moment + offset).replace(tzinfo=None, minute=0, second=0, microsecond=0)
    if size is WindowSize.HOUR:
        return local.replace(tzinfo=UTC) - offset
    local = local.replace(hour=0) if size is WindowSize.DAY else local.replace(day=1, hour=0)
    return from_local(local, zone)


def window_end(start: datetime, size: WindowSize, zone: tzinfo) -> datetime:
    """Where the window that begins at ``start`` ends."""
    if size is WindowSize.MINUTE:
        return start + MINUTE
    if size is WindowSize.HOUR:
        return start + HOUR
    local = start.astimezone(zone).replace(tzinfo=None) + HOUR
    # an hour later, since a day that begins with a gap begins at 01:00 by the local clock
    following = local + DAY if size is WindowSize.DAY else _next_month(local)
    return from_local(following.replace(hour=0, minute=0, second=0), zone)


def windows_between(start: datetime, end: datetime, size: WindowSize, zone: tzinfo) -> list[Period]:
    """The windows with a part of the time from ``start`` to ``end`` in them, whole ones, in order.

    Where clocks change by half an hour, so do the hours, and two of them share half an hour.

    Raises ValueError where they are more than ``MAX_WINDOWS``.
    """
    windows = []
    begin = window_start(start, size, zone)
    while begin < end:
        try:
            following = window_end(begin, size, zone)
        except OverflowError as exception:
            raise ValueError("there are no windows at the end of the year 9999") from exception
        windows.append(Period(begin, following))
        if len(windows) > MAX_WINDOWS:
            raise ValueError(f"more than {MAX_WINDOWS} windows of a {size.lower()} lie in between")
        again = window_start(following, size, zone)
        begin = again if again > begin else following
    return windows


def _next_month(local: datetime) -> datetime:
    return (local.replace(day=1) + 31 * DAY).replace(day=1)


def from_local(local: datetime, zone: tzinfo) -> datetime:
    """The moment when local clocks (naive) show this first; where they skip it, the moment of the change."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)
