"""A place that keeps events, as the sender sees it: one on disk, one in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, MutableSequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from metergate.delivery.adoption import Adoption
from metergate.delivery.dead_letters import DeadLetter, DeadLetterFiles, Graveyard
from metergate.delivery.destination import Folder, folders, is_alive
from metergate.delivery.files import Files
from metergate.delivery.memory import DeadLettersInMemory, MemorySpool
from metergate.delivery.sent import SentOptions, prune_sent
from metergate.delivery.source import SegmentSource, Source
from metergate.delivery.spool import Spool, SpoolOptions
from metergate.delivery.wake import Wake

PRUNE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """A store's part of ``DeliveryStatistics``, same names. ``adopted_since``: when the oldest adopted segment was begun."""

    dropped: Mapping[str, int]
    pending_events: int
    pending_bytes: int
    adopted_since: float | None = None
    spool_bytes: int = 0
    stranded_folders: int = 0
    adopted_segments: int = 0
    torn_tails: int = 0
    unsynced: int = 0
    cursor_errors: int = 0


class Store(Protocol):
    """Keeps events, and hands them to the sender of its process. *Own* events are recorded here, others adopted."""

    @property
    def recorded(self) -> int:
        """Own events kept so far."""

    @property
    def own_settled(self) -> int:
        """How many of them are settled."""

    @property
    def recorded_bytes(self) -> int:
        """Bytes of own events kept so far; never falls."""

    @property
    def settled_bytes(self) -> int:
        """How many of them, from the first on, are settled or lost; never falls."""

    def record(self, lines: bytes, count: int) -> Future[None] | None:
        """See ``Delivery.record``."""

    def count_into(self, counts: MutableSequence[float]) -> None:
        """Keeps the first of these numbers equal to ``recorded``."""

    def tend(self) -> None:
        """Every second or so: adopt, rotate, prune. Has to succeed once before anything can be sent.

        Raises:
            OSError: the disk; to be tried again.
        """

    def own_source(self) -> Source | None:
        """What this process recorded; None before ``tend``."""

    def adopted_sources(self) -> list[Source]:
        """What others left."""

    def bury(self, letter: DeadLetter) -> None:
        """See ``Graveyard.bury``."""

    def dead_letters(self) -> int:
        """See ``Graveyard.count``."""

    def close_segment(self) -> None:
        """Lets what is recorded be settled to its end."""

    def close(self, timeout: float) -> None:
        """Lets go of everything; what is not settled stays where it is."""

    def hold(self, timeout: float) -> bool:
        """Before a fork: waits until nothing is half open. False where that took too long."""

    def unhold(self) -> None:
        """After a fork, in the parent."""

    def abandon(self) -> None:
        """After a fork, in the child: lets go of what is the parent's. The store is of no use any more."""

    def figures(self) -> StoreFigures:
        """For the statistics."""


class DiskStore:
    """A spool, what was adopted, and the dead letters of one destination. See ``Store``."""

    def __init__(
        self,
        options: SpoolOptions,
        *,
        sent: SentOptions,
        inherit_after: float | None,
        files: Files,
        wake: Wake,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.spool = Spool(options, files=files, wake=wake, clock=clock, wall_clock=wall_clock)
        self.record = self.spool.record
        self.close_segment = self.spool.close_segment
        self._options = options
        self._sent = sent
        self._inherit_after = inherit_after
        self._files = files
        self._clock = clock
        self._wall_clock = wall_clock
        self._opened: _Opened | None = None
        self._held: Adoption | None = None
        self._prune_at = float("-inf")

    @property
    def recorded(self) -> int:
        return self.spool.recorded

    @property
    def own_settled(self) -> int:
        return self._opened.source.settled_events + self._opened.source.lost_events if self._opened else 0

    @property
    def recorded_bytes(self) -> int:
        return self.spool.recorded_bytes

    @property
    def settled_bytes(self) -> int:
        return self._opened.source.settled_bytes if self._opened else 0

    def count_into(self, counts: MutableSequence[float]) -> None:
        self.spool.counts = counts

    def tend(self) -> None:
        folder = self.spool.open()
        for path in (folder.dead, folder.sent):  # somebody may tidy up under a running gateway
            self._files.make_folder(path)
        if self._opened is None:
            self._opened = self._open(folder)
        adoption = self._opened.adoption
        self.spool.close_old_segment()
        adoption.scan(self.spool.writer)
        self.spool.see_others(adoption.other_bytes)
        if self._clock() >= self._prune_at:
            self._prune_at = self._clock() + PRUNE_SECONDS
            for each in folders(self._options.root):
                if each.path == folder.path or not is_alive(each):
                    prune_sent(each.sent, self._sent, self._wall_clock())

    def own_source(self) -> Source | None:
        return self._opened.source if self._opened else None

    def adopted_sources(self) -> list[Source]:
        return [each.source for each in self._opened.adoption.adopted.values()] if self._opened else []

    def bury(self, letter: DeadLetter) -> None:
        self._graveyard().bury(letter)

    def dead_letters(self) -> int:
        return self._graveyard().count()

    def close(self, timeout: float) -> None:
        if self._opened is not None:
            self._opened.source.close()
            self._opened.adoption.close()
        self.spool.close(timeout)

    def hold(self, timeout: float) -> bool:
        if not self.spool.hold(timeout):
            return False
        adoption = self._opened.adoption if self._opened is not None else None
        if adoption is None or adoption.hold(timeout):
            self._held = adoption  # by the time of unhold the sender may have opened one that nobody held
            return True
        self.spool.unhold()
        return False

    def unhold(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.unhold()
        self.spool.unhold()

    def abandon(self) -> None:
        self.spool.abandon()
        if self._opened is not None:
            self._opened.source.close()
            self._opened.adoption.abandon()

    def figures(self) -> StoreFigures:
        spool, opened = self.spool, self._opened
        own_events = max(0, spool.recorded - self.own_settled)
        if opened is None:
            return StoreFigures(dict(spool.dropped), own_events, spool.own_bytes, unsynced=spool.unsynced)
        adoption = opened.adoption
        adopted = list(adoption.adopted.values())
        sources = [opened.source, *(each.source for each in adopted)]
        begun = [
            segments[0].opened_at
            for each in adopted
            if each.pending_events and (segments := list(each.segments))
        ]
        dropped = Counter(spool.dropped)
        if lost := sum(source.lost_events for source in sources):
            dropped["removed"] += lost
        return StoreFigures(
            dropped=dict(dropped),
            pending_events=own_events + sum(each.pending_events for each in adopted),
            pending_bytes=sum(source.pending_bytes for source in sources),
            adopted_since=min(begun, default=None),
            spool_bytes=spool.own_bytes + adoption.other_bytes,
            stranded_folders=len(adoption.stranded),
            adopted_segments=adoption.adopted_segments,
            torn_tails=adoption.torn_tails,
            unsynced=spool.unsynced,
            cursor_errors=sum(source.cursor_errors for source in sources),
        )

    def _graveyard(self) -> Graveyard:
        if self._opened is None:
            self.tend()
        assert self._opened is not None  # noqa: S101  # tend has set it, or raised
        return self._opened.graves

    def _open(self, folder: Folder) -> _Opened:
        durable = self._options.power
        return _Opened(
            folder,
            SegmentSource(
                self._files, folder, self.spool.segments, self.spool.retired, durable=durable, sent=self._sent
            ),
            Adoption(
                self._files,
                self._options.root,
                folder,
                durable=durable,
                sent=self._sent,
                inherit_after=self._inherit_after,
                clock=self._clock,
            ),
            DeadLetterFiles(self._files, folder),
        )


@dataclass(frozen=True, slots=True)
class _Opened:
    """What there is once the folder is."""

    folder: Folder
    source: SegmentSource
    adoption: Adoption
    graves: DeadLetterFiles


class MemoryStore:
    """A bounded queue and the last dead letters. See ``Store``."""

    def __init__(self, max_bytes: int, wake: Wake) -> None:
        self._queue = MemorySpool(max_bytes, wake)
        self._graves = DeadLettersInMemory()
        self.record = self._queue.record
        self.bury = self._graves.bury
        self.dead_letters = self._graves.count

    @property
    def recorded(self) -> int:
        return self._queue.recorded

    @property
    def own_settled(self) -> int:
        return self._queue.settled_events

    @property
    def recorded_bytes(self) -> int:
        return self._queue.recorded_bytes

    @property
    def settled_bytes(self) -> int:
        return self._queue.settled_bytes

    @property
    def writer(self) -> str | None:
        return None

    def count_into(self, counts: MutableSequence[float]) -> None:
        self._queue.counts = counts

    def tend(self) -> None:
        """Nothing to tend to."""

    def own_source(self) -> Source | None:
        return self._queue

    def adopted_sources(self) -> list[Source]:
        return []

    def close_segment(self) -> None:
        """There are none."""

    def close(self, timeout: float) -> None:
        self._queue.close()

    def hold(self, timeout: float) -> bool:
        return True

    def unhold(self) -> None:
        """Nothing was held."""

    def abandon(self) -> None:
        """Nothing was inherited but memory."""

    def figures(self) -> StoreFigures:
        queue = self._queue
        dropped = dict(queue.dropped)
        if self._graves.forgotten:
            dropped["dead_letters_full"] = self._graves.forgotten
        return StoreFigures(dropped, queue.recorded - queue.settled_events, queue.pending_bytes)
