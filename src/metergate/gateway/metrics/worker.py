"""The figures of one worker: counted here, published every second, shown together with the other workers'.

What must not be lost with a killed worker stands in its `Ledger`, which the others can read at any time: requests, and what
was recorded and delivered. The rest is as of the last second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from metergate.gateway.context import BACKGROUND
from metergate.gateway.http import Request, Response
from metergate.gateway.metrics.counting import NUMBERS, RequestCounts
from metergate.gateway.metrics.exposition import render
from metergate.gateway.metrics.folder import Figures, FiguresFolder, with_ledger
from metergate.gateway.metrics.ledger import Ledger
from metergate.gateway.metrics.samples import FAMILIES, LABEL_LIMIT, Sample, read_statistics

if TYPE_CHECKING:
    from metergate.gateway.context import Context

PAGE_PATH = "/__metergate/metrics"
PUBLISH_SECONDS = 1.0
_DELIVERY = tuple(
    FAMILIES[f"DeliveryStatistics.{field}"].name for field in ("recorded", "delivered", "buried")
)

_log = logging.getLogger("metergate.gateway")


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What every worker says of itself."""

    workers: int
    start_time_seconds: float
    background_tasks: int
    background_refused: int


class Metrics:
    """``observe`` counts a request; ``add`` brings in what else there is to know; ``page`` shows it all.

    ``directory`` is shared by all workers of one gateway and by nobody else; None where there is one worker only, whose
    figures then stay in memory. Made anywhere; `start` and `stop` are awaited in the worker.
    """

    def __init__(self, directory: Path | None = None, *, publish_seconds: float = PUBLISH_SECONDS) -> None:
        self._ledger = Ledger(NUMBERS + (LABEL_LIMIT + 1) * len(_DELIVERY))
        self.observe = RequestCounts(self._ledger).observe
        self._folder = FiguresFolder(directory) if directory is not None else None
        self._publish_seconds = publish_seconds
        self._sources: list[tuple[Callable[[], Any], dict[str, str]]] = []
        self._started = time.time()
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._destinations = 0

    def add(self, statistics: Callable[[], Any], **labels: str) -> None:
        """Show what ``statistics()`` returns, a frozen dataclass, with these labels (``policy="my-key"``)."""
        self._sources.append((statistics, labels))

    def delivery_counts(self, destination: str) -> MutableSequence[float] | None:
        """Three numbers for what was recorded for a destination, delivered and buried; they outlive this process.

        To be asked for once each, after `start`. None beyond `LABEL_LIMIT` destinations, which are not told apart.
        """
        if self._destinations >= LABEL_LIMIT:
            return None
        self._destinations += 1
        first, *_ = [self._ledger.counter(name, (("destination", destination),)) for name in _DELIVERY]
        return cast("MutableSequence[float]", self._ledger.values[first : first + len(_DELIVERY)])

    async def start(self) -> None:
        """Join the other workers and publish from now on. A folder that cannot be used is logged; counting goes on."""
        self._started = time.time()
        if self._folder is None:
            return
        try:
            self._folder.join(self._ledger)
            self._folder.publish(self._published())
        except OSError as problem:
            _log.error("figures stay in this worker, their folder cannot be used: %s", problem)
            self._folder = None
            return
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Publish for the last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._folder is not None:
            self.publish()
            self._ledger.close()
            self._folder.leave()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._publish_seconds)
            self.publish()

    def publish(self) -> None:
        """Write this worker's figures for the others; what fails is said once, until it works again."""
        if self._folder is None:
            return
        try:
            self._folder.publish(self._published())
            self._failing = False
        except OSError as problem:
            if not self._failing:
                _log.error("the figures of this worker cannot be written: %s", problem)
            self._failing = True

    def figures(self) -> Figures:
        """This worker's figures at this moment."""
        return with_ledger(self._published(), *self._ledger.read())

    def _published(self) -> Figures:
        """The figures that do not stand in the ledger, or are the same there."""
        samples: list[Sample] = []
        own = WorkerStatistics(1, self._started, len(BACKGROUND), BACKGROUND.refused)
        for statistics, labels in [*self._sources, (lambda: own, {})]:
            samples += read_statistics(statistics(), labels)
        return Figures(samples)

    def everybody(self) -> Figures:
        """The figures of all workers. Ours are published first: no later page, of any worker, can show less."""
        if self._folder is None:
            return self.figures()
        self.publish()
        try:
            return self._folder.collect()
        except OSError as problem:
            _log.error("the figures of the other workers cannot be read: %s", problem)
            return self.figures()

    def page(self, request: Request, context: Context) -> Response:
        """The answer for `PAGE_PATH`."""
        body, content_type = render(self.everybody(), request.headers.get("accept") or "")
        return Response.trusted(200, [("content-type", content_type), ("cache-control", "no-store")], body)
