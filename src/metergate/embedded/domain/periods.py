"""Calendar arithmetic of usage periods, recurrences and expirations: pure functions over UTC datetimes.

An interval is a number of calendar months plus a number of seconds. The n-th boundary of a recurrence is
always counted from its anchor, never from the boundary before: an anchor on January 31 gives February 28 and
then March 31. Days are 24 hours, since everything is in UTC.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC, second=0, microsecond=0)
"""What a computation beyond the calendar's year 9999 answers instead of overflowing."""

MINUTE = timedelta(minutes=1)
_HOUR_SECONDS = 3600
_DAY_SECONDS = 86400
_AVERAGE_MONTH_SECONDS = 2_629_746  # 400 Gregorian years divided by 4800

_NAMES = {"DAY": "P1D", "WEEK": "P1W", "MONTH": "P1M", "YEAR": "P1Y"}
_ENUM_OF_ISO = {iso: name for name, iso in _NAMES.items()}
_NUMBER = r"(\d+(?:\.\d+)?)"
_ISO = re.compile(
    rf"P(?:{_NUMBER}Y)?(?:{_NUMBER}M)?(?:{_NUMBER}W)?(?:{_NUMBER}D)?"
    rf"(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A length of time on the calendar: ``months`` first, then ``seconds``. ``iso``: how it was written."""

    months: int
    seconds: int
    iso: str

    @property
    def name(self) -> str:
        """``DAY``, ``WEEK``, ``MONTH`` or ``YEAR`` for the four that have a name, the ISO form otherwise."""
        return _ENUM_OF_ISO.get(self.iso, self.iso)

    @property
    def approximate_seconds(self) -> int:
        """The length in seconds, a month counted as an average one."""
        return self.months * _AVERAGE_MONTH_SECONDS + self.seconds


@dataclass(frozen=True, slots=True)
class Period:
    """From ``start`` (inclusive) to ``end`` (exclusive)."""

    start: datetime
    end: datetime

    def __contains__(self, time: datetime) -> bool:
        return self.start <= time < self.end


@dataclass(frozen=True, slots=True)
class Recurrence:
    """An ``interval`` that repeats for ever in both directions from ``anchor``."""

    interval: Interval
    anchor: datetime

    def boundary(self, number: int) -> datetime:
        """The ``number``-th boundary; 0 is the anchor, negative numbers lie before it."""
        return advance(self.anchor, self.interval, number)

    def number_at(self, time: datetime) -> int:
        """The number of the last boundary at or before ``time``."""
        number = int((time - self.anchor).total_seconds() // self.interval.approximate_seconds)
        while self.boundary(number) > time:
            number -= 1
        while self.boundary(number + 1) <= time and self.boundary(number + 1) < END:
            number += 1
        return number

    def period_at(self, time: datetime) -> Period:
        """The period that contains ``time``."""
        number = self.number_at(time)
        return Period(self.boundary(number), self.boundary(number + 1))

    def next_at(self, time: datetime) -> datetime:
        """The first boundary at or after ``time``."""
        number = self.number_at(time)
        return time if self.boundary(number) == time else self.boundary(number + 1)

    def boundaries(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """All boundaries later than ``after`` and not later than ``until``, in order."""
        number = self.number_at(after) + 1
        while (boundary := self.boundary(number)) <= until and boundary < END:
            yield boundary
            number += 1


def parse_interval(text: str) -> Interval:
    """Read ``DAY``, ``WEEK``, ``MONTH``, ``YEAR`` (any case) or an ISO 8601 duration of at least one hour.

    Fractions are allowed where they come out at whole seconds (``PT1.5H``) or whole months (``P0.5Y``).

    Raises:
        ValueError: with the sentence to tell the user.
    """
    iso = _NAMES.get(text.upper(), text.upper())
    match = _ISO.fullmatch(iso)
    if match is None or not any(match.groups()) or iso.endswith("T"):
        raise ValueError(
            f'"{text}" is not an interval; write DAY, WEEK, MONTH, YEAR or an ISO 8601 duration such as P2W'
        )
    years, months, weeks, days, hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    total_months = years * 12 + months
    total_seconds = (weeks * 7 + days) * _DAY_SECONDS + hours * _HOUR_SECONDS + minutes * 60 + seconds
    if total_months.denominator != 1 or total_seconds.denominator != 1:
        raise ValueError(f'"{text}" is not a whole number of months and seconds')
    if total_months == 0 and total_seconds < _HOUR_SECONDS:
        raise ValueError(f'"{text}" is shorter than an hour; an interval lasts at least PT1H')
    return Interval(int(total_months), int(total_seconds), iso)


def advance(time: datetime, interval: Interval, count: int = 1) -> datetime:
    """``time`` plus ``count`` times ``interval``; it never leaves the calendar (``BEGINNING``, ``END``)."""
    moved = add_months(time, interval.months * count)
    try:
        return min(moved + timedelta(seconds=interval.seconds * count), END)
    except OverflowError:
        return END if count > 0 else BEGINNING


def add_months(time: datetime, months: int) -> datetime:
    """The same day and time ``months`` later, or that month's last day where it is shorter."""
    if months == 0:
        return time
    index = time.year * 12 + time.month - 1 + months
    year, month = divmod(index, 12)
    if year > END.year:
        return END
    if year < BEGINNING.year:
        return BEGINNING
    last_day = calendar.monthrange(year, month + 1)[1]
    return time.replace(year=year, month=month + 1, day=min(time.day, last_day))


def floor_minute(time: datetime) -> datetime:
    """The full minute at or before ``time``: what grants, anchors and starts of measuring are cut to."""
    return time.replace(second=0, microsecond=0)


def ceil_minute(time: datetime) -> datetime:
    """The full minute at or after ``time``: balances are taken there, so that the running minute counts."""
    floor = floor_minute(time)
    return floor if floor == time or floor >= END else floor + MINUTE
