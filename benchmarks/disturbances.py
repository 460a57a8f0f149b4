"""What may come between while a quota is used up, and what becomes of the quota then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.limits import (
    ALLOWED,
    DENIED,
    MONTHLY,
    Outcome,
    Way,
    ask,
    catch_up,
    fetch,
    limited_gateway,
    reads,
    value,
)
from metergate.testing.load import LoadReport
from metergate.testing.processes import Server

CLIENTS = 64
WORKERS = 2
DELAY = 2.0
STARTING = 8.0
"""Seconds that the servers get to start before a minute that matters."""
MOST_ROUNDS = 5
"""Of asking for the rest: near its end a quota opens in steps of OpenMeter's delay."""


@dataclass(frozen=True)
class Disturbance:
    """Something that happens while clients ask.

    ``after`` seconds of asking ``happen`` is called, with the gateway and OpenMeter. ``allowed``: what may be let in
    in all, the quotas of all periods and the top-up together. ``minute_at``: a full minute begins so many
    seconds after the asking, because OpenMeter cuts periods there; ``ends_there``: and a usage period ends.
    ``for_all``: tried with each way to keep a limit, not with the local count alone.
    """

    name: str
    quota: int
    allowed: int
    happen: Callable[[Server, Server], None]
    after: float
    seconds: float
    minute_at: float | None = None
    ends_there: bool = False
    delay: float = DELAY
    for_all: bool = False


def disturb(folder: Path, way: Way, disturbance: Disturbance) -> Outcome:
    """Use up a quota with something in between, let OpenMeter catch up, and ask for the rest."""
    minute = datetime.now(UTC) + timedelta(seconds=STARTING + (disturbance.minute_at or 0.0) + 59.999)
    minute = minute.replace(second=0, microsecond=0)
    period = {"interval": "PT1H", "anchor": f"{minute:%Y-%m-%dT%H:%M:%SZ}"}
    options: dict[str, Any] = {"workers": WORKERS, "delay": disturbance.delay}
    options["period"] = period if disturbance.ends_there else MONTHLY
    with limited_gateway(folder, way, quota=disturbance.quota, **options) as (gateway, key, openmeter):
        if disturbance.minute_at is not None:
            begin = minute - timedelta(seconds=disturbance.minute_at)
            time.sleep(max((begin - datetime.now(UTC)).total_seconds(), 0.0))
        answers = asyncio.run(_ask(gateway, key, openmeter, disturbance))
        catch_up(gateway, disturbance.delay)
        for _ in range(MOST_ROUNDS):
            rest = _answers(asyncio.run(ask(gateway, key, CLIENTS, disturbance.delay + 1.5)))
            answers += rest
            if not rest[ALLOWED]:
                break
        catch_up(gateway, disturbance.delay)
        return _outcome(answers, disturbance, gateway, openmeter)


async def _ask(gateway: Server, key: str, openmeter: Server, disturbance: Disturbance) -> Counter[int]:
    asking = asyncio.create_task(ask(gateway, key, CLIENTS, disturbance.seconds))
    await asyncio.sleep(disturbance.after)
    await asyncio.to_thread(disturbance.happen, gateway, openmeter)
    return _answers(await asking)


def _answers(report: LoadReport) -> Counter[int]:
    return Counter({**report.statuses, 0: report.failed})


def _outcome(answers: Counter[int], disturbance: Disturbance, gateway: Server, openmeter: Server) -> Outcome:
    """By OpenMeter's own word, too: it has what was recorded by a worker that did not live to answer."""
    let_in, said = answers[ALLOWED], value(openmeter)
    quota = let_in - round(said.overage) + round(said.balance)
    if not said.balance:
        quota = min(disturbance.allowed, quota)
    failed = answers.total() - let_in - answers[DENIED]
    return Outcome(quota, let_in, answers[DENIED], failed, reads(gateway))


def _nothing(gateway: Server, openmeter: Server) -> None:
    pass


def _outage(gateway: Server, openmeter: Server) -> None:
    openmeter.stop()  # not killed: with a delay what it has acknowledged is in its memory alone for a while
    time.sleep(4.0)
    openmeter.start()


def _kill_workers(gateway: Server, openmeter: Server) -> None:
    for number in range(4):
        gateway.kill_worker(number % WORKERS)
        time.sleep(0.4)


def _kill_gateway(gateway: Server, openmeter: Server) -> None:
    gateway.kill()
    gateway.start()


def _reset(gateway: Server, openmeter: Server) -> None:
    fetch(f"{openmeter.url}/api/v2/customers/acme/entitlements/calls/reset", {})


def _top_up(gateway: Server, openmeter: Server) -> None:
    effective = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:00Z}"
    body = {"amount": 500, "effectiveAt": effective, "priority": 1}
    fetch(f"{openmeter.url}/api/v2/customers/acme/entitlements/calls/grants", body)


DISTURBANCES = (
    Disturbance("OpenMeter away for 4 s", 6000, 6000, _outage, after=0.7, seconds=9.0, for_all=True),
    Disturbance("4 workers killed", 4000, 4000, _kill_workers, after=0.3, seconds=6.0),
    Disturbance("the gateway killed", 4000, 4000, _kill_gateway, after=0.5, seconds=6.0),
    Disturbance("reset, used up", 1000, 2000, _reset, after=4.0, seconds=7.0, minute_at=3.5),
    Disturbance("period ends, used up", 1000, 2000, _nothing, 0.0, 7.0, minute_at=4.0, ends_there=True),
    Disturbance("top-up of 500, used up", 1000, 1500, _top_up, after=4.0, seconds=7.0, for_all=True),
    Disturbance("top-up of 500, in use", 6000, 6500, _top_up, after=0.5, seconds=7.0),
    Disturbance("a quota that lasts, seen after 2 s", 20_000, 20_000, _nothing, 0.0, 12.0),
    Disturbance("a quota that lasts, seen after 5 s", 20_000, 20_000, _nothing, 0.0, 14.0, delay=5.0),
)
