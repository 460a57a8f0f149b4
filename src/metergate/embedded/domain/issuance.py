"""Grants as they are issued and kept: what a client says of one, and what the engine makes of it.

Rules: openmeter/credit/grant, openmeter/entitlement/driver. Amounts are numbers in JSON, Decimals inside.
"""

from __future__ import annotations

import calendar
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from metergate.embedded.domain.grants import Grant
from metergate.embedded.domain.moments import format_rfc3339, parse_rfc3339
from metergate.embedded.domain.periods import END, Recurrence, floor_minute, parse_interval

Amount = Annotated[float, Meta(ge=0)]
Priority = Annotated[int, Meta(ge=1, le=255)]

_LARGEST = sys.float_info.max
_FIXED = {"HOUR": timedelta(hours=1), "DAY": timedelta(days=1), "WEEK": timedelta(weeks=1)}
_MONTHS = {"MONTH": 1, "YEAR": 12}


class RecurringPeriodInput(Struct, frozen=True):
    """``interval`` DAY, WEEK, MONTH, YEAR or ISO 8601; ``anchor`` RFC 3339."""

    interval: str
    anchor: str | UnsetType = UNSET

    def read(self, default_anchor: datetime) -> Recurrence:
        """The recurrence meant, its anchor cut to the minute. Raises ValueError."""
        anchor = parse_rfc3339(self.anchor) if self.anchor else default_anchor
        return Recurrence(parse_interval(self.interval), floor_minute(anchor))


class Expiration(Struct, frozen=True):
    """A grant ends ``count`` times ``duration`` after it starts."""

    duration: Literal["HOUR", "DAY", "WEEK", "MONTH", "YEAR"]
    count: Annotated[int, Meta(ge=1, le=1000)]

    def after(self, start: datetime) -> datetime:
        """When a grant ends that starts at ``start``.

        A day that the month does not have runs into the next one, as in Go: a month after January 31 is
        March 3. (Usage periods are clamped instead.)
        """
        try:
            if self.duration in _FIXED:
                return start + _FIXED[self.duration] * self.count
            return _add_months_as_go(start, _MONTHS[self.duration] * self.count)
        except (OverflowError, ValueError):
            return END


class GrantInput(Struct, frozen=True, rename="camel", kw_only=True):
    """What a client says of a grant in version 2 of the API."""

    amount: Amount
    effective_at: str
    priority: Priority | UnsetType = UNSET
    expiration: Expiration | UnsetType = UNSET
    min_rollover_amount: Amount | UnsetType = UNSET
    max_rollover_amount: Amount | UnsetType = UNSET
    recurrence: RecurringPeriodInput | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    annotations: dict[str, Any] | UnsetType = UNSET


class GrantInputV1(Struct, frozen=True, rename="camel", kw_only=True):
    """The same in version 1: every grant ends, and nothing is rolled over unless it is said."""

    amount: Amount
    effective_at: str
    expiration: Expiration
    priority: Priority | UnsetType = UNSET
    min_rollover_amount: Amount = 0
    max_rollover_amount: Amount = 0
    recurrence: RecurringPeriodInput | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET

    def in_version_2(self) -> GrantInput:
        """The input of version 2 that means the same."""
        return GrantInput(**{name: getattr(self, name) for name in self.__struct_fields__})


class IssuedGrant(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A grant of an entitlement: what the engine burns, and what else is told of it."""

    entitlement_id: str
    grant: Grant
    updated_at: datetime
    expiration: Expiration | None = None
    metadata: Mapping[str, str] | None = None
    annotations: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """The grant's own id."""
        return self.grant.id


def decimal(number: float) -> Decimal:
    """The number as it was written, not as binary holds it: 0.1 is a tenth."""
    return Decimal(repr(number))


def issue(given: GrantInput, entitlement_id: str, identifier: str, now: datetime) -> IssuedGrant:
    """The grant that the input describes. Its rollover is up to the whole amount where nothing else is said.

    Raises:
        ValueError: with what is wrong, for a client.
    """
    if given.amount <= 0:
        raise ValueError("amount must be greater than 0")
    effective_at = floor_minute(parse_rfc3339(given.effective_at))
    expiration = given.expiration or None
    grant = Grant(
        id=identifier,
        amount=decimal(given.amount),
        priority=given.priority or 0,
        effective_at=effective_at,
        created_at=now,
        expires_at=expiration.after(effective_at) if expiration else None,
        min_rollover=decimal(given.min_rollover_amount or 0),
        max_rollover=decimal(
            given.amount if given.max_rollover_amount is UNSET else given.max_rollover_amount
        ),
        recurrence=given.recurrence.read(effective_at) if given.recurrence else None,
    )
    return IssuedGrant(
        entitlement_id=entitlement_id,
        grant=grant,
        updated_at=now,
        expiration=expiration,
        metadata=given.metadata or None,
        annotations=given.annotations or None,
    )


def issue_after_reset(
    entitlement_id: str,
    amount: Decimal,
    priority: int,
    effective_at: datetime,
    identifier: str,
    now: datetime,
) -> IssuedGrant:
    """The grant behind ``issueAfterReset``: it never ends and has its whole amount after every reset."""
    grant = Grant(
        id=identifier,
        amount=amount,
        priority=priority,
        effective_at=effective_at,
        created_at=now,
        min_rollover=amount,
        max_rollover=amount,
    )
    return IssuedGrant(
        entitlement_id=entitlement_id, grant=grant, updated_at=now, annotations={"issueAfterReset": True}
    )


def void(issued: IssuedGrant, at: datetime, period_start: datetime, now: datetime) -> IssuedGrant:
    """The grant, worth nothing from ``at`` on, which is cut to the minute.

    Raises:
        ValueError: in the future, before the current usage period, and where it is void already.
    """
    at = floor_minute(at)
    if at > now:
        raise ValueError(f"void time {format_rfc3339(at)} must not be in the future")
    if issued.grant.voided_at is not None:
        raise ValueError("grant already voided")
    if at < period_start:
        start = format_rfc3339(period_start)
        raise ValueError(f"void time {format_rfc3339(at)} is before the current usage period start {start}")
    return msgspec.structs.replace(issued, grant=replace(issued.grant, voided_at=at), updated_at=now)


def refuse_before_period(grant: Grant, period_start: datetime) -> None:
    """Raise ValueError where the grant would change what an earlier usage period left."""
    if grant.effective_at < period_start:
        raise ValueError(
            f"grant effective date {format_rfc3339(grant.effective_at)} is before the current usage period "
            f"{format_rfc3339(period_start)}"
        )


def number(value: Decimal) -> int | float:
    """The amount as JSON writes it: whole numbers without a fraction, as Go does; beyond float64 its largest number."""
    if value == value.to_integral_value() and abs(value) < 2**53:
        return int(value)
    return max(-_LARGEST, min(_LARGEST, float(value)))


def _add_months_as_go(start: datetime, months: int) -> datetime:
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    last_day = calendar.monthrange(year, month + 1)[1]
    surplus = max(start.day - last_day, 0)
    return start.replace(year=year, month=month + 1, day=start.day - surplus) + timedelta(days=surplus)
