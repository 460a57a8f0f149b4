"""The writing side of the spool: from ``record`` to a line in this process's segment.

``record`` is on the way of every metered request. In the usual case it is one comparison and one ``write``; everything
rare (no segment yet, the segment is full, the bound is reached, the disk is) hides behind the comparison: ``_room`` is
the bytes that may be written before anything else has to be looked at.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, MutableSequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from metergate.delivery.commit import GroupCommit
from metergate.delivery.destination import Destination, Folder, make_folder, show_alive
from metergate.delivery.files import DropReason, Files, TornTail, append_rest, drop_reason
from metergate.delivery.segment import Segment, WriterLock, claim, claim_new, end_of_lines, segment_path
from metergate.delivery.wake import Wake

log = logging.getLogger("metergate.delivery")

REOPEN_SECONDS = 1.0
"""After a segment could not be opened, how long events are counted as lost before the next try."""

COMPLAINT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """Where and how much. ``segment_bytes`` and ``segment_seconds``: when a segment is full or old enough to be closed."""

    root: Path
    destination: Destination
    power: bool = False
    max_bytes: int = 1 << 30
    segment_bytes: int = 8 << 20
    segment_seconds: float = 300.0


class Spool:
    """The segments that this process writes. ``record`` may be called from any thread; the rest is the sender's.

    Attributes:
        segments: not yet retired, oldest first; the last may still grow.
        recorded: events kept so far.
        recorded_bytes: their bytes. A position in a segment, and ``Segment.start``, is a position among them.
        dropped: events that could not be kept, by reason.
        other_bytes: what others have in the same folder, as the sender last saw it.
        counts: its first number is kept equal to ``recorded``.
    """

    def __init__(
        self,
        options: SpoolOptions,
        *,
        files: Files,
        wake: Wake,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.segments: deque[Segment] = deque()
        self.recorded = 0
        self.recorded_bytes = 0
        self.counts: MutableSequence[float] = [0.0]
        self.dropped: Counter[str] = Counter()
        self.other_bytes = 0
        self.folder: Folder | None = None
        self.lock: WriterLock | None = None
        self._options = options
        self._files = files
        self._write = files.write
        self._wake = wake
        self._clock = clock
        self._wall_clock = wall_clock
        self._mutex = threading.Lock()
        self._fd = -1
        self._room = -1
        self._gone_bytes = 0
        self._bound_hit = False
        self._number = 0
        self._alive_fd = -1
        self._opened_at = 0.0
        self._reopen_at = 0.0
        self._reopen_reason: DropReason = "io_error"
        self._complain_at = 0.0
        self._unsaid: Counter[str] = Counter()
        self._commit: GroupCommit | None = None

    def record(self, lines: bytes, count: int) -> Future[None] | None:
        """Keeps ``lines``, each an event ended by a newline. See ``Delivery.record``."""
        if lines[-1:] != b"\n":
            lines += b"\n"  # or the next event would be spoilt as well
        size = len(lines)
        future = None
        with self._mutex:
            if size > self._room and not self._make_room(size, count):
                return None
            try:
                written = self._write(self._fd, lines)
                if written != size:
                    append_rest(self._files, self._fd, lines, written)
                self._room -= size
                self.recorded_bytes += (
                    size  # before the sender may see them: it never settles more than is recorded
                )
                segment = self.segments[-1]
                segment.committed += size
                segment.events += count
                self.recorded += count
                self.counts[0] = self.recorded
            except OSError as error:
                self._could_not_write(error, count)
                return None
            except BaseException:  # of a signal's handler: the file may hold more than was counted
                self._close_segment()
                raise
            if self._commit is not None:
                future = self._commit.join(self._fd, count)
        if self.recorded >= self._wake.at:
            self._wake.now()
        return future

    def open(self) -> Folder:
        """Makes the folder and this process's place in it, unless it is there.

        Raises:
            OSError: it cannot be made.
        """
        with self._mutex:
            self._forget_lost_folder()
            return self._open()

    def close_segment(self, segment: Segment | None = None) -> None:
        """Closes the open segment (only if it is ``segment``, when one is given); the next record opens another."""
        with self._mutex:
            if self._fd >= 0 and segment in (None, self.segments[-1]):
                self._close_segment()

    def close_old_segment(self) -> None:
        """Closes the open segment if it is old, or if it is all that holds the bound."""
        with self._mutex:
            old = self._clock() - self._opened_at >= self._options.segment_seconds
            if self._fd >= 0 and self.segments[-1].committed and (old or self._bound_hit):
                self._close_segment()

    def retired(self, segment: Segment) -> None:
        """The segment's file is gone: settled, or removed by somebody even while it was open."""
        with self._mutex:
            if self._fd >= 0 and segment is self.segments[-1]:
                self._close_segment()
            self.segments.remove(segment)
            self._gone_bytes = self.segments[0].start if self.segments else self.recorded_bytes
            self._reckon_room()

    def see_others(self, other_bytes: int) -> None:
        """What is in the folder besides this process's segments, which counts for the bound."""
        with self._mutex:
            self.other_bytes = other_bytes
            self._reckon_room()

    @property
    def writer(self) -> str:
        """This process's name in the folder; empty before ``open``."""
        lock = self.lock  # once: the sender's thread may let go of it
        return lock.writer if lock is not None else ""

    @property
    def own_bytes(self) -> int:
        """Bytes in this process's segments."""
        return self.recorded_bytes - self._gone_bytes

    @property
    def unsynced(self) -> int:
        """Events whose sync failed."""
        return self._commit.unsynced if self._commit is not None else 0

    def close(self, timeout: float) -> None:
        """Lets go of everything; what is not sent is the next one's. A later ``record`` opens anew."""
        with self._mutex:
            self._close_segment()
            commit = self._commit
        if commit is not None:
            commit.stop(timeout)
        with self._mutex:
            self._close_segment()  # somebody may have recorded meanwhile
            empty = not self.segments
            self.segments.clear()
            self._gone_bytes = self.recorded_bytes
            self._let_go(remove=empty)

    def hold(self, timeout: float) -> bool:
        """Before a fork: no other thread is amid opening a file."""
        return self._mutex.acquire(timeout=timeout)

    def unhold(self) -> None:
        """After the fork, in the parent."""
        self._mutex.release()

    def abandon(self) -> None:
        """In a forked child: closes what was inherited. The parent's locks stay its own."""
        if self._fd >= 0:
            os.close(self._fd)
        if self._commit is not None:
            self._commit.abandon()
        self._let_go(remove=False)

    # What follows runs under the mutex.

    def _make_room(self, size: int, count: int) -> bool:
        """Whether ``size`` bytes may be written to the open segment now. Where not, the events are counted as lost."""
        if self._room_to_bound() < size:
            self._bound_hit = True
            self._drop("spool_full", count, f"the bound of {self._options.max_bytes} bytes is reached")
            return False
        if self._fd >= 0 and size <= self._room_in_segment():
            self._reckon_room()
            return True  # the bound was nearer than it is now
        if self._clock() < self._reopen_at:
            self._drop(self._reopen_reason, count, "the last try to open a segment failed")
            return False
        try:
            self._close_segment()
            self._open_segment()
        except OSError as error:
            self._reopen_at = self._clock() + REOPEN_SECONDS
            self._reopen_reason = drop_reason(error)
            self._drop(self._reopen_reason, count, str(error))
            return False
        self._room = max(self._room, size)  # a record larger than a segment gets one of its own
        return True

    def _open(self) -> Folder:
        if self.folder is None:
            options = self._options
            self.folder = make_folder(options.root, options.destination, self._files, self._wall_clock())
        if self._alive_fd < 0:
            self._alive_fd = show_alive(self.folder)
        if self.lock is None:
            self.lock = claim_new(self.folder.segments, self._wall_clock())
        if self._options.power and self._commit is None:
            self._commit = GroupCommit(self._files, self.folder.segments, self._leave_unsynced)
        return self.folder

    def _forget_lost_folder(self) -> None:
        """Somebody removed the folder, and with it our lock: start anew. Otherwise the lock guards what is still unsent.

        Another process may have made the folder again; without a lock there, our next segments would be anybody's.
        """
        if self.folder is None:
            return
        if not self.folder.segments.is_dir():
            self._close_segment()
            self._let_go(remove=False)
            self.folder = None
        elif self.lock is not None and not self.lock.is_in_place():
            writer = self.lock.writer
            self._close_segment()
            self._let_go(remove=False)
            self.lock = claim(
                self.folder.segments, writer
            )  # by the old name, since segments of it may be left

    def _open_segment(self) -> None:
        self._forget_lost_folder()
        folder = self._open()
        assert self.lock is not None  # noqa: S101  # for the type checker: _open has set it
        path = segment_path(folder.segments, self.lock.writer, self._number + 1)
        self._fd = self._files.open_to_append(path)
        self._number += 1
        self._opened_at = self._clock()
        self.segments.append(Segment(path, self._wall_clock(), start=self.recorded_bytes))
        if self._commit is not None:
            self._commit.new_name()
        self._reckon_room()

    def _close_segment(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd, self._room, self._bound_hit = self._fd, -1, -1, False
        segment = self.segments[-1]
        try:
            # The file has the last word: a record interrupted between the write and the count left them apart.
            end = end_of_lines(fd, os.fstat(fd).st_size)
            self.recorded_bytes += max(0, end - segment.committed)
            segment.committed = end
        except OSError as error:
            log.warning("The end of segment %s could not be read: %s.", segment.name, error.strerror)
        segment.closed = True
        if self._commit is not None:
            self._commit.leave(fd)
        else:
            os.close(fd)

    def _leave_unsynced(self, fd: int) -> None:
        """A sync of ``fd`` failed: go on in another segment. Called by the commit thread."""
        with self._mutex:
            if self._fd == fd:
                self._close_segment()

    def _could_not_write(self, error: OSError, count: int) -> None:
        self._drop(drop_reason(error), count, error.strerror or str(error))
        if isinstance(error, TornTail):
            self._close_segment()

    def _room_to_bound(self) -> int:
        return self._options.max_bytes - self.own_bytes - self.other_bytes

    def _room_in_segment(self) -> int:
        return self._options.segment_bytes - self.segments[-1].committed

    def _reckon_room(self) -> None:
        if self._fd >= 0:
            self._room = min(self._room_to_bound(), self._room_in_segment())

    def _let_go(self, *, remove: bool) -> None:
        if self.lock is not None:
            self.lock.remove() if remove else self.lock.close()
            self.lock = None
        if self._alive_fd >= 0:
            os.close(self._alive_fd)
            self._alive_fd = -1

    def _drop(self, reason: DropReason, count: int, why: str) -> None:
        self.dropped[reason] += count
        self._unsaid[reason] += count
        now = self._clock()
        if now < self._complain_at:
            return
        self._complain_at = now + COMPLAINT_SECONDS
        lost = ", ".join(f"{events} {name}" for name, events in self._unsaid.items())
        self._unsaid.clear()
        log.error(
            "Billing events could not be kept and are lost: %s (%s). Responses are not affected. Spool: %s.",
            lost,
            why,
            self._options.root,
            extra={"reason": reason},
        )
