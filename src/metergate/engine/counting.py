"""The local count of one OpenMeter in this process: where it is kept, and who keeps saying how far OpenMeter has come."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from metergate.delivery import Delivery
from metergate.engine.tending import Tending
from metergate.entitlements.counted import Counted, CountSource
from metergate.entitlements.usage.folder import Folder, can_share
from metergate.entitlements.usage.learning import recall
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark

_log = logging.getLogger("metergate.engine")

TEND_SECONDS = 0.1
DEAD_SECONDS = 1.0
FORK_WAIT_SECONDS = 1.0


class _Event(msgspec.Struct, frozen=True):
    type: str
    subject: str
    data: dict[str, Any] | None = None


_read_event = msgspec.json.Decoder(_Event).decode


class Counting:
    """Opens the count, and tends it for as long as something that was recorded may be unseen.

    Best made in the process that will use it. A process that is forked later opens the count anew, with a column of
    its own, as soon as it decides or records; its parent's it leaves alone.
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
        self._deliveries = deliveries
        self._visibility = visibility
        self._begin_life()
        self.local: LocalUsage
        self._folder: Folder | None = None
        self._in_memory: Folder | None = None
        self._held_by: int | None = None
        self._features = frozenset(features)
        opened = self._open(folder, self._begin)
        self.counted = Counted(source, self.local, clock=clock, catalog_file=_catalog_file(opened))
        self._path = opened.path
        if opened.path is not None:
            self.wake()
        _living.add(self)

    def wake(self) -> None:
        """Begin to tend; until there is nothing more to say, or `close`."""
        self._tending.wake()

    def close(self) -> None:
        """Leave the count to the other processes."""
        self._tending.close()
        self.counted.close()
        if self._folder is not None:
            self._folder.close()

    def _begin_life(self) -> None:
        """What belongs to one process."""
        self._inherited = self._mark_unsent()
        self._looked_at = float("-inf")
        self._left_behind = True

    def _tend(self) -> bool:
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
        return more

    def _open(self, path: Path | None, begin: Callable[[Folder], None]) -> Folder:
        if path is not None and can_share():
            try:
                return Folder(path, begin)
            except OSError as failure:
                _log.warning(
                    "Usage is counted in each worker process for itself, so that limits are kept less exactly: %s cannot "
                    "be used (%s).",
                    path,
                    failure.strerror or failure,
                )
        return Folder(None, begin)

    def _begin(self, folder: Folder) -> None:
        """Count in this folder. Where it is new, nobody else can open it before this is over."""
        self.local = LocalUsage(self._ledger_of(folder), self.wake)
        self.local.watch(self._features)
        recall(_catalog_file(folder), self.local)
        if folder.is_new:
            self._count_what_is_unsent()

    def _ledger_of(self, folder: Folder) -> Ledger:
        deliveries = self._deliveries
        watermark = Watermark(lambda: [(one.recorded, one.settled) for one in deliveries])
        ledger = Ledger(folder, watermark, self._clock, visibility=self._visibility)
        self._folder = folder
        self._lock = ledger.lock
        self._tending = Tending(self._tend, ledger.lock, TEND_SECONDS)
        return ledger

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

    # --- a fork

    def _before_fork(self) -> None:
        """No other thread is amid the count then, nor has borrowed a column, which the child would keep locked."""
        if self._folder is not None and self._lock.acquire(timeout=FORK_WAIT_SECONDS):
            self._held_by = threading.get_ident()

    def _after_fork_in_parent(self) -> None:
        if self._held_by == threading.get_ident():
            self._held_by = None
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        """The parent's column and what it holds are the parent's."""
        self._held_by = None
        inherited, self._folder = self._folder, None
        if inherited is not None:
            ledger = self.local.ledger
            ledger.lock = threading.RLock()
            ledger.abandon()
            inherited.close()
            self._in_memory = inherited if inherited.path is None else None
        self.local.ledger = cast(Ledger, _Unopened(self._open_again))

    def _open_again(self) -> Ledger:
        """In a forked child. What was counted in memory was copied by the fork, and goes on there."""
        self._begin_life()
        if self._in_memory is not None:
            self._in_memory.forget_parent()
            self._begin_again(self._in_memory)
        else:
            self._open(self._path, self._begin_again)
        self.wake()
        return self.local.ledger

    def _begin_again(self, folder: Folder) -> None:
        self.local.move_to(self._ledger_of(folder))
        if folder.is_new:
            self._count_what_is_unsent()


class _Unopened:
    """Stands for the ledger of a forked child until it is needed: most children neither decide nor record."""

    def __init__(self, open_it: Callable[[], Ledger]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._ledger is None:
                self._ledger = self._open_it()
        return getattr(self._ledger, name)


_living: weakref.WeakSet[Counting] = weakref.WeakSet()


def _before_fork() -> None:
    for counting in list(_living):
        counting._before_fork()


def _after_fork_in_parent() -> None:
    for counting in list(_living):
        counting._after_fork_in_parent()


def _after_fork_in_child() -> None:
    for counting in list(_living):
        counting._after_fork_in_child()


# After those of the deliveries, whose locks are taken within ours.
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


def _catalog_file(folder: Folder) -> Path | None:
    return None if folder.path is None else folder.path / "catalog.json"
