"""How events count is learnt from OpenMeter: its features and meters, read seldom, and kept while it is away."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from metergate.entitlements.usage.local import LocalUsage
from metergate.errors import OpenMeterError
from metergate.openmeter.catalog import Catalog

_log = logging.getLogger("metergate.entitlements")

LEARN_SECONDS = 600.0
"""How long what was learnt is not asked for again."""
RETRY_SECONDS = 10.0
"""The same after it could not be learnt again, and where a feature turns up that it does not hold. What was never
learnt is asked for with every subject."""


class CatalogSource(Protocol):
    """Where features and meters come from: ``metergate.openmeter.access.AccessClient``."""

    async def catalog(self) -> Catalog:
        """All features and meters. Raises OpenMeterError."""


class Learning:
    """Sees to it that a local count knows how events count. On the event loop."""

    def __init__(
        self, source: CatalogSource, local: LocalUsage, clock: Callable[[], float], path: Path | None = None
    ) -> None:
        """``path``: a file that keeps what was learnt for the next start; None keeps nothing."""
        self.local = local
        self._source = source
        self._clock = clock
        self._path = path
        self._next = self._retry_at = float("-inf")
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait until it is learnt how events count, where that was never learnt and may be asked now."""
        self.begin()
        if self._task is not None and not self.local.knows:
            await asyncio.wait((self._task,))

    def begin(self) -> None:
        """Learn, if it is time to."""
        now = self._clock()
        if self._task is None and (now >= self._next or (self.local.lacks and now >= self._retry_at)):
            self._next = now + LEARN_SECONDS
            self._retry_at = now + RETRY_SECONDS
            self._task = asyncio.get_running_loop().create_task(self._learn())
            self._task.add_done_callback(self._end)

    async def _learn(self) -> None:
        try:
            catalog = await self._source.catalog()
        except OpenMeterError as error:
            self._next = self._clock() + (RETRY_SECONDS if self.local.knows else 0.0)
            if not self.local.knows and not self._complained:
                self._complained = True
                _log.warning(
                    "how events count for features is not known yet, and is asked for again: %s", error
                )
            return
        self.local.learn(catalog)
        if self._path is not None:
            try:
                draft = self._path.with_suffix(f".{os.getpid()}-{id(self)}")
                draft.write_bytes(msgspec.json.encode(catalog))
                draft.replace(self._path)
            except OSError as failure:
                _log.debug("what was learnt cannot be kept: %s", failure)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (bug := task.exception()) is not None:
            _log.error("how events count could not be learnt", exc_info=bug)

    def close(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()


def recall(path: Path | None, local: LocalUsage) -> None:
    """Teach a local count what an earlier process has learnt and kept in this file."""
    try:
        if path is not None:
            local.learn(msgspec.json.decode(path.read_bytes(), type=Catalog))
    except (OSError, msgspec.DecodeError):
        return  # it is only there to save a read
