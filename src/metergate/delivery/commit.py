"""Group commit, for ``power``: one sync of the disk for all that was recorded while the sync before it ran."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from metergate.delivery.files import Files

log = logging.getLogger("metergate.delivery")


@dataclass(slots=True)
class _Group:
    """What the next sync is for."""

    future: Future[None] | None = None
    events: int = 0
    dirty: set[int] = field(default_factory=set)
    leaving: list[int] = field(default_factory=list)
    new_names: bool = False

    def is_empty(self) -> bool:
        return self.future is None and not self.leaving


class GroupCommit:
    """Syncs segments in a thread of its own. All who join while a sync runs share the next one, and its Future.

    There is no wait to gather a group: the disk sets the pace. ``unsynced`` counts events whose sync failed. After a failed
    sync the kernel may call lost pages clean, so that a second sync of the same file proves nothing: ``on_failure`` has to
    leave the file.
    """

    def __init__(self, files: Files, folder: Path, on_failure: Callable[[int], None]) -> None:
        self._files = files
        self._folder = folder
        self._on_failure = on_failure
        self._condition = threading.Condition(threading.Lock())
        self._group = _Group()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.unsynced = 0

    def join(self, fd: int, events: int) -> Future[None]:
        """A Future that is done when all written to ``fd`` so far is on disk. It cannot be cancelled, being shared."""
        with self._condition:
            group = self._group
            if group.future is None:
                group.future = Future()
                group.future.set_running_or_notify_cancel()
                self._wake()
            group.dirty.add(fd)
            group.events += events
            return group.future

    def new_name(self) -> None:
        """A file was made: the next sync has to include its name."""
        with self._condition:
            self._group.new_names = True

    def leave(self, fd: int) -> None:
        """Nothing more will be written to ``fd``: sync what is left, and close it."""
        with self._condition:
            self._group.dirty.add(fd)
            self._group.leaving.append(fd)
            self._wake()

    def stop(self, timeout: float) -> None:
        """Finishes what was begun and ends the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def abandon(self) -> None:
        """In a forked child: lets go of inherited descriptors; the parent's thread still has its own."""
        for fd in self._group.leaving:
            os.close(fd)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metergate-commit", daemon=True)
            self._thread.start()
        self._condition.notify()

    def _run(self) -> None:
        while (group := self._next()) is not None:
            try:
                self._sync(group)
            except Exception:
                # Requests wait for this thread: whatever happens, it answers them and goes on.
                self.unsynced += group.events
                log.exception("The group commit hit an error of its own.")
            for fd in group.leaving:
                os.close(fd)
            if group.future is not None:
                group.future.set_result(None)

    def _next(self) -> _Group | None:
        with self._condition:
            while self._group.is_empty():
                if self._stopping:
                    self._thread, self._stopping = None, False
                    return None
                self._condition.wait()
            group, self._group = self._group, _Group()
            return group

    def _sync(self, group: _Group) -> None:
        try:
            for fd in group.dirty:
                self._files.sync(fd)
            if group.new_names:
                self._files.sync_folder(self._folder)
        except OSError as error:
            self.unsynced += group.events
            log.error(
                "%d events were written but could not be synced to disk (%s); they are sent all the same and might not "
                "survive a power cut. Check the disk of %s.",
                group.events,
                error.strerror,
                self._folder,
            )
            for fd in group.dirty:
                self._on_failure(fd)
