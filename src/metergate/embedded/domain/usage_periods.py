"""Usage periods: when an entitlement's usage begins to count anew, by its calendar and by hand.

Rules: openmeter/entitlement/usageperiod.go, metered/reset.go, credit/balance.go (ResetUsageForOwner).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from metergate.embedded.domain.grants import Reset
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.domain.periods import END, Period, Recurrence, floor_minute

if TYPE_CHECKING:  # that module builds on this one
    from metergate.embedded.domain.entitlements import Entitlement


class CannotReset(ValueError):
    """Usage cannot be reset as asked; the text is for the client."""


class UsageReset(Struct, frozen=True, rename="camel"):
    """A reset by hand: a usage period begins ``at``; from then on they are counted from ``anchor``."""

    at: datetime
    anchor: datetime
    preserve_overage: bool = False


def usage_period_at(entitlement: Entitlement, time: datetime) -> Period | None:
    """The usage period that contains ``time``; the first one begins with measuring, not with the calendar's."""
    if entitlement.usage_period is None or entitlement.metering is None:
        return entitlement.usage_period.period_at(time) if entitlement.usage_period else None
    time = max(time, entitlement.metering.measure_usage_from)
    spans = _spans(entitlement)
    index = max(number for number, span in enumerate(spans) if span.start <= time)
    period = spans[index].recurrence.period_at(time)
    end = spans[index + 1].start if index + 1 < len(spans) else END
    return Period(max(period.start, spans[index].start), min(period.end, end))


def last_reset(entitlement: Entitlement, time: datetime) -> Reset | None:
    """The last reset not later than ``time``; None in the first usage period."""
    metering, period = entitlement.metering, usage_period_at(entitlement, time)
    if metering is None or period is None or period.start <= metering.measure_usage_from:
        return None
    by_hand = next((reset for reset in metering.resets if reset.at == period.start), None)
    preserve = by_hand.preserve_overage if by_hand else metering.preserve_overage_at_reset
    return Reset(period.start, preserve)


def number_of_resets(entitlement: Entitlement, after: datetime, until: datetime) -> int:
    """How many usage periods end in between, ``until`` with it, where no usage is reset by hand."""
    span = next(span for span in reversed(_spans(entitlement)) if span.start <= after)
    return span.recurrence.number_at(until) - span.recurrence.number_at(after)


def resets_between(entitlement: Entitlement, after: datetime, until: datetime) -> Iterator[Reset]:
    """The resets later than ``after``, not later than ``until``, in order: at ends of periods and by hand."""
    metering = entitlement.metering
    if metering is None:
        return
    spans = _spans(entitlement)
    for number, span in enumerate(spans):
        if number and after < span.start <= until:
            yield Reset(span.start, metering.resets[number - 1].preserve_overage)
        end = spans[number + 1].start if number + 1 < len(spans) else END
        for boundary in span.recurrence.boundaries(max(after, span.start), min(until, end)):
            if boundary < end:
                yield Reset(boundary, metering.preserve_overage_at_reset)


def reset_usage(
    entitlement: Entitlement, at: datetime, now: datetime, *, retain_anchor: bool, preserve: bool | None
) -> Entitlement:
    """The entitlement with a new usage period from ``at`` on, which is cut to the minute.

    Later periods are counted from there too, unless the anchor is retained. ``preserve`` says whether overage
    is carried over; None: as the entitlement has it.

    Raises:
        CannotReset: in the future, before the current usage period, and in the minute of the last reset.
    """
    metering, period = entitlement.metering, usage_period_at(entitlement, now)
    if metering is None or period is None:
        raise CannotReset("only metered entitlements have usage to reset")
    if at > now:
        raise CannotReset(f"cannot reset at {format_rfc3339(at)} in the future")
    at = floor_minute(at)
    if at < period.start:
        start = format_rfc3339(period.start)
        raise CannotReset(f"reset at {format_rfc3339(at)} is before current usage period start {start}")
    if at == period.start:  # be it a reset by hand, by the calendar, or the moment when measuring began
        raise CannotReset(f"reset at {format_rfc3339(at)} is not after last reset at {format_rfc3339(at)}")
    anchor = _spans(entitlement)[-1].recurrence.anchor if retain_anchor else at
    reset = UsageReset(at, anchor, metering.preserve_overage_at_reset if preserve is None else preserve)
    changed = msgspec.structs.replace(metering, resets=(*metering.resets, reset))
    return msgspec.structs.replace(entitlement, metering=changed, updated_at=now)


@dataclass(frozen=True, slots=True)
class _Span:
    """Usage periods are counted by ``recurrence`` from ``start`` until the next span starts."""

    start: datetime
    recurrence: Recurrence


def _spans(entitlement: Entitlement) -> list[_Span]:
    metering, recurrence = entitlement.metering, entitlement.usage_period
    if metering is None or recurrence is None:
        return []
    spans = [_Span(metering.measure_usage_from, recurrence)]
    spans += [_Span(reset.at, Recurrence(recurrence.interval, reset.anchor)) for reset in metering.resets]
    return spans
