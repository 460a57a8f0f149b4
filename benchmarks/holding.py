"""The section `limits`: how well a quota holds, by the way it is kept, the clients, the workers and OpenMeter's delay."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.disturbances import DISTURBANCES, disturb
from benchmarks.limits import WAYS, Outcome, Way, try_out
from benchmarks.report import Figure, Section

QUOTA = 1000
CLIENTS = (1, 8, 64, 512)
WORKERS = (1, 2)
DELAYS = (0.0, 2.0, 5.0)
NOTES = (
    "first: seconds until OpenMeter sees an event; with something in between 2 s, 2 workers, 64 clients",
    f"a quota of {QUOTA:,}, clients that ask one after the other; beyond: let in beyond the quota; left: not let in though",
    "clients kept asking until OpenMeter had caught up; reads: HTTP requests to OpenMeter",
    "left out of the ways without local count: 8 clients, and 2 workers with other than 64 clients: they say nothing new.",
)


@dataclass(frozen=True)
class Case:
    """One run. ``delay``: seconds until OpenMeter sees what it has acknowledged."""

    way: Way
    clients: int
    workers: int
    delay: float

    @property
    def seconds(self) -> float:
        """Long enough that OpenMeter has caught up, and that a kept answer was renewed once it had."""
        return self.delay + (4.0 if self.way.counted else 7.0)

    def __str__(self) -> str:
        return f"{self.delay:g} s, {self.workers} workers, {self.clients} clients: {self.way.name}"


def cases(*, quick: bool) -> Iterator[Case]:
    """The grid without the combinations that say nothing new."""
    for delay in DELAYS[:2] if quick else DELAYS:
        for workers in WORKERS:
            for way in WAYS:
                for clients in CLIENTS:
                    tells = way.counted or (clients != 8 and (workers == 1 or clients == 64))
                    if clients == 64 and workers == 2 if quick else tells:
                        yield Case(way, clients, workers, delay)


def holding(folder: Path, *, quick: bool) -> Section:
    """Some fifteen minutes, or one; says on the error output how far it is."""
    figures = [_figure(str(case), outcome) for case, outcome in run(folder / "grid", cases(quick=quick))]
    for number, disturbance in enumerate(DISTURBANCES[:1] if quick else DISTURBANCES):
        for way in WAYS if disturbance.for_all else WAYS[-1:]:
            place = folder / f"disturbed-{number}-{WAYS.index(way)}"
            name = f"{disturbance.name}: {way.name}"
            outcome = disturb(place, way, disturbance)
            _say(name, outcome)
            figures.append(_figure(name, outcome))
    return Section("limits", tuple(figures), NOTES)


def run(folder: Path, wanted: Iterable[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Each case with what became of it."""
    for number, case in enumerate(wanted):
        outcome = try_out(
            folder / str(number),
            case.way,
            quota=QUOTA,
            clients=case.clients,
            workers=case.workers,
            delay=case.delay,
            seconds=case.seconds,
        )
        _say(str(case), outcome)
        yield case, outcome


def _say(name: str, outcome: Outcome) -> None:
    sys.stderr.write(f"  {name}: {outcome.beyond:,} beyond, {outcome.left:,} left\n")
    sys.stderr.flush()


def _figure(name: str, outcome: Outcome) -> Figure:
    unit = f"beyond; {outcome.left:,} left; {outcome.reads:,} reads"
    return Figure(
        name, float(outcome.beyond), unit if not outcome.failed else f"{unit}, {outcome.failed} failed"
    )
