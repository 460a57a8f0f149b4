"""How the balance of a metered entitlement came to be what it is: by windows of time, and grant by grant.

As with a value, the meter is asked in between::

    question = ask_history(entitlement, grants, span, windows, gauge=meter is LATEST)
    usages = [usage in phase for phase in question.phases]
    history = question.answer(usages)

Rules: openmeter/entitlement/metered/balance.go. There the balance at a window's start is the last one known
less what was used since; here it is computed there, which is the same but where a grant changes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from metergate.embedded.domain.entitlements import Entitlement, Question, ask_from, opening
from metergate.embedded.domain.grants import ZERO, Grant, Ledger, Phase, Segment
from metergate.embedded.domain.periods import Period

MAX_SEGMENTS = 10_000
"""So many are told at once, as many as windows: more than a year of hours."""


@dataclass(frozen=True, slots=True)
class History:
    """``balances``: at the start of each window, in order. ``segments`` end where a grant or a period changes."""

    balances: tuple[Decimal, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class HistoryQuestion:
    """What a meter must be asked before the history is known: the usage of each phase."""

    start: datetime
    windows: Sequence[Period]
    question: Question
    natural: frozenset[datetime]

    @property
    def phases(self) -> Sequence[Phase]:
        """In order; they begin before the history does where earlier usage matters to it."""
        return self.question.phases

    def answer(self, usages: Sequence[Decimal]) -> History:
        """The history, given the usage of each phase in turn (its level for a LATEST meter)."""
        done = self.question.run(usages)
        at = {segment.phase.start: segment.opening.balance for segment in done.segments}
        at[done.ledger.at] = done.ledger.balance
        shown = [segment for segment in done.segments if segment.phase.start >= self.start]
        balances = tuple(at.get(max(window.start, self.start), ZERO) for window in self.windows)
        return History(balances, tuple(self._joined(shown)))

    def _joined(self, segments: Sequence[Segment]) -> list[Segment]:
        """The segments without the cuts that were only made for the windows."""
        joined: list[Segment] = []
        for segment in segments:
            if joined and segment.phase.start not in self.natural:
                joined[-1] = _join(joined[-1], segment, gauge=self.question.gauge)
            else:
                joined.append(segment)
        return joined


def ask_history(
    entitlement: Entitlement,
    issued: Sequence[Grant],
    span: Period,
    windows: Sequence[Period],
    lead: Callable[[datetime], Ledger | None] = lambda _: None,
    *,
    gauge: bool,
    first_part: bool = False,
) -> HistoryQuestion:
    """What to ask the meter for the history of ``span``, which may begin in the midst of the first window.

    Windows that begin before usage was measured are left out, as OpenMeter does, and with ``first_part`` the one in which
    measuring began is not: its balance is that of this moment. ``lead`` gives the ledger at the moment when the history
    begins, where it is known and need not be carried there phase by phase.

    Raises:
        TooManyPhases: where the time is too far away.
        ValueError: where the entitlement is not metered.
    """
    metering = entitlement.metering
    if metering is None:
        raise ValueError("only a metered entitlement has a history")
    since = metering.measure_usage_from
    windows = [window for window in windows if window.start >= since or (first_part and window.end > since)]
    start = max(min([span.start, *(window.start for window in windows[:1])]), since)
    cuts = [start, *(window.start for window in windows)]
    ledger = lead(start) or opening(entitlement, metering, issued, start, gauge=gauge)
    plain = ask_from(entitlement, metering, issued, ledger, span.end, MAX_SEGMENTS, gauge=gauge)
    question = replace(plain, phases=_cut(plain.phases, cuts))
    return HistoryQuestion(start, windows, question, frozenset(phase.end for phase in plain.phases))


def _cut(phases: Sequence[Phase], cuts: Sequence[datetime]) -> list[Phase]:
    """The phases, each ended at those of these moments as well that lie within it; both are in order."""
    found, place = [], 0
    for phase in phases:
        start = phase.start
        while place < len(cuts) and cuts[place] < phase.end:
            if cuts[place] > start:
                found.append(Phase(start, cuts[place], phase.period_start))
                start = cuts[place]
            place += 1
        found.append(Phase(start, phase.end, phase.period_start))
    return found


def _join(first: Segment, second: Segment, *, gauge: bool) -> Segment:
    """Both as one. A gauge's burning is always that from the full amounts, so there the later one tells all."""
    phase = Phase(first.phase.start, second.phase.end, first.phase.period_start)
    if gauge:
        return replace(second, phase=phase, opening=first.opening)
    burned = dict(first.burned)
    for grant, amount in second.burned.items():
        burned[grant] = burned.get(grant, ZERO) + amount
    return Segment(phase, first.opening, first.usage + second.usage, burned, second.overage, second.reset)
