"""The rule of docs/limits.md against an exact reference: an OpenMeter that sees events late, processes that die.

A limit holds if at no time more is recorded in a period than it grants. The reference knows everything at
once; the processes know only what the rule lets them know.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.watermark import Watermark

VISIBILITY = 5.0
QUOTA = 6
PROCESSES = st.integers(0, 1)


@dataclass
class Event:
    cost: int
    recorded_at: float
    acknowledged_at: float | None = None
    visible_at: float = float("inf")


@dataclass
class Process:
    """A worker: its ledger, what it wrote, the requests it let in, its answer of OpenMeter and one on its way."""

    ledger: Ledger
    written: list[Event]
    inherited_is_settled: Callable[[], bool]
    in_flight: list[int] = field(default_factory=list)
    asking: float | None = None
    """The base of the question on its way."""
    answer: tuple[float, float] | None = None
    """Balance and base."""


class Host(RuleBasedStateMachine):
    """Two workers of one host, one subject, one feature with a limit."""

    ledger = Ledger
    watermark = Watermark

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1000.0
        self.granted = QUOTA
        self.grants = 0
        self.period_began = 0.0
        self.events: list[Event] = []
        self.left_behind: list[Event] = []
        self.workers: list[Process | None] = [None, None]
        self.workers[0] = self.start()

    def teardown(self):
        for worker in self.workers:
            if worker is not None:
                worker.ledger.folder.close()
        shutil.rmtree(self.folder)

    def start(self) -> Process:
        written: list[Event] = []
        watermark = self.watermark(lambda: [(len(written), _settled(written))])
        folder = Folder(self.folder, most_places=16)
        ledger = self.ledger(folder, watermark, lambda: self.now, visibility=VISIBILITY)
        return Process(ledger, written, self.mark_unsent())

    # --- the world

    @rule(seconds=st.sampled_from([0.01, 0.4, 1.0, 2.5, 4.9, 5.1]), watched=st.booleans())
    def time_passes(self, seconds, watched):
        """``watched``: the timers of all workers run meanwhile, as they should; else all are too busy."""
        for _ in range(4 if watched else 1):
            self.now += seconds / (4 if watched else 1)
            for worker in self.alive() if watched else ():
                worker.ledger.tend(left_behind=not worker.inherited_is_settled())

    @rule(number=st.sampled_from([1, 3, 50]), delay=st.sampled_from([0.0, VISIBILITY]))
    def openmeter_acknowledges(self, number, delay):
        """The first of what each worker wrote; it sees them later."""
        for written in (*(worker.written for worker in self.alive()), self.left_behind):
            for event in [event for event in written if event.acknowledged_at is None][:number]:
                event.acknowledged_at, event.visible_at = self.now, self.now + delay

    @precondition(lambda self: self.grants < 2)
    @rule(reset=st.booleans())
    def more_is_granted(self, reset):
        """A top-up, or the end of a period that begins with a full quota."""
        self.grants += 1
        if reset:
            self.period_began = self.now
            self.granted = max(self.granted, QUOTA)
        else:
            self.granted += 2

    @rule(process=PROCESSES, starts=st.booleans())
    def a_worker_is_killed_or_starts(self, process, starts):
        worker = self.workers[process]
        if worker is not None:
            self.left_behind += [event for event in worker.written if event.acknowledged_at is None]
            worker.ledger.folder.close()
            self.workers[process] = None
        if worker is None or starts:
            self.workers[process] = self.start()

    @rule()
    def the_dead_are_tended(self):
        for worker in self.alive():
            worker.ledger.tend_the_dead(self.mark_unsent)

    # --- what a worker does

    @rule(process=PROCESSES, answers=st.booleans())
    def a_worker_asks(self, process, answers):
        """``answers``: the question that is on its way already."""
        worker = self.workers[process]
        if worker is not None and answers and worker.asking is not None:
            worker.answer, worker.asking = (self.balance(), worker.asking), None
        elif worker is not None:
            worker.asking = self.base(worker)

    @rule(process=PROCESSES, times=st.integers(1, QUOTA + 1), asks=st.booleans(), end=st.booleans())
    def requests_come(self, process, times, asks, end):
        """Several at once: in flight until ``a_request_ends``, or all of them end at once."""
        worker = self.workers[process]
        if worker is None:
            return
        if asks or worker.answer is None:
            self.a_worker_asks(process, answers=False)
            self.a_worker_asks(process, answers=True)
        balance, base = worker.answer
        for _ in range(times):
            if balance > 0 and worker.ledger.take(self.place(worker), None, balance + base):
                worker.in_flight.append(1)
                assert self.used() + self.held() <= self.granted, "more was let in than is left"
        while end and worker.in_flight:
            self.a_request_ends(process, True)

    @rule(process=PROCESSES, metered=st.booleans())
    def a_request_ends(self, process, metered):
        worker = self.workers[process]
        if worker is None or not worker.in_flight:
            return
        cost = worker.in_flight.pop()
        if metered:
            worker.ledger.spend(self.place(worker), cost)
            event = Event(cost, self.now)
            worker.written.append(event)
            self.events.append(event)
        worker.ledger.give_back(self.place(worker), cost)

    @rule(
        process=PROCESSES,
        other=PROCESSES,
        first=st.integers(0, 3),
        kills=st.booleans(),
        slow=st.booleans(),
        number=st.sampled_from([1, 3, 50]),
        seconds=st.sampled_from([0.2, 2.0, 4.8, 5.5]),
    )
    def a_limit_is_reached_and_tried_again(self, process, other, first, kills, slow, number, seconds):
        """What goes wrong goes wrong near the limit; so it is sought out. ``slow``: an answer takes all that time."""
        self.requests_come(process, first, asks=True, end=True)
        self.time_passes(0.4, watched=True)
        if slow:
            self.a_worker_asks(other, answers=False)
        self.requests_come(process, QUOTA + 1, asks=not slow, end=True)
        if kills:
            self.a_worker_is_killed_or_starts(process, starts=True)
        self.openmeter_acknowledges(number, VISIBILITY)
        self.time_passes(seconds, watched=True)
        self.the_dead_are_tended()
        if slow:
            self.a_worker_asks(other, answers=True)
        self.requests_come(other, QUOTA + 1, asks=not slow, end=True)

    @rule()
    def all_is_quiet_and_the_count_is_exact(self):
        """Nothing on its way, all acknowledged and seen: nobody is denied who has something left."""
        for process, worker in enumerate(self.workers):
            while worker is not None and worker.in_flight:
                self.a_request_ends(process, True)
        if not self.alive():
            return
        self.openmeter_acknowledges(len(self.events), VISIBILITY)
        for _ in range(8):
            self.time_passes(VISIBILITY / 4, True)
            self.the_dead_are_tended()
        for worker in self.alive():
            assert self.base(worker) == worker.ledger.committed(self.place(worker)), (
                "something counts for ever"
            )

    # --- the reference

    def alive(self):
        return [worker for worker in self.workers if worker is not None]

    def place(self, worker):
        return worker.ledger.place("acme", "calls")

    def base(self, worker):
        return worker.ledger.base(self.place(worker), worker.ledger.seen())

    def mark_unsent(self):
        written = (*self.left_behind, *(event for worker in self.alive() for event in worker.written))
        unsent = [event for event in written if event.acknowledged_at is None]
        return lambda: all(event.acknowledged_at is not None for event in unsent)

    def balance(self):
        seen = (event.cost for event in self.in_period() if event.visible_at <= self.now)
        return max(self.granted - sum(seen), 0)

    def in_period(self):
        return [event for event in self.events if event.recorded_at >= self.period_began]

    def used(self):
        return sum(event.cost for event in self.in_period())

    def held(self):
        return sum(sum(worker.in_flight) for worker in self.alive())

    @invariant()
    def the_limit_holds(self):
        assert self.used() <= self.granted


def _settled(written):
    return next((i for i, event in enumerate(written) if event.acknowledged_at is None), len(written))


USUAL = settings(
    max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.no_cover  # it takes three times as long
def test_the_limit_holds_whatever_happens():
    run_state_machine_as_test(Host, settings=USUAL)
