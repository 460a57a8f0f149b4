"""Taking over what the dead left: segments of processes that were killed, and of a key that was rotated.

Every live process looks, every second or so. Whoever gets the lock of a dead writer sends its segments; when that one dies
too, the lock is free again, and the next one takes over at the cursor.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metergate.delivery.cursor import read_offset
from metergate.delivery.destination import Folder, folders, inheritance, look_at, remember_beside
from metergate.delivery.files import Files
from metergate.delivery.segment import (
    CURSOR_SUFFIX,
    SEGMENT_SUFFIX,
    Segment,
    WriterLock,
    claim,
    count_lines,
    recover_segment,
    writer_of,
)
from metergate.delivery.sent import SentOptions
from metergate.delivery.source import SegmentSource

log = logging.getLogger("metergate.delivery")

HEIR_CHECK_SECONDS = 10.0
_COMPLAINT_SECONDS = 3600.0


@dataclass(slots=True)
class Adopted:
    """A dead writer's segments and the right to send them."""

    lock: WriterLock
    source: SegmentSource
    segments: deque[Segment]
    events: int

    @property
    def pending_events(self) -> int:
        """Events not settled yet."""
        return max(0, self.events - self.source.settled_events - self.source.lost_events)


class Adoption:
    """Finds, holds and gives back what this process adopted.

    Args:
        inherit_after: seconds after the start before what a rotated key left is looked at, so that every destination of the
            configuration is there to be seen; None never looks.

    Attributes:
        adopted: by writer.
        other_bytes: segments and dead letters in the folder that are not this process's own.
        stranded: folders of the same URL with events that nobody may send.
    """

    def __init__(
        self,
        files: Files,
        root: Path,
        folder: Folder,
        *,
        durable: bool,
        sent: SentOptions,
        inherit_after: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.adopted: dict[str, Adopted] = {}
        self.other_bytes = 0
        self.stranded: frozenset[str] = frozenset()
        self.adopted_segments = 0
        self.torn_tails = 0
        self._files = files
        self._root = root
        self._folder = folder
        self._durable = durable
        self._sent = sent
        self._clock = clock
        self._inherit_at = None if inherit_after is None else clock() + inherit_after
        self._look_at = clock()
        self._say_at: dict[str, float] = {}
        self._inherited: list[Folder] = []
        self._mutex = threading.Lock()

    def scan(self, own_writer: str) -> None:
        """Lets go of what is finished and takes what is free.

        Raises:
            OSError: the folder cannot be read.
        """
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + HEIR_CHECK_SECONDS
            try:
                self._look_for_inheritance()
            except OSError as error:  # of somebody else's folder; what is in our own goes on
                self._complain("", f"It cannot be told what other keys left in {self._root}: {error}.")
        self._let_finished_go()
        self.other_bytes = self._dead_bytes()
        for folder in (self._folder, *self._inherited):
            sizes = _bytes_by_writer(folder.segments)
            for writer in sorted(sizes):
                if writer != own_writer and writer not in self.adopted:
                    self._adopt(folder, writer)
            if folder is self._folder:
                self.other_bytes += sum(size for writer, size in sizes.items() if writer != own_writer)

    def close(self) -> None:
        """Gives everything back; somebody else, or the next start, goes on from the cursors."""
        with self._mutex:
            for adopted in self.adopted.values():
                adopted.source.close()
                if adopted.segments:
                    adopted.lock.close()
                else:
                    adopted.lock.remove()
            self.adopted.clear()

    def hold(self, timeout: float) -> bool:
        """Before a fork: no lock is being taken."""
        return self._mutex.acquire(timeout=timeout)

    def unhold(self) -> None:
        """After the fork, in the parent."""
        self._mutex.release()

    def abandon(self) -> None:
        """In a forked child: closes what was inherited; the parent keeps its locks."""
        for adopted in self.adopted.values():
            adopted.source.close()
            adopted.lock.close()

    def _adopt(self, folder: Folder, writer: str) -> None:
        with self._mutex:
            lock = None
            try:
                lock = claim(folder.segments, writer)
                if lock is None:
                    return
                segments = self._recover(folder.segments, writer)
            except OSError as error:
                if lock is not None:
                    lock.close()
                self._complain(writer, f"Segments of {writer} cannot be adopted: {error}. Trying again.")
                return
            if not segments:
                lock.remove()
                return
            events = sum(segment.events for segment in segments)
            source = SegmentSource(
                self._files, folder, segments, segments.remove, durable=self._durable, sent=self._sent
            )
            self.adopted[writer] = Adopted(lock, source, segments, events)
            self.adopted_segments += len(segments)
        log.info("Adopted %d segments with %d events of %s, which is gone.", len(segments), events, writer)

    def _recover(self, folder: Path, writer: str) -> deque[Segment]:
        """The writer's segments, torn tails cut off. Needs its lock."""
        names = sorted(path.name for path in folder.iterdir() if writer_of(path.name) == writer)
        segments: deque[Segment] = deque()
        for name in names:
            if name.endswith(SEGMENT_SUFFIX):
                segment, torn = recover_segment(self._files, folder / name)
                self.torn_tails += torn > 0
                start = min(read_offset(segment.name, segment.cursor_path), segment.committed)
                segment.events = count_lines(segment.path, start, segment.committed)
                segments.append(segment)
            elif name.endswith(CURSOR_SUFFIX) and name.replace(CURSOR_SUFFIX, SEGMENT_SUFFIX) not in names:
                (folder / name).unlink(
                    missing_ok=True
                )  # its segment was settled, and somebody died just then
        return segments

    def _let_finished_go(self) -> None:
        with self._mutex:
            for writer in [writer for writer, adopted in self.adopted.items() if not adopted.segments]:
                self.adopted.pop(writer).lock.remove()

    def _look_for_inheritance(self) -> None:
        """Notes which keys are in use side by side and, when it is time, finds what a rotated key left."""
        siblings = {
            folder.path.name: folder
            for folder in folders(self._root)
            if folder.destination.url == self._folder.destination.url
            and folder.path.name != self._folder.path.name
        }
        seen = [look_at(folder) for folder in siblings.values()]
        own = look_at(self._folder)
        for sighting in seen:
            if sighting.alive and sighting.name not in own.beside:
                remember_beside(self._folder, siblings[sighting.name])
        if self._inherit_at is None or self._clock() < self._inherit_at:
            return
        inherited, stranded = inheritance(
            look_at(self._folder), [look_at(siblings[each.name]) for each in seen]
        )
        self._inherited = [siblings[name] for name in sorted(inherited)]
        for name in sorted(inherited):
            self._say(
                logging.WARNING,
                name,
                f"The API key for {self._folder.destination.url} has changed. Events recorded under the former key wait in "
                f"{self._root / name}; they are sent now, with the new key.",
            )
        for name in sorted(stranded):
            self._complain(
                name,
                f"Events in {self._root / name} were recorded under another key of the same OpenMeter and are NOT sent, "
                "because it cannot be told whose they are now. Configure that key again, or name the heir with "
                f'metergate.delivery.name_heir(directory, "{name}", "{own.name}").',
            )
        self.stranded = stranded  # last: who sees it finds its reason in the log

    def _dead_bytes(self) -> int:
        with os.scandir(self._folder.dead) as entries:
            return sum(entry.stat().st_size for entry in entries)

    def _complain(self, what: str, message: str) -> None:
        self._say(logging.ERROR, what, message)

    def _say(self, level: int, what: str, message: str) -> None:
        if self._clock() >= self._say_at.get(what, float("-inf")):
            self._say_at[what] = self._clock() + _COMPLAINT_SECONDS
            log.log(level, message)


def _bytes_by_writer(folder: Path) -> dict[str, int]:
    """Bytes of segments in the folder by writer; 0 for one that has only a lock or a cursor."""
    sizes: dict[str, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            writer = writer_of(entry.name)
            if not writer:
                continue
            sizes.setdefault(writer, 0)
            if entry.name.endswith(SEGMENT_SUFFIX):
                try:
                    sizes[writer] += entry.stat().st_size
                except FileNotFoundError:
                    continue
    return sizes
