"""A quota of tokens: what a request costs is known when its stream has ended. With and without `reserve`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.limits import ALLOWED, WAYS, Way, ask, catch_up, limited_gateway, value
from benchmarks.report import Figure, Section

QUOTA = 100_000
STREAMS = 64
FEWEST, MOST = 500, 4000
DELAY = 2.0
SECONDS = 10.0
METERS = [
    {"slug": "calls", "eventType": "completion", "aggregation": "SUM", "valueProperty": "$.tokens"},
]
STREAMING = f"""import asyncio
import random

from metergate.runtime import OpenMeterInboundPolicy, Response


async def default(request, context):
    return Response(complete(context), headers={{"content-type": "text/event-stream"}})


async def complete(context):
    for _ in range(4):
        yield b"data: some words\\n\\n"
        await asyncio.sleep(0.05)
    tokens = random.randint({FEWEST}, {MOST})
    OpenMeterInboundPolicy.set_meters(context, {{"type": "completion", "data": {{"tokens": tokens}}}})
    yield b"data: [DONE]\\n\\n"
"""
SUFFICIENT = Way("with reserve 4,000", {"reserve": MOST}, counted=True)
_, KEPT, COUNTED = WAYS


@dataclass(frozen=True)
class Spent:
    """What OpenMeter has in the end: tokens beyond the quota, or tokens left. ``streams`` were let in."""

    streams: int
    failed: int
    beyond: float
    left: float


def tokens(folder: Path, *, quick: bool) -> Section:
    """Streams of 500 to 4,000 tokens, 64 at once, with a quota of 100,000."""
    ways = (COUNTED, SUFFICIENT) if quick else (KEPT, COUNTED, SUFFICIENT)
    figures = [
        Figure(
            f"{way.name}, {workers} workers",
            spent.beyond,
            f"tokens beyond; {spent.left:,.0f} left after {spent.streams} streams",
            "0" if way is SUFFICIENT else "",
        )
        for way, workers, spent in run(folder, ways)
    ]
    notes = (
        f"{STREAMS} streams at once of {FEWEST} to {MOST:,} tokens each, a quota of {QUOTA:,}, seen after {DELAY:g} s;",
        "with a reserve what is left in the end is less than the reserve: it may be less than a stream needs",
    )
    return Section("tokens", tuple(figures), notes)


def run(folder: Path, ways: tuple[Way, ...]) -> Iterator[tuple[Way, int, Spent]]:
    """Each way with one worker and with two."""
    for way in ways:
        for workers in (1, 2):
            yield way, workers, spend(folder / f"{way.name} {workers}".replace(" ", "-"), way, workers)


def spend(
    folder: Path,
    way: Way,
    workers: int,
    *,
    quota: int = QUOTA,
    streams: int = STREAMS,
    seconds: float = SECONDS,
    delay: float = DELAY,
) -> Spent:
    """Stream until OpenMeter has caught up, whatever the answer."""
    with limited_gateway(
        folder,
        way,
        quota=quota,
        workers=workers,
        delay=delay,
        meter={"type": "completion", "data": {"tokens": 0}},
        meters=METERS,
        handler=STREAMING,
    ) as (gateway, key, openmeter):
        report = asyncio.run(ask(gateway, key, streams, seconds))
        catch_up(gateway, delay)
        said = value(openmeter)
        return Spent(report.statuses.get(ALLOWED, 0), report.failed, said.overage, said.balance)
