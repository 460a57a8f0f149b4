"""The local count of one OpenMeter in this process: where it is kept, and who keeps saying how far OpenMeter has come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from metergate.delivery import Delivery
from metergate.entitlements.counted import Counted, CountSource
from metergate.entitlements.usage.folder import Folder, can_share
from metergate.entitlements.usage.learning import recall
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark

_log = logging.getLogger("metergate.engine")

TEND_SECONDS = 0.1
DEAD_SECONDS = 1.0


class _Event(msgspec.Struct, frozen=True):
    type: str
    subject: str
    data: dict[str, Any] | None = None


_read_event = msgspec.json.Decoder(_Event).decode


class Counting:
    """Opens the count, and tends it on the event loop for as long as something that was recorded may be unseen.

    In the process that will use it, on the thread that records.
    """

    def __init__(
        self,
        folder: Path | None,
        deliveries: Sequence[Delivery],
        source: CountSource,
        features: Iterable[str],
        *,
        visibility: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            folder: for all processes of the host; None counts in this process alone.
            deliveries: all that send to this OpenMeter with this key, before they are started. Those that keep events
                on disk keep them in the same place.
            source: OpenMeter, for how events count.
            features: those whose usage counts.
            visibility: see `Ledger`.
        """
        self._clock = clock
        self._spools = [one for one in deliveries if one.keeps_on_disk][:1]
        self._inherited = self._mark_unsent()
        self._looked_at = float("-inf")
        self._left_behind = True
        self._timer: asyncio.TimerHandle | None = None
        self.local: LocalUsage
        self._watermark = Watermark(lambda: [(one.recorded, one.settled) for one in deliveries])
        self._features = frozenset(features)
        self._visibility = visibility
        opened = self._open(folder)
        self.counted = Counted(source, self.local, clock=clock, catalog_file=_catalog_file(opened))
        if opened.path is not None:
            self.wake()

    def wake(self) -> None:
        """Begin to tend, where there is an event loop; until there is nothing more to say, or `close`."""
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(TEND_SECONDS, self._tend)
            except RuntimeError:
                self._timer = None

    def close(self) -> None:
        """Leave the count to the other processes."""
        if self._timer is not None:
            self._timer.cancel()
        self.counted.learning.close()
        self.local.ledger.folder.close()

    def _tend(self) -> None:
        self._timer = None
        now = self._clock()
        ledger = self.local.ledger
        try:
            if now - self._looked_at >= DEAD_SECONDS:
                self._looked_at = now
                self._left_behind = self._left_behind and not self._inherited()
                ledger.tend_the_dead(self._mark_unsent)
            more = ledger.tend(left_behind=self._left_behind)
        except OSError as failure:  # nothing is said, and so everything counts
            _log.warning("the local count cannot be tended: %s", failure)
            more = True
        if more:
            self.wake()

    def _open(self, path: Path | None) -> Folder:
        if path is not None and can_share():
            try:
                return Folder(path, self._begin)
            except OSError as failure:
                _log.warning(
                    "Usage is counted in each worker process for itself, so that limits are kept less exactly: %s cannot "
                    "be used (%s).",
                    path,
                    failure.strerror or failure,
                )
        return Folder(None, self._begin)

    def _begin(self, folder: Folder) -> None:
        """Count in this folder. Where it is new, nobody else can open it before this is over."""
        ledger = Ledger(folder, self._watermark, self._clock, visibility=self._visibility)
        self.local = LocalUsage(ledger, self.wake)
        self.local.watch(self._features)
        recall(_catalog_file(folder), self.local)
        if folder.is_new:
            self._count_what_is_unsent()

    def _mark_unsent(self) -> Callable[[], bool]:
        questions = [spool.mark_unsent() for spool in self._spools]
        return lambda: all(question() for question in questions)

    def _count_what_is_unsent(self) -> None:
        """After the machine started: what is still in the spool is in no answer of OpenMeter, whoever recorded it."""
        number = 0
        try:
            for spool in self._spools:
                for line in spool.unsent_events():
                    self.local.spend((_read_event(line),))
                    number += 1
        except (OSError, msgspec.DecodeError) as failure:
            _log.warning("not all unsent events could be counted: %s", failure)
        if number:
            _log.info("%d unsent events of before are counted", number)


def _catalog_file(folder: Folder) -> Path | None:
    return None if folder.path is None else folder.path / "catalog.json"
