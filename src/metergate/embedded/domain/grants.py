"""The burn-down of grants by usage: what is left of each grant, and what no grant covered (the overage).

Time is cut into phases wherever something happens that is known beforehand: a grant starts, ends or recurs,
or usage is reset. The caller asks the meter for the usage of each phase, then ``run`` burns it in order. So
the whole computation is two pure functions with one query in between::

    phases = plan(grants, resets, ledger.at, until, ledger.period_start)
    usages = [usage of the meter from phase.start to phase.end for phase in phases]
    result = run(grants, resets, ledger, phases, usages)

A ``Ledger`` is the state *at* a moment with everything that happens at that moment already done, so a run can
be cut anywhere and taken up again from the ledger in between: the outcome is the same.

Rules (OpenMeter, openmeter/credit/engine):

* Order: lower priority number first, then the earlier expiration (none comes last), then the earlier
  creation, then the id.
* A grant has its full amount when it starts and again at each of its recurrences; it is worth nothing from
  the moment it expires or is voided.
* At a reset a grant keeps ``min(max_rollover, max(min_rollover, balance))``. Overage is forgotten, or carried
  over where overage is preserved; what is carried is burned from the grants at once.
* Overage stays owed within a period: a grant that starts later pays it first.
* A gauge (a LATEST meter) is no flow but a level: in each phase the balances are taken anew from the full
  amounts and the level is subtracted.
* Negative usage (a correction) first lowers the overage, then gives back to the grants what was burned from
  them, in the reverse order; what is left stays a credit against later usage of the period.

Amounts are Decimals, so that ten times 0.1 uses up a grant of 1 exactly, and are added without rounding, however far
apart they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, localcontext

from metergate.embedded.domain.periods import END, Recurrence

ZERO = Decimal(0)
EXACT = Context(prec=1_000)
"""Sums of amounts have fewer digits: float64, which they come from, has 309 before the point and about 340 behind it."""
MAX_PHASES = 100_000


class TooManyPhases(ValueError):
    """The time asked for is so many usage periods away that computing it would take too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An amount of usage that is paid for. Times are full minutes; it ends before ``expires_at``."""

    id: str
    amount: Decimal
    priority: int
    effective_at: datetime
    created_at: datetime
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    min_rollover: Decimal = ZERO
    max_rollover: Decimal = ZERO
    recurrence: Recurrence | None = None

    @property
    def ends_at(self) -> datetime:
        """The first moment at which it is worth nothing any more."""
        return max(self.effective_at, min(self.expires_at or END, self.voided_at or END))

    @property
    def forgets(self) -> bool:
        """Whether its balance after a reset is the same whatever it was before."""
        return self.min_rollover >= self.max_rollover

    def active_at(self, time: datetime) -> bool:
        """Whether usage at ``time`` may be burned from it."""
        return self.effective_at <= time < self.ends_at

    def after_reset(self, balance: Decimal) -> Decimal:
        """What is left of ``balance`` after a reset."""
        return min(self.max_rollover, max(self.min_rollover, balance))

    def refills_at(self, time: datetime) -> bool:
        """Whether it has its full amount at ``time``: it starts or recurs there."""
        if time == self.effective_at:
            return True
        if self.recurrence is None or not self.active_at(time):
            return False
        return self.recurrence.boundary(self.recurrence.number_at(time)) == time

    def changes(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The moments later than ``after``, not later than ``until``, at which it starts, ends or recurs."""
        if self.ends_at > self.effective_at:
            yield from (time for time in (self.effective_at, self.ends_at) if after < time <= until)
        if self.recurrence is not None:
            start, end = max(after, self.effective_at), min(until, self.ends_at)
            yield from self.recurrence.boundaries(start, end)


@dataclass(frozen=True, slots=True)
class Reset:
    """A new usage period begins ``at`` this full minute."""

    at: datetime
    preserve_overage: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time, ``end`` exclusive, in which nothing but usage changes a balance.

    ``period_start`` is when its usage period began: what UNIQUE_COUNT and LATEST are counted from.
    """

    start: datetime
    end: datetime
    period_start: datetime


@dataclass(frozen=True, slots=True)
class Ledger:
    """The state at a moment. ``balances`` has exactly the grants that are active ``at`` it.

    ``used`` is what was burned from each of them since it last had a new balance. ``usage`` and ``consumed``
    (burned from whichever grant) count since ``period_start``. A negative ``owed`` is a credit.
    """

    at: datetime
    period_start: datetime
    balances: Mapping[str, Decimal] = field(default_factory=dict)
    used: Mapping[str, Decimal] = field(default_factory=dict)
    owed: Decimal = ZERO
    usage: Decimal = ZERO
    consumed: Decimal = ZERO

    @property
    def balance(self) -> Decimal:
        """What is left of all grants together; never negative."""
        return sum(self.balances.values(), ZERO)

    @property
    def overage(self) -> Decimal:
        """The usage that no grant covered."""
        return max(self.owed, ZERO)

    @property
    def available(self) -> Decimal:
        """What the grants gave in this period: consumed of them plus what is left."""
        return self.consumed + self.balance


@dataclass(frozen=True, slots=True)
class Segment:
    """One phase of a run: the ledger when it began, its usage, and what of it each grant covered."""

    phase: Phase
    opening: Ledger
    usage: Decimal
    burned: Mapping[str, Decimal]
    overage: Decimal
    reset: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The ledger at the end and how it came about."""

    ledger: Ledger
    segments: tuple[Segment, ...]


def burn_order(grants: Iterable[Grant]) -> list[Grant]:
    """The grants in the order in which usage is burned from them."""
    return sorted(
        grants, key=lambda grant: (grant.priority, grant.expires_at or END, grant.created_at, grant.id)
    )


def open_ledger(grants: Iterable[Grant], at: datetime) -> Ledger:
    """The ledger when measuring begins: every grant that is active by then has its full amount."""
    balances = {grant.id: grant.amount for grant in grants if grant.active_at(at)}
    return Ledger(at, at, balances)


def open_at_reset(grants: Sequence[Grant], reset: Reset, *, gauge: bool = False) -> Ledger:
    """The ledger after a reset that remembers nothing of the time before it (see ``forgetting_reset``)."""
    before = Ledger(reset.at, reset.at, {grant.id: ZERO for grant in grants if grant.active_at(reset.at)})
    return enter(before, burn_order(grants), reset.at, Reset(reset.at), gauge=gauge)


def forgetting_reset(
    grants: Sequence[Grant], last_reset: Callable[[datetime], Reset | None], until: datetime, *, gauge: bool
) -> Reset | None:
    """The latest reset, not later than ``until``, behind which no history matters; None where there is none.

    ``last_reset(time)`` gives the last one not later than ``time``. With the grants that ``issueAfterReset``
    makes it is always the start of the current period, so a balance needs the usage of this period only.
    """
    reset = last_reset(until)
    while reset is not None and not gauge:
        if reset.preserve_overage:
            return None
        carried = [
            grant.effective_at
            for grant in grants
            if not grant.forgets and grant.effective_at < reset.at and grant.active_at(reset.at)
        ]
        if not carried:
            break
        reset = last_reset(min(carried))
    return reset


def plan(
    grants: Iterable[Grant],
    resets: Iterable[Reset],
    start: datetime,
    until: datetime,
    period_start: datetime,
    most: int = MAX_PHASES,
) -> list[Phase]:
    """The phases from ``start``, whose usage period began at ``period_start``, to ``until``.

    Raises:
        TooManyPhases: where there are more than ``most``.
    """
    starts: set[datetime] = set()
    ends = {until} if start < until else set()
    for reset in resets:
        if start < reset.at <= until:
            starts.add(reset.at)
            _refuse_too_many(starts, most)
    for grant in grants:
        for change in grant.changes(start, until):
            ends.add(change)
            _refuse_too_many(ends, most)
    phases = []
    for cut in sorted(ends | starts):
        phases.append(Phase(start, cut, period_start))
        start = cut
        period_start = cut if cut in starts else period_start
    return phases


def run(
    grants: Sequence[Grant],
    resets: Iterable[Reset],
    ledger: Ledger,
    phases: Sequence[Phase],
    usages: Sequence[Decimal],
    *,
    gauge: bool = False,
) -> Run:
    """Burn the usage of each phase in turn. ``usages`` are levels where ``gauge``, amounts otherwise."""
    ordered = burn_order(grants)
    reset_at = {reset.at: reset for reset in resets}
    segments = []
    with localcontext(EXACT):
        for phase, usage in zip(phases, usages, strict=True):
            reset = reset_at.get(phase.end)
            burned = _burn_level(ledger, ordered, usage) if gauge else burn_flow(ledger, ordered, usage)
            segments.append(_segment(phase, ledger, burned, usage, reset is not None))
            ledger = enter(burned, ordered, phase.end, reset, gauge=gauge)
    return Run(ledger, tuple(segments))


def _refuse_too_many(cuts: set[datetime], most: int) -> None:
    if len(cuts) > most:
        raise TooManyPhases(f"more than {most} usage periods and grant changes lie in between")


def burn_flow(ledger: Ledger, ordered: Sequence[Grant], usage: Decimal) -> Ledger:
    """The ledger after this usage, at the same moment. ``ordered``: see ``burn_order``."""
    balances, used = dict(ledger.balances), dict(ledger.used)
    amount = usage + ledger.owed
    owed = (
        _take(balances, used, ordered, amount)
        if amount >= 0
        else -_give_back(balances, used, ordered, -amount)
    )
    return Ledger(
        ledger.at,
        ledger.period_start,
        balances,
        used,
        owed,
        ledger.usage + usage,
        ledger.consumed + amount - owed,
    )


def _burn_level(ledger: Ledger, ordered: Sequence[Grant], level: Decimal) -> Ledger:
    balances = {grant.id: grant.amount for grant in ordered if grant.id in ledger.balances}
    used: dict[str, Decimal] = {}
    needed = max(level, ZERO)
    owed = _take(balances, used, ordered, needed)
    return Ledger(ledger.at, ledger.period_start, balances, used, owed, level, needed - owed)


def _take(
    balances: dict[str, Decimal], used: dict[str, Decimal], ordered: Sequence[Grant], amount: Decimal
) -> Decimal:
    """Burn ``amount`` from the balances in order; what none of them covered is returned."""
    for grant in ordered:
        taken = min(balances.get(grant.id, ZERO), amount)
        if taken > 0:
            balances[grant.id] -= taken
            used[grant.id] = used.get(grant.id, ZERO) + taken
            amount -= taken
    return amount


def _give_back(
    balances: dict[str, Decimal], used: dict[str, Decimal], ordered: Sequence[Grant], amount: Decimal
) -> Decimal:
    """Give ``amount`` back to the grants it was burned from, the last first; the rest is returned."""
    for grant in reversed(ordered):
        given = min(used.get(grant.id, ZERO), amount) if grant.id in balances else ZERO
        if given > 0:
            balances[grant.id] += given
            used[grant.id] -= given
            amount -= given
    return amount


def enter(
    ledger: Ledger, ordered: Sequence[Grant], at: datetime, reset: Reset | None, *, gauge: bool = False
) -> Ledger:
    """The ledger at ``at`` with everything done that happens there: reset, refills, ends, what is owed."""
    balances: dict[str, Decimal] = {}
    used: dict[str, Decimal] = {}
    for grant in ordered:
        if not grant.active_at(at):
            continue
        if grant.refills_at(at) or grant.id not in ledger.balances:
            balances[grant.id] = grant.amount
        elif reset is not None:
            balances[grant.id] = grant.after_reset(ledger.balances[grant.id])
        else:
            balances[grant.id] = ledger.balances[grant.id]
            used[grant.id] = ledger.used.get(grant.id, ZERO)
    if reset is None:
        entered = Ledger(at, ledger.period_start, balances, used, ledger.owed, ledger.usage, ledger.consumed)
    else:
        owed = ledger.overage if reset.preserve_overage else ZERO
        entered = Ledger(at, at, balances, used, owed)
    if gauge:
        return _burn_level(entered, ordered, entered.usage)
    return burn_flow(entered, ordered, ZERO) if entered.owed > 0 else entered


def _segment(phase: Phase, opening: Ledger, closing: Ledger, usage: Decimal, reset: bool) -> Segment:
    burned = {
        grant: opening.balances[grant] - balance
        for grant, balance in closing.balances.items()
        if opening.balances[grant] != balance
    }
    return Segment(phase, opening, usage, burned, closing.overage, reset)
