"""The local count of one OpenMeter in this process: where it is kept, and who keeps saying how far OpenMeter has come."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from metergate.delivery import Delivery
from metergate.engine.tending import Tending
from metergate.entitlements.answers import Answers
from metergate.entitlements.counted import Counted, CountSource
from metergate.entitlements.usage.costs import read_path
from metergate.entitlements.usage.folder import ANSWERS, Folder, can_share
from metergate.entitlements.usage.learning import recall
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import MOST_REMEMBERED, LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.catalog import Catalog

_log = logging.getLogger("metergate.engine")

TEND_SECONDS = 0.1
DEAD_SECONDS = 1.0
FORK_WAIT_SECONDS = 1.0


class _Event(msgspec.Struct, frozen=True):
    type: str
    subject: str
    data: dict[str, Any] | None = None


_read_event = msgspec.json.Decoder(_Event).decode


class Count(LocalUsage):
    """The local count for one key, which also knows where OpenMeter's meters have their values in an event."""

    _values_at: Mapping[str, tuple[tuple[str | int, ...] | None, ...]] = {}

    def learn(self, catalog: Catalog) -> None:
        super().learn(catalog)
        places: dict[str, tuple[tuple[str | int, ...] | None, ...]] = {}
        for meter in catalog.meters:
            place = None if meter.value_property is None else read_path(meter.value_property)
            places[meter.event_type] = (*places.get(meter.event_type, ()), place)
        self._values_at = places

    def counts_nowhere(self, event_type: str, missing: Iterable[str]) -> bool:
        """Whether an event of this type, whose data lacks these JSON paths, has a value for no meter. A meter that counts
        events needs none, and a type of which no meter is known may have one."""
        places = self._values_at.get(event_type)
        if not places:
            return False
        lacking = {read_path(path) for path in missing}
        return all(place is not None and place in lacking for place in places)


class Counting:
    """Opens the count, and tends it for as long as something that was recorded may be unseen.

    One for all keys of an OpenMeter: two of them may be of one organisation, and a new one follows upon an old. What is
    asked with each key, and how events count for it, is its own.

    Best made in the process that will use it. A process that is forked later opens the count anew, with a column of its
    own, as soon as it decides or records; its parent's it leaves alone.
    """

    def __init__(
        self,
        folder: Path | None,
        deliveries: Sequence[Delivery],
        features: Iterable[str],
        *,
        visibility: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            folder: for all processes of the host; None counts in this process alone.
            deliveries: all that send to this OpenMeter, before they are started. Those that keep events on disk keep
                them in the same spool.
            features: those whose usage counts.
            visibility: see `Ledger`.
        """
        self._clock = clock
        self._spools = [one for one in deliveries if one.keeps_on_disk][:1]
        self._deliveries = list(deliveries)
        self._visibility = visibility
        self._features = set(features)
        self._counted: list[Counted] = []
        self._begin_life()
        self._is_lost = False
        self._uncounted: deque[_Event] = deque(maxlen=MOST_REMEMBERED)
        self._folder: Folder | None = None
        self._in_memory: Folder | None = None
        self._held_by: int | None = None
        self.ledger: Ledger
        opened = self._open(folder, self._begin)
        self._path = opened.path
        if opened.path is not None:
            self.wake()
        _living.add(self)

    def add(self, source: CountSource, name: str = "") -> Counted:
        """Count by the answers of OpenMeter to one key, too. ``name``: of files for how events count, and for the answers,
        which another key need not get.
        """
        local = Count(self.ledger, self.wake)
        local.watch(self._features)
        catalog = None if self._path is None else self._path / f"catalog{name and '-'}{name}.json"
        recall(catalog, local)
        if self._uncounted:
            local.spend(self._uncounted)
            self._uncounted.clear()
        answers = None if self._path is None else Answers(self._path / f"{ANSWERS}{name and '-'}{name}")
        counted = Counted(source, local, clock=self._clock, catalog_file=catalog, answers=answers)
        self._counted.append(counted)
        return counted

    def include(self, delivery: Delivery) -> None:
        """This one, too, sends what is counted; from before it is started."""
        self._deliveries.append(delivery)

    def watch(self, features: Iterable[str]) -> None:
        """Count for these features, too, whatever key an event is recorded with."""
        self._features.update(features)
        for counted in self._counted:
            counted.local.watch(features)

    @property
    def local(self) -> LocalUsage:
        """What counts events of a key by which nothing is asked: as for the first by which something is."""
        return self._counted[0].local

    def wake(self) -> None:
        """Begin to tend; until there is nothing more to say, or `close`."""
        self._tending.wake()

    def close(self) -> None:
        """Leave the count to the other processes."""
        self._tending.close()
        for counted in self._counted:
            counted.close()
        if self._folder is not None:
            self._folder.close()

    def _begin_life(self) -> None:
        """What belongs to one process."""
        self._inherited = self._mark_unsent()
        self._looked_at = float("-inf")
        self._left_behind = True

    def _tend(self) -> bool:
        now = self._clock()
        ledger = self.ledger
        try:
            if now - self._looked_at >= DEAD_SECONDS:
                self._looked_at = now
                self._say_if_lost(ledger.folder)
                self._left_behind = self._left_behind and not self._inherited()
                ledger.tend_the_dead(self._mark_unsent)
            more = ledger.tend(left_behind=self._left_behind)
        except OSError as failure:  # nothing is said, and so everything counts
            _log.warning("the local count cannot be tended: %s", failure)
            more = True
        return more

    def _say_if_lost(self, folder: Folder) -> None:
        if not self._is_lost and folder.is_lost():
            self._is_lost = True
            _log.error(
                "%s was removed while it was in use: processes that start from now on do not see what this one counts. "
                "Restart the gateway, so that limits hold for all of them together.",
                folder.path,
            )

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
        deliveries = self._deliveries
        watermark = Watermark(lambda: [(one.recorded, one.settled) for one in deliveries])
        self.ledger = Ledger(folder, watermark, self._clock, visibility=self._visibility)
        self._folder = folder
        self._lock = self.ledger.lock
        self._tending = Tending(self._tend, self._lock, TEND_SECONDS)
        self._count_by(self.ledger)
        if folder.is_new:
            self._count_what_is_unsent(folder)

    def _count_by(self, ledger: Ledger) -> None:
        self.ledger = ledger
        for counted in self._counted:
            counted.local.move_to(ledger)

    def _mark_unsent(self) -> Callable[[], bool]:
        questions = [spool.mark_unsent() for spool in self._spools]
        return lambda: all(question() for question in questions)

    def _count_what_is_unsent(self, folder: Folder) -> None:
        """After the machine started: what is still in the spool is in no answer of OpenMeter, whoever recorded it.

        How it counts an earlier process has learnt, with any key; else it waits until this one has.
        """
        local = LocalUsage(self.ledger)
        local.watch(self._features)
        for catalog in sorted(folder.path.glob("catalog*.json")) if folder.path is not None else ():
            recall(catalog, local)
        number = 0
        try:
            for spool in self._spools:
                for line in spool.unsent_events():
                    event = _read_event(line)
                    if local.knows:
                        local.spend((event,))
                    else:
                        self._uncounted.append(event)
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
            self.ledger.lock = threading.RLock()
            self.ledger.abandon()
            inherited.close()
            self._in_memory = inherited if inherited.path is None else None
        self._count_by(cast(Ledger, _Unopened(self._open_again)))

    def _open_again(self) -> Ledger:
        """In a forked child. What was counted in memory was copied by the fork, and goes on there."""
        self._begin_life()
        if self._in_memory is not None:
            self._in_memory.forget_parent()
            self._begin(self._in_memory)
        else:
            self._open(self._path, self._begin)
        self.wake()
        return self.ledger


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
