"""Where the sender takes events from, in order, and where it says that they are settled: the reading side of the spool."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from metergate.delivery.batch import Batch, Limits, plan_batch
from metergate.delivery.cursor import Cursor, read_offset
from metergate.delivery.destination import Folder
from metergate.delivery.files import Files, read_at
from metergate.delivery.segment import Segment
from metergate.delivery.sent import SentOptions, keep_sent

log = logging.getLogger("metergate.delivery")

_FIRST_WINDOW = 64 * 1024


class Source(Protocol):
    """Events in order. ``place`` names where the next one is, for a dead letter."""

    @property
    def place(self) -> tuple[str, int]: ...

    def next_batch(self, limits: Limits) -> Batch | None:
        """The next events, the same ones until they are settled; None where there is none now."""

    def settle(self, batch: Batch) -> None:
        """OpenMeter, or the dead letters, have the batch."""

    def close(self) -> None:
        """Lets go of files; what is not settled stays."""


class SegmentReader:
    """Reads one segment from its cursor on. Nothing is buffered between calls: memory is one batch."""

    def __init__(self, files: Files, segment: Segment, *, durable: bool) -> None:
        self.segment = segment
        # A power cut can take the end of a segment whose acknowledgement was durable: the cursor is then beyond it.
        self.offset = min(read_offset(segment.name, segment.cursor_path), segment.committed)
        self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self._cursor = Cursor(files, segment.cursor_path, segment.name, durable=durable)
        self._window = _FIRST_WINDOW

    def peek(self, limits: Limits) -> Batch | None:
        """The batch at the cursor. The window grows to the size of this traffic's batches and stays there."""
        while True:
            available = self.segment.committed - self.offset
            chunk = read_at(self._fd, min(self._window, available), self.offset)
            batch = plan_batch(chunk, limits)
            if len(chunk) == available or len(chunk) < self._window:
                return batch
            if batch is not None and (batch.events >= limits.events or self._window > limits.body_bytes):
                return batch
            self._window *= 2

    def move(self, size: int) -> None:
        """Moves the cursor.

        Raises:
            OSError: it moved in memory but could not be written down.
        """
        self.offset += size
        self._cursor.move(self.offset)

    def close(self) -> None:
        """Closes the files."""
        os.close(self._fd)
        self._cursor.close()


class SegmentSource:
    """The segments of one writer, this process's or an adopted one, oldest first.

    Args:
        segments: shared with the writer, who appends to it and to its last segment.
        on_retired: told of each segment that is settled and gone.

    Attributes:
        settled_events: events settled so far.
        settled_bytes: of a live writer's: how much of ``Spool.recorded_bytes`` is settled or lost, from the first byte on.
        lost_events: events of segments whose file somebody removed.
        cursor_errors: acknowledgements that could not be written down.
    """

    def __init__(
        self,
        files: Files,
        folder: Folder,
        segments: deque[Segment],
        on_retired: Callable[[Segment], None],
        *,
        durable: bool,
        sent: SentOptions,
    ) -> None:
        self.settled_events = 0
        self.settled_bytes = 0
        self.lost_events = 0
        self.cursor_errors = 0
        self._files = files
        self._folder = folder
        self._segments = segments
        self._on_retired = on_retired
        self._durable = durable
        self._sent = sent
        self._reader: SegmentReader | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Segment and offset of the next event."""
        return (self._reader.segment.name, self._reader.offset) if self._reader is not None else ("", 0)

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not settled. A racy read from another thread is a moment old, never torn."""
        reader = self._reader
        return sum(segment.committed for segment in list(self._segments)) - (reader.offset if reader else 0)

    def next_batch(self, limits: Limits) -> Batch | None:
        """See ``Source``. Retires segments that are settled on the way.

        Raises:
            OSError: a segment cannot be read.
        """
        while self._segments:
            segment = self._segments[0]
            closed = segment.closed  # before anything is read: only then is an empty read the end
            reader = self._open(segment)
            if reader is None:
                continue
            batch = reader.peek(limits)
            if batch is not None or not closed:
                return batch
            self._retire(reader)
        return None

    def settle(self, batch: Batch) -> None:
        """See ``Source``. A cursor that cannot be written is counted: the batch would go out again after a crash."""
        reader = self._reader
        assert reader is not None  # noqa: S101  # a batch came from it
        # The bytes first: who waits for the events finds them settled, too.
        self._pass(reader.segment, reader.offset + batch.size)
        self.settled_events += batch.events
        try:
            reader.move(batch.size)
        except OSError as error:
            self.cursor_errors += 1
            log.warning("The cursor of %s could not be written: %s.", reader.segment.name, error.strerror)

    def close(self) -> None:
        """See ``Source``."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self, segment: Segment) -> SegmentReader | None:
        if self._reader is not None:
            return self._reader
        try:
            self._reader = SegmentReader(self._files, segment, durable=self._durable)
        except FileNotFoundError:
            self._on_retired(segment)  # first: only then does nobody add to it
            self._pass(segment, segment.committed)
            self.lost_events += segment.events
            log.error("Segment %s was removed with up to %d events.", segment.path, segment.events)
        return self._reader

    def _retire(self, reader: SegmentReader) -> None:
        """The order survives a crash at any point: the cursor, at the end, goes last."""
        segment = reader.segment
        if reader.offset != segment.committed:
            log.error("Segment %s ends %d bytes early.", segment.path, segment.committed - reader.offset)
        if self._sent.keep_seconds > 0 and segment.committed:
            keep_sent(segment.path, self._folder.sent)
        self.close()
        self._files.unlink(segment.path)
        with contextlib.suppress(FileNotFoundError):  # somebody removed the whole spool
            self._files.sync_folder(segment.path.parent)
        self._files.unlink(segment.cursor_path)
        self._on_retired(segment)
        self._pass(segment, segment.committed)

    def _pass(self, segment: Segment, offset: int) -> None:
        # Never backwards: a reader that had to be opened anew begins at the cursor, which may not have been written.
        self.settled_bytes = max(self.settled_bytes, segment.start + offset)
