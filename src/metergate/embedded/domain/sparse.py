"""The burn-down over long times in which something is used at a few moments only: a value years ahead, or after years.

Between two moments of usage everything that happens is known beforehand: grants start and end, recur, and usage is reset.
So the ledger is not carried through each of these, but over all of them at once; that costs about as much for ten
years of hours as for one. The outcome is the same as that of ``grants.run`` (which is how it is tested).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import TypeVar

from metergate.embedded.domain.entitlements import Entitlement, Value, opening
from metergate.embedded.domain.grants import (
    EXACT,
    MAX_PHASES,
    ZERO,
    Grant,
    Ledger,
    TooManyPhases,
    burn_flow,
    burn_order,
    enter,
)
from metergate.embedded.domain.periods import END, Recurrence, ceil_minute
from metergate.embedded.domain.usage_periods import last_reset, number_of_resets, usage_period_at

T = TypeVar("T")
_INSTANT = timedelta(microseconds=1)
FEW = 12
"""Up to about so many phases are run one by one."""


@dataclass(frozen=True, slots=True)
class Course:
    """What happens to an entitlement beside usage. ``grants`` are in the order of burning."""

    entitlement: Entitlement
    grants: Sequence[Grant]

    @classmethod
    def of(cls, entitlement: Entitlement, grants: Sequence[Grant]) -> Course:
        """The course with these grants, given in any order."""
        return cls(entitlement, burn_order(grants))

    def run(
        self,
        ledger: Ledger,
        until: datetime,
        used: Sequence[tuple[datetime, T]],
        measure: Callable[[datetime, Sequence[T]], Decimal],
    ) -> Ledger:
        """The ledger at ``until``. ``used`` are the moments with usage since the ledger's, in order.

        ``measure`` tells what those of one phase come to, given when the usage period began.

        Raises:
            TooManyPhases: where usage or what is owed takes more than ``MAX_PHASES`` steps.
        """
        place, steps = 0, 0
        with localcontext(EXACT):
            while place < len(used):
                ledger = self._skip(ledger, used[place][0])
                end = min(self._next_change(used[place][0]), until)
                first = place
                while place < len(used) and used[place][0] < end:
                    place += 1
                amount = measure(ledger.period_start, [each for _, each in used[first:place]])
                ledger = self._enter(burn_flow(ledger, self.grants, amount), end)
                if (steps := steps + 1) > MAX_PHASES:
                    raise _too_many()
            return replace(self._skip(ledger, until), at=until)

    def _next_change(self, time: datetime) -> datetime:
        """The first moment after ``time`` at which a grant changes or usage is reset."""
        changes = [self._next_reset(time)]
        for grant in self.grants:
            changes += [each for each in (grant.effective_at, grant.ends_at) if each > time]
            if grant.recurrence is not None and time < grant.ends_at:
                changes.append(_next_boundary(grant.recurrence, max(time, grant.effective_at)))
        return min(changes)

    def _next_reset(self, time: datetime) -> datetime:
        period = usage_period_at(self.entitlement, time)
        return END if period is None else period.end

    def _enter(self, ledger: Ledger, at: datetime) -> Ledger:
        reset = last_reset(self.entitlement, at)
        return enter(ledger, self.grants, at, None if reset is None or reset.at != at else reset)

    def _skip(self, ledger: Ledger, to: datetime) -> Ledger:
        """The ledger after all that happens until ``to``, that moment with it, where nothing is used meanwhile."""
        for cut in self._cuts(ledger.at, to):
            ledger = self._enter(self._repeat(ledger, cut - _INSTANT), cut)
        return self._repeat(ledger, to)

    def _cuts(self, after: datetime, to: datetime) -> list[datetime]:
        """What happens once: grants start and end, usage is reset by hand."""
        metering = self.entitlement.metering
        by_hand = [reset.at for reset in metering.resets] if metering is not None else []
        cuts = {each for grant in self.grants for each in (grant.effective_at, grant.ends_at)} | set(by_hand)
        return sorted(cut for cut in cuts if after < cut <= to)

    def _repeat(self, ledger: Ledger, to: datetime) -> Ledger:
        """The ledger after all that repeats until ``to``: periods end, grants recur."""
        steps = 0
        while ledger.owed > 0:
            ledger = self._pay_part(ledger, to)
            if (change := self._next_change(ledger.at)) > to:
                return replace(ledger, at=max(ledger.at, to))
            ledger = self._enter(ledger, change)
            if (steps := steps + 1) > MAX_PHASES:
                raise _too_many()
        reset = last_reset(self.entitlement, to)
        reset = None if reset is None or reset.at <= ledger.at else reset
        balances, used = {}, {}
        for grant in self._active(ledger):
            balance, refilled = ledger.balances[grant.id], _last_boundary(grant, ledger.at, to)
            if refilled is not None:
                balance = grant.amount
            if reset is not None and (refilled is None or refilled < reset.at):
                balance = grant.after_reset(balance)
            balances[grant.id] = balance
            if reset is None and refilled is None:
                used[grant.id] = ledger.used.get(grant.id, ZERO)
        if reset is not None:
            return Ledger(max(ledger.at, to), reset.at, balances, used)
        return replace(ledger, at=max(ledger.at, to), balances=balances, used=used)

    def _active(self, ledger: Ledger) -> Iterator[Grant]:
        return (grant for grant in self.grants if grant.id in ledger.balances)

    def _pay_part(self, ledger: Ledger, to: datetime) -> Ledger:
        """The ledger after so much of what repeats that a part of what is owed is paid, and not all of it.

        As long as something is owed nothing is left of any grant; so a recurrence pays its whole amount, and a reset,
        where overage is preserved, what a grant of which nothing is left has after it.
        """
        metering = self.entitlement.metering
        preserved = metering is not None and metering.preserve_overage_at_reset
        rolled = {grant.id: grant.after_reset(ZERO) if preserved else ZERO for grant in self._active(ledger)}
        if any(grant.recurrence is not None and rolled[grant.id] > 0 for grant in self._active(ledger)):
            return ledger  # a recurrence may fall on a reset and then pays in its place: these are taken one by one
        if not preserved:
            to = min(to, self._next_reset(ledger.at) - _INSTANT)

        def paid(after: datetime, until: datetime) -> Decimal:
            resets = number_of_resets(self.entitlement, after, until)
            return sum(
                (
                    grant.amount * _number(grant, after, until) + rolled[grant.id] * resets
                    for grant in self._active(ledger)
                ),
                ZERO,
            )

        until = _last_before(ledger.at, to, lambda time: paid(ledger.at, time) < ledger.owed)
        reset = last_reset(self.entitlement, until)
        reset = None if reset is None or reset.at <= ledger.at else reset
        used = {}
        for grant in self._active(ledger):
            refilled = _last_boundary(grant, ledger.at, until)
            if refilled is not None and (reset is None or refilled >= reset.at):
                used[grant.id] = grant.amount
            else:
                used[grant.id] = ledger.used.get(grant.id, ZERO) if reset is None else rolled[grant.id]
        since = ledger.at if reset is None else reset.at - _INSTANT
        return replace(
            ledger,
            at=until,
            used=used,
            owed=ledger.owed - paid(ledger.at, until),
            usage=ledger.usage if reset is None else ZERO,
            consumed=(ledger.consumed if reset is None else ZERO) + paid(since, until),
            period_start=ledger.period_start if reset is None else reset.at,
        )


@dataclass(frozen=True, slots=True)
class SparseQuestion:
    """What a meter must be asked for a value: the moments with usage from the ledger's on."""

    course: Course
    ledger: Ledger
    until: datetime
    is_soft_limit: bool

    @property
    def whole_minutes(self) -> bool:
        """Whether nothing happens within a minute, so that usage may be told by the minute."""
        period = self.course.entitlement.usage_period
        repeated = [grant.recurrence for grant in self.course.grants]
        return all(each is None or each.interval.seconds % 60 == 0 for each in (period, *repeated))

    def run(
        self, used: Sequence[tuple[datetime, T]], measure: Callable[[datetime, Sequence[T]], Decimal]
    ) -> Ledger:
        """The ledger at that time. Arguments: see ``Course.run``. Raises TooManyPhases."""
        return self.course.run(self.ledger, self.until, used, measure)

    def answer(
        self, used: Sequence[tuple[datetime, T]], measure: Callable[[datetime, Sequence[T]], Decimal]
    ) -> Value:
        """The value at that time, given the same."""
        ledger = self.run(used, measure)
        return Value(self.is_soft_limit or ledger.balance > 0, ledger)


def ask_sparsely(entitlement: Entitlement, issued: Sequence[Grant], time: datetime) -> SparseQuestion | None:
    """What to ask the meter, which is not a gauge, for the value at ``time``; None where there are few phases."""
    metering, period, until = entitlement.metering, entitlement.usage_period, ceil_minute(time)
    if metering is None or period is None or until <= metering.measure_usage_from:
        return None
    ledger = opening(entitlement, metering, issued, until, gauge=False)
    seconds = (until - ledger.at).total_seconds()
    recurrences = [period, *(grant.recurrence for grant in issued if grant.recurrence is not None)]
    if sum(seconds / each.interval.approximate_seconds for each in recurrences) <= FEW:
        return None
    return SparseQuestion(Course.of(entitlement, issued), ledger, until, metering.is_soft_limit)


def _too_many() -> TooManyPhases:
    return TooManyPhases(f"more than {MAX_PHASES} usage periods and grant changes with usage lie in between")


def _next_boundary(recurrence: Recurrence, time: datetime) -> datetime:
    return recurrence.boundary(recurrence.number_at(time) + 1)


def _last_boundary(grant: Grant, after: datetime, until: datetime) -> datetime | None:
    """When it recurred last, later than ``after``; it is active all the time."""
    if grant.recurrence is None:
        return None
    boundary = grant.recurrence.boundary(grant.recurrence.number_at(until))
    return boundary if boundary > after else None


def _number(grant: Grant, after: datetime, until: datetime) -> int:
    """How often it recurs in between, ``until`` with it."""
    if grant.recurrence is None:
        return 0
    return grant.recurrence.number_at(until) - grant.recurrence.number_at(after)


def _last_before(low: datetime, high: datetime, holds: Callable[[datetime], bool]) -> datetime:
    """The last moment up to ``high`` for which it holds, as it does for ``low`` and from some moment on no more."""
    if high <= low or holds(high):
        return max(low, high)
    while high - low > _INSTANT:
        middle = low + (high - low) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
